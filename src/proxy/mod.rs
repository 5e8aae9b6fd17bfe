//! The proxy: requests in, HTTP/1.1 to upstreams, responses out, as one sans-IO machine.
//!
//! The gateway passes in requests and events of upstream connections, and [`Proxy::poll`] returns
//! the actions to take. The proxy depends on no client protocol and no socket: a [`Downstream`]
//! identifies a request stream, and an [`UpstreamKey`] an upstream connection.
//!
//! ```text
//!   handle_request, handle_body,                            handle_upstream
//!   handle_end, handle_response_taken                              |
//!         |                                                        v
//!         v               acquire, slot, release    +--------------------------+
//!   +-----------+ ------------------------------->  | Upstreams                |
//!   | Exchanges |                                   |  groups: health, queue   |
//!   |           | <-------------------------------  |  connections --> http1   |
//!   +-----------+          Notice, granted          +--------------------------+
//!         |                                                        |
//!         v                                                        v
//!   DownstreamCommand, AccessRecord                        UpstreamCommand
//! ```
//!
//! [`Proxy`] connects the two, finds the route of a request and lends them the state they share:
//! the time, the timer queue, the outputs and the counters. Payload passes through as
//! [`bytes::Bytes`]: it is split, framed and counted here, never copied.
//!
//! Backpressure:
//!
//! - on the client: [`Proxy::body_room`] is 0 while too much of its body waits for the upstream;
//! - on the upstream: no receive is armed while too much of its response waits for the client. The
//!   gateway also pauses receives with [`Proxy::pause_receive`] while too much of that client's
//!   responses together waits.
#![forbid(unsafe_code)]

mod api;
mod context;
mod exchange;
mod faults;
mod fields;
mod forwarding;
mod proxy_fields;
mod routes;
mod upstream;

#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::Method;

use crate::base::shares::Shares;
use crate::base::slab::Slab;
use crate::base::timers::Timers;
use crate::config::{AccessFormat, Config, Listener};
use crate::http1::{ConnectionOptions, Framing};
use crate::message::{
    AccessRecord, Bound, Ending, Fields, Handover, Provenance, Refusal, Scheme, Sender, Understood,
};
use crate::metrics::EndpointReport;
use crate::planted::{Bug, is_planted};
use context::{Context, TimerOwner};
use exchange::{Exchange, ExchangeContext, Progress, RequestBody, body_len_bound};
use faults::Fault;
use fields::{expects_continue, max_forwards};
use proxy_fields::{drop_client_fields, drop_proxy_fields};
use routes::RouteTable;
use upstream::{GroupKey, Notice, Upstreams};

pub(crate) use api::{Counters, DownstreamCommand, ExchangeKey, Gauges, ResponseSource};
pub use api::{
    Downstream, Output, Request, Resource, TransportFault, UpstreamCommand, UpstreamEvent,
    UpstreamKey,
};

/// The proxy of one worker.
pub struct Proxy {
    config: Arc<Config>,
    routes: RouteTable,
    exchanges: Slab<ExchangeKey, Exchange>,
    upstreams: Upstreams,
    /// Admitted exchanges, by client address.
    requests: Shares,
    worker_count: u16,
    /// Exchanges that have something to write.
    due_writes: VecDeque<ExchangeKey>,
    timers: Timers<TimerOwner>,
    outputs: VecDeque<Output>,
    counters: Counters,
    memory_low: bool,
    logged: Logged,
}

/// The route of an admitted request.
struct Admitted {
    group: GroupKey,
    time_limit: Option<Duration>,
}

impl Proxy {
    /// Creates the proxy of one of `worker_count` workers. It may use its share of the process's
    /// configured limits.
    pub fn new(config: Arc<Config>, worker_count: u16) -> Self {
        Self {
            routes: RouteTable::new(&config.routes),
            upstreams: Upstreams::new(&config.upstreams, worker_count),
            logged: Logged::by(&config),
            config,
            requests: Shares::default(),
            worker_count,
            exchanges: Slab::new(),
            due_writes: VecDeque::new(),
            timers: Timers::new(),
            outputs: VecDeque::new(),
            counters: Counters::default(),
            memory_low: false,
        }
    }

    /// Applies a changed configuration. Exchanges that have begun end under the one they began
    /// with; upstreams that did not change keep their connections.
    pub fn apply(&mut self, now: Instant, config: Arc<Config>) {
        self.routes = RouteTable::new(&config.routes);
        let (upstreams, mut cx) = self.upstreams(now);
        upstreams.apply(&mut cx, &config.upstreams);
        self.logged = Logged::by(&config);
        self.config = config;
    }

    /// Begins an exchange; `ended` when no body follows. All its results are outputs, possibly an
    /// immediate response.
    pub fn handle_request(
        &mut self,
        now: Instant,
        downstream: Downstream,
        mut request: Request,
        ended: bool,
    ) -> ExchangeKey {
        let mut record = AccessRecord::new(now, request.sender.clone());
        if self.logged == Logged::Provenance {
            record.request.provenance = Some(Provenance::of(&request.head.fields));
        }
        let mut exchange = Exchange::new(downstream, &self.config.limits, record);
        exchange.trusted = is_trusted(&request);
        let admitted = self.admit(&request, &exchange, ended);
        exchange.body = RequestBody::new(ended);
        let head = &request.head;
        exchange.framing = Framing::of(&head.method, head.content_length, ended);
        self.drop_client_fields(&request.listener, exchange.trusted, &mut request.head.fields);
        if !exchange.trusted {
            self.drop_proxy_fields(&request.listener, &mut request.head.fields);
            // Whatever the request says of its scheme, the connection is secured or not.
            request.head.set_scheme(scheme_of(&request.listener));
        }
        let awaits_continue = !ended && expects_continue(&request.head.fields);
        exchange.request = Some(request);
        let key = self.insert(exchange, admitted.as_ref().ok().map(|admitted| admitted.group));
        self.update(now, key, |exchange, cx| match admitted {
            Ok(admitted) => exchange.start(cx, awaits_continue, admitted.time_limit),
            Err(fault) => exchange.fail(cx, fault),
        });
        key
    }

    /// Handles pieces of the request's body. The gateway checks [`Proxy::body_room`] first, but
    /// bytes beyond it are accepted too.
    pub fn handle_body(
        &mut self,
        now: Instant,
        key: ExchangeKey,
        pieces: impl IntoIterator<Item = Bytes>,
    ) {
        self.update(now, key, |exchange, cx| exchange.handle_body(cx, pieces));
    }

    pub fn handle_end(&mut self, now: Instant, key: ExchangeKey, mut trailers: Option<Fields>) {
        if let Some(trailers) = &mut trailers
            && let Some((listener, trusted)) = self.exchanges.get(key).and_then(Exchange::listener)
        {
            self.drop_client_fields(&listener, trusted, trailers);
            if !trusted {
                self.drop_proxy_fields(&listener, trailers);
            }
        }
        self.update(now, key, |exchange, cx| exchange.handle_end(cx, trailers));
    }

    /// Returns how many bytes of the request's body the exchange accepts now. At 0, the gateway
    /// stops reading the client until [`DownstreamCommand::BodyRoom`]. An exchange that is over
    /// accepts and drops them.
    pub fn body_room(&self, key: ExchangeKey) -> usize {
        match self.exchanges.get(key) {
            Some(exchange) => exchange.body.room(),
            None => crate::limits::REQUEST_PENDING_LEN_MAX,
        }
    }

    /// Returns the number of bytes that an exchange holds for its request.
    pub fn held_len(&self, key: ExchangeKey) -> usize {
        self.exchanges.get(key).map_or(0, Exchange::held_len)
    }

    /// Aborts an exchange whose client is gone or has cancelled. Nothing more is sent to it.
    pub fn handle_abort(&mut self, now: Instant, key: ExchangeKey, ending: Ending) {
        self.update(now, key, |exchange, cx| exchange.abort(cx, ending));
    }

    /// Notes that the client's connection has taken `len` bytes of the response's body.
    pub fn handle_response_taken(&mut self, now: Instant, key: ExchangeKey, len: usize) {
        self.update(now, key, |exchange, cx| exchange.handle_response_taken(cx, len));
    }

    /// Notes that the client's connection takes no more of the response for now. Starts the stall
    /// timeout, unless it is running.
    pub fn handle_response_blocked(&mut self, now: Instant, key: ExchangeKey) {
        self.update(now, key, |exchange, cx| {
            exchange.set_response_timer(cx);
            Progress::Continues
        });
    }

    /// Responds to a request that was refused before its head was accepted (400, 408, 431), and
    /// logs it as any other; `ended` when the client sends nothing more.
    pub fn reject(
        &mut self,
        now: Instant,
        downstream: Downstream,
        sender: Sender,
        refusal: Refusal,
        ended: bool,
    ) -> ExchangeKey {
        let fault = Fault::Refused(refusal.status, refusal.ending());
        let record = AccessRecord { request: refusal.understood, ..AccessRecord::new(now, sender) };
        self.respond_at_once(now, downstream, record, fault, ended)
    }

    /// Responds with 503 to a request that the owner of the proxy has no time or no memory for, and
    /// logs it as any other; `ended` when the client sends nothing more.
    pub(crate) fn shed(
        &mut self,
        now: Instant,
        downstream: Downstream,
        sender: Sender,
        understood: Understood,
        ended: bool,
    ) -> ExchangeKey {
        let record = AccessRecord { request: understood, ..AccessRecord::new(now, sender) };
        self.respond_at_once(now, downstream, record, Fault::Overloaded, ended)
    }

    fn respond_at_once(
        &mut self,
        now: Instant,
        downstream: Downstream,
        record: AccessRecord,
        fault: Fault,
        ended: bool,
    ) -> ExchangeKey {
        let mut exchange = Exchange::new(downstream, &self.config.limits, record);
        exchange.body = RequestBody::new(ended);
        let key = self.insert(exchange, None);
        self.update(now, key, |exchange, cx| exchange.fail(cx, fault));
        key
    }

    pub fn handle_upstream(&mut self, now: Instant, key: UpstreamKey, event: UpstreamEvent) {
        let (upstreams, mut cx) = self.upstreams(now);
        let notice = upstreams.handle_event(&mut cx, key, event);
        self.handle_notice(now, notice);
    }

    /// Notes that the last [`UpstreamCommand::Receive`] is not carried out, because the client
    /// takes too little of this response. Some of the response must be waiting for the client. The
    /// receive is issued again when the client takes something; until then the response timeout
    /// does not run.
    pub fn pause_receive(&mut self, now: Instant, key: UpstreamKey) {
        let (upstreams, mut cx) = self.upstreams(now);
        if let Some(exchange) = upstreams.pause_receive(&mut cx, key) {
            self.update(now, exchange, |exchange, cx| {
                exchange.handle_receive_paused(cx);
                Progress::Continues
            });
        }
    }

    /// Returns the next output. To be called until it returns `None`, after any number of inputs.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        loop {
            if let Some(output) = self.outputs.pop_front() {
                return Some(output);
            }
            let key = self.due_writes.pop_front()?;
            self.update(now, key, |exchange, cx| {
                exchange.write(cx);
                Progress::Continues
            });
        }
    }

    /// Returns the time at which [`Proxy::handle_timeout`] is due.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(owner) = self.timers.pop(now) {
            match owner {
                TimerOwner::Exchange(key, timer) => {
                    self.update(now, key, |exchange, cx| exchange.handle_timeout(cx, timer));
                }
                TimerOwner::Upstream(timer) => {
                    let (upstreams, mut cx) = self.upstreams(now);
                    let notice = upstreams.handle_timeout(&mut cx, timer);
                    self.handle_notice(now, notice);
                }
            }
        }
    }

    /// Sets whether memory is low. While it is, a response is read on only when the client's
    /// connection has taken all that was received of it, so that clients that do not read cannot
    /// exhaust memory. Clients that do read are not slowed: they take each piece as soon as it
    /// comes.
    pub fn set_memory_low(&mut self, memory_low: bool) {
        self.memory_low = memory_low;
    }

    /// Stops keeping connections: from now on each is closed when its exchange is over.
    pub fn drain(&mut self, now: Instant) {
        let (upstreams, mut cx) = self.upstreams(now);
        upstreams.drain(&mut cx);
    }

    pub fn close_idle(&mut self, now: Instant) {
        let (upstreams, mut cx) = self.upstreams(now);
        upstreams.close_idle(&mut cx);
    }

    /// Returns whether no exchange runs and no upstream connection is open.
    pub fn is_idle(&self) -> bool {
        self.exchanges.len() == 0 && self.upstreams.connection_count() == 0
    }

    pub fn gauges(&self) -> Gauges {
        Gauges {
            exchanges: self.exchanges.len(),
            connections: self.upstreams.connection_count(),
            idle: self.upstreams.idle_count,
            waiting: self.upstreams.waiting_count,
        }
    }

    /// Returns the counters of all endpoints of the configuration.
    pub(crate) fn endpoints(&self) -> Vec<EndpointReport> {
        self.upstreams.report()
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    fn upstreams(&mut self, now: Instant) -> (&mut Upstreams, Context<'_>) {
        let Self { upstreams, timers, outputs, counters, .. } = self;
        (upstreams, Context { now, timers, outputs, counters })
    }

    fn handle_notice(&mut self, now: Instant, notice: Option<(ExchangeKey, Notice)>) {
        if let Some((key, notice)) = notice {
            self.act(now, key, |exchange, cx| exchange.handle_notice(cx, notice));
        }
        self.serve_queues(now);
    }

    /// Calls `act` on an exchange, and serves the queues in which that made room.
    fn update(
        &mut self,
        now: Instant,
        key: ExchangeKey,
        act: impl FnOnce(&mut Exchange, &mut ExchangeContext<'_>) -> Progress,
    ) {
        self.act(now, key, act);
        self.serve_queues(now);
    }

    /// Grants free slots to queued exchanges.
    fn serve_queues(&mut self, now: Instant) {
        loop {
            let (upstreams, mut cx) = self.upstreams(now);
            let Some((key, acquired)) = upstreams.poll_granted(&mut cx) else { return };
            self.act(now, key, |exchange, cx| exchange.handle_granted(cx, acquired));
        }
    }

    /// Calls `act` on an exchange, and removes it if it is over afterwards. Ignores a dead key: an
    /// exchange may end before the client's side is notified of it.
    fn act(
        &mut self,
        now: Instant,
        key: ExchangeKey,
        act: impl FnOnce(&mut Exchange, &mut ExchangeContext<'_>) -> Progress,
    ) {
        let Self { exchanges, upstreams, due_writes, timers, outputs, counters, .. } = self;
        let Some(exchange) = exchanges.get_mut(key) else { return };
        let memory_low = self.memory_low;
        let base = Context { now, timers, outputs, counters };
        let mut cx = ExchangeContext { key, upstreams, due_writes, memory_low, base };
        if let Progress::Over(handover) = act(exchange, &mut cx) {
            self.end(now, key, handover);
        }
    }

    fn end(&mut self, now: Instant, key: ExchangeKey, handover: Handover) {
        let exchange = self.exchanges.remove(key).expect("an exchange ends once");
        if let Some(group) = exchange.group {
            self.upstreams.leave(group);
            self.requests.give_back(exchange.address);
        }
        let to = exchange.downstream;
        let record = exchange.into_record(now, &mut self.timers, handover, self.logged);
        if is_planted(Bug::DoubleRecord) && handover == Handover::Reset {
            self.outputs.push_back(Output::Access { to, record: record.clone() });
        }
        self.outputs.push_back(Output::Access { to, record });
    }

    fn insert(&mut self, mut exchange: Exchange, group: Option<GroupKey>) -> ExchangeKey {
        self.counters.exported.requests += 1;
        if let Some(group) = group {
            self.upstreams.join(group);
            self.requests.take(exchange.address);
        }
        exchange.group = group;
        self.exchanges.insert(exchange)
    }

    fn admit(
        &self,
        Request { head, misdirected, listener, sender }: &Request,
        exchange: &Exchange,
        ended: bool,
    ) -> Result<Admitted, Fault> {
        // RFC 9110 9.3.6: tunnels are not implemented.
        if head.method == Method::CONNECT {
            let reason = "this gateway does not tunnel: CONNECT is not implemented";
            return Err(Fault::NotImplemented(reason));
        }
        if let Some(port) = listener.redirect_to_https {
            return Err(Fault::Redirect(port));
        }
        // RFC 9110 9.3.8: an echo would reveal the fields that the gateway adds for the upstream.
        if head.method == Method::TRACE {
            let reason = "this gateway does not echo requests: TRACE is not implemented";
            return Err(Fault::NotImplemented(reason));
        }
        if head.method == Method::OPTIONS {
            let forwards_left = max_forwards(head).map_err(Fault::BadRequest)?;
            if forwards_left == Some(0) {
                let reason =
                    "max-forwards is 0, and this gateway has no response to OPTIONS of its own";
                return Err(Fault::NotImplemented(reason));
            }
        }
        if *misdirected {
            return Err(Fault::Misdirected);
        }
        if ConnectionOptions::read(&head.fields).is_none() {
            return Err(Fault::BadRequest(ConnectionOptions::TOO_MANY));
        }
        if ended && head.content_length.is_some_and(|len| len > 0) {
            return Err(Fault::BadRequest("the request has a content-length and no body"));
        }
        let limits = &self.config.limits;
        if head.content_length > Some(limits.request_body_len_max) {
            return Err(Fault::RequestTooLarge(body_len_bound(limits.request_body_len_max)));
        }
        let count_max = limits.requests_per_address.div_ceil(self.worker_count.max(1).into());
        if !exchange.trusted && self.requests.is_at(count_max as usize, exchange.address) {
            let max = limits.requests_per_address.into();
            let bound = Bound { key: "limits.max_requests_per_address", max };
            return Err(Fault::TooManyRequests(bound));
        }
        let route = self.routes.find(head.authority().host(), head.path()).ok_or(Fault::NoRoute)?;
        let route = &self.config.routes[route];
        if route.needs_certificate && sender.certificate.is_none() {
            return Err(Fault::NoClientCertificate);
        }
        let group = self.upstreams.current[route.upstream];
        Ok(Admitted { group, time_limit: route.request_timeout })
    }

    /// Drops the fields that only a trusted proxy may send.
    fn drop_proxy_fields(&mut self, listener: &Listener, fields: &mut Fields) {
        let dropped = &mut self.counters.exported.proxy_fields_dropped;
        drop_proxy_fields(fields, &listener.proxy_fields, dropped);
    }

    /// Drops the fields about clients' certificates, which only the gateway itself may send.
    fn drop_client_fields(&mut self, listener: &Listener, trusted: bool, fields: &mut Fields) {
        let dropped = &mut self.counters.exported.proxy_fields_dropped;
        drop_client_fields(fields, listener, dropped);
        // An upstream behind several listeners cannot tell which one a request came by.
        if !trusted {
            for other in &self.config.listeners {
                drop_client_fields(fields, other, dropped);
            }
        }
    }
}

/// Returns the scheme of a listener's connections.
fn scheme_of(listener: &Listener) -> Scheme {
    if listener.tls.is_some() { Scheme::Https } else { Scheme::Http }
}

fn is_trusted(request: &Request) -> bool {
    let client = request.sender.address.ip().to_canonical();
    request.listener.trusted_proxies.iter().any(|network| network.contains(&client))
}

/// The text of a request that its record keeps for the access log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Logged {
    /// None: there is no access log, and counters need no text.
    Nothing,
    /// Method, authority and path.
    Request,
    /// Also `referer` and `user-agent`.
    Provenance,
}

impl Logged {
    fn by(config: &Config) -> Self {
        match config.log.access.as_ref().map(|log| log.format) {
            None => Self::Nothing,
            Some(AccessFormat::Combined) => Self::Provenance,
            Some(AccessFormat::Json) => Self::Request,
        }
    }
}
