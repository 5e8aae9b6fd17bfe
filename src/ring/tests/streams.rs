//! Streams: short writes, receives into several slots, running out of slots, closing.

use super::*;
use crate::limits::RECEIVE_SLOT_COUNT_MAX;

#[test]
fn short_writes_are_continued_where_they_ended() {
    // The kernel sees the bytes that the vectors offer and takes 1 to 977 of them at a time.
    let mut bench = Bench::new();
    let key = bench.stream(5);
    let bytes: Vec<u8> = (0..20_000u32).map(|value| (value * 7 % 251) as u8).collect();
    let pieces: Vec<Bytes> =
        bytes.chunks(131).map(Bytes::copy_from_slice).chain([Bytes::new()]).collect();
    bench.machine.write(key, pieces).unwrap();
    let (mut got, mut step) = (Vec::new(), 1);
    loop {
        let write = bench.submitted_write();
        let offered = bench.machine.offered(write);
        assert!(bytes[got.len()..].starts_with(&offered) && !offered.is_empty());
        let taken = step.min(offered.len());
        got.extend_from_slice(&offered[..taken]);
        step = step * 5 % 977 + 1;
        if step % 3 == 0 {
            assert!(bench.fails(write, libc::EINTR).is_none());
            assert_eq!(bench.submitted_write(), write);
        }
        match bench.event(write, taken as i32, 0) {
            None => assert!(got.len() < bytes.len()),
            Some(Completion::Wrote { tag: 5, len: 20_000, outcome: Ok(()) }) => break,
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(got, bytes);
    bench.close_idle(key);
    bench.assert_idle();
}

#[test]
fn a_write_that_makes_no_progress_fails() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    for (result, expected) in [
        (0, StreamError::BrokenPipe),
        (-libc::EPIPE, StreamError::BrokenPipe),
        (-libc::ECONNRESET, StreamError::Reset),
        (-libc::ETIMEDOUT, StreamError::TimedOut),
    ] {
        bench.machine.write(key, vec![Bytes::from_static(b"abc")]).unwrap();
        let write = bench.one_submitted(opcode::Send::CODE);
        assert!(bench.event(write, 2, 0).is_none());
        let write = bench.one_submitted(opcode::Send::CODE);
        match bench.event(write, result, 0) {
            Some(Completion::Wrote { tag: 5, len: 2, outcome }) => {
                assert_eq!(outcome, Err(expected));
            }
            other => panic!("{other:?}"),
        }
    }
    bench.close_idle(key);
    bench.assert_idle();
}

#[test]
fn a_write_refused_for_lack_of_memory_is_retried_after_a_pause() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    bench.machine.write(key, vec![Bytes::from_static(b"abc")]).unwrap();
    let write = bench.one_submitted(opcode::Send::CODE);
    assert!(bench.event(write, 1, 0).is_none());
    bench.submitted();
    for errno in [libc::ENOBUFS, libc::ENOMEM] {
        assert!(bench.fails(write, errno).is_none());
        assert_eq!(bench.one_submitted(opcode::Timeout::CODE), write);
        assert!(bench.fails(write, libc::ETIME).is_none());
        assert_eq!(bench.one_submitted(opcode::Send::CODE), write);
        assert_eq!(bench.machine.offered(write), b"bc", "nothing is lost or duplicated");
    }
    // Closed during the pause: the timer is cancelled and nothing more is written.
    assert!(bench.fails(write, libc::ENOBUFS).is_none());
    assert_eq!(bench.one_submitted(opcode::Timeout::CODE), write);
    bench.machine.close(key);
    assert_eq!(bench.one_submitted(opcode::AsyncCancel::CODE), CANCEL);
    assert!(bench.fails(write, libc::ECANCELED).is_none());
    let close = bench.one_submitted(opcode::Close::CODE);
    assert!(matches!(bench.event(close, 0, 0), Some(Completion::Closed { tag: 5 })));
    bench.assert_idle();
}

/// Returns a stream for which the kernel has more bytes than its last receive took.
fn with_more_to_receive() -> (Bench, StreamKey) {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    let id = u32::from(bench.machine.stream_buffers.first_id());
    bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
    let first = bench.one_submitted(opcode::Recv::CODE);
    assert!(bench.event(first, 10, F_BUFFER | F_SOCK_NONEMPTY | id << 16).is_some());
    (bench, key)
}

/// The kernel reports more bytes than one slot holds: the next receive fills several slots, and
/// each is reported, the last one marked as such. Slots that stay empty are freed.
#[test]
fn a_receive_fills_as_many_slots_as_there_are_bytes_for() {
    for (len, pieces) in [(1, 1), (SLOT_LEN, 1), (2 * SLOT_LEN + 1, 3), (4 * SLOT_LEN, 4)] {
        let (mut bench, key) = with_more_to_receive();
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        let scatter = bench.one_submitted(opcode::RecvMsg::CODE);
        let mut next = bench.event(scatter, len as i32, 0);
        let mut seen = Vec::new();
        while let Some(completion) = next {
            match completion {
                Completion::Received { tag: 5, outcome: ReceiveOutcome::Part(bytes) } => {
                    seen.push((bytes.len(), false));
                }
                Completion::Received { tag: 5, outcome: ReceiveOutcome::Bytes(bytes) } => {
                    seen.push((bytes.len(), true));
                }
                other => panic!("{other:?}"),
            }
            next = bench.machine.ready.pop_front();
        }
        assert_eq!(seen.iter().map(|(len, _)| len).sum::<usize>(), len);
        let lasts: Vec<bool> = seen.iter().map(|(_, is_last)| *is_last).collect();
        assert_eq!(lasts, (1..=pieces).map(|place| place == pieces).collect::<Vec<_>>());
        // No more bytes are known to be available: the next receive waits with a provided slot.
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        let last = bench.one_submitted(opcode::Recv::CODE);
        assert!(matches!(bench.event(last, 0, 0), Some(Completion::Received { .. })));
        bench.close_idle(key);
        bench.assert_idle();
    }
}

#[test]
fn a_receive_fills_no_more_slots_than_it_was_asked_for() {
    for count in 1..=RECEIVE_SLOT_COUNT_MAX {
        let (mut bench, key) = with_more_to_receive();
        let free = bench.pool.counts().free;
        bench.machine.receive(key, count);
        // One slot is a provided one.
        let code = if count == 1 { opcode::Recv::CODE } else { opcode::RecvMsg::CODE };
        let receive = bench.one_submitted(code);
        let taken = if count == 1 { 0 } else { count as u32 };
        assert_eq!(free - bench.pool.counts().free, taken);
        assert!(bench.event(receive, 0, 0).is_some());
        bench.close_idle(key);
        bench.assert_idle();
    }
}

/// They belong to no group: only the pool's low-water mark bounds them.
#[test]
fn several_slots_are_taken_only_while_the_pool_is_not_low() {
    for (above, taken) in [(0, 1), (1, 2), (2, 3), (9, 4)] {
        let (mut bench, key) = with_more_to_receive();
        let low_water = bench.pool.plan().low_water();
        let mut others = Vec::new();
        while bench.pool.counts().free > low_water + above {
            others.push(bench.pool.lease_vec().unwrap());
        }
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        let scatter = bench.one_submitted(opcode::RecvMsg::CODE);
        assert_eq!(bench.pool.counts().free, low_water + above - taken, "{above} above");
        // The pool is low now: the available bytes wait for a provided slot.
        assert_eq!(bench.pool.is_low(), above < 4);
        drop(bench.event(scatter, 10, F_SOCK_NONEMPTY));
        others.extend(std::iter::from_fn(|| {
            (!bench.pool.is_low()).then(|| bench.pool.lease_vec().unwrap())
        }));
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        let last = bench.one_submitted(opcode::Recv::CODE);
        assert!(bench.event(last, 0, 0).is_some());
        drop(others);
        bench.close_idle(key);
        bench.assert_idle();
    }
}

#[test]
fn several_slots_come_back_when_nothing_fills_them() {
    for errno in [libc::EAGAIN, libc::ECONNRESET, libc::ECANCELED] {
        let (mut bench, key) = with_more_to_receive();
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        let scatter = bench.one_submitted(opcode::RecvMsg::CODE);
        match bench.fails(scatter, errno) {
            // The bytes were not available after all: a waiting receive takes over.
            None => {
                let receive = bench.one_submitted(opcode::Recv::CODE);
                assert!(bench.event(receive, 0, 0).is_some());
            }
            Some(Completion::Received { outcome: ReceiveOutcome::Failed(_), .. }) => {
                assert_ne!(errno, libc::EAGAIN);
            }
            other => panic!("{other:?}"),
        }
        bench.close_idle(key);
        bench.assert_idle();
    }
}

/// A stream may be closed before the completions of a receive into several slots, or of an empty
/// write, have been taken.
#[test]
fn completions_not_yet_taken_are_dropped_by_a_close() {
    let mut bench = Bench::new();
    let (key, other) = (bench.stream(5), bench.stream(6));
    let id = u32::from(bench.machine.stream_buffers.first_id());
    bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
    let first = bench.one_submitted(opcode::Recv::CODE);
    drop(bench.event(first, 10, F_BUFFER | F_SOCK_NONEMPTY | id << 16));
    bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
    let scatter = bench.one_submitted(opcode::RecvMsg::CODE);
    let part = bench.event(scatter, 3 * SLOT_LEN as i32, 0);
    assert!(matches!(part, Some(Completion::Received { outcome: ReceiveOutcome::Part(_), .. })));
    bench.machine.write(key, Vec::new()).unwrap();
    bench.machine.write(other, Vec::new()).unwrap();
    drop(part);
    bench.close_idle(key);
    let left = bench.machine.ready.pop_front();
    assert!(matches!(left, Some(Completion::Wrote { tag: 6, .. })), "{left:?}");
    assert!(bench.machine.ready.is_empty());
    bench.close_idle(other);
    bench.assert_idle();
}

#[test]
fn the_end_of_a_stream_frees_its_slot() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    let first = bench.machine.stream_buffers.first_id();
    for flags in [0, F_BUFFER | u32::from(first) << 16] {
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        let receive = bench.one_submitted(opcode::Recv::CODE);
        match bench.event(receive, 0, flags) {
            Some(Completion::Received { tag: 5, outcome: ReceiveOutcome::End }) => {}
            other => panic!("{other:?}"),
        }
    }
    bench.close_idle(key);
    bench.assert_idle();
}

#[test]
fn a_receive_without_slots_waits_for_the_next_turn() {
    let mut bench = Bench::new();
    let (one, two) = (bench.stream(1), bench.stream(2));
    bench.machine.receive(one, RECEIVE_SLOT_COUNT_MAX);
    bench.machine.receive(two, RECEIVE_SLOT_COUNT_MAX);
    let receives = bench.submitted();
    for &(_, receive) in &receives {
        assert!(bench.fails(receive, libc::ENOBUFS).is_none());
    }
    assert!(bench.submitted().is_empty(), "not before slots are provided");
    // One is closed while it waits: it is not rearmed.
    bench.close_idle(one);
    bench.machine.replenish();
    let again = bench.one_submitted(opcode::Recv::CODE);
    assert_eq!(bench.machine.stats.no_buffers_streams, 2);
    match bench.fails(again, libc::ECONNRESET) {
        Some(Completion::Received { tag: 2, outcome }) => {
            assert_eq!(outcome, ReceiveOutcome::Failed(StreamError::Reset));
        }
        other => panic!("{other:?}"),
    }
    bench.close_idle(two);
    bench.assert_idle();
}

#[test]
fn a_close_that_the_kernel_refuses_is_counted_and_ends_the_stream() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    bench.machine.close(key);
    let close = bench.one_submitted(opcode::Close::CODE);
    let closed = bench.fails(close, libc::EIO);
    assert!(matches!(closed, Some(Completion::Closed { tag: 5 })), "{closed:?}");
    assert_eq!(bench.machine.stats.closes_failed, 1);
    bench.assert_idle();
    // The place is free for the next stream, whose close succeeds.
    let key = bench.stream(6);
    bench.close_idle(key);
    assert_eq!(bench.machine.stats.closes_failed, 1);
    bench.assert_idle();
}

/// The reset waits for the operations in flight, and the descriptor is closed behind it, whatever
/// the kernel thinks of the reset.
#[test]
fn a_reset_comes_before_the_close() {
    for result in [0, -libc::ENOTCONN] {
        let mut bench = Bench::new();
        let key = bench.stream(5);
        bench.machine.receive(key, 1);
        let receive = bench.one_submitted(opcode::Recv::CODE);
        bench.machine.reset(key);
        assert_eq!(bench.one_submitted(opcode::AsyncCancel::CODE), CANCEL);
        assert!(bench.fails(receive, libc::ECANCELED).is_none());
        let reset = bench.one_submitted(opcode::Connect::CODE);
        assert!(bench.event(reset, result, 0).is_none());
        let close = bench.one_submitted(opcode::Close::CODE);
        assert!(matches!(bench.event(close, 0, 0), Some(Completion::Closed { tag: 5 })));
        bench.assert_idle();
    }
}

#[test]
fn a_closing_stream_reports_nothing_but_its_close_in_every_order() {
    // A receive with bytes, a short write and the completions of both cancels, in all orders.
    let orders = (0..24usize).map(|mut number| {
        let mut rest = vec![0, 1, 2, 3];
        (1..=4usize).rev().map(|len| rest.remove((number % len, number /= len).0)).collect()
    });
    for order in orders {
        let order: Vec<usize> = order;
        let mut bench = Bench::new();
        let key = bench.stream(5);
        bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
        bench.machine.write(key, vec![Bytes::from_static(b"abc")]).unwrap();
        let begun = bench.submitted();
        bench.machine.close(key);
        let cancels = bench.submitted();
        assert_eq!(cancels, [(opcode::AsyncCancel::CODE, CANCEL); 2]);
        let id = u32::from(bench.machine.stream_buffers.first_id());
        let events = [
            (begun[0].1, 10, F_BUFFER | id << 16),
            (begun[1].1, 1, 0),
            (CANCEL, -libc::EALREADY, 0),
            (CANCEL, 0, 0),
        ];
        for &place in &order {
            let (user_data, result, flags) = events[place];
            assert!(bench.event(user_data, result, flags).is_none(), "{order:?}");
        }
        let close = bench.one_submitted(opcode::Close::CODE);
        assert!(matches!(bench.event(close, 0, 0), Some(Completion::Closed { tag: 5 })));
        bench.assert_idle();
    }
}
