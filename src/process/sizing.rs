//! The number of workers and the sizes of their memory, which fit into the part of the host that
//! control groups leave to this process.
//!
//! ```text
//!   memory limit = process + workers * (beside + pool + heap)
//! ```
//!
//! Sizes that the configuration names are kept or refused. Those that it leaves to us ("auto")
//! shrink until they fit: first the heap's budget and the pool, and then the number of workers.
//! Nothing has been mapped by then, so a refusal costs nothing, while a process that outgrows its
//! limit is killed without a word.

use std::fmt;

use crate::config::{Hugepages, Runtime};
use crate::host::capacity::Capacity;
use crate::host::cgroup;
use crate::host::memory::HUGEPAGE_LEN;
use crate::limits::REGION_COUNT_MAX;
use crate::pool::PoolPlan;

const MIB: u64 = 1 << 20;

/// Memory of the process beside its workers: the program, certificates, the admin endpoint.
const PROCESS_LEN: u64 = 16 * MIB;
/// Memory of a worker beside pool and heap: its ring, its stack, the kernel's buffers of its
/// sockets (at most 8 MiB each way), page tables, what the allocator keeps.
const BESIDE_LEN: u64 = 24 * MIB;
/// The smallest pool and the smallest budget that are chosen without being asked for.
const POOL_LEN_LEAST: u64 = 16 * MIB;
const HEAP_LEN_LEAST: u64 = 32 * MIB;
/// Part of the memory of pool and heap that goes to the pool: one in three.
const POOL_SHARE: u64 = 3;

/// The sizes of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub(super) worker_count: u16,
    /// Workers have a core each. Under a quota they have not: every container of the host would pin
    /// its workers to the same cores.
    pub(super) is_pinned: bool,
    /// Bytes of each worker's pool.
    pub(super) pool_len: usize,
    /// Bytes of the heap's budget for each worker.
    pub(super) heap_len: usize,
}

/// The reason why the configured sizes are refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    limit: cgroup::Limit,
    what: Resource,
    worker_count: u64,
    needed_len: u64,
    /// The parts of it for each worker.
    pool_len: u64,
    heap_len: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Resource {
    Memory,
    HugePages,
}

impl Sizes {
    /// Returns the sizes that the configuration names, or that fit into `capacity`.
    pub(super) fn choose(runtime: &Runtime, capacity: &Capacity) -> Result<Sizes, TooLarge> {
        let quota = capacity.quota_core_count();
        let core_count = quota.unwrap_or(capacity.cores.len()).clamp(1, REGION_COUNT_MAX);
        let wish = Wish {
            pool_len: runtime.pool_len.map(|len| len as u64),
            heap_len: runtime.heap_len_max.map(|len| len as u64),
            is_charged: runtime.hugepages != Hugepages::Require,
        };
        let wanted = runtime.workers.map_or(core_count as u64, u64::from);
        let least = if runtime.workers.is_some() { wanted } else { 1 };
        let memory = capacity.memory_len.as_ref();
        let mut worker_count = wanted;
        while let Some(limit) = memory.filter(|limit| wish.least_len(worker_count) > limit.value) {
            if worker_count == least {
                return Err(wish.too_large(Resource::Memory, worker_count, limit));
            }
            worker_count -= 1;
        }
        let room = memory.map(|limit| wish.room(limit.value, worker_count));
        let mut pool_len = wish.pool_len_in(room);
        if let Some(limit) = capacity.hugepage_len.as_ref().filter(|_| !wish.is_charged) {
            let share = limit.value / worker_count / HUGEPAGE_LEN as u64 * HUGEPAGE_LEN as u64;
            if wish.pool_len.unwrap_or(POOL_LEN_LEAST) > share {
                return Err(wish.too_large(Resource::HugePages, worker_count, limit));
            }
            pool_len = pool_len.min(share);
        }
        Ok(Sizes {
            worker_count: worker_count as u16,
            is_pinned: quota.is_none(),
            pool_len: pool_len as usize,
            heap_len: wish.heap_len_in(room, pool_len) as usize,
        })
    }

    /// Returns the division of each worker's pool.
    pub(super) fn plan(&self) -> PoolPlan {
        // `config` accepts only sizes that a plan can divide, and those of "auto" are among them.
        PoolPlan::new(self.pool_len)
            .unwrap_or_else(|error| panic!("a configured pool cannot be divided: {error}"))
    }

    /// Returns the bytes of the heap's budget of all workers.
    pub(super) fn heap_len_max(&self) -> usize {
        self.heap_len * usize::from(self.worker_count)
    }
}

/// The sizes that the configuration asks for; `None` is "auto".
struct Wish {
    pool_len: Option<u64>,
    heap_len: Option<u64>,
    /// The pools are charged to the memory limit. Reserved huge pages are not.
    is_charged: bool,
}

impl Wish {
    fn charged(&self, pool_len: u64) -> u64 {
        if self.is_charged { pool_len } else { 0 }
    }

    /// Returns the memory that so many workers need at least.
    fn least_len(&self, worker_count: u64) -> u64 {
        let pool_len = self.charged(self.pool_len.unwrap_or(POOL_LEN_LEAST));
        let heap_len = self.heap_len.unwrap_or(HEAP_LEN_LEAST);
        let each = BESIDE_LEN.saturating_add(pool_len).saturating_add(heap_len);
        PROCESS_LEN.saturating_add(each.saturating_mul(worker_count))
    }

    /// Returns the memory that a limit leaves to the pool and the heap of each worker.
    fn room(&self, limit_len: u64, worker_count: u64) -> u64 {
        limit_len.saturating_sub(PROCESS_LEN) / worker_count - BESIDE_LEN
    }

    fn pool_len_in(&self, room: Option<u64>) -> u64 {
        let auto = Runtime::POOL_LEN_AUTO as u64;
        let fits = room.filter(|_| self.is_charged).map_or(auto, |room| {
            let heap_len = self.heap_len.unwrap_or(HEAP_LEN_LEAST);
            let share = (room / POOL_SHARE).max(POOL_LEN_LEAST);
            share.min(room - heap_len) / HUGEPAGE_LEN as u64 * HUGEPAGE_LEN as u64
        });
        self.pool_len.unwrap_or(fits.min(auto))
    }

    fn heap_len_in(&self, room: Option<u64>, pool_len: u64) -> u64 {
        let auto = Runtime::HEAP_LEN_AUTO as u64;
        let fits = room.map_or(auto, |room| room - self.charged(pool_len));
        self.heap_len.unwrap_or(fits.min(auto))
    }

    fn too_large(&self, what: Resource, worker_count: u64, limit: &cgroup::Limit) -> TooLarge {
        let pool_len = self.pool_len.unwrap_or(POOL_LEN_LEAST);
        let needed_len = match what {
            Resource::Memory => self.least_len(worker_count),
            Resource::HugePages => pool_len * worker_count,
        };
        TooLarge {
            limit: limit.clone(),
            what,
            worker_count,
            needed_len,
            pool_len,
            heap_len: self.heap_len.unwrap_or(HEAP_LEN_LEAST),
        }
    }
}

impl fmt::Display for Sizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { worker_count, pool_len, heap_len, .. } = self;
        let (pool, heap) = (pool_len >> 20, heap_len >> 20);
        write!(f, "{worker_count} worker{}", if *worker_count == 1 { "" } else { "s" })?;
        write!(f, ", each with a pool of {pool} MiB and a heap of up to {heap} MiB")
    }
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |len: u64| len.div_ceil(MIB);
        write!(
            f,
            "{} is limited to {} MiB by {}, and {} worker{} would need {} MiB: each a pool of {} \
             MiB (runtime.pool)",
            match self.what {
                Resource::Memory => "memory",
                Resource::HugePages => "memory in huge pages",
            },
            self.limit.value / MIB,
            self.limit.file.display(),
            self.worker_count,
            if self.worker_count == 1 { "" } else { "s" },
            mib(self.needed_len),
            mib(self.pool_len),
        )?;
        if self.what == Resource::Memory {
            write!(
                f,
                ", a heap of {} MiB (runtime.memory) and {} MiB for the kernel's part, and the \
                 process {} MiB",
                mib(self.heap_len),
                mib(BESIDE_LEN),
                mib(PROCESS_LEN),
            )?;
        }
        write!(
            f,
            "; raise the limit, or lower these or runtime.workers (\"auto\" takes the largest that \
             fit)"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::minimal;

    fn limit(len: u64) -> Option<cgroup::Limit> {
        Some(cgroup::Limit { value: len, file: "/limit".into() })
    }

    fn capacity(core_count: usize, memory_len: u64) -> Capacity {
        Capacity {
            cores: (0..core_count).collect(),
            cpu_millis: None,
            memory_len: limit(memory_len),
            hugepage_len: None,
        }
    }

    fn runtime(change: impl FnOnce(&mut Runtime)) -> Runtime {
        let mut runtime = minimal(([127, 0, 0, 1], 1).into()).runtime;
        change(&mut runtime);
        runtime
    }

    fn chosen(runtime: &Runtime, capacity: &Capacity) -> (u16, u64, u64) {
        let sizes = Sizes::choose(runtime, capacity).unwrap();
        sizes.plan();
        (sizes.worker_count, sizes.pool_len as u64 / MIB, sizes.heap_len as u64 / MIB)
    }

    #[test]
    fn auto_is_one_worker_per_core_up_to_the_number_of_regions() {
        let plenty = 1 << 50;
        for (core_count, expected) in
            [(0, 1), (1, 1), (2, 2), (63, 63), (64, 64), (65, 64), (192, 64), (65_536, 64)]
        {
            let found = chosen(&runtime(|_| {}), &capacity(core_count, plenty));
            assert_eq!(found, (expected, 64, 1024), "{core_count} cores");
        }
        let explicit = |count| runtime(|runtime| runtime.workers = Some(count));
        assert_eq!(chosen(&explicit(3), &capacity(200, plenty)).0, 3);
        assert_eq!(chosen(&explicit(64), &capacity(2, plenty)).0, 64);
        let unknown = Capacity { memory_len: None, ..capacity(2, 0) };
        assert_eq!(chosen(&runtime(|_| {}), &unknown), (2, 64, 1024));
    }

    #[test]
    fn a_quota_limits_the_workers_that_are_not_asked_for_and_leaves_them_unpinned() {
        let quota = Capacity { cpu_millis: limit(1500), ..capacity(8, 1 << 40) };
        let sizes = Sizes::choose(&runtime(|_| {}), &quota).unwrap();
        assert_eq!((sizes.worker_count, sizes.is_pinned), (2, false));
        let explicit = runtime(|runtime| runtime.workers = Some(4));
        let sizes = Sizes::choose(&explicit, &quota).unwrap();
        assert_eq!((sizes.worker_count, sizes.is_pinned), (4, false));
        let wide = Capacity { cpu_millis: limit(9000), ..capacity(8, 1 << 40) };
        assert!(Sizes::choose(&explicit, &wide).unwrap().is_pinned);
    }

    /// The oracle is the sum of the parts, which is written out in the module's picture.
    #[test]
    fn whatever_is_chosen_fits_the_limit_and_is_the_largest_that_does() {
        for core_count in [1, 2, 8, 64] {
            for mib in 88..4096 {
                let capacity = capacity(core_count, mib * MIB);
                let (workers, pool, heap) = chosen(&runtime(|_| {}), &capacity);
                let sum = 16 + u64::from(workers) * (24 + pool + heap);
                assert!(sum <= mib, "{mib} MiB: {workers} * ({pool} + {heap})");
                assert!(pool >= 16 && heap >= 32 && pool <= 64, "{mib} MiB: {pool}, {heap}");
                let unused = mib - sum;
                let is_whole = heap == 1024 || unused < u64::from(workers);
                assert!(is_whole, "{mib} MiB: {unused} are left over");
                let another = 16 + (u64::from(workers) + 1) * (24 + 16 + 32);
                let is_all = workers as usize == core_count || another > mib;
                assert!(is_all, "{mib} MiB: {workers} of {core_count} workers");
            }
        }
    }

    #[test]
    fn the_cases_of_the_field() {
        let auto = runtime(|_| {});
        assert_eq!(chosen(&auto, &capacity(8, 300 * MIB)), (3, 22, 48));
        assert_eq!(chosen(&auto, &capacity(64, 2048 * MIB)), (28, 16, 32));
        let one = Capacity { cpu_millis: limit(1000), ..capacity(8, 300 * MIB) };
        assert_eq!(chosen(&auto, &one), (1, 64, 196));
    }

    #[test]
    fn explicit_sizes_are_kept_or_refused_with_every_figure() {
        let explicit = runtime(|runtime| {
            runtime.workers = Some(2);
            runtime.pool_len = Some(128 << 20);
        });
        assert_eq!(chosen(&explicit, &capacity(8, 400 * MIB)), (2, 128, 40));
        let text = Sizes::choose(&explicit, &capacity(8, 300 * MIB)).unwrap_err().to_string();
        for part in ["300 MiB by /limit", "2 workers", "384 MiB", "128 MiB (runtime.pool)"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        for part in ["32 MiB (runtime.memory)", "24 MiB", "16 MiB", "runtime.workers"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let heap = runtime(|runtime| runtime.heap_len_max = Some(1 << 30));
        assert_eq!(chosen(&heap, &capacity(8, 3200 * MIB)), (2, 64, 1024));
        assert!(Sizes::choose(&heap, &capacity(8, 1000 * MIB)).is_err());
        assert!(Sizes::choose(&runtime(|_| {}), &capacity(1, 87 * MIB)).is_err());
    }

    #[test]
    fn reserved_huge_pages_have_a_limit_of_their_own() {
        let required = |pool_len: Option<usize>| {
            runtime(|runtime| {
                runtime.hugepages = Hugepages::Require;
                runtime.pool_len = pool_len;
            })
        };
        let pages = |len| Capacity { hugepage_len: limit(len), ..capacity(2, 400 * MIB) };
        assert_eq!(chosen(&required(None), &pages(1 << 40)), (2, 64, 168));
        assert_eq!(chosen(&required(None), &pages(70 * MIB)), (2, 34, 168));
        assert_eq!(chosen(&required(Some(32 << 20)), &pages(64 * MIB)), (2, 32, 168));
        let error = Sizes::choose(&required(Some(32 << 20)), &pages(62 * MIB)).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("huge pages is limited to 62 MiB") && text.contains("64 MiB"));
        assert!(!text.contains("runtime.memory"), "{text}");
        let off = runtime(|runtime| runtime.hugepages = Hugepages::Off);
        assert_eq!(chosen(&off, &pages(0)), (2, 56, 112));
    }
}
