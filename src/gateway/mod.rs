//! quic + http3 + proxy as one sans-IO machine: inputs in, outputs out.
//!
//! ```text
//!  handle_datagram --> engine --events--> intake --request--> proxy --UpstreamCommand--> poll
//!                        ^                                      |
//!  handle_upstream ------|----------------------------------->--|
//!                        |                                      | answer
//!  poll (a buffer) <-- engine <--write-- answer queues <--------'
//! ```
//!
//! After any number of inputs the owner calls [`Gateway::poll`] until it answers with
//! [`Output::Timeout`]: the inputs of one turn are worked off together, so that the responses of a
//! burst share packets and the small pieces of one response share a buffer.
//!
//! Nothing here knows slots, sockets or the ring; whether memory is low comes in as a fact.
#![forbid(unsafe_code)]

mod audience;
mod budget;
mod connection;
mod counts;
mod farewell;
mod heads;
mod intake;
mod ledger;
mod reset_budget;
mod respond;
mod response;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::config::Config;
use crate::http3::{Code, LocalSettings};
use crate::proxy::{AccessRecord, Proxy, UpstreamCommand, UpstreamEvent, UpstreamKey};
use crate::quic::{ConnectionKey, Datagram, Engine, EngineError, StreamId, Transmit};
use crate::tls::ServerTls;

use budget::ResponseBudget;
use bytes::Bytes;
use connection::Connections;
use farewell::Farewells;
use heads::HeadDeadlines;

pub use counts::GatewayCounts;
pub use ledger::{CopyReason, Ledger};

/// One worker's whole protocol side.
pub struct Gateway {
    engine: Engine,
    proxy: Proxy,
    settings: LocalSettings,
    /// Says which certificate a connection has; without it no request is misdirected.
    tls: Option<ServerTls>,
    /// What each connection's budget of resets holds when it is full.
    reset_count_max: u32,
    connections: Connections,
    /// Index of the listener of each socket, by the socket's number.
    socket_listeners: Vec<usize>,
    heads: HeadDeadlines,
    responses: ResponseBudget,
    /// Room for the pieces of a body that are read together; empty in between.
    body: Vec<Bytes>,
    /// Streams whose response queue changed since it was last written.
    unwritten: Vec<StreamRef>,
    outputs: VecDeque<Output>,
    ledger: Ledger,
    counts: GatewayCounts,
    memory_low: bool,
    farewells: Farewells,
}

/// One request stream of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct StreamRef {
    connection: ConnectionKey,
    stream: StreamId,
}

/// What the gateway wants done.
#[derive(Debug)]
pub enum Output {
    /// Send what stands in `buffer`.
    Transmit {
        /// Where to, and how it is segmented.
        transmit: Transmit,
        /// The buffer that was given to [`Gateway::poll`].
        buffer: Vec<u8>,
    },
    /// Act on an upstream connection.
    Upstream(UpstreamCommand),
    /// A line for the access log.
    Access(Box<AccessRecord>),
    /// Nothing more to do before this time or the next input.
    Timeout(Option<Instant>),
}

/// What a gateway is made of.
pub struct GatewaySettings {
    /// The validated configuration.
    pub config: Arc<Config>,
    /// The QUIC engine, made by the caller with its keys and seeds.
    pub engine: Engine,
    /// Index of the listener of each socket, by the socket's number.
    pub socket_listeners: Vec<usize>,
    /// Workers of the process: limits of the whole process are shared out evenly.
    pub worker_count: u16,
    /// Bytes of all responses together that may wait for clients before upstreams are read no more.
    pub responses_len_max: usize,
}

impl Gateway {
    /// A gateway without connections.
    pub fn new(settings: GatewaySettings) -> Self {
        let GatewaySettings { config, engine, socket_listeners, worker_count, responses_len_max } =
            settings;
        Self {
            engine,
            settings: local_settings(&config),
            tls: None,
            reset_count_max: config.limits.stream_reset_count_max,
            heads: HeadDeadlines::new(config.limits.request_head_timeout),
            proxy: Proxy::new(config, worker_count),
            connections: Connections::default(),
            socket_listeners,
            responses: ResponseBudget::new(responses_len_max),
            body: Vec::new(),
            unwritten: Vec::new(),
            outputs: VecDeque::new(),
            ledger: Ledger::default(),
            counts: GatewayCounts::new(),
            memory_low: false,
            farewells: Farewells::default(),
        }
    }

    /// Holds requests of connections from now on against these certificates, which must be those
    /// that the engine shows.
    pub fn set_tls(&mut self, tls: &ServerTls) {
        self.tls = Some(tls.clone());
    }

    /// Takes one datagram (one segment of a GRO bundle).
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        if Engine::copies(&datagram.payload) {
            self.ledger.request_copied(CopyReason::Handshake, datagram.payload.len());
        }
        self.engine.handle_datagram(now, datagram);
    }

    /// Takes what happened on a connection to an upstream.
    pub fn handle_upstream(&mut self, now: Instant, key: UpstreamKey, event: UpstreamEvent) {
        self.proxy.handle_upstream(now, key, event);
    }

    /// To be called when the time of the last [`Output::Timeout`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
        self.proxy.handle_timeout(now);
        self.expire_heads(now);
        self.continue_farewells(now);
    }

    /// Tells whether buffers are short: large pieces of responses then leave their slots at once, and
    /// answers that are not taken are not read on.
    pub fn set_memory_low(&mut self, memory_low: bool) {
        self.memory_low = memory_low;
        self.proxy.set_memory_low(memory_low);
    }

    /// Gives the next thing to do. `transmit_buffer` is empty and of a slot's capacity; it is taken
    /// by an [`Output::Transmit`]. Without one no packet is built.
    pub fn poll(&mut self, now: Instant, transmit_buffer: &mut Option<Vec<u8>>) -> Output {
        self.settle(now);
        if let Some(output) = self.outputs.pop_front() {
            return output;
        }
        if let Some(mut buffer) = transmit_buffer.take() {
            if let Some(transmit) = self.engine.poll_transmit(now, &mut buffer) {
                return Output::Transmit { transmit, buffer };
            }
            *transmit_buffer = Some(buffer);
        }
        let deadlines = [
            self.engine.next_deadline(),
            self.proxy.next_deadline(),
            self.heads.next(),
            self.farewells.next(),
        ];
        Output::Timeout(deadlines.into_iter().flatten().min())
    }

    /// Runs by this from now on; what has begun ends by what it began with. Listeners cannot change.
    ///
    /// # Errors
    ///
    /// Where the engine cannot use it: nothing has changed then.
    pub fn apply(
        &mut self,
        now: Instant,
        config: Arc<Config>,
        tls: &ServerTls,
    ) -> Result<(), EngineError> {
        self.engine.set_tls(tls.config())?;
        let listeners = config.listeners.iter().map(|listener| listener.quic.clone());
        self.engine.set_quic(listeners.collect())?;
        self.set_tls(tls);
        self.settings = local_settings(&config);
        self.reset_count_max = config.limits.stream_reset_count_max;
        self.proxy.apply(now, config);
        Ok(())
    }

    /// Refuses new connections, tells clients to go and lets finish what has begun or is on its way
    /// (RFC 9114 5.2). At `end` the caller ends the rest.
    pub fn drain(&mut self, now: Instant, end: Instant) {
        self.farewells.end = Some(end);
        self.engine.refuse_new();
        self.proxy.drain(now);
        self.begin_farewells(now);
    }

    /// Ends every connection now. What is to be sent comes from [`Gateway::poll`].
    pub fn close(&mut self, now: Instant) {
        self.engine.refuse_new();
        self.engine.close_all(now, Code::NoError.value(), b"");
        self.proxy.close_idle(now);
    }

    /// Whether nothing is left: no connection, no exchange.
    pub fn is_idle(&self) -> bool {
        self.connections.is_empty() && self.proxy.is_idle()
    }

    /// The QUIC side, for its counters.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The proxy side, for its counters.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Bytes of all responses that wait for clients to take them.
    pub fn responses_waiting_len(&self) -> usize {
        self.responses.len()
    }

    /// What was counted.
    pub fn counts(&self) -> &GatewayCounts {
        &self.counts
    }

    /// Payload bytes moved and copied.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    /// The ledger, for copies that are made before bytes come here.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.ledger
    }

    /// Works until no part has anything to tell another.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            while let Some((key, event)) = self.engine.poll_event() {
                self.handle_engine_event(now, key, event);
                quiet = false;
            }
            while let Some(output) = self.proxy.poll(now) {
                self.handle_proxy_output(now, output);
                quiet = false;
            }
            while let Some(stream) = self.unwritten.pop() {
                self.write_response(now, stream);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }
}

fn local_settings(config: &Config) -> LocalSettings {
    LocalSettings {
        field_section_len_max: config.limits.field_section_len_max,
        field_count_max: config.limits.field_count_max,
    }
}
