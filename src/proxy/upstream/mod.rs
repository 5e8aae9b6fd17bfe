//! Upstreams: groups of endpoints, with their connections, health and queues.
//!
//! [`Upstreams`] hands out leases. A [`Lease`] is the right to use one request slot of one
//! connection; an HTTP/1.1 connection has one.
//!
//! ```text
//!              acquire                            handle_event, handle_timeout
//!                 |                                           |
//!                 v                                           v
//!       +---------------------+  room   +-------------+   Notice for the
//!       | group: queue        |-------->| connection  |   exchange that
//!       |  endpoints:         |<--------|  and timer  |   holds the lease
//!       |   health, idle list |  freed  +-------------+
//!       +---------------------+               ^
//!         |              |                    | slot(lease): write, receive, decode, watch
//!         v              v                    | release(lease)
//!   Ready, Connecting  Queued --poll_granted--> Ready, Connecting
//! ```
//!
//! A group is created from one version of its configuration. A reload that changes it creates a new
//! group and retires the old one, which accepts no new exchange, hands over what its successor can
//! use ([`succession`]) and is removed with its last user.

mod balance;
mod connection_states;
mod group;
mod health;
mod idle_list;
mod lifecycle;
mod slot;
mod standing;
mod succession;

use std::time::Duration;

use super::api::{ExchangeKey, TransportFault, UpstreamEvent, UpstreamKey};
use super::context::{Context, TimerOwner};
use super::faults::Fault;
use crate::base::slab::Slab;
use crate::config;
use crate::limits::KEEP_ALIVE_MARGIN;
use crate::metrics::EndpointReport;
use bytes::BytesMut;
use connection_states::{Connection, Read, State, Write, receive};
use group::Group;

pub(super) use connection_states::SlotRequest;
pub(super) use group::{Avoid, Endpoint, GroupKey};
use slot::Slot;
pub(super) use slot::{Lease, RequestState};

/// The upstream side of one worker's proxy.
pub(super) struct Upstreams {
    /// Groups of the configuration, in its order.
    pub(super) current: Vec<GroupKey>,
    groups: Slab<GroupKey, Group>,
    connections: Slab<UpstreamKey, Connection>,
    /// Groups with a queue for which a slot may be free.
    freed: Vec<GroupKey>,
    last_ticket: u64,
    last_connect: u64,
    /// Idle connections.
    pub(super) idle_count: usize,
    /// Connections that are being opened for nobody.
    spare_count: usize,
    /// Exchanges in queues.
    pub(super) waiting_count: usize,
    /// The proxy drains: no connection is kept.
    is_draining: bool,
    worker_count: u16,
}

/// The result of a request for a slot.
#[derive(Debug)]
pub(super) enum Acquired {
    /// A slot of an open connection.
    Ready(Lease),
    /// A slot of a connection that is being opened; [`Notice::Connected`] follows.
    Connecting(Lease),
    /// A place in the queue, until [`Upstreams::poll_granted`] or a [`Notice::Failed`].
    Queued(Ticket),
    /// Connections and queue are full.
    Full,
    /// It waited too long in a queue that stands.
    Overdue,
}

/// A place in a group's queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) group: GroupKey,
    pub(super) number: u64,
}

/// The state in which a slot is released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Release {
    /// Request and response are complete: the next request may follow on the connection, if the
    /// response allows it.
    Reuse,
    /// Something is missing or left over: the connection is closed.
    Discard,
}

/// An event for the exchange that holds a lease or a ticket.
#[derive(Debug)]
pub(super) enum Notice {
    /// The connection is open: its slot can be used.
    Connected,
    /// The write in flight is complete.
    Wrote,
    /// The upstream takes no more of the request. It may still have sent a response (an early 413,
    /// then a close).
    WriteFailed,
    /// Bytes of the response, to be decoded; `more_follows` when the same receive has more.
    Received { piece: BytesMut, more_follows: bool },
    /// The connection ended, and the response with it.
    Ended,
    /// The response is missing or incomplete. `retry` is set if another connection may serve the
    /// request, to what that attempt should avoid.
    Failed { fault: Fault, retry: Option<Avoid> },
}

/// The timers of the upstream side.
#[derive(Debug, Clone, Copy)]
pub(super) enum UpstreamTimer {
    Queue(Ticket),
    Connection(UpstreamKey),
}

impl Upstreams {
    /// Returns the upstreams of one of `worker_count` workers, which share the configured limits.
    pub(super) fn new(upstreams: &[config::Upstream], worker_count: u16) -> Self {
        let mut new = Self {
            current: Vec::new(),
            groups: Slab::new(),
            connections: Slab::new(),
            freed: Vec::new(),
            last_ticket: 0,
            last_connect: 0,
            idle_count: 0,
            spare_count: 0,
            waiting_count: 0,
            is_draining: false,
            worker_count,
        };
        new.set_up_groups(upstreams, &[]);
        new
    }

    /// Applies a changed configuration. Groups that did not change stay as they are; endpoints that
    /// did not change keep their connections and their health.
    pub(super) fn apply(&mut self, cx: &mut Context<'_>, upstreams: &[config::Upstream]) {
        let earlier = std::mem::take(&mut self.current);
        self.set_up_groups(upstreams, &earlier);
        for key in earlier {
            if !self.current.contains(&key) {
                group(&mut self.groups, key).retired = true;
                self.hand_over(cx, key);
                self.close_idle_of(cx, key);
                self.remove_if_unused(key);
            }
        }
    }

    /// Counts an exchange as a user of the group, so that the group outlives it.
    pub(super) fn join(&mut self, key: GroupKey) {
        group(&mut self.groups, key).user_count += 1;
    }

    pub(super) fn leave(&mut self, key: GroupKey) {
        let group = group(&mut self.groups, key);
        group.user_count = group.user_count.checked_sub(1).expect("a group's users are counted");
        self.remove_if_unused(key);
    }

    /// Finds a slot for `request`, or a place in the queue.
    pub(super) fn acquire(
        &mut self,
        cx: &mut Context<'_>,
        key: GroupKey,
        request: SlotRequest,
    ) -> Acquired {
        let choice = group(&mut self.groups, key).choose(cx.now, &request);
        self.take(cx, key, choice, request)
    }

    /// Gives up a place in the queue.
    pub(super) fn cancel(&mut self, cx: &mut Context<'_>, ticket: Ticket) {
        let group = group(&mut self.groups, ticket.group);
        let mut waiting = group.dequeue(cx.now, ticket.number);
        cx.timers.clear(&mut waiting.timer);
        self.waiting_count -= 1;
    }

    /// Returns the next exchange that waits for a slot and for which there is one, with the slot.
    /// To be called until it returns `None`, after every call that may release one.
    pub(super) fn poll_granted(&mut self, cx: &mut Context<'_>) -> Option<(ExchangeKey, Acquired)> {
        while let Some(key) = self.freed.last() {
            if let Some(granted) = self.grant(cx, *key) {
                return Some(granted);
            }
            self.freed.pop();
        }
        None
    }

    /// Returns the endpoint that a lease is for.
    pub(super) fn endpoint(&self, lease: &Lease) -> &Endpoint {
        let group = self.groups.get(lease.group).expect("a group outlives its leases");
        &group.endpoints[lease.endpoint]
    }

    /// Returns the slot of a lease, whose connection must be open.
    pub(super) fn slot(&mut self, lease: &Lease) -> Slot<'_> {
        let connection = connection(&mut self.connections, lease.connection);
        Slot::new(lease, connection, group(&mut self.groups, lease.group))
    }

    pub(super) fn release(&mut self, cx: &mut Context<'_>, lease: Lease, release: Release) {
        let key = lease.connection;
        let connection = connection(&mut self.connections, key);
        let State::Active(active) = &connection.state else { return self.close(cx, key) };
        let (write, read) = (active.write, active.read);
        let address = active.address;
        let hint = active.decoder.keep_alive_timeout();
        connection.idle_timeout_max = hint.map(|hint| hint - KEEP_ALIVE_MARGIN.min(hint / 2));
        if release == Release::Discard || !active.decoder.keeps_alive() || write == Write::Failed {
            return self.close(cx, key);
        }
        if connection.idle_timeout_max == Some(Duration::ZERO) {
            return self.close(cx, key);
        }
        connection.state = State::Finishing;
        group(&mut self.groups, lease.group).in_use.give_back(address);
        if write == Write::Ready {
            self.keep_or_close(cx, key);
        } else {
            // The kernel has not reported yet that it has taken the request's last bytes.
            self.set_idle_timer(cx, key);
        }
        if read == Read::Paused && self.connections.get(key).is_some() {
            receive(cx, key, None);
        }
    }

    /// Handles an event on a connection. Events for dead keys are ignored.
    pub(super) fn handle_event(
        &mut self,
        cx: &mut Context<'_>,
        key: UpstreamKey,
        event: UpstreamEvent,
    ) -> Option<(ExchangeKey, Notice)> {
        let connection = self.connections.get_mut(key)?;
        let group = group(&mut self.groups, connection.group);
        match &mut connection.state {
            State::Connecting(connecting) => match event {
                UpstreamEvent::Connected => {
                    let active = connecting.connected(cx, key);
                    group.endpoints[connection.endpoint].connecting.remove(&connecting.number);
                    let exchange = active.exchange;
                    connection.state = State::Active(active);
                    Some((exchange, Notice::Connected))
                }
                UpstreamEvent::ConnectFailed(fault) | UpstreamEvent::Failed(fault) => {
                    Some(connecting.failed(cx, group, connection.endpoint, fault))
                }
                _ => None,
            },
            State::Spare => {
                self.handle_spare(cx, key, &event);
                None
            }
            State::Active(active) => active.handle(cx, group, connection.endpoint, event),
            State::Finishing if matches!(event, UpstreamEvent::Wrote) => {
                self.keep_or_close(cx, key);
                None
            }
            State::Finishing | State::Idle(_) => {
                self.handle_unasked(cx, key, &event);
                None
            }
        }
    }

    pub(super) fn handle_timeout(
        &mut self,
        cx: &mut Context<'_>,
        timer: UpstreamTimer,
    ) -> Option<(ExchangeKey, Notice)> {
        let owner = TimerOwner::Upstream(timer);
        match timer {
            UpstreamTimer::Queue(ticket) => {
                let waiting = group(&mut self.groups, ticket.group).waiting.get_mut(&ticket.number);
                let waiting = waiting.expect("a timer is cleared before its owner goes");
                let notice = Notice::Failed { fault: Fault::QueueTimeout, retry: None };
                let has_fired = cx.timers.fires(&mut waiting.timer, cx.now, owner);
                has_fired.then_some((waiting.request.exchange, notice))
            }
            UpstreamTimer::Connection(key) => {
                let connection = connection(&mut self.connections, key);
                if !cx.timers.fires(&mut connection.timer, cx.now, owner) {
                    return None;
                }
                let group = group(&mut self.groups, connection.group);
                let endpoint = connection.endpoint;
                match &connection.state {
                    State::Connecting(connecting) => {
                        let fault = TransportFault::TimedOut;
                        Some(connecting.failed(cx, group, endpoint, fault))
                    }
                    State::Spare => {
                        self.fail_spare(cx, key, TransportFault::TimedOut);
                        None
                    }
                    State::Active(active) => Some(active.timed_out(cx, group, endpoint)),
                    State::Finishing | State::Idle(_) => {
                        self.close(cx, key);
                        None
                    }
                }
            }
        }
    }

    /// Notes that the last receive is paused. Returns the exchange whose response it was for.
    pub(super) fn pause_receive(
        &mut self,
        cx: &mut Context<'_>,
        key: UpstreamKey,
    ) -> Option<ExchangeKey> {
        let connection = self.connections.get_mut(key)?;
        let State::Active(active) = &mut connection.state else {
            unreachable!("a receive is paused for a response that has begun")
        };
        active.read = Read::Paused;
        cx.counters.receives_paused += 1;
        Some(active.exchange)
    }

    /// Stops keeping connections: from now on each is closed when it is released.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) {
        self.is_draining = true;
        self.close_idle(cx);
    }

    pub(super) fn close_idle(&mut self, cx: &mut Context<'_>) {
        for key in self.groups.keys() {
            self.close_idle_of(cx, key);
        }
    }

    /// Returns the counters of all endpoints of the configuration.
    pub(super) fn report(&self) -> Vec<EndpointReport> {
        let groups = self.current.iter().filter_map(|key| self.groups.get(*key));
        groups.flat_map(|group| &group.endpoints).map(Endpoint::report).collect()
    }

    /// Returns the number of connections, those that are being opened included.
    pub(super) fn connection_count(&self) -> usize {
        self.connections.len()
    }

    /// Returns the number of groups, retired ones included, after checking that none has a user.
    #[cfg(test)]
    pub(super) fn unused_group_count(&self) -> usize {
        for group in self.groups.keys().into_iter().filter_map(|key| self.groups.get(key)) {
            assert!(!group.retired && group.user_count == 0 && group.waiting.is_empty());
        }
        self.groups.len()
    }
}

/// Returns a group that is current or has users.
fn group(groups: &mut Slab<GroupKey, Group>, key: GroupKey) -> &mut Group {
    groups.get_mut(key).expect("a current or used group exists")
}

/// Returns a connection that is leased, listed or found by its event.
fn connection(
    connections: &mut Slab<UpstreamKey, Connection>,
    key: UpstreamKey,
) -> &mut Connection {
    connections.get_mut(key).expect("a leased or listed connection exists")
}
