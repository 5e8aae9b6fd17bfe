//! The division of a pool of a given length: each slot has a named holder.
//!
//! Some shares are enforced bounds, others are marks that only determine when the pool is low:
//!
//! | share | kind | enforced by |
//! |---|---|---|
//! | `provided_datagrams`, `provided_upstream` | bound | the ring, which provides no more |
//! | `transmit` | bound | the ring: no more batches in flight, and one more is being built |
//! | `engine_pinned` | mark | the rest; received bytes may take more while the pool is not low |
//! | `upstream_writes` | mark | not enforced: a write sends slices of pinned slots |
//!
//! [`PoolPlan::low_water`], the sum of `transmit` and `upstream_writes`, keeps the total in bounds:
//! below it received bytes are copied out, no receive leases slots of its own, and each group is
//! provided only a quarter of its share. A receive into several slots (up to four, leased one by
//! one while the pool is not low) is part of `engine_pinned`, which its bytes would use a moment
//! later.

use std::fmt;

use crate::limits::{SLOT_COUNT_MAX, SLOT_COUNT_MIN, SLOT_LEN};

/// The slots of a pool by holder. The shares add up to all slots; the allocator itself does not
/// know them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolPlan {
    /// Slots that the kernel may write datagrams into: a bound. Few, so that recently used
    /// slots are in the cache.
    pub provided_datagrams: u32,
    /// Slots provided for receives from upstreams: a bound.
    pub provided_upstream: u32,
    /// Slots with received bytes that connections and exchanges still refer to, and those of
    /// receives into several slots: a mark.
    pub engine_pinned: u32,
    /// Slots kept free for writes to upstreams: a mark.
    pub upstream_writes: u32,
    /// Batches of datagrams in flight: a bound.
    pub transmit: u32,
}

/// The least that each holder needs for the program to make progress.
const SMALLEST: PoolPlan = PoolPlan {
    provided_datagrams: 16,
    provided_upstream: 8,
    engine_pinned: 24,
    upstream_writes: 8,
    transmit: 8,
};

const _: () = assert!(SMALLEST.slot_count() == SLOT_COUNT_MIN);
const _: () = assert!(SLOT_COUNT_MAX <= u16::MAX as u32, "a buffer ring names slots by 16 bits");

/// The most slots provided for datagrams at a time: 108 ns a packet with 16 slots in turn, 181 with
/// 1,024.
const PROVIDED_DATAGRAMS_MAX: u32 = 64;
/// The most slots provided for receives from upstreams at a time.
const PROVIDED_UPSTREAM_MAX: u32 = 64;
/// The most writes to upstreams in flight at a time.
const UPSTREAM_WRITES_MAX: u32 = 64;
/// The most batches in flight at a time: 32 are 2 MiB, more than a socket takes at once.
const TRANSMIT_MAX: u32 = 32;

impl PoolPlan {
    /// Returns the plan of a pool of `pool_len` bytes.
    pub fn new(pool_len: usize) -> Result<Self, PlanError> {
        let slot_count = pool_len / SLOT_LEN;
        if slot_count < SLOT_COUNT_MIN as usize {
            return Err(PlanError::TooSmall { pool_len, slot_count });
        }
        if slot_count > SLOT_COUNT_MAX as usize {
            return Err(PlanError::TooLarge { pool_len, slot_count });
        }
        let slot_count = slot_count as u32;
        // Powers of two, as buffer rings require.
        let share = |part: u32, max: u32| 1 << (slot_count / part).min(max).ilog2();
        let provided_datagrams = share(4, PROVIDED_DATAGRAMS_MAX);
        let provided_upstream = share(8, PROVIDED_UPSTREAM_MAX);
        let upstream_writes = share(8, UPSTREAM_WRITES_MAX);
        let transmit = share(8, TRANSMIT_MAX);
        let named = provided_datagrams + provided_upstream + upstream_writes + transmit;
        let engine_pinned = slot_count - named;
        Ok(Self { provided_datagrams, provided_upstream, engine_pinned, upstream_writes, transmit })
    }

    pub const fn slot_count(&self) -> u32 {
        self.provided_datagrams
            + self.provided_upstream
            + self.engine_pinned
            + self.upstream_writes
            + self.transmit
    }

    pub const fn slots_len(&self) -> usize {
        self.slot_count() as usize * SLOT_LEN
    }

    /// Returns the number of free slots below which received bytes are copied out of their slots.
    /// The rest is for sends, which free slots, so the pool recovers.
    pub const fn low_water(&self) -> u32 {
        self.transmit + self.upstream_writes
    }

    /// Returns the number of slots that one flow may always pin before its bytes are copied out: an
    /// eighth of the share of all flows. While the pool has slots to spare, a flow may pin more.
    pub const fn flow_quota(&self) -> u16 {
        let eighth = self.engine_pinned / 8;
        if eighth < 2 { 2 } else { eighth as u16 }
    }
}

/// The reason why a pool length is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanError {
    /// Fewer slots than the holders need.
    TooSmall { pool_len: usize, slot_count: usize },
    /// More slots than a buffer ring can name.
    TooLarge { pool_len: usize, slot_count: usize },
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooSmall { pool_len, slot_count } => write!(
                f,
                "a pool of {pool_len} bytes has {slot_count} slots of {SLOT_LEN} bytes, and \
                 {SLOT_COUNT_MIN} are needed: {} for datagrams and {} for upstream bytes to come, \
                 {} for received bytes, {} for sends to upstreams, {} for sends to clients; \
                 give each worker at least {} bytes",
                SMALLEST.provided_datagrams,
                SMALLEST.provided_upstream,
                SMALLEST.engine_pinned,
                SMALLEST.upstream_writes,
                SMALLEST.transmit,
                SMALLEST.slots_len(),
            ),
            Self::TooLarge { pool_len, slot_count } => write!(
                f,
                "a pool of {pool_len} bytes has {slot_count} slots of {SLOT_LEN} bytes, and a \
                 worker can have {SLOT_COUNT_MAX}: give each worker at most {} bytes",
                SLOT_COUNT_MAX as usize * SLOT_LEN,
            ),
        }
    }
}

impl std::error::Error for PlanError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_pool_gives_each_holder_what_it_needs() {
        let smallest = PoolPlan::new(SLOT_COUNT_MIN as usize * SLOT_LEN).unwrap();
        assert_eq!(smallest, SMALLEST);
        assert_eq!(smallest.slots_len(), 4_456_448, "4.25 MiB");
    }

    #[test]
    fn every_length_is_divided_without_rest_and_never_below_the_smallest() {
        for slot_count in SLOT_COUNT_MIN..=SLOT_COUNT_MAX {
            let plan = PoolPlan::new(slot_count as usize * SLOT_LEN + SLOT_LEN - 1).unwrap();
            assert_eq!(plan.slot_count(), slot_count);
            assert!(plan.provided_datagrams >= 16 && plan.provided_datagrams <= 64);
            assert!(plan.provided_upstream >= 8 && plan.upstream_writes >= 8 && plan.transmit >= 8);
            assert!(plan.engine_pinned >= 24);
            let at_rest = slot_count - plan.provided_datagrams - plan.provided_upstream;
            assert!(at_rest > plan.low_water(), "an idle pool is not low");
            assert!(u32::from(plan.flow_quota()) < plan.engine_pinned);
            // At worst all that the kernel has fills in one turn while the pool is just not low,
            // and is held. Then a quarter is provided anew whatever the pool's state, and what
            // comes next is copied out. Every batch finds a slot all the same, and one more is at
            // hand: so what is held is sent, acknowledged and freed.
            let provided_anew = plan.provided_datagrams / 4 + plan.provided_upstream / 4;
            assert!(plan.low_water() - provided_anew > plan.transmit, "{plan:?}");
        }
    }

    #[test]
    fn the_default_pool() {
        let plan = PoolPlan::new(64 << 20).unwrap();
        assert_eq!(plan.slot_count(), 963);
        assert_eq!((plan.provided_datagrams, plan.provided_upstream), (64, 64));
        assert_eq!((plan.transmit, plan.upstream_writes), (32, 64));
        let quota_len = usize::from(plan.flow_quota()) * SLOT_LEN;
        assert!((5 << 20..7 << 20).contains(&quota_len), "{quota_len}");
    }

    #[test]
    fn a_refusal_tells_its_figures() {
        let error = PoolPlan::new(SLOT_COUNT_MIN as usize * SLOT_LEN - 1).unwrap_err();
        let text = error.to_string();
        for figure in ["4456447 bytes", "63 slots", "64 are needed", "16 for datagrams", "4456448"]
        {
            assert!(text.contains(figure), "{figure} in {text}");
        }
        let text = PoolPlan::new(4 << 30).unwrap_err().to_string();
        for figure in ["4294967296 bytes", "61680 slots", "32768", "2281701376"] {
            assert!(text.contains(figure), "{figure} in {text}");
        }
        assert!(PoolPlan::new(0).is_err());
        assert!(PoolPlan::new(usize::MAX).is_err());
    }
}
