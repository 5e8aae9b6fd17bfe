//! The end of a ring: by shutdown, by drop or by a panic, always with every slot freed.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::ops::ControlFlow::Break;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use ringway::testing::internal::address::EndpointAddress;
use ringway::testing::internal::host::{clock, probe};
use ringway::testing::internal::limits::RECEIVE_SLOT_COUNT_MAX;
use ringway::testing::internal::ring::{Ring, RingSettings, Wait};

use crate::harness::{
    Bench, PATIENCE, assert_all_free, edge_socket, pattern, peer, pool, send, settings,
};

/// Puts every kind of operation in flight: armed receives with bytes on the way, sends, a stuck
/// write, a hanging connect, a wake-up and completions not yet taken. Returns the values that must
/// outlive the ring.
fn busy(bench: &mut Bench) -> (UdpSocket, Vec<TcpListener>, Bytes) {
    let (edge, address) = bench.edge("127.0.0.1:0");
    let (_, six) = bench.edge("[::1]:0");
    let client = peer("127.0.0.1:0");
    bench.ring.watch_wake(Arc::new(ringway::testing::internal::host::eventfd::eventfd().unwrap()));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = EndpointAddress::Tcp(listener.local_addr().unwrap());
    let streams: Vec<_> = (0..4).map(|tag| bench.ring.connect(tag, &to, None).unwrap()).collect();
    bench.linger(Duration::from_millis(10));
    let stuck = Bytes::from(vec![1; 50 << 20]);
    for &stream in &streams {
        bench.ring.receive(stream, RECEIVE_SLOT_COUNT_MAX);
        bench.ring.write(stream, vec![stuck.clone()]).unwrap();
    }
    bench.ring.submit_and_wait(Wait::No).unwrap();
    for round in 0..10u8 {
        client.send_to(&[round; 1000], address).unwrap();
        peer("[::1]:0").send_to(&[round; 1000], six).unwrap();
        let mut batch = bench.pool.lease_vec().unwrap();
        batch.extend_from_slice(&pattern(60_000, 2));
        let to = client.local_addr().unwrap();
        bench.ring.send_datagrams(edge, send(batch, to, Some(1200))).unwrap();
        if round == 5 {
            bench.ring.submit_and_wait(Wait::No).unwrap();
            drop(bench.ring.poll_completion());
        }
    }
    assert!(bench.pool.counts().in_kernel > 0);
    assert!(bench.pool.counts().provided > 0);
    (client, vec![listener], stuck)
}

#[test]
fn shutting_down_with_operations_in_flight_frees_every_slot() {
    for _ in 0..5 {
        let mut bench = Bench::new(settings());
        let (_client, _listeners, stuck) = busy(&mut bench);
        bench.end();
        assert!(stuck.is_unique());
    }
}

/// The kernel's own cancel-all took 2 s for this many.
#[test]
fn thousands_of_idle_streams_are_cancelled_quickly() {
    const STREAM_COUNT: u32 = 4000;
    const TIME_MAX: Duration = Duration::from_secs(1);
    let limit = probe::raise_nofile();
    assert!(limit.soft > u64::from(STREAM_COUNT) + 100, "{limit:?}: raise `ulimit -Hn`");
    let mut bench = Bench::new(RingSettings { streams_max: STREAM_COUNT, ..settings() });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let to = EndpointAddress::Tcp(listener.local_addr().unwrap());
    let mut far_ends = Vec::new();
    for tag in 0..STREAM_COUNT {
        let stream = bench.ring.connect(u64::from(tag), &to, None).unwrap();
        bench.until(|_, _| Break(()));
        far_ends.push(listener.accept().unwrap());
        bench.ring.receive(stream, RECEIVE_SLOT_COUNT_MAX);
    }
    bench.ring.submit_and_wait(Wait::No).unwrap();
    assert!(bench.ring.operations_in_flight() >= STREAM_COUNT as usize);
    let began = clock::now();
    bench.end();
    let took = clock::now() - began;
    assert!(took < TIME_MAX, "{took:?}");
}

#[test]
fn dropping_with_operations_in_flight_frees_every_slot() {
    let mut bench = Bench::new(settings());
    let (_client, _listeners, stuck) = busy(&mut bench);
    let Bench { ring, pool } = bench;
    drop(ring);
    assert_all_free(&pool);
    assert!(stuck.is_unique());
}

#[test]
fn after_a_panic_a_new_ring_takes_over() {
    let pool = pool();
    let (socket, address) = edge_socket("127.0.0.1:0");
    for round in 0..3u8 {
        let duplicate = socket.try_clone().unwrap();
        let pool = Rc::clone(&pool);
        let outcome = catch_unwind(AssertUnwindSafe(move || {
            let mut ring = Ring::new(settings(), pool).unwrap();
            let edge = ring.add_socket(duplicate).unwrap();
            ring.receive_datagrams(edge);
            ring.send_datagrams(edge, send(vec![round; 10], address, None)).unwrap();
            let deadline = clock::now() + PATIENCE;
            while ring.poll_completion().is_none() {
                ring.submit_and_wait(Wait::Until(deadline)).unwrap();
            }
            std::panic::resume_unwind(Box::new(round));
        }));
        assert_eq!(*outcome.unwrap_err().downcast::<u8>().unwrap(), round);
    }
    assert_all_free(&pool);
}

#[test]
fn idle_and_unused_rings_shut_down() {
    Bench::new(settings()).end();
    let mut bench = Bench::new(settings());
    bench.edge("127.0.0.1:0");
    bench.linger(Duration::from_millis(5));
    bench.end();
}

#[test]
fn a_port_is_released_when_its_ring_ends() {
    let mut bench = Bench::new(settings());
    let (_, address): (_, SocketAddr) = bench.edge("127.0.0.1:0");
    bench.linger(Duration::from_millis(5));
    bench.end();
    // The kernel releases the files shortly after the ring, not at once.
    let deadline = clock::now() + PATIENCE;
    while UdpSocket::bind(address).is_err() {
        assert!(clock::now() < deadline, "the port stays bound");
    }
}

#[test]
fn slots_the_kernel_still_holds_after_the_shutdown_deadline_are_not_reused() {
    let mut bench = Bench::new(settings());
    let (_, address) = bench.edge("127.0.0.1:0");
    bench.ring.submit_and_wait(Wait::No).unwrap();
    let Bench { ring, pool } = bench;
    let refused = ring.shut_down(clock::now()).unwrap_err();
    assert!(refused.operation_count > 0, "{refused:?}");
    // The kernel may still fill these slots: they must not be handed out again.
    peer("127.0.0.1:0").send_to(&[1; 100], address).unwrap();
    let counts = pool.counts();
    assert_eq!((counts.provided, counts.free), (16 + 8, 64 - 24), "{counts:?}");
}
