//! The upstream side of an exchange: its slot, writes, the response, a second attempt.

use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use http::{Method, StatusCode};

use super::stage::Stage;
use super::{Exchange, ExchangeContext, Progress};
use crate::http1::{Part, ResponseHead};
use crate::message::{LoggedText, is_safe};
use crate::planted::{Bug, is_planted};
use crate::proxy::api::{DownstreamCommand, Request, ResponseSource};
use crate::proxy::faults::Fault;
use crate::proxy::fields::{clean_response, clean_trailers, encode_head};
use crate::proxy::upstream::{Acquired, Avoid, Lease, Notice, Release, SlotRequest};

impl Exchange {
    /// Handles the slot that the exchange has waited for.
    pub(in crate::proxy) fn handle_granted(
        &mut self,
        cx: &mut ExchangeContext<'_>,
        acquired: Acquired,
    ) -> Progress {
        self.advance(Stage::Arrived);
        self.handle_acquired(cx, acquired)
    }

    /// Handles an event on the exchange's upstream connection or in its group's queue.
    pub(in crate::proxy) fn handle_notice(
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

    /// Notes that the last receive is paused, because the client takes too little of this response.
    pub(in crate::proxy) fn handle_receive_paused(&mut self, cx: &mut ExchangeContext<'_>) {
        assert!(self.response.pending_len > 0, "nothing would ever arm a receive that was paused");
        self.watch(cx);
    }

    /// Writes the received part of the request, if the exchange has a connection.
    pub(in crate::proxy) fn write(&mut self, cx: &mut ExchangeContext<'_>) {
        self.is_write_due = false;
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

    /// Finds a slot for an arrived exchange, or a place in the queue, or responds with 503.
    pub(super) fn dispatch(&mut self, cx: &mut ExchangeContext<'_>) -> Progress {
        let slot_request = SlotRequest {
            exchange: cx.key,
            downstream: self.downstream,
            address: self.address,
            has_share: !self.trusted,
            is_head: self.admitted().head.method == Method::HEAD,
            response_head_len_max: self.limits.response_head_len_max as usize,
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
            Acquired::Overdue => return self.fail(cx, Fault::QueueTimeout),
        }
        Progress::Continues
    }

    /// Encodes the head for the endpoint of `lease` and schedules its write.
    fn send_request(&mut self, cx: &mut ExchangeContext<'_>, lease: Lease) {
        let request = self.admitted();
        let host = cx.upstreams.endpoint(&lease).host_for(request.head.authority().as_bytes());
        self.unsent_head = Some(encode_head(request, host, self.framing, self.trusted));
        self.advance(Stage::Active(lease));
        self.schedule_write(cx);
    }

    /// Schedules a write for when all inputs are handled, so that the head and the received part
    /// of the body leave in one write.
    pub(super) fn schedule_write(&mut self, cx: &mut ExchangeContext<'_>) {
        if !std::mem::replace(&mut self.is_write_due, true) {
            cx.due_writes.push_back(cx.key);
        }
    }

    fn watch(&mut self, cx: &mut ExchangeContext<'_>) {
        if let Stage::Active(lease) = &self.stage {
            cx.upstreams.slot(lease).watch(&mut cx.base, self.body.request_state());
        }
    }

    /// Passes the parts of the response in `piece` to the client.
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
                Err(fault) => {
                    self.record.field = slot.faulty_field().map(LoggedText::new);
                    return self.fail(cx, fault);
                }
            };
            let is_last = part.is_last();
            self.pass_on(cx, part);
            if is_last {
                // Bytes after the response belong to no request.
                let is_clean = !more_follows && piece.is_empty();
                let release = if is_clean { Release::Reuse } else { Release::Discard };
                return self.complete(cx, release);
            }
        };
        if self.response.reads_on(cx.memory_low) || is_planted(Bug::WrongCredit) {
            slot.receive(&mut cx.base);
        }
        // One timeout covers the whole head: pieces of it do not restart the timer.
        if !slot.awaits_head() {
            slot.watch(&mut cx.base, self.body.request_state());
        }
        Progress::Continues
    }

    /// Passes one part of the response to the client.
    fn pass_on(&mut self, cx: &mut ExchangeContext<'_>, part: Part) {
        let command = match part {
            // The gateway has sent 100 itself if the client waited for it.
            Part::Interim(head) if head.status == StatusCode::CONTINUE => return,
            Part::Interim(mut head) => {
                clean_response(&mut head.fields, &head.options);
                DownstreamCommand::Interim { status: head.status, fields: head.fields }
            }
            Part::Head(mut head) => {
                clean_response(&mut head.fields, &head.options);
                self.begin_response(head.status);
                // There is no second attempt after this, so the fields are freed.
                if let Some(request) = &mut self.request {
                    request.head.fields = Vec::new();
                }
                let ResponseHead { status, fields, content_length, ended, .. } = head;
                let source = ResponseSource::Upstream;
                DownstreamCommand::Head { status, fields, content_length, ended, source }
            }
            Part::Body(piece) => {
                self.response.pending_len += piece.len();
                DownstreamCommand::Body(piece)
            }
            Part::End(trailers) => DownstreamCommand::End(clean_trailers(trailers)),
        };
        cx.command(self.downstream, command);
    }

    /// Ends the upstream side of a complete response. The connection is released for reuse only if
    /// the request is complete as well.
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

    /// Returns whether the request may be retried: this is the first attempt, and either nothing of
    /// the request was sent, or it is idempotent and can be sent again (RFC 9110 9.2.2).
    fn may_be_repeated(&self) -> bool {
        let is_repeatable = match self.stage {
            Stage::Active(_) => {
                let method = &self.admitted().head.method;
                (method.is_idempotent() || is_safe(method)) && self.body.is_repeatable()
            }
            _ => true,
        };
        self.avoid == Avoid::Nothing && is_repeatable
    }

    fn repeat(&mut self, cx: &mut ExchangeContext<'_>, avoid: Avoid) -> Progress {
        cx.base.counters.exported.upstream_retries += 1;
        self.name_request(cx);
        self.detach(cx);
        self.avoid = avoid;
        self.body.rewind();
        self.dispatch(cx)
    }

    /// Leaves the queue, or releases the lease. Returns whether there was a lease.
    pub(super) fn detach(&mut self, cx: &mut ExchangeContext<'_>) -> bool {
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
    pub(super) fn begin_response(&mut self, status: StatusCode) {
        assert!(!self.response.head_given, "a final response has one head");
        self.response.head_given = true;
        self.record.status = Some(status);
    }

    fn begin_upstream_time(&mut self, cx: &ExchangeContext<'_>, lease: &Lease) {
        self.record.upstream = Some(Arc::clone(&cx.upstreams.endpoint(lease).label));
        self.upstream_start.get_or_insert(cx.base.now);
    }

    pub(super) fn end_upstream_time(&mut self, now: Instant) {
        if let Some(start) = self.upstream_start.take() {
            self.record.upstream_duration = Some(now.saturating_duration_since(start));
        }
    }
}
