//! The program's allocator, counting heap allocations.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;

use ringway::testing::internal::pool::{Pool, PoolAllocator};

/// [`PoolAllocator`] with a counter. Slots of a pool do not count as heap.
pub struct Counting;

thread_local! {
    static COUNT: Cell<u64> = const { Cell::new(0) };
}

/// Runs `work` and counts this thread's heap allocations meanwhile, including reallocations.
pub fn allocations<T>(work: impl FnOnce() -> T) -> (T, u64) {
    let before = COUNT.get();
    let done = work();
    (done, COUNT.get() - before)
}

fn count(block: *mut u8) -> *mut u8 {
    if !Pool::contains(block) {
        COUNT.set(COUNT.get() + 1);
    }
    block
}

// SAFETY: every call is passed on to PoolAllocator unchanged. Counting neither allocates nor
// unwinds: the count has no destructor and a constant initial value.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's guarantees are passed on.
        count(unsafe { PoolAllocator.alloc(layout) })
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        count(unsafe { PoolAllocator.alloc_zeroed(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are passed on.
        unsafe { PoolAllocator.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        // SAFETY: the caller's promises are passed on.
        count(unsafe { PoolAllocator.realloc(block, layout, new_len) })
    }
}
