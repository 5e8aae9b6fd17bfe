//! Sends and datagram receives: refusals, retries, zero-copy sends, stray completions.

use super::*;

#[test]
fn a_send_is_repeated_until_the_kernel_takes_it() {
    let mut bench = Bench::new();
    bench.send(300);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    for errno in [libc::EAGAIN, libc::EINTR, libc::EAGAIN] {
        assert!(bench.fails(key, errno).is_none());
        assert_eq!(bench.one_submitted(opcode::SendMsg::CODE), key);
    }
    for _ in 0..3 {
        assert!(bench.fails(key, libc::ENOBUFS).is_none());
        // It pauses first, so as not to spin on a kernel without memory.
        assert_eq!(bench.one_submitted(opcode::Timeout::CODE), key);
        assert!(bench.fails(key, libc::ETIME).is_none());
        assert_eq!(bench.one_submitted(opcode::SendMsg::CODE), key);
    }
    assert_sent(bench.event(key, 300, 0), SendOutcome::Sent);
    assert_eq!(bench.machine.stats.send_retries, 3);
    bench.assert_idle();
}

#[test]
fn a_send_that_keeps_failing_for_lack_of_memory_is_counted_as_lost() {
    let mut bench = Bench::new();
    bench.send(300);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    let mut rounds = 0;
    let completion = loop {
        if let Some(completion) = bench.fails(key, libc::ENOBUFS) {
            break completion;
        }
        rounds += 1;
        assert_eq!(bench.one_submitted(opcode::Timeout::CODE), key);
        assert!(bench.fails(key, libc::ETIME).is_none());
        bench.submitted();
    };
    assert_sent(Some(completion), SendOutcome::Lost(LossReason::NoBuffers));
    assert_eq!((rounds, bench.machine.stats.sends_lost.no_buffers), (8, 1));
    bench.assert_idle();
}

#[test]
fn a_long_batch_is_not_copied_and_ends_with_its_notification() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.send(1600);
        let key = bench.one_submitted(opcode::SendMsgZc::CODE);
        assert!(bench.event(key, 1600, F_MORE).is_none(), "the kernel still reads the slot");
        assert_eq!(bench.pool.counts().in_kernel, 1);
        assert_sent(bench.event(key, 0, F_NOTIF), SendOutcome::Sent);
    }
    bench.send(1500);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_sent(bench.event(key, 1500, 0), SendOutcome::Sent);
    let stats = &bench.machine.stats;
    assert_eq!((stats.zero_copy_sends, stats.zero_copy_copied), (2, 0));
    bench.assert_idle();
}

#[test]
fn zero_copy_is_disabled_on_a_socket_after_a_send_that_copied() {
    let mut bench = Bench::new();
    bench.send(1600);
    let key = bench.one_submitted(opcode::SendMsgZc::CODE);
    assert!(bench.event(key, 1600, F_MORE).is_none());
    assert_sent(bench.event(key, USAGE_COPIED, F_NOTIF), SendOutcome::Sent);
    bench.send(1600);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_sent(bench.event(key, 1600, 0), SendOutcome::Sent);
    let stats = &bench.machine.stats;
    assert_eq!((stats.zero_copy_sends, stats.zero_copy_copied), (1, 1));
    bench.assert_idle();
}

#[test]
fn no_batch_is_sent_without_a_copy_once_that_is_stopped() {
    let mut bench = Bench::new();
    bench.machine.stop_zero_copy();
    let later = bench.machine.add_socket(1, OFFLOAD);
    for socket in [SocketIndex(0), later] {
        bench.send_on(socket, 1600);
        let key = bench.one_submitted(opcode::SendMsg::CODE);
        assert_sent(bench.event(key, 1600, 0), SendOutcome::Sent);
    }
    bench.assert_idle();
}

/// Refusals with and without a notification, and one that is caused by segmentation.
#[test]
fn a_refused_zero_copy_send_is_retried_with_a_copy() {
    for (errno, flags) in
        [(libc::EINVAL, 0), (libc::EOPNOTSUPP, 0), (libc::ENOMEM, F_MORE), (libc::ENOBUFS, 0)]
    {
        let mut bench = Bench::new();
        bench.send(1600);
        let key = bench.one_submitted(opcode::SendMsgZc::CODE);
        assert!(bench.event(key, -errno, flags).is_none());
        if flags == F_MORE {
            assert!(bench.submitted().is_empty(), "the kernel still holds the slot");
            assert!(bench.event(key, 0, F_NOTIF).is_none());
        }
        let again = bench.one_submitted(opcode::SendMsg::CODE);
        assert_eq!(again, key);
        assert_sent(bench.event(key, 1600, 0), SendOutcome::Sent);
        let stats = &bench.machine.stats;
        assert_eq!((stats.zero_copy_refused, stats.gso_fallbacks), (1, 0));
        bench.assert_idle();
    }
    let mut bench = Bench::new();
    bench.send(1600);
    let key = bench.one_submitted(opcode::SendMsgZc::CODE);
    assert!(bench.fails(key, libc::EINVAL).is_none());
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert!(bench.fails(key, libc::EINVAL).is_none());
    let pieces = bench.submitted();
    assert_eq!(pieces.len(), 16, "segment by segment");
    let stats = &bench.machine.stats;
    assert_eq!((stats.zero_copy_refused, stats.gso_fallbacks), (1, 1));
    let [first @ .., (_, last)] = &pieces[..] else { unreachable!() };
    assert!(first.iter().all(|(_, key)| bench.event(*key, 100, 0).is_none()));
    assert_sent(bench.event(*last, 100, 0), SendOutcome::Sent);
    bench.assert_idle();
}

/// EIO is about checksums, hence about segmentation; the pieces are too short for zero copy.
#[test]
fn the_pieces_of_a_zero_copy_send_are_copied() {
    let mut bench = Bench::new();
    bench.send(1600);
    let key = bench.one_submitted(opcode::SendMsgZc::CODE);
    assert!(bench.event(key, -libc::EIO, F_MORE).is_none());
    assert!(bench.event(key, 0, F_NOTIF).is_none());
    let pieces = bench.submitted();
    assert_eq!(pieces.len(), 16);
    for (place, &(code, piece)) in pieces.iter().enumerate() {
        assert_eq!(code, opcode::SendMsg::CODE);
        assert_eq!(bench.event(piece, 100, 0).is_some(), place == 15);
    }
    assert_eq!(bench.machine.stats.zero_copy_sends, 1);
    bench.assert_idle();
}

#[test]
fn unsupported_operations_are_never_submitted() {
    let mut bench = Bench::new();
    bench.machine.has_zero_copy = false;
    let copying = bench.machine.add_socket(1, OFFLOAD);
    let plain = Offload { is_coalescing: false, is_segmenting: false };
    let splitting = bench.machine.add_socket(2, plain);
    bench.send_on(copying, 1600);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_sent(bench.event(key, 1600, 0), SendOutcome::Sent);
    bench.send_on(splitting, 1600);
    let pieces = bench.submitted();
    assert_eq!(pieces.len(), 16);
    for (place, &(code, piece)) in pieces.iter().enumerate() {
        assert_eq!(code, opcode::SendMsg::CODE);
        assert_eq!(bench.event(piece, 100, 0).is_some(), place == 15);
    }
    let offload = bench.machine.socket_offload();
    assert_eq!((offload.gro_on, offload.gro_off), (2, 1));
    assert_eq!((offload.gso_on, offload.gso_off), (2, 1));
    assert_eq!((offload.zero_copy_on, offload.zero_copy_off), (1, 2));
    assert_eq!(bench.machine.stats.zero_copy_sends, 0);
    assert_eq!(bench.machine.stats.gso_fallbacks, 0);
    bench.assert_idle();
}

#[test]
fn a_refusal_to_segment_is_remembered() {
    for errno in [libc::EIO, libc::EINVAL] {
        let mut bench = Bench::new();
        bench.send(350);
        let key = bench.one_submitted(opcode::SendMsg::CODE);
        assert!(bench.fails(key, errno).is_none());
        let pieces = bench.submitted();
        assert_eq!(pieces.len(), 4);
        // One piece must be resent while others are still in flight.
        assert!(bench.event(pieces[2].1, 100, 0).is_none());
        assert!(bench.fails(pieces[1].1, libc::ENOBUFS).is_none());
        assert!(bench.event(pieces[3].1, 50, 0).is_none());
        assert!(bench.submitted().is_empty());
        assert!(bench.event(pieces[0].1, 100, 0).is_none());
        let rest = bench.one_submitted(opcode::Timeout::CODE);
        assert!(bench.fails(rest, libc::ETIME).is_none());
        assert_eq!(bench.one_submitted(opcode::SendMsg::CODE), pieces[1].1);
        assert_sent(bench.event(pieces[1].1, 100, 0), SendOutcome::Sent);
        bench.send(350);
        let pieces = bench.submitted();
        assert_eq!(pieces.len(), 4, "the socket remembers the refusal");
        assert_eq!(bench.machine.stats.gso_fallbacks, 1);
        let offload = bench.machine.socket_offload();
        assert_eq!((offload.gso_on, offload.gso_off), (0, 1), "and the change is counted once");
        for (place, &(_, piece)) in pieces.iter().enumerate() {
            assert_eq!(
                bench.event(piece, 1, 0).is_some(),
                place == 3,
                "one completion for all pieces"
            );
        }
        bench.assert_idle();
    }
}

#[test]
fn overlong_segments_do_not_disable_segmentation() {
    let mut bench = Bench::new();
    bench.send(300);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert!(bench.fails(key, libc::EINVAL).is_none());
    let pieces = bench.submitted();
    assert!(bench.fails(pieces[0].1, libc::EMSGSIZE).is_none());
    assert!(bench.fails(pieces[1].1, libc::EMSGSIZE).is_none());
    let last = bench.fails(pieces[2].1, libc::EMSGSIZE);
    assert_sent(last, SendOutcome::Lost(LossReason::TooLong));
    assert_eq!(bench.machine.stats.sends_lost.too_long, 3);
    bench.send(300);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_sent(bench.event(key, 300, 0), SendOutcome::Sent);
    bench.assert_idle();
}

/// The kernel refuses port 0 with the same errno as segmentation. An attacker may choose that port,
/// and a send to it must not disable segmentation for everyone.
#[test]
fn an_unreachable_peer_does_not_affect_sends_to_others() {
    let mut bench = Bench::new();
    bench.send(1600);
    let key = bench.one_submitted(opcode::SendMsgZc::CODE);
    assert!(bench.fails(key, libc::EINVAL).is_none());
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert!(bench.fails(key, libc::EINVAL).is_none());
    let pieces = bench.submitted();
    assert_eq!(pieces.len(), 16, "segment by segment");
    for (place, &(_, piece)) in pieces.iter().enumerate() {
        let end = bench.fails(piece, libc::EINVAL);
        if place < 15 {
            assert!(end.is_none());
        } else {
            assert_sent(end, SendOutcome::Lost(LossReason::Other));
        }
    }
    bench.send(1600);
    let key = bench.one_submitted(opcode::SendMsgZc::CODE);
    assert!(bench.event(key, 1600, F_MORE).is_none());
    assert_sent(bench.event(key, 0, F_NOTIF), SendOutcome::Sent);
    bench.assert_idle();
}

/// One route may refuse what all others accept, and the socket serves them all.
#[test]
fn segmentation_is_retried_after_many_batches() {
    let mut bench = Bench::new();
    for _ in 0..2 {
        bench.send(200);
        let key = bench.one_submitted(opcode::SendMsg::CODE);
        assert!(bench.fails(key, libc::EIO).is_none());
        for _ in 0..=UNSEGMENTED_BATCHES {
            let pieces = bench.submitted();
            assert_eq!(pieces.len(), 2, "segment by segment");
            assert!(bench.event(pieces[0].1, 100, 0).is_none());
            assert_sent(bench.event(pieces[1].1, 100, 0), SendOutcome::Sent);
            bench.send(200);
        }
        let key = bench.one_submitted(opcode::SendMsg::CODE);
        assert_sent(bench.event(key, 200, 0), SendOutcome::Sent);
    }
    assert_eq!(bench.machine.stats.gso_fallbacks, 2);
    bench.assert_idle();
}

#[test]
fn losses_are_counted_by_reason() {
    let cases = [
        (libc::EMSGSIZE, LossReason::TooLong),
        (libc::ENETUNREACH, LossReason::Unreachable),
        (libc::EHOSTUNREACH, LossReason::Unreachable),
        (libc::ENETDOWN, LossReason::Unreachable),
        (libc::EPERM, LossReason::Refused),
        (libc::ECANCELED, LossReason::Cancelled),
        (libc::EFAULT, LossReason::Other),
    ];
    let mut bench = Bench::new();
    for (errno, reason) in cases {
        bench.send(50);
        let key = bench.one_submitted(opcode::SendMsg::CODE);
        assert_sent(bench.fails(key, errno), SendOutcome::Lost(reason));
    }
    let stats = &bench.machine.stats;
    assert_eq!(
        (stats.sends_lost.too_long, stats.sends_lost.unreachable, stats.sends_lost.refused),
        (1, 3, 1)
    );
    assert_eq!((stats.sends_lost.cancelled, stats.sends_lost.other), (1, 1));
    bench.assert_idle();
}

#[test]
fn a_duplicate_completion_is_ignored() {
    let mut bench = Bench::new();
    bench.send(100);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_sent(bench.event(key, 100, 0), SendOutcome::Sent);
    bench.send(100);
    let newer = bench.one_submitted(opcode::SendMsg::CODE);
    assert_ne!(key, newer);
    assert!(bench.event(key, 100, 0).is_none());
    assert_eq!(bench.machine.stats.late, 1);
    // With a slot: it is reclaimed once.
    let free = bench.pool.counts().free;
    assert!(bench.event(key, 100, F_BUFFER | 1 << 16).is_none());
    assert!(bench.event(key, 100, F_BUFFER | 1 << 16).is_none());
    assert_eq!(bench.pool.counts().free, free + 1);
    assert_sent(bench.event(newer, 100, 0), SendOutcome::Sent);
    bench.assert_idle();
}

#[test]
fn a_receive_without_f_more_is_rearmed() {
    let mut bench = Bench::new();
    bench.machine.receive_datagrams(SocketIndex(0));
    bench.machine.replenish();
    let key = bench.one_submitted(opcode::RecvMsgMulti::CODE);
    // An error with a slot and F_MORE: the slot is reclaimed, the receive stays armed.
    assert!(bench.event(key, -libc::EFAULT, F_BUFFER | F_MORE).is_none());
    bench.machine.replenish();
    assert!(bench.submitted().is_empty());
    // Bytes without F_MORE: they are delivered and the receive is rearmed.
    let slot = datagram_header(9);
    bench.machine.datagram_buffers.write_slot(1, &slot);
    let datagrams = bench.event(key, slot.len() as i32, F_BUFFER | 1 << 16);
    match datagrams {
        Some(Completion::Datagrams { payload, segment_len, .. }) => {
            assert_eq!((payload.len(), segment_len), (9, 9));
        }
        other => panic!("{other:?}"),
    }
    bench.machine.replenish();
    let newer = bench.one_submitted(opcode::RecvMsgMulti::CODE);
    assert_ne!(newer, key);
    assert!(bench.fails(newer, libc::ENOBUFS).is_none());
    bench.machine.replenish();
    let newest = bench.one_submitted(opcode::RecvMsgMulti::CODE);
    assert_eq!((bench.machine.stats.rearms, bench.machine.stats.no_buffers_datagrams), (2, 1));
    bench.machine.is_ending = true;
    assert!(bench.fails(newest, libc::ECANCELED).is_none());
    bench.machine.replenish();
    assert!(bench.submitted().is_empty());
    bench.assert_idle();
}

/// The sockets share their buffers, and the one armed first takes what is available. The flooded
/// socket's receive ends in each turn, the quiet socket's now and then.
#[test]
fn a_flooded_socket_leaves_buffers_for_the_others() {
    for period in [1, 2, 3] {
        let mut bench = Bench::new();
        bench.machine.add_socket(1, OFFLOAD);
        bench.machine.receive_datagrams(SocketIndex(0));
        bench.machine.receive_datagrams(SocketIndex(1));
        let mut in_flight = Vec::new();
        let mut firsts = [0, 0];
        for turn in 0..24 {
            bench.machine.replenish();
            let armed: Vec<(usize, u64)> =
                bench.submitted().iter().map(|&(_, key)| (bench.socket_of(key), key)).collect();
            if let [(first, _), _] = armed[..] {
                firsts[first] += 1;
            }
            in_flight.extend(armed);
            in_flight.retain(|&(socket, key)| {
                let ends = socket == 0 || turn % period == 0;
                assert!(!ends || bench.fails(key, libc::ENOBUFS).is_none());
                !ends
            });
        }
        assert!(firsts[1] > 5 && firsts[1] >= firsts[0], "{firsts:?} of period {period}");
    }
}

#[test]
fn a_receive_that_always_fails_is_given_up() {
    let mut bench = Bench::new();
    bench.machine.receive_datagrams(SocketIndex(0));
    let mut tries = 0;
    loop {
        bench.machine.replenish();
        let key = bench.one_submitted(opcode::RecvMsgMulti::CODE);
        tries += 1;
        match bench.fails(key, libc::EBADF) {
            None => assert!(tries < 1000),
            Some(Completion::ReceiveStopped { socket: SocketIndex(0), .. }) => break,
            Some(other) => panic!("{other:?}"),
        }
    }
    assert_eq!(tries, 64);
    bench.machine.replenish();
    assert!(bench.submitted().is_empty());
}
