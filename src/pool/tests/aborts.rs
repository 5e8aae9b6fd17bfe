//! Contract violations that abort the process: a child process commits each.

use std::alloc::{GlobalAlloc as _, Layout};
use std::os::unix::process::ExitStatusExt as _;

use super::*;
use crate::testing::in_child;

fn aborts_with(test: &str, text: &str, deed: impl FnOnce(&Pool)) {
    let test = format!("pool::tests::aborts::{test}");
    let Some(child) = in_child(&test, || deed(&Pool::for_test())) else { return };
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert_eq!(child.status.signal(), Some(libc::SIGABRT), "{stderr}");
    assert!(stderr.contains(text), "{stderr}");
}

fn free_slot_at(address: *mut u8) {
    let layout = Layout::from_size_align(SLOT_LEN, 1).unwrap();
    // SAFETY: none: the test violates the contract on purpose, in a process of its own.
    unsafe { PoolAllocator.dealloc(address, layout) }
}

#[test]
fn a_second_free_aborts() {
    aborts_with("a_second_free_aborts", "freed twice", |pool| {
        let address = pool.span().0;
        drop(pool.lease());
        free_slot_at(address);
    });
}

#[test]
fn a_free_while_the_kernel_holds_the_slot_aborts() {
    aborts_with(
        "a_free_while_the_kernel_holds_the_slot_aborts",
        "while the kernel had it",
        |pool| {
            free_slot_at(pool.provide(pool.lease().unwrap()).address());
        },
    );
}

#[test]
fn a_free_inside_a_slot_aborts() {
    aborts_with("a_free_inside_a_slot_aborts", "inside its slot", |pool| {
        free_slot_at(pool.lease_vec().unwrap().as_mut_ptr().wrapping_add(1));
    });
}

#[test]
fn a_free_past_the_last_slot_aborts() {
    aborts_with("a_free_past_the_last_slot_aborts", "outside of any slot", |pool| {
        let (start, span_len) = pool.span();
        free_slot_at(start.wrapping_add(span_len));
    });
}

#[test]
fn a_panic_inside_of_the_allocator_aborts() {
    aborts_with("a_panic_inside_of_the_allocator_aborts", "the pool's books are wrong", |pool| {
        pool.region.slots().unwrap().damage();
        // Were it to unwind, the child would end with the code of a failed test.
        let _ = pool.lease();
    });
}

#[test]
#[cfg(debug_assertions)]
fn a_write_after_the_free_aborts() {
    aborts_with("a_write_after_the_free_aborts", "a free slot was written to", |pool| {
        let provided = pool.provide(pool.lease().unwrap());
        let address = provided.address();
        drop(provided.reclaim());
        // SAFETY: none: this stands for a kernel that still writes to a slot it has returned.
        as_kernel(address, || unsafe { address.add(SLOT_LEN - 1).write(0) });
        let _ = pool.lease();
    });
}
