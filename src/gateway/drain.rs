//! The drain (graceful shutdown) of a connection (RFC 9114 5.2).
//!
//! ```text
//!                                            a grace later                  a grace later
//!  Serving --> Warned ----------------------> Refusing ---------------------> Leaving
//!              GOAWAY, largest id:            GOAWAY, first stream not seen:  closes once
//!              requests under way are served  later requests are rejected     nothing is left
//! ```
//!
//! A grace is long enough for the GOAWAY to reach the client and for its requests in flight to
//! reach us: a request that was under way when the drain began is served, and one that comes too
//! late is rejected and may be sent elsewhere. Closing at once would lose both the GOAWAY and the
//! requests under way.

use std::time::{Duration, Instant};

use super::Owner;
use super::connection::Connection;
use super::context::Context;
use crate::base::timers::Timer;
use crate::http3::Code;
use crate::quic::ConnectionKey;

/// The drain of one connection, and the time of its next step.
#[derive(Default)]
pub(super) struct Drain {
    phase: Phase,
    timer: Timer,
    /// When everything left is closed.
    end: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Phase {
    #[default]
    Serving,
    /// All requests are still served.
    Warned,
    /// Requests from this stream on are rejected.
    Refusing { first_refused: u64 },
    /// As `Refusing`, and the connection closes once nothing is left.
    Leaving { first_refused: u64 },
}

impl Drain {
    /// Returns whether a request on this stream is no longer processed.
    pub(super) fn refuses(&self, stream: u64) -> bool {
        match self.phase {
            Phase::Serving | Phase::Warned => false,
            Phase::Refusing { first_refused } | Phase::Leaving { first_refused } => {
                stream >= first_refused
            }
        }
    }

    /// Clears the timer before the connection is dropped.
    pub(super) fn clear(&mut self, cx: &mut Context<'_>) {
        cx.shared.timers.clear(&mut self.timer);
    }

    fn await_step(&mut self, key: ConnectionKey, cx: &mut Context<'_>) {
        let rtt = cx.engine.rtt(key).unwrap_or_default();
        let left = self.end.map_or(Duration::ZERO, |end| end.saturating_duration_since(cx.now));
        cx.shared.timers.set(&mut self.timer, cx.now + grace(rtt, left), Owner::Drain(key));
    }
}

impl Connection {
    /// Sends the first GOAWAY, unless the drain has begun already. What is left is closed at `end`,
    /// or earlier.
    pub(super) fn begin_drain(&mut self, end: Instant, cx: &mut Context<'_>) {
        self.drain.end = Some(self.drain.end.map_or(end, |earlier| earlier.min(end)));
        if self.drain.phase == Phase::Serving {
            self.drain.phase = Phase::Warned;
            self.control.send_goaway(self.client.key, STREAM_ID_LARGEST, cx);
            self.drain.await_step(self.client.key, cx);
        }
    }

    /// Takes the next step of the drain, if it is due.
    pub(super) fn handle_drain_timer(&mut self, cx: &mut Context<'_>) {
        let owner = Owner::Drain(self.client.key);
        if !cx.shared.timers.fires(&mut self.drain.timer, cx.now, owner) {
            return;
        }
        match self.drain.phase {
            Phase::Serving | Phase::Leaving { .. } => {}
            Phase::Warned => {
                let first_refused = self.next_request;
                self.drain.phase = Phase::Refusing { first_refused };
                self.control.send_goaway(self.client.key, first_refused, cx);
                self.drain.await_step(self.client.key, cx);
            }
            Phase::Refusing { first_refused } => {
                self.drain.phase = Phase::Leaving { first_refused };
                self.close_if_drained(cx);
            }
        }
    }

    /// Closes the connection if its drain has reached `Leaving` and nothing is left.
    pub(super) fn close_if_drained(&mut self, cx: &mut Context<'_>) {
        if matches!(self.drain.phase, Phase::Leaving { .. }) && self.is_quiet() {
            cx.engine.close(cx.now, self.client.key, Code::NoError.value(), b"");
        }
    }
}

/// Returns the duration of one step, with `left` until the end of the drain: three round trips,
/// each with the client's acknowledgement delay (25 ms, RFC 9000 18.2), so that one lost datagram
/// is retransmitted in time.
fn grace(rtt: Duration, left: Duration) -> Duration {
    ((rtt + Duration::from_millis(25)) * 3).min(GRACE_MAX).min(left / 4)
}

/// Longest duration of one step. A client on a slower path may lose requests, and retries them
/// elsewhere.
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
