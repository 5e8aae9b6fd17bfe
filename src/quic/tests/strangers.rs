//! Datagrams that belong to no connection.

use std::net::SocketAddr;
use std::time::Duration;

use quinn_proto::ConnectionIdGenerator as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use super::super::cid::WorkerIds;
use super::super::*;
use super::pair::{MASK, Pair, pattern, quic};
use crate::limits::RESET_RATE_MAX;

fn stranger() -> SocketAddr {
    SocketAddr::from(([203, 0, 113, 5], 5555))
}

/// Returns a padded datagram with a long header of the given version.
fn long_header(version: u32, len: usize) -> Vec<u8> {
    let mut datagram = vec![0xc3];
    datagram.extend(version.to_be_bytes());
    datagram.extend([8, 1, 2, 3, 4, 5, 6, 7, 8, 4, 9, 9, 9, 9]);
    datagram.resize(len, 0);
    datagram
}

fn short_header(id: &[u8], len: usize) -> Vec<u8> {
    let mut datagram = vec![0x40];
    datagram.extend_from_slice(id);
    datagram.extend(pattern(len - datagram.len()));
    datagram
}

/// RFC 9000 5.2.2, 6.1 and 17.2.1.
#[test]
fn an_unknown_version_is_answered_only_if_the_datagram_has_full_length() {
    let mut pair = Pair::new(quic());
    for len in [60, 1199] {
        assert!(pair.inject(stranger(), &long_header(0x1a2a_3a4a, len)).is_empty());
    }
    let responses = pair.inject(stranger(), &long_header(0x1a2a_3a4a, 1200));
    let [response] = &responses[..] else { panic!("one response, not {responses:?}") };
    assert!(response.len() < 1200);
    assert_eq!(response[0] & 0x80, 0x80);
    assert_eq!(response[1..5], [0; 4]);
    // The connection ids are swapped in the response.
    assert_eq!(response[5..10], [4, 9, 9, 9, 9]);
    assert_eq!(response[10..19], [8, 1, 2, 3, 4, 5, 6, 7, 8]);
    let versions = response[19..].chunks(4).map(<[u8]>::to_vec).collect::<Vec<_>>();
    assert!(versions.contains(&vec![0, 0, 0, 1]));
    let reserved = |version: &Vec<u8>| version.iter().all(|byte| byte & 0x0f == 0x0a);
    let others = versions.iter().filter(|version| **version != [0, 0, 0, 1]);
    assert!(others.clone().all(reserved), "drafts are not offered: {versions:?}");
    // Version negotiation is never answered (RFC 9000 6.1).
    assert!(pair.inject(stranger(), response).is_empty());
    assert_eq!(pair.engine.stats().version_negotiations, 1);
    assert_eq!(pair.engine.stats().datagrams_dropped, 3);
}

/// Port 0 cannot be answered, so datagrams from it are dropped.
#[test]
fn port_0_gets_no_response_and_no_connection() {
    let mut pair = Pair::new(quic());
    pair.client_address = SocketAddr::from(([203, 0, 113, 5], 0));
    for datagram in [long_header(0x1a2a_3a4a, 1200), short_header(&[7; 8], 1200)] {
        assert!(pair.inject(pair.client_address, &datagram).is_empty());
    }
    pair.connect();
    pair.pass(Duration::from_secs(1));
    assert!(pair.bytes_to_clients.is_empty(), "{:?}", pair.bytes_to_clients);
    let stats = pair.engine.stats();
    assert!(stats.datagrams_in > 2 && stats.datagrams_in == stats.datagrams_from_port_0);
    assert_eq!(stats.handshakes_started, 0);
}

/// RFC 9000 10.3.
#[test]
fn an_unknown_id_gets_a_shorter_stateless_reset() {
    let mut pair = Pair::new(quic());
    let mut ids = WorkerIds::new(3, false, MASK, &[99; 32]);
    for len in [22, 30, 43, 100, 1200] {
        let datagram = short_header(&ids.generate_cid(), len);
        let responses = pair.inject(stranger(), &datagram);
        let [response] = &responses[..] else {
            panic!("one response to {len} bytes, not {responses:?}")
        };
        assert!(response.len() < len && response.len() >= 21, "{} for {len}", response.len());
        assert_eq!(response[0] & 0xc0, 0x40, "it looks like a short header");
    }
    assert!(pair.inject(stranger(), &short_header(&ids.generate_cid(), 21)).is_empty());
    assert_eq!(pair.engine.stats().resets, 5);
    assert_eq!(pair.engine.stats().datagrams_foreign_id, 0);
}

#[test]
fn stateless_resets_have_a_rate_and_a_burst() {
    let mut pair = Pair::new(quic());
    let mut ids = WorkerIds::new(3, false, MASK, &[99; 32]);
    let most = u64::from(RESET_RATE_MAX);
    let began = pair.now;
    for round in 0..40 {
        pair.now = began + Duration::from_millis(50) * round;
        for _ in 0..100 {
            pair.inject(stranger(), &short_header(&ids.generate_cid(), 100));
        }
        let resets = pair.engine.stats().resets;
        // Twice as many come as may be answered.
        let expected = (u64::from(round + 1) * 100).min(most + u64::from(round) * 50);
        assert!(resets.abs_diff(expected) <= 1, "{resets}, not {expected} in round {round}");
    }
    let stats = pair.engine.stats();
    assert_eq!(stats.resets + stats.responses_dropped, 4000);
}

/// The clients of a site that was silent, or of a worker that died.
#[test]
fn many_clients_that_come_back_at_once_are_all_told() {
    let mut pair = Pair::new(quic());
    let mut ids = WorkerIds::new(3, false, MASK, &[99; 32]);
    for host in 0..200 {
        let client = SocketAddr::from(([198, 51, 100, host], 40_000));
        let responses = pair.inject(client, &short_header(&ids.generate_cid(), 100));
        assert_eq!(responses.len(), 1, "client {host}");
    }
}

#[test]
fn two_gateways_do_not_reset_each_other_for_ever() {
    let mut pair = Pair::new(quic());
    let mut ids = WorkerIds::new(3, false, MASK, &[99; 32]);
    let mut datagram = short_header(&ids.generate_cid(), 1200);
    let mut bounces = 0;
    loop {
        pair.pass(Duration::from_millis(25));
        // By the worst of luck, the other side's response carries an id of ours.
        datagram[1..9].copy_from_slice(&ids.generate_cid());
        let mut responses = pair.inject(stranger(), &datagram);
        let Some(response) = responses.pop() else { break };
        datagram = response;
        bounces += 1;
    }
    assert!(bounces < 1200);
}

#[test]
fn a_connection_id_of_another_worker_is_counted_and_never_reset() {
    let mut pair = Pair::new(quic());
    for worker in (0..=127).filter(|&worker| worker != 3) {
        pair.pass(Duration::from_millis(25));
        let mut ids = WorkerIds::new(worker, worker % 2 == 0, MASK, &[99; 32]);
        let responses = pair.inject(stranger(), &short_header(&ids.generate_cid(), 1200));
        assert!(responses.is_empty(), "worker {worker}");
    }
    assert_eq!(pair.engine.stats().datagrams_foreign_id, 127);
    assert_eq!(pair.engine.stats().resets, 0);
}

/// The client of a lost connection must accept our stateless reset: it carries the token that the
/// client got in the handshake.
#[test]
fn a_client_of_a_lost_connection_is_reset() {
    let mut pair = Pair::new(quic());
    let (client, _) = pair.connected();
    pair.pass(Duration::from_secs(1));
    // The worker restarts with the same keys.
    let tls = super::pair::server_tls();
    pair.engine = Engine::new(super::pair::settings(quic(), &tls)).unwrap();
    pair.clients.get_mut(&client).unwrap().ping();
    let mut reset = false;
    pair.run(Duration::from_secs(5), |pair| {
        reset |= pair.client_events.drain(..).any(|(_, event)| {
            let reason = quinn_proto::ConnectionError::Reset;
            matches!(event, quinn_proto::Event::ConnectionLost { reason: lost } if lost == reason)
        });
        reset
    });
    assert!(reset);
}

#[test]
fn responses_to_strangers_wait_in_a_bounded_queue() {
    let mut pair = Pair::new(quic());
    let bound = crate::limits::RESPONSE_COUNT_MAX as u64;
    for _ in 0..bound + 10 {
        let datagram = Datagram {
            socket: 1,
            remote: stranger(),
            local_ip: None,
            ecn: 0,
            payload: long_header(0x1a2a_3a4a, 1200)[..].into(),
        };
        pair.engine.handle_datagram(pair.now, datagram);
        pair.engine.handle_timeout(pair.now);
    }
    assert_eq!(pair.engine.stats().responses_dropped, 10);
    let mut buffer = Vec::with_capacity(crate::limits::SLOT_LEN);
    let mut count = 0;
    while let Some(transmit) = pair.engine.poll_transmit(pair.now, &mut buffer) {
        assert_eq!((transmit.socket, transmit.source), (1, None));
        buffer.clear();
        count += 1;
    }
    assert_eq!(count, bound);
}

/// Whatever arrives, the engine neither panics nor sends more than three times as much, and the
/// existing connection survives.
#[test]
fn arbitrary_datagrams_cause_no_panic_and_no_amplification() {
    let mut pair = Pair::new(quic());
    pair.record = Some(Vec::new());
    let (client, key) = pair.connected();
    let stream = pair.clients.get_mut(&client).unwrap().streams().open(quinn_proto::Dir::Bi);
    let stream = StreamId::from(stream.unwrap());
    pair.client_write(client, stream, &mut pattern(20_000).into());
    pair.pass(Duration::from_secs(1));
    let recorded = pair.record.take().unwrap();
    assert!(recorded.len() > 10);
    let mut random = SmallRng::seed_from_u64(7);
    let home = pair.client_address;
    for round in 0..6_000 {
        let mut datagram = match round % 3 {
            0 => pattern(random.random_range(0..1500)),
            _ => recorded[random.random_range(0..recorded.len())].clone(),
        };
        for _ in 0..random.random_range(1..6) {
            if let Some(len) = datagram.len().checked_sub(1) {
                let place = random.random_range(0..=len);
                datagram[place] ^= 1 << random.random_range(0..8);
            }
        }
        if round % 5 == 0 {
            datagram.truncate(random.random_range(0..=datagram.len()));
        }
        let from = if round % 2 == 0 { home } else { stranger() };
        let sent = pair.inject(from, &datagram).iter().map(Vec::len).sum::<usize>();
        // Datagrams to the connection's own address may carry its regular traffic.
        assert!(from == home || sent <= 3 * datagram.len(), "{sent} for {}", datagram.len());
        if round % 100 == 0 {
            pair.pass(Duration::from_millis(10));
        }
    }
    pair.inject(stranger(), &vec![0xff; crate::limits::DATAGRAM_LEN_MAX]);
    assert!(pair.engine.is_open(key));
    pair.events.clear();
    pair.client_write(client, stream, &mut b"still here"[..].into());
    let readable = (key, Event::Readable(stream));
    assert!(pair.run(Duration::from_secs(5), |pair| pair.events.contains(&readable)));
}
