//! Demultiplexing: each datagram goes to its connection, or to the admission of a new one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use quinn_proto::{ConnectionEvent, ConnectionHandle, DatagramEvent, EcnCodepoint};

use super::connection::Phase;
use super::credit;
use super::engine::Engine;
use super::first_packets::{Waiting, Way};
use super::types::{Datagram, Local, Path, Transmit};
use crate::base::pressure::Pressure;
use crate::cid::CID_LEN;
use crate::limits::{RECEIVE_LEN_MAX, RESET_RATE_MAX};
use crate::metrics::HandshakeFailure;

/// Length of byte 0 and the connection id of a short header (RFC 9000 17.3).
const SHORT_HEADER_LEN: usize = 1 + CID_LEN;

/// Facts about a datagram, kept while quinn-proto has its bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) remote: SocketAddr,
    pub(super) local: Local,
    pub(super) len: usize,
    claims_handshake_only: bool,
}

impl Engine {
    /// Handles a received datagram. Returns how many bytes of its payload are copied for that, now
    /// or later: those of handshakes are.
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) -> usize {
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
            return 0;
        }
        if payload.len() > usize::from(RECEIVE_LEN_MAX) {
            self.stats.datagrams_too_long += 1;
            return 0;
        }
        let long = credit::has_long_header(&payload);
        let arrival = Arrival {
            remote,
            local: Local { socket, ip: local_ip },
            len: payload.len(),
            claims_handshake_only: long && credit::claims_handshake_only(&payload),
        };
        let ecn = EcnCodepoint::from_bits(ecn);
        if long {
            return self.take_long(now, arrival, ecn, &payload);
        }
        let id = payload.get(1..SHORT_HEADER_LEN);
        let id = id.and_then(|id| <[u8; CID_LEN]>::try_from(id).ok());
        let mut response = self.responses.buffer();
        let event = self.endpoint.handle(now, remote, local_ip, ecn, payload, &mut response);
        if event.is_none() && id.is_some_and(|id| !self.ids.is_ours(&id)) {
            self.stats.datagrams_foreign_id += 1;
            self.responses.give_back(response);
        } else {
            self.handle_event(now, event, response, arrival);
        }
        0
    }

    /// Handles a datagram with a long header now or later. Returns how many bytes are copied.
    fn take_long(
        &mut self,
        now: Instant,
        arrival: Arrival,
        ecn: Option<EcnCodepoint>,
        payload: &[u8],
    ) -> usize {
        match self.first_packets.way(&self.ids, payload) {
            Way::AtOnce => {
                self.handle_long(now, arrival, ecn, payload);
                payload.len()
            }
            Way::Deferred => {
                self.first_packets.defer(now, arrival, ecn, payload);
                2 * payload.len()
            }
            Way::Dropped => {
                self.stats.first_packets_dropped += 1;
                0
            }
        }
    }

    /// Handles the first packets that were deferred, as many as a turn has time for.
    pub(super) fn handle_deferred(&mut self, now: Instant) {
        self.first_packets.begin_turn();
        while let Some(Waiting { arrival, ecn, payload, .. }) = self.first_packets.next() {
            self.handle_long(now, arrival, ecn, &payload);
        }
    }

    fn handle_long(
        &mut self,
        now: Instant,
        arrival: Arrival,
        ecn: Option<EcnCodepoint>,
        payload: &[u8],
    ) {
        let mut response = self.responses.buffer();
        let event = self.route_long(now, arrival, ecn, payload, &mut response);
        self.handle_event(now, event, response, arrival);
    }

    fn handle_event(
        &mut self,
        now: Instant,
        event: Option<DatagramEvent>,
        response: Vec<u8>,
        arrival: Arrival,
    ) {
        match event {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                self.responses.give_back(response);
                self.handle_connection_event(now, handle, event, arrival);
            }
            Some(DatagramEvent::NewConnection(incoming)) => {
                self.handle_incoming(now, incoming, response, arrival);
            }
            Some(DatagramEvent::Response(transmit)) => {
                self.response(now, transmit, response, arrival.local.socket);
            }
            None => {
                self.stats.datagrams_dropped += 1;
                self.responses.give_back(response);
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
        let repeated = credit::initial(payload)
            .is_some_and(|initial| initial.destination == &connection.first_destination[..]);
        let taken_as_from = if unheard && repeated {
            // Should there be no room for it, the rate of new handshakes bounds its copies.
            self.moved_initials.insert(now, connection.first_destination);
            self.abandon(key, HandshakeFailure::Other);
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
        connection.unread.received(arrival.len);
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
        if connection.is_open() && !connection.is_heard && self.pressure == Pressure::None {
            connection.windows.grow(now, &mut connection.proto, &mut self.window_budget);
        }
        if !std::mem::replace(&mut connection.is_heard, true) {
            self.heard.push(key);
        }
        self.table.mark_dirty(key);
    }

    /// Queues a response that belongs to no connection and counts it by kind. Resets have a rate.
    pub(super) fn response(
        &mut self,
        now: Instant,
        transmit: quinn_proto::Transmit,
        bytes: Vec<u8>,
        socket: u16,
    ) {
        match bytes.first_chunk::<5>() {
            Some([_, 0, 0, 0, 0]) if credit::has_long_header(&bytes) => {
                self.stats.version_negotiations += 1;
            }
            // RFC 9000 17.2.5: type 3.
            Some([first, ..]) if credit::has_long_header(&bytes) && first >> 4 & 3 == 3 => {
                self.stats.retries += 1;
            }
            _ if credit::has_long_header(&bytes) => self.stats.initial_closes += 1,
            _ if !self.reset_rate.take(now, RESET_RATE_MAX, Duration::from_secs(1)) => {
                self.stats.responses_dropped += 1;
                return self.responses.give_back(bytes);
            }
            _ => self.stats.resets += 1,
        }
        let local = Local { socket, ip: transmit.src_ip };
        let path = Path { destination: transmit.destination, local };
        let transmit = Transmit::unmarked(&transmit, path);
        if !self.responses.push(transmit, bytes) {
            self.stats.responses_dropped += 1;
        }
    }
}
