//! How many requests of one connection may come to nothing.
//!
//! A request that its client cancels, or that a client's fault makes us reset, frees its stream at
//! once, so the limit on open streams does not hold back a client that asks and cancels as fast as
//! it can (CVE-2023-44487, CVE-2025-8671). This budget does: each such stream takes one from it,
//! each response that was finished gives one back, and time fills it up.

use std::time::{Duration, Instant};

/// The budget of one connection.
#[derive(Debug)]
pub(super) struct ResetBudget {
    left: u32,
    /// Until here time has been turned into budget.
    filled_until: Instant,
    spent: bool,
}

impl ResetBudget {
    /// A full budget of `max`.
    pub(super) fn new(now: Instant, max: u32) -> Self {
        Self { left: max, filled_until: now, spent: false }
    }

    /// A stream came to nothing. True once: when that is one too many.
    pub(super) fn charge(&mut self, now: Instant, max: u32) -> bool {
        self.fill(now, max);
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return !std::mem::replace(&mut self.spent, true),
        }
        false
    }

    /// A response was finished.
    pub(super) fn give_back(&mut self, max: u32) {
        self.left = (self.left + 1).min(max);
    }

    /// An empty budget is full after [`FILL_TIME`].
    fn fill(&mut self, now: Instant, max: u32) {
        let step = FILL_TIME / max.max(1);
        let passed = now.saturating_duration_since(self.filled_until);
        if passed >= FILL_TIME {
            (self.left, self.filled_until) = (max, now);
            return;
        }
        let gained = (passed.as_nanos() / step.as_nanos().max(1)) as u32;
        self.left = self.left.saturating_add(gained).min(max);
        self.filled_until += step * gained;
    }
}

/// Ten seconds: with the default a client may cancel 20 requests a second for ever, as one does
/// that scrolls fast, and all its open streams twice at once, as one does that leaves a page.
const FILL_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    /// Charges until it is one too many; how often that went well.
    fn charges(budget: &mut ResetBudget, now: Instant, max: u32) -> u32 {
        (0..).find(|_| budget.charge(now, max)).expect("a budget ends")
    }

    #[test]
    fn one_too_many_is_told_once() {
        let now = epoch();
        let mut budget = ResetBudget::new(now, 5);
        assert_eq!(charges(&mut budget, now, 5), 5);
        assert!(!budget.charge(now, 5));
    }

    #[test]
    fn responses_give_back_but_never_more_than_all() {
        let now = epoch();
        let mut budget = ResetBudget::new(now, 5);
        (0..100).for_each(|_| budget.give_back(5));
        for _ in 0..1000 {
            assert!(!budget.charge(now, 5), "as many responses as resets go on for ever");
            budget.give_back(5);
        }
        assert_eq!(charges(&mut budget, now, 5), 5);
    }

    #[test]
    fn time_fills_it_at_the_rate_that_is_told() {
        for max in [1, 7, 200, 1_000_000] {
            let mut now = epoch();
            let mut budget = ResetBudget::new(now, max);
            (0..max).for_each(|_| assert!(!budget.charge(now, max)));
            // In steps that are no multiple of anything nothing is lost to rounding.
            let mut went_well = 0;
            for _ in 0..1_000 {
                now += Duration::from_micros(4_999);
                let before = budget.left;
                budget.fill(now, max);
                went_well += budget.left - before;
            }
            // Just under half of the time that fills it.
            let expected = u64::from(max) * 4_999 / 10_000;
            assert!(u64::from(went_well).abs_diff(expected) <= 1, "{max}: {went_well}");
            budget.fill(now + FILL_TIME, max);
            assert_eq!(budget.left, max);
        }
    }
}
