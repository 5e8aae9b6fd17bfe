//! The heap beside the slots: mimalloc.
//!
//! The calls without an alignment are used if its blocks are aligned well enough anyway, which is
//! nearly always: those with an alignment take three times as long, and a request makes more than a
//! dozen.

use std::alloc::Layout;
use std::ffi::c_void;

use libmimalloc_sys::{
    mi_free, mi_malloc, mi_malloc_aligned, mi_realloc, mi_realloc_aligned, mi_zalloc,
    mi_zalloc_aligned,
};

/// The least alignment of a block, however small it is.
const ALIGN_ANYWAY: usize = 8;

/// # Safety
/// As [`std::alloc::GlobalAlloc::alloc`].
#[inline]
pub(super) unsafe fn alloc(layout: Layout) -> *mut u8 {
    let (len, align) = (layout.size(), layout.align());
    // SAFETY: the caller's promises are passed on; both answer with a block or with null.
    unsafe { if align <= ALIGN_ANYWAY { mi_malloc(len) } else { mi_malloc_aligned(len, align) } }
        .cast()
}

/// # Safety
/// As [`std::alloc::GlobalAlloc::alloc_zeroed`].
#[inline]
pub(super) unsafe fn alloc_zeroed(layout: Layout) -> *mut u8 {
    let (len, align) = (layout.size(), layout.align());
    // SAFETY: as in `alloc`.
    unsafe { if align <= ALIGN_ANYWAY { mi_zalloc(len) } else { mi_zalloc_aligned(len, align) } }
        .cast()
}

/// # Safety
/// As [`std::alloc::GlobalAlloc::dealloc`], of a block of this heap.
#[inline]
pub(super) unsafe fn dealloc(block: *mut u8, _layout: Layout) {
    // SAFETY: mimalloc finds out itself how a block of its own was made.
    unsafe { mi_free(block.cast()) }
}

/// # Safety
/// As [`std::alloc::GlobalAlloc::realloc`], of a block of this heap.
#[inline]
pub(super) unsafe fn realloc(block: *mut u8, layout: Layout, len: usize) -> *mut u8 {
    let (block, align): (*mut c_void, _) = (block.cast(), layout.align());
    // SAFETY: as in `alloc`; the block is this heap's.
    unsafe {
        if align <= ALIGN_ANYWAY {
            mi_realloc(block, len)
        } else {
            mi_realloc_aligned(block, len, align)
        }
    }
    .cast()
}
