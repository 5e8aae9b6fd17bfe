//! A gateway with a meter on its heap, and clients that can be told to misbehave. The network takes
//! a millisecond and loses only what a test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::congestion::NewRenoConfig;
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, Event, StreamEvent, StreamId,
    TransportConfig,
};
use ringway::testing::http3::{CONTROL_PREFACE, put_data_header, put_headers};
use ringway::testing::internal::base::HeapUse;
use ringway::testing::internal::gateway::{Gateway, Output};
use ringway::testing::internal::pool::Pool;
use ringway::testing::internal::proxy::{UpstreamCommand, UpstreamEvent, UpstreamKey};
use ringway::testing::internal::quic::Datagram;

use crate::fixture::{self, Built};
use crate::runner;
use crate::scenario::Scenario;

/// The behaviour of all upstreams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Upstreams {
    /// They answer a GET with as many bytes as its path says.
    Answer,
    /// They accept a connection and take nothing.
    Stall,
    /// As `Answer`, a few bytes at a time.
    Crumbs,
}

/// Bytes of an upstream's answer that come at once.
const PIECE_LEN: usize = 16 * 1024;
const CRUMB_LEN: usize = 4;

const STEP: Duration = Duration::from_millis(1);
const REQUEST_REJECTED: u64 = 0x10b;

struct Client {
    address: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    is_connected: bool,
    is_closed: bool,
    /// Nothing reaches it, and it does nothing by itself.
    is_silent: bool,
    reads: bool,
    /// Datagrams of its next ones that are lost.
    losing: usize,
    rejected_count: usize,
    response_count: usize,
}

/// A client's place among all.
#[derive(Debug, Clone, Copy)]
pub struct Key(usize);

pub struct Edge {
    pub now: Instant,
    gateway: Gateway,
    pool: Rc<Pool>,
    /// Bytes of the heap that calls of the gateway took and did not give back.
    taken: i64,
    clients: Vec<Client>,
    upstreams: Upstreams,
    /// The length that each upstream connection has still to send, and whether a receive is armed.
    answers: BTreeMap<UpstreamKey, (usize, bool)>,
    /// Writes that a stalled upstream has not taken.
    untaken: Vec<Output>,
    buffer: Vec<u8>,
}

impl Edge {
    pub fn new(upstreams: Upstreams) -> Self {
        let mut scenario = Scenario::quiet(Vec::new());
        scenario.clients.clear();
        let Built { now, gateway, .. } = fixture::build(7, &scenario);
        Self {
            now,
            gateway,
            pool: runner::new_pool(),
            taken: 0,
            clients: Vec::new(),
            upstreams,
            answers: BTreeMap::new(),
            untaken: Vec::new(),
            buffer: Vec::with_capacity(70_000),
        }
    }

    /// Returns the bytes of the heap that the gateway took and did not give back.
    pub fn taken(&self) -> i64 {
        self.taken
    }

    /// Returns the bytes that the gateway charges to its clients.
    pub fn charged(&self) -> i64 {
        self.gateway.held_len() as i64
    }

    pub fn set_heap(&mut self, percent: usize) {
        let heap = HeapUse { len: percent * 10_000, budget: 1_000_000 };
        let now = self.now;
        self.metered(|gateway| gateway.set_heap(now, heap));
    }

    /// Opens a connection from an address of its own.
    pub fn connect(&mut self) -> Key {
        let host = self.clients.len() as u16;
        self.open([10, 9, (host >> 8) as u8, host as u8], TransportConfig::default(), true)
    }

    pub fn connect_from(&mut self, host: u8) -> Key {
        self.open([10, 8, 0, host], TransportConfig::default(), true)
    }

    /// Opens a connection that lets four kilobytes of each response come, and reads none.
    pub fn connect_reading_little(&mut self) -> Key {
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(4096u32.into());
        let host = self.clients.len() as u8;
        self.open([10, 7, 0, host], transport, false)
    }

    /// Sends the first flight of a handshake from a new address, and nothing after it.
    pub fn begin_handshake(&mut self) {
        let host = self.clients.len() as u16;
        let address = SocketAddr::from(([10, 6, (host >> 8) as u8, host as u8], 4_000));
        let client = self.new_client(address, TransportConfig::default());
        self.exchange();
        self.clients[client.0].is_silent = true;
    }

    /// Requests `len` bytes.
    pub fn get(&mut self, client: Key, len: usize) {
        let head = head("GET", &format!("/{len}"));
        let stream = self.open_stream(client, &head);
        self.connection(client).send_stream(stream).finish().unwrap();
    }

    /// Requests `len` bytes and neither receives nor sends anything from then on.
    pub fn get_and_fall_silent(&mut self, client: Key, len: usize) {
        self.get(client, len);
        self.reach_gateway(client);
        self.clients[client.0].is_silent = true;
        self.pass(Duration::from_millis(50));
    }

    pub fn ping_without_acknowledging(&mut self, client: Key) {
        // Its timers do not run: it would give up a gateway that it does not hear.
        self.connection(client).ping();
        self.reach_gateway(client);
        self.pass(STEP);
    }

    /// Begins a request with a body of `len` bytes and writes as much of it as it may.
    pub fn post(&mut self, client: Key, len: usize) {
        self.send_body(client, len);
    }

    /// Sends a request whose body lacks its beginning, and nothing from then on.
    pub fn post_with_a_gap(&mut self, client: Key, len: usize) {
        let mut head = head("POST", "/0");
        put_data_header(len as u64, &mut head);
        let stream = self.open_stream(client, &head);
        self.pass(10 * STEP);
        self.clients[client.0].losing = 1;
        // It hears nothing, so it never learns of the loss.
        self.clients[client.0].is_silent = true;
        let mut body = Bytes::from(vec![7; len]);
        for _ in 0..500 {
            if !body.is_empty() {
                let mut pieces = [body];
                let _full = self.connection(client).send_stream(stream).write_chunks(&mut pieces);
                let [rest] = pieces;
                body = rest;
            }
            self.now += STEP;
            let now = self.now;
            self.connection(client).handle_timeout(now);
            self.reach_gateway(client);
            self.run_gateway();
        }
        assert!(body.is_empty());
    }

    /// Begins `count` requests, each with `len` bytes of a longer head.
    pub fn begin_heads(&mut self, client: Key, count: usize, len: usize) {
        for _ in 0..count {
            // HEADERS (RFC 9114 7.2.2) of 30,000 bytes, its length as a four-byte integer.
            let mut bytes = vec![0x01, 0x80, 0x00, 0x75, 0x30];
            bytes.resize(5 + len, 0);
            self.open_stream(client, &bytes);
            self.pass(2 * STEP);
        }
    }

    pub fn is_open(&self, client: Key) -> bool {
        let client = &self.clients[client.0];
        client.is_connected && !client.is_closed
    }

    /// Returns the number of connections that are open on the gateway's side.
    pub fn open_count(&self) -> usize {
        self.gateway.engine().counts().open
    }

    pub fn evicted_count(&self) -> u64 {
        self.gateway.evicted_count()
    }

    pub fn rejected_count(&self, client: Key) -> usize {
        self.clients[client.0].rejected_count
    }

    pub fn response_count(&self, client: Key) -> usize {
        self.clients[client.0].response_count
    }

    /// Lets time pass.
    pub fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            let is_busy = self.exchange();
            let clients = self.clients.iter_mut().filter(|client| !client.is_silent);
            let deadlines = clients.filter_map(|client| client.connection.poll_timeout());
            let next = deadlines.chain(self.gateway.next_deadline()).min();
            let next = next.filter(|_| !is_busy).unwrap_or(self.now);
            self.now = next.clamp(self.now + STEP, end.max(self.now + STEP));
            let now = self.now;
            for client in self.clients.iter_mut().filter(|client| !client.is_silent) {
                client.connection.handle_timeout(now);
            }
            self.metered(|gateway| gateway.handle_timeout(now));
        }
        self.exchange();
    }

    fn open(&mut self, host: [u8; 4], transport: TransportConfig, reads: bool) -> Key {
        let port = 2_000 + self.clients.len() as u16;
        let client = self.new_client((host, port).into(), transport);
        self.clients[client.0].reads = reads;
        self.pass(30 * STEP);
        if self.clients[client.0].is_connected {
            let control = self.connection(client).streams().open(Dir::Uni).unwrap();
            self.connection(client).send_stream(control).write(&CONTROL_PREFACE).unwrap();
            self.pass(5 * STEP);
        }
        client
    }

    fn new_client(&mut self, address: SocketAddr, mut transport: TransportConfig) -> Key {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&(self.clients.len() as u64).to_le_bytes());
        let mut config = quinn_proto::EndpointConfig::default();
        config.rng_seed(Some(seed));
        let mut endpoint = Endpoint::new(Arc::new(config), None, true, None);
        // It sends all that flow control lets it.
        let mut congestion = NewRenoConfig::default();
        congestion.initial_window(4_000_000);
        transport
            .congestion_controller_factory(Arc::new(congestion))
            .max_idle_timeout(None)
            .mtu_discovery_config(None);
        let mut tls = fixture::client_tls();
        tls.transport_config(Arc::new(transport));
        let (handle, connection) =
            endpoint.connect(self.now, tls, fixture::GATEWAY, "localhost").unwrap();
        self.clients.push(Client {
            address,
            endpoint,
            handle,
            connection,
            is_connected: false,
            is_closed: false,
            is_silent: false,
            reads: true,
            losing: 0,
            rejected_count: 0,
            response_count: 0,
        });
        Key(self.clients.len() - 1)
    }

    fn connection(&mut self, client: Key) -> &mut Connection {
        &mut self.clients[client.0].connection
    }

    fn open_stream(&mut self, client: Key, bytes: &[u8]) -> StreamId {
        let connection = self.connection(client);
        let stream = connection.streams().open(Dir::Bi).unwrap();
        let written = connection.send_stream(stream).write(bytes).unwrap();
        assert_eq!(written, bytes.len());
        stream
    }

    fn send_body(&mut self, client: Key, len: usize) {
        let mut head = head("POST", "/0");
        put_data_header(len as u64, &mut head);
        let stream = self.open_stream(client, &head);
        let _full = self.connection(client).send_stream(stream).write(&vec![7; len]);
    }

    /// Passes datagrams until nobody sends any more. Returns whether there were any.
    fn exchange(&mut self) -> bool {
        let mut sent_count = 0;
        for index in 0..self.clients.len() {
            if !self.clients[index].is_silent {
                sent_count += self.reach_gateway(Key(index));
            }
        }
        sent_count + self.run_gateway() > 0
    }

    /// Drives one client and hands over what it sends. Returns the number of datagrams.
    fn reach_gateway(&mut self, client: Key) -> usize {
        let (now, client) = (self.now, &mut self.clients[client.0]);
        let datagrams = client.drive(now);
        let address = client.address;
        for bytes in &datagrams {
            self.metered(|gateway| {
                let payload = BytesMut::from(&bytes[..]);
                let local_ip = Some(fixture::GATEWAY.ip());
                let datagram = Datagram { socket: 0, remote: address, local_ip, ecn: 0, payload };
                gateway.handle_datagram(now, datagram);
            });
        }
        datagrams.len()
    }

    /// Carries out the gateway's outputs. Returns the number of datagrams that clients received.
    fn run_gateway(&mut self) -> usize {
        let mut sent_count = 0;
        loop {
            self.carry_out();
            self.buffer.clear();
            let (now, mut buffer) = (self.now, std::mem::take(&mut self.buffer));
            let transmit = self.metered(|gateway| gateway.poll_transmit(now, &mut buffer));
            self.buffer = buffer;
            let Some(transmit) = transmit else { return sent_count };
            let clients = self.clients.iter_mut();
            let client = clients.rev().find(|client| client.address == transmit.destination);
            let Some(client) = client.filter(|client| !client.is_silent) else { continue };
            for datagram in self.buffer.chunks(transmit.segment_len.unwrap_or(transmit.len)) {
                client.receive(self.now, datagram);
                sent_count += 1;
            }
        }
    }

    fn carry_out(&mut self) {
        loop {
            let now = self.now;
            let Some(output) = self.metered(|gateway| gateway.poll(now)) else {
                if !self.answer() {
                    return;
                }
                continue;
            };
            let event = match &output {
                Output::Upstream(command) => self.act_upstream(command),
                Output::Tcp(_) | Output::Access(_) | Output::Incident(_) => None,
            };
            let is_write = matches!(output, Output::Upstream(UpstreamCommand::Write { .. }));
            let output = if is_write && self.upstreams == Upstreams::Stall {
                self.untaken.push(output);
                None
            } else {
                Some(output)
            };
            self.metered(|gateway| {
                drop(output);
                if let Some((key, event)) = event {
                    gateway.handle_upstream(now, key, event);
                }
            });
        }
    }

    fn act_upstream(&mut self, command: &UpstreamCommand) -> Option<(UpstreamKey, UpstreamEvent)> {
        match command {
            UpstreamCommand::Connect { key, .. } => {
                self.answers.insert(*key, (0, false));
                Some((*key, UpstreamEvent::Connected))
            }
            UpstreamCommand::Write { key, pieces } => {
                if self.upstreams == Upstreams::Stall {
                    return None;
                }
                if let Some(path) = pieces[0].strip_prefix(b"GET /") {
                    let len = path.split(|byte| *byte == b' ').next().unwrap();
                    let len = std::str::from_utf8(len).unwrap().parse::<usize>().unwrap();
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
                    let event = UpstreamEvent::Received(self.bytes(head.as_bytes()));
                    let now = self.now;
                    self.metered(|gateway| {
                        gateway.handle_upstream(now, *key, UpstreamEvent::Wrote);
                        gateway.handle_upstream(now, *key, event);
                    });
                    *self.answers.get_mut(key).unwrap() = (len, false);
                    return None;
                }
                Some((*key, UpstreamEvent::Wrote))
            }
            UpstreamCommand::Receive { key, .. } => {
                self.answers.get_mut(key).unwrap().1 = true;
                None
            }
            UpstreamCommand::Close { key } => {
                self.answers.remove(key);
                None
            }
        }
    }

    /// Lets one upstream that is asked say a piece of its answer. Returns false if there is none.
    fn answer(&mut self) -> bool {
        let mut answers = self.answers.iter_mut();
        let Some((key, (left, asked))) = answers.find(|(_, (left, asked))| *left > 0 && *asked)
        else {
            return false;
        };
        let piece_len = if self.upstreams == Upstreams::Crumbs { CRUMB_LEN } else { PIECE_LEN };
        let len = piece_len.min(*left);
        (*left, *asked) = (*left - len, false);
        let (key, now) = (*key, self.now);
        let piece = self.bytes(&vec![9; len]);
        let event = UpstreamEvent::Received(piece);
        self.metered(|gateway| gateway.handle_upstream(now, key, event));
        true
    }

    /// Returns bytes that the gateway will own, and pays for.
    fn bytes(&mut self, bytes: &[u8]) -> BytesMut {
        self.metered(|_| BytesMut::from(bytes))
    }

    fn metered<T>(&mut self, act: impl FnOnce(&mut Gateway) -> T) -> T {
        let before = self.pool.heap_balance();
        let outcome = act(&mut self.gateway);
        self.taken += (self.pool.heap_balance() - before) as i64;
        outcome
    }
}

impl Client {
    fn receive(&mut self, now: Instant, datagram: &[u8]) {
        let (from, mut response) = (fixture::GATEWAY, Vec::new());
        let bytes = BytesMut::from(datagram);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) =
            self.endpoint.handle(now, from, None, None, bytes, &mut response)
        {
            self.connection.handle_event(event);
        }
    }

    /// Handles events. Returns the datagrams that are not lost.
    fn drive(&mut self, now: Instant) -> Vec<Vec<u8>> {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.is_connected = true,
                Event::ConnectionLost { .. } => self.is_closed = true,
                Event::Stream(StreamEvent::Readable { id }) if self.reads => self.read(id),
                _ => {}
            }
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(reply) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(reply);
            }
        }
        let mut sent = Vec::new();
        let mut buffer = Vec::new();
        while self.connection.poll_transmit(now, 1, &mut buffer).is_some() {
            sent.push(std::mem::take(&mut buffer));
        }
        let lost = self.losing.min(sent.len());
        self.losing -= lost;
        sent.drain(..lost);
        sent
    }

    fn read(&mut self, id: StreamId) {
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return };
        loop {
            match chunks.next(usize::MAX) {
                Ok(Some(_)) => {}
                Ok(None) => {
                    self.response_count += usize::from(id.dir() == Dir::Bi);
                    break;
                }
                Err(quinn_proto::ReadError::Reset(code)) => {
                    self.rejected_count += usize::from(code.into_inner() == REQUEST_REJECTED);
                    break;
                }
                Err(quinn_proto::ReadError::Blocked) => break,
            }
        }
        let _credit = chunks.finalize();
    }
}

fn head(method: &str, path: &str) -> BytesMut {
    let mut head = BytesMut::new();
    let lines =
        [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    put_headers(lines, &mut head);
    head
}
