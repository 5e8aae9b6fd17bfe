//! TLS in front of HTTP/1.1: the handshake, its ends, and requests.

use std::io::{Read as _, Write as _};

use rustls::pki_types::ServerName;

use super::*;
use crate::limits::{HANDSHAKE_TIMEOUT, TCP_LINGER_TIMEOUT};
use crate::testing::ClientTls;
use crate::tls::ALPN_HTTP1;

/// A client's end of a TLS connection.
pub(super) struct TlsClient {
    socket: usize,
    pub(super) tls: rustls::ClientConnection,
    /// Plaintext that has come since it was last taken.
    plaintext: Vec<u8>,
}

impl TlsClient {
    /// Connects, and offers one protocol.
    pub(super) fn connect(rig: &mut Rig, alpn: &[u8]) -> Self {
        let mut client = Self::unready(rig, alpn);
        client.flush(rig);
        assert!(!client.tls.is_handshaking(), "two flights are enough");
        assert_eq!(client.tls.alpn_protocol(), Some(alpn));
        client
    }

    /// Opens a connection on which nothing was sent.
    pub(super) fn unready(rig: &mut Rig, alpn: &[u8]) -> Self {
        let socket = rig.connect(SECURE);
        Self::on(socket, rig, alpn)
    }

    /// Begins TLS on a connection.
    pub(super) fn on(socket: usize, rig: &Rig, alpn: &[u8]) -> Self {
        let trusting = ClientTls::trusting_server(&rig.tls);
        let config = ClientTls { alpn: vec![alpn.to_vec()], ..trusting }.tls13();
        Self::with(socket, Arc::new(config))
    }

    /// Begins TLS on a connection, with settings that keep sessions.
    pub(super) fn with(socket: usize, config: Arc<rustls::ClientConfig>) -> Self {
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = rustls::ClientConnection::new(config, name).expect("good settings");
        Self { socket, tls, plaintext: Vec::new() }
    }

    pub(super) fn socket(&self) -> usize {
        self.socket
    }

    /// Sends what TLS has to send, and reads what comes back, until both are silent.
    pub(super) fn flush(&mut self, rig: &mut Rig) {
        loop {
            let received = rig.received(self.socket);
            let mut left = &received[..];
            while !left.is_empty() {
                self.tls.read_tls(&mut left).expect("bytes in memory");
                self.tls.process_new_packets().expect("the gateway speaks TLS");
                // WouldBlock: nothing more has come. Otherwise the gateway has ended its side.
                let _end = self.tls.reader().read_to_end(&mut self.plaintext);
            }
            let mut out = Vec::new();
            while self.tls.wants_write() {
                self.tls.write_tls(&mut out).expect("memory");
            }
            if out.is_empty() {
                return;
            }
            rig.send(self.socket, &out);
        }
    }

    /// Sends bytes without a look at what has come.
    pub(super) fn send_blind(&mut self, rig: &mut Rig, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).expect("room for a request");
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).expect("memory");
        }
        rig.send(self.socket, &out);
    }

    pub(super) fn send(&mut self, rig: &mut Rig, bytes: &[u8]) {
        self.tls.writer().write_all(bytes).expect("room for a request");
        self.flush(rig);
    }

    /// Takes the plaintext that has come.
    pub(super) fn received(&mut self, rig: &mut Rig) -> Vec<u8> {
        self.flush(rig);
        std::mem::take(&mut self.plaintext)
    }
}

#[test]
fn requests_are_served_behind_tls() {
    let mut rig = Rig::new();
    let mut client = TlsClient::connect(&mut rig, ALPN_HTTP1);
    assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 0);
    for _ in 0..2 {
        client.send(&mut rig, GET);
        rig.respond(OK);
        assert!(client.received(&mut rig).ends_with(b"\r\n\r\nok"));
    }
    assert_eq!(rig.outcomes(), [(Outcome::Complete, true); 2]);
    assert_eq!(rig.records[0].server_name.as_deref(), Some("localhost"));
    client.tls.send_close_notify();
    client.flush(&mut rig);
    assert!(rig.sockets[client.socket].is_shut, "a close is responded to with a close");
    rig.send_end(client.socket);
    rig.assert_nothing_left();
}

#[test]
fn a_handshake_may_come_byte_by_byte() {
    let mut rig = Rig::new();
    let mut client = TlsClient::unready(&mut rig, ALPN_HTTP1);
    let mut hello = Vec::new();
    client.tls.write_tls(&mut hello).unwrap();
    for byte in hello {
        assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 1);
        rig.send(client.socket, &[byte]);
    }
    client.flush(&mut rig);
    assert!(!client.tls.is_handshaking());
    assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 0);
    rig.report(client.socket, TcpEvent::Failed(TransportFault::Reset));
    assert_eq!(rig.outcomes(), []);
    rig.assert_nothing_left();
}

#[test]
fn a_handshake_that_does_not_come_is_given_up() {
    let mut rig = Rig::new();
    let client = rig.connect(SECURE);
    rig.pass(HANDSHAKE_TIMEOUT - Duration::from_millis(1));
    assert!(!rig.sockets[client].is_closed);
    rig.pass(Duration::from_millis(1));
    let failures = &rig.gateway.counters().tcp.handshake_failures;
    assert_eq!((failures.timed_out, rig.incidents.len()), (1, 1), "the operator is told");
    rig.assert_nothing_left();
}

#[test]
fn a_client_that_leaves_before_its_handshake_is_closed_at_once() {
    for event in [TcpEvent::End, TcpEvent::Failed(TransportFault::Reset)] {
        let mut rig = Rig::new();
        let client = rig.connect(SECURE);
        rig.sockets[client].is_receiving = false;
        rig.report(client, event);
        assert!(!rig.sockets[client].is_receiving, "a receive after the end returns at once");
        rig.assert_nothing_left();
        assert_eq!(rig.outcomes(), []);
        assert!(rig.incidents.is_empty(), "a look at the port is no handshake");
    }
}

#[test]
fn a_client_that_leaves_within_its_handshake_is_an_incident() {
    for event in [TcpEvent::End, TcpEvent::Failed(TransportFault::Reset)] {
        for first_len in [1, usize::MAX] {
            let mut rig = Rig::new();
            let mut client = TlsClient::unready(&mut rig, ALPN_HTTP1);
            let mut hello = Vec::new();
            client.tls.write_tls(&mut hello).unwrap();
            rig.send(client.socket, &hello[..hello.len().min(first_len)]);
            let event = match event {
                TcpEvent::End => TcpEvent::End,
                _ => TcpEvent::Failed(TransportFault::Reset),
            };
            rig.report(client.socket, event);
            let failures = &rig.gateway.counters().tcp.handshake_failures;
            assert_eq!((failures.client, rig.incidents.len()), (1, 1), "after {first_len} bytes");
            rig.assert_nothing_left();
        }
    }
}

#[test]
fn a_handshake_that_the_gateway_breaks_off_is_counted_once() {
    let mut rig = Rig::new();
    let client = rig.connect(SECURE);
    rig.send(client, b"\x16\x03\x01");
    rig.gateway.close(rig.now);
    rig.settle();
    let failures = &rig.gateway.counters().tcp.handshake_failures;
    assert_eq!((failures.other, rig.incidents.len()), (1, 1));
    rig.assert_nothing_left();
}

#[test]
fn a_handshake_that_fails_is_an_incident_and_gets_an_alert() {
    let mut rig = Rig::new();
    let client = rig.connect(SECURE);
    rig.send(client, b"\x17\x03\x03\x00\x05hello");
    let received = rig.received(client);
    assert_eq!(received.first(), Some(&0x15), "an alert is a record of type 21");
    assert!(matches!(rig.incidents[..], [Incident::HandshakeFailed { .. }]), "{:?}", rig.incidents);
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}

#[test]
fn plain_http_at_a_tls_port_is_told_so() {
    let mut rig = Rig::new();
    let client = rig.connect(SECURE);
    rig.send(client, GET);
    let text = rig.text(client);
    assert!(text.starts_with("HTTP/1.1 400 "), "{text}");
    assert!(rig.sockets[client].is_shut);
    assert_eq!(rig.outcomes(), [(Outcome::RequestMalformed, true)]);
    rig.send_end(client);
    rig.assert_nothing_left();
}

#[test]
fn a_drain_spares_a_handshake_and_its_request() {
    let mut rig = Rig::new();
    let mut client = TlsClient::unready(&mut rig, ALPN_HTTP1);
    rig.gateway.drain(rig.now, rig.now + Duration::from_secs(30));
    rig.settle();
    client.tls.writer().write_all(GET).unwrap();
    client.flush(&mut rig);
    assert!(rig.sockets[client.socket].is_shut || rig.wires.len() == 1);
    if rig.wires.len() == 1 {
        rig.respond(OK);
        let text = String::from_utf8(client.received(&mut rig)).unwrap();
        assert!(text.contains("connection: close") && text.ends_with("ok"), "{text}");
    }
    rig.send_end(client.socket);
    rig.assert_nothing_left();
}

#[test]
fn a_record_that_was_altered_ends_the_connection() {
    let mut rig = Rig::new();
    let mut client = TlsClient::connect(&mut rig, ALPN_HTTP1);
    client.send(&mut rig, GET);
    rig.send(client.socket, b"\x17\x03\x03\x00\x20a record that nobody has encrypt");
    assert_eq!(rig.outcomes(), [(Outcome::ConnectionError, false)]);
    assert!(!rig.received(client.socket).is_empty(), "an alert follows");
    rig.pass(TCP_LINGER_TIMEOUT);
    rig.assert_nothing_left();
}
