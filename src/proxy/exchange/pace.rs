//! The least rate of a transfer. A timeout of its pauses alone does not end one that moves a byte
//! each time: a dozen clients could hold every connection of an upstream for ever.

use std::time::{Duration, Instant};

/// A window of time in which a transfer could go on, and what it moved.
#[derive(Debug, Default)]
pub(super) struct Pace {
    start: Option<Instant>,
    len: u64,
}

impl Pace {
    /// Begins a window, unless one has begun: the other side may go on.
    pub(super) fn run(&mut self, now: Instant) {
        self.start.get_or_insert(now);
    }

    /// Ends the window without a verdict: the other side has to wait for us.
    pub(super) fn pause(&mut self) {
        *self = Self::default();
    }

    /// Counts `len` bytes that were moved. Returns false if the window is `window` long by now and
    /// less than `rate` bytes a second were moved in it; a longer window than that begins anew.
    pub(super) fn keeps(&mut self, now: Instant, len: u64, window: Duration, rate: u32) -> bool {
        let Some(start) = self.start else { return true };
        self.len += len;
        let passed = now.saturating_duration_since(start);
        if passed < window {
            return true;
        }
        let least = passed.as_millis() * u128::from(rate) / 1000;
        let moved = std::mem::take(self).len;
        self.run(now);
        u128::from(moved) >= least
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn each_window_needs_its_share_of_bytes() {
        let mut pace = Pace::default();
        let mut now = epoch();
        pace.run(now);
        assert!(pace.keeps(now + 9 * SECOND, 0, 10 * SECOND, 100));
        assert!(pace.keeps(now + 10 * SECOND, 1_000, 10 * SECOND, 100));
        now += 10 * SECOND;
        assert!(pace.keeps(now + 5 * SECOND, 999, 10 * SECOND, 100));
        assert!(!pace.keeps(now + 10 * SECOND, 0, 10 * SECOND, 100), "999 of 1,000 bytes");
        now += 10 * SECOND;
        assert!(!pace.keeps(now + 20 * SECOND, 1_500, 10 * SECOND, 100), "of 2,000 by then");
    }

    #[test]
    fn a_pause_of_ours_does_not_count_and_a_rate_of_zero_asks_for_nothing() {
        let mut pace = Pace::default();
        let now = epoch();
        pace.run(now);
        pace.pause();
        assert!(pace.keeps(now + 100 * SECOND, 1, 10 * SECOND, 100));
        pace.run(now + 100 * SECOND);
        assert!(pace.keeps(now + 109 * SECOND, 1, 10 * SECOND, 100));
        assert!(pace.keeps(now + 110 * SECOND, 0, 10 * SECOND, 0));
    }
}
