//! The anti-amplification limit: an unvalidated address is sent at most three times the bytes
//! received from it (RFC 9000 8.1).

use std::net::SocketAddr;
use std::time::Duration;

use super::super::*;
use super::pair::{HOST, Pair, quic, settings};
use crate::config::{Certificate, HostPattern, Tls};
use crate::testing::TestCertificate;
use crate::tls::ServerTls;

/// Returns a chain of `count` certificates, each with many names.
fn large_chain(count: usize) -> ServerTls {
    let mut made = TestCertificate::new(&[HOST]);
    for index in 1..count {
        let names: Vec<_> = (0..40).map(|name| format!("name-{name}.of-{index}.example")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        made.chain_pem.push_str(&TestCertificate::new(&names).chain_pem);
    }
    let directory = tempfile::tempdir().unwrap();
    let source = made.write(directory.path());
    let hosts = vec![HostPattern::Exact(HOST.to_owned())];
    ServerTls::load(&[Certificate { hosts, addresses: Vec::new(), source }], Tls::default())
        .unwrap()
}

fn bytes_out(pair: &Pair) -> u64 {
    pair.bytes_to_clients.values().sum()
}

/// Runs one flight of the client, then silence until the engine gives up, including all probes.
fn silent_client(tls: &ServerTls, hello_datagrams: u64) -> Pair {
    let mut pair = Pair::with(settings(quic(), tls), tls);
    if hello_datagrams == 1 {
        // Without the post-quantum key share, which alone has more than 1,200 bytes.
        let mut provider = crate::tls::provider();
        provider.kx_groups.remove(0);
        pair.use_provider(tls, provider);
    }
    pair.connect();
    pair.drive();
    pair.client_is_mute = true;
    pair.pass(Duration::from_secs(40));
    assert_eq!(pair.bytes_to_server, hello_datagrams * 1200);
    assert!(bytes_out(&pair) >= 1200, "it does answer");
    pair
}

#[test]
fn a_silent_client_is_sent_at_most_three_times_its_bytes() {
    for (certificates, hello_datagrams) in [(1, 1), (1, 2), (9, 1), (9, 2)] {
        let pair = silent_client(&large_chain(certificates), hello_datagrams);
        let (received, sent) = (pair.bytes_to_server, bytes_out(&pair));
        assert!(sent <= 3 * received, "{sent} bytes for {received}");
        assert!(sent > 2 * received, "{sent} bytes for {received}: lost responses are repeated");
        assert_eq!(pair.engine.stats().bytes_out, sent);
        assert_eq!(pair.engine.stats().bytes_in, received);
        assert_eq!(pair.engine.stats().handshake_failures.timed_out, 1);
        pair.assert_empty();
    }
}

/// The limit holds at every moment, not only at the end; a lossy network causes more probes.
#[test]
fn the_anti_amplification_limit_holds_until_the_address_is_validated() {
    let tls = large_chain(9);
    for seed in 0..10 {
        let mut pair = Pair::with(settings(quic(), &tls), &tls);
        pair.seed(seed);
        pair.loss = 0.3;
        pair.connect();
        let connected = pair.run(Duration::from_secs(9), |pair| {
            let proven = pair.engine.table.keys().first().is_some_and(|&key| {
                pair.engine.table.get(key).is_some_and(|connection| connection.paths.is_proven())
            });
            let (received, sent) = (pair.bytes_to_server, bytes_out(pair));
            assert!(proven || sent <= 3 * received, "{sent} bytes for {received}");
            pair.take_connected().is_some()
        });
        assert!(connected || pair.engine.stats().handshakes_started <= 1);
    }
}

/// Three times the Initials is too little for the chain: the client's Handshake packets validate
/// its address, or the handshake would stall.
#[test]
fn a_large_certificate_chain_arrives_despite_the_limit() {
    let tls = large_chain(9);
    let length = tls.chain(None).iter().map(|certificate| certificate.len()).sum::<usize>();
    assert!(length > 3 * 2 * 1200, "{length} bytes are more than the ClientHello earns");
    let mut pair = Pair::with(settings(quic(), &tls), &tls);
    let before = pair.now;
    pair.connected();
    assert!(pair.now - before < Duration::from_millis(200), "{:?}", pair.now - before);
}

/// An attacker that replays a client's packet from another address makes the connection migrate
/// there (RFC 9000 9.3.2). That address gets one datagram, the challenge; then three times at most.
#[test]
fn a_packet_replayed_from_a_victims_address_does_not_flood_it() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    pair.pass(Duration::from_secs(1));
    let stream = pair.clients.get_mut(&client).unwrap().streams().open(quinn_proto::Dir::Bi);
    let stream = StreamId::from(stream.unwrap());
    pair.record = Some(Vec::new());
    pair.client_write(client, stream, &mut bytes::Bytes::from_static(b"GET"));
    pair.client_is_mute = true;
    pair.drive();
    let sent = pair.record.take().unwrap();
    let victim = SocketAddr::from(([203, 0, 113, 66], 7));
    let mut pieces = [bytes::Bytes::from(super::pair::pattern(500_000))];
    let mut received = 0;
    pair.bytes_to_clients.clear();
    for datagram in &sent {
        received += datagram.len() as u64;
        pair.inject(victim, datagram);
    }
    assert_eq!(pair.engine.remote_address(key), Some(victim), "the test does what it says");
    pair.engine.write(key, stream, &mut pieces).unwrap();
    pair.client_is_mute = false;
    pair.pass(Duration::from_secs(5));
    let to_victim = pair.bytes_to_clients.get(&victim).copied().unwrap_or(0);
    assert!(to_victim <= 1200.max(3 * received), "{to_victim} bytes for {received}");
    let home = pair.client_address;
    assert_eq!(pair.engine.remote_address(key), Some(home), "the connection comes back");
    let mut bytes = Vec::new();
    assert!(pair.run(Duration::from_secs(20), |pair| {
        let _ = pair.engine.write(key, stream, &mut pieces);
        pair.client_read(client, stream, &mut bytes);
        bytes.len() == 500_000
    }));
}

/// The challenge to a client's new address is lost, and the bytes of a client unaware of its move
/// do not earn another. quinn-proto eventually gives that address up: the next datagram from there
/// starts a new account with a new challenge.
#[test]
fn a_lost_path_challenge_is_repeated() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    pair.pass(Duration::from_secs(1));
    let home = pair.client_address;
    pair.client_address.set_port(40_001);
    let there = pair.client_address;
    pair.bytes_to_clients.clear();
    let before = pair.bytes_to_server;
    let asked = move |pair: &Pair| {
        let (sent, received) =
            (pair.bytes_to_clients.get(&there).copied(), pair.bytes_to_server - before);
        assert!(sent <= Some(1200.max(3 * received)), "{sent:?} bytes for {received}");
        sent.unwrap_or(0)
    };
    pair.clients.get_mut(&client).unwrap().ping();
    pair.drive();
    pair.loss = 1.0;
    assert!(pair.run(Duration::from_secs(1), |pair| asked(pair) > 0));
    pair.loss = 0.0;
    let given_up = |pair: &mut Pair| pair.engine.remote_address(key) == Some(home);
    assert!(pair.run(Duration::from_secs(5), |pair| asked(pair) == 1200 && given_up(pair)));
    pair.clients.get_mut(&client).unwrap().ping();
    assert!(pair.run(Duration::from_secs(1), |pair| {
        pair.engine.table.get(key).is_some_and(|connection| connection.client == there)
    }));
}

/// A NAT gives the client another port, and the client's response to the PATH_CHALLENGE is lost.
/// (This client's retransmission is not a probing packet, as it is with others: see `paths`.)
#[test]
fn a_client_recovers_after_its_path_response_is_lost() {
    for move_again in [false, true] {
        let mut pair = Pair::new(quic());
        let (client, key) = pair.connected();
        let stream = pair.clients.get_mut(&client).unwrap().streams().open(quinn_proto::Dir::Bi);
        let stream = StreamId::from(stream.unwrap());
        pair.client_write(client, stream, &mut bytes::Bytes::from_static(b"GET"));
        pair.drive();
        pair.pass(Duration::from_millis(100));
        let body = super::pair::pattern(1_500_000);
        let mut pieces = vec![bytes::Bytes::from(body.clone())];
        let mut got = Vec::new();
        let mut go_on = |pair: &mut Pair, got: &mut Vec<u8>| {
            if let Ok(written) = pair.engine.write(key, stream, &mut pieces) {
                pieces.drain(..written.pieces);
            }
            pair.client_read(client, stream, got);
            got.len()
        };
        assert!(pair.run(Duration::from_secs(9), |pair| go_on(pair, &mut got) > 300_000));
        pair.client_address.set_port(40_001);
        let there = pair.client_address;
        pair.clients.get_mut(&client).unwrap().ping();
        assert!(pair.run(Duration::from_secs(1), |pair| {
            go_on(pair, &mut got);
            pair.engine.remote_address(key) == Some(there)
        }));
        // Its PATH_RESPONSE is in the first long datagram that it sends.
        pair.record = Some(Vec::new());
        pair.client_is_mute = true;
        assert!(pair.run(Duration::from_secs(1), |pair| {
            go_on(pair, &mut got);
            pair.record.as_ref().unwrap().iter().any(|datagram| datagram.len() >= 1200)
        }));
        pair.client_is_mute = false;
        let mut next_move = pair.now + Duration::from_millis(250);
        let done = pair.run(Duration::from_secs(20), |pair| {
            if move_again && pair.now >= next_move {
                let port = pair.client_address.port();
                pair.client_address.set_port(port + 1);
                // A NAT rebinds for a packet that the client sends.
                pair.clients.get_mut(&client).unwrap().ping();
                next_move = pair.now + Duration::from_millis(250);
            }
            go_on(pair, &mut got) == body.len()
        });
        assert!(done, "{} of {} bytes, moving again: {move_again}", got.len(), body.len());
        assert!(got == body);
    }
}
