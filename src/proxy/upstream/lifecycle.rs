//! The life of connections: opening, keeping, granting to queued exchanges, and closing.

use super::connection_states::{Active, Connecting, Connection, Origin, State, receive};
use super::group::{Avoid, Choice, Connect, Endpoint, Group};
use super::{
    Acquired, GroupKey, Lease, SlotRequest, Ticket, UpstreamTimer, Upstreams, connection, group,
};
use crate::base::timers::Timer;
use crate::config;
use crate::proxy::api::{ExchangeKey, TransportFault, UpstreamCommand, UpstreamEvent, UpstreamKey};
use crate::proxy::context::{Context, TimerOwner};

impl Upstreams {
    pub(super) fn take(
        &mut self,
        cx: &mut Context<'_>,
        key: GroupKey,
        choice: Choice,
        request: SlotRequest,
    ) -> Acquired {
        match choice {
            Choice::Idle(connection) => self.reuse(cx, connection, &request),
            Choice::New(endpoint) => self.connect(cx, key, endpoint, request),
            Choice::Replace(connection, endpoint) => {
                self.close(cx, connection);
                self.connect(cx, key, endpoint, request)
            }
            Choice::Queue => self.enqueue(cx, key, request),
            Choice::Full => Acquired::Full,
        }
    }

    fn connect(
        &mut self,
        cx: &mut Context<'_>,
        group_key: GroupKey,
        endpoint: usize,
        request: SlotRequest,
    ) -> Acquired {
        let group = group(&mut self.groups, group_key);
        group.user_count += 1;
        group.in_use.take(request.address);
        let state = &mut group.endpoints[endpoint];
        state.opened();
        let is_trial = state.health.begin_request(cx.now);
        self.last_connect += 1;
        let (number, start) = (self.last_connect, cx.now);
        let key = self.connections.insert(Connection {
            group: group_key,
            endpoint,
            state: State::Connecting(Connecting { request, is_trial, start, number }),
            timer: Timer::default(),
            idle_timeout_max: None,
        });
        // A trial needs a new connection, and so does a request that failed on an idle one.
        if !is_trial && request.avoid != Avoid::Idle {
            state.connecting.insert(number, key);
        }
        cx.counters.exported.upstream_connects += 1;
        let due = cx.now + group.config.connect_timeout;
        let timer = &mut connection(&mut self.connections, key).timer;
        cx.timers.set(timer, due, TimerOwner::Upstream(UpstreamTimer::Connection(key)));
        let (address, congestion) = (state.address.clone(), group.config.congestion.clone());
        cx.command_upstream(UpstreamCommand::Connect { key, address, congestion });
        Acquired::Connecting(Lease { group: group_key, endpoint, connection: key })
    }

    fn reuse(&mut self, cx: &mut Context<'_>, key: UpstreamKey, request: &SlotRequest) -> Acquired {
        let connection = connection(&mut self.connections, key);
        let (group_key, endpoint) = (connection.group, connection.endpoint);
        connection.timer.disarm();
        let group = group(&mut self.groups, group_key);
        group.in_use.take(request.address);
        let state = &mut group.endpoints[endpoint];
        let is_trial = state.health.begin_request(cx.now);
        let active = Active::new(cx, key, request, Origin::Idle, is_trial);
        let earlier = std::mem::replace(&mut connection.state, State::Active(active));
        let State::Idle(links) = earlier else { unreachable!("an idle connection is reused") };
        state.idle.remove(&mut self.connections, links);
        self.idle_count -= 1;
        cx.counters.exported.upstream_reuses += 1;
        Acquired::Ready(Lease { group: group_key, endpoint, connection: key })
    }

    fn enqueue(&mut self, cx: &mut Context<'_>, key: GroupKey, request: SlotRequest) -> Acquired {
        self.last_ticket += 1;
        self.waiting_count += 1;
        let ticket = Ticket { group: key, number: self.last_ticket };
        let group = group(&mut self.groups, key);
        let mut timer = Timer::default();
        let due = cx.now + group.config.connect_timeout;
        cx.timers.set(&mut timer, due, TimerOwner::Upstream(UpstreamTimer::Queue(ticket)));
        group.enqueue(cx.now, ticket.number, request, timer);
        if group.overdue(cx.now).is_some() {
            self.note_room(key);
        }
        Acquired::Queued(ticket)
    }

    /// Gives up the first exchange in the queue if it waited too long. Otherwise grants it a slot,
    /// if there is one, or else the first one that waits for a new connection.
    pub(super) fn grant(
        &mut self,
        cx: &mut Context<'_>,
        key: GroupKey,
    ) -> Option<(ExchangeKey, Acquired)> {
        let group = self.groups.get_mut(key)?;
        if let Some((number, request)) = group.overdue(cx.now) {
            self.cancel(cx, Ticket { group: key, number });
            cx.counters.exported.queue_sheds += 1;
            return Some((request.exchange, Acquired::Overdue));
        }
        if let Some((number, request)) = group.first_waiting() {
            let choice = group.choose(cx.now, &request);
            if !matches!(choice, Choice::Queue | Choice::Full) {
                group.standing.granted(cx.now);
                self.cancel(cx, Ticket { group: key, number });
                return Some((request.exchange, self.take(cx, key, choice, request)));
            }
        }
        self.grant_to_connecting(cx, key)
    }

    /// Gives an idle connection to the request that has waited longest for a new one to the same
    /// endpoint: its SYN may be lost, or the endpoint's queue full. The new connection is opened
    /// all the same, and kept.
    fn grant_to_connecting(
        &mut self,
        cx: &mut Context<'_>,
        key: GroupKey,
    ) -> Option<(ExchangeKey, Acquired)> {
        let group = group(&mut self.groups, key);
        let endpoint = group.endpoints.iter_mut().find(|one| one.can_serve_connecting())?;
        let (idle, first) = (endpoint.idle.newest?, endpoint.connecting.pop_first());
        let (_, opening) = first.expect("one is connecting");
        let opening = connection(&mut self.connections, opening);
        let State::Connecting(connecting) = std::mem::replace(&mut opening.state, State::Spare)
        else {
            unreachable!("a connection leaves the list when it is no longer being opened")
        };
        let request = connecting.request;
        self.spare_count += 1;
        group.in_use.give_back(request.address);
        Some((request.exchange, self.reuse(cx, idle, &request)))
    }

    /// Handles an event on a connection that is being opened for nobody.
    pub(super) fn handle_spare(
        &mut self,
        cx: &mut Context<'_>,
        key: UpstreamKey,
        event: &UpstreamEvent,
    ) {
        match event {
            UpstreamEvent::Connected => {
                self.keep_or_close(cx, key);
                if self.connections.get(key).is_some() {
                    self.spare_count -= 1;
                    receive(cx, key, None);
                }
            }
            UpstreamEvent::ConnectFailed(fault) | UpstreamEvent::Failed(fault) => {
                self.fail_spare(cx, key, *fault);
            }
            _ => {}
        }
    }

    /// Counts a connect that failed although nobody waits for it any more.
    pub(super) fn fail_spare(
        &mut self,
        cx: &mut Context<'_>,
        key: UpstreamKey,
        fault: TransportFault,
    ) {
        let connection = connection(&mut self.connections, key);
        let group = group(&mut self.groups, connection.group);
        // It is spare since the endpoint has served its request by another connection.
        let start = group.endpoints[connection.endpoint].responded.unwrap_or(cx.now);
        let connect = Connect { exchange: None, start, is_trial: false };
        group.endpoints[connection.endpoint].fail_connect(cx, connect, fault);
        self.close(cx, key);
    }

    /// Keeps a connection whose messages are both complete, or closes it if none are kept. A
    /// receive is armed on it, or armed next, to detect that the peer closes it or sends
    /// unsolicited bytes.
    pub(super) fn keep_or_close(&mut self, cx: &mut Context<'_>, key: UpstreamKey) {
        let connection = connection(&mut self.connections, key);
        let (group_key, endpoint) = (connection.group, connection.endpoint);
        if self.is_draining {
            return self.close(cx, key);
        }
        if group(&mut self.groups, group_key).retired {
            let heir = self.heir_of(group_key, endpoint);
            return match heir.filter(|heir| self.can_keep_for(*heir, group_key)) {
                Some(heir) => self.keep_for(cx, key, heir),
                None => self.close(cx, key),
            };
        }
        self.set_idle_timer(cx, key);
        let group = group(&mut self.groups, group_key);
        group.endpoints[endpoint].idle.push(&mut self.connections, key);
        self.idle_count += 1;
        self.note_room(group_key);
    }

    /// Handles an event on a connection without a request. Closes it on unsolicited bytes, which
    /// would be taken for the response to the next request.
    pub(super) fn handle_unasked(
        &mut self,
        cx: &mut Context<'_>,
        key: UpstreamKey,
        event: &UpstreamEvent,
    ) {
        match event {
            UpstreamEvent::WriteFailed(_) => self.close(cx, key),
            UpstreamEvent::Received(_)
            | UpstreamEvent::ReceivedPart(_)
            | UpstreamEvent::End
            | UpstreamEvent::Failed(_) => {
                cx.counters.exported.upstream_idle_discarded += 1;
                self.close(cx, key);
            }
            _ => {}
        }
    }

    pub(super) fn close(&mut self, cx: &mut Context<'_>, key: UpstreamKey) {
        let mut connection = self.connections.remove(key).expect("a connection is closed once");
        cx.timers.clear(&mut connection.timer);
        let group = group(&mut self.groups, connection.group);
        let endpoint = &mut group.endpoints[connection.endpoint];
        endpoint.closed();
        connection.state.user().iter().for_each(|user| group.in_use.give_back(*user));
        match connection.state {
            State::Idle(links) => {
                endpoint.idle.remove(&mut self.connections, links);
                self.idle_count -= 1;
            }
            State::Connecting(Connecting { is_trial: true, .. })
            | State::Active(Active { is_trial: true, .. }) => endpoint.health.trial_ended(),
            State::Connecting(connecting) => {
                endpoint.connecting.remove(&connecting.number);
            }
            State::Spare => self.spare_count -= 1,
            State::Active(_) | State::Finishing => {}
        }
        cx.command_upstream(UpstreamCommand::Close { key });
        self.note_room(connection.group);
        self.leave(connection.group);
    }

    pub(super) fn close_idle_of(&mut self, cx: &mut Context<'_>, key: GroupKey) {
        // A retired group is removed with the last of them.
        let newest = |upstreams: &Self| {
            let group = upstreams.groups.get(key)?;
            group.endpoints.iter().find_map(|endpoint| endpoint.idle.newest)
        };
        while let Some(connection) = newest(self) {
            self.close(cx, connection);
        }
        if self.spare_count == 0 {
            return;
        }
        let is_spare = |connection: &Connection| {
            connection.group == key && matches!(connection.state, State::Spare)
        };
        let mut spares = self.connections.keys();
        spares.retain(|key| self.connections.get(*key).is_some_and(is_spare));
        spares.into_iter().for_each(|spare| self.close(cx, spare));
    }

    /// Takes an idle connection out of its list. It must be kept or closed next.
    pub(super) fn take_from_idle(&mut self, key: UpstreamKey) {
        let idle = connection(&mut self.connections, key);
        let (group_key, endpoint) = (idle.group, idle.endpoint);
        let earlier = std::mem::replace(&mut idle.state, State::Finishing);
        let State::Idle(links) = earlier else { unreachable!("only idle ones are in the list") };
        let endpoint = &mut group(&mut self.groups, group_key).endpoints[endpoint];
        endpoint.idle.remove(&mut self.connections, links);
        self.idle_count -= 1;
    }

    pub(super) fn set_idle_timer(&mut self, cx: &mut Context<'_>, key: UpstreamKey) {
        let connection = connection(&mut self.connections, key);
        let group = group(&mut self.groups, connection.group);
        let configured = group.config.idle_timeout;
        let idle_timeout =
            connection.idle_timeout_max.map_or(configured, |max| max.min(configured));
        let due = cx.now + idle_timeout;
        let owner = TimerOwner::Upstream(UpstreamTimer::Connection(key));
        cx.timers.set(&mut connection.timer, due, owner);
    }

    /// Notes that a slot may be free for the queue of the group, or for a request that waits for a
    /// new connection.
    pub(super) fn note_room(&mut self, key: GroupKey) {
        let group = group(&mut self.groups, key);
        let waits =
            !group.waiting.is_empty() || group.endpoints.iter().any(Endpoint::can_serve_connecting);
        if waits && !self.freed.contains(&key) {
            self.freed.push(key);
        }
    }

    /// Creates the groups of a configuration, keeping those of `earlier` that did not change.
    pub(super) fn set_up_groups(&mut self, upstreams: &[config::Upstream], earlier: &[GroupKey]) {
        for upstream in upstreams {
            let same = |key: &&GroupKey| {
                self.groups.get(**key).is_some_and(|group| group.config == *upstream)
            };
            let key = match earlier.iter().find(same) {
                Some(key) => *key,
                None => self.groups.insert(Group::new(upstream, self.worker_count)),
            };
            self.current.push(key);
        }
    }

    pub(super) fn remove_if_unused(&mut self, key: GroupKey) {
        if self.groups.get(key).is_some_and(|group| group.retired && group.user_count == 0) {
            self.groups.remove(key);
        }
    }
}
