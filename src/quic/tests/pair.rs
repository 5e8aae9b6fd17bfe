//! An engine, a client endpoint and the network between them.
//!
//! The invariants are asserted here, on every datagram and in every turn: batches have the form
//! that segmentation offload needs, no deadline stays due, and each connection's events arrive in
//! order.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Endpoint, EndpointConfig, NoneTokenStore,
    TokenStore, TransportConfig,
};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::cid::WorkerIds;
use super::super::*;
use crate::config::{self, Certificate, CertificateSource, Congestion, HostPattern, Retry, Tls};
use crate::limits::{DATAGRAM_LEN_MAX, SEGMENT_COUNT_MAX, SLOT_LEN};
use crate::testing::{self, ClientTls};
use crate::tls::ServerTls;

pub(super) const HOST: &str = "edge.test";
pub(super) use crate::testing::CID_MASK as MASK;
pub(super) const SERVER_IP: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));

/// The longest that a datagram waits for those before it, on a path that has a rate.
const QUEUE_DELAY_MAX: Duration = Duration::from_millis(50);

/// Number of times in a row that a deadline may be due before it counts as spinning.
const DUE_TWICE_MAX: usize = 16;

pub(super) fn quic() -> config::Quic {
    config::Quic {
        retry: Retry::Never,
        congestion: Congestion::Cubic,
        max_connections: 10_000,
        connections_per_address: 100,
        half_open_per_address: 100,
        idle_timeout: Duration::from_secs(30),
        max_streams: 100,
        stream_receive_window: 1024 * 1024,
        receive_window_max: 6 * 1024 * 1024,
        send_window_max: 6 * 1024 * 1024,
    }
}

pub(super) fn server_tls() -> ServerTls {
    let hosts = vec![HostPattern::Exact(HOST.to_owned())];
    ServerTls::load(
        &[Certificate { hosts, addresses: Vec::new(), source: CertificateSource::SelfSigned }],
        Tls::default(),
    )
    .unwrap()
}

pub(super) fn settings(quic: config::Quic, tls: &ServerTls) -> EngineSettings {
    EngineSettings { sockets: vec![0, 0], worker: 3, ..testing::engine_settings(quic, tls) }
}

impl Pair {
    /// Sets the TLS settings of new connections.
    pub(super) fn set_tls(&mut self, tls: Arc<rustls::ServerConfig>) -> Result<(), EngineError> {
        let quic = self.engine.listeners[0].quic.clone();
        self.engine.apply(EngineChange {
            listeners: vec![ListenerSettings { quic, tls }],
            continued: vec![Some(0)],
            sockets: vec![Some(0), Some(0)],
        })
    }
}

/// A datagram in flight.
struct Flight {
    at: Instant,
    order: u64,
    to_server: bool,
    client: SocketAddr,
    ecn: u8,
    bytes: Vec<u8>,
}

impl PartialEq for Flight {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Flight {}

impl PartialOrd for Flight {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Flight {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

/// The network's treatment of datagrams with ECN marks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Marked {
    Kept,
    Cleared,
    /// They get lost. The client sends none then, since none of its own would arrive.
    Dropped,
}

/// Both endpoints and the network.
pub(super) struct Pair {
    pub(super) now: Instant,
    pub(super) engine: Engine,
    pub(super) events: VecDeque<(ConnectionKey, Event)>,
    pub(super) client: Endpoint,
    pub(super) clients: BTreeMap<usize, Connection>,
    pub(super) client_events: VecDeque<(usize, quinn_proto::Event)>,
    pub(super) client_address: SocketAddr,
    /// Where clients keep tokens of earlier connections.
    pub(super) tokens: Arc<dyn TokenStore>,
    /// The client's address, of the same family.
    pub(super) server_ip: IpAddr,
    pub(super) client_tls: rustls::ClientConfig,
    /// Share of datagrams that get lost.
    pub(super) loss: f64,
    pub(super) delay: Duration,
    /// Maximum jitter added to the delay; it reorders datagrams.
    pub(super) jitter: Duration,
    pub(super) marked: Marked,
    /// Datagrams with ECN marks that the engine sent.
    pub(super) marked_count: u64,
    /// The network drops all that the client sends.
    pub(super) client_is_mute: bool,
    /// Datagrams that the client has sent.
    pub(super) record: Option<Vec<Vec<u8>>>,
    pub(super) bytes_to_server: u64,
    /// By destination.
    pub(super) bytes_to_clients: BTreeMap<SocketAddr, u64>,
    pub(super) segments_max: usize,
    /// Longest segment of a batch.
    pub(super) segment_len_max: usize,
    /// Longer datagrams get lost.
    pub(super) path_mtu: usize,
    /// Bytes of all streams together that clients permit to be sent before they have read more.
    pub(super) client_receive_window: u32,
    /// Bytes in a second that the path toward clients carries.
    pub(super) rate: Option<u64>,
    /// When all is sent that the path toward clients has taken.
    idle_at: Option<Instant>,
    random: SmallRng,
    wire: BinaryHeap<Reverse<Flight>>,
    order: u64,
    buffer: Vec<u8>,
    /// Connections between their events `Connected` and `Closed`.
    connected: BTreeMap<ConnectionKey, bool>,
}

impl Pair {
    pub(super) fn new(quic: config::Quic) -> Self {
        let tls = server_tls();
        Self::with(settings(quic, &tls), &tls)
    }

    pub(super) fn with(settings: EngineSettings, tls: &ServerTls) -> Self {
        let reset_key = aws_lc_rs::hmac::Key::new(aws_lc_rs::hmac::HMAC_SHA256, &[9; 64]);
        let mut endpoint = EndpointConfig::new(Arc::new(reset_key));
        let ids = WorkerIds::new(100, false, MASK, &[8; 32]);
        endpoint.cid_generator(move || Box::new(ids.clone()));
        Self {
            now: testing::epoch(),
            engine: Engine::new(settings).unwrap(),
            events: VecDeque::new(),
            client: Endpoint::new(Arc::new(endpoint), None, true, Some([7; 32])),
            clients: BTreeMap::new(),
            client_events: VecDeque::new(),
            tokens: Arc::new(NoneTokenStore),
            client_address: SocketAddr::from(([198, 51, 100, 7], 40_000)),
            server_ip: SERVER_IP,
            client_tls: ClientTls::trusting_server(tls).tls13(),
            loss: 0.0,
            delay: Duration::from_millis(10),
            jitter: Duration::ZERO,
            marked: Marked::Kept,
            marked_count: 0,
            client_is_mute: false,
            record: None,
            bytes_to_server: 0,
            bytes_to_clients: BTreeMap::new(),
            segments_max: 0,
            segment_len_max: 0,
            path_mtu: usize::MAX,
            client_receive_window: u32::MAX,
            rate: None,
            idle_at: None,
            random: SmallRng::seed_from_u64(1),
            wire: BinaryHeap::new(),
            order: 0,
            buffer: Vec::with_capacity(SLOT_LEN),
            connected: BTreeMap::new(),
        }
    }

    pub(super) fn seed(&mut self, seed: u64) {
        self.random = SmallRng::seed_from_u64(seed);
    }

    pub(super) fn use_provider(
        &mut self,
        tls: &ServerTls,
        provider: rustls::crypto::CryptoProvider,
    ) {
        self.client_tls = ClientTls { provider, ..ClientTls::trusting_server(tls) }.tls13();
    }

    /// Starts a connection from the client.
    pub(super) fn connect(&mut self) -> usize {
        let mut config = testing::quic_client(self.client_tls.clone());
        let mut transport = TransportConfig::default();
        transport.stream_receive_window((8u32 << 20).into());
        transport.receive_window(self.client_receive_window.into());
        config.transport_config(Arc::new(transport));
        config.token_store(Arc::clone(&self.tokens));
        let server = SocketAddr::new(self.server_ip, 443);
        let (handle, connection) = self.client.connect(self.now, config, server, HOST).unwrap();
        self.clients.insert(handle.0, connection);
        handle.0
    }

    /// Connects and waits for both sides.
    pub(super) fn connected(&mut self) -> (usize, ConnectionKey) {
        let client = self.connect();
        let mut key = None;
        self.run(Duration::from_secs(20), |pair| {
            key = pair.take_connected();
            key.is_some()
        });
        (client, key.expect("the handshake completes"))
    }

    pub(super) fn take_connected(&mut self) -> Option<ConnectionKey> {
        let is_connected =
            |(_, event): &(ConnectionKey, Event)| matches!(event, Event::Connected { .. });
        let index = self.events.iter().position(is_connected)?;
        self.events.remove(index).map(|(key, _)| key)
    }

    /// Lets time pass until `done`, or no event is left, or `limit` is over. Returns whether it was
    /// `done`.
    pub(super) fn run(&mut self, limit: Duration, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now + limit;
        loop {
            self.drive();
            if done(self) {
                return true;
            }
            self.drive();
            match self.next_time() {
                Some(at) if at <= end => self.now = self.now.max(at),
                _ => {
                    self.now = end;
                    return false;
                }
            }
            self.deliver();
        }
    }

    pub(super) fn pass(&mut self, limit: Duration) {
        assert!(!self.run(limit, |_| false));
    }

    /// Hands a datagram to the engine as from `remote`, in a turn of its own, and returns its
    /// immediate responses.
    pub(super) fn inject(&mut self, remote: SocketAddr, bytes: &[u8]) -> Vec<Vec<u8>> {
        self.reach_engine(remote, 0, bytes);
        self.engine.handle_timeout(self.now);
        self.responses()
    }

    /// Returns the datagrams that the engine sends now.
    pub(super) fn responses(&mut self) -> Vec<Vec<u8>> {
        let mut responses = Vec::new();
        while let Some(transmit) = self.poll_server() {
            let segment_len = transmit.segment_len.unwrap_or(transmit.len);
            responses.extend(self.buffer.chunks(segment_len).map(<[u8]>::to_vec));
        }
        responses
    }

    fn next_time(&mut self) -> Option<Instant> {
        let clients = self.clients.values_mut().filter_map(Connection::poll_timeout);
        let times = clients.chain(self.engine.next_deadline());
        times.chain(self.wire.peek().map(|flight| flight.0.at)).min()
    }

    fn deliver(&mut self) {
        while self.wire.peek().is_some_and(|flight| flight.0.at <= self.now) {
            let Some(Reverse(flight)) = self.wire.pop() else { break };
            if flight.to_server {
                self.reach_engine(flight.client, flight.ecn, &flight.bytes);
            } else if flight.client == self.client_address {
                self.reach_client(flight.ecn, &flight.bytes);
            }
        }
        let mut rounds = 0;
        while self.engine.next_deadline().is_some_and(|at| at <= self.now) {
            self.engine.handle_timeout(self.now);
            self.drive_server();
            rounds += 1;
            assert!(rounds < DUE_TWICE_MAX, "a deadline stays due: the worker would spin");
        }
        for connection in self.clients.values_mut() {
            if connection.poll_timeout().is_some_and(|at| at <= self.now) {
                connection.handle_timeout(self.now);
            }
        }
    }

    pub(super) fn reach_engine(&mut self, remote: SocketAddr, ecn: u8, bytes: &[u8]) {
        self.bytes_to_server += bytes.len() as u64;
        let payload = BytesMut::from(bytes);
        let local_ip = Some(self.server_ip);
        self.engine
            .handle_datagram(self.now, Datagram { socket: 0, remote, local_ip, ecn, payload });
        self.take_events();
    }

    fn reach_client(&mut self, ecn: u8, bytes: &[u8]) {
        let ecn = quinn_proto::EcnCodepoint::from_bits(ecn);
        let server = SocketAddr::new(self.server_ip, 443);
        let mut response = Vec::new();
        let data = BytesMut::from(bytes);
        match self.client.handle(self.now, server, None, ecn, data, &mut response) {
            Some(DatagramEvent::ConnectionEvent(handle, event)) => {
                if let Some(connection) = self.clients.get_mut(&handle.0) {
                    connection.handle_event(event);
                }
            }
            Some(DatagramEvent::Response(_)) | None => {}
            Some(DatagramEvent::NewConnection(_)) => panic!("the engine began a connection"),
        }
    }

    /// Lets both sides send everything they have now.
    pub(super) fn drive(&mut self) {
        self.take_events();
        self.drive_server();
        self.drive_clients();
    }

    fn drive_server(&mut self) {
        while let Some(transmit) = self.poll_server() {
            let bytes = self.buffer.clone();
            let segment_len = transmit.segment_len.unwrap_or(transmit.len);
            for segment in bytes.chunks(segment_len) {
                self.fly(false, transmit.destination, transmit.ecn, segment.to_vec());
            }
        }
        self.take_events();
    }

    fn poll_server(&mut self) -> Option<Transmit> {
        self.buffer.clear();
        let transmit = self.engine.poll_transmit(self.now, &mut self.buffer)?;
        assert_eq!(transmit.len, self.buffer.len());
        assert!(transmit.len <= DATAGRAM_LEN_MAX);
        assert_eq!(transmit.source, Some(self.server_ip));
        if let Some(segment_len) = transmit.segment_len {
            let count = transmit.len.div_ceil(segment_len);
            assert!((2..=SEGMENT_COUNT_MAX).contains(&count), "{count} segments");
            self.segments_max = self.segments_max.max(count);
            self.segment_len_max = self.segment_len_max.max(segment_len);
        }
        *self.bytes_to_clients.entry(transmit.destination).or_default() += transmit.len as u64;
        Some(transmit)
    }

    fn drive_clients(&mut self) {
        let mut sent = Vec::new();
        let mut gone = Vec::new();
        for (&index, connection) in &mut self.clients {
            while let Some(event) = connection.poll() {
                self.client_events.push_back((index, event));
            }
            while let Some(event) = connection.poll_endpoint_events() {
                if event.is_drained() {
                    gone.push(index);
                }
                let handle = ConnectionHandle(index);
                if let Some(reply) = self.client.handle_event(handle, event) {
                    connection.handle_event(reply);
                }
            }
            let mut buffer = Vec::new();
            while let Some(transmit) = connection.poll_transmit(self.now, 1, &mut buffer) {
                let marks = transmit.ecn.filter(|_| self.marked != Marked::Dropped);
                let ecn = marks.map_or(0, |codepoint| codepoint as u8);
                sent.push((ecn, std::mem::take(&mut buffer)));
            }
        }
        for index in gone {
            self.clients.remove(&index);
        }
        for (ecn, bytes) in sent {
            if let Some(record) = &mut self.record {
                record.push(bytes.clone());
            }
            if !self.client_is_mute {
                self.fly(true, self.client_address, ecn, bytes);
            }
        }
    }

    fn fly(&mut self, to_server: bool, client: SocketAddr, ecn: u8, bytes: Vec<u8>) {
        let is_marked = ecn != 0;
        self.marked_count += u64::from(is_marked && !to_server);
        let ecn = if self.marked == Marked::Kept { ecn } else { 0 };
        let is_dropped = is_marked && !to_server && self.marked == Marked::Dropped;
        if is_dropped || bytes.len() > self.path_mtu || self.random.random_bool(self.loss) {
            return;
        }
        let jitter = self.jitter.as_micros() as u64;
        let extra = Duration::from_micros(self.random.random_range(0..=jitter));
        let sent = match self.rate {
            Some(rate) if !to_server => {
                let start = self.idle_at.map_or(self.now, |at| at.max(self.now));
                if start - self.now > QUEUE_DELAY_MAX {
                    return;
                }
                let end = start + Duration::from_micros(bytes.len() as u64 * 1_000_000 / rate);
                *self.idle_at.insert(end)
            }
            _ => self.now,
        };
        let at = sent + self.delay + extra;
        self.order += 1;
        let flight = Flight { at, order: self.order, to_server, client, ecn, bytes };
        self.wire.push(Reverse(flight));
    }

    /// Takes the engine's events and checks their order.
    fn take_events(&mut self) {
        while let Some((key, event)) = self.engine.poll_event(self.now) {
            match &event {
                Event::Connected { .. } => {
                    assert_eq!(self.connected.insert(key, true), None, "connected once");
                }
                Event::Closed(_) => {
                    assert_eq!(self.connected.insert(key, false), Some(true), "closed once");
                }
                _ => assert_eq!(
                    self.connected.get(&key),
                    Some(&true),
                    "{event:?} outside of the connection's life"
                ),
            }
            self.events.push_back((key, event));
        }
    }

    /// Writes as much to a stream of the client as it accepts.
    pub(super) fn client_write(&mut self, client: usize, stream: StreamId, data: &mut Bytes) {
        let Some(connection) = self.clients.get_mut(&client) else { return };
        let mut send = connection.send_stream(stream.proto().unwrap());
        while !data.is_empty() {
            match send.write(data) {
                Ok(len) => drop(data.split_to(len)),
                Err(quinn_proto::WriteError::Blocked) => return,
                Err(error) => panic!("the client's stream is over: {error}"),
            }
        }
    }

    /// Reads from a stream of the client. Returns whether it has ended.
    pub(super) fn client_read(
        &mut self,
        client: usize,
        stream: StreamId,
        into: &mut Vec<u8>,
    ) -> bool {
        let Some(connection) = self.clients.get_mut(&client) else { return false };
        let mut receive = connection.recv_stream(stream.proto().unwrap());
        let Ok(mut chunks) = receive.read(true) else { return false };
        let ended = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => into.extend_from_slice(&chunk.bytes),
                Ok(None) => break true,
                Err(_) => break false,
            }
        };
        let _ = chunks.finalize();
        ended
    }

    /// Reads from a stream of the server. Returns whether it has ended.
    pub(super) fn server_read(
        &mut self,
        key: ConnectionKey,
        stream: StreamId,
        into: &mut Vec<u8>,
    ) -> bool {
        loop {
            let take = |chunk: Bytes| into.extend_from_slice(&chunk);
            match self.engine.read(key, stream, usize::MAX, take) {
                Ok(Read::Full) => {}
                Ok(Read::Blocked) => return false,
                Ok(Read::End) => return true,
                Err(error) => panic!("the server's stream is over: {error:?}"),
            }
        }
    }

    /// Asserts that nothing is left of any connection.
    pub(super) fn assert_empty(&self) {
        assert_eq!(self.engine.counts(), ConnectionCounts::default());
        assert_eq!(self.engine.endpoint.open_connections(), 0);
        assert_eq!(self.engine.endpoint.incoming_buffer_bytes(), 0);
        assert_eq!(self.engine.listeners[0].connections.total(), 0);
        assert_eq!(self.engine.next_deadline(), None);
        assert_eq!(self.engine.window_budget_left(), 64 * 1024 * 1024);
    }
}

/// Returns `len` bytes that differ from position to position.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    let mut random = SmallRng::seed_from_u64(len as u64);
    let mut bytes = vec![0; len];
    random.fill(&mut bytes[..]);
    bytes
}
