//! Early data: what a client sends behind its first message, and what anybody sends again.

use super::*;
use crate::limits::EARLY_DATA_LEN_MAX;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: www.example.test\r\n\r\n";

/// A site with early data, and a client that has a session with it.
struct Early {
    site: Site,
    client: rustls::ClientConfig,
}

impl Early {
    fn new() -> Self {
        let mut site = Site::new();
        site.tcp = permitting(&site.tls);
        let mut client = site.client_config(TlsVersion::Tls13);
        client.enable_early_data = true;
        let early = Self { site, client };
        early.renew_session();
        early
    }

    /// Gives the client another session.
    fn renew_session(&self) {
        let mut pair = self.pair(Cut::Whole);
        pair.handshake();
    }

    fn pair(&self, cut: Cut) -> Pair {
        Pair::new(self.site.tcp.accept().unwrap(), client_of(self.client.clone()), cut)
    }

    /// Returns a pair whose client has a request in its first flight.
    fn pair_with_request(&self, cut: Cut) -> Pair {
        let mut pair = self.pair(cut);
        let Connection::Client(client) = &mut pair.peer else { unreachable!("a client") };
        let mut early = client.early_data().expect("the session permits early data");
        assert_eq!(early.bytes_left(), EARLY_DATA_LEN_MAX as usize);
        early.write_all(REQUEST).unwrap();
        pair
    }
}

fn permitting(tls: &ServerTls) -> TcpServerTls {
    tls.config_tcp(ALPN, TlsVersion::Tls12, EarlyData::SafeMethods, None).unwrap()
}

/// Returns the early data of events, and whether a handshake was completed.
fn early_data_of(events: &[TlsEvent]) -> (Vec<u8>, bool) {
    let mut bytes = Vec::new();
    let mut completed = false;
    for event in events {
        match event {
            TlsEvent::EarlyData(chosen, piece) => {
                assert!(!completed, "early data come before the handshake is complete");
                assert_eq!(chosen.early_data, EarlyDataFate::Accepted);
                assert_eq!((chosen.alpn.as_deref(), chosen.resumed), (Some(&b"h2"[..]), true));
                assert_eq!(chosen.server_name.as_deref(), Some(HOST));
                bytes.extend_from_slice(piece);
            }
            TlsEvent::Handshaken(_) => completed = true,
            TlsEvent::Data(_) | TlsEvent::Closed => panic!("{event:?}"),
        }
    }
    (bytes, completed)
}

#[test]
fn early_data_are_read_and_responded_to_before_the_handshake_is_complete() {
    for cut in [Cut::Whole, Cut::Bytes, Cut::Random(1), Cut::Random(2)] {
        let early = Early::new();
        let mut pair = early.pair_with_request(cut);
        pair.feed_stream().unwrap();
        assert_eq!(early_data_of(&pair.events), (REQUEST.to_vec(), false), "{cut:?}");
        // The response is with the client before it has sent anything more.
        let mut response = pieces(b"a response", 100);
        assert_eq!(pair.stream.write(&mut response, 100).unwrap(), 10);
        pair.feed_peer();
        assert_eq!(pair.arrived, b"a response");
        pair.events.clear();
        pair.peer.writer().write_all(b"more").unwrap();
        pair.run().unwrap();
        assert!(
            matches!(
                &pair.events[..],
                [TlsEvent::Handshaken(Handshaken { early_data: EarlyDataFate::Accepted, .. }), ..]
            ),
            "{:?}",
            pair.events
        );
        assert!(matches!(&pair.events[1..], [TlsEvent::Data(data)] if data == &b"more"[..]));
        let Connection::Client(client) = &pair.peer else { unreachable!("a client") };
        assert!(client.is_early_data_accepted());
    }
}

/// The same bytes again, at a worker of the same process, after a reload, and at another process.
#[test]
fn a_first_flight_that_is_sent_again_is_no_request() {
    let early = Early::new();
    let certificates = [early.site.files.certificate(&[exact(HOST)])];
    let mut pair = early.pair_with_request(Cut::Whole);
    let flight = written_by(&mut pair.peer);
    let accept = |tcp: &TcpServerTls| {
        let mut stream = tcp.accept().unwrap();
        stream.receive(BytesMut::from(&flight[..]));
        let mut events = Vec::new();
        while let Some(event) = stream.poll().unwrap() {
            events.push(event);
        }
        assert!(!stream.take_output().is_empty(), "a server's flight");
        events
    };
    assert_eq!(early_data_of(&accept(&early.site.tcp)), (REQUEST.to_vec(), false));
    let reloaded = early.site.tls.reload(&certificates, Tls::default()).unwrap();
    let restarted = ServerTls::load(&certificates, Tls::default()).unwrap();
    for tls in [&early.site.tls, &early.site.tls, &reloaded, &restarted] {
        assert_eq!(accept(&permitting(tls)), []);
    }
    // And where it never came first: the session is known there only where it was made.
    early.renew_session();
    let mut pair = early.pair_with_request(Cut::Whole);
    let flight = written_by(&mut pair.peer);
    let mut stream = permitting(&restarted).accept().unwrap();
    stream.receive(BytesMut::from(&flight[..]));
    assert_eq!(stream.poll().unwrap(), None);
}

#[test]
fn a_client_whose_early_data_are_refused_sends_them_again_after_the_handshake() {
    let early = Early::new();
    let off = early.site.tls.config_tcp(ALPN, TlsVersion::Tls12, EarlyData::Off, None).unwrap();
    for cut in [Cut::Whole, Cut::Bytes, Cut::Random(3)] {
        early.renew_session();
        let mut pair = early.pair_with_request(cut);
        pair.stream = off.accept().unwrap();
        let handshaken = pair.handshake();
        assert_eq!(handshaken.early_data, EarlyDataFate::Rejected, "{cut:?}");
        assert!(!handshaken.resumed);
        let Connection::Client(client) = &pair.peer else { unreachable!("a client") };
        assert!(!client.is_early_data_accepted());
        pair.peer.writer().write_all(REQUEST).unwrap();
        pair.run().unwrap();
        assert_eq!(pair.take_received(), REQUEST);
    }
}

#[test]
fn a_session_with_early_data_is_continued_once_and_each_handshake_gives_another() {
    let early = Early::new();
    for _ in 0..3 {
        let mut pair = early.pair_with_request(Cut::Whole);
        pair.run().unwrap();
        let (bytes, completed) = early_data_of(&pair.events);
        assert!(completed && bytes == REQUEST);
    }
}

#[test]
fn clients_of_tls_1_2_are_continued_by_the_store() {
    let early = Early::new();
    let config = early.site.client_config(TlsVersion::Tls12);
    for is_resumed in [false, true, true] {
        let stream = early.site.tcp.accept().unwrap();
        let mut pair = Pair::new(stream, client_of(config.clone()), Cut::Whole);
        assert_eq!(pair.handshake().resumed, is_resumed);
    }
}

#[test]
fn early_data_beyond_their_bound_end_the_connection() {
    let early = Early::new();
    // A session whose ticket permits more.
    let mut lax = (*early.site.tcp.config).clone();
    lax.max_early_data_size = u32::MAX;
    let mut server = ServerConnection::new(Arc::new(lax)).unwrap();
    let mut client = client_of(early.client.clone());
    while client.is_handshaking() || client.wants_write() || server.wants_write() {
        let bytes = written_by(&mut client);
        server.read_tls(&mut &bytes[..]).unwrap();
        server.process_new_packets().unwrap();
        let mut bytes = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut bytes).unwrap();
        }
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().unwrap();
        }
    }
    let mut pair = early.pair(Cut::Random(4));
    let Connection::Client(client) = &mut pair.peer else { unreachable!("a client") };
    let flood = noise(EARLY_DATA_LEN_MAX as usize + 1, 5);
    client.early_data().unwrap().write_all(&flood).unwrap();
    let fault = pair.run().unwrap_err();
    assert!(matches!(fault, TlsFault::Protocol(_)), "{fault:?}");
    assert!(pair.held_len_max < 2 * EARLY_DATA_LEN_MAX as usize, "{}", pair.held_len_max);
    assert_eq!(pair.stream.poll(), Err(fault));
}

/// rustls drops them without a word. They must not be kept and counted again.
#[test]
fn early_data_that_are_refused_may_be_long() {
    let early = Early::new();
    let off = early.site.tls.config_tcp(ALPN, TlsVersion::Tls12, EarlyData::Off, None).unwrap();
    for (record_count, record_len) in [(1, 15_000), (12, 1_200)] {
        for cut in [Cut::Whole, Cut::Random(4), Cut::Random(5)] {
            early.renew_session();
            let mut pair = early.pair(cut);
            let Connection::Client(client) = &mut pair.peer else { unreachable!("a client") };
            for _ in 0..record_count {
                let mut writer = client.early_data().expect("the session permits early data");
                writer.write_all(&noise(record_len, 1)).unwrap();
            }
            pair.stream = off.accept().unwrap();
            let handshaken = pair.handshake();
            assert_eq!(handshaken.early_data, EarlyDataFate::Rejected, "{record_count} {cut:?}");
        }
    }
}
