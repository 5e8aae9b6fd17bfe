//! One exchange: a request, its way to an upstream, and the response.
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
//! Both bodies flow while it is `Active`. It stays `Responded` until the client's connection has
//! taken all of the response.
//!
//! A method that may end the exchange returns [`Progress`]; the proxy removes it then.

mod request_body;
mod stage;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use super::api::{Downstream, DownstreamCommand, ExchangeKey, Output, Request};
use super::context::{Context, ExchangeTimer, TimerOwner};
use super::faults::Fault;
use super::fields::{clean_response, clean_trailers, encode_head};
use super::upstream::{Acquired, Avoid, GroupKey, Lease, Notice, Release, SlotRequest, Upstreams};
use crate::base::timers::{Timer, Timers};
use crate::http1::{ConnectionOptions, Framing, Part};
use crate::limits::{RESPONSE_PENDING_LEN_MAX, RESPONSE_STALL_TIMEOUT};
use crate::message::{AccessRecord, Fields, Outcome};
use crate::planted::{Bug, is_planted};

pub(super) use request_body::RequestBody;
use stage::Stage;

/// The limits that an exchange began under.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    pub(super) request_body_len_max: u64,
    pub(super) request_body_timeout: Duration,
    pub(super) response_head_len_max: usize,
}

/// One request and its response.
pub(super) struct Exchange {
    /// `None` when it was refused before there was one.
    pub(super) request: Option<Request>,
    /// The client may speak for others.
    pub(super) trusted: bool,
    pub(super) framing: Framing,
    pub(super) body: RequestBody,
    /// The upstream group, once it is admitted.
    pub(super) group: Option<GroupKey>,
    downstream: Downstream,
    bounds: Bounds,
    stage: Stage,
    /// The encoded head, until it is given to a write.
    unsent_head: Option<Bytes>,
    write: WriteSchedule,
    response: ResponseProgress,
    /// What the first attempt has shown. There are two at most.
    avoid: Avoid,
    /// Boxed: it is handed on when the exchange is over.
    record: Box<AccessRecord>,
    upstream_start: Option<Instant>,
    body_timer: Timer,
    response_timer: Timer,
}

/// Whether the exchange is in the proxy's list of those with something to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WriteSchedule {
    Idle,
    Due,
}

/// The response on its way to the client.
#[derive(Debug, Default)]
struct ResponseProgress {
    /// Its head was given to the client.
    head_given: bool,
    /// Body bytes given and not taken.
    pending_len: usize,
}

impl ResponseProgress {
    /// Returns whether more of the response is read, in view of what waits for the client.
    fn reads_on(&self, memory_low: bool) -> bool {
        self.pending_len == 0 || !memory_low && self.pending_len < RESPONSE_PENDING_LEN_MAX
    }
}

/// What the proxy lends to an exchange.
pub(super) struct ExchangeContext<'a> {
    /// Its key.
    pub(super) key: ExchangeKey,
    pub(super) upstreams: &'a mut Upstreams,
    /// Exchanges that have something to write.
    pub(super) due_writes: &'a mut VecDeque<ExchangeKey>,
    pub(super) memory_low: bool,
    pub(super) base: Context<'a>,
}

/// Whether an exchange goes on after an event.
#[must_use]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    Continues,
    Over(Outcome),
}

impl ExchangeContext<'_> {
    fn command(&mut self, to: Downstream, command: DownstreamCommand) {
        self.base.outputs.push_back(Output::Downstream { to, exchange: self.key, command });
    }
}

/// The client's side.
impl Exchange {
    pub(super) fn new(downstream: Downstream, bounds: Bounds, record: AccessRecord) -> Self {
        Self {
            request: None,
            trusted: false,
            framing: Framing::None,
            body: RequestBody::new(false),
            group: None,
            downstream,
            bounds,
            stage: Stage::Arrived,
            unsent_head: None,
            write: WriteSchedule::Idle,
            response: ResponseProgress::default(),
            avoid: Avoid::Nothing,
            record: Box::new(record),
            upstream_start: None,
            body_timer: Timer::default(),
            response_timer: Timer::default(),
        }
    }

    /// Starts an admitted exchange on its way to an upstream.
    pub(super) fn start(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        awaits_continue: bool,
    ) -> Progress {
        if awaits_continue {
            // RFC 9110 10.1.1: the gateway takes the body itself, so it is the one to say so.
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

    /// Takes pieces of the request's body.
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
            if matches!(self.framing, Framing::Length(len) if body_len > len) {
                let rule = "the request's body is longer than its content-length";
                return self.fail(cx, Fault::BadRequest(rule));
            }
            if body_len > self.bounds.request_body_len_max {
                return self.fail(cx, Fault::RequestTooLarge);
            }
        }
        let progress = self.send_on(cx, Framing::Chunked);
        self.set_body_timer(cx);
        progress
    }

    /// Takes the end of the request.
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
        // RFC 9114 4.1.2: checked here too, so that no incomplete body is ever taken for a complete
        // one on an upstream connection, whichever way the end came.
        if matches!(self.framing, Framing::Length(len) if self.body.received_len != len) {
            let rule = "the request's body is shorter than its content-length";
            return self.fail(cx, Fault::BadRequest(rule));
        }
        self.body.set_trailers(trailers.and_then(clean_trailers));
        self.send_on(cx, Framing::None)
    }

    /// The client is gone, or wants no response any more.
    pub(super) fn abort(&mut self, cx: &mut ExchangeContext<'_>) -> Progress {
        let had_lease = self.detach(cx);
        if !had_lease && is_planted(Bug::LeakedExchange) {
            return Progress::Continues;
        }
        Progress::Over(Outcome::Aborted)
    }

    /// The client's connection took `len` bytes of the response's body.
    pub(super) fn handle_response_taken(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        len: usize,
    ) -> Progress {
        let pending_len = self.response.pending_len.checked_sub(len);
        self.response.pending_len = pending_len.expect("no more is taken than was given");
        self.record.response_len += len as u64;
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

    /// Limits the time in which the client takes nothing of what waits for it. Does nothing while
    /// that limit runs.
    pub(super) fn set_response_timer(&mut self, cx: &mut ExchangeContext<'_>) {
        if self.response.pending_len > 0 && !self.response_timer.is_set() {
            let due = cx.base.now + RESPONSE_STALL_TIMEOUT;
            let owner = TimerOwner::Exchange(cx.key, ExchangeTimer::Response);
            cx.base.timers.set(&mut self.response_timer, due, owner);
        }
    }

    /// Takes a timer that has come up.
    pub(super) fn handle_timeout(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        which: ExchangeTimer,
    ) -> Progress {
        let (timer, fault) = match which {
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

    /// Ends the way to an upstream for `fault`: by a response of the gateway's own, or by cutting
    /// off the response that has begun.
    pub(super) fn fail(&mut self, cx: &mut ExchangeContext<'_>, fault: Fault) -> Progress {
        self.detach(cx);
        if self.response.head_given {
            let reason = fault.reset_reason();
            cx.command(self.downstream, DownstreamCommand::Reset(reason));
            return Progress::Over(Outcome::Reset(reason));
        }
        self.respond(cx, fault);
        self.progress()
    }

    /// Takes the exchange's timers off the queue and returns its record, completed.
    pub(super) fn into_record(
        mut self,
        now: Instant,
        timers: &mut Timers<TimerOwner>,
        outcome: Outcome,
    ) -> Box<AccessRecord> {
        timers.clear(&mut self.body_timer);
        timers.clear(&mut self.response_timer);
        self.end_upstream_time(now);
        if let Some(request) = self.request {
            self.record.request = request.head.understood();
        }
        self.record.request_len = self.body.received_len;
        self.record.duration = now.saturating_duration_since(self.record.start);
        self.record.outcome = outcome;
        self.record
    }

    /// Sends what has come of the request. One that was held has its framing decided by it.
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

    /// Responds in the upstream's place.
    fn respond(&mut self, cx: &mut ExchangeContext<'_>, fault: Fault) {
        let (fields, body) = fault.response();
        let status = fault.status();
        self.advance(Stage::Responded);
        self.end_upstream_time(cx.base.now);
        self.begin_response(status);
        self.record.error = Some(fault.token());
        let method = self.request.as_ref().map(|request| &request.head.method);
        let ended = method.or(self.record.request.method.as_ref()) == Some(&Method::HEAD);
        let content_length = Some(body.len() as u64);
        let head = DownstreamCommand::Head { status, fields, content_length, ended };
        cx.command(self.downstream, head);
        if !ended {
            self.response.pending_len += body.len();
            cx.command(self.downstream, DownstreamCommand::Body(body));
            cx.command(self.downstream, DownstreamCommand::End(None));
        }
        self.stop_request(cx);
    }

    /// Asks the client for no more of its request.
    fn stop_request(&mut self, cx: &mut ExchangeContext<'_>) {
        if !self.body.is_ended() && !self.body.is_stopped() {
            cx.command(self.downstream, DownstreamCommand::StopRequest);
        }
        self.body.stop();
        self.body_timer.disarm();
    }

    /// Restarts the limit of the client's pause, if the client is to send.
    fn set_body_timer(&mut self, cx: &mut ExchangeContext<'_>) {
        let body = &self.body;
        let is_whole = body.is_ended() || self.framing == Framing::Length(body.received_len);
        let is_awaited = !is_whole && !body.is_stopped() && body.room() > 0;
        if is_awaited && self.stage != Stage::Responded {
            let due = cx.base.now + self.bounds.request_body_timeout;
            let owner = TimerOwner::Exchange(cx.key, ExchangeTimer::RequestBody);
            cx.base.timers.set(&mut self.body_timer, due, owner);
        } else {
            self.body_timer.disarm();
        }
    }

    /// Returns whether there is something left to do for the exchange.
    fn progress(&self) -> Progress {
        if self.stage == Stage::Responded && self.response.pending_len == 0 {
            Progress::Over(Outcome::Complete)
        } else {
            Progress::Continues
        }
    }

    /// Changes the stage and returns the former one.
    fn advance(&mut self, next: Stage) -> Stage {
        assert!(self.stage.may_become(&next), "an exchange goes from {:?} to {next:?}", self.stage);
        std::mem::replace(&mut self.stage, next)
    }
}

/// The upstream's side.
impl Exchange {
    /// Takes the slot that it has waited for.
    pub(super) fn handle_granted(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        acquired: Acquired,
    ) -> Progress {
        self.advance(Stage::Arrived);
        self.handle_acquired(cx, acquired)
    }

    /// Takes an event on its upstream connection, or of its group's queue.
    pub(super) fn handle_notice(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        notice: Notice,
    ) -> Progress {
        match notice {
            Notice::Connected => {
                let Stage::Connecting(lease) = self.advance(Stage::Arrived) else {
                    unreachable!("an exchange is told of the connection that it waits for")
                };
                self.send_request(cx, lease);
            }
            Notice::Wrote => {
                self.body.wrote();
                self.schedule_write(cx);
            }
            Notice::WriteFailed => {
                self.body.wrote();
                if !self.body.is_complete() {
                    self.stop_request(cx);
                }
                self.watch(cx);
            }
            Notice::Received { piece, more_follows } => {
                return self.read_response(cx, piece, more_follows);
            }
            Notice::Ended => {
                cx.command(self.downstream, DownstreamCommand::End(None));
                return self.complete(cx, Release::Discard);
            }
            Notice::Failed { fault, retry } => {
                return match retry {
                    Some(avoid) if self.may_be_repeated() => self.repeat(cx, avoid),
                    _ => self.fail(cx, fault),
                };
            }
        }
        Progress::Continues
    }

    /// The last receive is not made, because the client takes too little of this response.
    pub(super) fn handle_receive_paused(&mut self, cx: &mut ExchangeContext<'_>) {
        assert!(self.response.pending_len > 0, "nothing would ever arm a receive that was paused");
        self.watch(cx);
    }

    /// Writes what there is of the request, if it is on a connection by now.
    pub(super) fn write(&mut self, cx: &mut ExchangeContext<'_>) {
        self.write = WriteSchedule::Idle;
        let Stage::Active(lease) = &self.stage else { return };
        let mut slot = cx.upstreams.slot(lease);
        if !slot.can_write() {
            return;
        }
        let mut pieces = Vec::from_iter(self.unsent_head.take());
        self.body.take_pieces(self.framing, &mut pieces);
        if !pieces.is_empty() {
            slot.write(&mut cx.base, pieces);
        }
        slot.watch(&mut cx.base, self.body.request_state());
        if self.body.has_room_again() && !is_planted(Bug::ForgottenBodyRoom) {
            cx.command(self.downstream, DownstreamCommand::BodyRoom);
            self.set_body_timer(cx);
        }
    }

    /// Finds a slot for an arrived exchange, or a place in the queue, or responds 503.
    fn dispatch(&mut self, cx: &mut ExchangeContext<'_>) -> Progress {
        let slot_request = SlotRequest {
            exchange: cx.key,
            downstream: self.downstream,
            is_head: self.admitted().head.method == Method::HEAD,
            response_head_len_max: self.bounds.response_head_len_max,
            avoid: self.avoid,
        };
        let group = self.group.expect("an admitted exchange has its group");
        let acquired = cx.upstreams.acquire(&mut cx.base, group, slot_request);
        self.handle_acquired(cx, acquired)
    }

    fn handle_acquired(&mut self, cx: &mut ExchangeContext<'_>, acquired: Acquired) -> Progress {
        match acquired {
            Acquired::Ready(lease) => {
                self.begin_upstream_time(cx, &lease);
                self.send_request(cx, lease);
            }
            Acquired::Connecting(lease) => {
                self.begin_upstream_time(cx, &lease);
                self.advance(Stage::Connecting(lease));
            }
            Acquired::Queued(ticket) => {
                self.advance(Stage::Waiting(ticket));
            }
            Acquired::Full => return self.fail(cx, Fault::QueueFull),
        }
        Progress::Continues
    }

    /// Encodes the head for the endpoint of `lease` and schedules its write.
    fn send_request(&mut self, cx: &mut ExchangeContext<'_>, lease: Lease) {
        let request = self.admitted();
        let host = cx.upstreams.endpoint(&lease).host_for(request.head.authority().as_bytes());
        let nominated =
            ConnectionOptions::read(&request.head.fields).expect("checked when it was admitted");
        let head = encode_head(request, &nominated, host, self.framing, self.trusted);
        self.unsent_head = Some(head);
        self.advance(Stage::Active(lease));
        self.schedule_write(cx);
    }

    /// Has the request written once all inputs are in, so that the head and what has come of the
    /// body leave in one write.
    fn schedule_write(&mut self, cx: &mut ExchangeContext<'_>) {
        if self.write == WriteSchedule::Idle {
            self.write = WriteSchedule::Due;
            cx.due_writes.push_back(cx.key);
        }
    }

    fn watch(&mut self, cx: &mut ExchangeContext<'_>) {
        if let Stage::Active(lease) = &self.stage {
            cx.upstreams.slot(lease).watch(&mut cx.base, self.body.request_state());
        }
    }

    /// Gives the client what `piece` holds of its response.
    fn read_response(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        mut piece: BytesMut,
        more_follows: bool,
    ) -> Progress {
        let mut slot = loop {
            let Stage::Active(lease) = &self.stage else {
                unreachable!("a response is read from an active connection")
            };
            let mut slot = cx.upstreams.slot(lease);
            let part = match slot.decode(&mut cx.base, &mut piece) {
                Ok(Some(part)) => part,
                Ok(None) => break slot,
                Err(fault) => return self.fail(cx, fault),
            };
            if self.pass_on(cx, part) == PartPosition::Last {
                // Bytes behind the response belong to nobody.
                let is_clean = !more_follows && piece.is_empty();
                let release = if is_clean { Release::Reuse } else { Release::Discard };
                return self.complete(cx, release);
            }
        };
        if self.response.reads_on(cx.memory_low) || is_planted(Bug::WrongCredit) {
            slot.receive(&mut cx.base);
        }
        // The wait for a head is one wait: pieces of a head do not prolong it.
        if !slot.awaits_head() {
            slot.watch(&mut cx.base, self.body.request_state());
        }
        Progress::Continues
    }

    /// Passes one part of the response on to the client.
    fn pass_on(&mut self, cx: &mut ExchangeContext<'_>, part: Part) -> PartPosition {
        let (command, position) = match part {
            // The gateway has sent 100 itself where it was waited for.
            Part::Interim(head) if head.status == StatusCode::CONTINUE => {
                return PartPosition::Inner;
            }
            Part::Interim(mut head) => {
                clean_response(&mut head.fields, &head.options);
                let (status, fields) = (head.status, head.fields);
                (DownstreamCommand::Interim { status, fields }, PartPosition::Inner)
            }
            Part::Head(mut head) => {
                clean_response(&mut head.fields, &head.options);
                self.begin_response(head.status);
                // There is no second attempt after this: the fields are freed.
                if let Some(request) = &mut self.request {
                    request.head.fields = Vec::new();
                }
                let command = DownstreamCommand::Head {
                    status: head.status,
                    fields: head.fields,
                    content_length: head.content_length,
                    ended: head.ended,
                };
                (command, if head.ended { PartPosition::Last } else { PartPosition::Inner })
            }
            Part::Body(piece) => {
                self.response.pending_len += piece.len();
                (DownstreamCommand::Body(piece), PartPosition::Inner)
            }
            Part::End(trailers) => {
                (DownstreamCommand::End(clean_trailers(trailers)), PartPosition::Last)
            }
        };
        cx.command(self.downstream, command);
        position
    }

    /// Ends the upstream's part: the response is complete. The connection is released for reuse
    /// only if the request is complete as well.
    fn complete(&mut self, cx: &mut ExchangeContext<'_>, release: Release) -> Progress {
        self.end_upstream_time(cx.base.now);
        let Stage::Active(lease) = self.advance(Stage::Responded) else {
            unreachable!("a response comes over an active connection")
        };
        let request_is_whole = self.body.is_complete() || is_planted(Bug::PooledDirtyConnection);
        self.stop_request(cx);
        let release = if request_is_whole { release } else { Release::Discard };
        cx.upstreams.release(&mut cx.base, lease, release);
        self.progress()
    }

    /// Returns whether another attempt may be made: this is the first, and nothing of the request
    /// was sent, or it is idempotent and can be sent again (RFC 9110 9.2.2).
    fn may_be_repeated(&self) -> bool {
        let is_repeatable = match self.stage {
            Stage::Active(_) => {
                self.admitted().head.method.is_idempotent() && self.body.is_repeatable()
            }
            _ => true,
        };
        self.avoid == Avoid::Nothing && is_repeatable
    }

    /// Makes the second attempt.
    fn repeat(&mut self, cx: &mut ExchangeContext<'_>, avoid: Avoid) -> Progress {
        cx.base.counters.exported.upstream_retries += 1;
        self.detach(cx);
        self.avoid = avoid;
        self.body.rewind();
        self.dispatch(cx)
    }

    /// Leaves the queue, or gives the lease up. Returns whether it had a lease.
    fn detach(&mut self, cx: &mut ExchangeContext<'_>) -> bool {
        if !self.stage.may_become(&Stage::Arrived) {
            return false;
        }
        match self.advance(Stage::Arrived) {
            Stage::Waiting(ticket) => {
                cx.upstreams.cancel(&mut cx.base, ticket);
                false
            }
            Stage::Connecting(lease) | Stage::Active(lease) => {
                cx.upstreams.release(&mut cx.base, lease, Release::Discard);
                true
            }
            _ => false,
        }
    }

    fn admitted(&self) -> &Request {
        self.request.as_ref().expect("an admitted exchange has its request")
    }

    /// Notes the status of the final response.
    fn begin_response(&mut self, status: StatusCode) {
        assert!(!self.response.head_given, "a final response has one head");
        self.response.head_given = true;
        self.record.status = Some(status);
    }

    fn begin_upstream_time(&mut self, cx: &ExchangeContext<'_>, lease: &Lease) {
        self.record.upstream = Some(Arc::clone(&cx.upstreams.endpoint(lease).label));
        self.upstream_start.get_or_insert(cx.base.now);
    }

    fn end_upstream_time(&mut self, now: Instant) {
        if let Some(start) = self.upstream_start.take() {
            self.record.upstream_duration = Some(now.saturating_duration_since(start));
        }
    }
}

/// Whether a part of a response is its last.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PartPosition {
    Inner,
    Last,
}
