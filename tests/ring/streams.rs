//! Streams: connecting, receiving on request, long writes, closing in every state.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::ops::ControlFlow::{Break, Continue};
use std::os::unix::net::UnixListener;
use std::time::Duration;

use bytes::Bytes;
use ringway::testing::internal::address::EndpointAddress;
use ringway::testing::internal::host::clock;
use ringway::testing::internal::limits::{
    GATHER_COUNT_MIN, RECEIVE_SLOT_COUNT_MAX, RING_THREADS_MAX,
};
use ringway::testing::internal::pool::Pool;
use ringway::testing::internal::ring::{
    Completion, ConnectError, Full, ReceiveOutcome, RingSettings, StreamError, StreamKey, Wait,
};

use crate::harness::{Bench, PATIENCE, pattern, settings};

const TAG: u64 = 0xfeed_0000_0000_0001;

/// Returns a connected stream and its peer.
fn connected(bench: &mut Bench) -> (StreamKey, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = EndpointAddress::Tcp(listener.local_addr().unwrap());
    let key = bench.ring.connect(TAG, &address, None).unwrap();
    assert_eq!(connect_outcome(bench), Ok(()));
    let (far, _) = listener.accept().unwrap();
    far.set_read_timeout(Some(PATIENCE)).unwrap();
    (key, far)
}

fn connect_outcome(bench: &mut Bench) -> Result<(), ConnectError> {
    bench.until(|_, completion| match completion {
        Completion::Connected { tag: TAG, outcome } => Break(outcome),
        other => panic!("{other:?}"),
    })
}

fn receive_outcome(bench: &mut Bench) -> ReceiveOutcome {
    bench.until(|_, completion| match completion {
        Completion::Received { tag: TAG, outcome } => Break(outcome),
        other => panic!("{other:?}"),
    })
}

fn close(bench: &mut Bench, key: StreamKey) {
    bench.ring.close(key);
    bench.until(|_, completion| match completion {
        Completion::Closed { tag: TAG } => Break(()),
        other => panic!("only the close may be reported: {other:?}"),
    });
    assert_eq!(bench.ring.stats().late, 0);
}

/// After a busy turn the next one waits for several events, but not for long.
#[test]
fn a_single_event_after_a_burst_is_not_delayed() {
    let mut bench = Bench::new(settings());
    let mut pairs: Vec<_> = (0..2 * GATHER_COUNT_MIN).map(|_| connected(&mut bench)).collect();
    for _ in 0..3 {
        for (key, _) in &pairs {
            bench.ring.write(*key, vec![Bytes::from_static(b"burst")]).unwrap();
        }
        let mut left = pairs.len();
        bench.until(|_, completion| {
            assert!(matches!(completion, Completion::Wrote { outcome: Ok(()), .. }));
            left -= 1;
            if left == 0 { Break(()) } else { Continue(()) }
        });
        let (key, far) = &mut pairs[0];
        bench.ring.receive(*key, RECEIVE_SLOT_COUNT_MAX);
        bench.ring.submit_and_wait(Wait::No).unwrap();
        far.write_all(b".").unwrap();
        let began = clock::now();
        let outcome = receive_outcome(&mut bench);
        assert!(matches!(&outcome, ReceiveOutcome::Bytes(bytes) if bytes[..] == *b"."));
        assert!(began.elapsed() < Duration::from_secs(1), "one event is enough");
    }
}

#[test]
fn bytes_are_sent_and_received_over_tcp() {
    for address in ["127.0.0.1:0", "[::1]:0"] {
        let mut bench = Bench::new(settings());
        let listener = TcpListener::bind(address).unwrap();
        let to = EndpointAddress::Tcp(listener.local_addr().unwrap());
        let key = bench.ring.connect(TAG, &to, None).unwrap();
        assert_eq!(connect_outcome(&mut bench), Ok(()));
        let (mut far, _) = listener.accept().unwrap();

        let pieces = vec![Bytes::from_static(b"one "), Bytes::new(), Bytes::from_static(b"two")];
        bench.ring.write(key, pieces).unwrap();
        bench.until(|_, completion| match completion {
            Completion::Wrote { tag: TAG, len: 7, outcome: Ok(()) } => Break(()),
            other => panic!("{other:?}"),
        });
        let mut got = [0u8; 7];
        far.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"one two");

        bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
        far.write_all(b"back").unwrap();
        match receive_outcome(&mut bench) {
            ReceiveOutcome::Bytes(bytes) => {
                assert_eq!(bytes, b"back".as_slice());
                assert!(Pool::contains(bytes.as_ptr()));
            }
            other => panic!("{other:?}"),
        }
        drop(far);
        bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
        assert_eq!(receive_outcome(&mut bench), ReceiveOutcome::End);
        close(&mut bench, key);
        bench.end();
    }
}

#[test]
fn bulk_data_is_received_complete_and_in_order_into_several_slots() {
    const LEN: usize = 24 << 20;
    let mut bench = Bench::new(settings());
    let (key, mut far) = connected(&mut bench);
    let byte_at = |index: usize| (index * 31 % 251) as u8;
    let sender = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..LEN).map(byte_at).collect();
        far.write_all(&bytes).unwrap();
    });
    let (mut got_len, mut part_count) = (0, 0);
    while got_len < LEN {
        bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
        loop {
            let (bytes, is_last) = match receive_outcome(&mut bench) {
                ReceiveOutcome::Bytes(bytes) => (bytes, true),
                ReceiveOutcome::Part(bytes) => (bytes, false),
                other => panic!("{other:?}"),
            };
            part_count += usize::from(!is_last);
            let expected = (got_len..got_len + bytes.len()).map(byte_at);
            assert!(
                bytes.iter().copied().eq(expected),
                "bytes differ within {} from {got_len}",
                bytes.len()
            );
            got_len += bytes.len();
            if is_last {
                break;
            }
        }
    }
    assert!(part_count > 0, "the kernel had more than one slot holds, at least once");
    sender.join().unwrap();
    bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
    assert_eq!(receive_outcome(&mut bench), ReceiveOutcome::End);
    close(&mut bench, key);
    bench.end();
}

#[test]
fn bytes_are_sent_and_received_over_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("upstream.sock");
    let listener = UnixListener::bind(&path).unwrap();
    let mut bench = Bench::new(settings());
    let key = bench.ring.connect(TAG, &EndpointAddress::Unix(path), None).unwrap();
    assert_eq!(connect_outcome(&mut bench), Ok(()));
    let (mut far, _) = listener.accept().unwrap();
    far.write_all(b"hello").unwrap();
    bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
    let outcome = receive_outcome(&mut bench);
    assert!(matches!(&outcome, ReceiveOutcome::Bytes(bytes) if bytes == "hello"), "{outcome:?}");
    drop(outcome);
    close(&mut bench, key);
    assert_eq!(far.read(&mut [0; 1]).unwrap(), 0, "the far end sees the close");
    bench.end();
}

#[test]
fn connect_errors_are_distinguished() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file");
    std::fs::write(&file, "").unwrap();
    let dead = directory.path().join("dead");
    drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let cases = [
        (EndpointAddress::Tcp(free), ConnectError::Refused),
        (EndpointAddress::Unix(directory.path().join("none")), ConnectError::NotFound),
        (EndpointAddress::Unix(file), ConnectError::Refused),
        (EndpointAddress::Unix(directory.path().to_owned()), ConnectError::Refused),
        (EndpointAddress::Unix(dead), ConnectError::Refused),
        (EndpointAddress::Unix("x".repeat(200).into()), ConnectError::NotFound),
    ];
    let mut bench = Bench::new(settings());
    for (address, expected) in cases {
        let key = bench.ring.connect(TAG, &address, None).unwrap();
        assert_eq!(connect_outcome(&mut bench), Err(expected), "{address:?}");
        close(&mut bench, key);
    }
    bench.end();
}

#[test]
fn a_long_write_to_a_slow_reader_completes() {
    let mut bench = Bench::new(settings());
    let (key, mut far) = connected(&mut bench);
    // 200 pieces of odd lengths, more than one vectored write takes.
    let bytes = Bytes::from(pattern(12_345_678, 1));
    let mut rest = bytes.clone();
    let mut pieces = Vec::new();
    while !rest.is_empty() {
        pieces.push(rest.split_to(rest.len().min(61_733)));
    }
    assert!(pieces.len() > 128);
    bench.ring.write(key, pieces).unwrap();
    let (_, given_back) = bench.ring.write(key, vec![Bytes::from_static(b"x")]).unwrap_err();
    assert_eq!(given_back, ["x"]);
    let reader = std::thread::spawn(move || {
        let mut got = Vec::new();
        let mut piece = vec![0u8; 100_000];
        while got.len() < 12_345_678 {
            let len = far.read(&mut piece).unwrap();
            got.extend_from_slice(&piece[..len]);
            std::thread::park_timeout(Duration::from_micros(500));
        }
        got
    });
    bench.until(|_, completion| match completion {
        Completion::Wrote { tag: TAG, len, outcome } => {
            assert_eq!((len, outcome), (12_345_678, Ok(())));
            Break(())
        }
        other => panic!("{other:?}"),
    });
    assert!(bytes == reader.join().unwrap(), "the bytes differ");
    assert!(bytes.is_unique(), "the ring released every piece");
    close(&mut bench, key);
    bench.end();
}

#[test]
fn a_broken_stream_is_reported_once_per_direction() {
    let mut bench = Bench::new(settings());
    let (key, far) = connected(&mut bench);
    bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
    bench.ring.write(key, vec![Bytes::from(vec![0; 50 << 20])]).unwrap();
    // Closing with unread bytes resets.
    bench.linger(Duration::from_millis(20));
    drop(far);
    let (mut received, mut wrote) = (None, None);
    bench.until(|_, completion| {
        match completion {
            Completion::Received { tag: TAG, outcome } => received = Some(outcome),
            Completion::Wrote { tag: TAG, len, outcome } => wrote = Some((len, outcome)),
            other => panic!("{other:?}"),
        }
        if received.is_some() && wrote.is_some() { Break(()) } else { Continue(()) }
    });
    let (len, outcome) = wrote.unwrap();
    assert!(len > 0 && len < 50 << 20, "{len}");
    assert!(matches!(outcome, Err(StreamError::Reset | StreamError::BrokenPipe)), "{outcome:?}");
    let received = received.unwrap();
    let reset = ReceiveOutcome::Failed(StreamError::Reset);
    assert!(received == reset || received == ReceiveOutcome::End, "{received:?}");
    close(&mut bench, key);
    bench.end();
}

#[test]
fn closing_a_stream_ends_every_operation_in_flight() {
    let mut bench = Bench::new(settings());
    // A waiting receive, a stuck write, both, neither; and a write that was never submitted.
    for (receive, write, submitted) in [
        (true, false, true),
        (false, true, true),
        (true, true, true),
        (false, false, true),
        (true, true, false),
    ] {
        let (key, mut far) = connected(&mut bench);
        let held = Bytes::from(vec![7; 50 << 20]);
        if receive {
            bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
        }
        if write {
            bench.ring.write(key, vec![held.clone()]).unwrap();
        }
        if submitted {
            assert!(bench.linger(Duration::from_millis(5)).is_empty());
        }
        close(&mut bench, key);
        assert!(held.is_unique(), "the ring released the pieces");
        let mut all = Vec::new();
        let _ = far.read_to_end(&mut all);
        assert!(all.len() < 50 << 20);
        // The key is dead, even when its index has been given to a new stream.
        let stale = bench.ring.stats().stale_keys;
        let (newer, _far) = connected(&mut bench);
        bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
        bench.ring.close(key);
        bench.ring.write(key, vec![held.clone()]).unwrap();
        assert_eq!(bench.ring.stats().stale_keys, stale + 3);
        assert!(bench.linger(Duration::from_millis(5)).is_empty());
        close(&mut bench, newer);
    }
    bench.end();
}

#[test]
fn bytes_that_arrive_while_closing_are_discarded() {
    let mut bench = Bench::new(settings());
    let (key, mut far) = connected(&mut bench);
    bench.ring.receive(key, RECEIVE_SLOT_COUNT_MAX);
    bench.linger(Duration::from_millis(5));
    far.write_all(b"too late").unwrap();
    // The kernel has finished the receive, but its completion is not yet taken when the stream is
    // closed.
    close(&mut bench, key);
    bench.end();
}

#[test]
fn a_connect_that_hangs_can_be_closed() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // SAFETY: takes two integers; the descriptor is live.
    let outcome = unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) };
    assert_eq!(outcome, 0);
    // Fill the backlog, so that a further connect gets no response.
    let mut bench = Bench::new(settings());
    let mut keys = Vec::new();
    for tag in 0..8 {
        keys.push((tag, bench.ring.connect(tag, &EndpointAddress::Tcp(address), None).unwrap()));
    }
    let answered = bench.linger(Duration::from_millis(50));
    assert!(answered.len() < keys.len(), "some must hang: {answered:?}");
    let mut open: Vec<u64> = keys.iter().map(|&(tag, _)| tag).collect();
    for (_, key) in keys {
        bench.ring.close(key);
    }
    bench.until(|_, completion| match completion {
        Completion::Closed { tag } => {
            open.retain(|&other| other != tag);
            if open.is_empty() { Break(()) } else { Continue(()) }
        }
        other => panic!("{other:?}"),
    });
    bench.end();
}

#[test]
fn hanging_unix_socket_connects_occupy_few_threads_and_block_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let full = directory.path().join("full.sock");
    let listener = UnixListener::bind(&full).unwrap();
    // SAFETY: takes two integers; the descriptor is live.
    let outcome = unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) };
    assert_eq!(outcome, 0);
    let well = directory.path().join("well.sock");
    let _well = UnixListener::bind(&well).unwrap();
    let mut bench = Bench::new(RingSettings { streams_max: 512, ..settings() });
    for tag in 0..300 {
        bench.ring.connect(tag, &EndpointAddress::Unix(full.clone()), None).unwrap();
    }
    bench.linger(Duration::from_millis(700));
    let threads = kernel_threads();
    assert!((1..=RING_THREADS_MAX).contains(&threads), "{threads} of them wait");
    bench.ring.connect(1000, &EndpointAddress::Unix(well), None).unwrap();
    bench.until(|_, completion| match completion {
        Completion::Connected { tag: 1000, outcome: Ok(()) } => Break(()),
        other => panic!("{other:?}"),
    });
    bench.end();
}

/// Returns the number of kernel threads that wait on operations of the calling thread's rings.
fn kernel_threads() -> u32 {
    // SAFETY: takes no argument.
    let name = format!("iou-wrk-{}\n", unsafe { libc::gettid() });
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|comm| *comm == name).count() as u32
}

#[test]
fn a_connect_that_hangs_on_a_unix_socket_can_be_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("full.sock");
    let listener = UnixListener::bind(&path).unwrap();
    // SAFETY: takes two integers; the descriptor is live.
    let outcome = unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 0) };
    assert_eq!(outcome, 0);
    let mut bench = Bench::new(settings());
    let keys: Vec<_> = (0..6)
        .map(|tag| bench.ring.connect(tag, &EndpointAddress::Unix(path.clone()), None).unwrap())
        .collect();
    let answered = bench.linger(Duration::from_millis(50));
    assert!(answered.len() < keys.len(), "some must hang: {answered:?}");
    for &key in &keys {
        bench.ring.close(key);
    }
    let mut closed = 0;
    bench.until(|_, completion| match completion {
        Completion::Closed { .. } => {
            closed += 1;
            if closed == keys.len() { Break(()) } else { Continue(()) }
        }
        other => panic!("{other:?}"),
    });
    bench.end();
}

#[test]
fn streams_beyond_the_configured_maximum_are_refused() {
    let mut bench = Bench::new(settings());
    let nobody = EndpointAddress::Unix("/nonexistent/ringway.sock".into());
    let keys: Vec<_> = (0..64).map(|tag| bench.ring.connect(tag, &nobody, None).unwrap()).collect();
    assert_eq!(bench.ring.connect(64, &nobody, None), Err(Full));
    bench.ring.close(keys[5]);
    let mut closed = 0;
    bench.until(|_, completion| match completion {
        Completion::Closed { tag: 5 } => Break(()),
        Completion::Connected { outcome: Err(ConnectError::NotFound), .. } => {
            closed += 1;
            Continue(())
        }
        other => panic!("{other:?}"),
    });
    assert!(closed >= 63);
    bench.ring.connect(64, &nobody, None).unwrap();
    bench.end();
}

#[test]
fn streams_without_slots_wait_for_them() {
    let mut bench = Bench::new(settings());
    let mut ends: Vec<_> = (0..16).map(|_| connected(&mut bench)).collect();
    let mut held = Vec::new();
    let mut rounds = 0;
    // The datagram group holds its 16 of 64 slots; the streams take all the others.
    while bench.pool.counts().free > 0 {
        for (key, far) in &mut ends {
            far.write_all(b"0123456789").unwrap();
            bench.ring.receive(*key, RECEIVE_SLOT_COUNT_MAX);
        }
        held.extend(bench.linger(Duration::from_millis(10)));
        rounds += 1;
        assert!(rounds < 10, "{:?}", bench.pool.counts());
    }
    assert!(held.len() >= 40, "{}", held.len());
    for (key, far) in &mut ends {
        far.write_all(b"0123456789").unwrap();
        bench.ring.receive(*key, RECEIVE_SLOT_COUNT_MAX);
    }
    held.extend(bench.linger(Duration::from_millis(10)));
    let enters = bench.ring.stats().enters;
    let waited = bench.ring.stats().no_buffers_streams;
    held.extend(bench.linger(Duration::from_millis(50)));
    assert!(bench.ring.stats().enters - enters <= 40, "the ring must not spin");
    assert_eq!(bench.ring.stats().no_buffers_streams, waited);
    // Datagrams still get their slots.
    assert_eq!(bench.pool.counts().provided, 16);
    held.clear();
    let mut len = 0;
    let deadline = clock::now() + PATIENCE;
    let asked = 16;
    while len < asked && clock::now() < deadline {
        let seen = bench.linger(Duration::from_millis(10));
        len += seen.iter().filter(|seen| matches!(seen, Completion::Received { .. })).count();
    }
    assert!(len >= asked, "{len} of {asked} receives continued");
    for (_, far) in &ends {
        let _ = far.shutdown(Shutdown::Both);
    }
    bench.end();
}
