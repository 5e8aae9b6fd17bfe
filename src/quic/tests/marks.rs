//! ECN marks on networks that keep, clear or drop them (RFC 9000 13.4.2).

use std::time::Duration;

use bytes::Bytes;
use quinn_proto::Dir;

use super::super::*;
use super::pair::{Marked, Pair, pattern, quic};

/// Sends `len` bytes to the client on a new stream, within `limit`, and returns how long it took.
fn download(pair: &mut Pair, client: usize, key: ConnectionKey, len: usize) -> Duration {
    let limit = Duration::from_secs(30);
    let began = pair.now;
    let stream = pair.clients.get_mut(&client).unwrap().streams().open(Dir::Bi).unwrap().into();
    pair.client_write(client, stream, &mut Bytes::from_static(b"GET"));
    let opened = (key, Event::StreamOpened(stream));
    assert!(pair.run(limit, |pair| pair.events.contains(&opened)), "the request arrives");
    let data = pattern(len);
    let mut pieces = vec![Bytes::from(data.clone())];
    let mut received = Vec::new();
    let mut is_finished = false;
    let done = pair.run(limit, |pair| {
        if !is_finished {
            is_finished = pair.engine.write(key, stream, &mut pieces).is_ok_and(|_| {
                pieces.iter().all(Bytes::is_empty)
                    && pair.engine.finish(pair.now, key, stream).is_ok()
            });
        }
        pair.client_read(client, stream, &mut received)
    });
    assert!(done, "{} of {len} bytes in {limit:?}", received.len());
    assert!(received == data);
    pair.now - began
}

#[test]
fn a_path_that_keeps_marks_is_sent_marked_datagrams_only() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    download(&mut pair, client, key, 1_000_000);
    let sent = pair.engine.stats().datagrams_out;
    assert_eq!(pair.marked_count, sent);
}

#[test]
fn ordinary_loss_takes_no_marks() {
    for seed in 0..5 {
        let mut pair = Pair::new(quic());
        pair.seed(seed);
        let (client, key) = pair.connected();
        pair.loss = 0.03;
        pair.jitter = Duration::from_millis(5);
        download(&mut pair, client, key, 1_000_000);
        assert_eq!(pair.marked_count, pair.engine.stats().datagrams_out, "seed {seed}");
    }
}

#[test]
fn a_path_that_drops_marked_datagrams_costs_a_handshake_one_probe_timeout() {
    let mut pair = Pair::new(quic());
    pair.marked = Marked::Dropped;
    let began = pair.now;
    let (client, key) = pair.connected();
    let taken = pair.now - began;
    assert!(taken < Duration::from_millis(1500), "{taken:?}");
    let marked = pair.marked_count;
    download(&mut pair, client, key, 1_000_000);
    assert_eq!(pair.marked_count, marked, "nothing is marked any more");
}

#[test]
fn a_path_that_begins_to_drop_marked_datagrams_does_not_end_the_connection() {
    for delay in [1, 10, 100, 300].map(Duration::from_millis) {
        let mut pair = Pair::new(quic());
        pair.delay = delay;
        let (client, key) = pair.connected();
        download(&mut pair, client, key, 100_000);
        pair.marked = Marked::Dropped;
        let taken = download(&mut pair, client, key, 100_000);
        let most = 60 * delay + Duration::from_secs(1);
        assert!(taken < most, "{taken:?} with a delay of {delay:?}");
    }
}

#[test]
fn a_path_that_clears_marks_is_sent_none_after_the_first_acknowledgements() {
    let mut pair = Pair::new(quic());
    pair.marked = Marked::Cleared;
    let (client, key) = pair.connected();
    let marked = pair.marked_count;
    assert!(marked < 10, "{marked} datagrams of the handshake");
    download(&mut pair, client, key, 1_000_000);
    assert!(pair.marked_count - marked < 10, "{} after it", pair.marked_count - marked);
}

/// A client that only uploads now and then is sent acknowledgements, which nobody acknowledges.
#[test]
fn datagrams_that_ask_for_no_acknowledgement_lose_no_marks() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    download(&mut pair, client, key, 10_000);
    pair.pass(Duration::from_secs(5));
    for _ in 0..10 {
        pair.clients.get_mut(&client).unwrap().ping();
        pair.pass(Duration::from_secs(2));
    }
    let marked = pair.marked_count;
    download(&mut pair, client, key, 100_000);
    assert!(pair.marked_count > marked + 50);
    assert_eq!(pair.marked_count, pair.engine.stats().datagrams_out);
}

/// The client moves to a path that drops what is marked, and does not notice.
#[test]
fn a_client_survives_a_move_to_a_path_that_drops_marked_datagrams() {
    let mut pair = Pair::new(quic());
    let (client, key) = pair.connected();
    download(&mut pair, client, key, 100_000);
    pair.client_address.set_port(50_000);
    pair.marked = Marked::Dropped;
    let taken = download(&mut pair, client, key, 100_000);
    assert!(taken < Duration::from_secs(10), "{taken:?}");
}

#[test]
fn a_new_path_is_tried_with_marks_again() {
    let mut pair = Pair::new(quic());
    pair.marked = Marked::Dropped;
    let (client, key) = pair.connected();
    download(&mut pair, client, key, 10_000);
    pair.marked = Marked::Kept;
    pair.client_address.set_port(50_000);
    let marked = pair.marked_count;
    download(&mut pair, client, key, 1_000_000);
    assert!(pair.marked_count > marked + 100, "{}", pair.marked_count - marked);
}
