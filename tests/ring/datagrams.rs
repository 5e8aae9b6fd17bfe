//! Datagrams: segmentation in both directions, ECN and addresses, running out of buffers, rearming.

use std::net::UdpSocket;
use std::ops::ControlFlow::{Break, Continue};
use std::os::fd::AsRawFd;
use std::time::Duration;

use bytes::BytesMut;
use ringway::testing::internal::address::EndpointAddress;
use ringway::testing::internal::pool::Pool;
use ringway::testing::internal::ring::{
    Completion, DatagramSend, LossReason, RingSettings, SendOutcome, Wait,
};

use crate::harness::{Bench, PATIENCE, padded, pattern, peer, send, settings};

/// A received bundle, as the edge socket reports it.
struct Seen {
    payload: BytesMut,
    segment_len: usize,
}

fn receive_one(bench: &mut Bench) -> Seen {
    bench.until(|_, completion| match completion {
        Completion::Datagrams { payload, segment_len, .. } => Break(Seen { payload, segment_len }),
        _ => Continue(()),
    })
}

fn lost(bench: &mut Bench) -> SendOutcome {
    bench.until(|_, completion| match completion {
        Completion::Sent { outcome, .. } => Break(outcome),
        _ => Continue(()),
    })
}

#[test]
fn a_batch_arrives_in_its_original_segments() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        for (len, segment_len) in
            [(1, 1), (1200, 1200), (1201, 1200), (64 * 1000, 1000), (65_507, 1100)]
        {
            let mut bench = Bench::new(settings());
            let (edge, _) = bench.edge(address);
            let client = peer(address);
            let bytes = pattern(len, len as u64);
            let mut batch = bench.pool.lease_vec().unwrap();
            batch.extend_from_slice(&bytes);
            let capacity = batch.capacity();
            let to = client.local_addr().unwrap();
            bench.ring.send_datagrams(edge, send(batch, to, Some(segment_len))).unwrap();
            bench.until(|_, completion| match completion {
                Completion::Sent { socket, buffer, outcome } => {
                    assert_eq!((socket, outcome), (edge, SendOutcome::Sent));
                    assert!(buffer.is_empty() && buffer.capacity() == capacity);
                    assert!(Pool::contains(buffer.as_ptr()));
                    Break(())
                }
                other => panic!("{other:?}"),
            });
            let mut buffer = [0u8; 2048];
            for expected in bytes.chunks(usize::from(segment_len)) {
                let got = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..got], expected);
            }
            assert_eq!(bench.ring.stats().gso_fallbacks, 0);
            bench.end();
        }
    }
}

/// Loopback copies zero-copy sends and the kernel reports it, so only the first batch tries zero
/// copy.
#[test]
fn zero_copy_is_disabled_when_the_device_copies() {
    let mut bench = Bench::new(settings());
    let (edge, _) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    for round in 0..3 {
        let bytes = pattern(20_000, round);
        let mut batch = bench.pool.lease_vec().unwrap();
        batch.extend_from_slice(&bytes);
        let batch = send(batch, client.local_addr().unwrap(), Some(1000));
        bench.ring.send_datagrams(edge, batch).unwrap();
        // The kernel reads the slot until its notification, which waits for the receiver.
        let mut buffer = [0u8; 2048];
        bench.ring.submit_and_wait(Wait::No).unwrap();
        for expected in bytes.chunks(1000) {
            let len = client.recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], expected);
        }
        assert_eq!(lost(&mut bench), SendOutcome::Sent);
        assert!(bench.pool.counts().in_kernel == 0);
    }
    let stats = bench.ring.stats();
    assert_eq!(stats.zero_copy_sends, 1);
    assert_eq!(stats.zero_copy_copied + stats.zero_copy_refused, 1, "{stats:?}");
    bench.end();
}

#[test]
fn coalesced_datagrams_are_received_whole_in_one_slot() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        // One ring sends with GSO so that the other's socket can coalesce with GRO.
        let mut sender = Bench::new(settings());
        let (out, from) = sender.edge(address);
        std::thread::scope(|scope| {
            let (tell, told) = std::sync::mpsc::channel();
            let receiver = scope.spawn(move || {
                let mut bench = Bench::new(settings());
                let (_, to) = bench.edge(address);
                tell.send(to).unwrap();
                let mut received = Vec::new();
                let mut bundles = 0;
                while received.len() < 3 * 60_000 {
                    let seen = bench.until(|_, completion| match completion {
                        Completion::Datagrams {
                            payload, source, destination, segment_len, ..
                        } => {
                            assert_eq!(source, from);
                            assert_eq!(destination, Some(to.ip()));
                            Break(Seen { payload, segment_len })
                        }
                        _ => Continue(()),
                    });
                    assert_eq!(seen.segment_len, 1000);
                    assert!(Pool::contains(seen.payload.as_ptr()));
                    received.extend_from_slice(&seen.payload);
                    bundles += 1;
                }
                bench.end();
                (received, bundles)
            });
            let to = told.recv().unwrap();
            let bytes = pattern(3 * 60_000, 1);
            for batch in bytes.chunks(60_000) {
                let batch = send(batch.to_vec(), to, Some(1000));
                sender.ring.send_datagrams(out, batch).unwrap();
                assert_eq!(lost(&mut sender), SendOutcome::Sent);
            }
            let (received, bundles) = receiver.join().unwrap();
            assert!(received == bytes, "the bytes differ");
            assert_eq!(bundles, 3, "each batch is one bundle");
        });
        sender.end();
    }
}

#[test]
fn a_single_datagram_reports_its_own_length() {
    let mut bench = Bench::new(settings());
    let (_, edge) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    for len in [21usize, 22, 1200, 9000, 65_507] {
        let bytes = pattern(len, len as u64);
        client.send_to(&bytes, edge).unwrap();
        let seen = receive_one(&mut bench);
        assert!(seen.payload == bytes, "{len} bytes");
        assert_eq!(seen.segment_len, len);
    }
    assert_eq!(bench.ring.stats().truncated, 0);
    bench.end();
}

/// An empty datagram ends a multishot receive, so a flood of them would cost one turn each.
#[test]
fn datagrams_too_short_for_quic_do_not_reach_the_ring() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(settings());
        let (_, edge) = bench.edge(address);
        let client = peer(address);
        bench.ring.submit_and_wait(Wait::No).unwrap();
        for round in 0..50u8 {
            for len in [0, 1, 8, 20] {
                client.send_to(&[round; 20][..len], edge).unwrap();
            }
            client.send_to(&[round; 21], edge).unwrap();
            assert_eq!(receive_one(&mut bench).payload, [round; 21].as_slice());
        }
        let stats = bench.ring.stats();
        assert_eq!((stats.empty, stats.rearms), (0, 0), "the first receive is still armed");
        bench.end();
    }
}

#[test]
fn ecn_marks_and_source_addresses_are_sent_and_received() {
    for (address, other) in [("127.0.0.1:0", "127.0.0.2:0"), ("[::1]:0", "[::1]:0")] {
        let mut bench = Bench::new(settings());
        // Bound to the unspecified address, the edge learns and chooses by packet info.
        let any = if address.starts_with('[') { "[::]:0" } else { "0.0.0.0:0" };
        let (edge, bound) = bench.edge(any);
        let target = std::net::SocketAddr::new(
            other.parse::<std::net::SocketAddr>().unwrap().ip(),
            bound.port(),
        );
        let (far, far_address) = bench.edge(address);
        for ecn in 0..4u8 {
            let mut query = send(padded(&[1, 2, 3, ecn]), target, None);
            query.ecn = ecn;
            bench.ring.send_datagrams(far, query).unwrap();
            let mut done = 0;
            bench.until(|ring, completion| match completion {
                Completion::Datagrams {
                    socket, source, destination, ecn: mark, payload, ..
                } => {
                    assert_eq!((mark, payload[3]), (ecn, ecn));
                    if socket == edge {
                        assert_eq!((source, destination), (far_address, Some(target.ip())));
                        let response = DatagramSend {
                            buffer: payload.to_vec(),
                            destination: source,
                            source: destination,
                            ecn,
                            segment_len: None,
                        };
                        ring.send_datagrams(edge, response).unwrap();
                        Continue(())
                    } else {
                        assert_eq!(
                            source, target,
                            "the reply leaves from the address it was sent to"
                        );
                        Break(())
                    }
                }
                Completion::Sent { outcome, .. } => {
                    assert_eq!(outcome, SendOutcome::Sent);
                    done += 1;
                    assert!(done <= 2);
                    Continue(())
                }
                unexpected => panic!("{unexpected:?}"),
            });
        }
        bench.end();
    }
}

#[test]
fn a_source_address_of_the_other_family_is_ignored() {
    let mut bench = Bench::new(settings());
    let (edge, address) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    let mut batch = send(vec![9], client.local_addr().unwrap(), None);
    batch.source = Some("::1".parse().unwrap());
    bench.ring.send_datagrams(edge, batch).unwrap();
    assert_eq!(lost(&mut bench), SendOutcome::Sent);
    assert_eq!(client.recv_from(&mut [0; 8]).unwrap(), (1, address));
    bench.end();
}

#[test]
fn running_out_of_slots_is_counted_and_recovered_from() {
    // The pool has 64 slots; the test keeps the received bundles until none is left.
    let mut bench = Bench::new(settings());
    let (_, edge) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    let mut held = Vec::new();
    let mut sent = 0u8;
    while bench.pool.counts().free > 0 || bench.ring.stats().no_buffers_datagrams == 0 {
        client.send_to(&padded(&[sent]), edge).unwrap();
        sent += 1;
        assert!(sent < 200, "the pool should be exhausted: {:?}", bench.pool.counts());
        held.extend(bench.linger(Duration::from_millis(2)).into_iter().filter_map(payload));
    }
    let counts = bench.ring.stats().clone();
    // No slot is provided: the ring waits and does not spin on rearming.
    assert!(bench.linger(Duration::from_millis(60)).is_empty());
    let later = bench.ring.stats().clone();
    assert_eq!(later.no_buffers_datagrams, counts.no_buffers_datagrams);
    assert!(later.enters - counts.enters <= 30, "{}", later.enters - counts.enters);
    client.send_to(&padded(&[sent]), edge).unwrap();
    sent += 1;
    // Once the slots are returned, everything that was sent arrives in order.
    let mut values: Vec<u8> = held.drain(..).map(|payload| payload[0]).collect();
    while values.len() < usize::from(sent) {
        values.push(receive_one(&mut bench).payload[0]);
    }
    assert_eq!(values, (0..sent).collect::<Vec<u8>>());
    assert!(bench.ring.stats().rearms >= 1);
    bench.end();
}

#[test]
fn a_low_pool_reserves_its_slots_for_sends() {
    let mut bench = Bench::new(settings());
    let (_, edge) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    bench.ring.submit_and_wait(Wait::No).unwrap();
    assert_eq!(bench.pool.counts().provided, 16 + 8);
    let mut leases = Vec::new();
    while !bench.pool.is_low() {
        leases.push(bench.pool.lease_vec().unwrap());
    }
    let free = bench.pool.counts().free;
    client.send_to(&padded(&[1]), edge).unwrap();
    let held = receive_one(&mut bench);
    bench.ring.submit_and_wait(Wait::No).unwrap();
    let counts = bench.pool.counts();
    assert_eq!((counts.provided, counts.free), (16 + 8 - 1, free), "not provided again yet");
    drop((leases, held));
    bench.ring.submit_and_wait(Wait::No).unwrap();
    assert_eq!(bench.pool.counts().provided, 16 + 8);
    bench.end();
}

fn payload(completion: Completion) -> Option<BytesMut> {
    match completion {
        Completion::Datagrams { payload, .. } => Some(payload),
        _ => None,
    }
}

#[test]
fn slots_freed_on_another_thread_wake_a_starving_ring() {
    let mut bench = Bench::new(settings());
    let (_, edge) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    let mut held = Vec::new();
    while bench.ring.stats().no_buffers_datagrams == 0 {
        client.send_to(&padded(&[0]), edge).unwrap();
        held.extend(bench.linger(Duration::from_millis(2)).into_iter().filter_map(payload));
    }
    client.send_to(&padded(&[1]), edge).unwrap();
    let freer = std::thread::spawn(move || drop(held));
    // No completion reports the freed slots, so `Forever` must not block here.
    let mut last = 0;
    while last != 1 {
        bench.ring.submit_and_wait(Wait::Forever).unwrap();
        while let Some(completion) = bench.ring.poll_completion() {
            last = payload(completion).map_or(last, |payload| payload[0]);
        }
    }
    freer.join().unwrap();
    bench.end();
}

#[test]
fn a_full_completion_queue_loses_nothing() {
    let settings = RingSettings {
        submission_count: 4,
        completion_count: 8,
        datagram_buffers: 32,
        ..settings()
    };
    let mut bench = Bench::new(settings);
    let (edge, address) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    bench.ring.submit_and_wait(Wait::No).unwrap();
    for round in 0..20u8 {
        for value in 0..24 {
            client.send_to(&padded(&[round, value]), address).unwrap();
        }
        // There are also more sends than the completion queue has entries.
        for value in 0..24 {
            let batch = send(vec![round, value], client.local_addr().unwrap(), None);
            bench.ring.send_datagrams(edge, batch).unwrap();
        }
        let (mut received, mut sent) = (Vec::new(), 0);
        while received.len() < 24 || sent < 24 {
            bench.until(|_, completion| {
                match completion {
                    Completion::Datagrams { payload, .. } => received.push(payload[1]),
                    Completion::Sent { outcome, .. } => {
                        assert_eq!(outcome, SendOutcome::Sent);
                        sent += 1;
                    }
                    other => panic!("{other:?}"),
                }
                Break(())
            });
        }
        assert_eq!(received, (0..24).collect::<Vec<u8>>());
        for value in 0..24 {
            let mut buffer = [0u8; 4];
            assert_eq!(client.recv(&mut buffer).unwrap(), 2);
            assert_eq!(buffer[..2], [round, value]);
        }
    }
    assert!(bench.ring.stats().cq_overflows > 0, "{:?}", bench.ring.stats());
    bench.end();
}

#[test]
fn losses_are_reported_with_their_reason() {
    let mut bench = Bench::new(settings());
    let (edge, _) = bench.edge("127.0.0.1:0");
    // A socket bound to loopback has no route to a documentation address.
    let away = "192.0.2.1:9".parse().unwrap();
    bench.ring.send_datagrams(edge, send(vec![0; 100], away, None)).unwrap();
    let outcome = lost(&mut bench);
    assert!(matches!(outcome, SendOutcome::Lost(_)), "{outcome:?}");
    // Port 0 is never a valid destination.
    let nowhere = "127.0.0.1:0".parse().unwrap();
    bench.ring.send_datagrams(edge, send(vec![0; 100], nowhere, None)).unwrap();
    assert_eq!(lost(&mut bench), SendOutcome::Lost(LossReason::Other));
    // A segmented send that the kernel refuses is tried segment by segment before it is lost.
    bench.ring.send_datagrams(edge, send(vec![0; 300], nowhere, Some(100))).unwrap();
    assert_eq!(lost(&mut bench), SendOutcome::Lost(LossReason::Other));
    let first = u64::from(outcome == SendOutcome::Lost(LossReason::Other));
    let stats = bench.ring.stats();
    assert_eq!((stats.gso_fallbacks, stats.sends_lost.other), (1, 1 + 3 + first));
    // The refusal is not remembered: the next long batch is again sent segmented and with zero
    // copy.
    let client = peer("127.0.0.1:0");
    let bytes = pattern(6_350, 3);
    let batch = send(bytes.clone(), client.local_addr().unwrap(), Some(100));
    bench.ring.send_datagrams(edge, batch).unwrap();
    bench.ring.submit_and_wait(Wait::No).unwrap();
    let mut buffer = [0u8; 256];
    for expected in bytes.chunks(100) {
        let len = client.recv(&mut buffer).unwrap();
        assert_eq!(&buffer[..len], expected);
    }
    assert_eq!(lost(&mut bench), SendOutcome::Sent);
    let stats = bench.ring.stats();
    assert_eq!((stats.gso_fallbacks, stats.zero_copy_sends), (1, 1));
    bench.end();
}

/// Sets a socket option to a number.
fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) {
    // SAFETY: `value` is live for the call and its length is given.
    let outcome = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            option,
            (&raw const value).cast(),
            size_of::<i32>() as u32,
        )
    };
    assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
}

/// From linux/udp.h: sending and receiving without checksums over IPv6.
const UDP_NO_CHECK6_TX: i32 = 101;
const UDP_NO_CHECK6_RX: i32 = 102;

/// The kernel refuses segmentation on a socket without checksums (EINVAL), as it does when the
/// device cannot compute them. The batch is resent at once, datagram by datagram.
#[test]
fn a_refused_batch_is_resent_unsegmented_and_the_refusal_is_remembered() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(settings());
        let (socket, _) = crate::harness::edge_socket(address);
        let client = peer(address);
        if address.starts_with('[') {
            set(&socket, libc::SOL_UDP, UDP_NO_CHECK6_TX, 1);
            set(&client, libc::SOL_UDP, UDP_NO_CHECK6_RX, 1);
        } else {
            set(&socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1);
        }
        let edge = bench.ring.add_socket(socket).unwrap();
        let offload = bench.ring.socket_offload();
        assert_eq!((offload.gso_on, offload.gso_off), (1, 0), "nothing is known yet");
        let bytes = pattern(64 * 500, 5);
        for round in 0..3u64 {
            let mut batch = bench.pool.lease_vec().unwrap();
            batch.extend_from_slice(&bytes);
            let batch = send(batch, client.local_addr().unwrap(), Some(500));
            bench.ring.send_datagrams(edge, batch).unwrap();
            assert_eq!(lost(&mut bench), SendOutcome::Sent, "round {round}");
            let mut buffer = [0u8; 1024];
            for expected in bytes.chunks(500) {
                let len = client.recv(&mut buffer).unwrap();
                assert_eq!(&buffer[..len], expected);
            }
            let offload = bench.ring.socket_offload();
            assert_eq!((offload.gso_on, offload.gso_off), (0, 1), "round {round}");
        }
        let stats = bench.ring.stats();
        assert_eq!((stats.gso_fallbacks, &stats.sends_lost), (1, &Default::default()));
        bench.end();
    }
}

/// On a socket without GRO, the datagrams of one batch are received separately.
#[test]
fn without_coalescing_each_datagram_is_received_separately() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(RingSettings { datagram_buffers: 32, ..settings() });
        let (socket, to) = crate::harness::edge_socket(address);
        set(&socket, libc::SOL_UDP, libc::UDP_GRO, 0);
        let plain = bench.ring.add_socket(socket).unwrap();
        bench.ring.receive_datagrams(plain);
        let (out, from) = bench.edge(address);
        let offload = bench.ring.socket_offload();
        assert_eq!((offload.gro_on, offload.gro_off), (1, 1));
        let bytes = pattern(20 * 1000 + 70, 9);
        bench.ring.send_datagrams(out, send(bytes.clone(), to, Some(1000))).unwrap();
        let mut expected = bytes.chunks(1000);
        bench.until(|_, completion| {
            let Completion::Datagrams { socket, payload, source, segment_len, .. } = completion
            else {
                return Continue(());
            };
            assert_eq!((socket, source, segment_len), (plain, from, payload.len()));
            assert_eq!(Some(&payload[..]), expected.next());
            if expected.len() == 0 { Break(()) } else { Continue(()) }
        });
        assert_eq!(bench.ring.stats().truncated, 0);
        bench.end();
    }
}

#[test]
fn batches_beyond_the_configured_maximum_are_refused() {
    let mut bench = Bench::new(RingSettings { sends_max: 2, ..settings() });
    let (edge, _) = bench.edge("127.0.0.1:0");
    let client = peer("127.0.0.1:0");
    let to = client.local_addr().unwrap();
    for _ in 0..2 {
        bench.ring.send_datagrams(edge, send(vec![1], to, None)).unwrap();
    }
    let (_, given_back) = bench.ring.send_datagrams(edge, send(vec![2, 3], to, None)).unwrap_err();
    assert_eq!(given_back.buffer, [2, 3]);
    assert_eq!(lost(&mut bench), SendOutcome::Sent);
    bench.ring.send_datagrams(edge, given_back).unwrap();
    bench.end();
}

#[test]
fn a_wait_ends_at_its_deadline_or_on_a_wake_up() {
    use std::io::Write;
    use std::sync::Arc;
    let mut bench = Bench::new(settings());
    let start = ringway::testing::internal::host::clock::now();
    let wait = Duration::from_millis(30);
    bench.ring.submit_and_wait(Wait::Until(start + wait)).unwrap();
    let waited = start.elapsed();
    assert!(waited >= wait && waited < PATIENCE, "{waited:?}");
    bench.ring.submit_and_wait(Wait::Until(start)).unwrap();
    bench.ring.submit_and_wait(Wait::No).unwrap();
    let wake = Arc::new(ringway::testing::internal::host::eventfd::eventfd().unwrap());
    bench.ring.watch_wake(Arc::clone(&wake));
    for _ in 0..3 {
        let waker = Arc::clone(&wake);
        let thread = std::thread::spawn(move || (&*waker).write_all(&1u64.to_ne_bytes()).unwrap());
        bench.ring.submit_and_wait(Wait::Forever).unwrap();
        assert!(matches!(bench.ring.poll_completion(), Some(Completion::Woken)));
        assert!(bench.ring.poll_completion().is_none());
        thread.join().unwrap();
    }
    assert!(bench.linger(Duration::from_millis(20)).is_empty(), "each write is reported once");
    // Added only so that a ring with streams is shut down too.
    let nobody = EndpointAddress::Unix("/nonexistent/ringway.sock".into());
    bench.ring.connect(1, &nobody, None).unwrap();
    bench.end();
}
