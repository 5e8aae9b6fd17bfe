//! The one clock. Everything else takes time as an argument, so that it can be tested without one.

use std::time::{Instant, SystemTime};

/// The monotonic clock, now.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
#[inline]
pub fn now() -> Instant {
    Instant::now()
}

/// The wall clock, now: for tokens, certificates and logs, never for deadlines.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
pub fn wall() -> SystemTime {
    SystemTime::now()
}
