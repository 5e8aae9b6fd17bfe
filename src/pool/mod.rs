//! Buffers: fixed slots in one region of memory per worker, used by the kernel and by the protocol
//! crates alike, so that payload stays where the kernel has written it.
//!
//! ```text
//!   Regions::reserve --> Regions::lend --> RegionHandle --> Pool::attach    on the worker's thread
//!                                                            |  lease, provide, send, counts
//!      region.rs   one address range, a region for each worker
//!      slots.rs    the holder of each slot: a table of legal transitions
//!      handover.rs Lease, Provided, InKernel: the owner of a slot, as a value
//!      alloc.rs    the allocator that makes a slot a plain BytesMut or Vec
//!      returns.rs  slots that other threads have freed
//!      plan.rs     how many slots each holder needs
//! ```
//!
//! ```standalone_crate
//! use ringway::testing::internal::pool::{Hugepages, Pool, PoolAllocator, PoolPlan, Regions};
//!
//! #[global_allocator]
//! static ALLOCATOR: PoolAllocator = PoolAllocator;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let plan = PoolPlan::new(6 << 20)?;
//! let (region, mapping) = Regions::reserve(1, plan)?.lend(Hugepages::Try)?;
//! println!("in {}{}", mapping.backing, mapping.advice.unwrap_or_default());
//!
//! let pool = Pool::attach(region);
//! let provided = pool.provide(pool.lease().ok_or("no slot is free")?);
//! // SAFETY: the slot is ours alone, and the three bytes fit.
//! let mut received = unsafe {
//!     provided.address().copy_from(b"abc".as_ptr(), 3);
//!     provided.complete(3)
//! };
//! let piece = received.split_to(1).freeze();
//! drop(received);
//! assert_eq!(pool.counts().owned, 1, "one byte is still referred to");
//! drop(piece);
//! assert_eq!(pool.counts().owned, 0);
//! # Ok(())
//! # }
//! ```
//!
//! Pieces of a received slot (`Bytes`) that are written to an upstream are not [`InKernel`]:
//! several may lie in one slot. The operation holds the `Bytes` until its completion, so the slot
//! stays owned.

mod alloc;
mod handover;
mod heap;
mod heap_len;
mod plan;
mod region;
mod returns;
mod slots;
#[cfg(test)]
mod tests;

/// The atomics of [`returns`]; a model checker replaces them with its own.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU32, Ordering};
}

use std::cell::Cell;
use std::marker::PhantomData;

use bytes::BytesMut;

pub use crate::hugepages::Hugepages;
pub use alloc::PoolAllocator;
pub(crate) use handover::Provided;
pub use handover::{InKernel, Lease};
pub use plan::PoolPlan;
pub use region::Regions;
pub(crate) use region::{RegionHandle, heap_len};
pub(crate) use slots::SlotCounts;

use crate::limits::SLOT_LEN;
use handover::Place;
use region::Region;
use slots::{SlotId, Slots};

/// The byte that debug builds fill a freed slot with.
const POISON: u8 = 0xDB;

/// A worker's pool: the region's slots, on the only thread that may change their holders.
#[derive(Debug)]
pub struct Pool {
    region: &'static Region,
    _handle: RegionHandle,
    is_claimed: Cell<bool>,
    here: PhantomData<*const ()>,
}

impl Pool {
    /// Makes the calling thread the owner of the region's slots, until the pool is dropped.
    ///
    /// # Panics
    ///
    /// If the region or the thread has a pool already, or [`PoolAllocator`] is not the program's
    /// allocator:
    ///
    /// ```should_panic
    /// use ringway::testing::internal::pool::{Hugepages, Pool, PoolPlan, Regions};
    ///
    /// let Ok(plan) = PoolPlan::new(6 << 20) else { return };
    /// let Ok(regions) = Regions::reserve(1, plan) else { return };
    /// let Ok((region, _)) = regions.lend(Hugepages::Try) else { return };
    /// Pool::attach(region);
    /// ```
    pub fn attach(handle: RegionHandle) -> Self {
        let region = handle.region();
        assert!(region.attach(), "a region has one pool at a time");
        let is_claimed = Cell::new(false);
        let pool = Self { region, _handle: handle, is_claimed, here: PhantomData };
        pool.take_returns();
        // Fails here, at the start, if the program lacks the allocator.
        drop(pool.lease());
        pool
    }

    /// Returns whether `address` lies in any pool's memory.
    #[inline]
    pub fn contains(address: *const u8) -> bool {
        region::is_ours(address.addr())
    }

    /// Leases a free slot; `None` if there is none.
    pub fn lease(&self) -> Option<Lease> {
        self.find_free()?;
        let buf = alloc::in_pool_mode(|| BytesMut::with_capacity(SLOT_LEN));
        assert_eq!(buf.capacity(), SLOT_LEN, "a slot is used to its last byte");
        let id = self.own_slot(buf.as_ptr()).expect("pool mode serves from this thread's pool");
        Some(Lease::new(buf, Place::new(self.region, id)))
    }

    /// Leases a free slot as an empty vector of [`SLOT_LEN`] bytes of capacity, for a batch to
    /// send.
    pub fn lease_vec(&self) -> Option<Vec<u8>> {
        self.find_free()?;
        let vec = alloc::in_pool_mode(|| Vec::with_capacity(SLOT_LEN));
        assert_eq!(vec.capacity(), SLOT_LEN, "a slot is used to its last byte");
        assert!(Self::contains(vec.as_ptr()), "pool mode serves from the pool");
        Some(vec)
    }

    /// Hands a slot to the kernel for writing.
    pub fn provide(&self, lease: Lease) -> Provided {
        lease.provide()
    }

    /// Hands a filled slot to the kernel for reading. The vector must not be sent, grown or dropped
    /// before the completion, so it is inaccessible until then.
    ///
    /// # Panics
    ///
    /// If `batch` is not from this pool's [`Self::lease_vec`] (a vector that outgrew its slot is
    /// not).
    pub fn send(&self, batch: Vec<u8>) -> InKernel {
        let id = self.own_slot(batch.as_ptr()).expect("a batch is sent from a slot of this pool");
        InKernel::new(batch, Place::new(self.region, id))
    }

    /// Charges the slot of `filled` to `flow`, a keyed hash of the peer that filled it. A slot is
    /// charged to one flow, and to none once it is free. Returns `false` and does nothing for bytes
    /// outside of this pool and for an empty slice.
    pub fn charge(&self, filled: &[u8], flow: u16) -> bool {
        if filled.is_empty() {
            return false;
        }
        match region::locate(filled.as_ptr().addr()) {
            Some((region, index)) if std::ptr::eq(region, self.region) => {
                self.slots(|slots| slots.charge(index, flow))
            }
            _ => false,
        }
    }

    pub fn held_by(&self, flow: u16) -> u16 {
        self.slots(|slots| slots.held_by(flow))
    }

    /// Returns the numbers of slots by state. Slots freed by other threads count as owned until
    /// [`Self::take_returns`].
    pub fn counts(&self) -> SlotCounts {
        self.slots(|slots| slots.counts())
    }

    /// Returns whether fewer slots are free than [`PoolPlan::low_water`]: received bytes are then
    /// copied out of their slots.
    pub fn is_low(&self) -> bool {
        self.slots(|slots| slots.free_count()) < self.region.plan().low_water()
    }

    /// Returns the bytes of the heap that the region's threads took less those that they gave back.
    pub fn heap_balance(&self) -> isize {
        self.region.heap_count.value()
    }

    /// Frees the slots that other threads have returned. Called once per turn of the worker's loop.
    pub fn take_returns(&self) {
        self.slots(|slots| {
            self.region.returns.take(|index| {
                if let Err(refused) = slots.release(index) {
                    panic!("another thread freed what it did not own: {refused:?}");
                }
            });
        });
    }

    /// Frees the slots whose [`Provided`] or [`InKernel`] was dropped without its completion, after
    /// a worker's panic, so that the next worker has the whole region. Returns their number.
    ///
    /// # Safety
    ///
    /// No operation and no buffer ring in the kernel refers to this region any longer, and no
    /// [`Provided`] or [`InKernel`] of it is alive.
    pub unsafe fn release_abandoned(&self) -> u32 {
        self.slots(|slots| {
            slots.release_abandoned(|index| {
                // SAFETY: nobody has the slot, the kernel included, as the caller promises.
                unsafe { alloc::poison(self.region.slot(index)) };
            })
        })
    }

    /// Claims the exclusive right to hand slots to the kernel, until [`Self::unclaim`]. Returns
    /// `false` if it is claimed already.
    pub(crate) fn claim(&self) -> bool {
        !self.is_claimed.replace(true)
    }

    pub(crate) fn unclaim(&self) {
        self.is_claimed.set(false);
    }

    /// Returns the shares of the pool's holders.
    pub fn plan(&self) -> &PoolPlan {
        self.region.plan()
    }

    /// Returns the memory of all slots, which is contiguous: its first byte and its length.
    #[cfg(test)]
    pub(crate) fn span(&self) -> (*mut u8, usize) {
        (self.region.base().as_ptr(), self.plan().slots_len())
    }

    /// Ensures that a slot is free; `None` if none is.
    fn find_free(&self) -> Option<()> {
        if self.slots(|slots| slots.free_count()) == 0 {
            self.take_returns();
        }
        (self.slots(|slots| slots.free_count()) > 0).then_some(())
    }

    /// Returns the current lease of this pool's slot that starts at `address`.
    fn own_slot(&self, address: *const u8) -> Option<SlotId> {
        let (region, index) = region::locate(address.addr())?;
        let is_own =
            std::ptr::eq(region, self.region) && region.slot(index).cast_const() == address;
        is_own.then(|| self.slots(|slots| slots.id_at(index)))
    }

    fn slots<T>(&self, f: impl FnOnce(&mut Slots) -> T) -> T {
        f(&mut self
            .region
            .slots()
            .expect("attached to this thread, and nobody holds them for long"))
    }
}

#[cfg(test)]
impl Pool {
    /// Returns the smallest pool, for one test's thread; the next test reuses the region.
    pub(crate) fn for_test() -> Self {
        let plan = PoolPlan::new(crate::limits::SLOT_COUNT_MIN as usize * SLOT_LEN).unwrap();
        let (handle, _) = Regions::reserve(1, plan).unwrap().lend(Hugepages::Try).unwrap();
        Self::attach(handle)
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.region.detach();
    }
}
