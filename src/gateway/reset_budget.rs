//! The limit on requests that one connection may cancel or break.
//!
//! A request that the client cancels, or that we reset through the client's fault, frees its stream
//! at once, so the limit on open streams does not restrain a client that requests and cancels as
//! fast as it can (CVE-2023-44487, CVE-2025-8671). This budget does: each such stream takes one
//! from it, each finished response of an upstream returns one, and it refills with time. A response
//! of the gateway's own returns none: a request that is refused costs the client nothing, while
//! each cancelled one may cost an upstream connection.

use std::time::{Duration, Instant};

use crate::base::token_bucket::TokenBucket;

/// The budget of one connection, full at first.
#[derive(Debug, Default)]
pub(super) struct ResetBudget {
    left: TokenBucket,
    spent: bool,
}

impl ResetBudget {
    /// Charges a stream that was cancelled or reset. Returns true exactly once: when the budget is
    /// exceeded.
    pub(super) fn charge(&mut self, now: Instant, max: u32) -> bool {
        !self.left.take(now, max, FILL_TIME) && !std::mem::replace(&mut self.spent, true)
    }

    /// Returns one to the budget for a finished response of an upstream.
    pub(super) fn give_back(&mut self, max: u32) {
        self.left.give_back(max);
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
        let mut budget = ResetBudget::default();
        assert_eq!(charges(&mut budget, now, 5), 5);
        assert!(!budget.charge(now, 5));
    }

    #[test]
    fn finished_responses_never_fill_the_budget_beyond_its_maximum() {
        let now = epoch();
        let mut budget = ResetBudget::default();
        (0..100).for_each(|_| budget.give_back(5));
        for _ in 0..1000 {
            assert!(!budget.charge(now, 5), "as many responses as resets go on for ever");
            budget.give_back(5);
        }
        assert_eq!(charges(&mut budget, now, 5), 5);
    }
}
