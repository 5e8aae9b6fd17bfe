//! A token bucket: a limit on how often something may happen, with room for a burst.

use std::time::{Duration, Instant};

/// The tokens left, and the time up to which the bucket has been refilled. The limits are the
/// caller's: they may change while the bucket is in use. A new bucket is full.
#[derive(Debug, Default)]
pub(crate) struct TokenBucket {
    left: u32,
    filled_until: Option<Instant>,
}

impl TokenBucket {
    /// Takes a token of a bucket that holds `max` and that refills in `fill_time` from empty to
    /// full. Returns false if none is left.
    pub(crate) fn take(&mut self, now: Instant, max: u32, fill_time: Duration) -> bool {
        self.take_several(now, 1, max, fill_time)
    }

    /// Takes `count` tokens. If fewer are left, takes these and returns false.
    pub(crate) fn take_several(
        &mut self,
        now: Instant,
        count: u32,
        max: u32,
        fill_time: Duration,
    ) -> bool {
        self.fill(now, max, fill_time);
        let left = self.left.checked_sub(count);
        self.left = left.unwrap_or(0);
        left.is_some()
    }

    pub(crate) fn left(&self) -> u32 {
        self.left
    }

    pub(crate) fn give_back(&mut self, count: u32, max: u32) {
        self.left = self.left.saturating_add(count).min(max);
    }

    fn fill(&mut self, now: Instant, max: u32, fill_time: Duration) {
        let step = fill_time / max.max(1);
        let passed = self.filled_until.map(|until| (until, now.saturating_duration_since(until)));
        let Some((until, passed)) = passed.filter(|(_, passed)| *passed < fill_time) else {
            (self.left, self.filled_until) = (max, Some(now));
            return;
        };
        let gained = (passed.as_nanos() / step.as_nanos().max(1)) as u32;
        self.left = self.left.saturating_add(gained).min(max);
        self.filled_until = Some(until + step * gained);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    const FILL_TIME: Duration = Duration::from_secs(10);

    #[test]
    fn the_bucket_refills_at_its_rate_and_loses_nothing_to_rounding() {
        for max in [1, 7, 200, 1_000_000] {
            let mut now = epoch();
            let mut bucket = TokenBucket::default();
            (0..max).for_each(|_| assert!(bucket.take(now, max, FILL_TIME)));
            assert!(!bucket.take(now, max, FILL_TIME));
            let mut gained = 0;
            for _ in 0..1_000 {
                now += Duration::from_micros(4_999);
                let before = bucket.left;
                bucket.fill(now, max, FILL_TIME);
                gained += bucket.left - before;
            }
            // Just under half of the fill time.
            let expected = u64::from(max) * 4_999 / 10_000;
            assert!(u64::from(gained).abs_diff(expected) <= 1, "{max}: {gained}");
            bucket.fill(now + FILL_TIME, max, FILL_TIME);
            assert_eq!(bucket.left, max);
        }
    }
}
