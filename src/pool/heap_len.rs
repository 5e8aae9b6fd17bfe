//! The bytes in use on the heap, as asked for. They are what traffic makes the process hold beside
//! the pool, whatever holds them: the budget of memory is checked against this number.
//!
//! Each worker counts by itself, without an atomic read-modify-write; all other threads share one
//! count. A block may be freed by another thread than made it, so only the sum of all counts is a
//! length.

use std::sync::atomic::{AtomicIsize, Ordering};

/// One count, on a cache line of its own.
#[derive(Debug)]
#[repr(align(64))]
pub(super) struct HeapCount(AtomicIsize);

impl HeapCount {
    pub(super) const fn new() -> Self {
        Self(AtomicIsize::new(0))
    }

    /// Adds `change`. Only one thread at a time may do so.
    #[inline]
    pub(super) fn add_alone(&self, change: isize) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
    }

    /// Adds `change`, from any thread.
    #[inline]
    pub(super) fn add(&self, change: isize) {
        self.0.fetch_add(change, Ordering::Relaxed);
    }

    pub(super) fn value(&self) -> isize {
        self.0.load(Ordering::Relaxed)
    }
}

/// The count of all threads that have no pool.
pub(super) static OTHERS: HeapCount = HeapCount::new();

#[cfg(test)]
mod tests {
    use crate::pool::{Pool, heap_len};

    /// Other tests of this process allocate too, unless each has a process of its own.
    const OTHER_LEN_MAX: usize = 64 << 20;
    const LEN: usize = 1 << 30;

    #[test]
    fn what_is_allocated_counts_until_it_is_freed_on_any_thread() {
        let before = heap_len();
        let pool = Pool::for_test();
        let mut block = Vec::<u8>::with_capacity(LEN);
        assert!(heap_len().abs_diff(before + LEN) < OTHER_LEN_MAX);
        block.reserve_exact(2 * LEN);
        assert!(heap_len().abs_diff(before + 2 * LEN) < OTHER_LEN_MAX);
        let lease = pool.lease();
        assert!(heap_len().abs_diff(before + 2 * LEN) < OTHER_LEN_MAX, "a slot is not of the heap");
        drop(lease);
        std::thread::spawn(move || drop(block)).join().unwrap();
        assert!(heap_len().abs_diff(before) < OTHER_LEN_MAX);
        drop(pool);
        assert!(heap_len().abs_diff(before) < OTHER_LEN_MAX);
    }
}
