//! The time that tests start from, and a wall clock that stands still.

use std::time::{Duration, Instant, SystemTime};

use crate::host::clock;
use crate::quic::TimeSource;

/// Returns the instant that a test in virtual time counts from. Nothing reads the clock again.
pub fn epoch() -> Instant {
    clock::now()
}

/// Returns the time on both of the host's clocks, for tests that run in real time.
pub fn clocks() -> (Instant, SystemTime) {
    (clock::now(), clock::wall())
}

/// Blocks the thread of a peer, which is outside of what is tested.
#[allow(clippy::disallowed_methods, reason = "a peer's thread has neither a ring nor timers")]
pub fn sleep(duration: Duration) {
    std::thread::sleep(duration);
}

/// A wall clock that stands still on 2027-01-15, for the age of tokens.
#[derive(Debug, Clone, Copy)]
pub struct FrozenClock;

impl TimeSource for FrozenClock {
    fn now(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000)
    }
}
