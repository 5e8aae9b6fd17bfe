//! Shares of a client address: handshakes in progress, with and without a proxy in between.

use super::secure::TlsClient;
use super::*;
use crate::limits::HANDSHAKE_TIMEOUT;
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
fn one_address_has_its_share_of_the_handshakes_and_its_other_connections_wait() {
    let (mut rig, share) = rig();
    let places = |rig: &Rig| {
        let places = &rig.gateway.shared.tcp.places;
        (places.handshake_count(), places.waiting_count())
    };
    for _ in 0..share + 3 {
        assert!(rig.try_connect_from(GREEDY, SECURE).is_some());
    }
    assert_eq!(places(&rig), (share, 3));
    assert!(rig.reads(share - 1) && !rig.reads(share), "it waits, unread");
    let other = rig.try_connect_from(OTHER, SECURE).expect("others have their places");
    let plain = rig.try_connect_from(GREEDY, PLAIN).expect("it may connect");
    assert!(rig.reads(plain), "there is no handshake without TLS");
    assert!(rig.reads(other) && places(&rig) == (share + 1, 3));
    rig.report(0, TcpEvent::End);
    assert!(rig.reads(share) && !rig.reads(share + 1), "the first that waits has its turn");
    // A connection that comes meanwhile waits behind them.
    rig.try_connect_from(GREEDY, SECURE).expect("it may wait");
    rig.report(1, TcpEvent::End);
    rig.report(2, TcpEvent::End);
    assert!(rig.reads(share + 1) && rig.reads(share + 2));
    assert_eq!((places(&rig), rig.gateway.counters().tcp.connections_refused), ((share + 1, 1), 0));
    rig.pass(HANDSHAKE_TIMEOUT);
    assert_eq!(places(&rig), (0, 0), "the time of a handshake begins when it begins to wait");
}

#[test]
fn all_connections_of_one_address_are_served_in_the_end() {
    let (mut rig, share) = rig();
    let waiting: Vec<usize> = (0..3 * share)
        .map(|_| rig.try_connect_from([192, 0, 2, 9], SECURE).expect("it may wait"))
        .collect();
    for socket in waiting {
        TlsClient::on(socket, &rig, ALPN_HTTP1).flush(&mut rig);
    }
    assert_eq!(rig.gateway.counters().tcp.handshakes_completed, 3 * share as u64);
    assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 0);
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
        for _ in 0..2 * share {
            assert!(rig.try_connect_from([198, 51, 100, address], SECURE).is_some());
        }
    }
    assert_eq!(rig.gateway.shared.tcp.places.handshake_count(), 50 * share);
    assert!(rig.gateway.accepts(SECURE) && rig.try_connect_from(OTHER, SECURE).is_some());
}
