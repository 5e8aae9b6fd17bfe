//! Counts of broken rules, by rule and by the outcome for the message that broke it.

/// Counts by outcome and rule. Both are defined by this program, so their number is bounded,
/// whatever peers send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokenRules {
    counts: Vec<(Outcome, &'static str, u64)>,
}

/// The outcome for a message that broke a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The gateway responded with this status.
    Status(u16),
    /// The stream was reset.
    Reset,
}

impl BrokenRules {
    pub fn count(&mut self, outcome: Outcome, rule: &'static str) {
        let same = |count: &&mut (Outcome, &str, u64)| (count.0, count.1) == (outcome, rule);
        match self.counts.iter_mut().find(same) {
            Some((_, _, count)) => *count += 1,
            None => self.counts.push((outcome, rule, 1)),
        }
    }

    /// Returns all counts, each with its outcome and rule.
    pub(super) fn iter(&self) -> impl Iterator<Item = (String, &'static str, u64)> {
        self.counts.iter().map(|&(outcome, rule, count)| {
            let outcome = match outcome {
                Outcome::Status(status) => status.to_string(),
                Outcome::Reset => "reset".to_owned(),
            };
            (outcome, rule, count)
        })
    }
}
