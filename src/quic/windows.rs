//! Flow control windows that grow with the measured needs of a connection.
//!
//! Both windows bound memory that a client can make the gateway hold: response bytes until they are
//! acknowledged, request bytes until they are read. So they start small and grow only on evidence:
//!
//! - the **send window** follows the congestion window, which is the measured product of bandwidth
//!   and delay: twice as much keeps the sender busy while acknowledgements are on their way;
//! - the **receive window** doubles when half of it is read within one round trip. Padding, and
//!   data that nobody reads, are no evidence.
//!
//! All growth is taken from one budget per worker and returns to it when a connection ends. It does
//! not return before: the client may still have bytes held up to the window that it was given. A
//! connection gets at most an eighth of what is left, so some is always left for the next one.

use std::time::Instant;

use quinn_proto::{Connection, VarInt};

use crate::config;
use crate::limits::{RECEIVE_WINDOW_START, SEND_WINDOW_START};

/// Smallest step by which the send window grows.
const SEND_STEP_MIN: u64 = 128 * 1024;

/// A connection may have taken the budget's remainder divided by this.
const SHARE_OF_BUDGET: u64 = 8;

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct Windows {
    send: u64,
    send_max: u64,
    receive: u64,
    receive_max: u64,
    /// Bytes that both have taken from the worker's budget; they return when the connection ends.
    pub(super) taken: u64,
    round_start: Instant,
    /// Bytes of streams read in this round.
    round_read: u64,
}

impl Windows {
    pub(super) fn new(now: Instant, quic: &config::Quic) -> Self {
        Self {
            send: send_start(quic),
            send_max: u64::from(quic.send_window_max),
            receive: receive_start(quic),
            receive_max: u64::from(quic.receive_window_max),
            taken: 0,
            round_start: now,
            round_read: 0,
        }
    }

    /// Returns the send window, in bytes.
    pub(super) fn send(&self) -> u64 {
        self.send
    }

    /// Returns the receive window, in bytes.
    pub(super) fn receive(&self) -> u64 {
        self.receive
    }

    /// Counts `len` bytes of a stream that were read.
    pub(super) fn read(&mut self, len: usize) {
        self.round_read += len as u64;
    }

    /// Grows the windows as measured, once for all datagrams of a turn. `budget` is the number of
    /// bytes by which all connections of the worker may still grow.
    pub(super) fn grow(&mut self, now: Instant, connection: &mut Connection, budget: &mut u64) {
        let congestion_window = connection.congestion_state().window();
        if let Some(send) = self.grow_send(congestion_window, budget) {
            connection.set_send_window(send);
        }
        if now.saturating_duration_since(self.round_start) >= connection.rtt() {
            if let Some(receive) = self.grow_receive(budget) {
                // The ceiling comes from a u32.
                connection.set_receive_window(VarInt::from_u64(receive).unwrap_or(VarInt::MAX));
            }
            self.round_start = now;
            self.round_read = 0;
        }
    }

    fn grow_send(&mut self, congestion_window: u64, budget: &mut u64) -> Option<u64> {
        let wanted = congestion_window.saturating_mul(2).min(self.send_max);
        let step = wanted.saturating_sub(self.send);
        if step < SEND_STEP_MIN.min(self.send_max.saturating_sub(self.send)).max(1) {
            return None;
        }
        let step = self.take(step, budget)?;
        self.send += step;
        Some(self.send)
    }

    fn grow_receive(&mut self, budget: &mut u64) -> Option<u64> {
        if self.round_read < self.receive / 2 {
            return None;
        }
        let step =
            self.take(self.receive.min(self.receive_max.saturating_sub(self.receive)), budget)?;
        self.receive += step;
        Some(self.receive)
    }

    /// Takes up to `step` from the budget, within the connection's share of it; `None` if that is
    /// used up.
    fn take(&mut self, step: u64, budget: &mut u64) -> Option<u64> {
        let share = *budget / SHARE_OF_BUDGET;
        let step = step.min(share.saturating_sub(self.taken));
        if step == 0 {
            return None;
        }
        *budget -= step;
        self.taken += step;
        Some(step)
    }
}

pub(super) fn send_start(quic: &config::Quic) -> u64 {
    u64::from(SEND_WINDOW_START.min(quic.send_window_max))
}

pub(super) fn receive_start(quic: &config::Quic) -> u64 {
    u64::from(RECEIVE_WINDOW_START.min(quic.receive_window_max))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::{Congestion, Retry};

    const MIB: u64 = 1024 * 1024;
    const START: u64 = SEND_WINDOW_START as u64;

    fn quic(send_window_max: u32, receive_window_max: u32) -> config::Quic {
        config::Quic {
            retry: Retry::Never,
            congestion: Congestion::Cubic,
            max_connections: 1,
            connections_per_address: 100,
            half_open_per_address: 100,
            idle_timeout: Duration::from_secs(30),
            max_streams: 100,
            stream_receive_window: 1024 * 1024,
            receive_window_max,
            send_window_max,
        }
    }

    fn windows(quic: &config::Quic) -> Windows {
        Windows::new(crate::testing::epoch(), quic)
    }

    #[test]
    fn the_send_window_is_twice_the_congestion_window_between_its_bounds() {
        let mut windows = windows(&quic(6 << 20, 6 << 20));
        let mut budget = 100 * MIB;
        assert_eq!(windows.grow_send(MIB / 16, &mut budget), None, "never below its start");
        assert_eq!(windows.grow_send(MIB, &mut budget), Some(2 * MIB));
        assert_eq!(windows.grow_send(MIB + 1000, &mut budget), None, "not for a trifle");
        assert_eq!(windows.grow_send(MIB / 2, &mut budget), None, "it does not shrink");
        assert_eq!(windows.grow_send(100 * MIB, &mut budget), Some(6 * MIB));
        assert_eq!(windows.grow_send(u64::MAX, &mut budget), None);
        assert_eq!((windows.taken, budget), (6 * MIB - START, 94 * MIB + START));
    }

    #[test]
    fn the_receive_window_doubles_when_half_of_it_was_read_in_one_round() {
        let mut windows = windows(&quic(6 << 20, 4 << 20));
        let mut budget = 100 * MIB;
        windows.round_read = 767 * 1024;
        assert_eq!(windows.grow_receive(&mut budget), None);
        windows.round_read = 768 * 1024;
        assert_eq!(windows.grow_receive(&mut budget), Some(3 * MIB));
        assert_eq!(windows.grow_receive(&mut budget), None, "half of the new one is more");
        windows.round_read = 4 * MIB;
        assert_eq!(windows.grow_receive(&mut budget), Some(4 * MIB));
        assert_eq!(windows.grow_receive(&mut budget), None);
        assert_eq!(windows.taken + budget, 100 * MIB);
    }

    #[test]
    fn no_window_grows_past_the_budget_or_begins_past_its_ceiling() {
        let mut one = windows(&quic(6 << 20, 6 << 20));
        let mut budget = 8 * MIB;
        assert_eq!(one.grow_send(100 * MIB, &mut budget), Some(START + MIB));
        one.round_read = 100 * MIB;
        assert_eq!(one.grow_receive(&mut budget), None);
        assert_eq!(budget, 7 * MIB);
        let mut next = windows(&quic(6 << 20, 6 << 20));
        assert_eq!(next.grow_send(100 * MIB, &mut budget), Some(START + 7 * MIB / 8));
        let low = quic(64 << 10, 128 << 10);
        assert_eq!((send_start(&low), receive_start(&low)), (64 << 10, 128 << 10));
        let mut low = windows(&low);
        low.round_read = 100 * MIB;
        let mut budget = 100 * MIB;
        assert_eq!(low.grow_send(100 * MIB, &mut budget), None);
        assert_eq!(low.grow_receive(&mut budget), None);
        assert_eq!(budget, 100 * MIB);
    }
}
