//! How a connection ends in a drain (RFC 9114 5.2).
//!
//! ```text
//!                                            a grace later                  a grace later
//!  Serving --> Warned ----------------------> Told -------------------------> Leaving
//!              GOAWAY, largest id:            GOAWAY, first stream not seen:  closes once
//!              what is on its way is served   later requests are rejected     nothing is left
//! ```
//!
//! A grace is what a client needs to hear of it and to be heard: a request that was on its way when
//! the drain began is answered, and one that comes too late is rejected and may be sent elsewhere.
//! Closing at once would throw away the very GOAWAY, and a request under way with it.

use std::time::{Duration, Instant};

use super::Gateway;
use crate::deadlines::Deadlines;
use crate::http3::Code;
use crate::quic::ConnectionKey;

/// How far a connection has come to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Farewell {
    Serving,
    Warned,
    /// Requests from this stream on are rejected.
    Told {
        first_refused: u64,
    },
    /// The same; it closes once nothing is left.
    Leaving {
        first_refused: u64,
    },
}

impl Farewell {
    /// Whether a request on this stream is not processed any more.
    pub(super) fn refuses(self, stream: u64) -> bool {
        match self {
            Self::Serving | Self::Warned => false,
            Self::Told { first_refused } | Self::Leaving { first_refused } => {
                stream >= first_refused
            }
        }
    }
}

/// The drain, and when each connection takes its next step. Keys are indexes of connections.
#[derive(Default)]
pub(super) struct Farewells {
    /// When all is ended, in a drain.
    pub(super) end: Option<Instant>,
    steps: Deadlines,
}

impl Farewells {
    pub(super) fn next(&self) -> Option<Instant> {
        self.steps.next()
    }

    pub(super) fn forget(&mut self, key: ConnectionKey) {
        self.steps.clear(key.index());
    }
}

impl Gateway {
    /// Tells every client to go. Walks all connections: once, at the operator's word.
    pub(super) fn begin_farewells(&mut self, now: Instant) {
        for key in self.connections.keys() {
            self.begin_farewell(now, key);
        }
    }

    pub(super) fn begin_farewell(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.farewell != Farewell::Serving {
            return;
        }
        connection.farewell = Farewell::Warned;
        self.send_goaway(key, STREAM_ID_LARGEST);
        self.await_step(now, key);
    }

    /// Takes the steps whose time has come.
    pub(super) fn continue_farewells(&mut self, now: Instant) {
        if self.farewells.next().is_none_or(|at| at > now) {
            return;
        }
        // Requests that have come by now are told of first: they are still served.
        self.settle(now);
        while let Some(index) = self.farewells.steps.pop_due(now) {
            if let Some(key) = self.connections.key_at(index) {
                self.continue_farewell(now, key);
            }
        }
    }

    fn continue_farewell(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        match connection.farewell {
            Farewell::Serving | Farewell::Leaving { .. } => {}
            Farewell::Warned => {
                let first_refused = connection.next_request;
                connection.farewell = Farewell::Told { first_refused };
                self.send_goaway(key, first_refused);
                self.await_step(now, key);
            }
            Farewell::Told { first_refused } => {
                connection.farewell = Farewell::Leaving { first_refused };
                self.close_if_drained(now, key);
            }
        }
    }

    fn await_step(&mut self, now: Instant, key: ConnectionKey) {
        let rtt = self.engine.rtt(key).unwrap_or_default();
        let left =
            self.farewells.end.map_or(Duration::ZERO, |end| end.saturating_duration_since(now));
        self.farewells.steps.set(key.index(), now + grace(rtt, left));
    }

    /// Closes a connection that has been told to go, has had its time, and has nothing left.
    pub(super) fn close_if_drained(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if matches!(connection.farewell, Farewell::Leaving { .. }) && connection.is_quiet() {
            self.engine.close(now, key, Code::NoError.value(), b"");
        }
    }
}

/// What one step waits, where `left` is left of the drain: three round trips with the client's
/// delay of acknowledgements (25 ms, RFC 9000 18.2), so that one lost datagram is sent again in time.
fn grace(rtt: Duration, left: Duration) -> Duration {
    ((rtt + Duration::from_millis(25)) * 3).min(GRACE_MAX).min(left / 4)
}

/// Longest wait of one step: a client whose path is slower sends again elsewhere what gets lost.
const GRACE_MAX: Duration = Duration::from_secs(2);

/// The largest id of a client's bidirectional stream.
const STREAM_ID_LARGEST: u64 = (1 << 62) - 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grace_lasts_three_round_trips_and_never_long() {
        let ms = Duration::from_millis;
        let long = Duration::from_secs(30);
        assert_eq!(grace(ms(0), long), ms(75));
        assert_eq!(grace(ms(100), long), ms(375));
        assert_eq!(grace(ms(5_000), long), GRACE_MAX);
        assert_eq!(grace(ms(100), ms(400)), ms(100), "both steps fit into the drain, twice");
        assert_eq!(grace(ms(100), ms(0)), ms(0));
    }
}
