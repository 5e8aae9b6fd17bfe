//! Timers: one queue of deadlines for many holders.
//!
//! Each holder owns its [`Timer`]; the queue has at most one entry for it. Most deadlines only ever
//! move later (every piece of a body moves its own, every acknowledgement that of loss detection).
//! Then the entry stays where it is and moves when it comes up, so the ordinary case costs one
//! comparison; the same holds for a deadline that is cleared and set again. A deadline that moves
//! earlier moves its entry at once, in O(log n). The price of the stale entries is that
//! [`Timers::next`] may return a time at which no timer fires.

use std::collections::BTreeMap;
use std::time::Instant;

/// The deadline of one holder.
#[derive(Debug, Default)]
pub(crate) struct Timer {
    due: Option<Instant>,
    entry: Option<(Instant, u64)>,
}

/// The queue of all deadlines, the earliest first.
pub(crate) struct Timers<K> {
    queue: BTreeMap<(Instant, u64), K>,
    sequence: u64,
}

impl<K: Copy> Timers<K> {
    pub(crate) fn new() -> Self {
        Self { queue: BTreeMap::new(), sequence: 0 }
    }

    /// Sets the deadline of `timer`, replacing the one it had.
    pub(crate) fn set(&mut self, timer: &mut Timer, due: Instant, owner: K) {
        timer.due = Some(due);
        match timer.entry {
            Some((at, _)) if at <= due => {}
            Some(entry) => {
                self.queue.remove(&entry).expect("a timer's entry is in the queue");
                timer.entry = Some(self.push(due, owner));
            }
            None => timer.entry = Some(self.push(due, owner)),
        }
    }

    /// Removes `timer` from the queue; to be called before its holder is dropped.
    pub(crate) fn clear(&mut self, timer: &mut Timer) {
        timer.due = None;
        if let Some(entry) = timer.entry.take() {
            self.queue.remove(&entry).expect("a timer's entry is in the queue");
        }
    }

    /// Returns a time that no deadline is earlier than.
    pub(crate) fn next(&self) -> Option<Instant> {
        self.queue.first_key_value().map(|((at, _), _)| *at)
    }

    /// Removes the first entry whose time is `now` or earlier and returns its owner, which must
    /// pass its timer to [`Timers::fires`] at once.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<K> {
        let entry = self.queue.first_entry()?;
        if entry.key().0 > now { None } else { Some(entry.remove()) }
    }

    /// Returns whether the deadline of `timer`, whose entry was popped, has passed. If it has not,
    /// the timer goes back into the queue.
    pub(crate) fn fires(&mut self, timer: &mut Timer, now: Instant, owner: K) -> bool {
        timer.entry = None;
        match timer.due {
            Some(due) if due > now => {
                timer.entry = Some(self.push(due, owner));
                false
            }
            due => {
                timer.due = None;
                due.is_some()
            }
        }
    }

    /// Returns the number of entries, those of disarmed timers included.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.queue.len()
    }

    fn push(&mut self, at: Instant, owner: K) -> (Instant, u64) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), owner);
        (at, self.sequence)
    }
}

impl Timer {
    /// Clears the deadline in O(1): the entry stays in the queue without effect and serves the next
    /// deadline. For holders that live on.
    pub(crate) fn disarm(&mut self) {
        self.due = None;
    }

    /// Returns whether a deadline is set.
    pub(crate) fn is_set(&self) -> bool {
        self.due.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    /// Fires everything due by `now`.
    fn run(timers: &mut Timers<usize>, owners: &mut [Timer], now: Instant) -> Vec<usize> {
        let mut fired = Vec::new();
        while let Some(owner) = timers.pop(now) {
            if timers.fires(&mut owners[owner], now, owner) {
                fired.push(owner);
            }
        }
        fired
    }

    #[test]
    fn the_earliest_fires_first_and_only_when_due() {
        let epoch = crate::testing::epoch();
        let after = |seconds| epoch + Duration::from_secs(seconds);
        let mut timers = Timers::new();
        let mut owners: Vec<Timer> = (0..3).map(|_| Timer::default()).collect();
        timers.set(&mut owners[0], after(3), 0);
        timers.set(&mut owners[1], after(9), 1);
        timers.set(&mut owners[2], after(2), 2);
        // One moves earlier.
        timers.set(&mut owners[1], after(1), 1);
        assert_eq!(timers.next(), Some(after(1)));
        assert!(run(&mut timers, &mut owners, epoch).is_empty());
        assert_eq!(run(&mut timers, &mut owners, after(2)), [1, 2]);
        assert!(run(&mut timers, &mut owners, after(2)).is_empty());
        // One moves later: its entry comes up and goes back.
        timers.set(&mut owners[0], after(5), 0);
        assert_eq!(timers.next(), Some(after(3)));
        assert!(run(&mut timers, &mut owners, after(4)).is_empty());
        assert_eq!(timers.next(), Some(after(5)));
        assert_eq!(run(&mut timers, &mut owners, after(5)), [0]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn agrees_with_a_list_of_deadlines() {
        use rand::{Rng as _, SeedableRng as _};
        let mut dice = rand::rngs::SmallRng::seed_from_u64(7);
        let mut timers = Timers::new();
        let mut owners: Vec<Timer> = (0..20).map(|_| Timer::default()).collect();
        let mut model: Vec<Option<Instant>> = vec![None; owners.len()];
        let mut now = crate::testing::epoch();
        for _ in 0..20_000 {
            let owner = dice.random_range(0..owners.len());
            match dice.random_range(0..5) {
                0 | 1 => {
                    let due = now + Duration::from_millis(dice.random_range(0..50));
                    timers.set(&mut owners[owner], due, owner);
                    model[owner] = Some(due);
                }
                2 => {
                    timers.clear(&mut owners[owner]);
                    model[owner] = None;
                }
                3 => {
                    owners[owner].disarm();
                    model[owner] = None;
                }
                _ => {
                    now += Duration::from_millis(dice.random_range(0..5));
                    let mut fired = run(&mut timers, &mut owners, now);
                    fired.sort_unstable();
                    let due = |at: &Option<Instant>| at.is_some_and(|at| at <= now);
                    let expected: Vec<usize> =
                        (0..model.len()).filter(|index| due(&model[*index])).collect();
                    assert_eq!(fired, expected);
                    fired.iter().for_each(|index| model[*index] = None);
                }
            }
            assert!(timers.len() <= owners.len(), "one entry for each owner at most");
            if let Some(first) = model.iter().flatten().min() {
                assert!(timers.next().is_some_and(|next| next <= *first));
            }
        }
        owners.iter_mut().for_each(|timer| timers.clear(timer));
        assert_eq!(timers.next(), None);
    }
}
