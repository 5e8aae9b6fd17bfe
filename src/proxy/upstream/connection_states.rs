//! An HTTP/1.1 connection to an endpoint: one request slot, and a struct for each state.
//!
//! ```text
//!                connected              released, its write in flight
//!   Connecting ------------> Active -------------------------------> Finishing
//!       |                    ^    |                                      |
//!       |              reuse |    | released                             | wrote
//!       |                    |    v                                      |
//!       |                    +-- Idle <----------------------------------+
//!       v                         v
//!     closed, from every state: a failure, a timeout, an unreusable release
//! ```

use bytes::Bytes;

use super::group::{Avoid, GroupKey};
use super::idle_list::Links;
use crate::base::timers::Timer;
use crate::http1::ResponseDecoder;
use crate::proxy::api::{Downstream, ExchangeKey, UpstreamCommand, UpstreamKey};
use crate::proxy::context::Context;

/// One upstream connection.
pub(super) struct Connection {
    pub(super) group: GroupKey,
    pub(super) endpoint: usize,
    pub(super) state: State,
    /// Limits the connect, the wait for the upstream to take or to give, or the idle time.
    pub(super) timer: Timer,
}

/// The state of a connection.
pub(super) enum State {
    /// Being opened.
    Connecting(Connecting),
    /// Leased.
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
}

/// A connection that carries a request and its response.
pub(super) struct Active {
    pub(super) exchange: ExchangeKey,
    pub(super) decoder: ResponseDecoder,
    pub(super) write: Write,
    pub(super) read: Read,
    pub(super) origin: Origin,
    /// Its request is the one that tries an ejected endpoint.
    pub(super) is_trial: bool,
    downstream: Downstream,
}

/// The sending half of an active connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Write {
    Ready,
    InFlight,
    /// Only what the peer sent before is still of use.
    Failed,
}

/// The receiving half of an active connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Paused,
    /// A receive is under way.
    Armed,
}

/// Where an active connection comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Opened for this request.
    Opened,
    /// Idle before; the peer may have closed it meanwhile.
    Idle,
}

/// A request for a slot.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SlotRequest {
    pub(crate) exchange: ExchangeKey,
    pub(crate) downstream: Downstream,
    /// The method is HEAD: its response has no body.
    pub(crate) is_head: bool,
    pub(crate) response_head_len_max: usize,
    pub(crate) avoid: Avoid,
}

impl Active {
    /// Returns the state of connection `key` that begins to serve `request`. It is read at once.
    pub(super) fn new(
        cx: &mut Context<'_>,
        key: UpstreamKey,
        request: &SlotRequest,
        read: Read,
        origin: Origin,
        is_trial: bool,
    ) -> Self {
        let mut active = Self {
            exchange: request.exchange,
            downstream: request.downstream,
            decoder: ResponseDecoder::new(request.is_head, request.response_head_len_max),
            write: Write::Ready,
            read,
            origin,
            is_trial,
        };
        active.receive(cx, key);
        active
    }

    /// Arms a receive. Returns false when one is under way.
    pub(super) fn receive(&mut self, cx: &mut Context<'_>, key: UpstreamKey) -> bool {
        if self.read == Read::Armed {
            return false;
        }
        self.read = Read::Armed;
        receive(cx, key, Some(self.downstream));
        true
    }

    pub(super) fn write(&mut self, cx: &mut Context<'_>, key: UpstreamKey, pieces: Vec<Bytes>) {
        assert_eq!(self.write, Write::Ready, "one write at a time");
        self.write = Write::InFlight;
        cx.command_upstream(UpstreamCommand::Write { key, pieces });
    }
}

/// Arms a receive.
pub(super) fn receive(cx: &mut Context<'_>, key: UpstreamKey, downstream: Option<Downstream>) {
    cx.command_upstream(UpstreamCommand::Receive { key, downstream, slot_count_max: 1 });
}
