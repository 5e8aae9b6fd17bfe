//! The restart policy: whether and when a worker that died is started again.
//!
//! The sockets stay in their reuseport group for the life of the process, so without its worker a
//! share of new clients would get no response. A death is therefore followed by a restart: at once
//! the first time, then after pauses that double. A worker that lives long enough resets them.
//!
//! A panic may be caused by a request, so panics alone are never a reason to give up. When the host
//! keeps refusing, restarting the worker does not help: the process must end so that its
//! supervisor can start a new one. The same holds if the kernel keeps the dead worker's buffers.

use std::time::Duration;

use crate::limits::{
    WORKER_FAILURE_COUNT_MAX, WORKER_HEALTHY_AFTER, WORKER_PAUSE_MAX, WORKER_PAUSE_MIN,
};

/// Cause of a worker's death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A panic in its loop.
    Panic,
    /// The kernel refused to go on, or the worker could not start.
    Failure,
    /// The kernel did not release the worker's buffers. A new worker would share its memory with
    /// operations still in flight.
    BuffersKept,
}

/// Decides whether to restart a worker, given its recent deaths.
#[derive(Debug, Default)]
pub(super) struct RestartPolicy {
    restart_count: u64,
    /// Deaths in a row.
    death_count: u32,
    /// Those of them that no request can have caused.
    failure_count: u32,
}

impl RestartPolicy {
    pub(super) fn restart_count(&self) -> u64 {
        self.restart_count
    }

    /// Takes a death after a life of `lived` into account. Returns the pause before the restart, or
    /// `None` if the worker is not to be restarted.
    pub(super) fn pause_after(&mut self, cause: Cause, lived: Duration) -> Option<Duration> {
        if lived >= WORKER_HEALTHY_AFTER {
            (self.death_count, self.failure_count) = (0, 0);
        }
        self.failure_count += u32::from(cause == Cause::Failure);
        if cause == Cause::BuffersKept || self.failure_count > WORKER_FAILURE_COUNT_MAX {
            return None;
        }
        let doublings = self.death_count.checked_sub(1);
        self.restart_count += 1;
        self.death_count = self.death_count.saturating_add(1);
        let pause = |doublings| WORKER_PAUSE_MIN.saturating_mul(1 << u32::min(doublings, 16));
        Some(doublings.map_or(Duration::ZERO, pause).min(WORKER_PAUSE_MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_their_maximum_and_a_healthy_life_resets_them() {
        let mut policy = RestartPolicy::default();
        assert_eq!(policy.pause_after(Cause::Panic, SHORT), Some(Duration::ZERO));
        let mut before = policy.pause_after(Cause::Panic, SHORT).unwrap();
        assert_eq!(before, WORKER_PAUSE_MIN);
        for _ in 0..100 {
            let pause = policy.pause_after(Cause::Panic, SHORT).unwrap();
            assert_eq!(pause, (before * 2).min(WORKER_PAUSE_MAX));
            before = pause;
        }
        assert_eq!(before, WORKER_PAUSE_MAX);
        assert_eq!(policy.restart_count(), 102);
        let pause = policy.pause_after(Cause::Panic, WORKER_HEALTHY_AFTER);
        assert_eq!(pause, Some(Duration::ZERO));
    }

    #[test]
    fn a_worker_whose_buffers_are_kept_is_not_restarted() {
        let mut policy = RestartPolicy::default();
        assert_eq!(policy.pause_after(Cause::BuffersKept, WORKER_HEALTHY_AFTER), None);
        assert_eq!(policy.restart_count(), 0);
    }

    #[test]
    fn repeated_failures_end_the_restarts() {
        let mut policy = RestartPolicy::default();
        let fail = |policy: &mut RestartPolicy, lived| policy.pause_after(Cause::Failure, lived);
        let waits: Vec<_> = std::iter::from_fn(|| fail(&mut policy, SHORT)).take(100).collect();
        assert_eq!(waits.len(), WORKER_FAILURE_COUNT_MAX as usize);
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(15), "{waits:?}");
        // Panics in between do not reset the failures, a healthy life does.
        let mut policy = RestartPolicy::default();
        for _ in 0..WORKER_FAILURE_COUNT_MAX {
            assert!(fail(&mut policy, SHORT).is_some());
            assert!(policy.pause_after(Cause::Panic, SHORT).is_some());
        }
        assert!(fail(&mut policy, WORKER_HEALTHY_AFTER).is_some());
        for _ in 1..WORKER_FAILURE_COUNT_MAX {
            assert!(fail(&mut policy, SHORT).is_some());
        }
        assert_eq!(fail(&mut policy, SHORT), None);
    }
}
