//! The machine fed with lists of events: results, flags and orders that a real kernel gives
//! rarely or never. No kernel takes part here.

mod memory;
mod simulation;

use std::rc::Rc;

use bytes::Bytes;
use io_uring::opcode;

use super::completion::{
    Completion, DatagramSend, LossReason, ReceiveOutcome, SendOutcome, SocketIndex, StreamError,
    StreamKey,
};
use super::datagrams::UNSEGMENTED_BATCHES;
use super::machine::{Event, Machine};
use super::settings::RingSettings;
use super::table::{CANCEL, Op, OpKey};
use crate::host::address::SockAddr;
use crate::host::offload::Offload;
use crate::limits::SLOT_LEN;
use crate::pool::Pool;

// From linux/io_uring.h.
const F_BUFFER: u32 = 1;
const F_MORE: u32 = 2;
const F_SOCK_NONEMPTY: u32 = 4;
const F_NOTIF: u32 = 8;
const USAGE_COPIED: i32 = i32::MIN;

const OFFLOAD: Offload = Offload { is_coalescing: true, is_segmenting: true };

/// A machine whose submissions and buffers the test plays the kernel for.
struct Bench {
    machine: Machine,
    pool: Rc<Pool>,
}

impl Bench {
    fn new() -> Bench {
        let pool = Rc::new(Pool::for_test());
        let settings = RingSettings {
            datagram_buffers: 4,
            stream_buffers: 2,
            sockets_max: 2,
            sends_max: 8,
            streams_max: 4,
            ..RingSettings::default()
        };
        let mut machine = Machine::new(&settings, Rc::clone(&pool)).unwrap();
        machine.add_socket(0, OFFLOAD);
        machine.replenish();
        Bench { machine, pool }
    }

    /// Takes what was submitted: operation codes and user data, in order.
    fn submitted(&mut self) -> Vec<(u8, u64)> {
        let entries = self.machine.outbox.drain(..);
        entries.map(|entry| (entry.get_opcode() as u8, entry.get_user_data())).collect()
    }

    fn one_submitted(&mut self, code: u8) -> u64 {
        match self.submitted()[..] {
            [(got, user_data)] if got == code => user_data,
            ref other => panic!("not one operation {code}: {other:?}"),
        }
    }

    fn event(&mut self, user_data: u64, result: i32, flags: u32) -> Option<Completion> {
        self.machine.complete(Event { user_data, result, flags })
    }

    /// Which socket the receive is of.
    fn socket_of(&mut self, user_data: u64) -> usize {
        match self.machine.table.get_mut(OpKey(user_data)) {
            Some(Op::ReceiveDatagrams(socket)) => socket.index(),
            _ => panic!("no receive of datagrams"),
        }
    }

    /// The one write that was submitted: of one piece, or of several.
    fn submitted_write(&mut self) -> u64 {
        match self.submitted()[..] {
            [(opcode::Send::CODE | opcode::SendMsg::CODE, key)] => key,
            ref other => panic!("not one write: {other:?}"),
        }
    }

    fn fails(&mut self, user_data: u64, errno: i32) -> Option<Completion> {
        self.event(user_data, -errno, 0)
    }

    /// Sends `len` bytes from a slot, in segments of 100.
    fn send(&mut self, len: usize) {
        self.send_on(SocketIndex(0), len);
    }

    fn send_on(&mut self, socket: SocketIndex, len: usize) {
        let mut buffer = self.pool.lease_vec().unwrap();
        buffer.resize(len, 7);
        let destination = "192.0.2.1:1".parse().unwrap();
        let segment_len = Some(100);
        let send = DatagramSend { buffer, destination, source: None, ecn: 0, segment_len };
        self.machine.send_datagrams(socket, send).unwrap();
    }

    fn stream(&mut self, tag: u64) -> StreamKey {
        let (key, _) = self.machine.open_stream(tag).unwrap();
        let address: std::net::SocketAddr = "192.0.2.1:1".parse().unwrap();
        self.machine.connect(key, SockAddr::from(address));
        let connect = self.one_submitted(opcode::Connect::CODE);
        let outcome = self.event(connect, 0, 0);
        assert!(matches!(outcome, Some(Completion::Connected { outcome: Ok(()), .. })));
        key
    }

    /// Closes a stream that has nothing in flight.
    fn close_idle(&mut self, key: StreamKey) {
        self.machine.close(key);
        let close = self.one_submitted(opcode::Close::CODE);
        assert!(matches!(self.event(close, 0, 0), Some(Completion::Closed { .. })));
    }

    /// Nothing is left with the kernel, and every slot but the provided ones is free.
    fn assert_idle(&self) {
        assert_eq!(self.machine.table.in_flight(), 0);
        let counts = self.pool.counts();
        let provided = u32::from(self.machine.datagram_buffers.provided_count())
            + u32::from(self.machine.stream_buffers.provided_count());
        assert_eq!((counts.owned, counts.in_kernel), (0, 0), "{counts:?}");
        assert_eq!(u32::from(counts.provided as u16), provided, "{counts:?}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: no kernel takes part, so none has them.
        unsafe {
            self.machine.datagram_buffers.reclaim_all();
            self.machine.stream_buffers.reclaim_all();
        }
    }
}

fn assert_sent(completion: Option<Completion>, expected: SendOutcome) {
    match completion {
        Some(Completion::Sent { outcome, buffer, .. }) => {
            assert_eq!(outcome, expected);
            assert!(buffer.is_empty() && Pool::contains(buffer.as_ptr()));
        }
        other => panic!("{other:?}"),
    }
}

/// A slot's first bytes, as the kernel fills them for a datagram of `payload_len` bytes.
fn datagram_header(payload_len: u32) -> Vec<u8> {
    let mut header = vec![0u8; super::message::HEADER_LEN + payload_len as usize];
    header[0..4].copy_from_slice(&16u32.to_ne_bytes());
    header[8..12].copy_from_slice(&payload_len.to_ne_bytes());
    header[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    header
}

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
        // It rests first: no spinning on a kernel without memory.
        assert_eq!(bench.one_submitted(opcode::Timeout::CODE), key);
        assert!(bench.fails(key, libc::ETIME).is_none());
        assert_eq!(bench.one_submitted(opcode::SendMsg::CODE), key);
    }
    assert_sent(bench.event(key, 300, 0), SendOutcome::Sent);
    assert_eq!(bench.machine.stats.send_retries, 3);
    bench.assert_idle();
}

#[test]
fn want_of_memory_ends_as_a_loss() {
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
fn a_zero_copy_send_that_copies_is_the_last_of_its_socket() {
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

/// With and without a notification behind the refusal; and one that segmenting is to blame for.
#[test]
fn a_refused_zero_copy_send_is_copied() {
    for (errno, flags) in
        [(libc::EINVAL, 0), (libc::EOPNOTSUPP, 0), (libc::ENOMEM, F_MORE), (libc::ENOBUFS, 0)]
    {
        let mut bench = Bench::new();
        bench.send(1600);
        let key = bench.one_submitted(opcode::SendMsgZc::CODE);
        assert!(bench.event(key, -errno, flags).is_none());
        if flags == F_MORE {
            assert!(bench.submitted().is_empty(), "the kernel is not through with it");
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
    assert_eq!(bench.submitted().len(), 16, "segment by segment");
    let stats = &bench.machine.stats;
    assert_eq!((stats.zero_copy_refused, stats.gso_fallbacks), (1, 1));
}

/// EIO is about checksums, so about segmenting: the pieces are too short for anything but a copy.
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
fn what_the_kernel_does_not_know_is_never_tried() {
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
        // One piece must go again, while others are still with the kernel.
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
        assert_eq!(pieces.len(), 4, "the socket remembers");
        assert_eq!(bench.machine.stats.gso_fallbacks, 1);
        let offload = bench.machine.socket_offload();
        assert_eq!((offload.gso_on, offload.gso_off), (0, 1), "and so is told");
        for (place, &(_, piece)) in pieces.iter().enumerate() {
            assert_eq!(bench.event(piece, 1, 0).is_some(), place == 3, "one end for all pieces");
        }
        bench.assert_idle();
    }
}

#[test]
fn segments_that_are_too_long_do_not_cost_segmentation() {
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

/// The kernel refuses port 0 with the errno by which it refuses to segment: a stranger may choose
/// that port, and one send to it must not change how everybody else is sent to.
#[test]
fn a_peer_that_cannot_be_sent_to_costs_nobody_else_anything() {
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

/// One route may refuse what all others take, and the socket serves them all.
#[test]
fn segmentation_is_tried_again_after_many_batches() {
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
fn a_completion_that_comes_twice_names_nobody() {
    let mut bench = Bench::new();
    bench.send(100);
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_sent(bench.event(key, 100, 0), SendOutcome::Sent);
    bench.send(100);
    let newer = bench.one_submitted(opcode::SendMsg::CODE);
    assert_ne!(key, newer);
    assert!(bench.event(key, 100, 0).is_none());
    assert_eq!(bench.machine.stats.late, 1);
    // With a slot: it is taken back, once.
    let free = bench.pool.counts().free;
    assert!(bench.event(key, 100, F_BUFFER | 1 << 16).is_none());
    assert!(bench.event(key, 100, F_BUFFER | 1 << 16).is_none());
    assert_eq!(bench.pool.counts().free, free + 1);
    assert_sent(bench.event(newer, 100, 0), SendOutcome::Sent);
    bench.assert_idle();
}

#[test]
fn a_receive_without_more_is_armed_again() {
    let mut bench = Bench::new();
    bench.machine.receive_datagrams(SocketIndex(0));
    bench.machine.replenish();
    let key = bench.one_submitted(opcode::RecvMsgMulti::CODE);
    // An error with a slot and F_MORE: the slot comes back, the receive stays armed.
    assert!(bench.event(key, -libc::EFAULT, F_BUFFER | F_MORE).is_none());
    bench.machine.replenish();
    assert!(bench.submitted().is_empty());
    // Bytes without F_MORE: both are heeded.
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

/// The sockets share their buffers, and who is armed first takes what there is. The flood ends its
/// receive in each turn, the quiet socket's ends now and then.
#[test]
fn a_flooded_socket_leaves_buffers_to_the_next() {
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
fn a_receive_that_only_fails_is_given_up() {
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

#[test]
fn short_writes_are_continued_where_they_ended() {
    // What the vectors offer is what the kernel sees; it takes 1 to 977 bytes at a time.
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
fn a_write_that_gets_nowhere_fails() {
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
fn a_write_without_kernel_memory_rests_before_it_goes_on() {
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
        assert_eq!(bench.machine.offered(write), b"bc", "nothing is lost or doubled");
    }
    // Closed while it rests: the rest is cancelled and nothing more is written.
    assert!(bench.fails(write, libc::ENOBUFS).is_none());
    assert_eq!(bench.one_submitted(opcode::Timeout::CODE), write);
    bench.machine.close(key);
    assert_eq!(bench.one_submitted(opcode::AsyncCancel::CODE), CANCEL);
    assert!(bench.fails(write, libc::ECANCELED).is_none());
    let close = bench.one_submitted(opcode::Close::CODE);
    assert!(matches!(bench.event(close, 0, 0), Some(Completion::Closed { tag: 5 })));
    bench.assert_idle();
}

/// The kernel says that it has more than one slot holds: the next receive fills several, and each is
/// told of, the last as the last. Slots that stay empty go back.
#[test]
fn a_receive_fills_as_many_slots_as_there_are_bytes_for() {
    for (len, pieces) in [(1, 1), (SLOT_LEN, 1), (2 * SLOT_LEN + 1, 3), (4 * SLOT_LEN, 4)] {
        let mut bench = Bench::new();
        let key = bench.stream(5);
        let id = u32::from(bench.machine.stream_buffers.first_id());
        bench.machine.receive(key);
        let first = bench.one_submitted(opcode::Recv::CODE);
        assert!(bench.event(first, 10, F_BUFFER | F_SOCK_NONEMPTY | id << 16).is_some());
        bench.machine.receive(key);
        bench.machine.receive(key);
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
        // Nothing more is known to be there: the next one waits, in a provided slot.
        bench.machine.receive(key);
        let last = bench.one_submitted(opcode::Recv::CODE);
        assert!(matches!(bench.event(last, 0, 0), Some(Completion::Received { .. })));
        bench.close_idle(key);
        bench.assert_idle();
    }
}

#[test]
fn several_slots_come_back_when_nothing_fills_them() {
    for errno in [libc::EAGAIN, libc::ECONNRESET, libc::ECANCELED] {
        let mut bench = Bench::new();
        let key = bench.stream(5);
        let id = u32::from(bench.machine.stream_buffers.first_id());
        bench.machine.receive(key);
        let first = bench.one_submitted(opcode::Recv::CODE);
        drop(bench.event(first, 10, F_BUFFER | F_SOCK_NONEMPTY | id << 16));
        bench.machine.receive(key);
        let scatter = bench.one_submitted(opcode::RecvMsg::CODE);
        match bench.fails(scatter, errno) {
            // It was not there after all: a receive that waits takes over.
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

/// What a receive into several slots has brought, or an empty write, may not have been taken when
/// its stream is closed.
#[test]
fn what_nobody_has_taken_is_not_heard_after_a_close() {
    let mut bench = Bench::new();
    let (key, other) = (bench.stream(5), bench.stream(6));
    let id = u32::from(bench.machine.stream_buffers.first_id());
    bench.machine.receive(key);
    let first = bench.one_submitted(opcode::Recv::CODE);
    drop(bench.event(first, 10, F_BUFFER | F_SOCK_NONEMPTY | id << 16));
    bench.machine.receive(key);
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
fn an_end_gives_its_slot_back() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    let first = bench.machine.stream_buffers.first_id();
    for flags in [0, F_BUFFER | u32::from(first) << 16] {
        bench.machine.receive(key);
        bench.machine.receive(key);
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
    bench.machine.receive(one);
    bench.machine.receive(two);
    let receives = bench.submitted();
    for &(_, receive) in &receives {
        assert!(bench.fails(receive, libc::ENOBUFS).is_none());
    }
    assert!(bench.submitted().is_empty(), "not before slots are provided");
    // One is closed while it waits: it is not armed again.
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
fn a_closing_stream_is_silent_in_every_order() {
    // A receive with bytes, a short write and both answers to the cancels, in all orders.
    let orders = (0..24usize).map(|mut number| {
        let mut rest = vec![0, 1, 2, 3];
        (1..=4usize).rev().map(|len| rest.remove((number % len, number /= len).0)).collect()
    });
    for order in orders {
        let order: Vec<usize> = order;
        let mut bench = Bench::new();
        let key = bench.stream(5);
        bench.machine.receive(key);
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
