//! An upstream group of the configuration: its endpoints, and the queue of exchanges that wait for
//! a connection.
//!
//! ```text
//!   group "api" --- endpoint 127.0.0.1:8080 --- idle connections, last in first out
//!        |     \--- endpoint 127.0.0.1:8081 --- idle connections
//!        |
//!        +--- waiting exchanges, first in first out
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::balance::Balance;
use super::connection_states::SlotRequest;
use super::health::{Failure, Health};
use super::idle_list::IdleList;
use super::standing::Standing;
use crate::base::shares::Shares;
use crate::base::slab::slab_key;
use crate::base::timers::Timer;
use crate::config::{EndpointAddress, HostPolicy, Upstream};
use crate::limits::SHARE_COUNT_MIN;
use crate::message::{EndpointName, Incident};
use crate::metrics::{ConnectFailure, EndpointReport};
use crate::proxy::api::{ExchangeKey, Resource, TransportFault, UpstreamKey};
use crate::proxy::context::Context;
use crate::proxy::faults::Fault;

slab_key! {
    /// One upstream group.
    pub(crate) GroupKey
}

/// One upstream group, created from one version of its configuration.
pub(super) struct Group {
    pub(super) config: Upstream,
    pub(super) endpoints: Vec<Endpoint>,
    /// The queue, by ticket number.
    pub(super) waiting: BTreeMap<u64, Waiting>,
    pub(super) standing: Standing,
    /// Number of exchanges and connections of the group.
    pub(super) user_count: usize,
    /// A reload has replaced it.
    pub(super) retired: bool,
    balance: Balance,
    /// Connections that a request uses, by client address.
    pub(super) in_use: Shares,
    /// Exchanges in the queue, by client address.
    pub(super) queued: Shares,
    connections_max: usize,
    /// The most of them that one address may use while no more are free.
    share_max: usize,
    waiting_max: usize,
    /// The most places in the queue that one address may have while no more are free.
    queued_share_max: usize,
}

/// A request in the queue.
pub(super) struct Waiting {
    pub(super) request: SlotRequest,
    since: Instant,
    /// The queue timeout.
    pub(super) timer: Timer,
}

pub(crate) struct Endpoint {
    pub(super) address: EndpointAddress,
    /// The address as it appears in logs.
    pub(crate) label: Arc<str>,
    /// The name of its upstream.
    upstream: Arc<str>,
    /// Ejections, those after failed trials included, and restorations.
    ejection_count: u64,
    restoration_count: u64,
    pub(super) idle: IdleList,
    /// Connections that are being opened, the oldest first, whose requests may take an idle one.
    pub(super) connecting: BTreeMap<u64, UpstreamKey>,
    pub(super) health: Health,
    /// The last time at which a response's head came.
    pub(super) responded: Option<Instant>,
    /// The Host to send if `host = "upstream"`.
    host: Option<Bytes>,
    open_count: usize,
    open_max: usize,
}

/// The health of an endpoint, and its counters.
pub(super) struct EndpointStanding {
    health: Health,
    responded: Option<Instant>,
    ejection_count: u64,
    restoration_count: u64,
}

/// The failure of a request at an endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Failed {
    /// `None` if its request was served otherwise.
    pub(super) exchange: Option<ExchangeKey>,
    pub(super) failure: Failure,
    /// The request was the endpoint's trial.
    pub(super) was_trial: bool,
    pub(super) fault: Fault,
}

/// A connect to an endpoint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connect {
    /// `None` if its request was served otherwise.
    pub(super) exchange: Option<ExchangeKey>,
    pub(super) start: Instant,
    /// The request is the endpoint's trial.
    pub(super) is_trial: bool,
}

/// The connection for a request, or the queue.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This idle connection.
    Idle(UpstreamKey),
    /// A new connection to the endpoint.
    New(usize),
    /// A new connection to the endpoint, once this idle one is closed.
    Replace(UpstreamKey, usize),
    /// A place in the queue.
    Queue,
    /// Connections and queue are full.
    Full,
}

/// The endpoint or connection that a second attempt avoids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Avoid {
    /// Nothing is avoided: it is the first attempt.
    #[default]
    Nothing,
    /// This endpoint, which has failed.
    Endpoint(usize),
    /// Idle connections, one of which has failed.
    Idle,
}

impl Group {
    pub(super) fn new(config: &Upstream, worker_count: u16) -> Self {
        let worker_count = u32::from(worker_count.max(1));
        let open_max = config.max_connections.div_ceil(worker_count).max(1) as usize;
        let waiting_max = config.max_waiting.div_ceil(worker_count) as usize;
        let percent = usize::from(config.connections_per_address);
        let connections_max = open_max * config.endpoints.len();
        let endpoints = config.endpoints.iter().map(|endpoint| {
            let (label, host) = match &endpoint.address {
                EndpointAddress::Tcp(address) => (address.to_string(), address.to_string()),
                EndpointAddress::Unix(path) => {
                    (format!("unix:{}", path.display()), "localhost".to_owned())
                }
                EndpointAddress::Named(named) => {
                    (named.label.to_string(), named.addresses[0].to_string())
                }
            };
            Endpoint {
                address: endpoint.address.clone(),
                label: label.into(),
                upstream: config.name.as_str().into(),
                ejection_count: 0,
                restoration_count: 0,
                host: (config.host == HostPolicy::Upstream).then(|| host.into()),
                idle: IdleList::default(),
                connecting: BTreeMap::new(),
                responded: None,
                open_count: 0,
                open_max,
                health: Health::new(config.health),
            }
        });
        Self {
            endpoints: endpoints.collect(),
            waiting: BTreeMap::new(),
            standing: Standing::new(config.connect_timeout),
            in_use: Shares::default(),
            queued: Shares::default(),
            connections_max,
            share_max: (connections_max * percent / 100).max(SHARE_COUNT_MIN),
            user_count: 0,
            retired: false,
            balance: Balance::new(config.endpoints.iter().map(|endpoint| endpoint.weight)),
            waiting_max,
            queued_share_max: (waiting_max * percent / 100).max(SHARE_COUNT_MIN),
            config: config.clone(),
        }
    }

    /// Chooses a connection for one request, or the queue.
    pub(super) fn choose(&mut self, now: Instant, request: &SlotRequest) -> Choice {
        if !self.may_use_another(request) {
            return self.queue_for(request);
        }
        let avoid = request.avoid;
        let endpoints = &self.endpoints;
        let has_place = |index: usize| {
            let endpoint: &Endpoint = &endpoints[index];
            endpoint.idle.newest.is_some() || endpoint.has_room()
        };
        let is_other = |index: usize| avoid != Avoid::Endpoint(index);
        let is_available =
            |index: usize| is_other(index) && endpoints[index].health.is_available(now);
        // Waiting for an available endpoint is better than failing at an ejected one.
        let picked = if (0..endpoints.len()).any(is_available) {
            self.balance.pick(|index| has_place(index) && is_available(index))
        } else {
            self.balance
                .pick(|index| has_place(index) && is_other(index))
                .or_else(|| self.balance.pick(has_place))
        };
        let Some(index) = picked else { return self.queue_for(request) };
        let endpoint = &self.endpoints[index];
        match (endpoint.idle.newest, endpoint.idle.oldest) {
            (Some(connection), _) if avoid != Avoid::Idle => Choice::Idle(connection),
            (_, Some(connection)) if !endpoint.has_room() => Choice::Replace(connection, index),
            _ => Choice::New(index),
        }
    }

    /// Adds a request to the end of the queue.
    pub(super) fn enqueue(
        &mut self,
        now: Instant,
        number: u64,
        request: SlotRequest,
        timer: Timer,
    ) {
        self.queued.take(request.address);
        self.waiting.insert(number, Waiting { request, since: now, timer });
        self.standing.note(now, false);
    }

    /// Removes a request from the queue.
    pub(super) fn dequeue(&mut self, now: Instant, number: u64) -> Waiting {
        let waiting = self.waiting.remove(&number);
        let waiting = waiting.expect("a ticket is in the queue until it is granted");
        self.queued.give_back(waiting.request.address);
        self.standing.note(now, self.waiting.is_empty());
        waiting
    }

    /// Returns the oldest request in the queue if it has waited too long in a queue that stands.
    pub(super) fn overdue(&self, now: Instant) -> Option<(u64, SlotRequest)> {
        let wait_max = self.standing.wait_max()?;
        let (number, oldest) = self.waiting.first_key_value()?;
        let is_overdue = now.saturating_duration_since(oldest.since) > wait_max;
        is_overdue.then_some((*number, oldest.request))
    }

    /// Returns the first exchange in the queue whose client may use another connection.
    pub(super) fn first_waiting(&self) -> Option<(u64, SlotRequest)> {
        let mut waiting = self.waiting.iter().map(|(number, waiting)| (*number, waiting.request));
        let first = waiting.next()?;
        if self.may_use_another(&first.1) {
            return Some(first);
        }
        // Usually all that wait are of the same address.
        if self.queued.is_at(self.queued.total(), first.1.address) {
            return None;
        }
        waiting.find(|(_, request)| self.may_use_another(request))
    }

    /// Returns whether the requests of the client's address may use another connection: while they
    /// use less than their share, or less than is free.
    fn may_use_another(&self, request: &SlotRequest) -> bool {
        let free = self.connections_max.saturating_sub(self.in_use.total());
        let share = self.share_max.max(free);
        !request.has_share || !self.in_use.is_at(share, request.address)
    }

    /// Returns whether there is a place in the queue. An address may have as many as are free, or
    /// its share.
    fn queue_for(&self, request: &SlotRequest) -> Choice {
        let free = self.waiting_max.saturating_sub(self.waiting.len());
        let share = self.queued_share_max.max(free);
        let is_within = !request.has_share || !self.queued.is_at(share, request.address);
        if free > 0 && is_within { Choice::Queue } else { Choice::Full }
    }

    /// Returns the `Avoid` for a second attempt after a failure at `endpoint`, or `None` when there
    /// is no other endpoint.
    pub(super) fn other_than(&self, endpoint: usize) -> Option<Avoid> {
        (self.endpoints.len() > 1).then_some(Avoid::Endpoint(endpoint))
    }
}

impl Endpoint {
    /// Returns the Host to send, which is the request's `authority` unless configured otherwise.
    pub(crate) fn host_for<'a>(&'a self, authority: &'a [u8]) -> &'a [u8] {
        self.host.as_deref().unwrap_or(authority)
    }

    /// Counts a failure against the endpoint, and ejects it if the limit is reached.
    pub(super) fn fail(&mut self, cx: &mut Context<'_>, failed: Failed) {
        let Failed { exchange, failure, was_trial, fault } = failed;
        if let Some(pause) = self.health.failed(cx.now, failure, was_trial) {
            self.ejection_count += 1;
            let (endpoint, cause) = (self.name(), fault.ending());
            cx.note(exchange, Incident::Ejected { endpoint, cause, request: None, pause });
        }
    }

    /// Notes that a response's head has come, which restores the endpoint if it was ejected.
    pub(super) fn succeed(&mut self, cx: &mut Context<'_>, exchange: ExchangeKey) {
        if self.health.succeeded() {
            self.restoration_count += 1;
            cx.note(Some(exchange), Incident::Restored { endpoint: self.name() });
        }
    }

    /// Returns what is known about it, for the endpoint that continues it.
    pub(super) fn standing(&self) -> EndpointStanding {
        let Self { health, responded, ejection_count, restoration_count, .. } = self;
        EndpointStanding {
            health: health.clone(),
            responded: *responded,
            ejection_count: *ejection_count,
            restoration_count: *restoration_count,
        }
    }

    /// Continues the endpoint of which this is known.
    pub(super) fn inherit(&mut self, standing: EndpointStanding) {
        self.health.inherit(standing.health);
        self.responded = standing.responded;
        self.ejection_count = standing.ejection_count;
        self.restoration_count = standing.restoration_count;
    }

    /// Returns its counters.
    pub(super) fn report(&self) -> EndpointReport {
        EndpointReport {
            upstream: Arc::clone(&self.upstream),
            address: Arc::clone(&self.label),
            ejection_count: self.ejection_count,
            restoration_count: self.restoration_count,
            is_ejected: self.health.is_ejected(),
        }
    }

    fn name(&self) -> EndpointName {
        EndpointName { upstream: Arc::clone(&self.upstream), address: Arc::clone(&self.label) }
    }

    /// Counts a connection that could not be opened. It counts against the endpoint, unless this
    /// process lacks resources or the endpoint only has its queue of new connections full.
    pub(super) fn fail_connect(
        &mut self,
        cx: &mut Context<'_>,
        connect: Connect,
        fault: TransportFault,
    ) {
        let Connect { exchange, start, is_trial } = connect;
        cx.counters.connect_failures += 1;
        let kind = match fault {
            TransportFault::TimedOut if self.is_busy_since(start) => ConnectFailure::QueueFull,
            TransportFault::TimedOut => ConnectFailure::TimedOut,
            TransportFault::Refused => ConnectFailure::Refused,
            TransportFault::Missing => ConnectFailure::Missing,
            TransportFault::Forbidden => ConnectFailure::Forbidden,
            TransportFault::Unreachable => ConnectFailure::Unreachable,
            TransportFault::Reset => ConnectFailure::Reset,
            TransportFault::Exhausted(Resource::Port) => ConnectFailure::NoPort,
            TransportFault::Exhausted(Resource::Descriptor) => ConnectFailure::NoDescriptor,
            TransportFault::Exhausted(Resource::Memory) => ConnectFailure::NoMemory,
            TransportFault::Exhausted(Resource::Place) => ConnectFailure::NoPlace,
            TransportFault::Other => ConnectFailure::Other,
        };
        cx.counters.exported.upstream_connect_failures.count(kind, 1);
        let is_ours = matches!(fault, TransportFault::Exhausted(_));
        if !is_ours && kind != ConnectFailure::QueueFull {
            let fault = Fault::Connect(fault);
            let failure = Failure::Connect;
            self.fail(cx, Failed { exchange, failure, was_trial: is_trial, fault });
        }
    }

    /// Returns whether a connect that began then and timed out met a full queue: the endpoint has
    /// responded since. A unix socket has no other reason to let a connect wait.
    fn is_busy_since(&self, start: Instant) -> bool {
        matches!(self.address, EndpointAddress::Unix(_))
            || self.responded.is_some_and(|responded| responded >= start)
    }

    /// Counts a connection that is being opened.
    pub(super) fn opened(&mut self) {
        assert!(self.has_room(), "an endpoint has more connections than allowed");
        self.open_count += 1;
    }

    /// Counts a connection that is closed.
    pub(super) fn closed(&mut self) {
        self.open_count = self.open_count.checked_sub(1).expect("a closed connection was counted");
    }

    /// Returns whether an idle connection is there for a request that waits for a new one.
    pub(super) fn can_serve_connecting(&self) -> bool {
        self.idle.newest.is_some() && !self.connecting.is_empty()
    }

    /// Returns whether another connection may be opened.
    pub(super) fn has_room(&self) -> bool {
        self.open_count < self.open_max
    }
}
