//! Slots that are freed on another thread than leased them, and threads that end before their
//! slots.

use std::cell::RefCell;
use std::sync::mpsc::channel;
use std::thread;

use super::*;

/// Returns a handle of a region that only the calling test uses: no other test asks for
/// `slot_count` slots.
fn own_region(slot_count: u32) -> RegionHandle {
    let plan = PoolPlan::new(slot_count as usize * SLOT_LEN).unwrap();
    Regions::reserve(1, plan).unwrap().lend(Hugepages::Try).unwrap().0
}

#[test]
fn a_slot_freed_on_another_thread_is_free_once_its_return_is_taken() {
    let pool = Pool::for_test();
    let bytes = received(&pool, b"travels").freeze();
    thread::spawn(move || assert_eq!(bytes, "travels")).join().unwrap();
    assert_eq!(pool.counts().owned, 1);
    pool.take_returns();
    assert_eq!(pool.counts().owned, 0);
}

#[test]
fn a_pool_without_free_slots_takes_the_returned_ones() {
    let pool = Pool::for_test();
    let all: Vec<_> =
        std::iter::from_fn(|| pool.lease()).map(|lease| lease.into_bytes_mut().freeze()).collect();
    assert!(pool.lease_vec().is_none());
    thread::spawn(move || drop(all)).join().unwrap();
    assert!(pool.lease_vec().is_some(), "without take_returns");
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn threads_free_concurrently_while_the_owner_leases() {
    const THREAD_COUNT: usize = 3;
    const ROUND_COUNT: u32 = 8_000;
    let pool = Pool::for_test();
    let (senders, threads): (Vec<_>, Vec<_>) = (0..THREAD_COUNT)
        .map(|_| {
            let (sender, receiver) = channel::<(u32, Bytes)>();
            let check = move || {
                for (number, bytes) in receiver {
                    assert_eq!(bytes[..], number.to_ne_bytes(), "the slot was reused too early");
                }
            };
            (sender, thread::spawn(check))
        })
        .unzip();
    let mut number = 0;
    while number < ROUND_COUNT {
        if number % 7 == 0 {
            pool.take_returns();
        }
        if pool.find_free().is_none() {
            thread::yield_now();
            continue;
        }
        let bytes = received(&pool, &number.to_ne_bytes()).freeze();
        // Sometimes one thread, sometimes two hold the slot, and the last of them or the owner
        // frees it.
        let place = number as usize;
        senders[place % THREAD_COUNT].send((number, bytes.clone())).unwrap();
        if number % 3 == 0 {
            senders[(place + 1) % THREAD_COUNT].send((number, bytes)).unwrap();
        }
        number += 1;
    }
    drop(senders);
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    pool.take_returns();
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

/// Tests both orders in which a thread's last values may be dropped.
#[expect(dead_code, reason = "held for the order in which the fields are dropped")]
enum Late {
    PoolFirst(Pool, Bytes),
    BytesFirst(Bytes, Pool),
}

thread_local! {
    static LATE: RefCell<Option<Late>> = const { RefCell::new(None) };
}

#[test]
fn slots_are_freed_by_a_threads_last_destructors() {
    let handle = own_region(SLOT_COUNT_MIN + 3);
    for pool_first in [true, false] {
        let attached = handle.clone();
        let ended = thread::spawn(move || {
            let pool = Pool::attach(attached);
            let bytes = received(&pool, b"late").freeze();
            let late = if pool_first {
                Late::PoolFirst(pool, bytes)
            } else {
                Late::BytesFirst(bytes, pool)
            };
            LATE.set(Some(late));
        });
        ended.join().unwrap();
        let pool = Pool::attach(handle.clone());
        assert_eq!(pool.counts().free, pool.counts().total, "pool first: {pool_first}");
    }
}

#[test]
fn a_new_worker_takes_over_the_region_of_a_panicked_one() {
    let handle = own_region(SLOT_COUNT_MIN + 4);
    let (sender, receiver) = channel();
    let attached = handle.clone();
    let panicked = thread::spawn(move || {
        let pool = Pool::attach(attached);
        let _provided = pool.provide(pool.lease().unwrap());
        let _sent = pool.send(pool.lease_vec().unwrap());
        let _leased = pool.lease().unwrap();
        let mut buf = received(&pool, b"held elsewhere");
        pool.charge(&buf, 5);
        sender.send((buf.split_to(4), pool.span().0.addr())).unwrap();
        panic!("as intended by the test");
    });
    assert!(panicked.join().is_err());
    let (held, start) = receiver.recv().unwrap();

    let pool = Pool::attach(handle);
    assert_eq!(pool.span().0.addr(), start, "the same memory");
    let counts = pool.counts();
    assert_eq!((counts.owned, counts.provided, counts.in_kernel), (1, 1, 1));
    // SAFETY: the thread and both values are gone, and the kernel never saw the slots.
    assert_eq!(unsafe { pool.release_abandoned() }, 2);
    assert_eq!((pool.counts().owned, pool.held_by(5)), (1, 1), "still referred to");
    let address = held.as_ptr();
    let others: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
    assert!(others.iter().all(|lease| lease.address() != address), "it stays in use");
    assert_eq!(held, "held");
    drop((held, others));
    assert_eq!((pool.counts().free, pool.held_by(5)), (pool.counts().total, 0));
}

#[test]
fn a_slot_changes_owner_only_while_its_pool_is_attached() {
    let handle = own_region(SLOT_COUNT_MIN + 5);
    let pool = Pool::attach(handle.clone());
    let provided = pool.provide(pool.lease().unwrap());
    drop(pool);
    assert!(panics(|| provided.reclaim()), "another thread might have the pool by now");
    let pool = Pool::attach(handle);
    assert_eq!(pool.counts().provided, 1);
    // SAFETY: the one Provided is gone, and the kernel never saw it.
    assert_eq!(unsafe { pool.release_abandoned() }, 1);
}
