//! Turns of the ring on this kernel, over loopback.

use std::net::SocketAddr;
use std::time::Duration;

use divan::Bencher;
use divan::counter::ItemsCount;
use ringway::testing::internal::cid::CidMask;
use ringway::testing::internal::host::clock;
use ringway::testing::internal::host::socket::SocketGroup;
use ringway::testing::internal::ring::{
    Completion, DatagramSend, Ring, RingSettings, SocketIndex, Wait,
};

use crate::pool::pool;

const SEGMENT_COUNT: usize = 45;
const SEGMENT_LEN: u16 = 1452;
/// Timeout: far longer than loopback takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(10);

fn ring() -> Ring {
    let settings = RingSettings {
        datagram_buffers: 16,
        stream_buffers: 8,
        sends_max: 16,
        streams_max: 16,
        sockets_max: 2,
        ..RingSettings::default()
    };
    Ring::new(settings, pool()).expect("io_uring is allowed here")
}

/// Adds a socket with the edge's options and starts receiving.
fn edge(ring: &mut Ring) -> (SocketIndex, SocketAddr) {
    let mask = CidMask { k1: 0, k2: 0, k3: 0 };
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let group = SocketGroup::bind(address, 1, mask);
    let mut group = group.expect("a port on loopback");
    let socket = ring.add_socket(group.sockets.remove(0)).expect("room for two sockets");
    ring.receive_datagrams(socket);
    (socket, group.address)
}

fn end(ring: Ring) {
    ring.shut_down(clock::now() + PATIENCE).expect("nothing holds the ring back");
}

/// Runs a turn in which nothing happens: one io_uring_enter call.
#[divan::bench(sample_size = 100)]
fn turn_without_work(bencher: Bencher<'_, '_>) {
    let mut ring = ring();
    edge(&mut ring);
    let mut turn_count = 0;
    bencher.bench_local(|| {
        ring.submit_and_wait(Wait::No).expect("a turn");
        turn_count += 1;
        assert!(ring.poll_completion().is_none(), "nobody knows this port");
    });
    assert!(ring.stats().enters >= turn_count, "{:?}", ring.stats());
    end(ring);
}

/// Sends a batch of 45 datagrams from one socket to another: all turns this takes, including the
/// kernel's copies. Measured per datagram.
#[divan::bench(sample_size = 1, sample_count = 1_000)]
fn batch_out_and_in(bencher: Bencher<'_, '_>) {
    let mut ring = ring();
    let (out, _) = edge(&mut ring);
    let (_, to) = edge(&mut ring);
    let mut spare = Some(Vec::with_capacity(ringway::testing::internal::limits::SLOT_LEN));
    bencher.counter(ItemsCount::new(SEGMENT_COUNT)).bench_local(|| {
        let mut buffer = spare.take().expect("the last send gave it back");
        buffer.resize(SEGMENT_COUNT * usize::from(SEGMENT_LEN), 7);
        spare = Some(carry(&mut ring, out, to, buffer));
    });
    end(ring);
}

/// Sends `buffer` and waits until all of it is received. Returns the buffer.
fn carry(ring: &mut Ring, out: SocketIndex, to: SocketAddr, buffer: Vec<u8>) -> Vec<u8> {
    let mut missing_len = buffer.len();
    let segment_len = Some(SEGMENT_LEN);
    let send = DatagramSend { buffer, destination: to, source: None, ecn: 0, segment_len };
    ring.send_datagrams(out, send).expect("one send at a time");
    let mut spare = None;
    let deadline = clock::now() + PATIENCE;
    while missing_len > 0 || spare.is_none() {
        ring.submit_and_wait(Wait::Until(deadline)).expect("a turn");
        while let Some(completion) = ring.poll_completion() {
            match completion {
                Completion::Datagrams { payload, .. } => missing_len -= payload.len(),
                Completion::Sent { buffer, .. } => spare = Some(buffer),
                other => panic!("{other:?}"),
            }
        }
        assert!(clock::now() < deadline, "{missing_len} bytes did not arrive");
    }
    spare.expect("the loop ends with it")
}
