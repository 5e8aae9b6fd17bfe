//! Demultiplexing: each datagram goes to its connection, or to the decision about a new one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint, Incoming};

use super::connection::{Connection, Phase};
use super::credit::{self, Credit};
use super::engine::Engine;
use super::paths::Paths;
use super::types::{Datagram, Local, Path, Transmit};
use super::windows::Windows;
use crate::base::timers::Timer;
use crate::cid::CID_LEN;
use crate::config::Retry;
use crate::limits::{
    HALF_OPEN_COUNT_MAX, HALF_OPEN_RETRY_COUNT, HANDSHAKE_TIMEOUT, RECEIVE_LEN_MAX,
    UNVALIDATED_RATE_MAX,
};

/// Length of byte 0 and the connection id of a short header (RFC 9000 17.3).
const SHORT_HEADER_LEN: usize = 1 + CID_LEN;

/// Facts about a datagram, kept while quinn-proto has its bytes.
#[derive(Debug, Clone, Copy)]
struct Arrival {
    remote: SocketAddr,
    local: Local,
    len: usize,
    claims_handshake_only: bool,
}

impl Engine {
    /// Returns whether a datagram with this payload is copied when handled: those of handshakes
    /// are.
    pub fn copies(payload: &[u8]) -> bool {
        credit::has_long_header(payload)
    }

    /// Handles a received datagram.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        let Datagram { socket, mut remote, local_ip, ecn, payload } = datagram;
        if let SocketAddr::V6(remote) = &mut remote {
            // The flow label (RFC 6437) is not part of the address: the network may change it.
            remote.set_flowinfo(0);
        }
        self.stats.datagrams_in += 1;
        self.stats.bytes_in += payload.len() as u64;
        if remote.port() == 0 {
            // Forged: nothing can be sent to port 0, so a handshake could never complete.
            self.stats.datagrams_from_port_0 += 1;
            return;
        }
        if payload.len() > usize::from(RECEIVE_LEN_MAX) {
            self.stats.datagrams_too_long += 1;
            return;
        }
        let long = Self::copies(&payload);
        let arrival = Arrival {
            remote,
            local: Local { socket, ip: local_ip },
            len: payload.len(),
            claims_handshake_only: long && credit::claims_handshake_only(&payload),
        };
        let short_id = payload.get(1..SHORT_HEADER_LEN).filter(|_| !long);
        let short_id = short_id.and_then(|id| <[u8; CID_LEN]>::try_from(id).ok());
        let mut response = self.responses.buffer();
        let ecn = EcnCodepoint::from_bits(ecn);
        let event = if long {
            self.route_long(now, arrival, ecn, &payload, &mut response)
        } else {
            self.endpoint.handle(now, remote, local_ip, ecn, payload, &mut response)
        };
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                self.responses.give_back(response);
                self.handle_connection_event(now, handle, event, arrival);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.handle_incoming(now, incoming, response, arrival);
            }
            Some(DatagramEvent::Response(transmit)) => self.response(transmit, response, socket),
            None => {
                self.responses.give_back(response);
                if short_id.is_some_and(|id| !self.ids.is_ours(&id)) {
                    self.stats.datagrams_foreign_id += 1;
                } else {
                    self.stats.datagrams_dropped += 1;
                }
            }
        }
    }

    /// Passes a datagram of a handshake to quinn-proto, which drops it if it comes from another
    /// address than the first one. A NAT may rebind in the middle of a handshake:
    ///
    /// - A client that uses our connection id has received our response: its datagram is passed on
    ///   as if from the first address. quinn-proto sees it move with its first packet after the
    ///   handshake.
    /// - A client that repeats its first Initial has not: our response went to its old address. The
    ///   handshake starts again, and the new address is to be validated by Retry first: whoever has
    ///   seen that Initial can repeat it from any number of forged addresses.
    fn route_long(
        &mut self,
        now: Instant,
        arrival: Arrival,
        ecn: Option<EcnCodepoint>,
        payload: &[u8],
        response: &mut Vec<u8>,
    ) -> Option<DatagramEvent> {
        let Arrival { remote, local, .. } = arrival;
        // Copied: half-open connections may keep parts of these for seconds, and one kept byte
        // would pin a whole slot of the pool. They carry at most the part of a request that the
        // client sent along with its last handshake packet.
        let event = self.endpoint.handle(now, remote, local.ip, ecn, payload.into(), response);
        let Some(DatagramEvent::ConnectionEvent(handle, _)) = event else { return event };
        let Some((key, connection)) = self.table.at(handle.0) else { return event };
        let first = connection.proto.remote_address();
        if first == remote || !matches!(connection.phase, Phase::Handshaking { .. }) {
            return event;
        }
        let unheard = connection.proto.stats().frame_rx.acks == 0;
        let repeated =
            credit::initial_destination(payload) == Some(&connection.first_destination[..]);
        let taken_as_from = if unheard && repeated {
            // Should there be no room for it, the rate of new handshakes bounds its copies.
            self.moved_initials.insert(now, connection.first_destination);
            self.abandon(key);
            remote
        } else {
            first
        };
        self.endpoint.handle(now, taken_as_from, local.ip, ecn, payload.into(), response)
    }

    fn handle_connection_event(
        &mut self,
        now: Instant,
        handle: ConnectionHandle,
        event: ConnectionEvent,
        arrival: Arrival,
    ) {
        let Some((key, connection)) = self.table.at(handle.0) else {
            debug_assert!(false, "quinn-proto knows a connection that the engine does not");
            return;
        };
        // Collected only if the datagram's authenticity has consequences.
        let unproven = !connection.paths.is_proven();
        let unusual = unproven
            || connection.local != arrival.local
            || !connection.paths.is_at(arrival.remote);
        let before = unusual.then(|| connection.evidence());
        connection.proto.handle_event(event);
        let remote = connection.proto.remote_address();
        let moved = connection.follow(now);
        connection.moved_unasked |= moved;
        connection.paths.received(arrival.remote, arrival.local, arrival.len);
        if let Some(before) = before {
            let after = connection.evidence();
            let is_authentic = after.frame_count > before.frame_count;
            if is_authentic {
                let probes = after.path_challenge_count > before.path_challenge_count;
                connection.paths.heard(now, arrival.remote, probes);
            }
            if is_authentic && arrival.remote == remote {
                connection.local = arrival.local;
                let answered = !moved && after.path_response_count > before.path_response_count;
                if unproven && (answered || arrival.claims_handshake_only) {
                    connection.paths.prove();
                }
            }
        }
        connection.note_client();
        if connection.is_open() && !connection.is_heard {
            connection.windows.grow(now, &mut connection.proto, &mut self.window_budget);
        }
        if !std::mem::replace(&mut connection.is_heard, true) {
            self.heard.push(key);
        }
        self.table.mark_dirty(key);
    }

    /// Decides about a new connection. Each `Incoming` must be handed back to the endpoint by
    /// accept, refuse, retry or ignore: dropping one leaks its entry there.
    fn handle_incoming(
        &mut self,
        now: Instant,
        incoming: Incoming,
        mut response: Vec<u8>,
        arrival: Arrival,
    ) {
        let socket = arrival.local.socket;
        let index = self.listener_of(socket);
        let listener = &self.listeners[index];
        if !self.accepting || listener.count >= listener.count_max {
            self.stats.connections_refused += 1;
            let transmit = self.endpoint.refuse(incoming, &mut response);
            return self.response(transmit, response, socket);
        }
        if !incoming.remote_address_validated() {
            let has_moved = self.moved_initials.contains(incoming.orig_dst_cid());
            let retry = match listener.quic.retry {
                Retry::Never => false,
                Retry::Adaptive => {
                    has_moved
                        || self.half_open >= HALF_OPEN_RETRY_COUNT
                        || !self.is_within_rate(now)
                }
                Retry::Always => true,
            };
            if retry {
                return match self.endpoint.retry(incoming, &mut response) {
                    Ok(transmit) => self.response(transmit, response, socket),
                    Err(error) => {
                        // Not reached: an address with a Retry token is validated. Hand it back.
                        self.endpoint.ignore(error.into_incoming());
                        self.responses.give_back(response);
                    }
                };
            }
            let is_too_much =
                self.half_open >= HALF_OPEN_COUNT_MAX || has_moved && !self.is_within_rate(now);
            if is_too_much {
                self.stats.initials_dropped += 1;
                self.endpoint.ignore(incoming);
                return self.responses.give_back(response);
            }
        } else if !self.spent_tokens.insert(now, (arrival.remote, *incoming.orig_dst_cid())) {
            self.stats.tokens_replayed += 1;
            self.endpoint.ignore(incoming);
            return self.responses.give_back(response);
        }
        self.accept(now, incoming, response, arrival, index);
    }

    /// Returns false if too many handshakes with unvalidated addresses have begun of late.
    fn is_within_rate(&mut self, now: Instant) -> bool {
        self.unvalidated_rate.take(now, UNVALIDATED_RATE_MAX, Duration::from_secs(1))
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
        let server = Some(std::sync::Arc::clone(server));
        self.stats.handshakes_started += 1;
        let (handle, proto) = match self.endpoint.accept(incoming, now, &mut response, server) {
            Ok(accepted) => accepted,
            Err(error) => {
                self.stats.handshakes_failed += 1;
                return match error.response {
                    Some(transmit) => self.response(transmit, response, arrival.local.socket),
                    None => self.responses.give_back(response),
                };
            }
        };
        self.responses.give_back(response);
        listener.count += 1;
        self.half_open += 1;
        let connection = Connection {
            proto,
            listener: index,
            phase: Phase::Handshaking { deadline: now + HANDSHAKE_TIMEOUT },
            first_destination,
            local: arrival.local,
            paths: Paths::new(arrival.remote, credit),
            client: arrival.remote,
            windows: Windows::new(now, &listener.quic),
            timer: Timer::default(),
            moved_unasked: false,
            dirty: false,
            is_heard: false,
            lost_counted: 0,
        };
        let key = self.table.insert(handle.0, connection);
        self.table.mark_dirty(key);
        self.settle(now, key);
    }

    /// Queues a response that belongs to no connection and counts it by kind.
    fn response(&mut self, transmit: quinn_proto::Transmit, bytes: Vec<u8>, socket: u16) {
        match bytes.first_chunk::<5>() {
            Some([_, 0, 0, 0, 0]) if credit::has_long_header(&bytes) => {
                self.stats.version_negotiations += 1;
            }
            // RFC 9000 17.2.5: type 3.
            Some([first, ..]) if credit::has_long_header(&bytes) && first >> 4 & 3 == 3 => {
                self.stats.retries += 1;
            }
            _ if credit::has_long_header(&bytes) => self.stats.initial_closes += 1,
            _ => self.stats.resets += 1,
        }
        let local = Local { socket, ip: transmit.src_ip };
        let path = Path { destination: transmit.destination, local };
        let transmit = Transmit::new(&transmit, path);
        if !self.responses.push(transmit, bytes) {
            self.stats.responses_dropped += 1;
        }
    }
}
