//! The limit on requests that one connection may cancel or break.
//!
//! A request that the client cancels, or that we reset through the client's fault, frees its stream
//! at once, so the limit on open streams does not restrain a client that requests and cancels as
//! fast as it can (CVE-2023-44487, CVE-2025-8671). This budget does: each such stream takes one
//! from it, each finished response returns one, and it refills with time.

use std::time::{Duration, Instant};

/// The budget of one connection.
#[derive(Debug)]
pub(super) struct ResetBudget {
    left: u32,
    /// The time up to which the budget has been refilled.
    filled_until: Instant,
    spent: bool,
}

impl ResetBudget {
    /// Creates a full budget of `max`.
    pub(super) fn new(now: Instant, max: u32) -> Self {
        Self { left: max, filled_until: now, spent: false }
    }

    /// Charges a stream that was cancelled or reset. Returns true exactly once: when the budget is
    /// exceeded.
    pub(super) fn charge(&mut self, now: Instant, max: u32) -> bool {
        self.fill(now, max);
        match self.left.checked_sub(1) {
            Some(left) => self.left = left,
            None => return !std::mem::replace(&mut self.spent, true),
        }
        false
    }

    /// Returns one to the budget for a finished response.
    pub(super) fn give_back(&mut self, max: u32) {
        self.left = (self.left + 1).min(max);
    }

    /// Refills the budget at the rate that fills an empty one in [`FILL_TIME`].
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

/// Ten seconds. With the default budget a client may cancel 20 requests a second for ever, as it
/// does when a user scrolls fast, and all its open streams twice at once, as it does when a user
/// leaves a page.
const FILL_TIME: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    /// Charges until the budget is exceeded. Returns the number of charges before that.
    fn charges(budget: &mut ResetBudget, now: Instant, max: u32) -> u32 {
        (0..).find(|_| budget.charge(now, max)).expect("a budget ends")
    }

    #[test]
    fn exceeding_the_budget_is_reported_once() {
        let now = epoch();
        let mut budget = ResetBudget::new(now, 5);
        assert_eq!(charges(&mut budget, now, 5), 5);
        assert!(!budget.charge(now, 5));
    }

    #[test]
    fn finished_responses_never_fill_the_budget_beyond_its_maximum() {
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
    fn the_budget_refills_at_the_documented_rate() {
        for max in [1, 7, 200, 1_000_000] {
            let mut now = epoch();
            let mut budget = ResetBudget::new(now, max);
            (0..max).for_each(|_| assert!(!budget.charge(now, max)));
            // Odd time steps lose nothing to rounding.
            let mut went_well = 0;
            for _ in 0..1_000 {
                now += Duration::from_micros(4_999);
                let before = budget.left;
                budget.fill(now, max);
                went_well += budget.left - before;
            }
            // Just under half of the fill time.
            let expected = u64::from(max) * 4_999 / 10_000;
            assert!(u64::from(went_well).abs_diff(expected) <= 1, "{max}: {went_well}");
            budget.fill(now + FILL_TIME, max);
            assert_eq!(budget.left, max);
        }
    }
}
