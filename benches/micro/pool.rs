//! Slots: leased and freed by the thread that owns the pool.

use std::rc::Rc;

use divan::{Bencher, black_box};
use ringway::testing::internal::limits::{SLOT_COUNT_MIN, SLOT_LEN};
use ringway::testing::internal::pool::{Hugepages, Pool, PoolPlan, Regions};

/// Returns a pool of 64 slots in plain pages, on this thread.
pub fn pool() -> Rc<Pool> {
    let plan = PoolPlan::new(SLOT_COUNT_MIN as usize * SLOT_LEN).expect("the least pool there is");
    let regions = Regions::reserve(1, plan).expect("address space");
    let (handle, _) = regions.lend(Hugepages::Off).expect("4 MiB of memory");
    Rc::new(Pool::attach(handle))
}

/// Leases and drops one slot as a `Lease`.
#[divan::bench]
fn lease_and_return(bencher: Bencher<'_, '_>) {
    let pool = pool();
    bencher.bench_local(|| drop(black_box(pool.lease())));
}

/// Leases and drops one slot as a vector to send from.
#[divan::bench]
fn lease_vec_and_return(bencher: Bencher<'_, '_>) {
    let pool = pool();
    bencher.bench_local(|| drop(black_box(pool.lease_vec())));
}
