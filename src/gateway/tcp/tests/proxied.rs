//! Connections of proxies, which begin with a PROXY header.

use super::secure::TlsClient;
use super::*;
use crate::limits::{HANDSHAKE_TIMEOUT, TCP_LINGER_TIMEOUT};
use crate::metrics::ProxyHeaderFailure;
use crate::tls::ALPN_HTTP1;

const HEADER: &[u8] = b"PROXY TCP4 203.0.113.9 198.51.100.1 50000 443\r\n";
/// The same in version 2.
const BINARY: &[u8] =
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xcb\x00\x71\x09\xc6\x33\x64\x01\xc3\x50\x01\xbb";
const LOCAL: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";

/// Returns a rig whose clients, all at 192.0.2.1, are proxies.
fn rig() -> Rig {
    Rig::with(|config| {
        for listener in &mut config.listeners {
            listener.proxy_protocol = vec!["192.0.2.0/24".parse().unwrap()];
        }
    })
}

/// Returns a header that announces the client at this address.
fn header_of(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 198.51.100.1 50000 443\r\n").into_bytes()
}

fn failures(rig: &Rig) -> (u64, u64, u64) {
    let failures = &rig.gateway.counters().tcp.proxy_header_failures;
    (failures.malformed, failures.cut_off, failures.timed_out)
}

/// Asserts that the request of a client was forwarded and logged as that of this address.
fn assert_client(rig: &Rig, client: &str) {
    let request = String::from_utf8_lossy(&rig.wires[0].taken);
    let address = client.parse::<SocketAddr>().unwrap();
    let field = format!("x-forwarded-for: {}\r\n", address.ip());
    assert!(request.contains(&field), "{request}");
    assert!(request.contains(&format!("for={};", address.ip())), "{request}");
    assert_eq!(rig.records[0].client, address);
}

#[test]
fn the_announced_client_is_the_client() {
    for header in [HEADER, BINARY] {
        let bytes = [header, GET].concat();
        for place in 1..=bytes.len() {
            let mut rig = rig();
            let client = rig.connect(PLAIN);
            let (first, second) = bytes.split_at(place);
            rig.send(client, first);
            if !second.is_empty() {
                assert!(rig.wires.is_empty());
                rig.send(client, second);
            }
            rig.respond(OK);
            assert!(rig.text(client).ends_with("ok"));
            assert_client(&rig, "203.0.113.9:50000");
            rig.send_end(client);
            rig.pass(TCP_LINGER_TIMEOUT);
            rig.assert_nothing_left();
        }
    }
}

#[test]
fn tls_follows_the_header() {
    for cut in [1, 20, BINARY.len()] {
        let mut rig = rig();
        let socket = rig.connect(SECURE);
        rig.send(socket, &BINARY[..cut]);
        let mut client = TlsClient::on(socket, &rig, ALPN_HTTP1);
        if cut < BINARY.len() {
            rig.send(socket, &BINARY[cut..]);
        }
        client.flush(&mut rig);
        client.send(&mut rig, GET);
        rig.respond(OK);
        assert!(client.received(&mut rig).ends_with(b"ok"));
        assert_client(&rig, "203.0.113.9:50000");
        assert_eq!(rig.gateway.counters().tcp.handshakes_completed, 1);
        rig.send_end(socket);
        rig.pass(TCP_LINGER_TIMEOUT);
        rig.assert_nothing_left();
    }
}

#[test]
fn a_proxy_that_announces_nobody_is_the_client() {
    for header in [LOCAL, b"PROXY UNKNOWN\r\n"] {
        let mut rig = rig();
        let client = rig.connect(PLAIN);
        rig.send(client, &[header, GET].concat());
        rig.respond(OK);
        assert_client(&rig, "192.0.2.1:40000");
        rig.send_end(client);
        rig.pass(TCP_LINGER_TIMEOUT);
        rig.assert_nothing_left();
    }
}

/// The fields of a proxy beyond the one that sends the header are trusted by the announced address.
#[test]
fn trust_is_that_of_the_announced_client() {
    for (trusted, field) in [
        ("203.0.113.0/24", "x-forwarded-for: 10.9.8.7, 203.0.113.9"),
        ("192.0.2.0/24", "x-forwarded-for: 203.0.113.9"),
    ] {
        let mut rig = Rig::with(|config| {
            config.listeners[PLAIN].proxy_protocol = vec!["192.0.2.0/24".parse().unwrap()];
            config.listeners[PLAIN].trusted_proxies = vec![trusted.parse().unwrap()];
        });
        let client = rig.connect(PLAIN);
        let request = b"GET /a HTTP/1.1\r\nhost: localhost\r\nx-forwarded-for: 10.9.8.7\r\n\r\n";
        rig.send(client, &[HEADER, request].concat());
        let forwarded = String::from_utf8_lossy(&rig.wires[0].taken).into_owned();
        assert!(forwarded.contains(&format!("{field}\r\n")), "{forwarded}");
    }
}

#[test]
fn a_connection_without_a_header_is_closed() {
    for listener in [PLAIN, SECURE] {
        for bytes in [GET, b"\x16\x03\x01\x02\0", b"PROXY TCP4 nobody\r\n"] {
            let mut rig = rig();
            let client = rig.connect(listener);
            rig.send(client, bytes);
            assert!(rig.sockets[client].is_closed && rig.received(client).is_empty());
            assert_eq!(failures(&rig), (1, 0, 0));
            let [Incident::ProxyHeader { failure, rule: Some(_), .. }] = &rig.incidents[..] else {
                panic!("{:?}", rig.incidents);
            };
            assert_eq!(*failure, ProxyHeaderFailure::Malformed);
            assert_eq!(rig.outcomes(), []);
            rig.assert_nothing_left();
        }
    }
}

#[test]
fn a_header_that_is_late_or_cut_off_closes_the_connection() {
    for listener in [PLAIN, SECURE] {
        for sent in [0, 1, 30] {
            for event in [None, Some(TcpEvent::End)] {
                let mut rig = rig();
                let client = rig.connect(listener);
                if sent > 0 {
                    rig.send(client, &HEADER[..sent]);
                }
                let expected = match event {
                    None => {
                        rig.pass(HANDSHAKE_TIMEOUT - Duration::from_millis(1));
                        assert!(!rig.sockets[client].is_closed);
                        rig.pass(Duration::from_millis(1));
                        (0, 0, 1)
                    }
                    // Without a byte it was a look at the port.
                    Some(event) => {
                        rig.sockets[client].is_receiving = false;
                        rig.report(client, event);
                        (0, u64::from(sent > 0), 0)
                    }
                };
                assert!(rig.sockets[client].is_closed);
                assert_eq!(failures(&rig), expected, "{sent} bytes");
                let incidents = expected.1 + expected.2;
                assert_eq!(rig.incidents.len() as u64, incidents);
                let handshakes = &rig.gateway.counters().tcp.handshake_failures;
                assert_eq!((handshakes.timed_out, handshakes.client), (0, 0));
                rig.assert_nothing_left();
            }
        }
    }
}

#[test]
fn a_header_of_anybody_else_is_a_bad_request() {
    for header in [HEADER, BINARY] {
        let mut rig = Rig::with(|config| {
            config.listeners[PLAIN].proxy_protocol = vec!["198.51.100.0/24".parse().unwrap()];
        });
        let client = rig.connect(PLAIN);
        rig.send(client, &[header, GET].concat());
        assert!(rig.text(client).starts_with("HTTP/1.1 400 "));
        assert!(rig.wires.is_empty());
        assert_eq!(rig.records[0].client, ([192, 0, 2, 1], 40_000).into());
        rig.send_end(client);
        rig.assert_nothing_left();
    }
}

#[test]
fn shares_are_those_of_announced_clients() {
    let mut rig = Rig::with(|config| {
        for listener in &mut config.listeners {
            listener.proxy_protocol = vec!["192.0.2.0/24".parse().unwrap()];
            // Two of eight.
            listener.tcp.connections_per_address = 25;
        }
    });
    let greedy = header_of("203.0.113.9");
    for listener in [PLAIN, SECURE] {
        let sockets: Vec<usize> = (0..4).map(|_| rig.connect(listener)).collect();
        for (count, socket) in sockets.iter().enumerate() {
            rig.send(*socket, &greedy);
            assert_eq!(rig.sockets[*socket].is_closed, count >= 2, "the share of one client");
        }
        let other = rig.connect(listener);
        rig.send(other, &header_of("203.0.113.10"));
        assert!(!rig.sockets[other].is_closed, "others behind the proxy have theirs");
        rig.report(sockets[0], TcpEvent::Failed(TransportFault::Reset));
        let again = rig.connect(listener);
        rig.send(again, &greedy);
        assert!(!rig.sockets[again].is_closed, "one was given back");
    }
    assert_eq!(rig.gateway.counters().tcp.connections_refused, 4);
    assert_eq!(failures(&rig), (0, 0, 0));
}

#[test]
fn a_drain_ends_a_connection_whose_header_comes_late() {
    let mut rig = rig();
    let client = rig.connect(PLAIN);
    rig.gateway.drain(rig.now, rig.now + Duration::from_secs(30));
    rig.settle();
    rig.send(client, &[HEADER, GET].concat());
    rig.respond(OK);
    let text = rig.text(client);
    assert!(text.contains("connection: close") && text.ends_with("ok"), "{text}");
    rig.send_end(client);
    rig.assert_nothing_left();
}

#[test]
fn a_connection_that_waits_is_not_read_though_bytes_have_come_with_its_header() {
    let mut rig = Rig::with(|config| {
        for listener in &mut config.listeners {
            listener.proxy_protocol = vec!["192.0.2.0/24".parse().unwrap()];
            listener.tcp.max_connections = 1000;
            listener.tcp.half_open_per_address = 1;
        }
    });
    let share = rig.gateway.shared.settings.tcp[SECURE].half_open_per_address;
    for _ in 0..share {
        let client = rig.connect(SECURE);
        rig.send(client, HEADER);
    }
    let waiting = rig.connect(SECURE);
    rig.send(waiting, &[HEADER, GET].concat());
    assert_eq!(rig.text(waiting), "", "its bytes are not looked at");
    let places = &rig.gateway.shared.tcp.places;
    assert_eq!((places.handshake_count(), places.waiting_count()), (share, 1));
    rig.send_end(0);
    assert!(rig.text(waiting).starts_with("HTTP/1.1 400 "), "it has its turn");
    rig.pass(HANDSHAKE_TIMEOUT + TCP_LINGER_TIMEOUT);
    let places = &rig.gateway.shared.tcp.places;
    assert_eq!((places.handshake_count(), places.waiting_count()), (0, 0));
}
