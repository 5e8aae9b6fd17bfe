//! The admission of new connections: accepted, sent a Retry, refused or ignored.
//!
//! | the Initial | verdict |
//! |---|---|
//! | in a drain, or at a limit of all connections, of one client address or of memory | refused |
//! | its address is not validated, and there are many of those | Retry, which costs no memory |
//! | the same where Retry is off | ignored, from a point on |
//! | its address is validated, and has many handshakes in progress | refused |
//! | its Retry token was used before | ignored |
//!
//! Source addresses can be forged. So what an address that is not validated has in progress never
//! refuses another client of that address: it only has to prove itself.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quinn_proto::Incoming;

use super::congestion;
use super::connection::{Connection, Counted, Phase};
use super::credit::Credit;
use super::demux::Arrival;
use super::engine::Engine;
use super::failed_handshake::reason_of;
use super::held::{Unacknowledged, Unread};
use super::marks::Marks;
use super::paths::Paths;
use super::stream_credit::StreamCredit;
use super::turns::Turns;
use super::windows::Windows;
use crate::base::pressure::Pressure;
use crate::base::shares::ClientAddress;
use crate::base::timers::Timer;
use crate::config::Retry;
use crate::limits::{
    HALF_OPEN_COUNT_MAX, HALF_OPEN_RETRY_COUNT, HANDSHAKE_TIMEOUT, SLOW_HANDSHAKE_TIMEOUT,
    UNVALIDATED_RATE_MAX,
};
use crate::metrics::ConnectionRefusal;

/// The decision about an Initial that belongs to no connection.
enum Verdict {
    Accept,
    Retry,
    Refuse(ConnectionRefusal),
    /// No response: too many handshakes with unvalidated addresses are in progress.
    TooMany,
    /// No response: its Retry token was used before.
    Replayed,
}

impl Engine {
    /// Decides about a new connection. Each `Incoming` must be handed back to the endpoint by
    /// accept, refuse, retry or ignore: dropping one leaks its entry there.
    pub(super) fn handle_incoming(
        &mut self,
        now: Instant,
        incoming: Incoming,
        mut response: Vec<u8>,
        arrival: Arrival,
    ) {
        let socket = arrival.local.socket;
        let listener = self.listener_of(socket);
        self.stats.connection_attempts += 1;
        let verdict = match listener {
            Some(listener) => self.judge(now, &incoming, arrival, listener),
            None => Verdict::Refuse(ConnectionRefusal::Draining),
        };
        let ignored = match verdict {
            Verdict::Accept => {
                let listener = listener.expect("only a listener accepts");
                return self.accept(now, incoming, response, arrival, listener);
            }
            Verdict::Refuse(reason) => {
                self.stats.connections_refused.count(reason, 1);
                let transmit = self.endpoint.refuse(incoming, &mut response);
                return self.response(now, transmit, response, socket);
            }
            Verdict::Retry => match self.endpoint.retry(incoming, &mut response) {
                Ok(transmit) => return self.response(now, transmit, response, socket),
                // Not reached: an address with a Retry token is validated. Hand it back.
                Err(error) => error.into_incoming(),
            },
            Verdict::TooMany => {
                self.stats.initials_dropped += 1;
                incoming
            }
            Verdict::Replayed => {
                self.stats.tokens_replayed += 1;
                incoming
            }
        };
        self.endpoint.ignore(ignored);
        self.responses.give_back(response);
    }

    fn judge(
        &mut self,
        now: Instant,
        incoming: &Incoming,
        arrival: Arrival,
        listener: usize,
    ) -> Verdict {
        let address = ClientAddress::from(arrival.remote.ip());
        let listener = &self.listeners[listener];
        let retry = listener.quic.retry;
        if !self.accepting {
            return Verdict::Refuse(ConnectionRefusal::Draining);
        }
        if listener.connections.total() >= listener.count_max {
            return Verdict::Refuse(ConnectionRefusal::Limit);
        }
        if self.pressure != Pressure::None {
            return Verdict::Refuse(ConnectionRefusal::Memory);
        }
        // Half-open ones have a share of their own: a stranger may have forged the address.
        let held = listener.connections.held_by(address);
        let open_count = held.saturating_sub(self.half_open.held_by(address));
        if open_count >= listener.count_per_address_max {
            return Verdict::Refuse(ConnectionRefusal::Address);
        }
        let has_many_half_open = self.half_open.is_at(listener.half_open_per_address_max, address);
        if incoming.remote_address_validated() {
            if has_many_half_open {
                return Verdict::Refuse(ConnectionRefusal::Address);
            }
            let token = (arrival.remote, *incoming.orig_dst_cid());
            let is_new = self.spent_tokens.insert(now, token);
            return if is_new { Verdict::Accept } else { Verdict::Replayed };
        }
        let has_moved = self.moved_initials.contains(incoming.orig_dst_cid());
        let half_open_count = self.half_open.total();
        let needs_proof = match retry {
            Retry::Never => false,
            Retry::Adaptive => {
                let is_within_rate = self.is_within_rate(now);
                has_moved
                    || has_many_half_open
                    || half_open_count >= HALF_OPEN_RETRY_COUNT
                    || !is_within_rate
            }
            Retry::Always => true,
        };
        if needs_proof {
            Verdict::Retry
        } else if half_open_count >= HALF_OPEN_COUNT_MAX || has_moved && !self.is_within_rate(now) {
            Verdict::TooMany
        } else {
            Verdict::Accept
        }
    }

    /// Returns false if too many handshakes with unvalidated addresses were wanted of late. What is
    /// not granted counts too: in a flood nearly all of them are forged, so none begins until it
    /// has been quieter for a while.
    fn is_within_rate(&mut self, now: Instant) -> bool {
        let (max, fill_time) = (2 * UNVALIDATED_RATE_MAX, Duration::from_secs(2));
        self.unvalidated_rate.take(now, max, fill_time)
            && self.unvalidated_rate.left() >= UNVALIDATED_RATE_MAX
    }

    fn accept(
        &mut self,
        now: Instant,
        incoming: Incoming,
        mut response: Vec<u8>,
        arrival: Arrival,
        index: usize,
    ) {
        let mut credit = Credit::new(incoming.remote_address_validated());
        credit.received(arrival.len);
        let first_destination = *incoming.orig_dst_cid();
        let listener = &mut self.listeners[index];
        let server = listener.server(incoming.remote_address().ip());
        let server = Some(Arc::clone(server));
        self.stats.handshakes_started += 1;
        self.first_packets.handshake_began(incoming.remote_address_validated());
        let (handle, proto) = match self.endpoint.accept(incoming, now, &mut response, server) {
            Ok(accepted) => accepted,
            Err(error) => {
                self.note_failed_handshake(arrival.remote, reason_of(&error.cause));
                return match error.response {
                    Some(transmit) => self.response(now, transmit, response, arrival.local.socket),
                    None => self.responses.give_back(response),
                };
            }
        };
        self.responses.give_back(response);
        let address = ClientAddress::from(arrival.remote.ip());
        listener.connections.take(address);
        self.half_open.take(address);
        let connection = Connection {
            marks: Marks::new(arrival.remote, congestion::acknowledged(&proto)),
            proto,
            listener: Some(index),
            phase: Phase::Handshaking {
                deadline: now + HANDSHAKE_TIMEOUT,
                last_deadline: now + SLOW_HANDSHAKE_TIMEOUT,
            },
            first_destination,
            local: arrival.local,
            paths: Paths::new(arrival.remote, credit),
            client: arrival.remote,
            address,
            windows: Windows::new(now, &listener.quic),
            unacknowledged: Unacknowledged::default(),
            turns: Turns::default(),
            unread: Unread::default(),
            timer: Timer::default(),
            moved_unasked: false,
            dirty: false,
            is_heard: false,
            counted: Counted::default(),
            stream_credit: StreamCredit::new(listener.quic.max_streams),
        };
        let key = self.table.insert(handle.0, connection);
        self.table.mark_dirty(key);
        self.settle(now, key);
    }
}
