//! The engine: quinn-proto's endpoint, its connections, and the processing of each input.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use quinn_proto::{ConnectionHandle, ConnectionId, Endpoint, EndpointEvent, VarInt};

use super::cid::WorkerIds;
use super::congestion;
use super::connection::{Connection, Phase};
use super::failed_handshake::{FailedHandshake, reason_of};
use super::first_packets::FirstPackets;
use super::recent::Recent;
use super::responses::Responses;
use super::settings::{EngineChange, EngineError, EngineSettings, Listener};
use super::table::{ConnectionKey, Table};
use super::translation::translate;
use super::types::{CloseReason, ConnectionCounts, Event, Path, Transmit};
use super::used_tokens::UsedTokens;
use crate::base::pressure::Pressure;
use crate::base::shares::Shares;
use crate::base::stream_share::StreamShare;
use crate::base::timers::Timers;
use crate::base::token_bucket::TokenBucket;
use crate::limits::{DATAGRAM_LEN_MAX, HALF_OPEN_RETRY_COUNT, SEGMENT_COUNT_MAX};
use crate::metrics::{HandshakeFailure, QuicCounters};

/// The QUIC side of one worker: all sockets, all listeners, all connections.
pub struct Engine {
    settings: EngineSettings,
    pub(super) endpoint: Endpoint,
    /// Recognizes our ids; the endpoint has its own copy, which generates them.
    pub(super) ids: WorkerIds,
    pub(super) listeners: Vec<Listener>,
    /// The listener of each socket, by the socket's number; `None` if a reload has removed it.
    sockets: Vec<Option<usize>>,
    pub(super) table: Table,
    timers: Timers<ConnectionKey>,
    events: VecDeque<(ConnectionKey, Event)>,
    pub(super) failed_handshakes: VecDeque<FailedHandshake>,
    pub(super) first_packets: FirstPackets,
    pub(super) responses: Responses,
    /// The connections that never became open and are not gone.
    pub(super) half_open: Shares,
    /// The number of connections between `Connected` and `Closed`.
    pub(super) open: usize,
    /// New connections are accepted; false in a drain.
    pub(super) accepting: bool,
    /// Bytes that the windows of all connections together may still grow by.
    pub(super) window_budget: u64,
    pub(super) pressure: Pressure,
    /// The part of its request streams that a connection may have.
    stream_share: StreamShare,
    /// Limits handshakes with unvalidated addresses.
    pub(super) unvalidated_rate: TokenBucket,
    /// Limits stateless resets.
    pub(super) reset_rate: TokenBucket,
    /// Retry tokens that were used: the client's address, and the destination of its first Initial.
    pub(super) spent_tokens: Recent<(SocketAddr, ConnectionId)>,
    /// NEW_TOKEN tokens that were used.
    used_tokens: Arc<UsedTokens>,
    /// Destinations of first Initials that came from a second address.
    pub(super) moved_initials: Recent<ConnectionId>,
    pub(super) stats: QuicCounters,
    /// Connections that received datagrams since they were last settled.
    pub(super) heard: Vec<ConnectionKey>,
    /// Scratch memory of [`Engine::handle_timeout`].
    due: Vec<ConnectionKey>,
}

impl Engine {
    pub fn new(settings: EngineSettings) -> Result<Self, EngineError> {
        settings.check()?;
        let used_tokens = Arc::default();
        let listeners = settings
            .listeners
            .iter()
            .map(|listener| Listener::new(&settings, listener, &used_tokens))
            .collect::<Result<Vec<_>, _>>()?;
        // The settings used before a listener is known (tokens, Initial keys) are the same in all.
        let server = listeners.first().map(|listener| Arc::clone(&listener.over_ipv4));
        let endpoint = Endpoint::new(Arc::new(settings.endpoint()), server, true, None);
        Ok(Self {
            ids: settings.worker_ids(),
            window_budget: settings.window_budget_len,
            pressure: Pressure::None,
            stream_share: StreamShare::default(),
            endpoint,
            listeners,
            sockets: settings.sockets.iter().copied().map(Some).collect(),
            settings,
            table: Table::default(),
            timers: Timers::new(),
            events: VecDeque::new(),
            failed_handshakes: VecDeque::new(),
            first_packets: FirstPackets::default(),
            responses: Responses::default(),
            half_open: Shares::default(),
            unvalidated_rate: TokenBucket::default(),
            reset_rate: TokenBucket::default(),
            spent_tokens: Recent::default(),
            used_tokens,
            moved_initials: Recent::default(),
            open: 0,
            accepting: true,
            stats: QuicCounters::default(),
            due: Vec::new(),
            heard: Vec::new(),
        })
    }

    /// Sets the listeners and settings of new connections; existing connections keep theirs.
    /// Returns an error, with nothing changed, if the settings cannot be used.
    pub fn apply(&mut self, change: EngineChange) -> Result<(), EngineError> {
        let EngineChange { listeners, continued, sockets } = change;
        let mut made = listeners
            .iter()
            .map(|listener| Listener::new(&self.settings, listener, &self.used_tokens))
            .collect::<Result<Vec<_>, _>>()?;
        for (listener, earlier) in made.iter_mut().zip(&continued) {
            if let Some(earlier) = earlier {
                listener.connections = std::mem::take(&mut self.listeners[*earlier].connections);
            }
        }
        for key in self.table.keys() {
            let connection = self.table.get_mut(key).expect("it has just been listed");
            let earlier = connection.listener;
            connection.listener =
                earlier.and_then(|earlier| continued.iter().position(|one| *one == Some(earlier)));
        }
        self.endpoint.set_server_config(made.first().map(|made| Arc::clone(&made.over_ipv4)));
        self.listeners = made;
        self.settings.listeners = listeners;
        self.sockets = sockets;
        Ok(())
    }

    /// Returns when to call [`Engine::handle_timeout`] next. To be asked once
    /// [`Engine::poll_event`] has returned `None`. There may be nothing to do then.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.first_packets.deadline().into_iter().chain(self.timers.next()).min()
    }

    /// Begins a turn: handles first packets that were deferred, and the timers that are due, one
    /// per connection: a connection whose next deadline has passed too may have to send first, and
    /// is handled by the next call.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.handle_deferred(now);
        self.settle_heard(now);
        let mut due = std::mem::take(&mut self.due);
        while let Some(key) = self.timers.pop(now) {
            let Some(connection) = self.table.get_mut(key) else { continue };
            if self.timers.fires(&mut connection.timer, now, key) {
                due.push(key);
            }
        }
        for key in due.drain(..) {
            let Some(connection) = self.table.get_mut(key) else { continue };
            let are_few = self.half_open.total() < HALF_OPEN_RETRY_COUNT;
            if connection.is_out_of_time(now, are_few) {
                self.abandon(key, HandshakeFailure::TimedOut);
                continue;
            }
            if connection.moved_unasked {
                // quinn-proto's timer still belongs to packets sent to the old address, and
                // quinn-proto does not expect it on a path on which it has sent nothing. So it must
                // send first.
                self.settle(now, key);
                continue;
            }
            connection.proto.handle_timeout(now);
            connection.count(&mut self.stats);
            self.table.mark_dirty(key);
            self.settle(now, key);
        }
        self.due = due;
    }

    pub fn poll_event(&mut self, now: Instant) -> Option<(ConnectionKey, Event)> {
        self.settle_heard(now);
        self.events.pop_front()
    }

    /// Settles the connections that received datagrams, each once.
    fn settle_heard(&mut self, now: Instant) {
        if self.heard.is_empty() {
            return;
        }
        let mut heard = std::mem::take(&mut self.heard);
        for key in heard.drain(..) {
            if let Some(connection) = self.table.get_mut(key) {
                connection.is_heard = false;
                connection.stream_credit.update(now, self.stream_share, &mut connection.proto);
                if connection.is_open() && connection.unacknowledged.is_overdue(now) {
                    self.events.push_back((key, Event::Unacknowledged));
                }
                self.settle(now, key);
            }
        }
        self.heard = heard;
    }

    /// Writes the next datagrams into `buffer`: first the responses that belong to no connection,
    /// then those of one connection, which then goes to the end of the queue of senders.
    ///
    /// The buffer must be empty and have room for a datagram of the longest MTU. It is never
    /// reallocated: as many datagrams are built as fit.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        assert!(buffer.is_empty(), "a transmit buffer is handed in empty");
        assert!(
            buffer.capacity() >= usize::from(self.settings.mtu_max),
            "a transmit buffer has room for a datagram of the longest MTU"
        );
        self.settle_heard(now);
        let place = buffer.as_ptr();
        let transmit = match self.responses.pop(buffer) {
            Some(transmit) => Some(transmit),
            None => self.poll_connections(now, buffer),
        };
        assert_eq!(place, buffer.as_ptr(), "a transmit buffer stays where it is");
        let transmit = transmit?;
        debug_assert_eq!(transmit.len, buffer.len());
        let segment_len = transmit.segment_len.unwrap_or(transmit.len);
        self.stats.datagrams_out += transmit.len.div_ceil(segment_len) as u64;
        self.stats.bytes_out += transmit.len as u64;
        Some(transmit)
    }

    fn poll_connections(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        loop {
            let key = self.table.pop_dirty()?;
            let connection = self.table.get_mut(key)?;
            let outcome = build(connection, now, self.settings.mtu_max, buffer);
            // Timers (pacing, loss detection) change whether or not something was sent.
            match outcome {
                Built::Nothing if connection.phase == Phase::Failed => self.forget_early(key),
                Built::Nothing => self.settle(now, key),
                Built::Refused => {
                    self.stats.probes_dropped += 1;
                    buffer.clear();
                    self.table.mark_dirty(key);
                    self.settle(now, key);
                }
                Built::Some(transmit) => {
                    connection.unacknowledged.handle_datagram(|stream| {
                        self.events.push_back((key, Event::Writable(stream)));
                    });
                    self.table.mark_dirty(key);
                    self.settle(now, key);
                    return Some(transmit);
                }
            }
        }
    }

    pub fn counts(&self) -> ConnectionCounts {
        let handshaking = self.half_open.total();
        let closing = self.table.count() - self.open - handshaking;
        ConnectionCounts { open: self.open, handshaking, closing }
    }

    pub fn stats(&self) -> &QuicCounters {
        &self.stats
    }

    /// Sets how near the heap is to its budget. Under pressure no connection is accepted and no
    /// window grows.
    pub(crate) fn set_pressure(&mut self, pressure: Pressure) {
        self.pressure = pressure;
    }

    /// Sets the part of its request streams that each connection may have open at once. It holds
    /// for streams that a client may not open yet, from the next datagram of its connection on.
    pub(crate) fn set_stream_share(&mut self, share: StreamShare) {
        self.stream_share = share;
    }

    /// Refuses new connections (CONNECTION_REFUSED) from now on, for a drain.
    pub fn refuse_new(&mut self) {
        self.accepting = false;
    }

    /// Returns the bytes that windows may still grow by.
    pub fn window_budget_left(&self) -> u64 {
        self.window_budget
    }

    /// Returns the listener that accepts connections on a socket.
    pub(super) fn listener_of(&self, socket: u16) -> Option<usize> {
        self.sockets.get(usize::from(socket)).copied().flatten()
    }

    /// Returns whether a connection, closing ones included, sends from this socket. Looks at all
    /// connections.
    pub fn uses_socket(&self, socket: u16) -> bool {
        let mut connections = self.table.keys().into_iter().filter_map(|key| self.table.get(key));
        connections.any(|connection| connection.local.socket == socket)
    }

    pub(super) fn push_event(&mut self, key: ConnectionKey, event: Event) {
        self.events.push_back((key, event));
    }

    /// Processes a connection's events, passes events between it and the endpoint, and sets its
    /// timer. To be called after every input to the connection.
    pub(super) fn settle(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let (mut drained, mut failure) = (false, None);
        loop {
            while let Some(event) = connection.proto.poll() {
                let phase = connection.phase;
                let lost = match &event {
                    quinn_proto::Event::ConnectionLost { reason } => Some(reason_of(reason)),
                    _ => None,
                };
                translate(now, key, connection, event, &mut self.events);
                match (phase, connection.phase) {
                    (Phase::Handshaking { .. }, Phase::Open) => {
                        self.half_open.give_back(connection.address);
                        self.open += 1;
                        self.stats.handshakes_completed += 1;
                    }
                    (Phase::Handshaking { .. }, Phase::Failed) => failure = lost,
                    (Phase::Open, Phase::Closed { .. }) => self.open -= 1,
                    _ => {}
                }
            }
            let Some(event) = connection.proto.poll_endpoint_events() else { break };
            drained |= event.is_drained();
            let reply = self.endpoint.handle_event(ConnectionHandle(key.index()), event);
            if drained {
                break;
            }
            if let Some(reply) = reply {
                connection.proto.handle_event(reply);
            }
        }
        if let Some(reason) = failure {
            let client = connection.client;
            self.note_failed_handshake(client, reason);
        }
        if drained {
            return self.forget(key);
        }
        let Some(connection) = self.table.get_mut(key) else { return };
        if connection.is_open() {
            connection.turns.tell(|stream| self.events.push_back((key, Event::Writable(stream))));
        }
        connection.unread.settle();
        match connection.deadline() {
            Some(at) => self.timers.set(&mut connection.timer, at, key),
            None => connection.timer.disarm(),
        }
        if failure.is_some() {
            // Its close leaves, then it goes.
            self.table.mark_dirty(key);
        }
    }

    /// Closes a connection that the application does not know of.
    pub(super) fn close_handshaking(&mut self, now: Instant, key: ConnectionKey, code: u64) {
        let Some(connection) = self.table.get_mut(key) else { return };
        let code = VarInt::from_u64(code).unwrap_or_default();
        connection.proto.close(now, code, bytes::Bytes::new());
        connection.phase = Phase::Failed;
        let client = connection.client;
        self.note_failed_handshake(client, HandshakeFailure::Other);
        self.table.mark_dirty(key);
        self.settle(now, key);
    }

    /// Ends a connection without sending anything: the client is silent or has moved. If it has not
    /// become open, its handshake has failed for this reason.
    pub(super) fn abandon(&mut self, key: ConnectionKey, reason: HandshakeFailure) {
        if let Some(connection) = self.table.get_mut(key)
            && matches!(connection.phase, Phase::Handshaking { .. })
        {
            connection.phase = Phase::Failed;
            let client = connection.client;
            self.note_failed_handshake(client, reason);
        }
        self.forget_early(key);
    }

    /// Drops a connection that the endpoint has not dropped yet.
    fn forget_early(&mut self, key: ConnectionKey) {
        let drained = EndpointEvent::drained();
        let reply = self.endpoint.handle_event(ConnectionHandle(key.index()), drained);
        debug_assert!(reply.is_none(), "the connection is gone and takes no event");
        self.forget(key);
    }

    /// Drops a connection that the endpoint has dropped.
    fn forget(&mut self, key: ConnectionKey) {
        let Some(mut connection) = self.table.remove(key) else { return };
        self.timers.clear(&mut connection.timer);
        let phase = connection.phase;
        connection.count(&mut self.stats);
        self.window_budget += connection.windows.taken;
        let address = connection.address;
        if let Some(listener) = connection.listener {
            self.listeners[listener].connections.give_back(address);
        }
        match phase {
            Phase::Handshaking { .. } => {
                self.half_open.give_back(address);
                self.note_failed_handshake(connection.client, HandshakeFailure::Other);
            }
            Phase::Failed => self.half_open.give_back(address),
            // quinn-proto reports why an open connection ends. Should it not, the application must
            // still get its `Closed`.
            Phase::Open => {
                self.open -= 1;
                self.push_event(key, Event::Closed(CloseReason::Local { code: 0 }));
            }
            Phase::Closed { .. } => {}
        }
    }
}

/// The outcome of building datagrams for one connection.
enum Built {
    Nothing,
    Some(Transmit),
    /// A probe of another path that exceeds the anti-amplification limit of its address.
    Refused,
}

/// Lets a connection write into `buffer` within the anti-amplification limit of its address.
fn build(connection: &mut Connection, now: Instant, mtu_max: u16, buffer: &mut Vec<u8>) -> Built {
    connection.moved_unasked = false;
    let mtu = usize::from(connection.proto.current_mtu());
    let room = buffer.capacity().min(DATAGRAM_LEN_MAX) / mtu;
    connection.follow(now);
    // After the handshake, one datagram may be an MTU probe, which is longer than the MTU.
    let len = if connection.proto.is_handshaking() { mtu } else { mtu.max(mtu_max.into()) };
    let count = connection.paths.datagram_count(len, room.min(SEGMENT_COUNT_MAX));
    if count == 0 {
        // The client's next datagram raises the limit.
        return Built::Nothing;
    }
    if connection.proto.is_closed() {
        congestion::lift(&connection.proto);
    }
    let Some(transmit) = connection.proto.poll_transmit(now, count, buffer) else {
        buffer.clear();
        return Built::Nothing;
    };
    match connection.paths.send(transmit.destination, transmit.size, connection.local) {
        Some(path) => Built::Some(mark(connection, now, &transmit, path)),
        None => Built::Refused,
    }
}

/// Marks datagrams as quinn-proto wants it, unless marked ones get lost on their path.
fn mark(
    connection: &mut Connection,
    now: Instant,
    transmit: &quinn_proto::Transmit,
    path: Path,
) -> Transmit {
    let unmarked = Transmit::unmarked(transmit, path);
    match transmit.ecn {
        Some(codepoint) if connection.may_mark(now, path.destination) => {
            Transmit { ecn: codepoint as u8, ..unmarked }
        }
        _ => unmarked,
    }
}
