//! Requests in early data (RFC 8470), before the handshake is complete.

use std::io::Write as _;

use super::frames::{DATA, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, parse, request};
use super::secure::TlsClient;
use super::*;
use crate::config::EarlyData;
use crate::limits::{HANDSHAKE_TIMEOUT, TCP_LINGER_TIMEOUT};
use crate::testing::ClientTls;
use crate::tls::{ALPN_H2, ALPN_HTTP1};

/// Returns the bytes that HTTP/2 sends before its requests.
fn beginning() -> Vec<u8> {
    [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()
}

/// A client that has been here before.
struct Returning {
    rig: Rig,
    config: Arc<rustls::ClientConfig>,
}

impl Returning {
    fn new(alpn: &[u8]) -> Self {
        let permit = |config: &mut Config| {
            config.listeners[SECURE].early_data = EarlyData::SafeMethods;
        };
        let mut rig = Rig::with(permit);
        let trusting = ClientTls::trusting_server(&rig.tls);
        let mut config = ClientTls { alpn: vec![alpn.to_vec()], ..trusting }.tls13();
        config.enable_early_data = true;
        let config = Arc::new(config);
        let mut first = TlsClient::with(rig.connect(SECURE), Arc::clone(&config));
        first.flush(&mut rig);
        rig.report(first.socket(), TcpEvent::Failed(TransportFault::Reset));
        Self { rig, config }
    }

    /// Connects, and sends these bytes in the first flight, which it returns too.
    fn begin(&mut self, bytes: &[u8]) -> (TlsClient, Vec<u8>) {
        let socket = self.rig.connect(SECURE);
        let mut client = TlsClient::with(socket, Arc::clone(&self.config));
        client.tls.early_data().expect("a session").write_all(bytes).expect("room");
        let mut flight = Vec::new();
        client.tls.write_tls(&mut flight).expect("memory");
        self.rig.send(client.socket(), &flight);
        assert_eq!(self.rig.gateway.shared.tcp.places.handshake_count(), 1);
        (client, flight)
    }

    /// Returns the request that the upstream has got on its newest connection.
    fn forwarded(&self) -> String {
        let wire = self.rig.wires.last().expect("the gateway has connected");
        String::from_utf8(wire.taken.clone()).expect("text")
    }

    fn leave(mut self, client: &TlsClient) {
        self.rig.report(client.socket(), TcpEvent::Failed(TransportFault::Reset));
        self.rig.assert_nothing_left();
    }
}

#[test]
fn a_request_is_forwarded_and_responded_to_within_the_handshake() {
    for (alpn, bytes) in [
        (ALPN_HTTP1, GET.to_vec()),
        (ALPN_H2, [beginning(), request(1, "GET", END_STREAM)].concat()),
    ] {
        let mut visit = Returning::new(alpn);
        let (mut client, _) = visit.begin(&bytes);
        let forwarded = visit.forwarded();
        assert!(forwarded.contains("\r\nearly-data: 1\r\n"), "{forwarded}");
        visit.rig.respond(OK);
        assert_eq!(visit.rig.gateway.shared.tcp.places.handshake_count(), 1);
        assert!(client.tls.is_handshaking(), "the response was written before the client's end");
        let response = client.received(&mut visit.rig);
        assert!(response.windows(2).any(|part| part == b"ok"), "{response:?}");
        assert!(client.tls.is_early_data_accepted());
        assert_eq!(visit.rig.gateway.shared.tcp.places.handshake_count(), 0);
        assert_eq!(visit.rig.outcomes(), [(Outcome::Complete, true)]);
        assert!(visit.rig.records[0].is_early);
        let counters = &visit.rig.gateway.counters().tcp;
        assert_eq!((counters.early_data.accepted, counters.early_data.rejected), (1, 0));

        // The next request on the connection is not early.
        let next = if alpn == ALPN_H2 { request(3, "GET", END_STREAM) } else { GET.to_vec() };
        client.send(&mut visit.rig, &next);
        let forwarded = visit.forwarded();
        assert_eq!(forwarded.matches("GET /a").count(), 2);
        assert_eq!(forwarded.matches("early-data").count(), 1, "{forwarded}");
        visit.rig.respond(OK);
        assert!(!visit.rig.records[1].is_early);
        visit.leave(&client);
    }
}

#[test]
fn methods_that_are_not_safe_and_bodies_wait_for_the_handshake() {
    let post = b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nbody";
    let delete = b"DELETE /a HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let get = b"GET /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nbody";
    let chunked =
        b"GET /a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let part = b"PUT /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 8\r\n\r\nbody";
    let body = |method| [request(1, method, 0), frame(DATA, END_STREAM, 1, b"body")].concat();
    let bare = |method| [beginning(), request(1, method, END_STREAM)].concat();
    for (alpn, bytes, line) in [
        (ALPN_HTTP1, post.to_vec(), "POST"),
        (ALPN_HTTP1, delete.to_vec(), "DELETE"),
        (ALPN_HTTP1, get.to_vec(), "GET"),
        (ALPN_HTTP1, chunked.to_vec(), "GET"),
        (ALPN_HTTP1, part.to_vec(), "PUT"),
        (ALPN_H2, [beginning(), body("POST")].concat(), "POST"),
        (ALPN_H2, [beginning(), body("GET")].concat(), "GET"),
        (ALPN_H2, bare("DELETE"), "DELETE"),
    ] {
        let mut visit = Returning::new(alpn);
        let (mut client, _) = visit.begin(&bytes);
        assert!(visit.rig.wires.is_empty(), "{line} was forwarded early");
        client.flush(&mut visit.rig);
        if bytes.ends_with(b"8\r\n\r\nbody") {
            client.send(&mut visit.rig, b"rest");
        }
        let forwarded = visit.forwarded();
        assert!(forwarded.starts_with(line) && !forwarded.contains("early-data"), "{forwarded}");
        assert_eq!(forwarded.contains("body"), bytes.windows(4).any(|part| part == b"body"));
        visit.rig.respond(OK);
        let response = client.received(&mut visit.rig);
        assert!(response.windows(2).any(|part| part == b"ok"), "{response:?}");
        assert_eq!(visit.rig.outcomes(), [(Outcome::Complete, true)]);
        assert!(!visit.rig.records[0].is_early);
        visit.leave(&client);
    }
}

#[test]
fn a_request_that_waits_does_not_hold_up_those_before_it() {
    let delete = b"DELETE /b HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let mut visit = Returning::new(ALPN_HTTP1);
    let (mut client, _) = visit.begin(&[GET, &delete[..], GET].concat());
    visit.rig.respond(OK);
    assert_eq!(visit.forwarded().matches(" HTTP/1.1").count(), 1);
    client.flush(&mut visit.rig);
    for _ in 0..2 {
        visit.rig.respond(OK);
    }
    let forwarded = visit.forwarded();
    assert_eq!(forwarded.matches(" HTTP/1.1").count(), 3);
    assert_eq!(forwarded.matches("early-data").count(), 1);
    assert_eq!(visit.rig.outcomes(), [(Outcome::Complete, true); 3]);
    visit.leave(&client);

    let mut visit = Returning::new(ALPN_H2);
    let requests = [
        request(1, "GET", END_STREAM),
        request(3, "DELETE", END_STREAM),
        request(5, "GET", END_STREAM),
    ];
    let (mut client, _) = visit.begin(&[beginning(), requests.concat()].concat());
    assert_eq!(visit.rig.wires.len(), 1);
    visit.rig.respond(OK);
    assert_eq!(visit.rig.outcomes(), [(Outcome::Complete, true)]);
    client.flush(&mut visit.rig);
    assert_eq!(visit.rig.wires.len(), 2);
    let texts = visit.rig.wires.iter().map(|wire| String::from_utf8(wire.taken.clone()).unwrap());
    let texts = texts.collect::<Vec<_>>().concat();
    assert_eq!(texts.matches(" HTTP/1.1").count(), 3);
    assert_eq!(texts.matches("early-data").count(), 1);
    visit.leave(&client);
}

#[test]
fn a_first_flight_that_is_sent_again_is_not_forwarded() {
    let mut visit = Returning::new(ALPN_HTTP1);
    let (mut client, flight) = visit.begin(GET);
    visit.rig.respond(OK);
    assert!(client.received(&mut visit.rig).ends_with(b"ok"));
    for _ in 0..3 {
        let copy = visit.rig.connect(SECURE);
        visit.rig.send(copy, &flight);
        assert!(!visit.rig.received(copy).is_empty(), "the handshake goes on");
        visit.rig.pass(HANDSHAKE_TIMEOUT);
        assert!(visit.rig.sockets[copy].is_closed);
    }
    assert_eq!(visit.forwarded().matches("GET /a").count(), 1);
    assert_eq!(visit.rig.records.len(), 1);
    visit.leave(&client);
}

/// Whoever replays a flight that never came first cannot complete its handshake.
#[test]
fn a_handshake_that_is_not_completed_ends_what_waits_for_it() {
    let post = b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 4\r\n\r\nbody";
    let bare = |method| [beginning(), request(1, method, END_STREAM)].concat();
    for (alpn, bytes, is_forwarded) in [
        (ALPN_HTTP1, GET.to_vec(), true),
        (ALPN_HTTP1, post.to_vec(), false),
        (ALPN_H2, bare("GET"), true),
        (ALPN_H2, bare("POST"), false),
    ] {
        for event in [None, Some(TcpEvent::End), Some(TcpEvent::Failed(TransportFault::Reset))] {
            let mut visit = Returning::new(alpn);
            let (client, _) = visit.begin(&bytes);
            assert_eq!(!visit.rig.wires.is_empty(), is_forwarded);
            let timed_out = event.is_none();
            match event {
                Some(event) => {
                    visit.rig.sockets[client.socket()].is_receiving = false;
                    visit.rig.report(client.socket(), event);
                }
                None => visit.rig.pass(HANDSHAKE_TIMEOUT),
            }
            assert_eq!(visit.rig.records.len(), 1, "each request has its record");
            assert!(visit.rig.records[0].is_early);
            let failures = &visit.rig.gateway.counters().tcp.handshake_failures;
            assert_eq!(failures.timed_out, u64::from(timed_out));
            assert_eq!(!visit.rig.wires.is_empty(), is_forwarded);
            visit.rig.assert_nothing_left();
        }
    }
}

#[test]
fn a_response_that_says_too_early_is_passed_on() {
    let mut visit = Returning::new(ALPN_HTTP1);
    let (mut client, _) = visit.begin(GET);
    visit.rig.respond(b"HTTP/1.1 425 Too Early\r\ncontent-length: 0\r\n\r\n");
    let text = String::from_utf8(client.received(&mut visit.rig)).unwrap();
    assert!(text.starts_with("HTTP/1.1 425 "), "{text}");
    // The client sends it again, now that the handshake is complete.
    client.send(&mut visit.rig, GET);
    visit.rig.respond(OK);
    assert!(client.received(&mut visit.rig).ends_with(b"ok"));
    visit.leave(&client);
}

#[test]
fn a_connection_that_closes_after_an_early_response_completes_its_handshake_first() {
    let close = b"GET /a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
    let mut visit = Returning::new(ALPN_HTTP1);
    let (mut client, _) = visit.begin(close);
    visit.rig.respond(OK);
    assert!(!visit.rig.sockets[client.socket()].is_shut);
    assert!(client.received(&mut visit.rig).ends_with(b"ok"));
    assert!(visit.rig.sockets[client.socket()].is_shut);
    assert_eq!(visit.rig.gateway.counters().tcp.handshakes_completed, 2);
    visit.rig.pass(TCP_LINGER_TIMEOUT);
    visit.rig.assert_nothing_left();
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_within_the_handshake() {
    let mut visit = Returning::new(ALPN_HTTP1);
    let (mut client, _) = visit.begin(b"GET /a HTTP/1.1\r\nhost : localhost\r\n\r\n");
    let text = String::from_utf8(client.received(&mut visit.rig)).unwrap();
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(visit.rig.wires.is_empty());
    visit.rig.pass(TCP_LINGER_TIMEOUT);
    visit.rig.assert_nothing_left();
}

#[test]
fn frames_of_an_early_response_are_whole() {
    let mut visit = Returning::new(ALPN_H2);
    let (mut client, _) = visit.begin(&[beginning(), request(1, "GET", END_STREAM)].concat());
    visit.rig.respond(OK);
    let frames = parse(&client.received(&mut visit.rig));
    let kinds: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.stream)).collect();
    assert_eq!(kinds[0], (SETTINGS, 0));
    assert!(kinds.ends_with(&[(HEADERS, 1), (DATA, 1), (DATA, 1)]), "{kinds:?}");
    visit.leave(&client);
}
