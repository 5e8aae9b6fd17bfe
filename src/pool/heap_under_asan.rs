//! The heap beside the slots under AddressSanitizer: the system's, which the sanitizer replaces by
//! its own, so that it sees each block. It stands in for `heap.rs`, and has its functions.

use std::alloc::{GlobalAlloc as _, Layout, System};

/// # Safety
/// As [`std::alloc::GlobalAlloc::alloc`].
pub(super) unsafe fn alloc(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promises are passed on.
    unsafe { System.alloc(layout) }
}

/// # Safety
/// As [`std::alloc::GlobalAlloc::alloc_zeroed`].
pub(super) unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
    // SAFETY: the caller's promises are passed on.
    unsafe { System.alloc_zeroed(layout) }
}

/// # Safety
/// As [`std::alloc::GlobalAlloc::dealloc`], of a block of this heap.
pub(super) unsafe fn dealloc(block: *mut u8, layout: Layout) {
    // SAFETY: the caller's promises are passed on.
    unsafe { System.dealloc(block, layout) }
}

/// # Safety
/// As [`std::alloc::GlobalAlloc::realloc`], of a block of this heap.
pub(super) unsafe fn realloc(block: *mut u8, layout: Layout, len: usize) -> *mut u8 {
    // SAFETY: the caller's promises are passed on.
    unsafe { System.realloc(block, layout, len) }
}
