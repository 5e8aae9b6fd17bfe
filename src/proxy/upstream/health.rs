//! Passive health checks: ejects an endpoint on the evidence of live traffic.
//!
//! ```text
//!        a connect failed, or too many responses in a row         the backoff is over
//!   available --------------------------------------> ejected -----------------------> on trial
//!    ^                                                   ^                              |  |
//!    |                                                   +-- failed: backoff doubles ---+  |
//!    +------------------------------ a response's head came -------------------------------+
//! ```
//!
//! On trial an endpoint gets one request. It gets no other until that one has succeeded or failed.
//! When no endpoint of a group is available, all are used: otherwise no traffic could show that
//! one has recovered.

use std::time::{Duration, Instant};

use crate::config;

/// The health of one endpoint.
#[derive(Debug, Clone)]
pub(super) struct Health {
    bounds: config::Health,
    /// Failed responses in a row.
    failure_count: u32,
    /// The last backoff; `None` while it is not ejected.
    backoff: Option<Duration>,
    ejected_until: Option<Instant>,
    on_trial: bool,
}

/// A kind of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// No connection could be made: the next request would fail too.
    Connect,
    /// A connection broke, or no valid response came: the request itself may be the cause.
    Response,
}

impl Health {
    pub(super) fn new(bounds: config::Health) -> Self {
        Self { bounds, failure_count: 0, backoff: None, ejected_until: None, on_trial: false }
    }

    /// Returns whether a request may be sent to the endpoint.
    pub(super) fn is_available(&self, now: Instant) -> bool {
        self.ejected_until.is_none_or(|until| until <= now && !self.on_trial)
    }

    /// Notes that a request is sent to the endpoint. Returns whether it is the endpoint's trial.
    pub(super) fn begin_request(&mut self, now: Instant) -> bool {
        let is_trial = self.ejected_until.is_some_and(|until| until <= now) && !self.on_trial;
        self.on_trial |= is_trial;
        is_trial
    }

    /// Notes that a request failed at the endpoint. Returns the pause for which the endpoint is
    /// ejected, if it is.
    pub(super) fn failed(
        &mut self,
        now: Instant,
        failure: Failure,
        was_trial: bool,
    ) -> Option<Duration> {
        if was_trial && self.on_trial {
            self.on_trial = false;
        } else if self.ejected_until.is_some() {
            // It was sent before the endpoint was ejected, or because all are: no new evidence.
            return None;
        } else if failure == Failure::Response {
            self.failure_count += 1;
            if self.failure_count < self.bounds.failure_count {
                return None;
            }
        }
        let backoff = self.backoff.map_or(self.bounds.pause, |backoff| backoff * 2);
        let backoff = backoff.min(self.bounds.pause_max);
        (self.backoff, self.ejected_until, self.failure_count) =
            (Some(backoff), Some(now + backoff), 0);
        Some(backoff)
    }

    /// Notes that the endpoint has sent a response's head. Returns whether that restores it.
    pub(super) fn succeeded(&mut self) -> bool {
        let was_ejected = self.ejected_until.is_some();
        *self = Self::new(self.bounds);
        was_ejected
    }

    /// Returns whether it is ejected, or on trial.
    pub(super) fn is_ejected(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// Continues the health that the endpoint had under other bounds. A trial in progress counts
    /// for the configuration that it began with, so the next request is one.
    pub(super) fn inherit(&mut self, earlier: Health) {
        let bounds = self.bounds;
        let backoff = earlier.backoff.map(|backoff| backoff.min(bounds.pause_max));
        *self = Self { bounds, backoff, on_trial: false, ..earlier };
    }

    /// Notes that the trial ended without a result: the next request is the trial.
    pub(super) fn trial_ended(&mut self) {
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
    fn backoff_doubles_to_its_bound_and_the_first_success_resets_it() {
        let mut now = epoch();
        let mut health = Health::new(BOUNDS);
        health.failed(now, Failure::Connect, false);
        for seconds in [1, 2, 4, 8, 16, 32, 60, 60, 60] {
            health.failed(now, Failure::Connect, false);
            now += Duration::from_secs(seconds) - Duration::from_nanos(1);
            assert!(!health.is_available(now), "{seconds} s are not over");
            now += Duration::from_nanos(1);
            assert!(health.is_available(now) && health.begin_request(now));
            assert!(
                !health.is_available(now) && !health.begin_request(now),
                "one request at a time"
            );
            health.failed(now, Failure::Connect, true);
        }
        now += BOUNDS.pause_max;
        assert!(health.begin_request(now));
        assert!(health.is_ejected() && health.succeeded() && !health.succeeded());
        assert!(!health.is_ejected());
        assert!(health.is_available(now) && !health.begin_request(now));
        health.failed(now, Failure::Connect, false);
        assert!(!health.is_available(now) && health.is_available(now + BOUNDS.pause));
    }

    #[test]
    fn failed_responses_count_in_a_row_only() {
        let now = epoch();
        let mut health = Health::new(BOUNDS);
        for _ in 0..10 {
            health.failed(now, Failure::Response, false);
            health.failed(now, Failure::Response, false);
            assert!(health.is_available(now));
            health.succeeded();
        }
        for count in 1..=3 {
            let pause = health.failed(now, Failure::Response, false);
            assert_eq!(pause, (count == 3).then_some(BOUNDS.pause));
        }
        assert!(!health.is_available(now));
        // On trial one failure is enough.
        let then = now + BOUNDS.pause;
        assert!(health.begin_request(then));
        health.failed(then, Failure::Response, true);
        assert!(
            !health.is_available(then + BOUNDS.pause)
                && health.is_available(then + 2 * BOUNDS.pause)
        );
    }

    #[test]
    fn a_trial_without_a_result_leaves_it_to_the_next_request() {
        let now = epoch();
        let mut health = Health::new(BOUNDS);
        health.failed(now, Failure::Connect, false);
        let then = now + BOUNDS.pause;
        assert!(health.begin_request(then) && !health.is_available(then));
        health.trial_ended();
        assert!(health.is_available(then) && health.begin_request(then));
    }
}
