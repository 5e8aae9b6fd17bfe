//! The only clock. All other code takes time as an argument, so that tests need no clock.

use std::time::{Instant, SystemTime};

/// Returns the monotonic time.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
#[inline]
pub fn now() -> Instant {
    Instant::now()
}

/// Returns the wall-clock time, for tokens, certificates and logs, never for deadlines.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
