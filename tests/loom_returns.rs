//! Every interleaving of the pool's return queue, by the model checker loom.
//!
//! The file under test is compiled in here with loom's atomics in place of the real ones.

mod sync {
    pub use loom::sync::atomic::{AtomicU32, Ordering};
}

#[path = "../src/pool/returns.rs"]
mod returns;

use std::sync::atomic::{AtomicBool, Ordering};

use loom::cell::UnsafeCell;
use loom::sync::Arc;
use loom::thread;

use returns::Returns;

/// The queue and one byte of each slot's memory. The cell lets loom fail on any access that is not
/// ordered after the one before it.
struct Pool {
    returns: Returns,
    memory: Vec<UnsafeCell<u8>>,
}

impl Pool {
    fn new(slot_count: u32) -> Arc<Self> {
        let memory = (0..slot_count).map(|_| UnsafeCell::new(0)).collect();
        Arc::new(Self { returns: Returns::new(slot_count), memory })
    }

    /// Frees a slot as another thread does: a last write to the memory, then the return.
    fn free(&self, index: u32) {
        // SAFETY: loom checks that no other access is concurrent; the cell outlives the call.
        self.memory[index as usize].with_mut(|byte| unsafe { *byte += 1 });
        self.returns.push(index);
    }

    /// Takes all returned slots as the owner does and uses their memory. Returns their indices.
    fn take(&self) -> Vec<u32> {
        let mut taken = Vec::new();
        self.returns.take(|index| {
            // SAFETY: as in `free`.
            self.memory[index as usize].with_mut(|byte| unsafe { *byte += 1 });
            taken.push(index);
        });
        taken
    }
}

fn sorted(mut slots: Vec<u32>) -> Vec<u32> {
    slots.sort_unstable();
    slots
}

#[test]
fn two_threads_free_while_the_owner_takes() {
    // Whether the owner's first take ever found 1, 2, 3 or 4 slots: plain atomics, not loom's,
    // because they outlive each interleaving.
    let found = std::sync::Arc::new(std::array::from_fn::<_, 4, _>(|_| AtomicBool::new(false)));
    let seen = std::sync::Arc::clone(&found);
    loom::model(move || {
        let pool = Pool::new(4);
        // One slot is already returned, so that the owner's first take is a swap: loom does not try
        // all orders of a plain load and a compare-exchange that follows another load.
        pool.free(3);
        let (first, second) = (Arc::clone(&pool), Arc::clone(&pool));
        let first = thread::spawn(move || {
            first.free(0);
            first.free(1);
        });
        let second = thread::spawn(move || second.free(2));
        let mut taken = pool.take();
        seen[taken.len() - 1].store(true, Ordering::Relaxed);
        first.join().unwrap();
        second.join().unwrap();
        taken.extend(pool.take());
        assert_eq!(sorted(taken), [0, 1, 2, 3], "each slot is returned exactly once");
        assert!(pool.take().is_empty());
    });
    let found = found.iter().all(|found| found.load(Ordering::Relaxed));
    assert!(found, "loom must try owners that take early, in between and late");
}

#[test]
fn a_returned_slot_can_be_leased_and_returned_again() {
    loom::model(|| {
        let pool = Pool::new(2);
        pool.free(0);
        let other = Arc::clone(&pool);
        let other = thread::spawn(move || other.free(1));
        // The owner frees slot 0 again while slot 1 may be linked above or below it.
        let mut taken = pool.take();
        assert!(taken.contains(&0));
        pool.free(0);
        other.join().unwrap();
        taken.extend(pool.take());
        assert_eq!(sorted(taken), [0, 0, 1]);
    });
}

#[test]
fn a_slot_can_be_returned_again_while_the_owner_takes_the_others() {
    loom::model(|| {
        let pool = Pool::new(3);
        (0..3).for_each(|index| pool.free(index));
        let mut taken = Vec::new();
        pool.returns.take(|index| {
            taken.push(index);
            // Another thread leases it and returns it at once.
            let next_owner = Arc::clone(&pool);
            thread::spawn(move || next_owner.free(index)).join().unwrap();
        });
        assert_eq!(taken, [2, 1, 0], "a new link must not derail the traversal");
        assert_eq!(sorted(pool.take()), [0, 1, 2]);
    });
}

#[test]
fn the_last_slot_returned_is_taken_first() {
    loom::model(|| {
        let pool = Pool::new(3);
        for index in 0..3 {
            pool.free(index);
        }
        assert_eq!(pool.take(), [2, 1, 0]);
    });
}
