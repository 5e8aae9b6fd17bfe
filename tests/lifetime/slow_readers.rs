//! Clients that do not read large responses: the gateway stops reading the origin, memory stays
//! bounded, others are served, and a client that resumes reading gets the rest.

use std::sync::Arc;
use std::time::{Duration, Instant};

use ringway::testing::internal::limits::{
    CONNECTION_RESPONSES_LEN_MAX, RECEIVE_SLOT_COUNT_MAX, RESPONSE_PIECE_LEN_MIN,
    RESPONSE_STALL_TIMEOUT, SLOT_LEN,
};

use crate::body::{Check, Tag};
use crate::client::{self, Client, Manners, connect, connect_as, connect_with};
use crate::gateway::{Gateway, Settings};
use crate::{length, now, origin, pause, run, soak};

const MIB: u64 = 1 << 20;

/// Maximum length of one receive from the origin.
const RECEIVE_LEN_MAX: usize = RECEIVE_SLOT_COUNT_MAX * SLOT_LEN;

/// Waits until a figure does not change for a second.
async fn plateau(figure: impl Fn() -> u64) -> u64 {
    let deadline = now() + Duration::from_secs(30);
    let (mut last, mut still) = (figure(), 0);
    while still < 5 {
        assert!(now() < deadline, "it never settles: {last}");
        pause(200).await;
        let next = figure();
        still = if next == last { still + 1 } else { 0 };
        last = next;
    }
    last
}

/// Asserts that the gateway serves other clients normally.
async fn assert_serves_others(gateway: &Gateway) {
    let began = now();
    let mut other = connect(gateway).await;
    other.download(2 * MIB).await;
    other.upload_checked(2 * MIB).await;
    let took = now() - began;
    assert!(took < Duration::from_secs(5), "other requests took {took:?}");
}

#[test]
fn clients_that_do_not_read_put_backpressure_on_the_origin() {
    run(async {
        const CLIENTS: u64 = 6;
        const STREAMS: u64 = 30;
        let (address, seen) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        connect(&gateway).await.download(1000).await;
        let resident = gateway.resident_len();
        let mut clients: Vec<Client> = Vec::new();
        let mut held = Vec::new();
        for _ in 0..CLIENTS {
            // Windows just large enough for the head.
            let mut client = connect_with(&gateway, 1024).await;
            for _ in 0..STREAMS {
                held.push((client.begin_download(100 * MIB).await, client.tag));
            }
            clients.push(client);
        }
        let sent = plateau(|| seen.sent()).await;
        // Bytes waiting in the gateway and in the kernel's buffers at both ends.
        let bound = CLIENTS * STREAMS * (512 << 10);
        assert!(sent < bound, "{sent} bytes were taken from the origin, more than {bound}");
        // Beyond the pool, one piece for each of them.
        let grown = gateway.resident_len().saturating_sub(resident);
        assert!(grown < 24 * MIB, "{} KiB of memory for clients that read nothing", grown >> 10);
        assert!(gateway.metric("pool_slots", "free") > 0);
        gateway.assert_at_rest("while nobody reads").await;
        assert_serves_others(&gateway).await;

        // One client reads to the end; the others give up.
        drop(held.split_off(1));
        let (mut stream, tag) = held.pop().unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut check = Check::new(tag);
        while check.len < MIB {
            client::take(&mut stream.recv_data().await.unwrap().unwrap(), &mut check);
        }
        drop((stream, clients));
        gateway.settle(20).await;
        assert_serves_others(&gateway).await;
        gateway.settle(20).await;
        seen.assert_right();
        gateway.stop();
    });
}

/// Reads the first byte of each response, and no more.
async fn takes_a_byte(gateway: &Gateway) -> Client {
    let manners = Manners { stream_window: 1, keep_alive: Duration::from_secs(10) };
    connect_as(gateway, manners).await
}

/// The pool of these tests: so large that a connection reaches its own bounds first.
const POOL_LEN: u64 = 64 * MIB;

fn long_pool() -> Settings {
    Settings { pool: "64MiB", ..Settings::default() }
}

/// Asserts that the waiting bytes are within the bounds of each connection and of the worker (half
/// of its pool). Receives in flight when a bound is reached may exceed it: by one slot for each
/// stream, and by several for as many streams as fit into the bound.
fn assert_within_quota(gateway: &Gateway, connections: u64, streams: u64) -> (u64, u64) {
    let waiting = gateway.metric("responses_waiting_bytes", "");
    let bound = (connections * CONNECTION_RESPONSES_LEN_MAX as u64).min(POOL_LEN / 2);
    let streams_of_several = streams.min((CONNECTION_RESPONSES_LEN_MAX / RECEIVE_LEN_MAX) as u64);
    let under_way =
        streams * SLOT_LEN as u64 + streams_of_several * (RECEIVE_LEN_MAX - SLOT_LEN) as u64;
    let waiting_max = bound + connections * under_way;
    assert!(waiting <= waiting_max, "{waiting} bytes wait, more than {waiting_max}");
    // Pieces too short to keep a slot are copied to the heap.
    let slots = gateway.slots_out();
    let of_one = (CONNECTION_RESPONSES_LEN_MAX / RESPONSE_PIECE_LEN_MIN) as u64
        + under_way.div_ceil(SLOT_LEN as u64);
    assert!(slots <= connections * of_one, "{slots} slots, more than {of_one} each");
    (waiting, slots)
}

#[test]
fn one_connection_keeps_to_its_quota_of_slots() {
    run(async {
        const STREAMS: u64 = 90;
        let (address, seen) = origin::start();
        let gateway = Gateway::start(long_pool(), address).await;
        let mut client = takes_a_byte(&gateway).await;
        let mut held = Vec::new();
        for _ in 0..STREAMS {
            held.push(client.begin_download(100 * MIB).await);
        }
        plateau(|| seen.sent()).await;
        assert!(
            gateway.metric("responses_waiting_bytes", "") >= CONNECTION_RESPONSES_LEN_MAX as u64
        );
        let (waiting, slots) = assert_within_quota(&gateway, 1, STREAMS);
        eprintln!("{waiting} bytes wait for one connection, which holds {slots} slots");
        assert_eq!(gateway.metric("pool_low_water_events_total", ""), 0);
        assert_serves_others(&gateway).await;
        drop((held, client));
        gateway.settle(20).await;
        gateway.stop();
    });
}

/// `scripts/soak` runs this with a thousand clients. On two cores, the debug build and this process
/// need most of a minute to connect them, so the suite has a hundred. The suite is also too short
/// for `RESPONSE_STALL_TIMEOUT` (60 s), after which the responses are given up.
#[test]
fn many_clients_that_read_one_byte_do_not_block_others() {
    run(async {
        let count = if soak().is_zero() { 100 } else { 1000 };
        let (address, seen) = origin::start();
        let gateway = Gateway::start(long_pool(), address).await;
        let mut clients = Vec::new();
        for _ in 0..count {
            clients.push(takes_a_byte(&gateway).await);
        }
        let until = now() + length(0, 0);
        loop {
            nobody_reads(&gateway, &seen, &mut clients, until).await;
            if now() >= until {
                break;
            }
        }
        // Reading a byte at a time is slow but gives the right bytes.
        let tag = clients[0].tag;
        let mut stream = clients[0].begin_download(MIB).await;
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut check = Check::new(tag);
        while check.len < 100 {
            client::take(&mut stream.recv_data().await.unwrap().unwrap(), &mut check);
        }
        drop((stream, clients));
        gateway.settle(20).await;
        seen.assert_right();
        gateway.stop();
    });
}

/// Sends requests from all clients and reads no response, until the gateway gives the responses up
/// or the time is over.
async fn nobody_reads(
    gateway: &Gateway,
    seen: &Arc<origin::Seen>,
    clients: &mut [Client],
    until: Instant,
) {
    let began = now();
    let mut held = Vec::new();
    for client in clients.iter_mut() {
        held.push(client.begin_download(100 * MIB).await);
    }
    let before = seen.sent();
    plateau(|| seen.sent()).await;
    assert!(seen.sent() > before, "the origin got no requests");
    let (waiting, slots) = assert_within_quota(gateway, clients.len() as u64, 1);
    assert_serves_others(gateway).await;
    let given_up_at = now() + RESPONSE_STALL_TIMEOUT + Duration::from_secs(20);
    while now() < until && gateway.metric("exchanges_active", "") > 0 {
        assert!(now() < given_up_at, "responses that no client reads are never given up");
        assert_within_quota(gateway, clients.len() as u64, 1);
        pause(1000).await;
    }
    eprintln!("{waiting} bytes waited in {slots} slots and on the heap, {:?}", now() - began);
    drop(held);
    gateway.settle_but(20, &["connections"]).await;
}

#[test]
fn a_client_that_pauses_gets_every_byte() {
    run(async {
        let (address, seen) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        let mut client = connect_with(&gateway, 64 << 10).await;
        let mut streams = Vec::new();
        for _ in 0..8 {
            streams.push(client.begin_download(6 * MIB).await);
        }
        plateau(|| seen.sent()).await;
        let tag = client.tag;
        let readers = streams.into_iter().map(|stream| {
            let (_, receiving) = stream.split();
            tokio::spawn(client::receive(receiving, tag))
        });
        for reader in readers.collect::<Vec<_>>() {
            assert_eq!(reader.await.unwrap(), 6 * MIB);
        }
        drop(client);
        gateway.settle(20).await;
        gateway.stop();
    });
}

#[test]
fn an_echo_stalled_on_full_windows_resumes_when_it_is_read() {
    run(async {
        // More than all buffers on the path, including the kernel's.
        const LEN: u64 = 16 * MIB;
        let (address, _) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        let mut client = connect_with(&gateway, 32 << 10).await;
        let mut echoes = Vec::new();
        for _ in 0..3 {
            let (sending, receiving) = client.open("POST", "/echo").await.split();
            let tag = Tag::random();
            echoes.push((tokio::spawn(client::send(sending, tag, LEN)), receiving, tag));
        }
        // No client reads: the echo cannot be sent, so the origin cannot read, and the upload
        // stalls.
        plateau(|| gateway.metric("payload_bytes_total", "request")).await;
        assert!(
            echoes.iter().all(|(sending, ..)| !sending.is_finished()),
            "an upload finished although nothing was read"
        );
        gateway.assert_at_rest("with all windows full").await;
        let readers = echoes
            .into_iter()
            .map(|(_, receiving, tag)| tokio::spawn(client::receive(receiving, tag)));
        for reader in readers.collect::<Vec<_>>() {
            assert_eq!(reader.await.unwrap(), LEN);
        }
        drop(client);
        gateway.settle(20).await;
        gateway.stop();
    });
}

#[test]
fn memory_held_for_slow_readers_is_released() {
    run(async {
        let (address, _) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        let mut after = Vec::new();
        for _ in 0..4 {
            let mut client = connect_with(&gateway, 1024).await;
            let mut held = Vec::new();
            for _ in 0..60 {
                held.push(client.begin_download(10 * MIB).await);
            }
            pause(500).await;
            client.quic.close(0x100u32.into(), b"");
            drop(held);
            gateway.settle(20).await;
            after.push(gateway.resident_len());
        }
        let (first, last) = (after[0], after[3]);
        assert!(last < first + 6 * MIB, "memory grows with each round: {after:?}");
        gateway.stop();
    });
}
