//! An HTTP/1.1 connection to an endpoint: one request slot, and a struct for each state.
//!
//! ```text
//!                connected              released, its write in flight
//!   Connecting ------------> Active -------------------------------> Finishing
//!       |                    ^    |                                      |
//!       | its request  reuse |    | released                             | wrote
//!       | took another       |    v                                      |
//!       |                    +-- Idle <----------------------------------+
//!       v     connected           ^
//!     Spare ----------------------+
//!
//!     closed, from every state: a failure, a timeout, an unreusable release
//! ```

use std::time::{Duration, Instant};

use super::Notice;
use super::group::{Avoid, Connect, Failed, Group, GroupKey};
use super::health::Failure;
use super::idle_list::Links;
use crate::base::shares::ClientAddress;
use crate::base::timers::Timer;
use crate::config::RetryOn;
use crate::http1::{self, ResponseDecoder};
use crate::message::Bound;
use crate::planted::{Bug, is_planted};
use crate::proxy::api::{Downstream, ExchangeKey, TransportFault, UpstreamCommand};
use crate::proxy::api::{UpstreamEvent, UpstreamKey};
use crate::proxy::context::Context;
use crate::proxy::faults::Fault;

pub(super) struct Connection {
    pub(super) group: GroupKey,
    pub(super) endpoint: usize,
    pub(super) state: State,
    /// The timeout of the connect, of the upstream's progress, or of the idle time.
    pub(super) timer: Timer,
    /// The longest idle time, by what the upstream says of its own.
    pub(super) idle_timeout_max: Option<Duration>,
}

pub(super) enum State {
    Connecting(Connecting),
    /// It is being opened for nobody: the request that it was opened for was served by another.
    Spare,
    /// It is leased.
    Active(Active),
    /// Released while its last write was in flight; a receive is armed.
    Finishing,
    /// In its endpoint's list; a receive is armed.
    Idle(Links),
}

/// A connection that is being opened for a request.
pub(super) struct Connecting {
    pub(super) request: SlotRequest,
    pub(super) is_trial: bool,
    pub(super) start: Instant,
    /// Its place in its endpoint's list.
    pub(super) number: u64,
}

/// A connection that carries a request and its response.
pub(super) struct Active {
    pub(super) exchange: ExchangeKey,
    pub(super) decoder: ResponseDecoder,
    response_head_len_max: usize,
    pub(super) write: Write,
    pub(super) read: Read,
    pub(super) origin: Origin,
    /// Its request is the trial of an ejected endpoint.
    pub(super) is_trial: bool,
    pub(super) downstream: Downstream,
    pub(super) address: ClientAddress,
}

/// The sending half of an active connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Ready,
    InFlight,
    /// A write failed. Bytes that the peer sent before can still be read.
    Failed,
}

/// The receiving half of an active connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Paused,
    /// A receive is under way.
    Armed,
}

/// The state of a connection before it became active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// It was opened for this request.
    Opened,
    /// It was idle; the peer may have closed it in the meantime.
    Idle,
}

/// A request for a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotRequest {
    pub(crate) exchange: ExchangeKey,
    pub(crate) downstream: Downstream,
    /// The client's address, which is charged for the connection.
    pub(crate) address: ClientAddress,
    /// It may use its share of the connections only.
    pub(crate) has_share: bool,
    /// The method is HEAD: its response has no body.
    pub(crate) is_head: bool,
    pub(crate) response_head_len_max: usize,
    pub(crate) avoid: Avoid,
}

impl State {
    /// Returns the client address that uses the connection for a request, if one does.
    pub(super) fn user(&self) -> Option<ClientAddress> {
        match self {
            Self::Connecting(connecting) => Some(connecting.request.address),
            Self::Active(active) => Some(active.address),
            Self::Spare | Self::Finishing | Self::Idle(_) => None,
        }
    }
}

impl Connecting {
    /// Returns the state of a connection that has just opened.
    pub(super) fn connected(&self, cx: &mut Context<'_>, key: UpstreamKey) -> Active {
        Active::new(cx, key, &self.request, Origin::Opened, self.is_trial)
    }

    /// Counts a failed connect against the endpoint.
    pub(super) fn failed(
        &self,
        cx: &mut Context<'_>,
        group: &mut Group,
        endpoint: usize,
        fault: TransportFault,
    ) -> (ExchangeKey, Notice) {
        let exchange = self.request.exchange;
        let connect =
            Connect { exchange: Some(exchange), start: self.start, is_trial: self.is_trial };
        group.endpoints[endpoint].fail_connect(cx, connect, fault);
        let (fault, retry) = (Fault::Connect(fault), group.other_than(endpoint));
        (exchange, Notice::Failed { fault, retry })
    }
}

impl Active {
    /// Returns the state of connection `key`, which begins to serve `request`, and arms a receive.
    pub(super) fn new(
        cx: &mut Context<'_>,
        key: UpstreamKey,
        request: &SlotRequest,
        origin: Origin,
        is_trial: bool,
    ) -> Self {
        // A receive is armed on an idle connection.
        if origin == Origin::Opened {
            receive(cx, key, Some(request.downstream));
        }
        Self {
            exchange: request.exchange,
            downstream: request.downstream,
            address: request.address,
            decoder: ResponseDecoder::new(request.is_head, request.response_head_len_max),
            response_head_len_max: request.response_head_len_max,
            write: Write::Ready,
            read: Read::Armed,
            origin,
            is_trial,
        }
    }

    /// Handles an event. Returns a notice if it concerns the exchange.
    pub(super) fn handle(
        &mut self,
        cx: &mut Context<'_>,
        group: &mut Group,
        endpoint: usize,
        event: UpstreamEvent,
    ) -> Option<(ExchangeKey, Notice)> {
        let notice = match event {
            UpstreamEvent::Wrote => {
                self.write = Write::Ready;
                Notice::Wrote
            }
            UpstreamEvent::WriteFailed(_) => {
                self.write = Write::Failed;
                Notice::WriteFailed
            }
            UpstreamEvent::Received(piece) => {
                self.read = Read::Paused;
                Notice::Received { piece, more_follows: false }
            }
            UpstreamEvent::ReceivedPart(piece) => Notice::Received { piece, more_follows: true },
            UpstreamEvent::End if self.decoder.ends_with_connection() => Notice::Ended,
            UpstreamEvent::End | UpstreamEvent::Failed(_) => {
                if is_planted(Bug::TruncatedAsCleanEnd) && !self.decoder.is_in_head() {
                    Notice::Ended
                } else {
                    self.lost(cx, group, endpoint)
                }
            }
            UpstreamEvent::Connected | UpstreamEvent::ConnectFailed(_) => return None,
        };
        Some((self.exchange, notice))
    }

    /// Handles an upstream that has not taken the request, or not sent more of the response, in
    /// time.
    pub(super) fn timed_out(
        &self,
        cx: &mut Context<'_>,
        group: &mut Group,
        endpoint: usize,
    ) -> (ExchangeKey, Notice) {
        let is_written = self.write != Write::InFlight;
        let fault = if is_written { Fault::ResponseTimeout } else { Fault::WriteTimeout };
        group.endpoints[endpoint].fail(cx, self.failed(fault));
        let is_retried = group.config.retry >= RetryOn::Timeout && !self.decoder.has_begun();
        let retry = group.other_than(endpoint).filter(|_| is_retried);
        (self.exchange, Notice::Failed { fault, retry })
    }

    /// Returns the failure of its request, after the connection was opened.
    pub(super) fn failed(&self, fault: Fault) -> Failed {
        let (exchange, was_trial) = (self.exchange, self.is_trial);
        Failed { exchange: Some(exchange), failure: Failure::Response, was_trial, fault }
    }

    /// Returns the fault of a response that cannot be decoded.
    pub(super) fn fault(&self, error: http1::Error) -> Fault {
        match error {
            http1::Error::Malformed(rule) => Fault::Protocol(rule),
            http1::Error::TooLong => {
                let max = self.response_head_len_max as u64;
                Fault::HeadTooLong(Bound { key: "limits.max_response_header_size", max })
            }
        }
    }

    /// Handles a connection that broke before the response was complete.
    fn lost(&self, cx: &mut Context<'_>, group: &mut Group, endpoint: usize) -> Notice {
        let has_begun = self.decoder.has_begun();
        let fault = if has_begun { Fault::Incomplete } else { Fault::Terminated };
        // An idle connection may have been closed by the peer's idle timeout, so a new one to the
        // same endpoint may work. A new connection that breaks counts against the endpoint.
        if has_begun || self.origin == Origin::Opened {
            group.endpoints[endpoint].fail(cx, self.failed(fault));
        }
        let retry = match self.origin {
            _ if has_begun => None,
            Origin::Idle => Some(Avoid::Idle),
            Origin::Opened if group.config.retry < RetryOn::Broken => None,
            Origin::Opened => group.other_than(endpoint),
        };
        Notice::Failed { fault, retry }
    }
}

pub(super) fn receive(cx: &mut Context<'_>, key: UpstreamKey, downstream: Option<Downstream>) {
    cx.command_upstream(UpstreamCommand::Receive { key, downstream, slot_count_max: 1 });
}
