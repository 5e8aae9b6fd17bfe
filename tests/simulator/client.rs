//! A client made of quinn-proto and a minimal HTTP/3 layer.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionError, ConnectionHandle, DatagramEvent, Dir, EcnCodepoint,
    Endpoint, Event, StreamEvent, TransportConfig, VarInt,
};

use crate::account::Account;
use crate::plan::Ask;
use crate::request::{Got, Request};

/// The behaviour of a client.
#[derive(Debug, Clone)]
pub struct Manner {
    /// Start, counted from the world's start.
    pub after: Duration,
    /// Times at which its address changes: only the port, or with `true` the host too.
    pub moves: Vec<(Duration, bool)>,
    /// Time at which it leaves: with a CONNECTION_CLOSE, or with `false` silently.
    pub leaves: Option<(Duration, bool)>,
    pub stream_window: u32,
    pub send_window: u32,
}

impl Manner {
    pub const CALM: Self = Self {
        after: Duration::ZERO,
        moves: Vec::new(),
        leaves: None,
        stream_window: 1_250_000,
        send_window: 1_250_000,
    };
}

/// A datagram in flight from a client.
pub struct Sent {
    pub bytes: Vec<u8>,
    pub ecn: u8,
}

pub struct Client {
    pub address: SocketAddr,
    start: Instant,
    moves: VecDeque<(Duration, bool)>,
    /// Number of address changes during a connection.
    pub move_count: u64,
    /// The anti-amplification account of its current address, once it has moved.
    pub account: Option<Account>,
    pub manner: Manner,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    pub requests: Vec<Request>,
    /// Index of the request that is driven first.
    turn: usize,
    begun: bool,
    established: bool,
    closing: bool,
    /// Whether it has left or its connection is drained.
    pub drained: bool,
}

impl Client {
    pub fn new(
        now: Instant,
        addresses: (SocketAddr, SocketAddr),
        mut tls: ClientConfig,
        seed: u64,
        manner: Manner,
        asks: Vec<Ask>,
    ) -> Self {
        let mut seed_bytes = [0; 32];
        seed_bytes[..8].copy_from_slice(&seed.to_le_bytes());
        let mut config = quinn_proto::EndpointConfig::default();
        config.rng_seed(Some(seed_bytes));
        let mut endpoint = Endpoint::new(Arc::new(config), None, true, None);
        let mut transport = TransportConfig::default();
        transport
            .keep_alive_interval(Some(Duration::from_secs(4)))
            .max_idle_timeout(Some(Duration::from_secs(30).try_into().expect("a short time")))
            .stream_receive_window(manner.stream_window.into())
            .send_window(manner.send_window.into());
        tls.transport_config(Arc::new(transport));
        let start = now + manner.after;
        let (address, gateway) = addresses;
        let (handle, connection) =
            endpoint.connect(start, tls, gateway, "localhost").expect("a valid client");
        Self {
            address,
            start,
            moves: manner.moves.clone().into(),
            move_count: 0,
            account: None,
            manner,
            endpoint,
            handle,
            connection,
            requests: asks.into_iter().map(Request::new).collect(),
            turn: 0,
            begun: false,
            established: false,
            closing: false,
            drained: false,
        }
    }

    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, ecn: u8, datagram: &[u8]) {
        if self.drained {
            return;
        }
        let mut response = Vec::new();
        let (data, ecn) = (BytesMut::from(datagram), EcnCodepoint::from_bits(ecn));
        if let Some(DatagramEvent::ConnectionEvent(_, event)) =
            self.endpoint.handle(now, from, None, ecn, data, &mut response)
        {
            self.connection.handle_event(event);
        }
    }

    pub fn next_deadline(&mut self) -> Option<Instant> {
        if self.drained {
            return None;
        }
        if !self.begun {
            return Some(self.start);
        }
        let start = self.start;
        let requests = self.requests.iter().filter(|_| self.established && !self.closing);
        let due = requests.filter_map(|request| request.next_deadline(start)).min();
        let moves = self.moves.front().map(|(after, _)| start + *after);
        let leaves = self.manner.leaves.filter(|_| !self.closing).map(|(after, _)| start + after);
        [due, moves, leaves, self.connection.poll_timeout()].into_iter().flatten().min()
    }

    /// Describes what it still waits for, for failure messages.
    pub fn unrest(&mut self, now: Instant) -> String {
        let due = self.next_deadline().map(|at| at.saturating_duration_since(now));
        let open = self.requests.iter().filter(|request| request.got.is_none());
        let open: Vec<_> = open.map(|request| (&request.ask, request.received_len())).collect();
        format!("drained {}, due in {due:?}, open {open:?}", self.drained)
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.connection.handle_timeout(now);
        while let Some((after, host)) = self.moves.front().copied()
            && self.start + after <= now
        {
            self.moves.pop_front();
            let SocketAddr::V4(mut address) = self.address else { unreachable!("all are IPv4") };
            address.set_port(address.port() + 1_000);
            if host {
                let [a, b, c, d] = address.ip().octets();
                address.set_ip([a, b, c + 1, d].into());
            }
            self.address = address.into();
            self.account = Some(Account::default());
            self.move_count += u64::from(self.established && !self.closing);
        }
        if let Some((after, says_so)) = self.manner.leaves
            && self.start + after <= now
            && !self.closing
        {
            self.lose("it left");
            if says_so {
                self.connection.close(now, VarInt::from_u32(0x10c), Bytes::new());
            } else {
                self.drained = true;
            }
        }
    }

    /// Returns whether its connection timed out because the gateway was not permitted to send to
    /// its new address.
    pub fn is_out_of_reach(&self) -> bool {
        let timed_out = ConnectionError::TimedOut.to_string();
        let lost = self.requests.iter().any(|request| {
            matches!(&request.got, Some(Got::ConnectionLost { reason, .. }) if *reason == timed_out)
        });
        lost && self.account.as_ref().is_some_and(Account::is_spent)
    }

    /// Handles events and drives requests. Returns the datagrams to send.
    pub fn drive(&mut self, now: Instant) -> Vec<Sent> {
        let mut datagrams = Vec::new();
        if now < self.start {
            return datagrams;
        }
        self.begun = true;
        while !self.drained {
            self.settle(now);
            let mut bytes = Vec::new();
            let Some(transmit) = self.connection.poll_transmit(now, 1, &mut bytes) else { break };
            bytes.truncate(transmit.size);
            datagrams.push(Sent { bytes, ecn: transmit.ecn.map_or(0, |ecn| ecn as u8) });
        }
        if !self.drained {
            self.settle(now);
        }
        datagrams
    }

    fn settle(&mut self, now: Instant) {
        while let Some(event) = self.connection.poll_endpoint_events() {
            if event.is_drained() {
                self.drained = true;
            }
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => self.open_control(),
                Event::ConnectionLost { reason } => self.lose(&reason.to_string()),
                // RFC 9000 3.5: the stream stays open for the other side until it is reset.
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    let _finished = self.connection.send_stream(id).reset(error_code);
                }
                Event::Stream(_)
                | Event::HandshakeDataReady
                | Event::DatagramReceived
                | Event::DatagramsUnblocked => {}
            }
        }
        // Before the handshake is confirmed quinn-proto's client can fill its congestion window
        // with requests, which a server must not read yet, and starve its own lost Finished for
        // good.
        if !self.established && self.connection.stats().frame_rx.handshake_done > 0 {
            self.established = true;
            // The handshake does not count: a connection does not migrate before its end.
            self.account = self.account.take().map(|_| Account::default());
        }
        if self.established && !self.closing {
            // Requests are driven in turn: otherwise one long upload would take the whole send
            // window.
            self.turn = (self.turn + 1) % self.requests.len();
            let (later, first) = self.requests.split_at_mut(self.turn);
            for request in first.iter_mut().chain(later) {
                request.drive(now, self.start, &mut self.connection);
            }
            if self.requests.iter().all(|request| request.got.is_some()) {
                self.closing = true;
                self.connection.close(now, VarInt::from_u32(0x100), Bytes::new());
            }
        }
    }

    fn open_control(&mut self) {
        let control = self.connection.streams().open(Dir::Uni).expect("three streams are allowed");
        // Stream type 0x00, then an empty SETTINGS frame (type 0x04, length 0).
        self.connection.send_stream(control).write(&[0x00, 0x04, 0x00]).expect("room for 3 bytes");
    }

    fn lose(&mut self, reason: &str) {
        for request in &mut self.requests {
            request.got.get_or_insert_with(|| Got::ConnectionLost {
                established: self.established,
                reason: reason.to_owned(),
            });
        }
        self.closing = true;
    }
}
