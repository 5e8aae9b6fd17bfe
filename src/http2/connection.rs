//! One connection: bytes in, events out; responses in, bytes out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::future::Future as _;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::{Builder, Handshake, SendResponse};
use http::{Request, StatusCode};

use super::error::{Closure, Code, ConnectionError};
use super::payload::Payload;
use super::stream::{Progress, Stream};
use super::wakers::Wakers;
use super::wire::{Io, SharedWire};
use super::{LocalSettings, error, head};
use crate::limits;
use crate::message::{FieldError, Fields, Head, Refusal, Understood};

/// An event of a connection. Streams have the numbers of their requests on the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A request. If it is `ended`, no `Body`, `Trailers` or `End` follows.
    Request { stream: u32, head: Box<Head>, ended: bool },
    /// A request that is well-formed and not accepted: respond with the refusal's status. Its body
    /// is dropped.
    Refused { stream: u32, refusal: Box<Refusal> },
    /// A request was malformed, which its head, body or trailers showed. Its stream has been reset.
    Malformed { stream: u32, rule: &'static str, understood: Understood },
    /// A piece of a request's body, never empty. Its length is to be released.
    Body { stream: u32, piece: Bytes },
    /// A request's trailers; its `End` follows.
    Trailers { stream: u32, fields: Fields },
    /// A request is complete.
    End { stream: u32 },
    /// A stream was reset by the client, or with the connection. A request that is cancelled before
    /// it could be handed out has no event but this.
    Reset { stream: u32, code: u32 },
    /// A response that was written in part may be written on.
    Writable { stream: u32 },
    /// The connection is over, and so are all its streams. The last event.
    Closed(Closure),
}

/// The server's side of one HTTP/2 connection.
///
/// The caller hands bytes over with [`handle`](Self::handle), polls events until there are none,
/// acts on them, and takes bytes for the client with [`take_output`](Self::take_output), after
/// which there may be events again. An action on a stream that is over does nothing: an event has
/// said so, or is about to.
#[derive(Debug)]
pub struct Connection {
    settings: LocalSettings,
    wire: SharedWire,
    state: State,
    wakers: Wakers,
    streams: BTreeMap<u32, Stream>,
    events: VecDeque<Event>,
    /// Streams whose responses wait for room in the connection's queue, in turn.
    waiting: VecDeque<u32>,
    /// Resets that may be those of a connection that fails: it cannot say so before its GOAWAY has
    /// room.
    doubtful: Vec<Event>,
    /// Streams whose responses have been written to their end, and not been output.
    leaving: BTreeSet<u32>,
    /// Streams whose responses have been output whole since they were last taken.
    ended: Vec<u32>,
    /// Bytes of all bodies that were handed out and not released.
    unreleased_len: usize,
}

enum State {
    Handshake(Box<Handshake<Io, Payload>>, Drain),
    /// With our reason for closing it, if we do.
    Open(Box<h2::server::Connection<Io, Payload>>, Option<ConnectionError>),
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Drain {
    No,
    /// To be begun when the handshake is over.
    Wanted,
}

impl Connection {
    pub fn new(settings: &LocalSettings) -> Self {
        let wire = SharedWire::default();
        let handshake = builder(settings).handshake(Io(SharedWire::clone(&wire)));
        let mut connection = Self {
            settings: *settings,
            wire,
            state: State::Handshake(Box::new(handshake), Drain::No),
            wakers: Wakers::new(),
            streams: BTreeMap::new(),
            events: VecDeque::new(),
            waiting: VecDeque::new(),
            doubtful: Vec::new(),
            leaving: BTreeSet::new(),
            ended: Vec::new(),
            unreleased_len: 0,
        };
        // Our SETTINGS are sent without waiting for the client's (RFC 9113 3.4).
        connection.wire.borrow_mut().set_room(SETTINGS_LEN_MAX);
        connection.drive();
        connection.wire.borrow_mut().set_room(0);
        connection
    }

    /// Handles the next bytes of the client.
    pub fn handle(&mut self, bytes: Bytes) {
        if !matches!(self.state, State::Closed) {
            self.wire.borrow_mut().push_input(bytes);
            self.wakers.set_connection_woken(true);
        }
    }

    /// Handles the end of the client's side of the transport.
    pub fn handle_end(&mut self) {
        self.wire.borrow_mut().end_input();
        self.wakers.set_connection_woken(true);
    }

    /// Returns whether to read from the client. If not, it takes too few of the bytes for it.
    pub fn wants_input(&self) -> bool {
        self.wire.borrow().input_len() < limits::HTTP2_INPUT_LEN_MAX
    }

    /// Returns the next event, or `None` until more bytes come or are taken.
    pub fn poll(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Some(event);
            }
            if let Some(number) = self.wakers.take_stream() {
                self.advance(number);
            } else if self.wakers.is_connection_woken() {
                self.drive();
            } else {
                // A reset makes room too.
                self.offer_room();
                if !self.wire.borrow().is_blocked() {
                    self.events.extend(self.doubtful.drain(..));
                }
                if self.events.is_empty() {
                    return None;
                }
            }
        }
    }

    /// Moves bytes for the client to `out`, at most `len_max`. Returns their number.
    pub fn take_output(&mut self, out: &mut Vec<Bytes>, len_max: usize) -> usize {
        let has_more = {
            let mut wire = self.wire.borrow_mut();
            let has_more = wire.is_blocked();
            wire.set_room(len_max);
            has_more
        };
        if has_more || self.wakers.is_connection_woken() {
            self.drive();
        }
        let len = self.wire.borrow_mut().take_output(out, len_max);
        let ended = self.wire.borrow_mut().take_ended();
        for number in ended {
            // Others are responses that `h2` makes by itself.
            if self.leaving.remove(&number) {
                self.act(number, Stream::note_output);
                self.ended.push(number);
            }
        }
        // A stream that is let go of calls the connection's waker, mostly for nothing.
        if self.wakers.is_connection_woken() {
            self.drive();
        }
        self.offer_room();
        len
    }

    /// Takes the numbers of the streams whose responses the output taken so far has completed.
    pub fn take_ended(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.ended)
    }

    /// Returns whether there are bytes for the client, or may be.
    pub fn has_output(&self) -> bool {
        let wire = self.wire.borrow();
        wire.output_len() > 0 || wire.is_blocked() || self.wakers.is_connection_woken()
    }

    /// Returns whether bytes of responses, or of frames behind them, wait to be taken.
    pub fn has_unwritten(&self) -> bool {
        let wire = self.wire.borrow();
        wire.output_len() > 0 || wire.queued_len() > 0 || wire.is_blocked()
    }

    /// Returns the number of bytes of bodies that were written and not taken.
    pub fn queued_len(&self) -> usize {
        self.wire.borrow().queued_len()
    }

    /// Gives a client credit for bytes of a request's body.
    pub fn release(&mut self, stream: u32, len: usize) {
        if let Some(stream) = self.streams.get_mut(&stream) {
            self.unreleased_len -= stream.release(len);
        }
    }

    /// Sends a response's head: interim (1xx other than 101), or final and once. If it has `ended`,
    /// nothing follows. The caller has removed connection-specific fields (RFC 9113 8.2.2).
    pub fn respond(&mut self, stream: u32, status: StatusCode, fields: Fields, ended: bool) {
        self.act(stream, |stream| stream.respond(status, fields, ended));
        self.note_leaving(stream);
    }

    /// Writes pieces of a response's body, as many bytes as there is room for. Returns their
    /// number; what is left of `pieces` is for the stream's next `Writable` event.
    pub fn write(&mut self, stream: u32, pieces: &mut VecDeque<Bytes>) -> usize {
        let number = stream;
        let Some(stream) = self.streams.get_mut(&number) else { return 0 };
        if self.wire.borrow().queued_len() >= limits::HTTP2_QUEUED_LEN_MAX {
            if stream.wait_for_room() {
                self.waiting.push_back(number);
            }
            return 0;
        }
        stream.write(pieces, &self.wire)
    }

    /// Ends a response, with trailers where there are any.
    pub fn finish(&mut self, stream: u32, trailers: Option<Fields>) {
        let wire = SharedWire::clone(&self.wire);
        self.act(stream, |stream| stream.finish(trailers, &wire));
        self.note_leaving(stream);
    }

    /// Drops the rest of a request. When its response is over and the request is not, the stream is
    /// reset with NO_ERROR (RFC 9113 8.1).
    pub fn stop_request(&mut self, stream: u32) {
        self.act(stream, Stream::stop_request);
    }

    /// Resets a stream. NO_ERROR after the end of the response lets that be written first.
    pub fn reset(&mut self, stream: u32, code: Code) {
        self.act(stream, |stream| {
            stream.reset(code);
            Progress::Over
        });
    }

    /// Begins to drain: a GOAWAY that names no stream, and when the client has acknowledged the
    /// PING behind it, one that names the last request that came (RFC 9113 6.8). The connection
    /// closes when those are over. A client that acknowledges nothing has to be closed.
    pub fn drain(&mut self) {
        match &mut self.state {
            State::Handshake(_, drain) => *drain = Drain::Wanted,
            State::Open(connection, _) => {
                connection.graceful_shutdown();
                self.wakers.set_connection_woken(true);
            }
            State::Closed => {}
        }
    }

    /// Closes the connection at once. Its GOAWAY is the last output, and its `Closed` event follows
    /// when that was taken.
    pub fn close(&mut self, error: ConnectionError) {
        match &mut self.state {
            State::Handshake(..) => self.end(Closure::Error(error)),
            State::Open(connection, reason) => {
                reason.get_or_insert(error);
                connection.abrupt_shutdown(error.code.reason());
                self.wakers.set_connection_woken(true);
            }
            State::Closed => {}
        }
    }

    /// Returns whether no request is open and no byte of a response waits.
    pub fn is_idle(&self) -> bool {
        let has_streams = match &self.state {
            State::Open(connection, _) => connection.has_streams(),
            State::Handshake(..) | State::Closed => false,
        };
        !has_streams && self.streams.is_empty() && !self.has_output()
    }

    /// Returns the number of bytes that the connection holds or lets others hold: bytes that were
    /// not read, bodies that were not released, responses that were not taken, and its state.
    pub fn held_len(&self) -> usize {
        let wire = self.wire.borrow();
        let streams_len = self.streams.len() * limits::STREAM_LEN;
        let bodies_len = self.unreleased_len + wire.queued_len();
        let wire_len = wire.input_len() + wire.output_len();
        limits::HTTP2_CONNECTION_LEN + streams_len + bodies_len + wire_len
    }

    fn act(&mut self, number: u32, action: impl FnOnce(&mut Stream) -> Progress) {
        if let Some(stream) = self.streams.get_mut(&number)
            && action(stream) == Progress::Over
        {
            self.forget(number);
        }
    }

    fn advance(&mut self, number: u32) {
        // The stream may be over since its waker was called.
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let before_len = stream.unreleased_len();
        let progress = stream.advance(&mut self.events, &self.settings);
        self.unreleased_len += stream.unreleased_len() - before_len;
        if progress == Progress::Over {
            self.forget(number);
            self.doubt_reset();
        }
    }

    /// Keeps the last event back if it is a reset that may be the connection's failure. Those of a
    /// failure are as many as there are streams at most.
    fn doubt_reset(&mut self) {
        let Some(Event::Reset { code, .. }) = self.events.back() else { return };
        let may_be_failure = error::ends_connections(*code) && self.wire.borrow().is_blocked();
        if may_be_failure && self.doubtful.len() < self.settings.stream_count_max as usize {
            self.doubtful.extend(self.events.pop_back());
        }
    }

    fn note_leaving(&mut self, number: u32) {
        if self.streams.get(&number).is_some_and(Stream::is_leaving) {
            self.leaving.insert(number);
        }
    }

    fn forget(&mut self, number: u32) {
        self.leaving.remove(&number);
        if let Some(stream) = self.streams.remove(&number) {
            self.unreleased_len -= stream.unreleased_len();
        }
    }

    /// Lets `h2` read what there is to read, and write what there is room for.
    fn drive(&mut self) {
        self.wakers.set_connection_woken(false);
        let waker = self.wakers.connection();
        let mut cx = Context::from_waker(&waker);
        loop {
            match &mut self.state {
                State::Handshake(handshake, drain) => {
                    match Pin::new(&mut **handshake).poll(&mut cx) {
                        Poll::Pending => return,
                        Poll::Ready(Ok(mut connection)) => {
                            if *drain == Drain::Wanted {
                                connection.graceful_shutdown();
                            }
                            self.state = State::Open(Box::new(connection), None);
                        }
                        Poll::Ready(Err(error)) => self.end(self.closure(&error)),
                    }
                }
                State::Open(connection, reason) => match connection.poll_accept(&mut cx) {
                    Poll::Pending => return,
                    Poll::Ready(Some(Ok((request, respond)))) => self.accept(request, respond),
                    Poll::Ready(Some(Err(error))) => self.end(self.closure(&error)),
                    Poll::Ready(None) => {
                        let closure = reason.map_or(Closure::Ended, Closure::Error);
                        self.end(closure);
                    }
                },
                State::Closed => {
                    self.wire.borrow_mut().drop_input();
                    return;
                }
            }
        }
    }

    fn closure(&self, error: &h2::Error) -> Closure {
        Closure::of(error, self.wire.borrow().tail())
    }

    fn end(&mut self, closure: Closure) {
        self.state = State::Closed;
        self.streams.clear();
        self.waiting.clear();
        self.doubtful.clear();
        self.unreleased_len = 0;
        self.events.push_back(Event::Closed(closure));
    }

    fn accept(&mut self, request: Request<RecvStream>, mut respond: SendResponse<Payload>) {
        let number = respond.stream_id().as_u32();
        let waker = self.wakers.of_stream(number);
        if let Poll::Ready(reset) = respond.poll_reset(&mut Context::from_waker(&waker.waker)) {
            // An error is the connection's, which its own event reports.
            let reset = reset.ok().map(u32::from);
            self.events.extend(reset.map(|code| Event::Reset { stream: number, code }));
            self.doubt_reset();
            return;
        }
        let (parts, body) = request.into_parts();
        let ended = body.is_end_stream();
        let mut stream = Stream::new(waker, respond, body);
        match head::read_head(parts, &self.settings) {
            Ok(head) => {
                let head = Box::new(head);
                self.events.push_back(Event::Request { stream: number, head, ended });
            }
            Err(error) => match *error {
                (FieldError::Malformed(rule), understood) => {
                    stream.reset(Code::ProtocolError);
                    let event = Event::Malformed { stream: number, rule, understood };
                    self.events.push_back(event);
                    return;
                }
                (FieldError::Refused(mut refusal), understood) => {
                    refusal.understood = understood;
                    stream.stop_request();
                    self.events.push_back(Event::Refused { stream: number, refusal });
                }
            },
        }
        self.streams.insert(number, stream);
        // The body may be there, and its waker is called for what comes later only.
        self.advance(number);
    }

    /// Wakes the streams that wait for room if there is some. Each one looks again, and waits
    /// behind the others if it was taken.
    fn offer_room(&mut self) {
        if self.wire.borrow().queued_len() >= limits::HTTP2_QUEUED_LEN_MAX {
            return;
        }
        for number in std::mem::take(&mut self.waiting) {
            let stream = self.streams.get_mut(&number);
            if stream.is_some_and(Stream::end_wait_for_room) {
                self.events.push_back(Event::Writable { stream: number });
            }
        }
    }
}

/// Room for our SETTINGS frame.
const SETTINGS_LEN_MAX: usize = 128;

fn builder(settings: &LocalSettings) -> Builder {
    let mut builder = Builder::new();
    builder
        .max_concurrent_streams(settings.stream_count_max)
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        // `h2` responds by itself to what is longer, without a record. So it accepts twice as much,
        // and ours is the response to nearly all.
        .max_header_list_size(settings.fields.field_section_len_max.saturating_mul(2))
        .max_send_buffer_size(limits::HTTP2_STREAM_QUEUED_LEN_MAX)
        .max_pending_accept_reset_streams(limits::HTTP2_PENDING_RESET_COUNT_MAX)
        .max_local_error_reset_streams(Some(limits::HTTP2_ERROR_RESET_COUNT_MAX))
        .max_concurrent_reset_streams(limits::HTTP2_RESET_HELD_COUNT_MAX)
        .reset_stream_duration(limits::HTTP2_RESET_LINGER)
        .data_frame_budget(limits::HTTP2_SMALL_FRAMES_LEN_MAX);
    builder
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Handshake(..) => "Handshake",
            Self::Open(..) => "Open",
            Self::Closed => "Closed",
        })
    }
}
