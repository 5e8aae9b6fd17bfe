//! Tests of TCP clients in memory and virtual time, against a scripted upstream.

mod alt_svc;
mod early_data;
mod ends;
mod exchanges;
mod frames;
mod http2;
mod proxied;
mod secure;
mod shares;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use super::*;
use crate::config::{self, Config, Protocols};
use crate::gateway::{GatewaySettings, Output};
use crate::message::Incident;
use crate::proxy::{UpstreamCommand, UpstreamEvent, UpstreamKey};
use crate::quic::{Engine, ListenerSettings};
use crate::testing;
use crate::testing::internal::demo;
use crate::tls::ServerTls;

/// The listener without TLS.
const PLAIN: usize = 0;
/// The listener with TLS, HTTP/2 and HTTP/1.1.
const SECURE: usize = 1;
/// Connections that each listener takes of the one client.
const CONNECTIONS_MAX: u32 = 8;

const GET: &[u8] = b"GET /a HTTP/1.1\r\nhost: localhost\r\n\r\n";
/// A response of the upstream.
const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// The way in which a receiver takes bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// It takes each write whole, at once.
    Eager,
    /// Writes stay where they are.
    Never,
}

/// The gateway's end of a client's connection, as the kernel sees it.
struct Socket {
    key: TcpKey,
    is_receiving: bool,
    /// The bytes of a write that is not reported.
    writing: Option<Vec<u8>>,
    /// Bytes that the client has.
    taken: Vec<u8>,
    reading: Reading,
    is_shut: bool,
    is_closed: bool,
    /// It was closed by a reset.
    is_reset: bool,
}

/// A connection to the upstream.
struct Wire {
    key: UpstreamKey,
    is_receiving: bool,
    is_writing: bool,
    /// Bytes that the upstream has.
    taken: Vec<u8>,
    is_closed: bool,
}

/// A gateway with its clients and its upstream.
struct Rig {
    now: Instant,
    gateway: Gateway,
    tls: ServerTls,
    sockets: Vec<Socket>,
    wires: Vec<Wire>,
    /// How the upstream takes requests.
    upstream: Reading,
    records: Vec<AccessRecord>,
    incidents: Vec<Incident>,
}

/// Returns the configuration of a rig, with a change.
fn configuration(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = demo::config(([127, 0, 0, 1], 1).into());
    let mut secure = config.listeners[0].clone();
    secure.protocols = Protocols::SECURE;
    secure.tcp.max_connections = CONNECTIONS_MAX;
    secure.tcp.connections_per_address = 100;
    let mut plain = secure.clone();
    "plain".clone_into(&mut plain.name);
    (plain.protocols, plain.tls) = (Protocols::PLAIN, None);
    config.listeners = vec![plain, secure];
    change(&mut config);
    config
}

/// An event that follows from a command.
enum Reply {
    Tcp(TcpKey, TcpEvent),
    Upstream(UpstreamKey, UpstreamEvent),
}

impl Rig {
    fn new() -> Self {
        Self::with(|_| {})
    }

    /// Creates a rig with a changed configuration.
    fn with(change: impl FnOnce(&mut Config)) -> Self {
        let config = configuration(change);
        let tls =
            ServerTls::load(&config.certificates, config.tls.clone()).expect("a self-signed one");
        let mut engine = testing::engine_settings(config.listeners[SECURE].quic.clone(), &tls);
        let settings =
            |quic: &config::Quic| ListenerSettings { quic: quic.clone(), tls: tls.config() };
        engine.listeners =
            config.listeners.iter().map(|listener| settings(&listener.quic)).collect();
        engine.sockets = vec![SECURE];
        let gateway = Gateway::new(GatewaySettings {
            config: Arc::new(config),
            engine: Engine::new(engine).expect("good settings"),
            tls: tls.clone(),
            socket_listeners: vec![SECURE],
            worker_count: 1,
            responses_len_max: 4 << 20,
        });
        Self {
            now: testing::epoch(),
            gateway,
            tls,
            sockets: Vec::new(),
            wires: Vec::new(),
            upstream: Reading::Eager,
            records: Vec::new(),
            incidents: Vec::new(),
        }
    }

    /// Opens a connection. Returns `None` if it is refused.
    fn try_connect(&mut self, listener: usize) -> Option<usize> {
        self.try_connect_from([192, 0, 2, 1], listener)
    }

    /// Opens a connection from an address.
    fn try_connect_from(&mut self, address: [u8; 4], listener: usize) -> Option<usize> {
        let key = self.gateway.accept(self.now, listener, (address, 40_000).into())?;
        self.sockets.push(Socket {
            key,
            is_receiving: false,
            writing: None,
            taken: Vec::new(),
            reading: Reading::Eager,
            is_shut: false,
            is_closed: false,
            is_reset: false,
        });
        self.settle();
        Some(self.sockets.len() - 1)
    }

    fn connect(&mut self, listener: usize) -> usize {
        self.try_connect(listener).expect("there is room for a connection")
    }

    /// Reports an event, and carries out what follows.
    fn report(&mut self, client: usize, event: TcpEvent) {
        self.gateway.handle_tcp(self.now, self.sockets[client].key, event);
        self.settle();
    }

    /// Sends bytes of a client, which the gateway must be about to receive.
    fn send(&mut self, client: usize, bytes: &[u8]) {
        assert!(
            std::mem::take(&mut self.sockets[client].is_receiving),
            "the gateway receives nothing"
        );
        self.report(client, TcpEvent::Received(BytesMut::from(bytes)));
    }

    /// Ends the client's side.
    fn send_end(&mut self, client: usize) {
        assert!(
            std::mem::take(&mut self.sockets[client].is_receiving),
            "the gateway receives nothing"
        );
        self.report(client, TcpEvent::End);
    }

    /// Lets the kernel take the write of a client that reads never.
    fn take_write(&mut self, client: usize) {
        let socket = &mut self.sockets[client];
        socket.taken.extend(socket.writing.take().expect("a write waits"));
        self.report(client, TcpEvent::Wrote);
    }

    /// Reads on a client that read never.
    fn take_all(&mut self, client: usize) {
        self.sockets[client].reading = Reading::Eager;
        self.take_write(client);
    }

    /// Sends bytes of the upstream on its newest connection.
    fn respond(&mut self, bytes: &[u8]) {
        self.respond_on(self.wires.len() - 1, bytes);
    }

    /// Sends bytes of the upstream on one of its connections.
    fn respond_on(&mut self, wire: usize, bytes: &[u8]) {
        let wire = self.wires.get_mut(wire).expect("the gateway has connected");
        assert!(std::mem::take(&mut wire.is_receiving), "the gateway receives no response");
        let (key, event) = (wire.key, UpstreamEvent::Received(BytesMut::from(bytes)));
        self.gateway.handle_upstream(self.now, key, event);
        self.settle();
    }

    /// Returns whether the gateway reads from a client.
    fn reads(&self, client: usize) -> bool {
        self.sockets[client].is_receiving
    }

    /// Returns whether the gateway reads the response on its newest upstream connection.
    fn reads_response(&self) -> bool {
        self.wires.last().is_some_and(|wire| wire.is_receiving)
    }

    /// Lets time pass.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.gateway.next_deadline().filter(|at| *at <= end) {
            self.now = at.max(self.now);
            self.gateway.handle_timeout(self.now);
            self.settle();
            // A deadline that is not in the future was handled, so it may not come again.
            let next = self.gateway.next_deadline();
            assert!(next.is_none_or(|next| next > self.now), "a timer fires without end");
        }
        self.now = end;
    }

    /// Takes the bytes that a client has got since the last call.
    fn received(&mut self, client: usize) -> Vec<u8> {
        std::mem::take(&mut self.sockets[client].taken)
    }

    /// Takes them as text.
    fn text(&mut self, client: usize) -> String {
        String::from_utf8_lossy(&self.received(client)).into_owned()
    }

    fn settle(&mut self) {
        loop {
            let mut replies = Vec::new();
            while let Some(output) = self.gateway.poll(self.now) {
                match output {
                    Output::Tcp(command) => self.apply(command, &mut replies),
                    Output::Upstream(command) => self.apply_upstream(command, &mut replies),
                    Output::Access(record) => self.records.push(*record),
                    Output::Incident(incident) => self.incidents.push(*incident),
                }
            }
            if replies.is_empty() {
                return;
            }
            for reply in replies {
                match reply {
                    Reply::Tcp(key, event) => self.gateway.handle_tcp(self.now, key, event),
                    Reply::Upstream(key, event) => {
                        self.gateway.handle_upstream(self.now, key, event);
                    }
                }
            }
        }
    }

    fn apply(&mut self, command: TcpCommand, replies: &mut Vec<Reply>) {
        let (TcpCommand::Write { key, .. }
        | TcpCommand::Receive { key, .. }
        | TcpCommand::ShutDown { key }
        | TcpCommand::Close { key }
        | TcpCommand::Reset { key }) = &command;
        let key = *key;
        let socket = self.sockets.iter_mut().find(|socket| socket.key == key);
        let socket = socket.expect("a key that was returned");
        assert!(!socket.is_closed, "a command after the close");
        match command {
            TcpCommand::Write { pieces, .. } => {
                assert!(socket.writing.is_none() && !socket.is_shut);
                assert!(pieces.len() <= crate::limits::UPSTREAM_WRITE_PIECES_MAX);
                assert!(!pieces.is_empty() && pieces.iter().all(|piece| !piece.is_empty()));
                let bytes = pieces.concat();
                match socket.reading {
                    Reading::Eager => {
                        socket.taken.extend(bytes);
                        replies.push(Reply::Tcp(key, TcpEvent::Wrote));
                    }
                    Reading::Never => socket.writing = Some(bytes),
                }
            }
            TcpCommand::Receive { slot_count_max, .. } => {
                assert_eq!(slot_count_max, 1);
                assert!(!std::mem::replace(&mut socket.is_receiving, true), "two receives");
            }
            TcpCommand::ShutDown { .. } => {
                assert!(!std::mem::replace(&mut socket.is_shut, true), "shut down twice");
            }
            TcpCommand::Close { .. } => socket.is_closed = true,
            TcpCommand::Reset { .. } => (socket.is_closed, socket.is_reset) = (true, true),
        }
    }

    fn apply_upstream(&mut self, command: UpstreamCommand, replies: &mut Vec<Reply>) {
        if let UpstreamCommand::Connect { key, .. } = command {
            self.wires.push(Wire {
                key,
                is_receiving: false,
                is_writing: false,
                taken: Vec::new(),
                is_closed: false,
            });
            return replies.push(Reply::Upstream(key, UpstreamEvent::Connected));
        }
        let (UpstreamCommand::Connect { key, .. }
        | UpstreamCommand::Write { key, .. }
        | UpstreamCommand::Receive { key, .. }
        | UpstreamCommand::Close { key }) = &command;
        let key = *key;
        let wire = self.wires.iter_mut().find(|wire| wire.key == key && !wire.is_closed);
        let wire = wire.expect("a connection that is open");
        match command {
            UpstreamCommand::Connect { .. } => unreachable!("handled above"),
            UpstreamCommand::Write { pieces, .. } => {
                wire.taken.extend(pieces.concat());
                match self.upstream {
                    Reading::Eager => replies.push(Reply::Upstream(key, UpstreamEvent::Wrote)),
                    Reading::Never => wire.is_writing = true,
                }
            }
            UpstreamCommand::Receive { .. } => wire.is_receiving = true,
            UpstreamCommand::Close { .. } => wire.is_closed = true,
        }
    }

    /// Lets the upstream take the write that waits.
    fn upstream_takes_on(&mut self) {
        self.upstream = Reading::Eager;
        let wire = self.wires.last_mut().expect("the gateway has connected");
        assert!(std::mem::take(&mut wire.is_writing), "no write waits");
        let key = wire.key;
        self.gateway.handle_upstream(self.now, key, UpstreamEvent::Wrote);
        self.settle();
    }

    /// Returns the outcomes of all records, each with whether the response was delivered.
    fn outcomes(&self) -> Vec<(Outcome, bool)> {
        self.records.iter().map(|record| (record.outcome, record.delivered.is_some())).collect()
    }

    /// Asserts that all connections are over and nothing is left of them, and that as many as ever
    /// are accepted.
    fn assert_nothing_left(&mut self) {
        self.settle();
        assert!(self.sockets.iter().all(|socket| socket.is_closed), "a connection is open");
        assert_eq!(self.gateway.tcp_connection_count(), 0);
        assert_eq!(self.gateway.proxy().gauges().exchanges, 0, "an exchange is left");
        assert_eq!(self.gateway.shared.timers.next(), None, "a timer is left");
        assert_eq!(self.gateway.responses_waiting_len(), 0);
        assert_eq!(self.gateway.shared.tcp.places.handshake_count(), 0);
        assert_eq!(self.gateway.shared.tcp.unsettled, []);
        let counters = &self.gateway.counters().tcp;
        assert_eq!(counters.connections_accepted, counters.connections_closed);
        if self.gateway.shared.drain_end.is_none() {
            for listener in [PLAIN, SECURE] {
                for _ in 0..CONNECTIONS_MAX {
                    self.connect(listener);
                }
                assert_eq!(self.try_connect(listener), None, "more connections than it may have");
            }
        }
    }
}
