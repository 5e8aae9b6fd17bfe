//! The HTTP/3 side of each connection: its control stream, its request streams, its end.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::audience::Audience;
use super::farewell::Farewell;
use super::reset_budget::ResetBudget;
use super::response::ResponseQueue;
use super::{Gateway, StreamRef};
use crate::http3::{self, Code, RequestHead, RequestStream, UniVerdict};
use crate::proxy::ExchangeKey;
use crate::quic::{ConnectionKey, Event, Read, ReadError, StreamId};

/// One client's connection, from the end of its handshake.
pub(super) struct Connection {
    pub(super) key: ConnectionKey,
    pub(super) server_name: Option<Arc<str>>,
    pub(super) listener: usize,
    pub(super) audience: Audience,
    http3: http3::Connection,
    control: Option<StreamId>,
    control_pending: VecDeque<Bytes>,
    /// Bytes of responses that wait for this connection to take them.
    pub(super) responses_len: usize,
    /// Request streams that either side has not ended. Boxed: a map keeps the room of its last
    /// entries, and most connections are idle.
    pub(super) streams: BTreeMap<StreamId, Box<Stream>>,
    /// Finished responses that the client has not acknowledged whole.
    unacknowledged_count: usize,
    pub(super) farewell: Farewell,
    /// The first request stream that was not seen.
    pub(super) next_request: u64,
    resets: ResetBudget,
}

impl Connection {
    /// Whether no request is open, and the client has every response whole.
    pub(super) fn is_quiet(&self) -> bool {
        self.streams.is_empty() && self.unacknowledged_count == 0
    }
}

/// One request stream.
pub(super) struct Stream {
    pub(super) request: RequestStream,
    /// A decoded head, until it is known whether the request ends with it.
    pub(super) head: Option<RequestHead>,
    pub(super) trailers: Option<http3::Fields>,
    pub(super) exchange: Option<ExchangeKey>,
    pub(super) intake: Intake,
    pub(super) response: ResponseQueue,
    /// The response was finished or reset.
    pub(super) answered: bool,
}

/// What becomes of further request bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Intake {
    /// They are read as room allows.
    Open,
    /// None come: the client ended or reset its side, or was told to stop.
    Closed,
}

impl Stream {
    fn new() -> Self {
        Self {
            request: RequestStream::new(),
            head: None,
            trailers: None,
            exchange: None,
            intake: Intake::Open,
            response: ResponseQueue::new(),
            answered: false,
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.answered && self.intake == Intake::Closed
    }
}

/// All connections, by the index of their key.
#[derive(Default)]
pub(super) struct Connections {
    slots: Vec<Option<Connection>>,
    count: usize,
}

impl Connections {
    pub(super) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.slots.get_mut(key.index())?.as_mut().filter(|connection| connection.key == key)
    }

    pub(super) fn stream_mut(&mut self, at: StreamRef) -> Option<&mut Stream> {
        self.get_mut(at.connection)?.streams.get_mut(&at.stream).map(Box::as_mut)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn insert(&mut self, connection: Connection) {
        let index = connection.key.index();
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        assert!(self.slots[index].is_none(), "the engine reuses an index only after Closed");
        self.slots[index] = Some(connection);
        self.count += 1;
    }

    fn remove(&mut self, key: ConnectionKey) -> Option<Connection> {
        self.get_mut(key)?;
        self.count -= 1;
        self.slots[key.index()].take()
    }

    pub(super) fn key_at(&self, index: usize) -> Option<ConnectionKey> {
        Some(self.slots.get(index)?.as_ref()?.key)
    }

    pub(super) fn keys(&self) -> Vec<ConnectionKey> {
        self.slots.iter().flatten().map(|connection| connection.key).collect()
    }
}

impl Gateway {
    pub(super) fn handle_engine_event(&mut self, now: Instant, key: ConnectionKey, event: Event) {
        match event {
            Event::Connected { server_name, socket } => {
                self.open_connection(now, key, server_name, socket);
            }
            Event::StreamOpened(id) if is_request(id) => self.open_request(now, key, id),
            Event::StreamOpened(id) => self.read_uni(now, key, id),
            Event::Readable(id) if is_request(id) => {
                self.read_request(now, StreamRef { connection: key, stream: id });
            }
            Event::Readable(id) => self.read_uni(now, key, id),
            Event::Writable(id) => self.handle_writable(now, key, id),
            Event::SendFinished(id) => self.handle_acknowledged(now, key, id),
            Event::Stopped(id, code) => self.handle_stopped(now, key, id, code),
            Event::Closed(reason) => {
                self.counts.note_closed(&reason);
                self.forget_connection(now, key);
            }
        }
    }

    fn open_connection(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        server_name: Option<String>,
        socket: u16,
    ) {
        let http3 = http3::Connection::new(&self.settings);
        let control_pending = VecDeque::from([http3.control_preface()]);
        // RFC 9114 6.2: a client must allow at least three unidirectional streams.
        let Some(control) = self.engine.open_uni(key) else {
            let reason = b"no credit for the control stream (RFC 9114 6.2)";
            self.engine.close(now, key, Code::GeneralProtocolError.value(), reason);
            return;
        };
        self.connections.insert(Connection {
            key,
            server_name: server_name.map(Arc::from),
            listener: self.socket_listeners[usize::from(socket)],
            audience: Audience::new(self.tls.clone()),
            http3,
            control: Some(control),
            control_pending,
            responses_len: 0,
            streams: BTreeMap::new(),
            unacknowledged_count: 0,
            farewell: Farewell::Serving,
            next_request: 0,
            resets: ResetBudget::new(now, self.reset_count_max),
        });
        self.write_control(key);
        if self.farewells.end.is_some() {
            self.begin_farewell(now, key);
        }
    }

    fn open_request(&mut self, now: Instant, key: ConnectionKey, id: StreamId) {
        let at = StreamRef { connection: key, stream: id };
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.next_request = connection.next_request.max(u64::from(id) + 4);
        if connection.farewell.refuses(id.into()) {
            // RFC 9114 5.2: not processed in any way, so the client may send it again elsewhere.
            self.stop_sending(at, Code::RequestRejected);
            self.reset(at, Code::RequestRejected);
            return;
        }
        connection.streams.insert(id, Box::new(Stream::new()));
        self.counts.http3.streams_opened += 1;
        self.read_request(now, at);
        let waits = self.connections.stream_mut(at).is_some_and(|stream| {
            stream.intake == Intake::Open && stream.exchange.is_none() && !stream.answered
        });
        if waits {
            self.heads.push(now, at);
        }
    }

    fn read_uni(&mut self, now: Instant, key: ConnectionKey, id: StreamId) {
        loop {
            let mut chunks = Vec::new();
            let read = self.engine.read(key, id, UNI_READ_LEN_MAX, |chunk| chunks.push(chunk));
            let Some(connection) = self.connections.get_mut(key) else { return };
            for chunk in chunks {
                match connection.http3.handle_uni(id.into(), chunk) {
                    Ok(UniVerdict::Continue) => {}
                    Ok(UniVerdict::StopSending(code)) => {
                        self.stop_sending(StreamRef { connection: key, stream: id }, code);
                        return;
                    }
                    Err(error) => return self.close_on_error(now, key, Err(error)),
                }
            }
            let closed = match read {
                Ok(Read::Full) => continue,
                Ok(Read::Blocked) | Err(ReadError::Gone) => return,
                Ok(Read::End) => connection.http3.handle_uni_end(id.into()),
                Err(ReadError::Reset(_)) => connection.http3.handle_uni_reset(id.into()),
            };
            return self.close_on_error(now, key, closed);
        }
    }

    pub(super) fn close_on_error(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        outcome: Result<(), http3::ConnectionError>,
    ) {
        if let Err(error) = outcome {
            let counts = &mut self.counts.http3;
            match error.code {
                Code::ExcessiveLoad => counts.excessive_load += 1,
                _ => counts.connection_errors += 1,
            }
            self.engine.close(now, key, error.code.value(), error.rule.as_bytes());
        }
    }

    fn handle_writable(&mut self, now: Instant, key: ConnectionKey, id: StreamId) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.control == Some(id) {
            self.write_control(key);
        } else {
            self.write_response(now, StreamRef { connection: key, stream: id });
        }
    }

    fn write_control(&mut self, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Some(control) = connection.control else { return };
        let pieces = connection.control_pending.make_contiguous();
        if let Ok(written) = self.engine.write(key, control, pieces) {
            connection.control_pending.drain(..written.pieces);
        }
    }

    fn handle_acknowledged(&mut self, now: Instant, key: ConnectionKey, id: StreamId) {
        if !is_request(id) {
            return;
        }
        if let Some(connection) = self.connections.get_mut(key) {
            connection.unacknowledged_count = connection.unacknowledged_count.saturating_sub(1);
        }
        self.close_if_drained(now, key);
    }

    fn handle_stopped(&mut self, now: Instant, key: ConnectionKey, id: StreamId, code: u64) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.control == Some(id) {
            let closed = Err(http3::ConnectionError {
                code: Code::ClosedCriticalStream,
                rule: "the control stream must not be stopped (RFC 9114 6.2.1)",
            });
            return self.close_on_error(now, key, closed);
        }
        if connection.streams.contains_key(&id) {
            self.counts.http3.streams_cancelled += 1;
            self.abandon(now, StreamRef { connection: key, stream: id }, Code::RequestCancelled);
            self.charge_reset(now, key);
        } else {
            // The response was finished but not acknowledged: RFC 9000 3.5 wants a reset.
            connection.unacknowledged_count = connection.unacknowledged_count.saturating_sub(1);
            let _gone = self.engine.reset(key, id, code);
            self.close_if_drained(now, key);
        }
    }

    /// Asks the client to send no more on a stream. One that is gone has nothing more to send.
    pub(super) fn stop_sending(&mut self, at: StreamRef, code: Code) {
        let _gone = self.engine.stop_sending(at.connection, at.stream, code.value());
    }

    /// Cuts off our side of a stream. One that is gone is cut off already.
    fn reset(&mut self, at: StreamRef, code: Code) {
        let _gone = self.engine.reset(at.connection, at.stream, code.value());
    }

    /// Ends both sides of a stream with `code`; its exchange is told.
    pub(super) fn abandon(&mut self, now: Instant, at: StreamRef, code: Code) {
        let Some(connection) = self.connections.get_mut(at.connection) else { return };
        let Some(stream) = connection.streams.remove(&at.stream) else { return };
        self.discharge_response(at.connection, stream.response.pending_len());
        if stream.intake == Intake::Open {
            self.stop_sending(at, code);
        }
        if !stream.answered {
            self.counts.http3.streams_reset += 1;
            self.reset(at, code);
            if let Some(exchange) = stream.exchange {
                self.proxy.handle_abort(now, exchange);
            }
        }
        self.close_if_drained(now, at.connection);
    }

    /// A request of the client's came to nothing by its own doing: too many of them end the
    /// connection (RFC 9114 8.1, 10.5).
    pub(super) fn charge_reset(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.resets.charge(now, self.reset_count_max) {
            let closed = Err(http3::ConnectionError {
                code: Code::ExcessiveLoad,
                rule: "too many requests that come to nothing",
            });
            self.close_on_error(now, key, closed);
        }
    }

    /// Counts a finished response and forgets the stream when its request has ended too.
    pub(super) fn finish_response(&mut self, now: Instant, at: StreamRef) {
        let finished = self.engine.finish(at.connection, at.stream).is_ok();
        let Some(connection) = self.connections.get_mut(at.connection) else { return };
        connection.unacknowledged_count += usize::from(finished);
        connection.resets.give_back(self.reset_count_max);
        if let Some(stream) = connection.streams.get_mut(&at.stream) {
            stream.answered = true;
        }
        self.forget_if_over(now, at);
    }

    pub(super) fn forget_if_over(&mut self, now: Instant, at: StreamRef) {
        let Some(connection) = self.connections.get_mut(at.connection) else { return };
        if connection.streams.get(&at.stream).is_some_and(|stream| stream.is_over()) {
            connection.streams.remove(&at.stream);
            self.close_if_drained(now, at.connection);
        }
    }

    fn forget_connection(&mut self, now: Instant, key: ConnectionKey) {
        let Some(connection) = self.connections.remove(key) else { return };
        self.farewells.forget(key);
        self.responses.forget(connection.responses_len);
        for stream in connection.streams.into_values() {
            if let (Some(exchange), false) = (stream.exchange, stream.answered) {
                self.proxy.handle_abort(now, exchange);
            }
        }
    }

    /// Tells the client which requests will not be served (RFC 9114 5.2).
    pub(super) fn send_goaway(&mut self, key: ConnectionKey, first_refused: u64) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let frame = connection.http3.goaway(first_refused);
        connection.control_pending.push_back(frame);
        self.write_control(key);
    }
}

/// Client-initiated bidirectional streams carry requests (RFC 9114 6.1).
fn is_request(stream: StreamId) -> bool {
    stream.is_bidirectional() && stream.is_from_client()
}

/// Bytes of a unidirectional stream read at a time.
const UNI_READ_LEN_MAX: usize = 16 * 1024;
