//! The machine as a whole: what it holds, how it is set up, its time and its end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::api::{Counts, ExchangeKey, Output, Tally, UpstreamKey};
use super::exchange::{Bounds, Exchange};
use super::faults::Fault;
use super::routes::RouteTable;
use super::upstream::{Connection, Group, GroupKey, Role};
use crate::base::slab::Slab;
use crate::base::timers::Timers;
use crate::config::Config;
use crate::limits::RESPONSE_PENDING_LEN_MAX;
use crate::message::Outcome;
use crate::planted::{Bug, is_planted};

/// The proxy of one worker. See the module.
pub struct Proxy {
    pub(super) config: Arc<Config>,
    /// Of `config.routes`.
    pub(super) routes: RouteTable,
    /// Groups of `config.upstreams`, in its order.
    pub(super) current_groups: Vec<GroupKey>,
    pub(super) groups: Slab<GroupKey, Group>,
    pub(super) exchanges: Slab<ExchangeKey, Exchange>,
    pub(super) connections: Slab<UpstreamKey, Connection>,
    pub(super) timers: Timers<Owner>,
    pub(super) outputs: VecDeque<Output>,
    /// Exchanges that may have something to write.
    pub(super) due_pumps: VecDeque<ExchangeKey>,
    /// Orders waiting exchanges and idle connections.
    pub(super) ticket: u64,
    pub(super) waiting_count: usize,
    pub(super) idle_count: usize,
    pub(super) tally: Tally,
    /// Buffers are short: answers that nobody takes get no more of them.
    pub(super) memory_low: bool,
    draining: bool,
    worker_count: u16,
}

/// Whose timer it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Owner {
    /// The client's sending.
    Body(ExchangeKey),
    /// The wait for a connection.
    Queue(ExchangeKey),
    /// The client's taking.
    Response(ExchangeKey),
    /// The upstream's doing, or that there is nothing to do for it.
    Connection(UpstreamKey),
}

impl Proxy {
    /// The proxy of one of `worker_count` workers: it may use its share of what the configuration
    /// allows the process.
    pub fn new(config: Arc<Config>, worker_count: u16) -> Self {
        let mut proxy = Self {
            routes: RouteTable::new(&config.routes),
            config,
            current_groups: Vec::new(),
            groups: Slab::new(),
            exchanges: Slab::new(),
            connections: Slab::new(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            due_pumps: VecDeque::new(),
            ticket: 0,
            waiting_count: 0,
            idle_count: 0,
            tally: Tally::default(),
            memory_low: false,
            draining: false,
            worker_count,
        };
        proxy.set_up_groups();
        proxy
    }

    /// Runs by `config` from now on. Exchanges that have begun end by what they began with;
    /// upstreams that did not change keep their connections.
    pub fn apply(&mut self, now: Instant, config: Arc<Config>) {
        self.routes = RouteTable::new(&config.routes);
        self.config = config;
        let earlier = std::mem::take(&mut self.current_groups);
        self.set_up_groups_from(&earlier);
        for key in earlier {
            if self.current_groups.contains(&key) {
                continue;
            }
            self.groups.get_mut(key).expect("a current group exists").retired = true;
            self.close_idle_of(now, key);
            self.remove_unused_group(key);
        }
    }

    /// What is to be done next; drained after any number of inputs.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let key = self.due_pumps.pop_front()?;
            self.pump(now, key);
        }
    }

    /// When [`Proxy::handle_timeout`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    /// Ends what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(owner) = self.timers.pop(now) {
            if !self.has_fired(now, owner) {
                continue;
            }
            match owner {
                Owner::Body(exchange) => self.fail(now, exchange, Fault::RequestTimeout),
                Owner::Response(exchange) => self.fail(now, exchange, Fault::ResponseStalled),
                Owner::Queue(exchange) => self.fail(now, exchange, Fault::QueueTimeout),
                Owner::Connection(connection) => self.handle_upstream_timeout(now, connection),
            }
        }
    }

    /// Tells whether buffers are short. Then a response is only read on when the client's connection
    /// has taken all that came of it, so that clients that do not read cannot use memory up. Who
    /// does read loses nothing by it: the connection takes a piece as soon as it comes.
    pub fn set_memory_low(&mut self, memory_low: bool) {
        self.memory_low = memory_low;
    }

    /// Whether more of a response of which `pending_len` bytes wait for the client is to be read.
    pub(super) fn reads_on(&self, pending_len: usize) -> bool {
        pending_len == 0 || !self.memory_low && pending_len < RESPONSE_PENDING_LEN_MAX
    }

    /// Keeps no connection from now on: each closes when its exchange is answered.
    pub fn drain(&mut self, now: Instant) {
        self.draining = true;
        self.close_idle(now);
    }

    /// Closes all kept connections.
    pub fn close_idle(&mut self, now: Instant) {
        for key in self.groups.keys() {
            self.close_idle_of(now, key);
        }
    }

    /// Whether no exchange runs and no connection is open.
    pub fn is_idle(&self) -> bool {
        self.exchanges.len() == 0 && self.connections.len() == 0
    }

    /// How much there is of everything.
    pub fn counts(&self) -> Counts {
        Counts {
            exchanges: self.exchanges.len(),
            connections: self.connections.len(),
            idle: self.idle_count,
            waiting: self.waiting_count,
        }
    }

    /// What has happened since the start.
    pub fn tally(&self) -> Tally {
        self.tally
    }

    /// Whether a connection of `group` may be kept.
    pub(super) fn keeps_connections_of(&self, group: GroupKey) -> bool {
        !self.draining && self.groups.get(group).is_some_and(|group| !group.retired)
    }

    pub(super) fn next_ticket(&mut self) -> u64 {
        self.ticket += 1;
        self.ticket
    }

    /// The limits that exchanges begin under.
    pub(super) fn bounds(&self) -> Bounds {
        let limits = &self.config.limits;
        Bounds {
            request_body_len_max: limits.request_body_len_max,
            request_body_timeout: limits.request_body_timeout,
            response_head_len_max: limits.response_head_len_max as usize,
        }
    }

    /// The exchange is over: its record is written and its key is dead.
    pub(super) fn end(&mut self, now: Instant, key: ExchangeKey, outcome: Outcome) {
        let mut exchange = self.exchanges.remove(key).expect("an exchange ends once");
        self.timers.clear(&mut exchange.body_timer);
        self.timers.clear(&mut exchange.queue_timer);
        self.timers.clear(&mut exchange.response_timer);
        if let Some(group) = exchange.group {
            self.leave_group(group);
        }
        let record = exchange.into_record(now, outcome);
        if is_planted(Bug::DoubleRecord) && matches!(outcome, Outcome::Reset(_)) {
            self.outputs.push_back(Output::Access(record.clone()));
        }
        self.outputs.push_back(Output::Access(record));
    }

    /// An exchange or a connection of the group is gone.
    pub(super) fn leave_group(&mut self, key: GroupKey) {
        let group = self.groups.get_mut(key).expect("a used group exists");
        group.user_count = group.user_count.checked_sub(1).expect("a group's users are counted");
        self.remove_unused_group(key);
    }

    fn set_up_groups(&mut self) {
        self.set_up_groups_from(&[]);
    }

    /// Makes the groups of the configuration, keeping those of `earlier` that did not change.
    fn set_up_groups_from(&mut self, earlier: &[GroupKey]) {
        for upstream in &self.config.upstreams {
            let same = |key: &&GroupKey| {
                self.groups.get(**key).is_some_and(|group| group.config == *upstream)
            };
            let key = match earlier.iter().find(same) {
                Some(key) => *key,
                None => self.groups.insert(Group::new(upstream, self.worker_count)),
            };
            self.current_groups.push(key);
        }
    }

    fn close_idle_of(&mut self, now: Instant, group: GroupKey) {
        // A retired group goes with the last of them.
        let newest = |proxy: &Self| {
            let group = proxy.groups.get(group)?;
            group.endpoints.iter().find_map(|endpoint| endpoint.idle.newest())
        };
        while let Some(connection) = newest(self) {
            self.close(now, connection);
        }
    }

    fn remove_unused_group(&mut self, key: GroupKey) {
        if self.groups.get(key).is_some_and(|group| group.retired && group.user_count == 0) {
            self.groups.remove(key);
        }
    }

    fn has_fired(&mut self, now: Instant, owner: Owner) -> bool {
        const EXISTS: &str = "a timer is cleared before its owner goes";
        let timer = match owner {
            Owner::Body(key) => &mut self.exchanges.get_mut(key).expect(EXISTS).body_timer,
            Owner::Queue(key) => &mut self.exchanges.get_mut(key).expect(EXISTS).queue_timer,
            Owner::Response(key) => &mut self.exchanges.get_mut(key).expect(EXISTS).response_timer,
            Owner::Connection(key) => &mut self.connections.get_mut(key).expect(EXISTS).timer,
        };
        self.timers.fires(timer, now, owner)
    }

    fn handle_upstream_timeout(&mut self, now: Instant, key: UpstreamKey) {
        let connection = self.connections.get(key).expect("a timer's connection exists");
        let writing = connection.writing;
        match connection.role {
            Role::Connecting(_) => self.connect_failed(now, key, Fault::ConnectTimeout),
            Role::Busy(exchange, _) => {
                self.note_failure(now, key);
                let fault = if writing { Fault::WriteTimeout } else { Fault::ResponseTimeout };
                self.fail_over(now, key, exchange, fault);
            }
            Role::Finishing | Role::Idle(_) => self.close(now, key),
        }
    }
}
