//! Requests and responses over HTTP/1.1 without TLS.

use super::*;
use crate::limits::{
    CONNECTION_RESPONSES_LEN_MAX, REQUEST_PENDING_LEN_MAX, RESPONSE_PENDING_LEN_MAX, SLOT_LEN,
    TCP_LINGER_TIMEOUT, TCP_WRITE_LEN_MAX,
};

/// The response that a client gets for [`OK`].
const RESPONSE: &str = "HTTP/1.1 200 OK\r\nvia: 1.1 ringway\r\ncontent-length: 2\r\n\r\nok";

/// Ends the client's side of an idle connection, and asserts that nothing is left.
fn leave(mut rig: Rig, client: usize) {
    rig.send_end(client);
    if !rig.sockets[client].is_closed {
        assert!(rig.sockets[client].is_shut, "an end follows an end");
        rig.send_end(client);
    }
    rig.assert_nothing_left();
}

#[test]
fn a_request_is_served_and_the_connection_kept() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    for index in 1..=3 {
        rig.send(client, GET);
        rig.respond(OK);
        assert_eq!(rig.text(client), RESPONSE);
        assert_eq!(rig.outcomes(), vec![(Outcome::Complete, true); index]);
    }
    assert_eq!(rig.wires.len(), 1, "the upstream's connection is kept too");
    leave(rig, client);
}

#[test]
fn requests_and_responses_may_come_byte_by_byte() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    let request = b"POST /a HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n\
        3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    for byte in request {
        rig.send(client, &[*byte]);
    }
    let passed = String::from_utf8_lossy(&rig.wires[0].taken).into_owned();
    assert!(passed.ends_with("0\r\n\r\n"), "{passed}");
    for byte in OK {
        rig.respond(&[*byte]);
    }
    assert_eq!(rig.text(client), RESPONSE);
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert_eq!(rig.records[0].request_len, 5);
    leave(rig, client);
}

#[test]
fn pipelined_requests_are_served_in_turn() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, &[GET, GET, GET].concat());
    for _ in 0..3 {
        rig.respond(OK);
        assert_eq!(rig.text(client), RESPONSE);
    }
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true); 3]);
    leave(rig, client);
}

#[test]
fn a_request_whose_client_has_ended_its_side_is_served() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, GET);
    rig.send_end(client);
    rig.respond(OK);
    assert_eq!(rig.text(client), RESPONSE);
    assert!(rig.sockets[client].is_shut);
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn an_end_that_comes_after_the_body_was_taken_is_logged_as_delivered_at_once() {
    // The response of an HTTP/1.0 client that only the close of the upstream ends: the end comes
    // when all bytes are taken already.
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, b"GET /a HTTP/1.0\r\nhost: localhost\r\n\r\n");
    rig.respond(b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nbody");
    assert!(rig.text(client).ends_with("\r\n\r\nbody"));
    assert_eq!(rig.outcomes(), []);
    let key = rig.wires[0].key;
    rig.gateway.handle_upstream(rig.now, key, UpstreamEvent::End);
    rig.settle();
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert!(rig.sockets[client].is_shut);
    rig.send_end(client);
    rig.assert_nothing_left();
}

#[test]
fn a_response_to_head_has_no_length_that_the_upstream_did_not_give() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, b"HEAD /a HTTP/1.1\r\nhost: localhost\r\n\r\n");
    rig.respond(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
    // RFC 9110 8.6: it would be the length of another response than that to GET.
    assert_eq!(rig.text(client), "HTTP/1.1 200 OK\r\nvia: 1.1 ringway\r\n\r\n");
    rig.send(client, GET);
    rig.respond(b"HTTP/1.1 304 Not Modified\r\n\r\n");
    assert_eq!(rig.text(client), "HTTP/1.1 304 Not Modified\r\nvia: 1.1 ringway\r\n\r\n");
    rig.send(client, GET);
    rig.respond(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    assert!(rig.text(client).contains("\r\ncontent-length: 0\r\n"));
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true); 3]);
    leave(rig, client);
}

#[test]
fn an_upstream_that_does_not_read_pauses_the_client() {
    const LEN: usize = 1 << 20;
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.upstream = Reading::Never;
    let head = format!("POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: {LEN}\r\n\r\n");
    rig.send(client, head.as_bytes());
    let mut sent_len = 0;
    // The proxy's part, one receive that has overshot it, and one that waits for the client's end.
    let bound = REQUEST_PENDING_LEN_MAX + 2 * SLOT_LEN;
    while rig.sockets[client].is_receiving {
        rig.send(client, &[b'x'; SLOT_LEN]);
        sent_len += SLOT_LEN;
        assert!(sent_len <= bound, "the gateway reads on after {sent_len} bytes");
    }
    rig.upstream_takes_on();
    while sent_len < LEN {
        let len = SLOT_LEN.min(LEN - sent_len);
        rig.send(client, &vec![b'x'; len]);
        sent_len += len;
    }
    rig.respond(OK);
    assert_eq!(rig.text(client), RESPONSE);
    assert_eq!(rig.records[0].request_len, LEN as u64);
    leave(rig, client);
}

#[test]
fn a_client_that_does_not_read_pauses_the_upstream() {
    const LEN: usize = 4 << 20;
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.sockets[client].reading = Reading::Never;
    rig.send(client, GET);
    rig.respond(format!("HTTP/1.1 200 OK\r\ncontent-length: {LEN}\r\n\r\n").as_bytes());
    let mut sent_len = 0;
    while rig.reads_response() {
        rig.respond(&[b'x'; SLOT_LEN]);
        sent_len += SLOT_LEN;
        let bound = RESPONSE_PENDING_LEN_MAX.max(CONNECTION_RESPONSES_LEN_MAX) + SLOT_LEN;
        assert!(sent_len <= bound, "the gateway reads on");
    }
    assert!(rig.gateway.responses_waiting_len() > 0);
    rig.take_all(client);
    while sent_len < LEN {
        let len = SLOT_LEN.min(LEN - sent_len);
        rig.respond(&vec![b'x'; len]);
        sent_len += len;
    }
    let received = rig.received(client);
    assert!(received.len() > LEN && received.ends_with(&[b'x'; SLOT_LEN]));
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert_eq!(rig.gateway.responses_waiting_len(), 0);
    leave(rig, client);
}

#[test]
fn a_write_is_bounded_and_its_response_delivered_with_the_last_one() {
    const LEN: usize = 3 * TCP_WRITE_LEN_MAX;
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.sockets[client].reading = Reading::Never;
    rig.send(client, GET);
    rig.respond(format!("HTTP/1.1 200 OK\r\ncontent-length: {LEN}\r\n\r\n").as_bytes());
    let mut left = LEN;
    while left > 0 {
        let len = left.min(SLOT_LEN);
        rig.respond(&vec![b'x'; len]);
        left -= len;
    }
    let mut count = 0;
    while let Some(bytes) = &rig.sockets[client].writing {
        assert!(bytes.len() <= TCP_WRITE_LEN_MAX);
        assert_eq!(rig.outcomes(), [], "the client does not have the response");
        rig.take_write(client);
        count += 1;
    }
    assert!(count > 3, "{count} writes");
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    leave(rig, client);
}

#[test]
fn a_response_before_the_end_of_the_request_ends_the_connection() {
    let mut rig = Rig::with(|config| config.limits.request_body_len_max = 1000);
    let client = rig.connect(PLAIN);
    rig.send(client, b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\nabc");
    let text = rig.text(client);
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    assert!(text.contains("\r\nconnection: close\r\n"), "{text}");
    assert!(rig.sockets[client].is_shut && !rig.sockets[client].is_closed);
    // The rest of the body is read and dropped, so that the kernel does not reset the connection.
    for _ in 0..100 {
        rig.send(client, &[b'x'; 4096]);
    }
    rig.send_end(client);
    assert_eq!(rig.outcomes(), [(Outcome::RequestTooLarge, true)]);
    rig.assert_nothing_left();
}

#[test]
fn a_response_of_the_upstream_before_the_end_of_the_request_says_that_it_is_the_last() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000\r\n\r\nabc");
    rig.respond(OK);
    let text = rig.text(client);
    assert!(text.contains("\r\nconnection: close\r\n") && text.ends_with("ok"), "{text}");
    assert!(rig.sockets[client].is_shut && !rig.sockets[client].is_closed);
    rig.send_end(client);
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    rig.assert_nothing_left();
}

#[test]
fn the_rest_of_a_body_that_is_not_read_is_not_kept() {
    let mut rig = Rig::with(|config| config.limits.request_body_len_max = 1000);
    let client = rig.connect(PLAIN);
    rig.sockets[client].reading = Reading::Never;
    rig.send(client, b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5000000\r\n\r\nabc");
    let mut sent_len = 0;
    while rig.sockets[client].is_receiving {
        rig.send(client, &[b'x'; SLOT_LEN]);
        sent_len += SLOT_LEN;
        assert!(sent_len <= SLOT_LEN, "bytes that nobody reads are held");
    }
    rig.take_all(client);
    rig.send_end(client);
    rig.assert_nothing_left();
}

#[test]
fn a_request_is_refused_while_memory_is_short() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.gateway.shared.pressure = Pressure::High;
    rig.send(client, GET);
    let text = rig.text(client);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("retry-after: "), "{text}");
    assert!(text.contains("connection: close"), "the connection is memory too: {text}");
    assert!(rig.wires.is_empty(), "no upstream sees it");
    assert_eq!(rig.outcomes(), [(Outcome::Overloaded, true)]);
    assert_eq!(rig.gateway.counters().http3.streams_shed.memory, 1);
    rig.gateway.shared.pressure = Pressure::None;
    rig.send_end(client);
    rig.assert_nothing_left();
}

/// A connection without a body in flight is kept: to open another one would be more to do.
#[test]
fn requests_are_refused_under_load_and_served_after_it() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    let posting = rig.connect(PLAIN);
    let (mut now, long) = (rig.now, 2 * crate::limits::TURN_TIME_MAX);
    while !rig.gateway.shared.admission.is_shedding() {
        now += long;
        rig.gateway.note_turn(now, long);
    }
    for _ in 0..2 {
        rig.send(client, GET);
        let text = rig.text(client);
        assert!(text.starts_with("HTTP/1.1 503 ") && !text.contains("connection: close"), "{text}");
    }
    rig.send(posting, b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 9\r\n\r\n");
    let text = rig.text(posting);
    assert!(text.starts_with("HTTP/1.1 503 ") && text.contains("connection: close"), "{text}");
    assert_eq!(rig.gateway.counters().http3.streams_shed.load, 3);
    assert!(rig.wires.is_empty(), "no upstream sees them");
    let short = long / 8;
    while rig.gateway.shared.admission.is_shedding() {
        now += short;
        rig.gateway.note_turn(now, short);
    }
    rig.send(client, GET);
    rig.respond(OK);
    assert!(rig.text(client).ends_with("ok"));
    for client in [client, posting] {
        rig.report(client, TcpEvent::Failed(TransportFault::Reset));
    }
    rig.assert_nothing_left();
}

#[test]
fn payload_is_counted() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 5\r\n\r\n12345");
    rig.respond(OK);
    let ledger = rig.gateway.ledger();
    assert_eq!((ledger.request.payload_bytes, ledger.response.payload_bytes), (5, 2));
    rig.report(client, TcpEvent::Failed(TransportFault::Reset));
    rig.assert_nothing_left();
}
