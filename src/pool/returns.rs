//! The return queue of slots that other threads free.
//!
//! A lock-free stack: any thread pushes, the owner takes all of it with one swap. Single entries
//! are never popped, so there is no ABA problem. The links are slot indices in a separate array:
//! freed memory is not accessed.
//!
//! The atomics come from the parent module, so that a test can substitute a model checker's.

use super::sync::{AtomicU32, Ordering};

/// The end of the chain.
const END: u32 = u32::MAX;

/// Slots of one region that other threads have freed and the owner has not yet taken.
#[derive(Debug)]
pub(super) struct Returns {
    /// The slot pushed last.
    head: AtomicU32,
    /// For each slot on the stack, the one below it.
    below: Box<[AtomicU32]>,
}

impl Returns {
    /// Returns an empty stack for slots `0..slot_count`.
    pub(super) fn new(slot_count: u32) -> Self {
        let below = (0..slot_count).map(|_| AtomicU32::new(END)).collect();
        Self { head: AtomicU32::new(END), below }
    }

    /// Returns slot `index` to its region. The caller was its only owner, so no other thread pushes
    /// the same one.
    pub(super) fn push(&self, index: u32) {
        let mut top = self.head.load(Ordering::Relaxed);
        loop {
            self.below[index as usize].store(top, Ordering::Relaxed);
            // Release: all that this thread did with the slot's memory, and the link, come before.
            // A later push continues the release sequence, so the owner's one acquire has them all.
            match self.head.compare_exchange_weak(top, index, Ordering::Release, Ordering::Relaxed)
            {
                Ok(_) => return,
                Err(newer) => top = newer,
            }
        }
    }

    /// Takes all slots pushed so far and calls `each` with every one, the last one first.
    pub(super) fn take(&self, mut each: impl FnMut(u32)) {
        // Mostly the stack is empty: a load alone does not take the cache line from the pushers.
        if self.head.load(Ordering::Relaxed) == END {
            return;
        }
        let mut index = self.head.swap(END, Ordering::Acquire);
        while index != END {
            // Read first: once `each` has the slot, its next owner may push it again.
            let below = self.below[index as usize].load(Ordering::Relaxed);
            each(index);
            index = below;
        }
    }
}
