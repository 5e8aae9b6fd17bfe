//! Smooth weighted round-robin: every endpoint gets its share, and the turns of an endpoint with a
//! large weight are interleaved with those of the others.
//!
//! Each pick credits every available endpoint with its weight, takes the one with the most credit
//! and debits it with the sum of those weights. A pick is O(endpoints): there are few.

/// The balancing state of one upstream's endpoints.
#[derive(Debug)]
pub(super) struct Balance {
    shares: Vec<Share>,
}

#[derive(Debug)]
struct Share {
    weight: i64,
    credit: i64,
}

impl Balance {
    pub(super) fn new(weights: impl Iterator<Item = u16>) -> Self {
        Self {
            shares: weights.map(|weight| Share { weight: i64::from(weight), credit: 0 }).collect(),
        }
    }

    /// Picks the next endpoint among those `available`.
    pub(super) fn pick(&mut self, available: impl Fn(usize) -> bool) -> Option<usize> {
        let (mut total, mut best) = (0, None::<(usize, i64)>);
        for (index, share) in self.shares.iter_mut().enumerate() {
            if !available(index) {
                continue;
            }
            share.credit += share.weight;
            total += share.weight;
            if best.is_none_or(|(_, credit)| share.credit > credit) {
                best = Some((index, share.credit));
            }
        }
        let (index, _) = best?;
        self.shares[index].credit -= total;
        Some(index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picks(weights: &[u16], count: usize) -> Vec<usize> {
        let mut balance = Balance::new(weights.iter().copied());
        (0..count).map(|_| balance.pick(|_| true).unwrap()).collect()
    }

    #[test]
    fn the_turns_of_an_endpoint_with_a_large_weight_are_interleaved() {
        // The textbook sequence for weights 5, 1, 1.
        assert_eq!(picks(&[5, 1, 1], 7), [0, 0, 1, 0, 2, 0, 0]);
        assert_eq!(picks(&[1, 1, 1], 6), [0, 1, 2, 0, 1, 2]);
    }

    #[test]
    fn every_window_gives_each_endpoint_its_share() {
        for weights in [vec![1], vec![3, 7], vec![1, 2, 3, 4], vec![10, 1, 1, 1, 5]] {
            let total: usize = weights.iter().map(|weight| usize::from(*weight)).sum();
            let picks = picks(&weights, total * 3);
            // Any window as long as the sum of the weights is one whole round, wherever it starts.
            for window in picks.windows(total) {
                for (index, weight) in weights.iter().enumerate() {
                    let turns = window.iter().filter(|pick| **pick == index).count();
                    assert_eq!(turns, usize::from(*weight), "{weights:?}");
                }
            }
        }
    }

    #[test]
    fn unavailable_endpoints_are_passed_over() {
        let mut balance = Balance::new([5, 1].into_iter());
        assert_eq!(balance.pick(|index| index == 1), Some(1));
        assert_eq!(balance.pick(|_| false), None);
        assert_eq!(balance.pick(|index| index == 0), Some(0));
    }
}
