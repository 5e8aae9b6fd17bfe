//! The ends of HTTP/1.1 connections, in each phase.

use super::*;
use crate::limits::{RESPONSE_STALL_TIMEOUT, TCP_LINGER_TIMEOUT};

const POST_BEGUN: &[u8] = b"POST /a HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\n\r\nabc";

/// A phase of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    New,
    InHead,
    InBody,
    /// The upstream has not responded.
    Waiting,
    /// The response has begun.
    Responding,
    /// The response is complete, and the client has not taken it.
    Unwritten,
    /// A request was served.
    Kept,
}

const PHASES: [Phase; 7] = [
    Phase::New,
    Phase::InHead,
    Phase::InBody,
    Phase::Waiting,
    Phase::Responding,
    Phase::Unwritten,
    Phase::Kept,
];

impl Phase {
    /// Opens a connection and brings it into this phase.
    fn enter(self, rig: &mut Rig) -> usize {
        let client = rig.connect(PLAIN);
        match self {
            Self::New => {}
            Self::InHead => rig.send(client, b"GET /a HT"),
            Self::InBody => rig.send(client, POST_BEGUN),
            Self::Waiting => rig.send(client, GET),
            Self::Responding => {
                rig.send(client, GET);
                rig.respond(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no");
            }
            Self::Unwritten => {
                rig.sockets[client].reading = Reading::Never;
                rig.send(client, GET);
                rig.respond(OK);
            }
            Self::Kept => {
                rig.send(client, GET);
                rig.respond(OK);
                assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
                rig.records.clear();
            }
        }
        client
    }

    /// Returns the number of requests that are not over.
    fn open_count(self) -> usize {
        usize::from(!matches!(self, Self::New | Self::Kept))
    }
}

/// Asserts that each open request has one record with this outcome.
fn assert_recorded(rig: &Rig, phase: Phase, outcome: Outcome) {
    let expected = vec![(outcome, false); phase.open_count()];
    assert_eq!(rig.outcomes(), expected, "{phase:?}");
}

#[test]
fn a_connection_that_breaks_ends_its_request() {
    for phase in PHASES {
        let mut rig = Rig::new();
        let client = phase.enter(&mut rig);
        rig.report(client, TcpEvent::Failed(TransportFault::Reset));
        assert_recorded(&rig, phase, Outcome::ClientReset);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_write_that_fails_ends_its_request() {
    let mut rig = Rig::new();
    let client = Phase::Unwritten.enter(&mut rig);
    rig.report(client, TcpEvent::WriteFailed(TransportFault::Reset));
    assert_recorded(&rig, Phase::Unwritten, Outcome::ClientReset);
    rig.assert_nothing_left();
}

#[test]
fn a_client_that_leaves_within_a_request_ends_it() {
    for phase in [Phase::InHead, Phase::InBody] {
        let mut rig = Rig::new();
        let client = phase.enter(&mut rig);
        rig.send_end(client);
        assert_recorded(&rig, phase, Outcome::ClientClosed);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_client_that_ends_its_side_gets_its_response() {
    for phase in [Phase::Waiting, Phase::Responding, Phase::Unwritten] {
        let mut rig = Rig::new();
        let client = phase.enter(&mut rig);
        rig.send_end(client);
        match phase {
            Phase::Waiting => rig.respond(OK),
            Phase::Responding => rig.respond(b"k"),
            _ => rig.take_all(client),
        }
        let text = rig.text(client);
        assert!(text.ends_with("\r\n\r\nok"), "{phase:?}: {text}");
        assert_eq!(rig.outcomes(), [(Outcome::Complete, true)], "{phase:?}");
        rig.pass(TCP_LINGER_TIMEOUT);
        rig.assert_nothing_left();
    }
}

#[test]
fn closing_the_gateway_ends_every_request() {
    for phase in PHASES {
        let mut rig = Rig::new();
        let client = phase.enter(&mut rig);
        rig.gateway.close(rig.now);
        rig.settle();
        let socket = &rig.sockets[client];
        let is_cut = phase.open_count() > 0;
        assert_eq!((socket.is_closed, socket.is_reset), (true, is_cut), "{phase:?}");
        assert_recorded(&rig, phase, Outcome::GatewayClosed);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_head_that_does_not_come_whole_is_timed_out() {
    let mut rig = Rig::new();
    let client = Phase::InHead.enter(&mut rig);
    let timeout = rig.gateway.shared.settings.head_timeout;
    rig.pass(timeout - Duration::from_millis(1));
    assert_eq!(rig.outcomes(), []);
    rig.pass(Duration::from_millis(1));
    let text = rig.text(client);
    assert!(text.starts_with("HTTP/1.1 408 ") && text.contains("connection: close"), "{text}");
    assert_eq!(rig.outcomes(), [(Outcome::HeadTimeout, true)]);
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn a_head_that_trickles_is_timed_out_from_its_first_byte() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.pass(Duration::from_secs(5));
    for byte in b"GET /" {
        rig.send(client, &[*byte]);
        rig.pass(rig.gateway.shared.settings.head_timeout / 5);
    }
    assert!(rig.text(client).starts_with("HTTP/1.1 408 "));
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn an_idle_connection_is_closed_without_a_record() {
    for phase in [Phase::New, Phase::Kept] {
        let mut rig = Rig::new();
        let client = phase.enter(&mut rig);
        let timeout = rig.gateway.shared.settings.tcp[PLAIN].listener.tcp.idle_timeout;
        rig.pass(timeout - Duration::from_millis(1));
        assert!(!rig.sockets[client].is_shut);
        rig.pass(Duration::from_millis(1));
        assert!(rig.sockets[client].is_shut);
        rig.pass(TCP_LINGER_TIMEOUT);
        assert_eq!(rig.outcomes(), []);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_write_that_stalls_ends_the_connection() {
    let mut rig = Rig::new();
    let client = Phase::Unwritten.enter(&mut rig);
    rig.pass(RESPONSE_STALL_TIMEOUT - Duration::from_millis(1));
    assert!(!rig.sockets[client].is_closed);
    rig.pass(Duration::from_millis(1));
    // The kernel keeps nothing for a client that takes nothing.
    assert!(rig.sockets[client].is_closed && rig.sockets[client].is_reset);
    assert_recorded(&rig, Phase::Unwritten, Outcome::ResponseStalled);
    rig.assert_nothing_left();
}

#[test]
fn a_drain_ends_idle_connections_and_lets_requests_finish() {
    for phase in PHASES {
        let mut rig = Rig::new();
        let client = phase.enter(&mut rig);
        rig.gateway.drain(rig.now, rig.now + Duration::from_secs(30));
        rig.settle();
        assert!(!rig.sockets[client].is_shut, "a request may be on its way: {phase:?}");
        assert_eq!(rig.try_connect(PLAIN), None, "a drain takes no connection");
        let text = match phase {
            Phase::New | Phase::Kept => {
                rig.pass(TCP_LINGER_TIMEOUT);
                String::new()
            }
            Phase::InHead => {
                rig.send(client, b"TP/1.1\r\nhost: localhost\r\n\r\n");
                rig.respond(OK);
                rig.text(client)
            }
            Phase::InBody => {
                rig.send(client, b"defghij");
                rig.respond(OK);
                rig.text(client)
            }
            Phase::Waiting => {
                rig.respond(OK);
                rig.text(client)
            }
            Phase::Responding => {
                rig.respond(b"k");
                rig.text(client)
            }
            Phase::Unwritten => {
                rig.take_all(client);
                rig.text(client)
            }
        };
        if phase.open_count() > 0 {
            assert!(text.ends_with("ok"), "{phase:?}: {text}");
            let says_close = matches!(phase, Phase::InHead | Phase::InBody | Phase::Waiting);
            assert_eq!(text.contains("connection: close"), says_close, "{phase:?}: {text}");
            assert_eq!(rig.outcomes(), [(Outcome::Complete, true)], "{phase:?}");
        }
        assert!(rig.sockets[client].is_shut, "{phase:?}");
        rig.send_end(client);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_client_that_never_closes_is_closed_after_a_while() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, b"GET /a HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    rig.respond(OK);
    assert!(rig.sockets[client].is_shut);
    rig.pass(TCP_LINGER_TIMEOUT / 2);
    rig.send(client, b"more");
    rig.pass(TCP_LINGER_TIMEOUT / 2);
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true)]);
    assert!(!rig.sockets[client].is_reset, "it may still read its response");
    rig.assert_nothing_left();
}

#[test]
fn more_connections_than_the_limit_are_refused() {
    let mut rig = Rig::new();
    for _ in 0..CONNECTIONS_MAX {
        rig.connect(PLAIN);
    }
    assert!(!rig.gateway.accepts(PLAIN));
    assert_eq!(rig.try_connect(PLAIN), None);
    assert_eq!(rig.gateway.counters().tcp.connections_refused, 1);
    rig.report(0, TcpEvent::Failed(TransportFault::Reset));
    assert!(rig.gateway.accepts(PLAIN) && rig.try_connect(PLAIN).is_some());
}

#[test]
fn events_of_a_connection_that_is_gone_are_ignored() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.report(client, TcpEvent::Failed(TransportFault::Reset));
    for event in [
        TcpEvent::Received(BytesMut::from(GET)),
        TcpEvent::End,
        TcpEvent::Wrote,
        TcpEvent::WriteFailed(TransportFault::Reset),
    ] {
        rig.report(client, event);
    }
    assert_eq!(rig.outcomes(), []);
    rig.assert_nothing_left();
}

#[test]
fn a_request_that_breaks_a_rule_is_refused_and_ends_the_connection() {
    let mut rig = Rig::new();
    let client = rig.connect(PLAIN);
    rig.send(client, b"GET /a HTTP/1.1\r\nhost: localhost\r\na b: c\r\n\r\n");
    let text = rig.text(client);
    assert!(text.starts_with("HTTP/1.1 400 ") && text.contains("connection: close"), "{text}");
    assert_eq!(rig.outcomes(), [(Outcome::RequestMalformed, true)]);
    rig.send_end(client);
    rig.assert_nothing_left();
}

#[test]
fn an_upstream_that_breaks_off_leaves_no_response_that_looks_complete() {
    let mut rig = Rig::new();
    let client = Phase::Responding.enter(&mut rig);
    let key = rig.wires[0].key;
    rig.gateway.handle_upstream(rig.now, key, UpstreamEvent::Failed(TransportFault::Reset));
    rig.settle();
    let socket = &rig.sockets[client];
    assert!(socket.is_closed && socket.is_reset && !socket.is_shut);
    assert_eq!(rig.records.len(), 1);
    assert_ne!(rig.records[0].outcome, Outcome::Complete);
    assert_eq!(rig.records[0].delivered, None);
    rig.assert_nothing_left();
}

/// A worker that has no place for a socket closes those that it opened before it, and keeps their
/// numbers.
#[test]
fn a_configuration_may_follow_one_that_could_not_be_applied() {
    let mut rig = Rig::new();
    let (config, tls) = (Arc::new(configuration(|_| {})), rig.tls.clone());
    for sockets in [&[Some(SECURE), None, None][..], &[Some(SECURE), None, Some(SECURE)]] {
        rig.gateway.apply(rig.now, Arc::clone(&config), &tls, sockets).unwrap();
        rig.settle();
    }
}
