//! quic + http3 + proxy as one sans-IO machine: inputs in, outputs out.
//!
//! ```text
//!  handle_datagram --> engine --events--> connection --request--> proxy --UpstreamCommand--> poll
//!                        ^                   stream                  |
//!  handle_upstream ------|--------------------------------------->---|
//!                        |                                           | DownstreamCommand
//!  poll_transmit  <--- engine <--write--- response queue <-----------'
//! ```
//!
//! A connection acts, and so does each of its streams: what they need from their surroundings is
//! lent to them for one event (`Context`). An event looks its connection up once.
//!
//! After any number of inputs the owner calls [`Gateway::poll`] until it returns `None`, then
//! [`Gateway::poll_transmit`] as long as it may send, and sleeps until [`Gateway::next_deadline`].
//! The inputs of one turn are worked off together, so that the responses of a burst share packets
//! and the small pieces of one response share a buffer.
//!
//! Nothing here knows slots, sockets or the ring; whether memory is low comes in as a fact.
#![forbid(unsafe_code)]

mod authority_check;
mod budget;
mod connection;
mod context;
mod control_stream;
mod counters;
mod drain;
mod reset_budget;
mod response_queue;
mod stream;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::base::slab::KeyMap;
use crate::base::timers::Timers;
use crate::config::Config;
use crate::http3::Code;
use crate::message::AccessRecord;
use crate::metrics::{CopyReason, Ledger};
use crate::proxy::{self, Downstream, Proxy, UpstreamCommand, UpstreamEvent, UpstreamKey};
use crate::quic::{ConnectionKey, Datagram, Engine, EngineError, Event, StreamId, Transmit};
use crate::tls::ServerTls;

use budget::ResponseBudget;
use connection::Connection;
use context::{Context, Settings, Shared};
use stream::{Stream, Verdict};

pub(crate) use counters::GatewayCounters;

/// One worker's whole protocol side.
pub struct Gateway {
    engine: Engine,
    proxy: Proxy,
    connections: KeyMap<ConnectionKey, Connection>,
    shared: Shared,
    outputs: VecDeque<Output>,
}

/// The owner of a timer.
#[derive(Debug, Clone, Copy)]
enum Owner {
    /// A stream that waits for its request's head.
    Head(StreamRef),
    /// A connection in a drain.
    Drain(ConnectionKey),
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
    /// Act on an upstream connection.
    Upstream(UpstreamCommand),
    /// A line for the access log.
    Access(Box<AccessRecord>),
}

/// What a gateway is made of.
pub struct GatewaySettings {
    /// The validated configuration.
    pub config: Arc<Config>,
    /// The QUIC engine, made by the caller with its keys and seeds.
    pub engine: Engine,
    /// The certificates that the engine shows: requests are held against them.
    pub tls: ServerTls,
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
        let GatewaySettings {
            config,
            engine,
            tls,
            socket_listeners,
            worker_count,
            responses_len_max,
        } = settings;
        Self {
            engine,
            shared: Shared {
                settings: Settings::new(&config, &tls),
                socket_listeners,
                timers: Timers::new(),
                responses: ResponseBudget::new(responses_len_max),
                body: Vec::new(),
                unwritten: Vec::new(),
                counters: GatewayCounters::new(),
                ledger: Ledger::default(),
                memory_low: false,
                drain_end: None,
            },
            proxy: Proxy::new(config, worker_count),
            connections: KeyMap::default(),
            outputs: VecDeque::new(),
        }
    }

    /// Takes one datagram (one segment of a GRO bundle).
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        if Engine::copies(&datagram.payload) {
            self.shared.ledger.request_copied(CopyReason::Handshake, datagram.payload.len());
        }
        self.engine.handle_datagram(now, datagram);
    }

    /// Takes what happened on a connection to an upstream.
    pub fn handle_upstream(&mut self, now: Instant, key: UpstreamKey, event: UpstreamEvent) {
        self.proxy.handle_upstream(now, key, event);
    }

    /// To be called when the time of [`Gateway::next_deadline`] has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
        self.proxy.handle_timeout(now);
        if self.shared.timers.next().is_none_or(|at| at > now) {
            return;
        }
        // Requests that have come by now are seen first: they are in time.
        self.settle(now);
        while let Some(owner) = self.shared.timers.pop(now) {
            let (connections, mut cx) = self.lend(now);
            const EXISTS: &str = "a timer is cleared before its owner goes";
            match owner {
                Owner::Drain(key) => {
                    connections.get_mut(key).expect(EXISTS).handle_drain_timer(&mut cx);
                }
                Owner::Head(at) => {
                    let connection = connections.get_mut(at.connection).expect(EXISTS);
                    connection.on_stream(at.stream, &mut cx, Stream::handle_head_timer);
                }
            }
        }
    }

    /// Tells whether buffers are short: large pieces of responses then leave their slots at once,
    /// and responses that are not taken are not read on.
    pub fn set_memory_low(&mut self, memory_low: bool) {
        self.shared.memory_low = memory_low;
        self.proxy.set_memory_low(memory_low);
    }

    /// Returns the next thing to do; `None` when only packets may be left to be sent.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        self.settle(now);
        self.outputs.pop_front()
    }

    /// Writes the next packets into `buffer`, which is empty and of a slot's capacity; `None` when
    /// there are none. To be called after [`Gateway::poll`] has returned `None`.
    pub fn poll_transmit(&mut self, now: Instant, buffer: &mut Vec<u8>) -> Option<Transmit> {
        self.engine.poll_transmit(now, buffer)
    }

    /// Returns when [`Gateway::handle_timeout`] is to be called at the latest.
    pub fn next_deadline(&self) -> Option<Instant> {
        let deadlines =
            [self.engine.next_deadline(), self.proxy.next_deadline(), self.shared.timers.next()];
        deadlines.into_iter().flatten().min()
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
        self.shared.settings = Settings::new(&config, tls);
        self.proxy.apply(now, config);
        Ok(())
    }

    /// Refuses new connections, tells clients to go and lets finish what has begun or is on its way
    /// (RFC 9114 5.2). At `end` the caller ends the rest.
    pub fn drain(&mut self, now: Instant, end: Instant) {
        self.shared.drain_end = Some(end);
        self.engine.refuse_new();
        self.proxy.drain(now);
        self.drain_connections(now);
    }

    /// Ends every connection now. The last packets come from [`Gateway::poll_transmit`].
    pub fn close(&mut self, now: Instant) {
        self.engine.refuse_new();
        self.engine.close_all(now, Code::NoError.value(), b"");
        self.proxy.close_idle(now);
    }

    /// Returns whether nothing is left: no connection, no exchange.
    pub fn is_idle(&self) -> bool {
        self.connections.len() == 0 && self.proxy.is_idle()
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
        self.shared.responses.len()
    }

    /// The gateway's own counters.
    pub fn counters(&self) -> &GatewayCounters {
        &self.shared.counters
    }

    /// Payload bytes moved and copied.
    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// The ledger, for copies that are made before bytes come here.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.shared.ledger
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
            while let Some(at) = self.shared.unwritten.pop() {
                self.on_stream(now, at, Stream::write);
                quiet = false;
            }
            if quiet {
                return;
            }
        }
    }

    fn handle_engine_event(&mut self, now: Instant, key: ConnectionKey, event: Event) {
        let (connections, mut cx) = self.lend(now);
        match event {
            Event::Connected { server_name, socket } => {
                match Connection::open(key, server_name, socket, &mut cx) {
                    Ok(connection) => connections.insert(key, connection),
                    Err(error) => cx.close(key, error),
                }
            }
            Event::Closed(reason) => {
                cx.shared.counters.count_closed(&reason);
                if let Some(connection) = connections.remove(key) {
                    connection.end(&mut cx);
                }
            }
            // A connection that was closed at its opening is not known here.
            event => {
                if let Some(connection) = connections.get_mut(key) {
                    connection.handle(event, &mut cx);
                }
            }
        }
    }

    fn handle_proxy_output(&mut self, now: Instant, output: proxy::Output) {
        match output {
            proxy::Output::Upstream(UpstreamCommand::Receive { key, downstream, .. }) => {
                self.receive(now, key, downstream);
            }
            proxy::Output::Upstream(command) => self.outputs.push_back(Output::Upstream(command)),
            proxy::Output::Downstream { to, command, .. } => {
                self.on_stream(now, stream_of(to), |stream, client, cx| {
                    stream.handle(command, client, cx)
                });
            }
            proxy::Output::Access(record) => {
                self.shared.counters.count_exchange(&record);
                self.outputs.push_back(Output::Access(record));
            }
        }
    }

    /// Passes a receive on, or pauses it while its client takes too little.
    fn receive(&mut self, now: Instant, key: UpstreamKey, downstream: Option<Downstream>) {
        let slot_count = downstream.map(stream_of).and_then(|at| {
            let connection = self.connections.get(at.connection)?;
            Some(self.shared.responses.receive_slot_count(connection, at.stream))
        });
        match slot_count.unwrap_or(1) {
            0 => self.proxy.pause_receive(now, key),
            slot_count_max => {
                let command = UpstreamCommand::Receive { key, downstream, slot_count_max };
                self.outputs.push_back(Output::Upstream(command));
            }
        }
    }

    /// Lets one stream act. A stream that is gone is not found: the client has left.
    fn on_stream(
        &mut self,
        now: Instant,
        at: StreamRef,
        act: impl FnOnce(&mut Stream, &mut connection::Client, &mut Context<'_>) -> Verdict,
    ) {
        let (connections, mut cx) = self.lend(now);
        if let Some(connection) = connections.get_mut(at.connection) {
            connection.on_stream(at.stream, &mut cx, act);
        }
    }

    /// Splits the connections from what they are lent.
    fn lend(&mut self, now: Instant) -> (&mut KeyMap<ConnectionKey, Connection>, Context<'_>) {
        let Self { engine, proxy, connections, shared, .. } = self;
        (connections, Context { now, engine, proxy, shared })
    }
}

fn stream_of(downstream: Downstream) -> StreamRef {
    let Downstream { connection, stream } = downstream;
    StreamRef { connection: ConnectionKey::from_bits(connection), stream: stream.into() }
}

fn downstream_of(at: StreamRef) -> Downstream {
    Downstream { connection: at.connection.to_bits(), stream: at.stream.into() }
}
