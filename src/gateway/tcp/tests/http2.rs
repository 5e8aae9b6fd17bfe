//! HTTP/2 behind TLS.

use super::frames::{
    CANCEL, DATA, END_STREAM, ENHANCE_YOUR_CALM, Frame, GOAWAY, HEADERS, PING, PREFACE, RST_STREAM,
    SETTINGS, cancel, frame, parse, request,
};
use super::secure::TlsClient;
use super::*;
use crate::limits::{
    HTTP2_STREAM_WINDOW, REQUEST_PENDING_LEN_MAX, RESPONSE_STALL_TIMEOUT, TCP_LINGER_TIMEOUT,
};
use crate::tls::ALPN_H2;

/// A client of HTTP/2.
struct Client {
    tls: TlsClient,
}

impl Client {
    fn connect(rig: &mut Rig) -> Self {
        let mut client = Self { tls: TlsClient::connect(rig, ALPN_H2) };
        client.send(rig, &[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        let frames = client.frames(rig);
        assert_eq!(frames[0].kind, SETTINGS);
        client.send(rig, &frame(SETTINGS, 1, 0, &[]));
        client
    }

    fn send(&mut self, rig: &mut Rig, bytes: &[u8]) {
        self.tls.send(rig, bytes);
    }

    fn frames(&mut self, rig: &mut Rig) -> Vec<Frame> {
        parse(&self.tls.received(rig))
    }

    /// Closes the client's side, and asserts that nothing is left.
    fn leave(self, mut rig: Rig) {
        let socket = self.tls.socket();
        rig.send_end(socket);
        rig.pass(TCP_LINGER_TIMEOUT);
        rig.assert_nothing_left();
    }
}

/// Returns the code of the one GOAWAY among frames.
fn goaway_code(frames: &[Frame]) -> u32 {
    let goaways: Vec<_> = frames.iter().filter(|frame| frame.kind == GOAWAY).collect();
    assert_eq!(goaways.len(), 1, "{frames:?}");
    u32::from_be_bytes(goaways[0].payload[4..8].try_into().unwrap())
}

#[test]
fn requests_are_served_at_once() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    client.send(&mut rig, &[request(1, "GET", END_STREAM), request(3, "GET", END_STREAM)].concat());
    assert_eq!(rig.wires.len(), 2, "neither waits for the other");
    rig.respond(OK);
    let frames = client.frames(&mut rig);
    let kinds: Vec<_> = frames.iter().map(|frame| (frame.kind, frame.stream)).collect();
    assert_eq!(kinds[..2], [(HEADERS, 3), (DATA, 3)], "{frames:?}");
    assert_eq!(frames[1].payload, b"ok");
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert_eq!(rig.records[0].protocol, crate::message::Protocol::Http2);
    client.send(&mut rig, &cancel(1));
    assert_eq!(rig.outcomes()[1..], [(Outcome::ClientCancelled, false)]);
    client.leave(rig);
}

#[test]
fn a_client_that_leaves_ends_its_requests() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    client.send(&mut rig, &[request(1, "GET", END_STREAM), request(3, "POST", 0)].concat());
    rig.send_end(client.tls.socket());
    assert_eq!(rig.outcomes(), [(Outcome::ClientClosed, false); 2]);
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn an_upstream_that_does_not_read_closes_the_window() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    rig.upstream = Reading::Never;
    client.send(&mut rig, &request(1, "POST", 0));
    let piece = [b'x'; 16_384];
    let mut sent_len = 0;
    let mut window = HTTP2_STREAM_WINDOW as usize + update_len(&client.frames(&mut rig), 1);
    while window >= piece.len() {
        client.send(&mut rig, &frame(DATA, 0, 1, &piece));
        sent_len += piece.len();
        window = window - piece.len() + update_len(&client.frames(&mut rig), 1);
        let bound = REQUEST_PENDING_LEN_MAX + HTTP2_STREAM_WINDOW as usize + piece.len();
        assert!(sent_len <= bound, "the window opens though nothing is passed on");
    }
    rig.upstream_takes_on();
    assert!(update_len(&client.frames(&mut rig), 1) > 0, "the window opens again");
    client.send(&mut rig, &frame(DATA, END_STREAM, 1, b"end"));
    rig.respond(OK);
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert_eq!(rig.records[0].request_len, sent_len as u64 + 3);
    client.leave(rig);
}

/// Returns a response of the upstream with a body of `len` bytes.
fn long_response(len: usize) -> Vec<u8> {
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n");
    [head.as_bytes(), &vec![b'x'; len]].concat()
}

/// Returns the sum of the WINDOW_UPDATEs of a stream.
fn update_len(frames: &[Frame], stream: u32) -> usize {
    let updates = frames.iter().filter(|frame| frame.kind == 8 && frame.stream == stream);
    updates.map(|frame| u32::from_be_bytes(frame.payload[..].try_into().unwrap()) as usize).sum()
}

#[test]
fn requests_that_are_cancelled_without_end_close_the_connection() {
    let mut rig = Rig::with(|config| config.limits.stream_reset_count_max = 5);
    let mut client = Client::connect(&mut rig);
    client.send(&mut rig, &request(1, "GET", END_STREAM));
    for stream in (3..).step_by(2).take(5) {
        client.send(&mut rig, &[request(stream, "GET", END_STREAM), cancel(stream)].concat());
    }
    assert!(rig.incidents.is_empty());
    client.send(&mut rig, &[request(13, "GET", END_STREAM), cancel(13)].concat());
    assert_eq!(goaway_code(&client.frames(&mut rig)), ENHANCE_YOUR_CALM);
    let [Incident::Closed { cause, .. }] = &rig.incidents[..] else {
        panic!("{:?}", rig.incidents);
    };
    assert_eq!(cause.outcome, Outcome::ExcessiveLoad);
    let ends = rig.records.iter().filter(|record| record.outcome == Outcome::ExcessiveLoad);
    assert_eq!(ends.count(), 1, "the request that was not cancelled");
    client.leave(rig);
}

/// The requests end by the connection's error, whether they are complete or not, and whether there
/// is room for the GOAWAY or not.
#[test]
fn a_connection_that_breaks_a_rule_is_closed_with_an_incident() {
    for reading in [Reading::Eager, Reading::Never] {
        let mut rig = Rig::new();
        let mut client = Client::connect(&mut rig);
        client.send(&mut rig, &[request(1, "GET", END_STREAM), request(3, "POST", 0)].concat());
        let socket = client.tls.socket();
        if reading == Reading::Never {
            rig.sockets[socket].reading = reading;
            client.send(&mut rig, &frame(PING, 0, 0, &[0; 8]));
        }
        // RFC 9113 6.1: DATA belongs to a stream.
        client.send(&mut rig, &frame(DATA, 0, 0, b"x"));
        if reading == Reading::Never {
            rig.take_all(socket);
        }
        assert_ne!(goaway_code(&client.frames(&mut rig)), 0);
        assert!(matches!(rig.incidents[..], [Incident::Closed { .. }]), "{:?}", rig.incidents);
        assert_eq!(rig.outcomes(), [(Outcome::ConnectionError, false); 2], "{reading:?}");
        assert!(rig.records.iter().all(|record| record.rule.is_some()));
        client.leave(rig);
    }
}

#[test]
fn a_request_is_refused_while_memory_is_short() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    rig.gateway.shared.pressure = Pressure::High;
    client.send(&mut rig, &request(1, "GET", END_STREAM));
    let frames = client.frames(&mut rig);
    let reset = frames.iter().find(|frame| frame.kind == RST_STREAM).expect("it is refused");
    assert_eq!(reset.payload, 7_u32.to_be_bytes(), "REFUSED_STREAM: it may be sent again");
    rig.gateway.shared.pressure = Pressure::None;
    assert!(rig.wires.is_empty());
    client.leave(rig);
}

/// The records of responses that have left do not wait for those that have not.
#[test]
fn a_response_is_delivered_though_others_still_leave() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    rig.sockets[client.tls.socket()].reading = Reading::Never;
    client.send(&mut rig, &[request(1, "GET", END_STREAM), request(3, "GET", END_STREAM)].concat());
    let wire = rig.wires.len() - 1;
    rig.respond(OK);
    // The other response is longer than a write.
    rig.respond_on(wire - 1, &long_response(200_000));
    assert_eq!(rig.outcomes(), []);
    rig.take_write(client.tls.socket());
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)], "the short one has left");
    assert!(rig.sockets[client.tls.socket()].writing.is_some(), "the long one has not");
    rig.take_all(client.tls.socket());
    client.frames(&mut rig);
    client.leave(rig);
}

/// Nobody waits for the end of a response that the client has reset behind its last byte.
#[test]
fn a_response_that_is_reset_before_it_leaves_is_cancelled() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    let socket = client.tls.socket();
    rig.sockets[socket].reading = Reading::Never;
    // A response that fills the write in flight and the buffer behind it.
    client.send(&mut rig, &request(1, "GET", END_STREAM));
    rig.respond(&long_response(200_000));
    client.send(&mut rig, &request(3, "GET", END_STREAM));
    rig.respond(OK);
    client.send(&mut rig, &cancel(3));
    assert_eq!(rig.outcomes(), [(Outcome::ClientCancelled, false)]);
    rig.take_all(socket);
    assert!(client.frames(&mut rig).iter().all(|frame| frame.stream != 3));
    assert_eq!(rig.outcomes()[1..], []);
    client.send(&mut rig, &cancel(1));
    client.leave(rig);
}

#[test]
fn payload_is_counted() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    client.send(&mut rig, &[request(1, "POST", 0), frame(DATA, END_STREAM, 1, b"12345")].concat());
    rig.respond(OK);
    let ledger = rig.gateway.ledger();
    assert_eq!((ledger.request.payload_bytes, ledger.response.payload_bytes), (5, 2));
    client.frames(&mut rig);
    client.leave(rig);
}

#[test]
fn a_response_that_breaks_off_is_reset() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    client.send(&mut rig, &request(1, "GET", END_STREAM));
    rig.respond(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no");
    let key = rig.wires[0].key;
    rig.gateway.handle_upstream(rig.now, key, UpstreamEvent::Failed(TransportFault::Reset));
    rig.settle();
    let frames = client.frames(&mut rig);
    let last = frames.last().expect("a response");
    assert_eq!((last.kind, last.stream), (RST_STREAM, 1), "{frames:?}");
    assert_ne!(last.payload, CANCEL.to_be_bytes());
    assert_eq!(rig.records.len(), 1);
    assert_ne!(rig.records[0].outcome, Outcome::Complete);
    client.leave(rig);
}

#[test]
fn an_idle_connection_gets_a_goaway() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    let timeout = rig.gateway.shared.settings.tcp[SECURE].listener.tcp.idle_timeout;
    rig.pass(timeout);
    assert_eq!(goaway_code(&client.frames(&mut rig)), 0);
    assert!(rig.sockets[client.tls.socket()].is_shut);
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn a_drain_lets_a_request_finish() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    client.send(&mut rig, &request(1, "GET", END_STREAM));
    rig.gateway.drain(rig.now, rig.now + Duration::from_secs(30));
    rig.settle();
    let frames = client.frames(&mut rig);
    assert_eq!(goaway_code(&frames), 0);
    let ping = frames.iter().find(|frame| frame.kind == PING).expect("a PING behind the GOAWAY");
    client.send(&mut rig, &frame(PING, 1, 0, &ping.payload));
    rig.respond(OK);
    let frames = client.frames(&mut rig);
    assert!(frames.iter().any(|frame| frame.kind == DATA && frame.payload == b"ok"), "{frames:?}");
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert!(rig.sockets[client.tls.socket()].is_shut);
    client.leave(rig);
}

#[test]
fn requests_that_are_served_pay_for_some_that_are_cancelled() {
    let mut rig = Rig::with(|config| config.limits.stream_reset_count_max = 5);
    let mut client = Client::connect(&mut rig);
    for stream in (1..).step_by(4).take(20) {
        let both = [request(stream, "GET", END_STREAM), request(stream + 2, "GET", END_STREAM)];
        client.send(&mut rig, &[both.concat(), cancel(stream)].concat());
        rig.respond(OK);
        client.frames(&mut rig);
    }
    assert!(rig.incidents.is_empty(), "{:?}", rig.incidents);
    client.leave(rig);
}

/// Returns the frames by which a client permits responses of any length.
fn wide_windows() -> Vec<u8> {
    let setting = [&[0, 4][..], &(1_u32 << 30).to_be_bytes()].concat();
    [frame(SETTINGS, 0, 0, &setting), frame(8, 0, 0, &(1_u32 << 30).to_be_bytes())].concat()
}

#[test]
fn neither_a_drain_nor_the_idle_time_cuts_off_a_response_that_is_read_slowly() {
    for drains in [false, true] {
        let mut rig = Rig::with(|config| {
            for listener in &mut config.listeners {
                listener.tcp.idle_timeout = Duration::from_secs(1);
            }
        });
        let mut client = Client::connect(&mut rig);
        let socket = client.tls.socket();
        client.send(&mut rig, &[wide_windows(), request(1, "GET", END_STREAM)].concat());
        rig.sockets[socket].reading = Reading::Never;
        rig.respond(&long_response(120_000));
        if drains {
            rig.gateway.drain(rig.now, rig.now + Duration::from_secs(30));
            rig.settle();
        }
        rig.pass(Duration::from_secs(3));
        rig.take_all(socket);
        let frames = client.frames(&mut rig);
        let len: usize =
            frames.iter().filter(|frame| frame.kind == DATA).map(|one| one.payload.len()).sum();
        let ended = frames.iter().any(|one| one.kind == DATA && one.flags & END_STREAM != 0);
        assert_eq!((len, ended), (120_000, true));
        assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    }
}

#[test]
fn a_client_that_takes_its_window_back_has_a_limited_time() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    let socket = client.tls.socket();
    client.send(&mut rig, &wide_windows());
    rig.sockets[socket].reading = Reading::Never;
    client.tls.send_blind(&mut rig, &request(1, "GET", END_STREAM));
    rig.respond(&long_response(120_000));
    let no_window = [&[0, 4][..], &[0; 4]].concat();
    client.tls.send_blind(&mut rig, &frame(SETTINGS, 0, 0, &no_window));
    rig.take_all(socket);
    let is_end = |one: &Frame| one.kind == DATA && one.flags & END_STREAM != 0;
    assert!(!client.frames(&mut rig).iter().any(is_end), "the rest has no window");
    rig.pass(RESPONSE_STALL_TIMEOUT);
    assert!(rig.sockets[socket].is_closed, "it is not kept for ever");
}

#[test]
fn small_pieces_of_bodies_and_trailers_do_not_keep_their_slots() {
    let mut rig = Rig::new();
    let mut client = Client::connect(&mut rig);
    let no_window = [&[0, 4][..], &[0; 4]].concat();
    client.send(&mut rig, &frame(SETTINGS, 0, 0, &no_window));
    client.send(&mut rig, &request(1, "GET", END_STREAM));
    rig.respond(&long_response(1000));
    assert_eq!(rig.gateway.shared.ledger.response.copied_bytes.small, 1000);
}
