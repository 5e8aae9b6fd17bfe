//! The upstream side's holdings: groups with their endpoints, and connections.
//!
//! ```text
//!   group "api" --- endpoint 127.0.0.1:8080 --- idle connections, last in first out
//!        |     \--- endpoint 127.0.0.1:8081 --- idle connections
//!        |
//!        +--- waiting exchanges, first in first out
//! ```
//!
//! A group lives by the configuration it was made from. A reload that changes it makes a new one;
//! the old one is retired: it takes no new exchange, keeps no connection, and goes when its last
//! user has gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::balance::Balance;
use super::health::Health;
use super::idle_list::{IdleList, Links};
use crate::base::slab::slab_key;
use crate::base::timers::Timer;
use crate::config::{EndpointAddress, HostPolicy, Upstream};
use crate::http1::ResponseDecoder;
use crate::proxy::api::{ExchangeKey, UpstreamKey};

slab_key! {
    /// One upstream group.
    pub(crate) GroupKey
}

/// An upstream group of the configuration.
pub(crate) struct Group {
    pub(crate) config: Upstream,
    pub(crate) endpoints: Vec<EndpointState>,
    /// Exchanges without a connection, by their ticket.
    pub(crate) waiting: BTreeMap<u64, ExchangeKey>,
    /// Exchanges and connections that belong here.
    pub(crate) user_count: usize,
    /// Replaced by a reload.
    pub(crate) retired: bool,
    balance: Balance,
    waiting_max: usize,
}

/// One endpoint of a group.
pub(crate) struct EndpointState {
    pub(crate) address: EndpointAddress,
    /// The address as logs name it.
    pub(crate) label: Arc<str>,
    /// The Host that the endpoint is told under `host = "upstream"`.
    pub(crate) host: Bytes,
    pub(crate) idle: IdleList,
    open_count: usize,
    open_max: usize,
    pub(crate) health: Health,
}

/// What a request gets from its group.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// This idle connection.
    Reuse { connection: UpstreamKey },
    /// A new connection to the endpoint.
    Open { endpoint: usize },
    /// A new connection to the endpoint, in the place of this idle one.
    Replace { endpoint: usize, connection: UpstreamKey },
    /// A place in the queue.
    Wait,
    /// Nothing: connections and queue are full.
    Full,
}

/// What a request's earlier try has shown.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Avoid {
    /// This endpoint failed; another one is better.
    pub(crate) endpoint: Option<usize>,
    /// A kept connection failed; a new one is better.
    pub(crate) kept: bool,
}

impl Group {
    pub(crate) fn new(config: &Upstream, worker_count: u16) -> Self {
        let worker_count = u32::from(worker_count.max(1));
        let open_max = config.max_connections.div_ceil(worker_count).max(1) as usize;
        let endpoints = config.endpoints.iter().map(|endpoint| {
            let (label, host) = match &endpoint.address {
                EndpointAddress::Tcp(address) => (address.to_string(), address.to_string()),
                EndpointAddress::Unix(path) => {
                    (format!("unix:{}", path.display()), "localhost".to_owned())
                }
            };
            EndpointState {
                address: endpoint.address.clone(),
                label: label.into(),
                host: host.into(),
                idle: IdleList::default(),
                open_count: 0,
                open_max,
                health: Health::new(config.health),
            }
        });
        Self {
            endpoints: endpoints.collect(),
            waiting: BTreeMap::new(),
            user_count: 0,
            retired: false,
            balance: Balance::new(config.endpoints.iter().map(|endpoint| endpoint.weight)),
            waiting_max: config.max_waiting.div_ceil(worker_count) as usize,
            config: config.clone(),
        }
    }

    /// Chooses for one request.
    pub(crate) fn choose(&mut self, now: Instant, avoid: Avoid) -> Choice {
        let endpoints = &self.endpoints;
        let has_place = |index: usize| {
            let endpoint: &EndpointState = &endpoints[index];
            !endpoint.idle.is_empty() || endpoint.has_room()
        };
        let is_other = |index: usize| avoid.endpoint != Some(index);
        let is_well = |index: usize| is_other(index) && endpoints[index].health.is_well(now);
        // A place at one that is well is worth the wait; one that was set aside would only fail.
        let picked = if (0..endpoints.len()).any(is_well) {
            self.balance.pick(|index| has_place(index) && is_well(index))
        } else {
            self.balance
                .pick(|index| has_place(index) && is_other(index))
                .or_else(|| self.balance.pick(has_place))
        };
        let Some(endpoint) = picked else {
            return if self.waiting.len() < self.waiting_max { Choice::Wait } else { Choice::Full };
        };
        let state = &self.endpoints[endpoint];
        match (state.idle.newest(), state.idle.oldest()) {
            (Some(connection), _) if !avoid.kept => Choice::Reuse { connection },
            (_, Some(connection)) if !state.has_room() => Choice::Replace { endpoint, connection },
            _ => Choice::Open { endpoint },
        }
    }

    /// The Host that the endpoint is told.
    pub(crate) fn host_for<'a>(&'a self, endpoint: usize, authority: &'a [u8]) -> &'a [u8] {
        match self.config.host {
            HostPolicy::Preserve => authority,
            HostPolicy::Upstream => &self.endpoints[endpoint].host,
        }
    }
}

impl EndpointState {
    /// Whether another connection may be opened.
    pub(crate) fn has_room(&self) -> bool {
        self.open_count < self.open_max
    }

    /// A connection was asked for.
    pub(crate) fn opened(&mut self) {
        assert!(self.has_room(), "an endpoint has more connections than allowed");
        self.open_count += 1;
    }

    /// A connection is gone.
    pub(crate) fn closed(&mut self) {
        self.open_count = self.open_count.checked_sub(1).expect("a closed connection was counted");
    }
}

/// One upstream connection.
pub(crate) struct Connection {
    pub(crate) group: GroupKey,
    pub(crate) endpoint: usize,
    pub(crate) role: Role,
    /// A `Write` is in flight.
    pub(crate) writing: bool,
    /// A `Receive` is armed.
    pub(crate) receiving: bool,
    /// It has served a request before.
    pub(crate) kept: bool,
    /// Its request tries whether the endpoint is well again.
    pub(crate) trial: bool,
    /// A write failed: only what the peer sent before is still of use.
    pub(crate) broken: bool,
    /// Ends the connect, the wait for the upstream to take or to give, the idleness: whatever it does.
    pub(crate) timer: Timer,
}

/// What a connection is used for.
pub(crate) enum Role {
    /// Being opened for an exchange.
    Connecting(ExchangeKey),
    /// Carries an exchange.
    Busy(ExchangeKey, ResponseDecoder),
    /// Its exchange is answered, its last write is still in flight.
    Finishing,
    /// Kept, in the endpoint's list.
    Idle(Links),
}

impl Role {
    /// The exchange that the connection serves.
    pub(crate) fn exchange(&self) -> Option<ExchangeKey> {
        match self {
            Self::Connecting(exchange) | Self::Busy(exchange, _) => Some(*exchange),
            Self::Finishing | Self::Idle(_) => None,
        }
    }
}
