//! Counts of requests by outcome.

use crate::message::Outcome;

/// Requests that are over, by outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcomes {
    /// In the order of [`Outcome::ALL`].
    counts: [u64; Outcome::ALL.len()],
}

impl Default for Outcomes {
    fn default() -> Self {
        Self { counts: [0; Outcome::ALL.len()] }
    }
}

impl Outcomes {
    pub fn count(&mut self, outcome: Outcome) {
        self.counts[outcome as usize] += 1;
    }

    /// Returns the number of requests with this outcome.
    pub fn of(&self, outcome: Outcome) -> u64 {
        self.counts[outcome as usize]
    }
}
