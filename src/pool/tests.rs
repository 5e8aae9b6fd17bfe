//! The pool's public interface, on real memory.

mod aborts;
#[cfg(ringway_asan)]
mod forbidden;
mod heap;
mod pieces;
mod threads;

use super::region::RegionError;
use crate::host::memory::Backing;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::{Bytes, BytesMut};

use super::*;
use crate::limits::{SLOT_COUNT_MAX, SLOT_COUNT_MIN};

/// Returns a slot that the kernel has filled with `bytes`.
fn received(pool: &Pool, bytes: &[u8]) -> BytesMut {
    let provided = pool.provide(pool.lease().expect("a slot is free"));
    assert!(bytes.len() <= SLOT_LEN);
    // SAFETY: the slot is the test's alone, and the bytes fit.
    unsafe {
        let address = provided.address();
        as_kernel(address, || address.copy_from(bytes.as_ptr(), bytes.len()));
        provided.complete(bytes.len())
    }
}

/// Returns the bytes of the slot at `address` after it was freed.
fn freed_bytes(address: *const u8) -> Vec<u8> {
    let (region, index) = region::locate(address.addr()).unwrap();
    // SAFETY: the slot is free, so only the pool of this test may touch it, and it stays mapped.
    as_kernel(address, || unsafe {
        std::slice::from_raw_parts(region.slot(index), SLOT_LEN).to_vec()
    })
}

fn panics<T>(deed: impl FnOnce() -> T) -> bool {
    catch_unwind(AssertUnwindSafe(deed)).is_err()
}

#[test]
fn slots_are_distinct_until_none_is_left() {
    let pool = Pool::for_test();
    let (start, span_len) = pool.span();
    let leases: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
    assert_eq!(leases.len(), SLOT_COUNT_MIN as usize);
    assert_eq!(span_len, leases.len() * SLOT_LEN);
    assert!(pool.lease().is_none() && pool.lease_vec().is_none());
    let bufs: Vec<_> = leases.into_iter().map(Lease::into_bytes_mut).collect();
    let mut offsets: Vec<_> = bufs.iter().map(|buf| buf.as_ptr().addr() - start.addr()).collect();
    offsets.sort_unstable();
    let expected: Vec<_> = (0..bufs.len()).map(|index| index * SLOT_LEN).collect();
    assert_eq!(offsets, expected, "side by side, none twice");
    assert!(bufs.iter().all(|buf| buf.is_empty() && buf.capacity() == SLOT_LEN));
    drop(bufs);
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn pool_memory_is_recognized_by_its_address() {
    let pool = Pool::for_test();
    let (start, span_len) = pool.span();
    assert!(Pool::contains(start) && Pool::contains(start.wrapping_add(span_len - 1)));
    let on_heap = vec![0u8; SLOT_LEN];
    let on_stack = 0u8;
    for address in
        [on_heap.as_ptr(), &raw const on_stack, std::ptr::null(), usize::MAX as *const u8]
    {
        assert!(!Pool::contains(address));
    }
    assert!(region::locate(start.addr() + span_len).is_none(), "within the region, but not a slot");
    assert_eq!(region::locate(start.addr() + SLOT_LEN - 1).unwrap().1, 0);
    assert_eq!(region::locate(start.addr() + SLOT_LEN).unwrap().1, 1);
}

#[test]
fn a_slot_goes_to_the_kernel_and_comes_back_with_what_it_wrote() {
    let pool = Pool::for_test();
    let rest = pool.counts();
    let provided = pool.provide(pool.lease().unwrap());
    assert_eq!((pool.counts().provided, pool.counts().owned), (1, 0));
    let (start, _) = pool.span();
    assert_eq!(provided.address(), start.wrapping_add(usize::from(provided.index()) * SLOT_LEN));
    // SAFETY: the slot is the test's alone and that long.
    let full = unsafe {
        let address = provided.address();
        as_kernel(address, || address.write_bytes(0x5A, SLOT_LEN));
        provided.complete(SLOT_LEN)
    };
    assert_eq!((pool.counts().provided, pool.counts().owned), (0, 1));
    assert!(full.len() == SLOT_LEN && full.iter().all(|&byte| byte == 0x5A));
    drop(full);
    let lease = pool.provide(pool.lease().unwrap()).reclaim();
    assert_eq!(pool.counts().owned, 1);
    assert!(lease.into_bytes_mut().is_empty(), "nothing was received");
    assert_eq!(pool.counts(), rest);
}

#[test]
fn a_batch_goes_to_the_kernel_and_comes_back_to_be_filled_again() {
    let pool = Pool::for_test();
    let mut batch = pool.lease_vec().unwrap();
    batch.extend_from_slice(b"packets");
    let address = batch.as_ptr();
    let in_kernel = pool.send(batch);
    assert_eq!((in_kernel.address(), in_kernel.filled_len()), (address, 7));
    assert_eq!((pool.counts().in_kernel, pool.counts().owned), (1, 0));
    let mut batch = in_kernel.complete();
    assert_eq!((batch.as_slice(), batch.capacity()), (&b"packets"[..], SLOT_LEN));
    batch.clear();
    batch.push(1);
    assert_eq!(pool.send(batch).complete(), [1]);
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn only_slots_can_be_sent() {
    let pool = Pool::for_test();
    assert!(panics(|| pool.send(Vec::with_capacity(SLOT_LEN))), "heap memory");
    let mut outgrown = pool.lease_vec().unwrap();
    outgrown.resize(SLOT_LEN + 1, 0);
    assert!(panics(|| pool.send(outgrown)), "a vector that moved to the heap when it grew");
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn completing_more_bytes_than_a_slot_holds_panics() {
    let pool = Pool::for_test();
    let provided = pool.provide(pool.lease().unwrap());
    // SAFETY: refused before any byte is accessed.
    assert!(panics(|| unsafe { provided.complete(SLOT_LEN + 1) }));
    // SAFETY: the one Provided is gone, and the kernel never saw it.
    assert_eq!(unsafe { pool.release_abandoned() }, 1);
}

#[test]
fn slots_the_kernel_may_still_access_are_never_reused() {
    let pool = Pool::for_test();
    drop(pool.provide(pool.lease().unwrap()));
    drop(pool.send(pool.lease_vec().unwrap()));
    let counts = pool.counts();
    assert_eq!((counts.provided, counts.in_kernel), (1, 1), "leaked, not free");
    let others: Vec<_> = std::iter::from_fn(|| pool.lease()).collect();
    assert_eq!(others.len() as u32, SLOT_COUNT_MIN - 2);
    drop(others);
    // SAFETY: both values are gone, and the kernel never saw the slots.
    assert_eq!(unsafe { pool.release_abandoned() }, 2);
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn ordinary_allocations_never_get_a_slot() {
    let pool = Pool::for_test();
    let plain = Vec::<u8>::with_capacity(SLOT_LEN);
    let zeroed = vec![0u8; SLOT_LEN];
    let buf = BytesMut::with_capacity(SLOT_LEN);
    for address in [plain.as_ptr(), zeroed.as_ptr(), buf.as_ptr()] {
        assert!(!Pool::contains(address));
    }
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn a_shrunk_vector_keeps_its_slot_until_it_is_dropped() {
    let pool = Pool::for_test();
    let filled = || {
        let mut vec = pool.lease_vec().unwrap();
        vec.extend_from_slice(b"short");
        vec
    };
    let owned = || pool.counts().owned;

    let mut shrunk = filled();
    shrunk.shrink_to_fit();
    assert!(Pool::contains(shrunk.as_ptr()) && shrunk == b"short" && owned() == 1);
    shrunk.extend_from_slice(b" and long again");
    assert!(Pool::contains(shrunk.as_ptr()) && shrunk == b"short and long again");
    drop(shrunk);
    assert_eq!(owned(), 0);

    let boxed = filled().into_boxed_slice();
    assert!(Pool::contains(boxed.as_ptr()) && *boxed == *b"short" && owned() == 1);
    drop(boxed);
    assert_eq!(owned(), 0);

    let bytes = Bytes::from(filled());
    let part = bytes.slice(1..3);
    drop(bytes);
    assert!(Pool::contains(part.as_ptr()) && part == "ho" && owned() == 1);
    drop(part);
    assert_eq!(owned(), 0);

    let mut emptied = filled();
    emptied.clear();
    emptied.shrink_to_fit();
    assert_eq!((emptied.capacity(), owned()), (0, 0));
}

#[test]
fn a_vector_that_outgrows_its_slot_moves_to_the_heap_and_frees_it() {
    let pool = Pool::for_test();
    let mut vec = pool.lease_vec().unwrap();
    vec.extend((0..SLOT_LEN).map(|at| at as u8));
    assert!(Pool::contains(vec.as_ptr()));
    vec.push(99);
    assert!(!Pool::contains(vec.as_ptr()));
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
    assert!(vec[..SLOT_LEN].iter().enumerate().all(|(at, &byte)| byte == at as u8));
    assert_eq!(vec[SLOT_LEN], 99);

    let mut buf = received(&pool, b"abc");
    buf.reserve(2 * SLOT_LEN);
    assert!(!Pool::contains(buf.as_ptr()) && buf == "abc");
    assert_eq!(pool.counts().free, SLOT_COUNT_MIN);
}

#[test]
fn a_flow_is_charged_for_the_slots_it_holds() {
    let pool = Pool::for_test();
    let first = received(&pool, b"first");
    let second = received(&pool, b"second");
    assert!(pool.charge(&first, 7) && pool.charge(&second, 7));
    assert!(pool.charge(&second[3..], 7), "any byte identifies the slot");
    assert_eq!((pool.held_by(7), pool.held_by(8)), (2, 0));
    let last_piece = first.freeze().slice(2..3);
    assert_eq!(pool.held_by(7), 2, "a single byte keeps the slot in use");
    drop(last_piece);
    assert_eq!(pool.held_by(7), 1);
    assert!(!pool.charge(b"not in a slot", 7) && !pool.charge(&[], 7));
    std::thread::scope(|scope| scope.spawn(|| drop(second)).join()).unwrap();
    assert_eq!(pool.held_by(7), 1, "the return is not yet taken");
    pool.take_returns();
    assert_eq!(pool.held_by(7), 0);
}

#[test]
fn the_pool_is_low_below_its_low_water_mark() {
    let pool = Pool::for_test();
    let mark = pool.plan().low_water();
    let mut leases: Vec<_> = (mark..SLOT_COUNT_MIN).map(|_| pool.lease().unwrap()).collect();
    assert_eq!(pool.counts().free, mark);
    assert!(!pool.is_low());
    leases.push(pool.lease().unwrap());
    assert!(pool.is_low());
    leases.pop();
    assert!(!pool.is_low());
}

#[test]
#[cfg(debug_assertions)]
fn a_freed_slot_is_poisoned_to_its_last_byte() {
    let pool = Pool::for_test();
    let buf = received(&pool, &[0x11; SLOT_LEN]);
    let address = buf.as_ptr();
    let piece = buf.freeze().split_off(SLOT_LEN - 1);
    assert_eq!(piece[..], [0x11], "not poisoned while a piece is in use");
    drop(piece);
    assert!(freed_bytes(address).iter().all(|&byte| byte == POISON));
}

#[test]
fn a_thread_and_a_region_have_one_pool_at_a_time() {
    let plan = PoolPlan::new(SLOT_COUNT_MIN as usize * SLOT_LEN).unwrap();
    let regions = Regions::reserve(2, plan).unwrap();
    let (handle, _) = regions.lend(Hugepages::Try).unwrap();
    let (other, _) = regions.lend(Hugepages::Try).unwrap();
    let pool = Pool::attach(handle.clone());
    assert!(panics(|| Pool::attach(other.clone())), "this thread already has a pool");
    let attached_elsewhere = std::thread::spawn({
        let handle = handle.clone();
        move || panics(|| Pool::attach(handle))
    });
    assert!(attached_elsewhere.join().unwrap(), "the region already has a pool");
    drop(pool);
    let pool = Pool::attach(other);
    drop(pool);
    assert_eq!(
        Pool::attach(handle).counts().total,
        SLOT_COUNT_MIN,
        "neither refusal has a lasting effect"
    );
}

#[test]
fn slots_of_another_pool_are_not_charged() {
    let (sender, receiver) = std::sync::mpsc::channel();
    let elsewhere = std::thread::spawn(move || {
        let pool = Pool::for_test();
        sender.send(received(&pool, b"elsewhere")).unwrap();
    });
    elsewhere.join().unwrap();
    let plan = PoolPlan::new((SLOT_COUNT_MIN as usize + 1) * SLOT_LEN).unwrap();
    let (handle, _) = Regions::reserve(1, plan).unwrap().lend(Hugepages::Off).unwrap();
    let pool = Pool::attach(handle);
    let foreign = receiver.recv().unwrap();
    assert!(!pool.charge(&foreign, 7));
    assert_eq!(pool.held_by(7), 0);
    assert!(panics(|| pool.send(Vec::from(foreign))), "a slot, but of another region");
}

#[test]
fn advice_is_given_once_and_each_region_has_its_own_memory() {
    let plan = PoolPlan::new((SLOT_COUNT_MIN as usize + 2) * SLOT_LEN).unwrap();
    let regions = Regions::reserve(2, plan).unwrap();
    let (first, first_mapping) = regions.lend(Hugepages::Try).unwrap();
    let (second, second_mapping) = regions.lend(Hugepages::Try).unwrap();
    if first_mapping.backing != Backing::Hugetlb {
        assert!(first_mapping.advice.is_some());
        assert_eq!(second_mapping.advice, None);
    }
    let first = Pool::attach(first).span().0;
    let second = Pool::attach(second).span().0;
    assert!(first.addr().abs_diff(second.addr()) >= region::STRIDE_MIN);
}

#[test]
fn required_hugepages_are_lent_or_refused_and_others_lent_after_that() {
    let plan = PoolPlan::new((SLOT_COUNT_MIN as usize + 6) * SLOT_LEN).unwrap();
    let regions = Regions::reserve(1, plan).unwrap();
    match regions.lend(Hugepages::Require) {
        Ok((_, mapping)) => assert_eq!(mapping.backing, Backing::Hugetlb),
        Err(error) => assert!(error.to_string().contains("\"require\""), "{error}"),
    }
    let (handle, mapping) = regions.lend(Hugepages::Off).unwrap();
    assert_eq!(mapping.backing, Backing::Plain);
    assert_eq!(Pool::attach(handle).counts().free, SLOT_COUNT_MIN + 6);
}

#[test]
fn a_pool_longer_than_reserved_is_refused_with_both_lengths() {
    drop(Pool::for_test());
    let plan = PoolPlan::new(SLOT_COUNT_MAX as usize * SLOT_LEN).unwrap();
    let error = Regions::reserve(1, plan).unwrap_err();
    assert!(matches!(error, RegionError::PoolGrew { .. }));
    assert!(error.to_string().contains("2281701376 bytes"), "{error}");
}
