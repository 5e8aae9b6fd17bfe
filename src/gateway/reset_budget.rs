//! The limit on requests that one connection may cancel or break.
//!
//! A request that the client cancels, or that we reset through the client's fault, frees its stream
//! at once, so the limit on open streams does not restrain a client that requests and cancels as
//! fast as it can (CVE-2023-44487, CVE-2025-8671). This budget does: each such stream takes one
//! from it, each finished response of an upstream returns one, and it refills with time. A response
//! of the gateway's own returns none: a request that is refused costs the client nothing, while
//! each cancelled one may cost an upstream connection.
//!
//! A request that is cancelled after an upstream has begun to respond takes a quarter: it has
//! waited for its upstream like one that is served, which bounds how many of them there can be. A
//! person who pans a map cancels like this.

use std::time::{Duration, Instant};

use crate::base::token_bucket::TokenBucket;

/// The budget of one connection, full at first.
#[derive(Debug, Default)]
pub(super) struct ResetBudget {
    /// In quarters of a request.
    left: TokenBucket,
    spent: bool,
}

impl ResetBudget {
    /// Charges a stream that was cancelled or reset. Returns true exactly once: when the budget is
    /// exceeded.
    pub(super) fn charge(&mut self, now: Instant, cost: Cost, max: u32) -> bool {
        let is_within = self.left.take_several(now, cost.quarters(), quarters(max), FILL_TIME);
        !is_within && !std::mem::replace(&mut self.spent, true)
    }

    /// Returns one to the budget for a finished response of an upstream.
    pub(super) fn give_back(&mut self, max: u32) {
        self.left.give_back(Cost::Whole.quarters(), quarters(max));
    }
}

/// The cost of a stream that was cancelled or reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cost {
    Whole,
    /// An upstream had begun to respond when the client cancelled it.
    Quarter,
}

impl Cost {
    fn quarters(self) -> u32 {
        match self {
            Self::Whole => 4,
            Self::Quarter => 1,
        }
    }
}

fn quarters(max: u32) -> u32 {
    max.saturating_mul(Cost::Whole.quarters())
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
        (0..).find(|_| budget.charge(now, Cost::Whole, max)).expect("a budget ends")
    }

    #[test]
    fn exceeding_the_budget_is_reported_once() {
        let now = epoch();
        let mut budget = ResetBudget::default();
        assert_eq!(charges(&mut budget, now, 5), 5);
        assert!(!budget.charge(now, Cost::Whole, 5));
    }

    #[test]
    fn finished_responses_never_fill_the_budget_beyond_its_maximum() {
        let now = epoch();
        let mut budget = ResetBudget::default();
        (0..100).for_each(|_| budget.give_back(5));
        for _ in 0..1000 {
            assert!(
                !budget.charge(now, Cost::Whole, 5),
                "as many responses as resets go on for ever"
            );
            budget.give_back(5);
        }
        assert_eq!(charges(&mut budget, now, 5), 5);
    }

    #[test]
    fn a_request_that_was_answered_costs_a_quarter() {
        let now = epoch();
        let mut budget = ResetBudget::default();
        for _ in 0..20 {
            assert!(!budget.charge(now, Cost::Quarter, 5));
        }
        assert!(budget.charge(now, Cost::Quarter, 5));
    }
}
