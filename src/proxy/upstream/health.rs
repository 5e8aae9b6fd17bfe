//! Whether an endpoint is asked: judged by what its connections show, nobody is sent to look.
//!
//! ```text
//!            refused, or too many broken in a row               the pause is over
//!   well ------------------------------------------> set aside -------------------> on trial
//!    ^                                                   ^                              |  |
//!    |                                                   +---- failed: pause doubles ---+  |
//!    +------------------------------ a response's head came --------------------------------+
//! ```
//!
//! On trial an endpoint gets one request; the others pass it over until that one has shown
//! something. Where no endpoint of a group is well, all are asked: a gateway that asks nobody
//! would never be right.

use std::time::{Duration, Instant};

use crate::config;

/// What one endpoint has shown.
#[derive(Debug)]
pub(crate) struct Health {
    bounds: config::Health,
    /// Failures in a row that speak against it, but not for sure.
    doubt_count: u32,
    /// The last pause; `None` while it is well.
    pause: Option<Duration>,
    until: Option<Instant>,
    on_trial: bool,
}

/// How much a failure says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// No connection could be made: the next request would fare no better.
    Connect,
    /// A connection broke, or a response did not come: it may have been this request's own fault.
    Response,
}

impl Health {
    pub(crate) fn new(bounds: config::Health) -> Self {
        Self { bounds, doubt_count: 0, pause: None, until: None, on_trial: false }
    }

    /// Whether a request may be sent there.
    pub(crate) fn is_well(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now && !self.on_trial)
    }

    /// A request is sent there. True when it is the one that tries whether all is well again.
    pub(crate) fn asked(&mut self, now: Instant) -> bool {
        let is_trial = self.until.is_some_and(|until| until <= now) && !self.on_trial;
        self.on_trial |= is_trial;
        is_trial
    }

    /// A request failed there. True when it is set aside for that.
    pub(crate) fn failed(&mut self, now: Instant, failure: Failure, was_trial: bool) -> bool {
        if was_trial && self.on_trial {
            self.on_trial = false;
        } else if self.until.is_some() {
            // It was sent before the endpoint was set aside, or because all are: nothing new.
            return false;
        } else if failure == Failure::Response {
            self.doubt_count += 1;
            if self.doubt_count < self.bounds.failure_count {
                return false;
            }
        }
        let pause = self.pause.map_or(self.bounds.pause, |pause| pause * 2);
        let pause = pause.min(self.bounds.pause_max);
        (self.pause, self.until, self.doubt_count) = (Some(pause), Some(now + pause), 0);
        true
    }

    /// A response's head came from there.
    pub(crate) fn answered(&mut self) {
        (self.doubt_count, self.pause, self.until, self.on_trial) = (0, None, None, false);
    }

    /// The request on trial is gone and has shown nothing: the next one may try.
    pub(crate) fn trial_ended(&mut self) {
        self.on_trial = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    const BOUNDS: config::Health = config::Health {
        failure_count: 3,
        pause: Duration::from_secs(1),
        pause_max: Duration::from_secs(60),
    };

    #[test]
    fn pauses_double_to_their_bound_and_the_first_success_resets_them() {
        let mut now = epoch();
        let mut health = Health::new(BOUNDS);
        health.failed(now, Failure::Connect, false);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            health.failed(now, Failure::Connect, false);
            now += Duration::from_secs(seconds) - Duration::from_nanos(1);
            assert!(!health.is_well(now), "{seconds} s are not over");
            now += Duration::from_nanos(1);
            assert!(health.is_well(now) && health.asked(now));
            assert!(!health.is_well(now) && !health.asked(now), "one request at a time");
            health.failed(now, Failure::Connect, true);
        }
        now += BOUNDS.pause_max;
        assert!(health.asked(now));
        health.answered();
        assert!(health.is_well(now) && !health.asked(now));
        health.failed(now, Failure::Connect, false);
        assert!(!health.is_well(now) && health.is_well(now + BOUNDS.pause));
    }

    #[test]
    fn doubts_count_in_a_row_only() {
        let now = epoch();
        let mut health = Health::new(BOUNDS);
        for _ in 0..10 {
            health.failed(now, Failure::Response, false);
            health.failed(now, Failure::Response, false);
            assert!(health.is_well(now));
            health.answered();
        }
        for count in 1..=3 {
            assert_eq!(health.failed(now, Failure::Response, false), count == 3);
        }
        assert!(!health.is_well(now));
        // On trial one is enough.
        let then = now + BOUNDS.pause;
        assert!(health.asked(then));
        health.failed(then, Failure::Response, true);
        assert!(!health.is_well(then + BOUNDS.pause) && health.is_well(then + 2 * BOUNDS.pause));
    }

    #[test]
    fn a_trial_that_shows_nothing_leaves_it_to_the_next() {
        let now = epoch();
        let mut health = Health::new(BOUNDS);
        health.failed(now, Failure::Connect, false);
        let then = now + BOUNDS.pause;
        assert!(health.asked(then) && !health.is_well(then));
        health.trial_ended();
        assert!(health.is_well(then) && health.asked(then));
    }
}
