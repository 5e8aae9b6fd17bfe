//! The peer: quinn-proto as client, with a minimal HTTP/3 layer. Its work is done outside of the
//! measured time.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, StreamId,
    TransportConfig, VarInt,
};
use ringway::testing::http3::put_headers;
use ringway::testing::internal::config::Config;
use ringway::testing::internal::demo;
use ringway::testing::internal::quic::{Datagram, Engine, Transmit};
use ringway::testing::internal::tls::ServerTls;
use ringway::testing::{self, ClientTls};

const HOST: &str = "localhost";
const EDGE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 443);
const CLIENT: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9)), 40_000);

/// Returns the configuration of the demonstration, with an origin that is not used.
pub fn configuration() -> Config {
    demo::config(SocketAddr::from(([127, 0, 0, 1], 1)))
}

/// Returns an engine and its only client.
pub fn engine_and_client(now: Instant) -> (Engine, ServerTls, Client) {
    let config = configuration();
    let tls = ServerTls::load(&config.certificates, config.tls).expect("a self-signed certificate");
    let settings = testing::engine_settings(config.listeners[0].quic.clone(), &tls);
    let engine = Engine::new(settings).expect("good settings");
    let client = Client::new(now, &tls);
    (engine, tls, client)
}

/// A client with one connection.
pub struct Client {
    endpoint: Endpoint,
    handle: ConnectionHandle,
    /// For streams; [`Client::take`] and [`Client::bundle`] move its datagrams.
    pub connection: Connection,
}

impl Client {
    fn new(now: Instant, server: &ServerTls) -> Self {
        let mut config = ClientTls::trusting_server(server).quic();
        let mut transport = TransportConfig::default();
        transport.stream_receive_window(VarInt::from_u32(16 << 20));
        config.transport_config(Arc::new(transport));
        let settings = Arc::new(EndpointConfig::default());
        let mut endpoint = Endpoint::new(settings, None, true, Some([7; 32]));
        let (handle, connection) =
            endpoint.connect(now, config, EDGE, HOST).expect("a valid client");
        Self { endpoint, handle, connection }
    }

    /// Receives a datagram from the edge.
    pub fn take(&mut self, now: Instant, transmit: &Transmit, batch: &[u8]) {
        for datagram in batch.chunks(transmit.segment_len.unwrap_or(transmit.len)) {
            let mut response = Vec::new();
            let payload = BytesMut::from(datagram);
            let event = self.endpoint.handle(now, EDGE, None, None, payload, &mut response);
            if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
                self.connection.handle_event(event);
            }
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while self.connection.poll().is_some() {}
    }

    /// Returns up to `count_max` datagrams as the kernel would coalesce them: one segmented buffer.
    /// Empty when the client has nothing to send.
    pub fn bundle(&mut self, now: Instant, count_max: usize) -> Vec<Datagram> {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        let mut bytes = Vec::with_capacity(ringway::testing::internal::limits::SLOT_LEN);
        let Some(sent) = self.connection.poll_transmit(now, count_max, &mut bytes) else {
            return Vec::new();
        };
        let mut rest = BytesMut::from(&bytes[..sent.size]);
        let segment_len = sent.segment_size.unwrap_or(sent.size);
        let mut datagrams = Vec::with_capacity(count_max);
        while !rest.is_empty() {
            let payload = rest.split_to(segment_len.min(rest.len()));
            let local_ip = Some(EDGE.ip());
            datagrams.push(Datagram { socket: 0, remote: CLIENT, local_ip, ecn: 0, payload });
        }
        datagrams
    }

    /// Opens a stream and sends all of `bytes`, then finishes it unless more is to follow.
    pub fn send(&mut self, direction: Dir, bytes: &[u8], is_whole: bool) -> StreamId {
        let stream = self.connection.streams().open(direction).expect("streams are allowed");
        let mut sending = self.connection.send_stream(stream);
        assert_eq!(sending.write(bytes), Ok(bytes.len()), "there is room");
        if is_whole {
            sending.finish().expect("a new stream");
        }
        stream
    }

    /// Reads a stream. Returns the number of bytes read, and whether the stream has ended.
    pub fn read(&mut self, stream: StreamId) -> (usize, bool) {
        let mut receiving = self.connection.recv_stream(stream);
        let mut chunks = receiving.read(true).expect("a stream that is read");
        let mut len = 0;
        let ended = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => len += chunk.bytes.len(),
                Ok(None) => break true,
                Err(quinn_proto::ReadError::Blocked) => break false,
                Err(error) => panic!("{error}"),
            }
        };
        let _credit = chunks.finalize();
        (len, ended)
    }
}

/// Field lines of a browser's request, pseudo-header fields first.
pub const REQUEST: [(&str, &str); 10] = [
    (":method", "GET"),
    (":scheme", "https"),
    (":authority", HOST),
    (":path", "/assets/app.4f1a2b.js?v=31"),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"),
    ("accept", "*/*"),
    ("accept-language", "en-US,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br, zstd"),
    ("referer", "https://localhost/index.html"),
    ("cookie", "session=0123456789abcdef0123456789abcdef; theme=dark"),
];

/// Returns [`REQUEST`] as a HEADERS frame (RFC 9114 7.2.2).
pub fn request_frame() -> Bytes {
    let mut frame = BytesMut::new();
    put_headers(REQUEST, &mut frame);
    frame.freeze()
}
