//! The lease on a request slot of an upstream connection, and the operations on a leased slot.

use bytes::{Bytes, BytesMut};

use super::UpstreamTimer;
use super::connection_states::{Active, Connection, Read, State, Write, receive};
use super::group::{Group, GroupKey};
use crate::base::timers::Timer;
use crate::http1::Part;
use crate::proxy::api::{UpstreamCommand, UpstreamKey};
use crate::proxy::context::{Context, TimerOwner};
use crate::proxy::faults::Fault;

/// The right to use one request slot of an upstream connection, until it is released.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(in crate::proxy) group: GroupKey,
    pub(in crate::proxy) endpoint: usize,
    pub(in crate::proxy) connection: UpstreamKey,
}

/// A leased slot of an open connection, borrowed for one event.
pub(crate) struct Slot<'a> {
    key: UpstreamKey,
    active: &'a mut Active,
    timer: &'a mut Timer,
    group: &'a mut Group,
    endpoint: usize,
}

/// The state of the request, as seen by the upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestState {
    Unfinished,
    /// All of it was passed to writes, or no more will be.
    Out,
}

impl<'a> Slot<'a> {
    pub(super) fn new(
        lease: &Lease,
        connection: &'a mut Connection,
        group: &'a mut Group,
    ) -> Slot<'a> {
        let State::Active(active) = &mut connection.state else {
            unreachable!("a lease is used once its connection is open")
        };
        let timer = &mut connection.timer;
        Slot { key: lease.connection, active, timer, group, endpoint: lease.endpoint }
    }

    pub(crate) fn can_write(&self) -> bool {
        self.active.write == Write::Ready
    }

    pub(crate) fn write(&mut self, cx: &mut Context<'_>, pieces: Vec<Bytes>) {
        assert_eq!(self.active.write, Write::Ready, "one write at a time");
        self.active.write = Write::InFlight;
        cx.command_upstream(UpstreamCommand::Write { key: self.key, pieces });
    }

    /// Arms a receive for more of the response. Returns false when one is armed already.
    pub(crate) fn receive(&mut self, cx: &mut Context<'_>) -> bool {
        if self.active.read == Read::Armed {
            return false;
        }
        self.active.read = Read::Armed;
        receive(cx, self.key, Some(self.active.downstream));
        true
    }

    /// Decodes the next part of the response from the front of `piece`. A head counts as a success
    /// of the endpoint, also one that breaks a rule: the endpoint was reached, and the rule may be
    /// broken by one page of many. What is no HTTP counts as a failure.
    pub(crate) fn decode(
        &mut self,
        cx: &mut Context<'_>,
        piece: &mut BytesMut,
    ) -> Result<Option<Part>, Fault> {
        let decoded = self.active.decoder.decode(piece);
        let decoded = decoded.map_err(|error| self.active.fault(error));
        let endpoint = &mut self.group.endpoints[self.endpoint];
        let is_understood = match &decoded {
            Ok(part) => matches!(part, Some(Part::Head(_))),
            Err(_) if self.active.decoder.speaks_http() => self.active.decoder.is_in_head(),
            Err(fault) => {
                endpoint.fail(cx, self.active.failed(*fault));
                false
            }
        };
        if is_understood {
            self.active.is_trial = false;
            endpoint.succeed(cx, self.active.exchange);
            endpoint.responded = Some(cx.now);
        }
        decoded
    }

    /// Returns the start of the name of the field for which the response was refused, if it was one
    /// field.
    pub(crate) fn faulty_field(&self) -> Option<&[u8]> {
        self.active.decoder.faulty_field()
    }

    /// Returns whether the response's final head is still to come.
    pub(crate) fn awaits_head(&self) -> bool {
        self.active.decoder.is_in_head()
    }

    /// Restarts the response timeout while progress is up to the upstream, and stops it while
    /// progress is up to the client.
    pub(crate) fn watch(&mut self, cx: &mut Context<'_>, request: RequestState) {
        // Room for more of the response does not count: no receive is armed until the client has
        // taken something.
        let is_read = self.active.read == Read::Armed;
        if self.active.write == Write::InFlight || is_read && request == RequestState::Out {
            let due = cx.now + self.group.config.response_timeout;
            let owner = TimerOwner::Upstream(UpstreamTimer::Connection(self.key));
            cx.timers.set(self.timer, due, owner);
        } else {
            self.timer.disarm();
        }
    }
}
