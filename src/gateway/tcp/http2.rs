//! HTTP/2 on a client's connection: many requests at once.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use bytes::Bytes;

use super::client::Client;
use super::request::Request;
use crate::gateway::context::Context;
use crate::gateway::reset_budget::{Cost, ResetBudget};
use crate::http2::{self, Closure, Code, ConnectionError, Event};
use crate::limits::STREAM_LEN;
use crate::message::{Bound, Ending, Fields, Incident, Outcome, Understood};
use crate::proxy::{DownstreamCommand, Proxy, ResponseSource};

/// The HTTP/2 side of a connection.
pub(super) struct Http2 {
    connection: http2::Connection,
    streams: BTreeMap<u32, Stream>,
    /// A request in early data that waits for the end of the handshake, and all events behind it.
    deferred: Option<Event>,
    /// Requests that the client may cancel or break.
    resets: ResetBudget,
    /// When it had a request last.
    since: Instant,
    is_over: bool,
}

/// A request and its response.
struct Stream {
    request: Request,
    response: Response,
    /// The request is over, or the rest of it is not wanted.
    has_ended: bool,
    /// The response was written to its end.
    is_responded: bool,
    /// Body bytes that were passed on and not released.
    unreleased_len: usize,
}

/// The part of a response that the connection has not taken.
#[derive(Default)]
struct Response {
    pieces: VecDeque<Bytes>,
    pending_len: usize,
    trailers: Option<Fields>,
    has_ended: bool,
    /// The maker of the response, once it has begun.
    source: Option<ResponseSource>,
}

impl Http2 {
    pub(super) fn new(client: &Client, cx: &Context<'_>) -> Self {
        let connection = http2::Connection::new(&client.settings.http2);
        Self {
            connection,
            streams: BTreeMap::new(),
            deferred: None,
            resets: ResetBudget::default(),
            since: cx.now,
            is_over: false,
        }
    }

    /// Handles bytes of the client.
    pub(super) fn handle_data(&mut self, bytes: Bytes) {
        self.connection.handle(bytes);
    }

    /// Handles the end of the client's side.
    pub(super) fn handle_end(&mut self) {
        self.connection.handle_end();
    }

    pub(super) fn wants_input(&self) -> bool {
        !self.is_over && self.connection.wants_input()
    }

    pub(super) fn is_closing(&self) -> bool {
        self.is_over
    }

    pub(super) fn is_idle(&self) -> bool {
        self.streams.is_empty() && !self.connection.has_unwritten() && !self.is_over
    }

    /// Returns whether a request is open, or a part of a response is not written.
    pub(super) fn has_request(&self) -> bool {
        !self.streams.is_empty() || self.deferred.is_some() || self.connection.has_output()
    }

    pub(super) fn since(&self) -> Instant {
        self.since
    }

    pub(super) fn drain(&mut self) {
        self.connection.drain();
    }

    pub(super) fn close(&mut self) {
        let rule = "the connection was idle";
        self.connection.close(ConnectionError { code: Code::NoError, rule });
    }

    /// Handles what the connection reports. Returns an error if it is to be broken off.
    pub(super) fn advance(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), Ending> {
        while !self.is_over
            && let Some(event) = self.next_event(client)
        {
            self.handle_event(event, client, cx);
        }
        if !self.is_idle() {
            self.since = cx.now;
        }
        Ok(())
    }

    fn next_event(&mut self, client: &Client) -> Option<Event> {
        let event = self.deferred.take().or_else(|| self.connection.poll())?;
        match &event {
            Event::Request { head, ended, .. } if client.defers(head, *ended) => {
                self.deferred = Some(event);
                None
            }
            _ => Some(event),
        }
    }

    fn handle_event(&mut self, event: Event, client: &mut Client, cx: &mut Context<'_>) {
        match event {
            Event::Request { stream, head, ended } => {
                if let Some(reason) = cx.shed_reason() {
                    cx.shared.counters.http3.streams_shed.count(reason, 1);
                    return self.connection.reset(stream, Code::RefusedStream);
                }
                let mut request = Request::new(stream.into());
                request.set_head(*head);
                match ended {
                    true => request.handle_end(client, cx),
                    false => request.begin(false, client, cx),
                }
                self.streams.insert(stream, Stream::new(request, ended));
            }
            Event::Refused { stream, refusal } => {
                let mut request = Request::new(stream.into());
                // It has not begun, so there is no response that it would break.
                let _responds = request.refuse(*refusal, client, cx);
                self.streams.insert(stream, Stream::new(request, true));
            }
            Event::Malformed { stream, rule, understood } => {
                let ending = Ending::by_rule(Outcome::RequestMalformed, rule);
                match self.streams.remove(&stream) {
                    Some(stream) => stream.end(ending, client, cx),
                    None => Request::new(stream.into()).end(ending, understood, client, cx),
                }
                self.charge_reset(Cost::Whole, client, cx);
            }
            Event::Body { stream: number, piece } => {
                if let Some(stream) = self.streams.get_mut(&number) {
                    stream.unreleased_len += piece.len();
                    stream.request.handle_body([piece], client, cx);
                    if stream.request.body_room(cx.proxy) > 0 {
                        self.release(number);
                    }
                }
            }
            Event::Trailers { stream, fields } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.request.set_trailers(fields);
                }
            }
            Event::End { stream } => {
                if let Some(stream) = self.streams.get_mut(&stream) {
                    stream.has_ended = true;
                    stream.request.handle_end(client, cx);
                }
                self.forget_if_over(stream);
            }
            Event::Reset { stream: number, .. } => {
                let mut cost = Cost::Whole;
                if let Some(stream) = self.streams.remove(&number) {
                    cost = stream.cost_of_cancel();
                    stream.end(Outcome::ClientCancelled.into(), client, cx);
                }
                // The response may have been written, and not output.
                if client.deliveries.stopped(number.into(), cx) {
                    cost = Cost::Quarter;
                }
                self.charge_reset(cost, client, cx);
            }
            Event::Writable { stream } => self.write(stream, client, cx),
            Event::Closed(closure) => {
                let ending = ending_of(closure);
                if matches!(ending.outcome, Outcome::ExcessiveLoad | Outcome::ConnectionError) {
                    note_closed(client, ending, cx);
                }
                self.end(ending, client, cx);
            }
        }
    }

    /// Charges a request that failed through the client's own fault. Too many of them close the
    /// connection (RFC 9113 10.5).
    fn charge_reset(&mut self, cost: Cost, client: &mut Client, cx: &mut Context<'_>) {
        let max = cx.shared.settings.reset_count_max;
        if self.resets.charge(cx.now, cost, max) {
            let rule = "too many requests that come to nothing";
            let bound = Bound { key: "limits.max_stream_resets", max: max.into() };
            let ending = Ending::by_rule(Outcome::ExcessiveLoad, rule);
            let ending = Ending { bound: Some(bound), ..ending };
            self.connection.close(ConnectionError { code: Code::EnhanceYourCalm, rule });
            note_closed(client, ending, cx);
            self.end(ending, client, cx);
        }
    }

    /// Gives credit for the bytes of a request's body that it has none for: the proxy has room.
    fn release(&mut self, number: u32) {
        if let Some(stream) = self.streams.get_mut(&number) {
            let len = std::mem::take(&mut stream.unreleased_len);
            if len > 0 {
                self.connection.release(number, len);
            }
        }
    }

    /// Carries out a command of the proxy's.
    pub(super) fn handle(
        &mut self,
        number: u64,
        command: DownstreamCommand,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) {
        let Ok(number) = u32::try_from(number) else { return };
        let Some(stream) = self.streams.get_mut(&number) else { return };
        self.since = cx.now;
        match command {
            DownstreamCommand::Interim { status, fields } => {
                self.connection.respond(number, status, fields, false);
            }
            DownstreamCommand::Head { status, fields, ended, source, .. } => {
                self.connection.respond(number, status, fields, ended);
                stream.response.has_ended = ended;
                stream.response.source = Some(source);
                if ended {
                    self.finish(number, cx);
                }
            }
            DownstreamCommand::Body(piece) => {
                stream.response.pending_len += piece.len();
                cx.shared.responses.charge(&mut client.waiting, piece.len());
                stream.response.pieces.push_back(piece);
                self.write(number, client, cx);
            }
            DownstreamCommand::End(trailers) => {
                stream.response.trailers = trailers;
                stream.response.has_ended = true;
                self.write(number, client, cx);
            }
            DownstreamCommand::Reset(outcome) => {
                stream.request.note_over();
                self.connection.reset(number, Code::InternalError);
                if let Some(stream) = self.streams.remove(&number) {
                    stream.end(outcome.into(), client, cx);
                }
            }
            DownstreamCommand::StopRequest => {
                stream.has_ended = true;
                self.release(number);
                self.connection.stop_request(number);
                self.forget_if_over(number);
            }
            DownstreamCommand::BodyRoom => self.release(number),
        }
    }

    /// Writes a response, as far as the connection takes it.
    fn write(&mut self, number: u32, client: &mut Client, cx: &mut Context<'_>) {
        let Some(stream) = self.streams.get_mut(&number) else { return };
        let response = &mut stream.response;
        if response.pending_len > 0 {
            let len = self.connection.write(number, &mut response.pieces);
            response.pending_len -= len;
            cx.shared.responses.discharge(&mut client.waiting, len);
            stream.request.handle_response_taken(len, cx);
            if response.pending_len > 0 {
                stream.request.handle_response_blocked(cx);
            }
        }
        if response.has_ended && response.pending_len == 0 {
            let trailers = response.trailers.take();
            self.connection.finish(number, trailers);
            self.finish(number, cx);
        }
    }

    /// Notes that a response is written to its end.
    fn finish(&mut self, number: u32, cx: &Context<'_>) {
        if let Some(stream) = self.streams.get_mut(&number) {
            stream.is_responded = true;
            if stream.response.source == Some(ResponseSource::Upstream) {
                self.resets.give_back(cx.shared.settings.reset_count_max);
            }
        }
        self.forget_if_over(number);
    }

    fn forget_if_over(&mut self, number: u32) {
        if self.streams.get(&number).is_some_and(|stream| stream.is_responded && stream.has_ended) {
            self.streams.remove(&number);
        }
    }

    /// Moves bytes for the client to `out`, `len_max` at most.
    pub(super) fn output(&mut self, out: &mut VecDeque<Bytes>, len_max: usize) {
        let mut pieces = Vec::new();
        self.connection.take_output(&mut pieces, len_max);
        out.extend(pieces);
    }

    /// Returns the number of body bytes that the connection holds.
    pub(super) fn queued_len(&self) -> usize {
        self.connection.queued_len()
    }

    /// Returns whether there are bytes for the client.
    pub(super) fn has_output(&self) -> bool {
        self.connection.has_output()
    }

    /// Takes the numbers of the requests whose responses the last output has completed.
    pub(super) fn take_finished(&mut self) -> Vec<u64> {
        self.connection.take_ended().into_iter().map(u64::from).collect()
    }

    pub(super) fn stream_count(&self) -> usize {
        self.streams.len().max(1)
    }

    pub(super) fn body_waiting_len(&self, number: u64) -> usize {
        let stream = u32::try_from(number).ok().and_then(|number| self.streams.get(&number));
        stream.map_or(0, |stream| stream.response.pending_len)
    }

    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        let streams = self.streams.values();
        let exchanges = streams.map(|stream| STREAM_LEN + stream.request.held_len(proxy));
        let deferred_len = self.deferred.as_ref().map_or(0, |_| STREAM_LEN);
        self.connection.held_len() + deferred_len + exchanges.sum::<usize>()
    }

    /// Ends all requests of a connection that is broken off or gone.
    pub(super) fn end(&mut self, ending: Ending, client: &mut Client, cx: &mut Context<'_>) {
        self.is_over = true;
        if let Some(Event::Request { stream, head, .. }) = self.deferred.take() {
            let mut request = Request::new(stream.into());
            request.set_head(*head);
            request.end(ending, Understood::default(), client, cx);
        }
        for (_, stream) in std::mem::take(&mut self.streams) {
            stream.end(ending, client, cx);
        }
    }
}

impl Stream {
    fn new(request: Request, has_ended: bool) -> Self {
        let response = Response::default();
        Self { request, response, has_ended, is_responded: false, unreleased_len: 0 }
    }

    /// Returns what it costs the client to cancel the request.
    fn cost_of_cancel(&self) -> Cost {
        match self.response.source {
            Some(ResponseSource::Upstream) => Cost::Quarter,
            _ => Cost::Whole,
        }
    }

    fn end(mut self, ending: Ending, client: &mut Client, cx: &mut Context<'_>) {
        cx.shared.responses.discharge(&mut client.waiting, self.response.pending_len);
        if !self.is_responded {
            self.request.end(ending, Understood::default(), client, cx);
        }
    }
}

/// Notes in the process log that the gateway closes a connection for its client's behaviour.
fn note_closed(client: &Client, cause: Ending, cx: &mut Context<'_>) {
    let incident = Incident::Closed { client: client.address, cause };
    cx.shared.incidents.push_back(Box::new(incident));
}

/// Returns the end of the requests of a connection that ended like this.
fn ending_of(closure: Closure) -> Ending {
    match closure {
        Closure::Error(ConnectionError { code: Code::NoError, .. }) => {
            Outcome::GatewayClosed.into()
        }
        Closure::Error(ConnectionError { code: Code::EnhanceYourCalm, rule }) => {
            Ending::by_rule(Outcome::ExcessiveLoad, rule)
        }
        Closure::Error(ConnectionError { rule, .. }) => {
            Ending::by_rule(Outcome::ConnectionError, rule)
        }
        Closure::ByClient(_) | Closure::Ended => Outcome::ClientClosed.into(),
    }
}
