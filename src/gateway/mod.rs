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
//! Connections and their streams handle their own events. What they need from their surroundings
//! is lent to them for one event (`Context`). The connection of an event is looked up once.
//!
//! After any number of inputs the owner calls [`Gateway::poll`] until it returns `None`, then
//! [`Gateway::poll_transmit`] as long as it may send, and sleeps until [`Gateway::next_deadline`].
//! The inputs of one turn are handled together, so that the responses of a burst share packets
//! and the small pieces of one response share a buffer.
//!
//! The gateway does not depend on slots, sockets or the ring; low memory is an input
//! ([`Gateway::set_memory_low`], [`Gateway::set_heap`]).
#![forbid(unsafe_code)]

mod admission;
mod alt_svc;
mod budget;
mod connection;
mod context;
mod control_stream;
mod counters;
mod coverage;
mod delivery;
mod drain;
mod keep_alive;
mod relief;
mod reload;
mod reset_budget;
mod response_queue;
mod stream;
mod tcp;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::base::pressure::Pressure;
use crate::base::slab::KeyMap;
use crate::base::timers::Timers;
use crate::config::{Config, Listener};
use crate::http3::Code;
use crate::message::{AccessRecord, Incident, Outcome};
use crate::metrics::{CopyReason, Ledger};
use crate::proxy::{self, Downstream, Proxy, UpstreamCommand, UpstreamEvent, UpstreamKey};
use crate::quic::{ConnectionKey, Datagram, Engine, Event, FailedHandshake, StreamId, Transmit};
use crate::tls::ServerTls;

use admission::Admission;
pub(crate) use alt_svc::ProbeOutcome;
use alt_svc::Remembered;
use budget::ResponseBudget;
use connection::Connection;
use context::{Context, Edge, Settings, Shared};
use stream::{Stream, Verdict};
use tcp::{TcpClients, TcpShared};
pub use tcp::{TcpCommand, TcpEvent, TcpKey};

pub(crate) use counters::GatewayCounters;

/// The protocol side of one worker.
pub struct Gateway {
    engine: Engine,
    proxy: Proxy,
    connections: KeyMap<ConnectionKey, Connection>,
    tcp: TcpClients,
    shared: Shared,
    /// Of the configuration, in its order.
    listeners: Vec<Arc<Listener>>,
    outputs: VecDeque<Output>,
    worker_count: u16,
}

/// The owner of a timer.
#[derive(Debug, Clone, Copy)]
enum Owner {
    /// A stream that waits for its request's head.
    Head(StreamRef),
    /// A connection in a drain.
    Drain(ConnectionKey),
    /// A connection on which a request runs.
    KeepAlive(ConnectionKey),
    /// A TCP connection, whatever it waits for.
    Tcp(TcpKey),
}

/// One request stream of one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct StreamRef {
    connection: ConnectionKey,
    stream: StreamId,
}

/// One request of one TCP connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct TcpStreamRef {
    connection: TcpKey,
    /// HTTP/2: the stream's number. HTTP/1.1: the number of requests before it.
    stream: u64,
}

/// The connection and stream that a request came from.
#[derive(Debug, Clone, Copy)]
enum Origin {
    Quic(StreamRef),
    Tcp(TcpStreamRef),
}

/// An action or a record for the owner of the gateway.
#[derive(Debug)]
pub enum Output {
    /// Act on an upstream connection.
    Upstream(UpstreamCommand),
    /// Act on a client's TCP connection.
    Tcp(TcpCommand),
    /// A line for the access log.
    Access(Box<AccessRecord>),
    /// An event for the process log.
    Incident(Box<Incident>),
}

/// The parts and settings that a gateway is created from.
pub struct GatewaySettings {
    pub config: Arc<Config>,
    /// The QUIC engine, made by the caller with its keys and seeds.
    pub engine: Engine,
    /// The certificates that the engine presents, for the authority check of requests.
    pub tls: ServerTls,
    /// Index of each socket's listener, by socket number.
    pub socket_listeners: Vec<usize>,
    /// Number of workers in the process. Limits of the process are divided evenly among them.
    pub worker_count: u16,
    /// Bytes of all responses together that may wait for clients before upstream reads pause.
    pub responses_len_max: usize,
}

impl Gateway {
    pub fn new(settings: GatewaySettings) -> Self {
        let listeners = listeners(&settings.config);
        let accepting = |listener: &usize| Edge::new(&listeners[*listener]);
        Self {
            engine: settings.engine,
            tcp: TcpClients::new(),
            shared: Shared {
                settings: Settings::new(
                    &settings.config,
                    &listeners,
                    &settings.tls,
                    settings.worker_count,
                ),
                sockets: settings.socket_listeners.iter().map(accepting).collect(),
                remembered: Remembered::new(&listeners),
                timers: Timers::new(),
                responses: ResponseBudget::new(settings.responses_len_max),
                body: Vec::new(),
                unwritten: Vec::new(),
                counters: GatewayCounters::default(),
                records: VecDeque::new(),
                incidents: VecDeque::new(),
                tcp: TcpShared::default(),
                ledger: Ledger::default(),
                memory_low: false,
                admission: Admission::default(),
                pressure: Pressure::None,
                drain_end: None,
            },
            proxy: Proxy::new(settings.config, settings.worker_count),
            connections: KeyMap::default(),
            listeners,
            outputs: VecDeque::new(),
            worker_count: settings.worker_count,
        }
    }

    /// Handles one datagram (one segment of a GRO bundle).
    pub fn handle_datagram(&mut self, now: Instant, datagram: Datagram) {
        let copied_len = self.engine.handle_datagram(now, datagram);
        if copied_len > 0 {
            self.shared.ledger.request_copied(CopyReason::Handshake, copied_len);
        }
    }

    pub fn handle_upstream(&mut self, now: Instant, key: UpstreamKey, event: UpstreamEvent) {
        self.proxy.handle_upstream(now, key, event);
    }

    /// Handles the timers that are due. To be called once [`Gateway::next_deadline`] has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.engine.handle_timeout(now);
        self.proxy.handle_timeout(now);
        if self.shared.timers.next().is_none_or(|at| at > now) {
            return;
        }
        // Requests that have arrived by now are handled first: they are in time.
        self.settle(now);
        while let Some(owner) = self.shared.timers.pop(now) {
            if let Owner::Tcp(key) = owner {
                let (clients, mut cx) = self.lend_tcp(now);
                clients.handle_timer(key, &mut cx);
                continue;
            }
            let (connections, mut cx) = self.lend(now);
            const EXISTS: &str = "a timer is cleared before its owner goes";
            match owner {
                Owner::Drain(key) => {
                    connections.get_mut(key).expect(EXISTS).handle_drain_timer(&mut cx);
                }
                Owner::KeepAlive(key) => {
                    connections.get_mut(key).expect(EXISTS).handle_keep_alive_timer(&mut cx);
                }
                Owner::Tcp(_) => unreachable!("handled above"),
                Owner::Head(at) => {
                    let connection = connections.get_mut(at.connection).expect(EXISTS);
                    connection.on_stream(at.stream, &mut cx, Stream::handle_head_timer);
                }
            }
        }
    }

    /// Notes how long the handling of a turn's inputs and outputs took: what came meanwhile waited.
    pub fn note_turn(&mut self, now: Instant, took: Duration) {
        if let Some(share) = self.shared.admission.note_turn(now, took) {
            self.engine.set_stream_share(share);
        }
    }

    /// Sets whether the pool is low. While it is, large pieces of responses are copied out of their
    /// slots at once, and a response is read on only when its client has taken what came before.
    pub fn set_memory_low(&mut self, memory_low: bool) {
        self.shared.memory_low = memory_low;
        self.tell_proxy_of_memory();
    }

    /// The proxy reads responses ahead only while there is memory of both kinds.
    fn tell_proxy_of_memory(&mut self) {
        let is_low = self.shared.memory_low || self.shared.pressure != Pressure::None;
        self.proxy.set_memory_low(is_low);
    }

    /// Returns the next output; `None` when only packets may be left to send.
    pub fn poll(&mut self, now: Instant) -> Option<Output> {
        self.settle(now);
        let Self { outputs, shared, engine, .. } = self;
        outputs
            .pop_front()
            .or_else(|| shared.tcp.commands.pop_front().map(Output::Tcp))
            .or_else(|| shared.records.pop_front().map(Output::Access))
            .or_else(|| shared.incidents.pop_front().map(Output::Incident))
            .or_else(|| {
                let FailedHandshake { client, reason } = engine.poll_failed_handshake()?;
                Some(Output::Incident(Box::new(Incident::HandshakeFailed { client, reason })))
            })
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

    /// Refuses new connections, sends GOAWAY to clients, and finishes requests that have begun or
    /// are in flight (RFC 9114 5.2). At `end` the caller closes the rest.
    pub fn drain(&mut self, now: Instant, end: Instant) {
        self.shared.drain_end = Some(end);
        self.engine.refuse_new();
        self.proxy.drain(now);
        let (connections, mut cx) = self.lend(now);
        // Visits all of them, once per drain.
        for connection in connections.values_mut() {
            connection.begin_drain(end, &mut cx);
        }
        let (clients, mut cx) = self.lend_tcp(now);
        clients.drain(&mut cx);
    }

    /// Closes every connection now. [`Gateway::poll_transmit`] returns the last packets.
    pub fn close(&mut self, now: Instant) {
        self.engine.refuse_new();
        self.engine.close_all(now, Code::NoError.value(), b"");
        self.proxy.close_idle(now);
        let (clients, mut cx) = self.lend_tcp(now);
        clients.close(&mut cx);
    }

    /// Returns whether no connection and no exchange is left.
    pub fn is_idle(&self) -> bool {
        self.connections.len() == 0 && self.tcp.len() == 0 && self.proxy.is_idle()
    }

    /// Returns the QUIC side, for its counters.
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// Returns the proxy side, for its counters.
    pub fn proxy(&self) -> &Proxy {
        &self.proxy
    }

    /// Returns how many connections were closed because the heap's budget was used up.
    pub fn evicted_count(&self) -> u64 {
        self.shared.counters.http3.connections_evicted
    }

    /// Returns the number of response bytes that wait for clients to take them.
    pub fn responses_waiting_len(&self) -> usize {
        self.shared.responses.len()
    }

    /// Returns the number of open TCP connections.
    pub fn tcp_connection_count(&self) -> usize {
        self.tcp.len()
    }

    pub fn counters(&self) -> &GatewayCounters {
        &self.shared.counters
    }

    pub fn ledger(&self) -> &Ledger {
        &self.shared.ledger
    }

    /// Returns the ledger, for copies that are made before bytes reach the gateway.
    pub fn ledger_mut(&mut self) -> &mut Ledger {
        &mut self.shared.ledger
    }

    /// Passes events and commands between the parts until none is left.
    fn settle(&mut self, now: Instant) {
        loop {
            let mut quiet = true;
            while let Some((key, event)) = self.engine.poll_event(now) {
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
            while let Some(key) = self.shared.tcp.unsettled.pop() {
                let (clients, mut cx) = self.lend_tcp(now);
                clients.settle(key, &mut cx);
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
            Event::Connected { server_name, socket, client_certificate } => {
                cx.shared.note_connection(now, socket);
                match Connection::open(key, server_name, client_certificate, socket, &mut cx) {
                    Ok(connection) => connections.insert(key, connection),
                    Err(error) => cx.close(key, error),
                }
            }
            Event::Closed(reason) => {
                cx.shared.counters.count_closed(&reason);
                if let Some(connection) = connections.remove(key) {
                    connection.end(&reason, &mut cx);
                }
            }
            // A connection that was closed as it opened has no entry.
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
            proxy::Output::Downstream { to, command, .. } => match origin_of(to) {
                Origin::Quic(at) => {
                    self.on_stream(now, at, |stream, client, cx| {
                        stream.handle(command, client, cx)
                    });
                }
                Origin::Tcp(at) => {
                    let (clients, mut cx) = self.lend_tcp(now);
                    clients.handle_command(at, command, &mut cx);
                }
            },
            proxy::Output::Incident { incident, .. } => self.shared.incidents.push_back(incident),
            proxy::Output::Access { to, record } => self.take_record(now, origin_of(to), record),
        }
    }

    /// Takes the record of an exchange that is over.
    fn take_record(&mut self, now: Instant, origin: Origin, mut record: Box<AccessRecord>) {
        self.shared.counters.count_exchange(&record);
        let at = match origin {
            Origin::Quic(at) => at,
            Origin::Tcp(at) => {
                let (clients, mut cx) = self.lend_tcp(now);
                return clients.take_record(at, record, &mut cx);
            }
        };
        let (connections, mut cx) = self.lend(now);
        match connections.get_mut(at.connection) {
            Some(connection) => connection.take_record(at.stream, record, &mut cx),
            None => {
                // The connection ended in the same turn as the exchange.
                record.end(Outcome::Unconfirmed.into());
                cx.log(record);
            }
        }
    }

    /// Issues a receive, or pauses it while its client takes too little.
    fn receive(&mut self, now: Instant, key: UpstreamKey, downstream: Option<Downstream>) {
        let backlog = downstream.map(origin_of).and_then(|origin| match origin {
            Origin::Quic(at) => self.connections.get(at.connection)?.backlog(at.stream),
            Origin::Tcp(at) => self.tcp.backlog(at),
        });
        let slot_count = backlog.map(|backlog| self.shared.responses.receive_slot_count(&backlog));
        match slot_count.unwrap_or(1) {
            0 => self.proxy.pause_receive(now, key),
            slot_count_max => {
                let command = UpstreamCommand::Receive { key, downstream, slot_count_max };
                self.outputs.push_back(Output::Upstream(command));
            }
        }
    }

    /// Calls `act` on a stream. Does nothing if its connection is gone: the client has left.
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

    /// Borrows the TCP connections, and separately the context that they are lent.
    fn lend_tcp(&mut self, now: Instant) -> (&mut TcpClients, Context<'_>) {
        let Self { engine, proxy, tcp, shared, .. } = self;
        (tcp, Context { now, engine, proxy, shared })
    }

    /// Borrows the connections, and separately the context that they are lent.
    fn lend(&mut self, now: Instant) -> (&mut KeyMap<ConnectionKey, Connection>, Context<'_>) {
        let Self { engine, proxy, connections, shared, .. } = self;
        (connections, Context { now, engine, proxy, shared })
    }
}

fn listeners(config: &Config) -> Vec<Arc<Listener>> {
    config.listeners.iter().cloned().map(Arc::new).collect()
}

/// Returns the origin that a request was given to the proxy with.
fn origin_of(downstream: Downstream) -> Origin {
    let Downstream { connection, stream } = downstream;
    if stream & TCP_STREAM != 0 {
        let stream = stream & !TCP_STREAM;
        return Origin::Tcp(TcpStreamRef { connection: TcpKey::from_bits(connection), stream });
    }
    let connection = ConnectionKey::from_bits(connection);
    Origin::Quic(StreamRef { connection, stream: stream.into() })
}

fn downstream_of(at: StreamRef) -> Downstream {
    Downstream { connection: at.connection.to_bits(), stream: at.stream.into() }
}

fn downstream_of_tcp(at: TcpStreamRef) -> Downstream {
    Downstream { connection: at.connection.to_bits(), stream: at.stream | TCP_STREAM }
}

/// The bit of a stream's number that marks one of a TCP connection. Streams of QUIC have 62 bits
/// (RFC 9000 2.1), those of HTTP/2 have 31, and no connection has 2^63 requests.
const TCP_STREAM: u64 = 1 << 63;
