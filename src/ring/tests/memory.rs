//! Slots, submissions and waits left over by the kernel or by a panic.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use io_uring::opcode;

use super::*;
use crate::host::{clock, eventfd};
use crate::limits::RECEIVE_SLOT_COUNT_MAX;
use crate::ring::message::HEADER_LEN;
use crate::ring::{Ring, Wait};

#[test]
fn header_fields_the_kernel_does_not_write_are_zero() {
    let mut bench = Bench::new();
    bench.machine.receive_datagrams(SocketIndex(0));
    bench.machine.replenish();
    let key = bench.one_submitted(opcode::RecvMsgMulti::CODE);
    // Leases and frees slots more often than there are slots, so that each was used before.
    for _ in 0..200 {
        let id = bench.machine.datagram_buffers.provided_ids()[0];
        let header = bench.machine.datagram_buffers.read_slot(id, HEADER_LEN);
        assert!(header.iter().all(|&byte| byte == 0), "bytes of an earlier owner");
        let mut slot = datagram_header(1000);
        slot[HEADER_LEN..].fill(0xEE);
        bench.machine.datagram_buffers.write_slot(id, &slot);
        let flags = F_BUFFER | F_MORE | u32::from(id) << 16;
        drop(bench.event(key, slot.len() as i32, flags).unwrap());
        bench.machine.replenish();
    }
}

#[test]
fn no_turn_waits_long_while_submissions_are_pending() {
    let mut bench = Bench::new();
    assert_eq!(bench.machine.longest_wait(), None);
    bench.send(100);
    // The kernel had no memory for it: only another io_uring_enter call submits it.
    assert!(bench.machine.longest_wait().is_some());
    let key = bench.one_submitted(opcode::SendMsg::CODE);
    assert_eq!(bench.machine.longest_wait(), None);
    assert_sent(bench.event(key, 100, 0), SendOutcome::Sent);
    bench.machine.receive_datagrams(SocketIndex(0));
    assert!(bench.machine.longest_wait().is_some(), "a receive that waits for slots");
    bench.machine.replenish();
    bench.one_submitted(opcode::RecvMsgMulti::CODE);
    assert_eq!(bench.machine.longest_wait(), None);
}

/// Rearmed at once, they would fail again at once, and the worker would spin.
#[test]
fn an_operation_refused_for_lack_of_memory_waits_one_turn() {
    let mut bench = Bench::new();
    let key = bench.stream(5);
    bench.machine.receive_datagrams(SocketIndex(0));
    bench.machine.replenish();
    bench.machine.receive(key, RECEIVE_SLOT_COUNT_MAX);
    bench.machine.watch_wake(Arc::new(eventfd::eventfd().unwrap()));
    for errno in [libc::ENOMEM, libc::ENOMEM, libc::ENOBUFS] {
        let armed = bench.submitted();
        let codes: Vec<u8> = armed.iter().map(|&(code, _)| code).collect();
        for code in [opcode::RecvMsgMulti::CODE, opcode::Recv::CODE, opcode::PollAdd::CODE] {
            assert!(codes.contains(&code), "{codes:?}");
        }
        assert_eq!((codes.len(), bench.machine.longest_wait()), (3, None));
        for (code, user_data) in armed {
            let errno = if code == opcode::PollAdd::CODE { libc::ENOMEM } else { errno };
            let told = bench.fails(user_data, errno);
            assert_eq!(
                told.is_some(),
                code == opcode::PollAdd::CODE,
                "only the wake-up is reported"
            );
        }
        bench.machine.replenish();
        assert!(bench.submitted().is_empty(), "this turn waits");
        assert!(bench.machine.longest_wait().is_some(), "but not for long");
        bench.machine.replenish();
    }
    let stats = &bench.machine.stats;
    assert_eq!((stats.no_memory, stats.receive_failures), (7, 0));
    assert_eq!((stats.no_buffers_datagrams, stats.no_buffers_streams), (1, 1));
}

#[test]
fn slots_leaked_by_a_panic_are_freed_when_the_ring_ends() {
    let pool = Rc::new(Pool::for_test());
    let settings = RingSettings { streams_max: 8, ..RingSettings::default() };
    let mut ring = Ring::new(settings, Rc::clone(&pool)).unwrap();
    ring.submit_and_wait(Wait::No).unwrap();
    // As if a panic had interrupted the handling of a completion.
    let group = &mut ring.machine.datagram_buffers;
    let id = group.provided_ids()[0];
    let _dropped_on_the_way = group.take(id);
    drop(pool.send(pool.lease_vec().unwrap()));
    let deadline = clock::now() + Duration::from_secs(10);
    ring.shut_down(deadline).unwrap();
    let counts = pool.counts();
    assert_eq!(counts.free, counts.total, "{counts:?}");
}

#[test]
#[should_panic(expected = "one ring at a time")]
fn a_pool_has_one_ring() {
    let pool = Rc::new(Pool::for_test());
    let settings = RingSettings { streams_max: 8, ..RingSettings::default() };
    let _ring = Ring::new(settings, Rc::clone(&pool)).unwrap();
    let _ = Ring::new(settings, pool);
}

/// Shows that the memory checker sees what the ring does with slots.
#[test]
#[cfg(ringway_asan)]
fn a_slot_that_is_read_before_it_is_taken_back_is_reported() {
    let test = "ring::tests::memory::a_slot_that_is_read_before_it_is_taken_back_is_reported";
    let child = crate::testing::in_child(test, || {
        let mut bench = Bench::new();
        bench.machine.receive_datagrams(SocketIndex(0));
        bench.machine.replenish();
        let key = bench.one_submitted(opcode::RecvMsgMulti::CODE);
        let id = bench.machine.datagram_buffers.provided_ids()[0];
        let slot = datagram_header(1000);
        bench.machine.datagram_buffers.write_slot(id, &slot);
        crate::planted::plant(Some(crate::planted::Bug::EarlyRead));
        let flags = F_BUFFER | F_MORE | u32::from(id) << 16;
        drop(bench.event(key, slot.len() as i32, flags));
    });
    let Some(child) = child else { return };
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success(), "{stderr}");
    assert!(stderr.contains("AddressSanitizer: use-after-poison"), "{stderr}");
}
