//! Accesses that AddressSanitizer must report: a child process commits each. `scripts/asan` runs
//! them.

use super::*;
use crate::testing::in_child;

fn is_reported_as(report: &str, test: &str, deed: impl FnOnce(&Pool)) {
    let test = format!("pool::tests::forbidden::{test}");
    let Some(child) = in_child(&test, || deed(&Pool::for_test())) else { return };
    let stderr = String::from_utf8_lossy(&child.stderr);
    assert!(!child.status.success(), "{stderr}");
    assert!(stderr.contains(&format!("AddressSanitizer: {report}")), "{stderr}");
}

#[test]
fn a_read_of_a_freed_slot_is_reported() {
    is_reported_as("use-after-poison", "a_read_of_a_freed_slot_is_reported", |pool| {
        let buf = received(pool, b"bytes");
        let address = buf.as_ptr();
        drop(buf);
        // SAFETY: none: the slot is free.
        unsafe { address.read_volatile() };
    });
}

#[test]
fn a_read_of_a_slot_that_was_never_leased_is_reported() {
    let test = "a_read_of_a_slot_that_was_never_leased_is_reported";
    is_reported_as("use-after-poison", test, |pool| {
        let (start, span_len) = pool.span();
        // SAFETY: none: the slot is free.
        unsafe { start.add(span_len - 1).read_volatile() };
    });
}

#[test]
fn a_read_of_a_slot_that_the_kernel_may_write_is_reported() {
    let test = "a_read_of_a_slot_that_the_kernel_may_write_is_reported";
    is_reported_as("use-after-poison", test, |pool| {
        let provided = pool.provide(pool.lease().unwrap());
        // SAFETY: none: the kernel may be writing.
        unsafe { provided.address().add(SLOT_LEN - 1).read_volatile() };
    });
}

#[test]
fn a_write_to_a_batch_that_the_kernel_reads_is_reported() {
    let test = "a_write_to_a_batch_that_the_kernel_reads_is_reported";
    is_reported_as("use-after-poison", test, |pool| {
        let mut batch = pool.lease_vec().unwrap();
        batch.extend_from_slice(b"packets");
        let in_kernel = pool.send(batch);
        // SAFETY: none: the kernel may be reading.
        unsafe { in_kernel.address().cast_mut().write_volatile(0) };
    });
}

#[test]
fn a_read_past_the_last_slot_is_reported() {
    is_reported_as("use-after-poison", "a_read_past_the_last_slot_is_reported", |pool| {
        let (start, span_len) = pool.span();
        // SAFETY: none: the rest of the last page belongs to nobody.
        unsafe { start.add(span_len).read_volatile() };
    });
}

#[test]
fn a_read_of_a_freed_block_of_the_heap_is_reported() {
    let test = "a_read_of_a_freed_block_of_the_heap_is_reported";
    is_reported_as("heap-use-after-free", test, |_| {
        let block = vec![7_u8; 100];
        let address = block.as_ptr();
        drop(block);
        // SAFETY: none: the block is free.
        unsafe { address.read_volatile() };
    });
}
