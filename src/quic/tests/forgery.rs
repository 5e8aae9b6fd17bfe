//! Initial packets that a stranger makes: their keys follow from the connection id (RFC 9001 5.2),
//! and their source address can be forged.

use std::net::SocketAddr;
use std::time::Duration;

use super::super::*;
use super::pair::{Pair, pattern, quic, server_tls};
use crate::config::Retry;
use crate::limits::{
    FIRST_PACKET_COUNT_MAX, FIRST_PACKET_TURN_COST, HALF_OPEN_COUNT_MAX, HALF_OPEN_RETRY_COUNT,
    HANDSHAKE_TIMEOUT, UNVALIDATED_RATE_MAX,
};
use crate::testing::forger::{CLOSE, FORBIDDEN, Forger, PING};

fn stranger(number: u32) -> SocketAddr {
    let [_, a, b, c] = number.to_be_bytes();
    SocketAddr::from(([10, a, b, c], 4000))
}

fn adaptive() -> crate::config::Quic {
    crate::config::Quic { retry: Retry::Adaptive, ..quic() }
}

fn always() -> crate::config::Quic {
    crate::config::Quic { retry: Retry::Always, ..quic() }
}

fn assert_open_to_clients(pair: &mut Pair) {
    pair.pass(Duration::from_millis(100));
    pair.connected();
}

#[test]
fn an_initial_that_closes_itself_holds_nothing() {
    let (mut pair, forger) = (Pair::new(adaptive()), Forger::new(&server_tls()));
    for number in 0..12_000 {
        let initial = forger.initial(number.into(), &[], 0, &CLOSE, 1200);
        assert!(pair.inject(stranger(number), &initial).len() <= 1, "Retry at most");
        assert_eq!(pair.engine.counts(), ConnectionCounts::default(), "after {number}");
    }
    assert_eq!(pair.engine.stats().connections_refused, Default::default());
    pair.assert_empty();
    assert_open_to_clients(&mut pair);
}

#[test]
fn an_initial_that_breaks_a_rule_holds_nothing_once_its_close_has_left() {
    let (mut pair, forger) = (Pair::new(adaptive()), Forger::new(&server_tls()));
    for number in 0..5_000 {
        let mut datagram = forger.initial(number.into(), &[], 0, &PING, 600);
        datagram.extend(forger.initial(number.into(), &[], 1, &FORBIDDEN, 600));
        pair.inject(stranger(number), &datagram);
        assert_eq!(pair.engine.counts(), ConnectionCounts::default(), "after {number}");
    }
    let stats = pair.engine.stats();
    assert_eq!(stats.handshakes_started, stats.handshakes_failed);
    pair.assert_empty();
    assert_open_to_clients(&mut pair);
}

/// Where nothing can be sent, a flood may begin any number of handshakes: those that have failed
/// and whose close has not left count as half-open.
#[test]
fn failed_handshakes_are_half_open_until_they_are_gone() {
    let (mut pair, forger) = (Pair::new(adaptive()), Forger::new(&server_tls()));
    let local_ip = Some(pair.server_ip);
    for number in 0..3 * HALF_OPEN_RETRY_COUNT as u32 {
        let initial = forger.initial(number.into(), &[], 0, &CLOSE, 1200);
        let (remote, payload) = (stranger(number), initial[..].into());
        let datagram = Datagram { socket: 0, remote, local_ip, ecn: 0, payload };
        pair.engine.handle_datagram(pair.now, datagram);
        pair.engine.handle_timeout(pair.now);
    }
    assert_eq!(pair.engine.stats().handshakes_started, HALF_OPEN_RETRY_COUNT as u64);
    assert_eq!(pair.engine.stats().retries, 2 * HALF_OPEN_RETRY_COUNT as u64);
    pair.pass(Duration::from_millis(1));
    pair.assert_empty();
}

#[test]
fn an_initial_repeated_from_other_addresses_meets_retry() {
    let mut pair = Pair::new(adaptive());
    pair.record = Some(Vec::new());
    pair.client_is_mute = true;
    pair.connect();
    pair.drive();
    let initial = pair.record.take().unwrap().swap_remove(0);
    for number in 0..3_000 {
        let responses = pair.inject(stranger(number), &initial);
        let bytes = responses.iter().map(Vec::len).sum::<usize>();
        assert!(bytes <= 3 * initial.len(), "{bytes}");
    }
    let stats = pair.engine.stats();
    assert_eq!((stats.handshakes_started, stats.retries), (1, 2_999));
}

#[test]
fn handshakes_without_validation_have_a_rate() {
    let (mut pair, forger) = (Pair::new(adaptive()), Forger::new(&server_tls()));
    for second in 1..4 {
        for number in 0..3_000 {
            let initial = forger.initial(second << 32 | number, &[], 0, &CLOSE, 1200);
            pair.inject(stranger(number as u32), &initial);
        }
        assert_eq!(
            pair.engine.stats().handshakes_started,
            second * u64::from(UNVALIDATED_RATE_MAX)
        );
        // The 2,000 that were not granted count for a second more.
        pair.pass(Duration::from_secs(2));
    }
}

/// A forger that never stops leaves no time for handshakes that nobody asked for.
#[test]
fn while_too_many_handshakes_are_wanted_none_begins_without_validation() {
    let (mut pair, forger) = (Pair::new(adaptive()), Forger::new(&server_tls()));
    for number in 0..20_000 {
        let initial = forger.initial(number, &[], 0, &CLOSE, 1200);
        pair.inject(stranger(number as u32), &initial);
        pair.pass(Duration::from_micros(250));
    }
    let begun = pair.engine.stats().handshakes_started;
    // At four times the rate the first second's are gone after a third of it.
    let expected = u64::from(UNVALIDATED_RATE_MAX) * 4 / 3;
    assert!(begun.abs_diff(expected) < 50, "{begun}");
    pair.pass(Duration::from_millis(1100));
    pair.inject(stranger(0), &forger.initial(1 << 32, &[], 0, &CLOSE, 1200));
    assert_eq!(pair.engine.stats().handshakes_started, begun + 1);
}

#[test]
fn first_packets_wait_for_turns_that_have_time() {
    let (mut pair, forger) = (Pair::new(always()), Forger::new(&server_tls()));
    let (client, _) = pair.connected();
    let retry = pair.inject(stranger(1), &forger.initial(7, &[], 0, &PING, 1200)).swap_remove(0);
    let (turn, room) = (u64::from(FIRST_PACKET_TURN_COST), FIRST_PACKET_COUNT_MAX as u64);
    // All in one turn, more than may wait.
    let before = pair.engine.stats().retries;
    for number in 0..turn + room + 10 {
        let initial = forger.initial(number, &[], 0, &PING, 1200);
        pair.reach_engine(stranger(number as u32), 0, &initial);
    }
    assert_eq!(pair.engine.stats().retries, before + turn);
    assert_eq!(pair.engine.stats().first_packets_dropped, 10);
    // Whoever had a response need not wait, nor whoever had a Retry.
    assert!(reads_a_stream_at_once(&mut pair, client));
    let started = pair.engine.stats().handshakes_started;
    let proven = forger.initial(gateway_id(&retry), token(&retry), 0, &PING, 1200);
    pair.reach_engine(stranger(1), 0, &proven);
    assert_eq!(pair.engine.stats().handshakes_started, started + 1);
    // The others are due, a part of them in each turn.
    for number in 2..=room / turn + 1 {
        assert_eq!(pair.engine.next_deadline(), Some(pair.now));
        pair.engine.handle_timeout(pair.now);
        assert_eq!(pair.engine.stats().retries, before + turn * number);
    }
    assert_ne!(pair.engine.next_deadline(), Some(pair.now));
}

/// Returns whether the engine reads what the client sends on a new stream, without another turn.
fn reads_a_stream_at_once(pair: &mut Pair, client: usize) -> bool {
    let connection = pair.clients.get_mut(&client).unwrap();
    let stream = connection.streams().open(quinn_proto::Dir::Bi).unwrap();
    pair.client_write(client, stream.into(), &mut pattern(100).into());
    pair.client_is_mute = true;
    pair.record = Some(Vec::new());
    pair.drive();
    pair.events.clear();
    for datagram in pair.record.take().unwrap() {
        pair.reach_engine(pair.client_address, 0, &datagram);
    }
    pair.events.iter().any(|(_, event)| *event == Event::StreamOpened(stream.into()))
}

/// RFC 9000 8.1.4.
#[test]
fn a_retry_token_is_good_for_one_handshake() {
    let (mut pair, forger) = (Pair::new(always()), Forger::new(&server_tls()));
    let token = retry_token(&mut pair, &forger, stranger(1), 7);
    for number in 0..1_000 {
        let initial = forger.initial(number, &token, 0, &CLOSE, 1200);
        pair.inject(stranger(1), &initial);
    }
    let stats = pair.engine.stats();
    assert_eq!((stats.handshakes_started, stats.tokens_replayed), (1, 999));
    assert_eq!(stats.retries, 1);
}

/// Returns the token of a Retry to `remote`.
fn retry_token(pair: &mut Pair, forger: &Forger, remote: SocketAddr, id: u64) -> Vec<u8> {
    let responses = pair.inject(remote, &forger.initial(id, &[], 0, &PING, 1200));
    token(&responses[0]).to_vec()
}

/// Returns the token of a Retry (RFC 9000 17.2.5): version, the client's id of 4 bytes, the
/// gateway's id, token, tag.
fn token(retry: &[u8]) -> &[u8] {
    let id_len = usize::from(retry[10]);
    &retry[11 + id_len..retry.len() - 16]
}

fn gateway_id(retry: &[u8]) -> u64 {
    u64::from_be_bytes(retry[11..19].try_into().unwrap())
}

#[test]
fn one_proven_address_leaves_handshakes_in_progress_to_others() {
    let quic = crate::config::Quic { half_open_per_address: 2, ..always() };
    let (mut pair, forger) = (Pair::new(quic), Forger::new(&server_tls()));
    let begin = |pair: &mut Pair, remote, id| {
        let token = retry_token(pair, &forger, remote, id);
        pair.inject(remote, &forger.initial(id, &token, 0, &PING, 1200));
    };
    let share = HALF_OPEN_COUNT_MAX / 50;
    for id in 0..100 {
        begin(&mut pair, stranger(1), id);
    }
    assert_eq!(pair.engine.counts().handshaking, share);
    assert_eq!(pair.engine.stats().connections_refused.address, 100 - share as u64);
    begin(&mut pair, stranger(2), 100);
    assert_eq!(pair.engine.counts().handshaking, share + 1);
    pair.pass(HANDSHAKE_TIMEOUT);
    pair.assert_empty();
}

/// A stranger can forge the address of a client, so what it begins there refuses nothing.
#[test]
fn handshakes_from_one_unproven_address_meet_retry() {
    let quic = crate::config::Quic { half_open_per_address: 2, ..adaptive() };
    let (mut pair, forger) = (Pair::new(quic), Forger::new(&server_tls()));
    let share = HALF_OPEN_COUNT_MAX / 50;
    for id in 0..100 {
        pair.inject(stranger(1), &forger.initial(id, &[], 0, &PING, 1200));
    }
    assert_eq!(pair.engine.counts().handshaking, share);
    assert_eq!(pair.engine.stats().retries, 100 - share as u64);
    assert_eq!(pair.engine.stats().connections_refused, Default::default());
    pair.inject(stranger(2), &forger.initial(100, &[], 0, &PING, 1200));
    assert_eq!(pair.engine.counts().handshaking, share + 1);
}

/// RFC 9000 12.4: an error. Its keys are public, so any stranger can send one.
#[test]
fn an_initial_without_frames_ends_its_own_connection() {
    let (mut pair, forger) = (Pair::new(adaptive()), Forger::new(&server_tls()));
    let mut datagram = forger.initial(1, &[], 0, &PING, 1157);
    // 27 bytes of header and 16 of tag.
    datagram.extend(forger.initial(1, &[], 1, &[], 43));
    pair.inject(stranger(1), &datagram);
    assert_eq!(pair.engine.stats().handshakes_failed, 1);
    pair.assert_empty();
    assert_open_to_clients(&mut pair);
}

#[test]
fn what_a_stranger_begins_from_a_clients_address_does_not_use_up_its_share() {
    let quic =
        crate::config::Quic { max_connections: 200, connections_per_address: 10, ..adaptive() };
    let (mut pair, forger) = (Pair::new(quic), Forger::new(&server_tls()));
    let mut forged = pair.client_address;
    for id in 0..50 {
        forged.set_port(id);
        pair.inject(forged, &forger.initial(id.into(), &[], 0, &PING, 1200));
    }
    assert!(pair.engine.counts().handshaking >= 49);
    pair.connected();
}
