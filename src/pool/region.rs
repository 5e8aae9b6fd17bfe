//! Regions: one reserved address range for the process, one part of it for each worker.
//!
//! ```text
//!  base                base + stride              base + 2 * stride
//!   | slot 0 | slot 1 | ... | hole | slot 0 | ...       | ...       64 parts
//!   |<- region 0, worker A ->|      |<- region 1 ->|
//! ```
//!
//! Holes can't be accessed, so an overrun of a region's end faults instead of reaching its
//! neighbor. A region lives as long as the process: its slots may be referred to from anywhere. The
//! region of a worker that ended goes to the next one, and slots that are still referred to stay
//! out until their last reference is dropped.

use std::cell::{RefCell, RefMut};
use std::fmt;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::alloc;
use super::heap_len::{HeapCount, OTHERS};
use super::plan::PoolPlan;
use super::returns::Returns;
use super::slots::Slots;
use crate::host::memory::{self, HUGEPAGE_LEN, MapError, Mapping};
use crate::hugepages::Hugepages;
use crate::limits::{REGION_COUNT_MAX, SLOT_LEN};

/// Least distance between two regions. Address space costs nothing, and so pools of any smaller
/// length fit beside each other.
pub(super) const STRIDE_MIN: usize = 128 << 20;

// The range, written once. Its length is written last and read first: a reader that sees a length
// sees the rest too, and before that no address is ours.
static RANGE_BASE: AtomicUsize = AtomicUsize::new(0);
static RANGE_LEN: AtomicUsize = AtomicUsize::new(0);
static STRIDE_SHIFT: AtomicU32 = AtomicU32::new(0);
/// Each region, once it is mapped. Never unset.
static REGIONS: [AtomicPtr<Region>; REGION_COUNT_MAX] =
    [const { AtomicPtr::new(std::ptr::null_mut()) }; REGION_COUNT_MAX];

/// The state of mapping and lending regions; not on the data path.
static LENDING: Mutex<Lending> = Mutex::new(Lending { range: None, mapped: 0, spare: Vec::new() });

struct Lending {
    range: Option<Range>,
    mapped: usize,
    spare: Vec<&'static Region>,
}

#[derive(Clone, Copy)]
struct Range {
    base: NonNull<u8>,
    stride: usize,
}

// SAFETY: a range is an address and a length; who may touch the memory is each region's business.
unsafe impl Send for Range {}

fn lending() -> MutexGuard<'static, Lending> {
    // A panic inside leaves at most a region that is never lent again.
    LENDING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns whether `address` lies in the reserved range.
#[inline]
pub(super) fn is_ours(address: usize) -> bool {
    let len = RANGE_LEN.load(Ordering::Acquire);
    address.wrapping_sub(RANGE_BASE.load(Ordering::Relaxed)) < len
}

/// Returns the slot that `address` lies in.
#[inline]
pub(super) fn locate(address: usize) -> Option<(&'static Region, u32)> {
    if !is_ours(address) {
        return None;
    }
    let offset = address - RANGE_BASE.load(Ordering::Relaxed);
    let part = offset >> STRIDE_SHIFT.load(Ordering::Relaxed);
    let region = REGIONS.get(part)?.load(Ordering::Acquire);
    // SAFETY: an entry is null or a region leaked by `Region::create`, which nobody ever frees.
    let region = unsafe { region.as_ref() }?;
    Some((region, region.slot_at(address)?))
}

/// Returns the bytes in use on the heap of the process, slots not included.
pub(crate) fn heap_len() -> usize {
    let regions = REGIONS.iter().map(|region| {
        // SAFETY: an entry is null or a region leaked by `Region::create`, which nobody ever frees.
        let region = unsafe { region.load(Ordering::Acquire).as_ref() };
        region.map_or(0, |region| region.heap_count.value())
    });
    // Counts that are read while memory changes threads may sum up to less than nothing.
    (OTHERS.value() + regions.sum::<isize>()).max(0) as usize
}

/// One worker's memory and the state of its slots.
pub(super) struct Region {
    base: NonNull<u8>,
    plan: PoolPlan,
    hugepages: Hugepages,
    mapping: Mapping,
    /// A thread has a pool on it. Only that thread may use `slots`.
    is_attached: AtomicBool,
    slots: RefCell<Slots>,
    /// Bytes of the heap that the attached thread took and did not give back.
    pub(super) heap_count: HeapCount,
    /// Slots that other threads have freed.
    pub(super) returns: Returns,
}

// SAFETY: `slots` is only reached through `Region::slots`, which checks that the calling thread is
// the one attached; attaching and detaching order one owner's accesses before the next one's. The
// memory behind `base` belongs to whoever has the slots. The rest is atomic or never written.
unsafe impl Sync for Region {}
// SAFETY: nothing in it depends on the thread that made it.
unsafe impl Send for Region {}

impl Region {
    fn create(base: NonNull<u8>, plan: PoolPlan, hugepages: Hugepages, mapping: Mapping) -> Self {
        let slot_count = plan.slot_count();
        Self {
            base,
            plan,
            hugepages,
            mapping,
            is_attached: AtomicBool::new(false),
            slots: RefCell::new(Slots::new(slot_count)),
            heap_count: HeapCount::new(),
            returns: Returns::new(slot_count),
        }
    }

    pub(super) fn plan(&self) -> &PoolPlan {
        &self.plan
    }

    #[cfg(test)]
    pub(super) fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Returns the address of the first byte of slot `index`.
    pub(super) fn slot(&self, index: u32) -> *mut u8 {
        assert!(index < self.plan.slot_count());
        self.base.as_ptr().wrapping_add(index as usize * SLOT_LEN)
    }

    #[inline]
    fn slot_at(&self, address: usize) -> Option<u32> {
        let index = address.wrapping_sub(self.base.addr().get()) / SLOT_LEN;
        (index < self.plan.slot_count() as usize).then_some(index as u32)
    }

    /// Returns the slots, borrowed: the caller must not allocate or free slot memory meanwhile.
    ///
    /// Returns `None` on any thread but the attached one, and while they are held.
    #[inline]
    pub(super) fn slots(&self) -> Option<RefMut<'_, Slots>> {
        if !alloc::is_attached_here(self) {
            return None;
        }
        self.slots.try_borrow_mut().ok()
    }

    /// Makes the calling thread the owner. Returns `false` if another thread is.
    pub(super) fn attach(&'static self) -> bool {
        assert!(!alloc::has_pool_here(), "a thread has one pool at a time");
        // Acquire: the last owner's changes to the slots are visible.
        let free =
            self.is_attached.compare_exchange(false, true, Ordering::Acquire, Ordering::Relaxed);
        if free.is_ok() {
            alloc::attach_here(self);
        }
        free.is_ok()
    }

    /// Reverses [`Self::attach`], on the same thread.
    pub(super) fn detach(&'static self) {
        assert!(
            alloc::is_attached_here(self),
            "a pool is detached by the thread it was attached on"
        );
        alloc::detach_here();
        self.is_attached.store(false, Ordering::Release);
    }
}

impl fmt::Debug for Region {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut fields = f.debug_struct("Region");
        fields.field("base", &self.base).field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// The address range of all pools of the process, and the length of each.
#[derive(Debug)]
pub struct Regions {
    plan: PoolPlan,
    worker_count: usize,
    /// Regions mapped so far: the advice is about the rest.
    mapped_count: AtomicUsize,
    is_advised: AtomicBool,
}

impl Regions {
    /// Reserves the range once per process; a later call shares it.
    pub fn reserve(worker_count: usize, plan: PoolPlan) -> Result<Self, RegionError> {
        let region_len = region_len(&plan);
        let mut lending = lending();
        match lending.range {
            Some(range) if region_len + HUGEPAGE_LEN > range.stride => {
                let region_len_max = range.stride - HUGEPAGE_LEN;
                return Err(RegionError::PoolGrew { region_len, region_len_max });
            }
            Some(_) => {}
            None => {
                let stride = (region_len + HUGEPAGE_LEN).next_power_of_two().max(STRIDE_MIN);
                let range_len = stride * REGION_COUNT_MAX;
                let base = memory::reserve(range_len).map_err(RegionError::Refused)?;
                lending.range = Some(Range { base, stride });
                RANGE_BASE.store(base.addr().get(), Ordering::Relaxed);
                STRIDE_SHIFT.store(stride.ilog2(), Ordering::Relaxed);
                RANGE_LEN.store(range_len, Ordering::Release);
            }
        }
        Ok(Self {
            plan,
            worker_count,
            mapped_count: AtomicUsize::new(0),
            is_advised: AtomicBool::new(false),
        })
    }

    /// Lends a region: that of a worker that ended, or new memory. Best called on the worker's own
    /// thread, pinned to its core, so that the memory is near to it.
    ///
    /// Only the first region with an advice carries it.
    pub fn lend(&self, hugepages: Hugepages) -> Result<(RegionHandle, Mapping), RegionError> {
        let mut lending = lending();
        let fits = |region: &&Region| region.plan == self.plan && region.hugepages == hugepages;
        if let Some(place) = lending.spare.iter().position(fits) {
            let region = lending.spare.swap_remove(place);
            return Ok((RegionHandle::new(region), region.mapping.clone()));
        }
        if lending.mapped == REGION_COUNT_MAX {
            return Err(RegionError::TooMany);
        }
        let range = lending.range.expect("a Regions exists, so the range was reserved");
        let region_len = region_len(&self.plan);
        let already = self.mapped_count.fetch_add(1, Ordering::Relaxed);
        let wanted_len = region_len * self.worker_count.saturating_sub(already).max(1);
        // A part that can't be mapped is not tried again: its state is unknown.
        let part = lending.mapped;
        lending.mapped += 1;
        // SAFETY: part `part` of the range was never mapped, and the lock keeps others out.
        let (base, mapping) = unsafe {
            let base = range.base.add(part * range.stride);
            (base, memory::map(base, region_len, hugepages, wanted_len))
        };
        let mut mapping = mapping.map_err(RegionError::Refused)?;
        let advice = mapping.advice.take();
        let region: &'static Region =
            Box::leak(Box::new(Region::create(base, self.plan, hugepages, mapping.clone())));
        REGIONS[part].store(std::ptr::from_ref(region).cast_mut(), Ordering::Release);
        mapping.advice = advice.filter(|_| !self.is_advised.swap(true, Ordering::Relaxed));
        Ok((RegionHandle::new(region), mapping))
    }
}

/// Returns the length of the slots of `plan` in whole huge pages.
fn region_len(plan: &PoolPlan) -> usize {
    plan.slots_len().next_multiple_of(HUGEPAGE_LEN)
}

/// The right to attach a pool to one region. Kept over a worker's restart, it lets the new worker
/// take over the same region; once its last clone and the pool are dropped, another worker may get
/// it.
#[derive(Debug, Clone)]
pub struct RegionHandle {
    lent: Arc<Lent>,
}

#[derive(Debug)]
struct Lent {
    region: &'static Region,
}

impl RegionHandle {
    fn new(region: &'static Region) -> Self {
        Self { lent: Arc::new(Lent { region }) }
    }

    pub(super) fn region(&self) -> &'static Region {
        self.lent.region
    }

    /// Returns the shares of the region's holders.
    pub fn plan(&self) -> &PoolPlan {
        &self.lent.region.plan
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        lending().spare.push(self.region);
    }
}

/// The reason why a region is refused.
#[derive(Debug)]
pub enum RegionError {
    /// The range was reserved for shorter pools.
    PoolGrew { region_len: usize, region_len_max: usize },
    /// All parts of the range are lent.
    TooMany,
    /// The kernel gave no memory.
    Refused(MapError),
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoolGrew { region_len, region_len_max } => write!(
                f,
                "a pool of {region_len} bytes does not fit where this process reserved \
                 {region_len_max} for each: restart it to make its pools longer"
            ),
            Self::TooMany => {
                write!(f, "all {REGION_COUNT_MAX} buffer regions of this process are in use")
            }
            Self::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for RegionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Refused(error) => error.source(),
            Self::PoolGrew { .. } | Self::TooMany => None,
        }
    }
}
