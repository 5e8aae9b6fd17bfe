//! TLS streams against rustls' own connections of the buffered kind, which read and write the other
//! end of the same bytes.

mod clients;
mod compression;
mod early_data;
mod faults;

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::ops::Range;

use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConnection, Connection, ServerConnection};

use super::super::stream::byte_stream::ByteStream;
use super::super::stream::{
    CopiedLen, EarlyDataFate, Handshaken, StreamEnd, TlsEvent, TlsFault, TlsStream,
};
use super::super::tcp::{TcpServerTls, provider_tcp};
use super::*;

const HOST: &str = "www.example.test";
const ALPN: &[&[u8]] = &[b"h2", b"http/1.1"];
const BOTH_VERSIONS: [TlsVersion; 2] = [TlsVersion::Tls12, TlsVersion::Tls13];
const MIB: usize = 1 << 20;

/// A server's settings, and the certificate that clients trust.
struct Site {
    tls: ServerTls,
    tcp: TcpServerTls,
    root: CertificateDer<'static>,
    files: Files,
}

impl Site {
    fn new() -> Self {
        Self::with(Tls::default())
    }

    fn with(settings: Tls) -> Self {
        let made = TestCertificate::new(&[HOST, "other.test", "192.0.2.1"]);
        let files = Files::new(&made.chain_pem, &made.key_pem);
        let tls = ServerTls::load(&[files.certificate(&[exact(HOST)])], settings).unwrap();
        let tcp = tls.config_tcp(ALPN, TlsVersion::Tls12, EarlyData::Off, None).unwrap();
        Self { tls, tcp, root: made.der, files }
    }

    fn client_config(&self, version: TlsVersion) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let version = match version {
            TlsVersion::Tls12 => &rustls::version::TLS12,
            TlsVersion::Tls13 => &rustls::version::TLS13,
        };
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider_tcp()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec(), b"h2".to_vec()];
        config.cert_decompressors = Vec::new();
        config
    }

    fn client(&self, version: TlsVersion) -> Connection {
        client_of(self.client_config(version))
    }
}

fn client_of(config: rustls::ClientConfig) -> Connection {
    let name = ServerName::try_from(HOST).unwrap();
    ClientConnection::new(Arc::new(config), name).unwrap().into()
}

/// The way in which bytes are cut into receives.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Whole,
    Bytes,
    Random(u64),
}

impl Cut {
    fn cut(self, bytes: &[u8]) -> Vec<BytesMut> {
        let mut random = SmallRng::seed_from_u64(match self {
            Self::Random(seed) => seed ^ bytes.len() as u64,
            _ => 0,
        });
        let mut rest = bytes;
        let mut pieces = Vec::new();
        while !rest.is_empty() {
            let len = match self {
                Self::Whole => rest.len(),
                Self::Bytes => 1,
                Self::Random(_) => random.random_range(1..=rest.len().min(30_000)),
            };
            let (piece, behind) = rest.split_at(len);
            pieces.push(BytesMut::from(piece));
            rest = behind;
        }
        pieces
    }
}

/// A stream under test and its peer, with nothing in between.
struct Pair {
    stream: TlsStream,
    peer: Connection,
    cut: Cut,
    events: Vec<TlsEvent>,
    /// Plaintext that the peer has read.
    arrived: Vec<u8>,
    held_len_max: usize,
}

impl Pair {
    fn new(stream: TlsStream, peer: Connection, cut: Cut) -> Self {
        Self { stream, peer, cut, events: Vec::new(), arrived: Vec::new(), held_len_max: 0 }
    }

    /// Moves bytes both ways until neither end has more.
    fn run(&mut self) -> Result<(), TlsFault> {
        loop {
            let outcome = self.feed_stream();
            let moved = self.feed_peer();
            outcome?;
            if !moved && !self.peer.wants_write() {
                return Ok(());
            }
        }
    }

    fn feed_stream(&mut self) -> Result<(), TlsFault> {
        let bytes = written_by(&mut self.peer);
        for piece in self.cut.cut(&bytes) {
            self.stream.receive(piece);
            while let Some(event) = self.stream.poll()? {
                self.events.push(event);
            }
            self.held_len_max = self.held_len_max.max(self.stream.held_len());
        }
        Ok(())
    }

    fn feed_peer(&mut self) -> bool {
        let mut moved = false;
        for piece in self.stream.take_output() {
            moved = true;
            let mut rest = &piece[..];
            while !rest.is_empty() {
                self.peer.read_tls(&mut rest).unwrap();
                // The peer's own faults are read from its alerts.
                let _judged = self.peer.process_new_packets();
                let mut plaintext = [0; 1 << 16];
                while let Ok(len @ 1..) = self.peer.reader().read(&mut plaintext) {
                    self.arrived.extend_from_slice(&plaintext[..len]);
                }
            }
        }
        moved
    }

    fn handshake(&mut self) -> Handshaken {
        self.run().unwrap();
        let event = self.events.remove(0);
        let TlsEvent::Handshaken(handshaken) = event else { panic!("{event:?}") };
        assert!(!self.peer.is_handshaking());
        handshaken
    }

    fn take_received(&mut self) -> Vec<u8> {
        let received = self.events.drain(..).flat_map(|event| match event {
            TlsEvent::Data(bytes) => bytes,
            other => panic!("{other:?}"),
        });
        received.collect()
    }
}

fn written_by(peer: &mut Connection) -> Vec<u8> {
    let mut bytes = Vec::new();
    while peer.wants_write() {
        peer.write_tls(&mut bytes).unwrap();
    }
    bytes
}

fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    SmallRng::seed_from_u64(seed).fill(&mut bytes[..]);
    bytes
}

fn pieces(bytes: &[u8], len: usize) -> VecDeque<Bytes> {
    bytes.chunks(len).map(Bytes::copy_from_slice).collect()
}

fn open_pair(site: &Site, version: TlsVersion) -> Pair {
    let mut pair = Pair::new(site.tcp.accept().unwrap(), site.client(version), Cut::Whole);
    assert_eq!(pair.handshake().version, version);
    pair
}

/// Every version, and every fragmentation: the handshake completes, and bytes both ways are equal.
#[test]
fn a_server_reads_what_a_client_writes_however_it_is_cut() {
    let site = Site::new();
    let cuts = [Cut::Whole, Cut::Bytes, Cut::Random(1), Cut::Random(2), Cut::Random(3)];
    for (version, cut) in BOTH_VERSIONS.into_iter().flat_map(|v| cuts.map(|cut| (v, cut))) {
        let mut pair = Pair::new(site.tcp.accept().unwrap(), site.client(version), cut);
        let expected = Handshaken {
            // The server's preference, not the client's.
            alpn: Some(b"h2".to_vec()),
            server_name: Some(HOST.to_owned()),
            version,
            resumed: false,
            client_certificate: None,
            early_data: EarlyDataFate::NotOffered,
        };
        assert_eq!(pair.handshake(), expected, "{cut:?}");
        let len = if matches!(cut, Cut::Bytes) { MIB / 16 } else { MIB };
        let (upload, download) = (noise(len, 4), noise(len, 5));
        pair.peer.set_buffer_limit(None);
        pair.peer.writer().write_all(&upload).unwrap();
        pair.run().unwrap();
        assert!(pair.take_received() == upload, "{version:?} {cut:?}");
        let mut queue = pieces(&download, 10_000);
        while !queue.is_empty() {
            assert!(pair.stream.write(&mut queue, 50_000).unwrap() > 0);
            pair.run().unwrap();
        }
        assert!(pair.arrived == download, "{version:?} {cut:?}");
    }
}

#[test]
fn a_client_reads_what_a_server_writes() {
    let site = Site::new();
    for version in BOTH_VERSIONS {
        let name = ServerName::try_from(HOST).unwrap();
        let config = Arc::new(site.client_config(version));
        let client = TlsStream::client(config, name).unwrap();
        let settings = server_settings(&site);
        let server = ServerConnection::new(Arc::new(settings)).unwrap();
        let mut pair = Pair::new(client, server.into(), Cut::Random(6));
        assert!(pair.feed_peer(), "a client speaks first");
        let handshaken = pair.handshake();
        assert_eq!((handshaken.version, handshaken.server_name), (version, None));
        let (upload, download) = (noise(MIB, 7), noise(MIB, 8));
        let mut queue = pieces(&upload, 100_000);
        assert_eq!(pair.stream.write(&mut queue, usize::MAX).unwrap(), MIB);
        pair.peer.set_buffer_limit(None);
        pair.peer.writer().write_all(&download).unwrap();
        pair.run().unwrap();
        assert!(pair.arrived == upload && pair.take_received() == download);
    }
}

/// Returns settings of a buffered server with the site's certificate.
fn server_settings(site: &Site) -> rustls::ServerConfig {
    let resolver = Arc::clone(&site.tls.shared.certificates);
    let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider_tcp()))
        .with_protocol_versions(rustls::ALL_VERSIONS)
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(resolver);
    config.alpn_protocols = vec![b"h2".to_vec()];
    config
}

#[test]
fn a_session_is_resumed_by_its_ticket_also_after_a_reload() {
    let site = Site::new();
    for version in BOTH_VERSIONS {
        let config = site.client_config(version);
        let mut first =
            Pair::new(site.tcp.accept().unwrap(), client_of(config.clone()), Cut::Whole);
        assert!(!first.handshake().resumed);
        let reloaded = site
            .tls
            .reload(&[site.files.certificate(&[exact(HOST)])], Tls::default())
            .unwrap()
            .config_tcp(ALPN, TlsVersion::Tls12, EarlyData::Off, None)
            .unwrap();
        let mut second = Pair::new(reloaded.accept().unwrap(), client_of(config), Cut::Bytes);
        let handshaken = second.handshake();
        assert!(handshaken.resumed, "{version:?}");
        assert_eq!(handshaken.server_name.as_deref(), Some(HOST));
        second.peer.writer().write_all(b"again").unwrap();
        second.run().unwrap();
        assert_eq!(second.take_received(), b"again");
    }
}

#[test]
fn data_are_slices_of_the_buffer_that_was_received() {
    let site = Site::new();
    for version in BOTH_VERSIONS {
        let mut pair = open_pair(&site, version);
        let upload = noise(40_000, 9);
        pair.peer.writer().write_all(&upload).unwrap();
        let received = BytesMut::from(&written_by(&mut pair.peer)[..]);
        let Range { start, end } = received.as_ptr_range();
        pair.stream.take_copied_len();
        pair.stream.receive(received);
        let mut count = 0;
        while let Some(TlsEvent::Data(bytes)) = pair.stream.poll().unwrap() {
            let range = bytes.as_ptr_range();
            assert!(start <= range.start && range.end <= end, "{version:?}");
            count += 1;
        }
        assert_eq!(count, 3, "records of 16 KiB");
        // The only copy is the one that rustls makes and that is not used.
        let expected = CopiedLen { received: upload.len(), sent: 0 };
        assert_eq!(pair.stream.take_copied_len(), expected);
        assert_eq!(pair.stream.held_len(), 0);
    }
}

#[test]
fn a_record_that_comes_in_parts_is_joined_once() {
    let site = Site::new();
    let mut pair = open_pair(&site, TlsVersion::Tls13);
    pair.peer.writer().write_all(&noise(10_000, 10)).unwrap();
    let bytes = written_by(&mut pair.peer);
    pair.stream.take_copied_len();
    for part in bytes.chunks(1000) {
        assert_eq!(pair.stream.poll(), Ok(None));
        pair.stream.receive(part.into());
    }
    assert!(matches!(pair.stream.poll(), Ok(Some(TlsEvent::Data(_)))));
    assert_eq!(pair.stream.take_copied_len().received, bytes.len() + 10_000);
    assert_eq!(pair.stream.held_len(), 0);
}

#[test]
fn pieces_become_few_records_and_are_copied_as_often_as_is_counted() {
    let site = Site::new();
    let mut pair = open_pair(&site, TlsVersion::Tls13);
    // Nine bytes of a frame's header in front of each piece, as in HTTP/2.
    let mut queue: VecDeque<Bytes> =
        (0..4).flat_map(|_| [Bytes::from_static(&[7; 9]), Bytes::from(vec![8; 16_384])]).collect();
    let len = 4 * (9 + 16_384);
    assert_eq!(pair.stream.write(&mut queue, 100_000).unwrap(), len);
    assert!(queue.is_empty());
    let output = pair.stream.take_output();
    assert_eq!(output.len(), 1);
    // Header, content type and tag.
    assert_eq!(output[0].len(), len + 5 * (5 + 1 + 16), "five records, of which the last is short");
    let sent = pair.stream.take_copied_len().sent;
    assert!(sent > 2 * len && sent <= 3 * len, "{sent}");
    // A long piece is not gathered.
    let mut queue: VecDeque<Bytes> = [Bytes::from(vec![9; 65_536])].into();
    assert_eq!(pair.stream.write(&mut queue, 20_000).unwrap(), 20_000);
    assert_eq!(pair.stream.take_copied_len().sent, 2 * 20_000);
    assert_eq!(queue[0].len(), 65_536 - 20_000);
}

#[test]
fn the_peer_may_change_its_keys() {
    let site = Site::new();
    let mut pair = open_pair(&site, TlsVersion::Tls13);
    for round in 0..5 {
        pair.peer.refresh_traffic_keys().unwrap();
        pair.peer.writer().write_all(&noise(1000, round)).unwrap();
        pair.run().unwrap();
        assert_eq!(pair.take_received(), noise(1000, round));
        // The request for new keys of ours is honoured with the next bytes.
        let mut queue: VecDeque<Bytes> = [Bytes::from(noise(100, round))].into();
        pair.stream.write(&mut queue, usize::MAX).unwrap();
        pair.run().unwrap();
        assert_eq!(pair.arrived, noise(100, round));
        pair.arrived.clear();
    }
}

#[test]
fn either_side_closes_in_order() {
    let site = Site::new();
    for version in BOTH_VERSIONS {
        let mut pair = open_pair(&site, version);
        pair.peer.writer().write_all(b"last").unwrap();
        pair.peer.send_close_notify();
        pair.run().unwrap();
        assert_eq!(pair.events.pop(), Some(TlsEvent::Closed));
        assert_eq!(pair.take_received(), b"last");
        // The other direction is still open.
        let mut queue: VecDeque<Bytes> = [Bytes::from_static(b"response")].into();
        assert_eq!(pair.stream.write(&mut queue, 100).unwrap(), 8);
        pair.stream.close();
        pair.run().unwrap();
        assert_eq!(pair.arrived, b"response");
        assert!(pair.peer.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(pair.stream.handle_end(), StreamEnd::Clean);

        let mut pair = open_pair(&site, version);
        pair.stream.close();
        pair.run().unwrap();
        assert!(pair.peer.process_new_packets().unwrap().peer_has_closed());
        assert_eq!(pair.stream.write(&mut [Bytes::from_static(b"x")].into(), 1), Ok(0));
        // What comes after that is not read, valid or not.
        pair.stream.receive(BytesMut::from(&[0; 100][..]));
        assert_eq!((pair.stream.poll(), pair.stream.held_len()), (Ok(None), 0));

        let mut pair = open_pair(&site, version);
        assert_eq!(pair.stream.handle_end(), StreamEnd::Truncated);
    }
}

#[test]
fn the_server_name_is_the_one_that_rustls_judges_by() {
    let site = Site::new();
    for (name, expected) in [
        ("WWW.Example.Test", Some(HOST)),
        ("other.test", Some("other.test")),
        // An address is no server name (RFC 6066 3).
        ("192.0.2.1", None),
    ] {
        let config = site.client_config(TlsVersion::Tls13);
        let name = ServerName::try_from(name).unwrap();
        let client = ClientConnection::new(Arc::new(config), name).unwrap();
        let mut pair = Pair::new(site.tcp.accept().unwrap(), client.into(), Cut::Bytes);
        assert_eq!(pair.handshake().server_name.as_deref(), expected);
    }
}

/// The same calls, with TLS and without, give the same bytes.
#[test]
fn a_stream_without_tls_passes_bytes_through() {
    let mut stream = ByteStream::plain();
    let received = BytesMut::from(&b"request"[..]);
    let place = received.as_ptr();
    stream.receive(received);
    assert_eq!(stream.held_len(), 7);
    let Ok(Some(TlsEvent::Data(bytes))) = stream.poll() else { panic!("no data") };
    assert_eq!((bytes.as_ptr(), &bytes[..]), (place, &b"request"[..]));
    assert_eq!(stream.poll(), Ok(None));
    let mut queue: VecDeque<Bytes> =
        ["one", "two", "three"].map(|text| Bytes::from_static(text.as_bytes())).into();
    assert_eq!(stream.write(&mut queue, 4), Ok(4));
    assert_eq!((stream.held_len(), &queue[0][..]), (4, &b"wo"[..]));
    assert_eq!(stream.take_output(), ["one", "t"]);
    assert_eq!(stream.take_copied_len(), CopiedLen::default());
    assert_eq!(stream.handle_end(), StreamEnd::Clean);
    stream.close();
    stream.receive(BytesMut::from(&b"late"[..]));
    assert_eq!((stream.poll(), stream.write(&mut queue, 4)), (Ok(None), Ok(0)));
    assert_eq!(queue.len(), 2);

    let site = Site::new();
    let mut tls = ByteStream::Tls(Box::new(site.tcp.accept().unwrap()));
    tls.receive(BytesMut::from(&written_by(&mut site.client(TlsVersion::Tls13))[..]));
    assert_eq!(tls.poll(), Ok(None));
    assert_eq!((tls.take_output().len(), tls.handle_end()), (1, StreamEnd::Truncated));
}

/// Returns the resident memory of this process in bytes.
fn resident_len() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    let pages: usize = text.split(' ').nth(1).unwrap().parse().unwrap();
    pages * 4096
}

/// Other tests of the same process may grow meanwhile; nextest runs each in its own.
#[test]
fn an_idle_connection_is_small() {
    let site = Site::new();
    let config = Arc::new(site.client_config(TlsVersion::Tls13));
    let open = || {
        let name = ServerName::try_from(HOST).unwrap();
        let client = ClientConnection::new(Arc::clone(&config), name).unwrap();
        let mut pair = Pair::new(site.tcp.accept().unwrap(), client.into(), Cut::Whole);
        pair.handshake();
        pair.peer.writer().write_all(&noise(1000, 1)).unwrap();
        pair.run().unwrap();
        assert_eq!(pair.take_received().len(), 1000);
        pair.stream
    };
    // What is allocated once, and what the heap keeps for the next.
    let warm: Vec<TlsStream> = (0..20).map(|_| open()).collect();
    let before = resident_len();
    let idle: Vec<TlsStream> = (0..1000).map(|_| open()).collect();
    let each = resident_len().saturating_sub(before) / idle.len();
    assert!(idle.iter().chain(&warm).all(|stream| stream.held_len() == 0));
    assert!(each > size_of::<TlsStream>(), "{each} bytes each: the heap had room for them all");
    assert!(each <= 40 * 1024, "{each} bytes each");
    println!("an idle connection has {each} bytes, {} of them in place", size_of::<TlsStream>());
}
