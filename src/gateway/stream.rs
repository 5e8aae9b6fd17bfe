//! One request stream: passes its request to the proxy (head, body, trailers, end), and writes the
//! proxy's response.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;

use super::StreamRef;
use super::connection::Client;
use super::context::Context;
use super::reset_budget::Cost;
use super::response_queue::ResponseQueue;
use super::{Owner, downstream_of};
use crate::base::timers::Timer;
use crate::http3::{Code, ConnectionError, RequestError, RequestEvent, RequestStream};
use crate::limits::STREAM_LEN;
use crate::message::{AccessRecord, Ending, Fields, Handover, Head, Outcome, Refusal, Understood};
use crate::metrics::CopyReason;
use crate::planted::{Bug, is_planted};
use crate::proxy::{DownstreamCommand, ExchangeKey, Proxy, Request, ResponseSource};
use crate::quic::{Read, ReadError, StreamId, WriteError};

/// A request stream that either side has not ended.
pub(super) struct Stream {
    id: StreamId,
    request: RequestStream,
    phase: Phase,
    trailers: Option<Fields>,
    receiving: Receiving,
    response: ResponseQueue,
    /// The source of the response, once its head is there.
    response_source: Option<ResponseSource>,
    /// The response has been finished or reset.
    responded: bool,
    /// The timeout of the request's head.
    head_timer: Timer,
}

/// The progress of a request.
enum Phase {
    /// Its head is not complete.
    InHead,
    /// Its head is complete; whether the request ends with it is not known yet.
    Decoded(Head),
    /// It is an exchange of the proxy's.
    Begun(ExchangeKey),
    /// The proxy has ended it.
    Over,
}

/// The state of the receiving side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Receiving {
    /// The request is read as room allows.
    Open,
    /// Nothing more is read: the client ended or reset its side, or was sent STOP_SENDING.
    Closed,
}

/// The fate of a stream after it has handled an event.
pub(super) enum Verdict {
    /// It continues, or has ended by itself.
    Continue,
    /// Both of its sides end with this code, charged to this party, and its record with this cause.
    Abandon(Code, Fault, Ending),
    /// The connection is closed with this error.
    Close(ConnectionError),
}

/// The party that caused the end of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// The client: the end is charged to its reset budget.
    Client,
    /// The upstream or the gateway.
    Ours,
}

impl Stream {
    pub(super) fn new(id: StreamId) -> Self {
        Self {
            id,
            request: RequestStream::default(),
            phase: Phase::InHead,
            trailers: None,
            receiving: Receiving::Open,
            response: ResponseQueue::default(),
            response_source: None,
            responded: false,
            head_timer: Timer::default(),
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.responded && self.receiving == Receiving::Closed
    }

    /// Returns whether its request is an exchange whose response has not ended.
    pub(super) fn awaits_response(&self) -> bool {
        matches!(self.phase, Phase::Begun(_)) && !self.responded
    }

    /// Returns the number of bytes that its request holds.
    pub(super) fn held_len(&self, proxy: &Proxy) -> usize {
        let exchange_len = match &self.phase {
            Phase::Begun(exchange) => proxy.held_len(*exchange),
            Phase::InHead | Phase::Decoded(_) | Phase::Over => 0,
        };
        STREAM_LEN + self.request.held_len() + exchange_len
    }

    /// Returns the number of response body bytes that the proxy counts as not taken.
    pub(super) fn body_waiting_len(&self) -> usize {
        self.response.body_waiting_len()
    }

    /// Starts the timeout of the head, unless the head is complete.
    pub(super) fn await_head(&mut self, client: &Client, cx: &mut Context<'_>) {
        let is_awaited = matches!(self.phase, Phase::InHead | Phase::Decoded(_));
        if is_awaited && self.receiving == Receiving::Open && !self.responded {
            let due = cx.now + cx.shared.settings.head_timeout;
            let owner = Owner::Head(self.at(client));
            cx.shared.timers.set(&mut self.head_timer, due, owner);
        }
    }

    /// Responds with 408 if the head is not complete in time.
    pub(super) fn handle_head_timer(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Verdict {
        let owner = Owner::Head(self.at(client));
        let fires = cx.shared.timers.fires(&mut self.head_timer, cx.now, owner);
        if !fires || self.responded || !matches!(self.phase, Phase::InHead) {
            return Verdict::Continue;
        }
        let rule = "the request's head did not come whole in time";
        self.refuse(Refusal::new(StatusCode::REQUEST_TIMEOUT, rule), client, cx)
    }

    /// Reads what the stream has, as far as the exchange takes it. Called when bytes have arrived
    /// and when there is room again.
    pub(super) fn read(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Verdict {
        while self.receiving == Receiving::Open {
            let room = match self.phase {
                Phase::Begun(exchange) => cx.proxy.body_room(exchange),
                _ => HEAD_READ_LEN_MAX,
            };
            if room == 0 {
                break;
            }
            let (mut len, request) = (0, &mut self.request);
            let read = cx.engine.read(client.key, self.id, room, |chunk| {
                len += chunk.len();
                request.handle(chunk);
            });
            cx.shared.ledger.request_moved(len);
            if len > 0
                && let Err(error) = self.pass_events(client, cx)
            {
                return self.fail(error, client, cx);
            }
            match read {
                Ok(Read::Full) => {}
                Ok(Read::Blocked) => {
                    self.begin_exchange(false, client, cx);
                    break;
                }
                Ok(Read::End) => return self.end_request(client, cx),
                Err(ReadError::Reset(_)) if is_planted(Bug::CutRequestLooksWhole) => {
                    return self.end_request(client, cx);
                }
                Err(ReadError::Reset(_)) => {
                    self.receiving = Receiving::Closed;
                    cx.shared.counters.http3.streams_cancelled += 1;
                    return cancelled();
                }
                Err(ReadError::Gone) => self.receiving = Receiving::Closed,
            }
        }
        Verdict::Continue
    }

    /// Passes on the parts decoded so far, all pieces of the body together.
    fn pass_events(
        &mut self,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Result<(), RequestError> {
        let mut body = std::mem::take(&mut cx.shared.body);
        let outcome = loop {
            match self.request.poll(&cx.shared.settings.http3) {
                Ok(Some(RequestEvent::Head(head))) => self.phase = Phase::Decoded(head),
                Ok(Some(RequestEvent::Body(piece))) => body.push(piece),
                Ok(Some(RequestEvent::Trailers(fields))) => self.trailers = Some(fields),
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        if !body.is_empty() {
            self.begin_exchange(false, client, cx);
            if is_planted(Bug::CopiedBody) {
                body.iter_mut().for_each(|piece| *piece = Bytes::copy_from_slice(piece));
            }
            if let Phase::Begun(exchange) = self.phase {
                cx.proxy.handle_body(cx.now, exchange, body.drain(..));
            }
            body.clear();
        }
        cx.shared.body = body;
        outcome
    }

    fn end_request(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Verdict {
        self.receiving = Receiving::Closed;
        if let Err(error) = self.request.handle_end() {
            return self.fail(error, client, cx);
        }
        let trailers = self.trailers.take();
        let ends_with_head = trailers.is_none() && matches!(self.phase, Phase::Decoded(_));
        self.begin_exchange(ends_with_head, client, cx);
        if let (Phase::Begun(exchange), false) = (&self.phase, ends_with_head) {
            cx.proxy.handle_end(cx.now, *exchange, trailers);
        }
        Verdict::Continue
    }

    /// Hands a decoded head to the proxy; `ended` when the request ends with it.
    fn begin_exchange(&mut self, ended: bool, client: &mut Client, cx: &mut Context<'_>) {
        if !matches!(self.phase, Phase::Decoded(_)) {
            return;
        }
        let Some(address) = client.current_address(cx) else { return };
        let Phase::Decoded(head) = std::mem::replace(&mut self.phase, Phase::Over) else {
            unreachable!("seen above")
        };
        let request = Request {
            misdirected: client.coverage.misdirects(head.authority()),
            head,
            sender: client.sender(address),
            listener: Arc::clone(&client.listener),
        };
        let downstream = downstream_of(self.at(client));
        let exchange = cx.proxy.handle_request(cx.now, downstream, request, ended);
        self.phase = Phase::Begun(exchange);
    }

    fn fail(&mut self, error: RequestError, client: &mut Client, cx: &mut Context<'_>) -> Verdict {
        match error {
            RequestError::Connection(error) => Verdict::Close(error),
            RequestError::Stream { code, rule } => {
                cx.shared.counters.http3.requests_malformed += 1;
                let ending = Ending::by_rule(Outcome::RequestMalformed, rule);
                Verdict::Abandon(code, Fault::Client, ending)
            }
            RequestError::Refused(refusal) => self.refuse(*refusal, client, cx),
        }
    }

    /// Responds to a request that is refused before it becomes an exchange with an upstream.
    fn refuse(
        &mut self,
        mut refusal: Refusal,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Verdict {
        if matches!(self.phase, Phase::Begun(_)) {
            // Its response may have begun, so it can only be reset.
            let code = match refusal.status {
                StatusCode::BAD_REQUEST => Code::MessageError,
                _ => Code::ExcessiveLoad,
            };
            return Verdict::Abandon(code, Fault::Client, refusal.ending());
        }
        let Some(address) = client.current_address(cx) else {
            return Verdict::Continue;
        };
        refusal.understood = self.take_understood();
        let (downstream, sender) = (downstream_of(self.at(client)), client.sender(address));
        let ended = self.receiving == Receiving::Closed;
        let exchange = cx.proxy.reject(cx.now, downstream, sender, refusal, ended);
        self.phase = Phase::Begun(exchange);
        Verdict::Continue
    }

    pub(super) fn handle(
        &mut self,
        command: DownstreamCommand,
        client: &mut Client,
        cx: &mut Context<'_>,
    ) -> Verdict {
        match command {
            DownstreamCommand::Reset(outcome) => return self.reset_response(outcome),
            DownstreamCommand::StopRequest => self.stop_request(client, cx),
            DownstreamCommand::BodyRoom => return self.read(client, cx),
            part => self.respond(part, client, cx),
        }
        Verdict::Continue
    }

    /// Asks the client to stop sending the request (RFC 9114 4.1).
    fn stop_request(&mut self, client: &Client, cx: &mut Context<'_>) {
        if self.receiving == Receiving::Open {
            self.receiving = Receiving::Closed;
            cx.stop_sending(client.key, self.id, Code::NoError);
        }
    }

    /// Queues a part of the response, to be written once all inputs are handled.
    fn respond(&mut self, part: DownstreamCommand, client: &mut Client, cx: &mut Context<'_>) {
        if let DownstreamCommand::Head { source, .. } = &part {
            self.response_source = Some(*source);
            if *source == ResponseSource::NoRoom {
                cx.engine.note_refused(cx.now, client.key);
            }
        }
        let before = self.response.pending_len();
        self.response.push(part, cx.shared.memory_low, &mut cx.shared.ledger);
        let grown = self.response.pending_len() - before;
        cx.shared.responses.charge(&mut client.waiting, grown);
        let at = self.at(client);
        if cx.shared.unwritten.last() != Some(&at) {
            cx.shared.unwritten.push(at);
        }
    }

    /// Resets an incomplete response, which must not look complete (RFC 9114 4.1,
    /// H3_INTERNAL_ERROR).
    fn reset_response(&mut self, outcome: Outcome) -> Verdict {
        self.phase = Phase::Over;
        let fault = if outcome.is_of_client() { Fault::Client } else { Fault::Ours };
        Verdict::Abandon(Code::InternalError, fault, outcome.into())
    }

    /// Writes the queued response, as far as the connection takes it.
    pub(super) fn write(&mut self, client: &mut Client, cx: &mut Context<'_>) -> Verdict {
        while !self.responded {
            if self.response.pending_len() == 0 {
                if self.response.is_complete() && !is_planted(Bug::LostFin) {
                    self.finish_response(client, cx);
                }
                break;
            }
            match cx.engine.write(client.key, self.id, self.response.pieces()) {
                Ok(written) => {
                    cx.shared.ledger.response_copied(CopyReason::Gather, written.bytes);
                    let body_taken = self.response.taken(written.bytes, written.pieces);
                    cx.shared.responses.discharge(&mut client.waiting, written.bytes);
                    if let (Phase::Begun(exchange), 1..) = (&self.phase, body_taken) {
                        cx.proxy.handle_response_taken(cx.now, *exchange, body_taken);
                    }
                    if written.is_turn_over {
                        break;
                    }
                }
                Err(WriteError::Blocked) => {
                    if let Phase::Begun(exchange) = self.phase {
                        cx.proxy.handle_response_blocked(cx.now, exchange);
                    }
                    break;
                }
                Err(WriteError::Gone) => break,
                Err(WriteError::Stopped(_)) => {
                    cx.shared.counters.http3.streams_cancelled += 1;
                    return cancelled();
                }
            }
        }
        Verdict::Continue
    }

    fn finish_response(&mut self, client: &mut Client, cx: &mut Context<'_>) {
        let finished = cx.engine.finish(cx.now, client.key, self.id).is_ok();
        client.unacknowledged_count += usize::from(finished);
        if self.response_source == Some(ResponseSource::Upstream) {
            client.resets.give_back(cx.shared.settings.reset_count_max);
        }
        self.responded = true;
    }

    /// Clears the timer and discharges the bytes that wait, before the stream is removed.
    pub(super) fn clear(&mut self, client: &mut Client, cx: &mut Context<'_>) {
        cx.shared.timers.clear(&mut self.head_timer);
        cx.shared.responses.discharge(&mut client.waiting, self.response.pending_len());
    }

    /// Ends both sides with `code`, unless they have ended, and the request with `ending`.
    pub(super) fn abandon(
        mut self,
        client: &mut Client,
        code: Code,
        ending: Ending,
        cx: &mut Context<'_>,
    ) {
        if self.receiving == Receiving::Open {
            cx.stop_sending(client.key, self.id, code);
        }
        if !self.responded {
            cx.shared.counters.http3.streams_reset += 1;
            cx.reset(client.key, self.id, code);
        }
        self.end_request_with(ending, client, cx);
    }

    /// Ends the request of a stream whose connection is gone.
    pub(super) fn end(mut self, client: &mut Client, ending: Ending, cx: &mut Context<'_>) {
        cx.shared.timers.clear(&mut self.head_timer);
        self.end_request_with(ending, client, cx);
    }

    /// Ends the exchange, or writes the record of a request that did not become one. A response
    /// that was finished is not affected.
    fn end_request_with(&mut self, ending: Ending, client: &mut Client, cx: &mut Context<'_>) {
        match self.phase {
            Phase::InHead | Phase::Decoded(_) => {
                let mut record = AccessRecord {
                    request: self.take_understood(),
                    handover: Handover::Cut,
                    ..AccessRecord::new(cx.now, client.sender(client.address))
                };
                record.end(ending);
                cx.shared.counters.count_rule(&record);
                cx.log(Box::new(record));
            }
            Phase::Begun(exchange) if !self.responded => {
                cx.proxy.handle_abort(cx.now, exchange, ending);
                client.deliveries.cut(self.id.into(), ending, cx);
            }
            Phase::Begun(_) | Phase::Over => {}
        }
    }

    /// Takes the parts of a request's head that are known, before it is an exchange.
    fn take_understood(&mut self) -> Understood {
        match std::mem::replace(&mut self.phase, Phase::Over) {
            Phase::Decoded(head) => head.understood(),
            Phase::InHead | Phase::Begun(_) | Phase::Over => self.request.take_understood(),
        }
    }

    /// Returns what it costs the client to end the request by this cause.
    pub(super) fn cost_of(&self, ending: Ending) -> Cost {
        let is_answered = self.response_source == Some(ResponseSource::Upstream);
        match ending.outcome {
            Outcome::ClientCancelled if is_answered => Cost::Quarter,
            _ => Cost::Whole,
        }
    }

    /// Returns whether the response was finished.
    pub(super) fn has_responded(&self) -> bool {
        self.responded
    }

    fn at(&self, client: &Client) -> StreamRef {
        StreamRef { connection: client.key, stream: self.id }
    }
}

/// Returns the verdict on a stream that the client has reset or stopped.
fn cancelled() -> Verdict {
    Verdict::Abandon(Code::RequestCancelled, Fault::Client, Outcome::ClientCancelled.into())
}

/// Bytes read at a time before the head is complete; `http3` bounds what it keeps of them.
const HEAD_READ_LEN_MAX: usize = 64 * 1024;
