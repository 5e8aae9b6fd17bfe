//! Admission of requests by how long they wait to be read.
//!
//! Packets that come in wait while the turn before is handled. A long turn may be a burst; if even
//! the shortest turn of an interval is too long, there is more work than time (the rule of CoDel,
//! RFC 8289). Then
//!
//! 1. clients may open fewer request streams at once, half as many after each such interval. The
//!    other requests wait with the clients, where they cost nothing here, and are not lost;
//! 2. once each has the least, new requests are rejected before they are processed in any way.
//!
//! Both are undone step by step when turns are short again.

use std::time::{Duration, Instant};

use crate::base::stream_share::StreamShare;
use crate::limits::{ADMISSION_INTERVAL, TURN_TIME_MAX};

/// The judgement of a worker's load.
#[derive(Debug, Default)]
pub(super) struct Admission {
    /// The end of the interval, and its shortest turn so far.
    interval: Option<(Instant, Duration)>,
    share: StreamShare,
    is_shedding: bool,
}

impl Admission {
    /// Notes how long a turn took. Returns the share of streams if it has changed.
    pub(super) fn note_turn(&mut self, now: Instant, took: Duration) -> Option<StreamShare> {
        let Some((end, shortest)) = &mut self.interval else {
            self.interval = Some((now + ADMISSION_INTERVAL, took));
            return None;
        };
        *shortest = took.min(*shortest);
        if now < *end {
            return None;
        }
        let is_overloaded = *shortest > TURN_TIME_MAX;
        self.interval = None;
        let before = self.share;
        self.is_shedding = is_overloaded && self.share.is_least();
        self.share = if is_overloaded { self.share.halved() } else { self.share.raised() };
        (self.share != before).then_some(self.share)
    }

    /// Returns whether new requests are rejected.
    pub(super) fn is_shedding(&self) -> bool {
        self.is_shedding
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    /// Notes turns of `took` each, one after the other, for `time`.
    fn turns(admission: &mut Admission, now: &mut Instant, took: Duration, time: Duration) {
        let end = *now + time;
        while *now < end {
            *now += took;
            admission.note_turn(*now, took);
        }
    }

    #[test]
    fn a_few_long_turns_change_nothing() {
        let (mut admission, mut now) = (Admission::default(), epoch());
        for _ in 0..50 {
            turns(&mut admission, &mut now, 4 * TURN_TIME_MAX, 4 * TURN_TIME_MAX);
            turns(&mut admission, &mut now, Duration::from_millis(1), Duration::from_millis(1));
        }
        assert_eq!((admission.share, admission.is_shedding()), (StreamShare::default(), false));
    }

    #[test]
    fn long_turns_reduce_streams_then_reject_and_short_ones_undo_it() {
        let (mut admission, mut now) = (Admission::default(), epoch());
        let long = 2 * TURN_TIME_MAX;
        let second = Duration::from_secs(1);
        turns(&mut admission, &mut now, long, 4 * ADMISSION_INTERVAL);
        assert!((2..50).contains(&admission.share.of(100)), "{:?}", admission.share);
        assert!(!admission.is_shedding());
        turns(&mut admission, &mut now, long, 2 * second);
        assert_eq!(admission.share.of(100), 1);
        assert!(admission.is_shedding());
        turns(&mut admission, &mut now, TURN_TIME_MAX / 2, 3 * ADMISSION_INTERVAL);
        assert!(!admission.is_shedding());
        turns(&mut admission, &mut now, TURN_TIME_MAX / 2, 10 * second);
        assert_eq!(admission.share, StreamShare::default());
    }
}
