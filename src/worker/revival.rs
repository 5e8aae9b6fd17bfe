//! When a new worker begins in the place of one that died, and when none does.
//!
//! The sockets stay in their reuseport group while the process lives: without its worker, a share
//! of all new clients would get no response. So a death is followed by a new begin, at once the first
//! time, then after pauses that double. A worker that lives for a while starts the row anew.
//!
//! A panic may be some request's doing, so panics alone never end the row. What the host refuses
//! again and again it will not grant: then the process has to make room for a new one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::mailbox::Snapshot;
use crate::limits::{
    WORKER_FAILURE_COUNT_MAX, WORKER_HEALTHY_AFTER, WORKER_PAUSE_MAX, WORKER_PAUSE_MIN,
};

/// What a worker died of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// A panic in its loop.
    Panic,
    /// The kernel refused to go on, or it could not begin or end.
    Failure,
}

/// The deaths of one worker's thread.
#[derive(Debug, Default)]
pub(super) struct Revival {
    restart_count: u64,
    /// Deaths in a row.
    death_count: u32,
    /// Of these, those that no request can have caused.
    failure_count: u32,
}

impl Revival {
    /// New begins since the start.
    pub(super) fn restart_count(&self) -> u64 {
        self.restart_count
    }

    /// Takes in a death after a life of `lived`. Returns the pause before the next begin; `None`
    /// where there shall be none.
    pub(super) fn pause_after(&mut self, cause: Cause, lived: Duration) -> Option<Duration> {
        if lived >= WORKER_HEALTHY_AFTER {
            (self.death_count, self.failure_count) = (0, 0);
        }
        self.failure_count += u32::from(cause == Cause::Failure);
        if self.failure_count > WORKER_FAILURE_COUNT_MAX {
            return None;
        }
        let doublings = self.death_count.checked_sub(1);
        self.restart_count += 1;
        self.death_count = self.death_count.saturating_add(1);
        let pause = |doublings| WORKER_PAUSE_MIN.saturating_mul(1 << u32::min(doublings, 16));
        Some(doublings.map_or(Duration::ZERO, pause).min(WORKER_PAUSE_MAX))
    }
}

/// What is left of a life, even where it ends in a panic.
#[derive(Default)]
pub(super) struct Trace {
    /// What it ran by.
    pub(super) snapshot: Option<Arc<Snapshot>>,
    /// When its sockets received.
    pub(super) accepted_at: Option<Instant>,
    /// Its loop ended while it was neither draining nor closing.
    pub(super) was_serving: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_secs(1);

    #[test]
    fn pauses_double_up_to_their_bound_and_begin_anew_after_a_healthy_life() {
        let mut revival = Revival::default();
        assert_eq!(revival.pause_after(Cause::Panic, SHORT), Some(Duration::ZERO));
        let mut before = revival.pause_after(Cause::Panic, SHORT).unwrap();
        assert_eq!(before, WORKER_PAUSE_MIN);
        for _ in 0..100 {
            let pause = revival.pause_after(Cause::Panic, SHORT).unwrap();
            assert_eq!(pause, (before * 2).min(WORKER_PAUSE_MAX));
            before = pause;
        }
        assert_eq!(before, WORKER_PAUSE_MAX);
        assert_eq!(revival.restart_count(), 102);
        let pause = revival.pause_after(Cause::Panic, WORKER_HEALTHY_AFTER);
        assert_eq!(pause, Some(Duration::ZERO));
    }

    #[test]
    fn what_the_host_goes_on_refusing_is_given_up() {
        let mut revival = Revival::default();
        let fail = |revival: &mut Revival, lived| revival.pause_after(Cause::Failure, lived);
        let waits: Vec<_> = std::iter::from_fn(|| fail(&mut revival, SHORT)).take(100).collect();
        assert_eq!(waits.len(), WORKER_FAILURE_COUNT_MAX as usize);
        assert!(waits.iter().sum::<Duration>() < Duration::from_secs(15), "{waits:?}");
        // Panics between do not make it well, a healthy life does.
        let mut revival = Revival::default();
        for _ in 0..WORKER_FAILURE_COUNT_MAX {
            assert!(fail(&mut revival, SHORT).is_some());
            assert!(revival.pause_after(Cause::Panic, SHORT).is_some());
        }
        assert!(fail(&mut revival, WORKER_HEALTHY_AFTER).is_some());
        for _ in 1..WORKER_FAILURE_COUNT_MAX {
            assert!(fail(&mut revival, SHORT).is_some());
        }
        assert_eq!(fail(&mut revival, SHORT), None);
    }
}
