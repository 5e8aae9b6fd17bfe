//! Shares of a client address: handshakes in progress, with and without a proxy in between.

use super::secure::TlsClient;
use super::*;
use crate::tls::ALPN_HTTP1;

const GREEDY: [u8; 4] = [192, 0, 2, 1];
const OTHER: [u8; 4] = [192, 0, 2, 2];

/// Returns a rig that serves many connections, whose clients may have 1% of the handshakes each.
fn rig() -> (Rig, usize) {
    let rig = Rig::with(|config| {
        for listener in &mut config.listeners {
            listener.tcp.max_connections = 10_000;
            listener.tcp.half_open_per_address = 1;
        }
    });
    let share = rig.gateway.shared.settings.tcp[SECURE].half_open_per_address;
    assert_eq!(share, 11, "1% of 1,024");
    (rig, share)
}

#[test]
fn one_address_has_its_share_of_the_handshakes() {
    let (mut rig, share) = rig();
    for _ in 0..share {
        assert!(rig.try_connect_from(GREEDY, SECURE).is_some());
    }
    for _ in 0..3 {
        assert_eq!(rig.try_connect_from(GREEDY, SECURE), None);
    }
    assert_eq!(rig.gateway.counters().tcp.connections_refused, 3);
    assert!(rig.try_connect_from(OTHER, SECURE).is_some(), "others have theirs");
    assert!(rig.try_connect_from(GREEDY, PLAIN).is_some(), "there is no handshake without TLS");
    rig.report(0, TcpEvent::End);
    assert!(rig.try_connect_from(GREEDY, SECURE).is_some(), "one was given back");
    assert_eq!(rig.try_connect_from(GREEDY, SECURE), None);
}

#[test]
fn handshakes_that_are_complete_take_no_share() {
    let (mut rig, share) = rig();
    for _ in 0..2 * share {
        TlsClient::connect(&mut rig, ALPN_HTTP1);
    }
    assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 0);
}

#[test]
fn a_few_addresses_cannot_use_all_handshakes() {
    let (mut rig, share) = rig();
    for address in 1..=50 {
        while rig.try_connect_from([198, 51, 100, address], SECURE).is_some() {}
    }
    assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 50 * share);
    assert!(rig.gateway.accepts(SECURE) && rig.try_connect_from(OTHER, SECURE).is_some());
}
