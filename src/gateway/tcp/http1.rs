//! HTTP/1.1 on a client's connection: one request after the other.
//!
//! ```text
//!             head complete            response and request over, both persist
//!  Awaiting ----------------> Serving ------------------------------------------> Awaiting
//!                                |  one of them does not persist
//!                                +------------------------------------> our side is closed
//! ```
//!
//! Bytes that follow a request (pipelining) are held and not read until its response is written; no
//! more are received meanwhile. A client that has closed its side only still gets the response:
//! some send their request and close, and a client that is gone is noticed by the first write.

use std::collections::VecDeque;
use std::time::Instant;

use bytes::Bytes;
use http::{Method, StatusCode};

use super::client::Client;
use super::request::Request;
use crate::gateway::context::Context;
use crate::http1::{Persistence, RequestDecoder, ResponseEncoder, Version};
use crate::limits::UPSTREAM_WRITE_PIECES_MAX;
use crate::message::{Ending, Head, Outcome, Protocol, Refusal, RequestEvent, Scheme};
use crate::metrics::StreamShed;
use crate::proxy::{DownstreamCommand, Proxy};

/// The HTTP/1.1 side of a connection.
pub(super) struct Http1 {
    decoder: RequestDecoder,
    request: Request,
    /// The number of the current request.
    number: u64,
    response: Response,
    /// The request was passed on to its end.
    is_passed: bool,
    /// The rest of the request is not read.
    is_stopped: bool,
    /// No more requests are read after this one.
    is_last: bool,
    /// The client has ended its side.
    has_ended: bool,
    /// Since when the current state lasts: the end of the last response, or the first byte of a
    /// head.
    since: Instant,
    /// Requests whose responses the output has completed since they were last taken.
    finished: Vec<u64>,
}

/// The response to the current request.
#[derive(Default)]
struct Response {
    /// Made when the request's version and method are known.
    encoder: Option<ResponseEncoder>,
    /// Encoded bytes that were not output.
    queue: VecDeque<Bytes>,
    /// Bytes that the kernel has not taken, framing included.
    pending_len: usize,
    /// Body bytes queued and not yet reported to the proxy as taken.
    body_untold_len: usize,
    has_ended: bool,
    /// Its completion was noted.
    is_finished: bool,
}

impl Http1 {
    pub(super) fn new(scheme: Scheme, now: Instant) -> Self {
        Self {
            decoder: RequestDecoder::new(scheme),
            request: Request::new(0),
            number: 0,
            response: Response::default(),
            is_passed: false,
            is_stopped: false,
            is_last: false,
            has_ended: false,
            since: now,
            finished: Vec::new(),
        }
    }

    /// Handles bytes of the client.
    pub(super) fn handle_data(&mut self, bytes: Bytes, now: Instant) {
        if self.is_idle() {
            self.since = now;
        }
        self.decoder.handle(bytes);
    }

    /// Handles the end of the client's side.
    pub(super) fn handle_end(&mut self) {
        self.has_ended = true;
    }

    /// Returns whether no request has begun.
    pub(super) fn is_idle(&self) -> bool {
        self.request.is_in_head() && !self.decoder.has_begun() && self.decoder.held_len() == 0
    }

    /// Returns whether a request has begun whose response is not whole.
    pub(super) fn has_request(&self) -> bool {
        !self.is_idle() && !self.is_served()
    }

    /// Returns whether the kernel has taken the whole response.
    fn is_served(&self) -> bool {
        self.response.has_ended && self.response.pending_len == 0
    }

    /// Returns whether a request's head is incomplete.
    pub(super) fn is_in_head(&self) -> bool {
        self.request.is_in_head() && !self.is_idle()
    }

    /// Returns since when the connection is idle, or in a head.
    pub(super) fn since(&self) -> Instant {
        self.since
    }

    /// Returns whether more bytes of the client are to be received.
    pub(super) fn wants_input(&self, proxy: &Proxy) -> bool {
        if self.has_ended || self.is_closing() {
            return false;
        }
        // Of a client that waits for its response, one receive notices that it leaves. Bytes of a
        // request that is not read on are held like those of the next request.
        let reads = !self.is_stopped && !self.decoder.is_done();
        self.decoder.held_len() == 0 || reads && self.request.body_room(proxy) > 0
    }

    /// Returns whether our side is to be closed: the last response is complete, or will never be.
    pub(super) fn is_closing(&self) -> bool {
        let ends_idle = self.request.is_in_head() && self.has_ended;
        self.is_served() && !self.persists() || ends_idle && self.is_idle()
    }

    /// Lets the current request be the last one.
    pub(super) fn drain(&mut self) {
        self.is_last = true;
    }

    /// Reads requests as far as the proxy takes them. Returns an error if the connection is to be
    /// broken off.
    pub(super) fn advance(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        loop {
            self.read(client, cx)?;
            let is_over = self.decoder.is_done() && self.response.has_ended;
            if !is_over || self.response.pending_len > 0 || !self.persists() {
                return Ok(());
            }
            self.start_next(cx.now);
        }
    }

    fn start_next(&mut self, now: Instant) {
        self.note_finished();
        self.decoder.start_next();
        self.number += 1;
        self.request = Request::new(self.number);
        self.response = Response::default();
        self.is_passed = false;
        self.since = now;
    }

    fn persists(&self) -> bool {
        !self.is_last && !self.is_stopped && self.decoder.persistence() == Persistence::KeepAlive
    }

    fn read(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Result<(), Ending> {
        if self.is_stopped || self.is_passed || self.is_deferred(client) {
            return Ok(());
        }
        let mut body = std::mem::take(&mut cx.shared.body);
        let mut room = self.request.body_room(cx.proxy);
        let outcome = loop {
            if room == 0 {
                break Ok(());
            }
            match self.decoder.poll(&cx.shared.settings.http3) {
                Ok(Some(RequestEvent::Head(head))) => {
                    self.take_head(head, client);
                    if let Some(reason) = cx.shed_reason() {
                        self.shed(reason, client, cx);
                        break Ok(());
                    }
                    if self.is_deferred(client) {
                        break Ok(());
                    }
                }
                Ok(Some(RequestEvent::Body(piece))) => {
                    room = room.saturating_sub(piece.len());
                    body.push(piece);
                }
                Ok(Some(RequestEvent::Trailers(fields))) => self.request.set_trailers(fields),
                Ok(None) => break Ok(()),
                Err(refusal) => break Err(refusal),
            }
        };
        if !body.is_empty() {
            self.request.handle_body(body.drain(..), client, cx);
        }
        cx.shared.body = body;
        if let Err(refusal) = outcome {
            return self.refuse(*refusal, client, cx);
        }
        if self.is_passed || self.is_stopped || self.is_deferred(client) {
            return Ok(());
        }
        if self.decoder.is_done() {
            if self.decoder.asks_for_websocket() && !self.request.has_begun() {
                let rule = "this gateway does not tunnel WebSocket connections over HTTP/1.1";
                return self.refuse(Refusal::new(StatusCode::NOT_IMPLEMENTED, rule), client, cx);
            }
            self.is_passed = true;
            self.request.handle_end(client, cx);
        } else if room > 0 && self.has_ended {
            return self.handle_cut(client, cx);
        } else {
            self.request.begin(false, client, cx);
        }
        Ok(())
    }

    /// Returns whether the request waits for the end of the handshake. Its body is not read.
    fn is_deferred(&self, client: &Client) -> bool {
        self.request.is_deferred(self.decoder.is_done(), client)
    }

    /// Handles the end of the connection within a request.
    fn handle_cut(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Result<(), Ending> {
        if self.is_idle() {
            return Ok(());
        }
        let (_, understood) = (self.decoder.handle_end(), self.decoder.take_understood());
        let ending = Ending::from(Outcome::ClientClosed);
        self.request.end(ending, understood, client, cx);
        Err(ending)
    }

    fn take_head(&mut self, head: Head, client: &mut Client) {
        let version = self.decoder.version();
        client.protocol = match version {
            Version::Http10 => Protocol::Http10,
            Version::Http11 => Protocol::Http11,
        };
        self.response.encoder = Some(ResponseEncoder::new(version, &head.method));
        self.request.set_head(head);
    }

    /// Responds with 503 to a request that there is no time or no memory for. A connection persists
    /// unless memory is short or a body follows: another handshake would be more to do.
    fn shed(&mut self, reason: StreamShed, client: &Client, cx: &mut Context<'_>) {
        cx.shared.counters.http3.streams_shed.count(reason, 1);
        let ended = self.decoder.is_done();
        self.is_passed = ended;
        self.is_stopped = !ended;
        self.is_last |= reason == StreamShed::Memory;
        self.request.shed(ended, client, cx);
    }

    /// Responds to a request that breaks a rule, and reads nothing more.
    pub(super) fn refuse(
        &mut self,
        mut refusal: Refusal,
        client: &Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        refusal.understood = self.decoder.take_understood();
        self.is_stopped = true;
        let method = refusal.understood.method.clone().unwrap_or(Method::GET);
        let encoder = || ResponseEncoder::new(Version::Http11, &method);
        self.response.encoder.get_or_insert_with(encoder);
        self.request.refuse(refusal, client, cx)
    }

    /// Responds with 408 to a head that is not complete in time.
    pub(super) fn handle_head_timeout(
        &mut self,
        client: &Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        let rule = "the request's head did not come whole in time";
        self.refuse(Refusal::new(StatusCode::REQUEST_TIMEOUT, rule), client, cx)
    }

    /// Carries out a command of the proxy's. Returns an error if the connection is to be broken
    /// off, so that an incomplete response does not look complete.
    pub(super) fn handle(
        &mut self,
        number: u64,
        command: DownstreamCommand,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        if number != self.number {
            return Ok(());
        }
        match command {
            DownstreamCommand::Reset(outcome) => {
                self.request.note_over();
                return Err(outcome.into());
            }
            DownstreamCommand::StopRequest => self.is_stopped |= !self.decoder.is_done(),
            DownstreamCommand::BodyRoom => {}
            part => {
                // A response that does not wait for the end of its request is the last one: perhaps
                // nobody takes the rest of the request, and the client is told before it sends
                // another one (RFC 9112 9.6).
                if let DownstreamCommand::Head { .. } = &part {
                    self.is_last |= !self.decoder.is_done();
                }
                let before = self.response.pending_len;
                let persistence =
                    if self.persists() { Persistence::KeepAlive } else { Persistence::Close };
                let persists = self.response.push(part, persistence);
                self.is_last |= !persists;
                let grown = self.response.pending_len - before;
                cx.shared.responses.charge(&mut client.waiting, grown);
            }
        }
        Ok(())
    }

    /// Moves encoded bytes to `out`, `len_max` at most.
    pub(super) fn output(&mut self, out: &mut VecDeque<Bytes>, len_max: usize) {
        let mut room = len_max;
        let queue = &mut self.response.queue;
        while room > 0
            && out.len() < UPSTREAM_WRITE_PIECES_MAX
            && let Some(piece) = queue.front_mut()
        {
            let part = piece.split_to(piece.len().min(room));
            room -= part.len();
            out.push_back(part);
            if piece.is_empty() {
                queue.pop_front();
            }
        }
        self.note_finished();
    }

    /// Notes that the response is complete once all of it was output. Its end may come later than
    /// its last byte, and adds none where the length was known.
    fn note_finished(&mut self) {
        let response = &mut self.response;
        let is_whole = response.has_ended && response.queue.is_empty();
        if is_whole && !std::mem::replace(&mut response.is_finished, true) {
            self.finished.push(self.number);
        }
    }

    /// Returns whether there are bytes for the client.
    pub(super) fn has_output(&self) -> bool {
        !self.response.queue.is_empty()
    }

    /// Takes the numbers of the requests whose responses the output has completed.
    pub(super) fn take_finished(&mut self) -> Vec<u64> {
        std::mem::take(&mut self.finished)
    }

    /// Notes that the kernel has taken `len` bytes of the output.
    pub(super) fn taken(&mut self, len: usize, client: &mut Client, cx: &mut Context<'_>) {
        let body_taken = self.response.taken(len);
        cx.shared.responses.discharge(&mut client.waiting, len);
        self.request.handle_response_taken(body_taken, cx);
        if self.response.pending_len > 0 {
            self.request.handle_response_blocked(cx);
        }
    }

    /// Returns the number of response body bytes that the proxy counts as not taken.
    pub(super) fn body_waiting_len(&self) -> usize {
        self.response.body_untold_len
    }

    /// Returns the number of bytes that its request holds.
    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        self.decoder.held_len() + self.request.held_len(proxy)
    }

    /// Ends the request of a connection that is gone.
    pub(super) fn end(&mut self, ending: Ending, client: &mut Client, cx: &mut Context<'_>) {
        if self.has_request() {
            let understood = self.decoder.take_understood();
            self.request.end(ending, understood, client, cx);
        }
    }
}

impl Response {
    /// Queues a part of the response. Returns whether the connection persists after it.
    fn push(&mut self, part: DownstreamCommand, persistence: Persistence) -> bool {
        let encoder = self.encoder.as_mut().expect("a response follows a request or a refusal");
        let mut out = Vec::new();
        let mut persists = true;
        match part {
            DownstreamCommand::Interim { status, fields } => {
                encoder.interim(status, &fields, &mut out);
            }
            DownstreamCommand::Head { status, fields, content_length, ended, .. } => {
                let is_empty = ended && !encoder.omits_content(status);
                let length = content_length.or(is_empty.then_some(0));
                let kept = encoder.begin(status, &fields, length, persistence, &mut out);
                persists = kept == Persistence::KeepAlive;
                if ended {
                    encoder.end(None, &mut out);
                    self.has_ended = true;
                }
            }
            DownstreamCommand::Body(piece) => {
                self.body_untold_len += piece.len();
                encoder.body(piece, &mut out);
            }
            DownstreamCommand::End(trailers) => {
                encoder.end(trailers.as_ref(), &mut out);
                self.has_ended = true;
            }
            DownstreamCommand::Reset(_)
            | DownstreamCommand::StopRequest
            | DownstreamCommand::BodyRoom => unreachable!("the session carries these out itself"),
        }
        self.pending_len += out.iter().map(Bytes::len).sum::<usize>();
        self.queue.extend(out);
        persists
    }

    /// Notes that the kernel has taken `len` bytes. Returns the number of body bytes to report as
    /// taken.
    fn taken(&mut self, len: usize) -> usize {
        self.pending_len -= len;
        // Framing precedes the bytes it frames, so the bytes that still wait are at most body.
        let body_waiting = self.body_untold_len.min(self.pending_len);
        let body_taken = self.body_untold_len - body_waiting;
        self.body_untold_len = body_waiting;
        body_taken
    }
}
