//! From an exchange to a connection: choosing, opening, waiting, trying again, keeping, closing.

use std::time::Instant;

use super::api::{ExchangeKey, Output, UpstreamCommand, UpstreamKey};
use super::exchange::Stage;
use super::faults::Fault;
use super::fields::encode_head;
use super::machine::{Owner, Proxy};
use super::upstream::Failure;
use super::upstream::{Choice, Connection, GroupKey, Role};
use crate::base::timers::Timer;
use crate::http1::{ConnectionOptions, ResponseDecoder};

impl Proxy {
    /// Finds a connection for an arrived exchange, or a place in the queue, or answers 503.
    pub(super) fn dispatch(&mut self, now: Instant, key: ExchangeKey) {
        let exchange = self.exchanges.get(key).expect("an exchange to place exists");
        let group_key = exchange.group.expect("an admitted exchange has its group");
        let group = self.groups.get_mut(group_key).expect("a used group exists");
        match group.choose(now, exchange.avoid) {
            Choice::Reuse { connection } => self.reuse(now, key, connection),
            Choice::Open { endpoint } => self.connect(now, key, group_key, endpoint),
            Choice::Replace { endpoint, connection } => {
                self.replace(now, key, endpoint, connection);
            }
            Choice::Wait => self.wait(now, key, group_key),
            Choice::Full => self.fail(now, key, Fault::QueueFull),
        }
    }

    /// The connection could not be made in time or at all.
    pub(super) fn connect_failed(&mut self, now: Instant, key: UpstreamKey, fault: Fault) {
        let connection = self.connections.get(key).expect("a connection that fails exists");
        let (group_key, endpoint) = (connection.group, connection.endpoint);
        let Role::Connecting(exchange) = connection.role else { return };
        self.tally.connect_failures += 1;
        let group = self.groups.get_mut(group_key).expect("a used group exists");
        // Where this process lacks something, the endpoint is not to blame.
        if fault != Fault::Connect(super::api::TransportFault::Exhausted) {
            let was_trial = connection.trial;
            let health = &mut group.endpoints[endpoint].health;
            let set_aside = health.failed(now, Failure::Connect, was_trial);
            self.tally.set_asides += u64::from(set_aside);
        }
        self.fail_over(now, key, exchange, fault);
    }

    /// The exchange has waited for the connection in vain: it is tried at another endpoint, if there
    /// is one and it may be.
    pub(super) fn fail_over(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        exchange: ExchangeKey,
        fault: Fault,
    ) {
        let connection = self.connections.get(key).expect("a connection that fails exists");
        let endpoint = connection.endpoint;
        let group = self.groups.get(connection.group).expect("a used group exists");
        let has_sibling = group.endpoints.len() > 1;
        let state = self.exchanges.get_mut(exchange).expect("a busy one's exchange exists");
        if has_sibling && state.may_be_tried_again() {
            state.avoid.endpoint = Some(endpoint);
            self.try_again(now, exchange);
        } else {
            self.fail(now, exchange, fault);
        }
    }

    /// The connection of an active exchange is of no more use.
    pub(super) fn connection_lost(&mut self, now: Instant, key: UpstreamKey, fault: Fault) {
        let connection = self.connections.get(key).expect("a connection that is lost exists");
        let (kept, endpoint) = (connection.kept, connection.endpoint);
        if !kept || fault == Fault::Incomplete {
            self.note_failure(now, key);
        }
        let connection = self.connections.get(key).expect("found above");
        let exchange = connection.role.exchange().expect("a busy connection has its exchange");
        let group = self.groups.get(connection.group).expect("a used group exists");
        // A kept connection may just have been closed for its idleness: a new one to the same
        // endpoint is as good. A new one that breaks speaks against the endpoint.
        let has_other = kept || group.endpoints.len() > 1;
        let state = self.exchanges.get_mut(exchange).expect("a busy connection's exchange exists");
        if !(has_other && state.may_be_tried_again()) {
            return self.fail(now, exchange, fault);
        }
        if kept {
            state.avoid.kept = true;
        } else {
            state.avoid.endpoint = Some(endpoint);
        }
        self.try_again(now, exchange);
    }

    /// What happened on the connection speaks against its endpoint.
    pub(super) fn note_failure(&mut self, now: Instant, key: UpstreamKey) {
        let connection = self.connections.get(key).expect("a connection that fails exists");
        let group = self.groups.get_mut(connection.group).expect("a used group exists");
        let health = &mut group.endpoints[connection.endpoint].health;
        let set_aside = health.failed(now, Failure::Response, connection.trial);
        self.tally.set_asides += u64::from(set_aside);
    }

    /// The head of a response came over the connection.
    pub(super) fn note_response(&mut self, key: UpstreamKey) {
        let connection = self.connections.get_mut(key).expect("a connection that responses exists");
        connection.trial = false;
        let group = self.groups.get_mut(connection.group).expect("a used group exists");
        group.endpoints[connection.endpoint].health.answered();
    }

    /// Takes the exchange out of its queue or off its connection, which is returned and must be
    /// closed.
    pub(super) fn detach(&mut self, key: ExchangeKey) -> Option<UpstreamKey> {
        let exchange = self.exchanges.get_mut(key).expect("an exchange to detach exists");
        if let Stage::Waiting { ticket } = exchange.stage() {
            let group = exchange.group.expect("a waiting exchange has its group");
            let group = self.groups.get_mut(group).expect("a used group exists");
            group.waiting.remove(&ticket).expect("a waiting exchange is in the queue");
            self.waiting_count -= 1;
            exchange.queue_timer.disarm();
        }
        exchange.stage().connection()
    }

    /// Keeps the connection for the next request.
    pub(super) fn keep(&mut self, now: Instant, key: UpstreamKey) {
        let connection = self.connections.get_mut(key).expect("a connection to keep exists");
        assert!(!connection.writing && !connection.broken, "only a clean connection is kept");
        let group_key = connection.group;
        let group = self.groups.get_mut(group_key).expect("a used group exists");
        connection.kept = true;
        let due = now + group.config.idle_timeout;
        self.timers.set(&mut connection.timer, due, Owner::Connection(key));
        let endpoint = connection.endpoint;
        group.endpoints[endpoint].idle.push(&mut self.connections, key);
        self.idle_count += 1;
        self.receive(key);
        self.serve_waiting(now, group_key);
    }

    /// Closes a connection that no exchange holds any more, and lets the next one have its place.
    pub(super) fn close(&mut self, now: Instant, key: UpstreamKey) {
        let group = self.remove(key);
        self.serve_waiting(now, group);
        self.leave_group(group);
    }

    /// Asks for the next piece of the connection, unless that was done.
    pub(super) fn receive(&mut self, key: UpstreamKey) -> bool {
        let connection = self.connections.get_mut(key).expect("a connection to read exists");
        if connection.receiving {
            return false;
        }
        connection.receiving = true;
        let exchange = connection.role.exchange().and_then(|exchange| self.exchanges.get(exchange));
        let downstream = exchange.map(|exchange| exchange.downstream);
        let receive = UpstreamCommand::Receive { key, downstream, slot_count_max: 1 };
        self.outputs.push_back(Output::Upstream(receive));
        true
    }

    fn connect(&mut self, now: Instant, key: ExchangeKey, group_key: GroupKey, endpoint: usize) {
        let group = self.groups.get_mut(group_key).expect("a used group exists");
        group.user_count += 1;
        let state = &mut group.endpoints[endpoint];
        state.opened();
        let trial = state.health.asked(now);
        let connection = self.connections.insert(Connection {
            group: group_key,
            endpoint,
            role: Role::Connecting(key),
            writing: false,
            receiving: false,
            kept: false,
            trial,
            broken: false,
            timer: Timer::default(),
        });
        self.tally.connects += 1;
        let address = state.address.clone();
        let exchange = self.exchanges.get_mut(key).expect("an exchange to connect exists");
        exchange.advance(Stage::Connecting { connection });
        exchange.note_endpoint(now, &state.label);
        let due = now + group.config.connect_timeout;
        let timer = &mut self.connections.get_mut(connection).expect("inserted above").timer;
        self.timers.set(timer, due, Owner::Connection(connection));
        let congestion = group.config.congestion.clone();
        let connect = UpstreamCommand::Connect { key: connection, address, congestion };
        self.outputs.push_back(Output::Upstream(connect));
    }

    /// Opens a connection in the place of an idle one.
    fn replace(
        &mut self,
        now: Instant,
        key: ExchangeKey,
        endpoint: usize,
        connection: UpstreamKey,
    ) {
        let group = self.remove(connection);
        self.connect(now, key, group, endpoint);
        self.leave_group(group);
    }

    fn reuse(&mut self, now: Instant, key: ExchangeKey, connection_key: UpstreamKey) {
        self.take_off_idle(connection_key);
        let connection =
            self.connections.get_mut(connection_key).expect("an idle connection exists");
        let group = self.groups.get_mut(connection.group).expect("a used group exists");
        let endpoint = &mut group.endpoints[connection.endpoint];
        connection.timer.disarm();
        connection.trial = endpoint.health.asked(now);
        let exchange = self.exchanges.get_mut(key).expect("an exchange to place exists");
        exchange.note_endpoint(now, &endpoint.label);
        self.tally.reused += 1;
        self.start(key, connection_key);
    }

    /// Lets the exchange's head leave over the connection, and as much of its body as there is.
    pub(super) fn start(&mut self, key: ExchangeKey, connection_key: UpstreamKey) {
        let exchange = self.exchanges.get_mut(key).expect("an exchange to start exists");
        exchange.advance(Stage::Active { connection: connection_key });
        let request = exchange.request.as_ref().expect("an admitted exchange has its request");
        let connection =
            self.connections.get_mut(connection_key).expect("a connection to use exists");
        let to_head = request.head.method == http::Method::HEAD;
        let decoder = ResponseDecoder::new(to_head, exchange.bounds.response_head_len_max);
        connection.role = Role::Busy(key, decoder);
        let group = self.groups.get(connection.group).expect("a used group exists");
        let host = group.host_for(connection.endpoint, request.head.authority().as_bytes());
        let nominated =
            ConnectionOptions::read(&request.head.fields).expect("checked when it was admitted");
        let head = encode_head(request, &nominated, host, exchange.framing, exchange.trusted);
        exchange.unsent_head = Some(head);
        self.pump_later(key);
        self.receive(connection_key);
    }

    fn wait(&mut self, now: Instant, key: ExchangeKey, group_key: GroupKey) {
        let ticket = self.next_ticket();
        let group = self.groups.get_mut(group_key).expect("a used group exists");
        group.waiting.insert(ticket, key);
        self.waiting_count += 1;
        let exchange = self.exchanges.get_mut(key).expect("an exchange to queue exists");
        exchange.advance(Stage::Waiting { ticket });
        let due = now + group.config.connect_timeout;
        self.timers.set(&mut exchange.queue_timer, due, Owner::Queue(key));
    }

    /// Places waiting exchanges while there is room, first in first out.
    fn serve_waiting(&mut self, now: Instant, group_key: GroupKey) {
        loop {
            let group = self.groups.get_mut(group_key).expect("a used group exists");
            let Some((_, key)) = group.waiting.first_key_value() else { return };
            let key = *key;
            let exchange = self.exchanges.get_mut(key).expect("a waiting exchange exists");
            let choice = group.choose(now, exchange.avoid);
            if matches!(choice, Choice::Wait | Choice::Full) {
                return;
            }
            self.detach(key);
            let exchange = self.exchanges.get_mut(key).expect("a waiting exchange exists");
            exchange.advance(Stage::Arrived);
            match choice {
                Choice::Reuse { connection } => self.reuse(now, key, connection),
                Choice::Open { endpoint } => self.connect(now, key, group_key, endpoint),
                Choice::Replace { endpoint, connection } => {
                    self.replace(now, key, endpoint, connection);
                }
                Choice::Wait | Choice::Full => unreachable!("returned above"),
            }
        }
    }

    /// Takes the exchange off its connection, closes that, and places it anew.
    fn try_again(&mut self, now: Instant, key: ExchangeKey) {
        self.tally.retries += 1;
        let exchange = self.exchanges.get_mut(key).expect("an exchange to try again exists");
        let connection = exchange.stage().connection().expect("a try has its connection");
        exchange.advance(Stage::Arrived);
        exchange.may_try_again = false;
        exchange.body.rewind();
        let group = self.remove(connection);
        // It came before those that wait, and their turn comes below.
        self.dispatch(now, key);
        self.serve_waiting(now, group);
        self.leave_group(group);
    }

    /// Takes the connection off its endpoint's list, if it is there.
    fn take_off_idle(&mut self, key: UpstreamKey) {
        let connection = self.connections.get(key).expect("a connection ends once");
        let Role::Idle(links) = connection.role else { return };
        let group = self.groups.get_mut(connection.group).expect("a used group exists");
        group.endpoints[connection.endpoint].idle.remove(&mut self.connections, links);
        self.idle_count -= 1;
    }

    /// Takes the connection off all lists. Its group is still counted as used.
    fn remove(&mut self, key: UpstreamKey) -> GroupKey {
        self.take_off_idle(key);
        let mut connection = self.connections.remove(key).expect("a connection ends once");
        self.timers.clear(&mut connection.timer);
        let group = self.groups.get_mut(connection.group).expect("a used group exists");
        let endpoint = &mut group.endpoints[connection.endpoint];
        endpoint.closed();
        if connection.trial {
            endpoint.health.trial_ended();
        }
        self.outputs.push_back(Output::Upstream(UpstreamCommand::Close { key }));
        connection.group
    }
}
