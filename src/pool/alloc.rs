//! The program's allocator: mimalloc's heap, and for single allocations the pool.
//!
//! Protocol crates take their buffers as `BytesMut` and `Vec<u8>`, which own memory of the global
//! allocator and give it back to it. So the pool is a part of that allocator:
//!
//! ```text
//!   Pool::lease --- arms this thread ---> alloc(SLOT_LEN) ---> a slot; disarmed again
//!   any other code ---------------------> alloc(..) ---------> heap
//!   drop of the last reference ---------> dealloc(address) --> ours? its slot : heap
//! ```
//!
//! Memory is recognized by its address, never by its layout: a shrunk buffer keeps its slot. The
//! owner's thread frees a slot directly, any other thread through the region's return queue.
//!
//! Nothing here allocates, and nothing panics (unwinding out of an allocator is undefined): if the
//! caller broke the contract, the process prints that and aborts.

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::ptr;

use super::POISON;
use super::heap;
use super::heap_len::OTHERS;
use super::region::{self, Region};
use crate::limits::SLOT_LEN;

/// Made the program's allocator by
/// `#[global_allocator] static ALLOCATOR: PoolAllocator = PoolAllocator;`.
#[derive(Debug)]
pub struct PoolAllocator;

/// The allocator's state of a thread. Without a destructor and with a constant initial value, it
/// can be used from a thread's first instruction to its last, and does not allocate.
struct Here {
    region: Cell<Option<&'static Region>>,
    is_armed: Cell<bool>,
}

thread_local! {
    static HERE: Here = const { Here { region: Cell::new(None), is_armed: Cell::new(false) } };
}

/// Returns whether the calling thread has a pool on `region`.
#[inline]
pub(super) fn is_attached_here(region: &Region) -> bool {
    HERE.with(|here| here.region.get().is_some_and(|attached| ptr::eq(attached, region)))
}

pub(super) fn has_pool_here() -> bool {
    HERE.with(|here| here.region.get().is_some())
}

/// Makes the calling thread the owner of `region`.
pub(super) fn attach_here(region: &'static Region) {
    HERE.with(|here| here.region.set(Some(region)));
}

pub(super) fn detach_here() {
    HERE.with(|here| here.region.set(None));
}

/// Runs `allocate`, which makes one allocation of `SLOT_LEN` bytes, in pool mode. The thread must
/// have a pool with a free slot.
pub(super) fn in_pool_mode<T>(allocate: impl FnOnce() -> T) -> T {
    HERE.with(|here| here.is_armed.set(true));
    let allocated = allocate();
    let is_unused = HERE.with(|here| here.is_armed.replace(false));
    assert!(
        !is_unused,
        "the program's allocator is not the pool's: it needs \
         `#[global_allocator] static ALLOCATOR: PoolAllocator = PoolAllocator;`"
    );
    allocated
}

// SAFETY: every block is the heap's or a slot. A slot is handed out once until it is freed (the
// slot table refuses anything else), is SLOT_LEN bytes long and aligned to a page, and stays mapped
// for the life of the process. Blocks are told apart by address: the heap never answers with an
// address inside the reserved range, which is never unmapped. No path unwinds.
unsafe impl GlobalAlloc for PoolAllocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.size() == SLOT_LEN && layout.align() == 1 {
            let slot = armed_slot();
            if !slot.is_null() {
                return slot;
            }
        }
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { heap::alloc(layout) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // Pool mode never asks for zeroes.
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { heap::alloc_zeroed(layout) }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if region::is_ours(block.addr()) {
            // SAFETY: the caller owns the block and ends its life here.
            return unsafe { free_slot(block) };
        }
        count(-(layout.size() as isize));
        // SAFETY: not ours, so the heap's, and the caller's promises are passed on.
        unsafe { heap::dealloc(block) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
        if region::is_ours(block.addr()) {
            // SAFETY: the caller owns the block, and its promises are passed on.
            return unsafe { resize_slot(block, layout, new_len) };
        }
        count(new_len as isize - layout.size() as isize);
        // SAFETY: not ours, so the heap's, and the caller's promises are passed on.
        unsafe { heap::realloc(block, layout, new_len) }
    }
}

/// Counts bytes of the heap: of a layout, so at most `isize::MAX`. A request that the heap refuses
/// counts too; that is nearly always the end of the process.
#[inline]
fn count(change: isize) {
    HERE.with(|here| match here.region.get() {
        Some(region) => region.heap_count.add_alone(change),
        None => OTHERS.add(change),
    });
}

/// Returns the next free slot, once, if this thread is in pool mode; otherwise null.
fn armed_slot() -> *mut u8 {
    let Some(region) = HERE.with(|here| here.region.get().filter(|_| here.is_armed.replace(false)))
    else {
        return ptr::null_mut();
    };
    let Some(mut slots) = region.slots() else {
        fault("a slot was requested while the slot table is in use");
    };
    if cfg!(debug_assertions)
        && let Some((index, true)) = slots.next_free()
        && !is_poisoned(region.slot(index))
    {
        fault("a free slot was written to");
    }
    match slots.lease() {
        Some(id) => region.slot(id.index),
        None => fault("pool mode was entered without a free slot"),
    }
}

/// # Safety
///
/// `block` is a block of ours in the reserved range, and the caller owns it.
unsafe fn free_slot(block: *mut u8) {
    let Some((region, index)) = region::locate(block.addr()) else {
        fault("memory outside of any slot was freed");
    };
    let start = region.slot(index);
    if start != block {
        fault("memory was freed by an address inside its slot");
    }
    // SAFETY: the whole slot belongs to the block that the caller owns.
    unsafe { poison(start) };
    if !is_attached_here(region) {
        return region.returns.push(index);
    }
    let Some(mut slots) = region.slots() else {
        fault("a slot was freed while the slot table is in use");
    };
    if slots.release(index).is_err() {
        fault("a slot was freed twice, or while the kernel had it");
    }
}

/// # Safety
///
/// As for [`GlobalAlloc::realloc`], with a `block` in the reserved range.
unsafe fn resize_slot(block: *mut u8, layout: Layout, new_len: usize) -> *mut u8 {
    if new_len <= SLOT_LEN {
        return block;
    }
    let Ok(new_layout) = Layout::from_size_align(new_len, layout.align()) else {
        return ptr::null_mut();
    };
    count(new_len as isize);
    // SAFETY: more than SLOT_LEN bytes, so not none.
    let moved = unsafe { heap::alloc(new_layout) };
    if !moved.is_null() {
        // SAFETY: the old block has `layout.size()` bytes, the new one more, and they are distinct;
        // then nobody refers to the old one any longer.
        unsafe {
            ptr::copy_nonoverlapping(block, moved, layout.size().min(new_len));
            free_slot(block);
        }
    }
    moved
}

/// Fills a slot that is about to be freed, in debug builds, so that later reads and writes are
/// detected.
///
/// # Safety
///
/// `slot` is the start of a slot that only the caller uses.
pub(super) unsafe fn poison(slot: *mut u8) {
    if cfg!(debug_assertions) {
        // SAFETY: a slot is SLOT_LEN bytes long, and the caller's.
        unsafe { slot.write_bytes(POISON, SLOT_LEN) };
    }
}

/// Returns whether all bytes of a free slot are as the free left them.
fn is_poisoned(slot: *mut u8) -> bool {
    // SAFETY: a free slot is nobody's but the pool's, and was filled with POISON when it was freed.
    // It is all POISON if its first byte is and every byte equals the next one.
    unsafe {
        slot.read() == POISON && libc::memcmp(slot.cast(), slot.add(1).cast(), SLOT_LEN - 1) == 0
    }
}

/// Ends the process, since memory can't be trusted any longer. Neither allocates nor unwinds.
#[cold]
fn fault(what: &'static str) -> ! {
    for part in ["ringway: bug in buffer handling: ", what, "; aborting\n"] {
        // SAFETY: the bytes are static; a standard error that is closed or full loses the text.
        unsafe { libc::write(libc::STDERR_FILENO, part.as_ptr().cast(), part.len()) };
    }
    std::process::abort()
}
