//! One exchange: a request, the attempts to send it to an upstream, and the response.
//!
//! ```text
//!            +---------+     +---------+     +------------+     +--------+
//!  request ->| Arrived |---->| Waiting |---->| Connecting |---->| Active |--+
//!            +---------+     +---------+     +------------+     +--------+  |
//!              |  ^  \___________________________^    |  a second try |     |
//!              v  |                                   v               v     v
//!            +---------+                          (Arrived)     (Arrived)  +-----------+
//!            |  Held   |------------------------------------------------->| Responded |--> gone
//!            +---------+       own responses come from every stage        +-----------+
//! ```
//!
//! Both bodies flow while the exchange is `Active`. It stays `Responded` until the client's
//! connection has taken all of the response.
//!
//! A method that may end the exchange returns [`Progress`]; the proxy removes it then.

mod pace;
mod request_body;
mod stage;
mod to_upstream;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;
use http::header::LOCATION;

use super::Logged;
use super::api::{
    Downstream, DownstreamCommand, ExchangeKey, Output, Request, ResponsePart, ResponseSource,
};
use super::context::{Context, ExchangeTimer, TimerOwner};
use super::faults::{Fault, OwnResponse, https_url};
use super::fields::clean_trailers;
use super::upstream::{Avoid, GroupKey, Upstreams};
use crate::base::shares::ClientAddress;
use crate::base::timers::{Timer, Timers};
use crate::config::{Limits, Listener};
use crate::http1::Framing;
use crate::limits::{EXCHANGE_LEN, RESPONSE_PENDING_LEN_MAX, RESPONSE_STALL_TIMEOUT};
use crate::message::{AccessRecord, Bound, Ending, Fields, Handover, Incident, Understood};
use crate::planted::{Bug, is_planted};

use pace::Pace;
pub(super) use request_body::RequestBody;
use stage::Stage;

/// One request and its response.
pub(super) struct Exchange {
    /// `None` when the request was refused before its head was accepted.
    pub(super) request: Option<Request>,
    /// The client is a trusted proxy.
    pub(super) trusted: bool,
    /// The address that is charged for it.
    pub(super) address: ClientAddress,
    pub(super) framing: Framing,
    pub(super) body: RequestBody,
    /// The upstream group, once the request is admitted.
    pub(super) group: Option<GroupKey>,
    pub(super) downstream: Downstream,
    /// The limits that the exchange began under.
    limits: Limits,
    stage: Stage,
    /// The encoded head, until it is written.
    unsent_head: Option<Bytes>,
    /// It is in the proxy's list of exchanges that have something to write.
    is_write_due: bool,
    response: ResponseProgress,
    /// The endpoint or connection that a second attempt avoids. There are at most two attempts.
    avoid: Avoid,
    /// Boxed, since it is handed over when the exchange is over.
    record: Box<AccessRecord>,
    upstream_start: Option<Instant>,
    deadline_timer: Timer,
    body_timer: Timer,
    body_pace: Pace,
    response_timer: Timer,
    response_pace: Pace,
}

/// The response on its way to the client.
#[derive(Debug, Default)]
struct ResponseProgress {
    /// The head was passed to the client.
    head_given: bool,
    /// Body bytes passed on and not taken yet.
    pending_len: usize,
}

impl ResponseProgress {
    /// Returns whether to read more of the response, considering the bytes that wait for the
    /// client.
    fn reads_on(&self, memory_low: bool) -> bool {
        self.pending_len == 0 || !memory_low && self.pending_len < RESPONSE_PENDING_LEN_MAX
    }
}

/// Returns the bound of a request's body.
pub(super) fn body_len_bound(max: u64) -> Bound {
    Bound { key: "limits.max_body_size", max }
}

/// The parts of the proxy that are lent to an exchange.
pub(super) struct ExchangeContext<'a> {
    pub(super) key: ExchangeKey,
    pub(super) upstreams: &'a mut Upstreams,
    /// Exchanges that have something to write.
    pub(super) due_writes: &'a mut VecDeque<ExchangeKey>,
    pub(super) memory_low: bool,
    pub(super) base: Context<'a>,
}

/// The state of an exchange after an event: running or over.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Continues,
    Over(Handover),
}

impl ExchangeContext<'_> {
    fn command(&mut self, to: Downstream, command: DownstreamCommand) {
        self.base.outputs.push_back(Output::Downstream { to, exchange: self.key, command });
    }
}

/// The client's side.
impl Exchange {
    pub(super) fn new(downstream: Downstream, limits: &Limits, record: AccessRecord) -> Self {
        Self {
            request: None,
            trusted: false,
            address: record.client.ip().into(),
            framing: Framing::None,
            body: RequestBody::new(false),
            group: None,
            downstream,
            limits: limits.clone(),
            stage: Stage::Arrived,
            unsent_head: None,
            is_write_due: false,
            response: ResponseProgress::default(),
            avoid: Avoid::Nothing,
            record: Box::new(record),
            upstream_start: None,
            deadline_timer: Timer::default(),
            body_timer: Timer::default(),
            body_pace: Pace::default(),
            response_timer: Timer::default(),
            response_pace: Pace::default(),
        }
    }

    /// Starts to send an admitted request to an upstream. `time_limit` is that of its route.
    pub(super) fn start(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        awaits_continue: bool,
        time_limit: Option<Duration>,
    ) -> Progress {
        if let Some(limit) = time_limit {
            let owner = TimerOwner::Exchange(cx.key, ExchangeTimer::Deadline);
            cx.base.timers.set(&mut self.deadline_timer, cx.base.now + limit, owner);
        }
        if awaits_continue {
            // RFC 9110 10.1.1: the gateway takes the body itself, so it sends the 100 itself.
            let (status, fields) = (StatusCode::CONTINUE, Fields::new());
            cx.command(self.downstream, DownstreamCommand::Interim { status, fields });
        }
        let mut progress = Progress::Continues;
        if self.framing == Framing::Undecided {
            self.advance(Stage::Held);
        } else {
            progress = self.dispatch(cx);
        }
        self.set_body_timer(cx);
        progress
    }

    /// Handles pieces of the request's body.
    pub(super) fn handle_body(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        pieces: impl IntoIterator<Item = Bytes>,
    ) -> Progress {
        let before = self.body.received_len;
        pieces.into_iter().for_each(|piece| self.body.push(piece));
        let body_len = self.body.received_len;
        if body_len == before || self.stage == Stage::Responded {
            return Progress::Continues;
        }
        if !self.body.is_stopped() {
            let (window, rate) = (self.limits.request_body_timeout, self.limits.rate_min);
            let keeps_pace = self.body_pace.keeps(cx.base.now, body_len - before, window, rate);
            if !keeps_pace && self.framing != Framing::Length(body_len) {
                return self.fail(cx, Fault::RequestTimeout);
            }
            if self.content_length().is_some_and(|len| body_len > len) {
                let rule = "the request's body is longer than its content-length";
                return self.fail(cx, Fault::BadRequest(rule));
            }
            if body_len > self.limits.request_body_len_max {
                let max = self.limits.request_body_len_max;
                return self.fail(cx, Fault::RequestTooLarge(body_len_bound(max)));
            }
        }
        let progress = self.send_on(cx, Framing::Chunked);
        self.set_body_timer(cx);
        progress
    }

    pub(super) fn handle_end(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        trailers: Option<Fields>,
    ) -> Progress {
        if self.body.is_ended() {
            return Progress::Continues;
        }
        self.body.end();
        self.body_timer.disarm();
        if self.stage == Stage::Responded || self.body.is_stopped() {
            return Progress::Continues;
        }
        // RFC 9114 4.1.2: checked here too, so that an incomplete body never looks complete on an
        // upstream connection.
        let content_length = self.content_length();
        if content_length.is_some_and(|len| self.body.received_len != len) {
            let rule = "the request's body is shorter than its content-length";
            return self.fail(cx, Fault::BadRequest(rule));
        }
        self.body.set_trailers(trailers.and_then(clean_trailers));
        self.send_on(cx, content_length.map_or(Framing::None, Framing::Length))
    }

    fn content_length(&self) -> Option<u64> {
        self.request.as_ref().and_then(|request| request.head.content_length)
    }

    /// Returns the listener of an accepted request, and true if a trusted proxy has sent it.
    pub(super) fn listener(&self) -> Option<(Arc<Listener>, bool)> {
        let request = self.request.as_ref()?;
        Some((Arc::clone(&request.listener), self.trusted))
    }

    /// Returns the number of bytes that it holds for its request.
    pub(super) fn held_len(&self) -> usize {
        let fields = self.request.iter().flat_map(|request| &request.head.fields);
        let fields_len = fields.map(|(name, value)| name.as_str().len() + value.len());
        EXCHANGE_LEN + fields_len.sum::<usize>() + self.body.held_len()
    }

    /// Aborts an exchange whose client is gone or has cancelled.
    pub(super) fn abort(&mut self, cx: &mut ExchangeContext<'_>, ending: Ending) -> Progress {
        let had_lease = self.detach(cx);
        if !had_lease && is_planted(Bug::LeakedExchange) {
            return Progress::Continues;
        }
        self.record.end(ending);
        Progress::Over(Handover::Cut)
    }

    /// Notes that the client's connection has taken `len` bytes of the response's body.
    pub(super) fn handle_response_taken(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        len: usize,
    ) -> Progress {
        let pending_len = self.response.pending_len.checked_sub(len);
        self.response.pending_len = pending_len.expect("no more is taken than was given");
        self.record.response_len += len as u64;
        let (window, rate) = (RESPONSE_STALL_TIMEOUT, self.limits.rate_min);
        let keeps_pace = self.response_pace.keeps(cx.base.now, len as u64, window, rate);
        if !keeps_pace && self.response.pending_len > 0 {
            return self.fail(cx, Fault::ResponseStalled);
        }
        self.response_timer.disarm();
        self.set_response_timer(cx);
        if let Stage::Active(lease) = &self.stage
            && self.response.reads_on(cx.memory_low)
        {
            let mut slot = cx.upstreams.slot(lease);
            if slot.receive(&mut cx.base) {
                slot.watch(&mut cx.base, self.body.request_state());
            }
        }
        self.progress()
    }

    /// Starts the stall timeout of the response and the window of its least rate, unless they are
    /// running.
    pub(super) fn set_response_timer(&mut self, cx: &mut ExchangeContext<'_>) {
        if self.response.pending_len == 0 {
            return self.response_pace.pause();
        }
        self.response_pace.run(cx.base.now);
        if !self.response_timer.is_set() {
            let due = cx.base.now + RESPONSE_STALL_TIMEOUT;
            let owner = TimerOwner::Exchange(cx.key, ExchangeTimer::Response);
            cx.base.timers.set(&mut self.response_timer, due, owner);
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        which: ExchangeTimer,
    ) -> Progress {
        let (timer, fault) = match which {
            ExchangeTimer::Deadline => (&mut self.deadline_timer, Fault::Deadline),
            ExchangeTimer::RequestBody => (&mut self.body_timer, Fault::RequestTimeout),
            ExchangeTimer::Response => (&mut self.response_timer, Fault::ResponseStalled),
        };
        let owner = TimerOwner::Exchange(cx.key, which);
        if cx.base.timers.fires(timer, cx.base.now, owner) {
            self.fail(cx, fault)
        } else {
            Progress::Continues
        }
    }

    /// Ends the upstream side because of `fault`: with a response of the gateway's own, or by
    /// resetting the response that has begun. A response whose head has not left the proxy yet has
    /// not begun.
    pub(super) fn fail(&mut self, cx: &mut ExchangeContext<'_>, fault: Fault) -> Progress {
        self.name_request(cx);
        self.detach(cx);
        self.record.end(fault.ending());
        if self.response.head_given && !self.take_response_back(cx) {
            cx.command(self.downstream, DownstreamCommand::Reset(fault.outcome()));
            return Progress::Over(Handover::Reset);
        }
        self.respond(cx, fault);
        self.progress()
    }

    /// Clears the exchange's timers and returns its completed record.
    pub(super) fn into_record(
        mut self,
        now: Instant,
        timers: &mut Timers<TimerOwner>,
        handover: Handover,
        logged: Logged,
    ) -> Box<AccessRecord> {
        timers.clear(&mut self.deadline_timer);
        timers.clear(&mut self.body_timer);
        timers.clear(&mut self.response_timer);
        self.end_upstream_time(now);
        if let Some(request) = self.request
            && logged != Logged::Nothing
        {
            let provenance = self.record.request.provenance.take();
            self.record.request = Understood { provenance, ..request.head.understood() };
        }
        self.record.request_len = self.body.received_len;
        self.record.duration = now.saturating_duration_since(self.record.start);
        self.record.handover = handover;
        self.record
    }

    /// Sends the received part of the request. Decides the framing of a request that was held.
    fn send_on(&mut self, cx: &mut ExchangeContext<'_>, framing: Framing) -> Progress {
        match self.stage {
            Stage::Held => {
                self.framing = framing;
                self.advance(Stage::Arrived);
                return self.dispatch(cx);
            }
            Stage::Active(_) => self.schedule_write(cx),
            Stage::Arrived | Stage::Waiting(_) | Stage::Connecting(_) | Stage::Responded => {}
        }
        Progress::Continues
    }

    fn respond(&mut self, cx: &mut ExchangeContext<'_>, fault: Fault) {
        let method = self.request.as_ref().map(|request| &request.head.method);
        let method = method.or(self.record.request.method.as_ref());
        let OwnResponse { mut fields, content_length, body } = fault.response(method);
        if let (Fault::Redirect(port), Some(request)) = (fault, &self.request) {
            fields.extend(https_url(&request.head, port).map(|url| (LOCATION, url)));
        }
        let status = fault.status();
        self.advance(Stage::Responded);
        // The client gets this response, however late.
        self.deadline_timer.disarm();
        self.end_upstream_time(cx.base.now);
        self.begin_response(status);
        self.record.is_own = true;
        let (ended, content_length) = (body.is_empty(), Some(content_length));
        let source = match fault {
            Fault::QueueFull | Fault::QueueTimeout => ResponseSource::NoRoom,
            _ => ResponseSource::Gateway,
        };
        let head = DownstreamCommand::Head { status, fields, content_length, ended, source };
        cx.command(self.downstream, head);
        if !ended {
            self.response.pending_len += body.len();
            cx.command(self.downstream, DownstreamCommand::Body(body));
            cx.command(self.downstream, DownstreamCommand::End(None));
        }
        self.stop_request(cx);
    }

    /// Adds the request to the report of an ejection that it has caused.
    pub(super) fn name_request(&self, cx: &mut ExchangeContext<'_>) {
        let Some(head) = self.request.as_ref().map(|request| &request.head) else { return };
        // The report is recent, if there is one.
        for output in cx.base.outputs.iter_mut().rev() {
            if let Output::Incident { exchange, incident } = output
                && *exchange == Some(cx.key)
                && let Incident::Ejected { request: request @ None, .. } = &mut **incident
            {
                let (authority, path) = (head.authority().as_bytes(), head.path());
                let method = Some(head.method.clone());
                *request = Some(Understood::new(method, Some(authority), Some(path)));
                return;
            }
        }
    }

    /// Takes back the response of an upstream whose head is still among the proxy's outputs.
    /// Returns false if it has left them, or if the response is complete.
    fn take_response_back(&mut self, cx: &mut ExchangeContext<'_>) -> bool {
        if self.stage == Stage::Responded {
            return false;
        }
        let (key, outputs) = (cx.key, &mut cx.base.outputs);
        let command = |output: &Output| match output {
            Output::Downstream { exchange, command, .. } if *exchange == key => command.part(),
            _ => None,
        };
        if !outputs.iter().any(|output| command(output) == Some(ResponsePart::Head)) {
            return false;
        }
        outputs.retain(|output| command(output).is_none());
        self.response = ResponseProgress::default();
        true
    }

    /// Asks the client to stop sending its request.
    fn stop_request(&mut self, cx: &mut ExchangeContext<'_>) {
        if !self.body.is_ended() && !self.body.is_stopped() {
            cx.command(self.downstream, DownstreamCommand::StopRequest);
        }
        self.body.stop();
        if self.body.is_ended() && self.body.has_room_again() {
            cx.command(self.downstream, DownstreamCommand::BodyRoom);
        }
        self.body_timer.disarm();
    }

    /// Restarts the timeout of the request's body, if the client is expected to send.
    fn set_body_timer(&mut self, cx: &mut ExchangeContext<'_>) {
        let body = &self.body;
        let is_awaited = !body.is_ended() && !body.is_stopped() && body.room() > 0;
        if is_awaited && self.stage != Stage::Responded {
            self.body_pace.run(cx.base.now);
            let due = cx.base.now + self.limits.request_body_timeout;
            let owner = TimerOwner::Exchange(cx.key, ExchangeTimer::RequestBody);
            cx.base.timers.set(&mut self.body_timer, due, owner);
        } else {
            self.body_pace.pause();
            self.body_timer.disarm();
        }
    }

    /// Returns whether the exchange is over.
    fn progress(&self) -> Progress {
        if self.stage == Stage::Responded && self.response.pending_len == 0 {
            Progress::Over(Handover::Whole)
        } else {
            Progress::Continues
        }
    }

    /// Changes the stage and returns the previous one.
    fn advance(&mut self, next: Stage) -> Stage {
        assert!(self.stage.may_become(&next), "an exchange goes from {:?} to {next:?}", self.stage);
        std::mem::replace(&mut self.stage, next)
    }
}
