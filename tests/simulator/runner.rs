//! Runs a single world, or many on all cores.

use std::cell::RefCell;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use ringway::testing::internal::limits::SLOT_LEN;
use ringway::testing::internal::planted::{self, Bug};
use ringway::testing::internal::pool::{Hugepages, Pool, PoolPlan, Regions};

use crate::scenario::{SLOT_COUNT, Scenario};
use crate::verdict;
use crate::world::{Marks, World};

/// A world that broke a rule.
#[derive(Debug)]
pub struct Failure {
    pub seed: u64,
    pub message: String,
}

/// Runs one world to its end and checks every rule. Returns the hash of its events.
pub fn run(seed: u64, scenario: Scenario) -> u64 {
    let pool = new_pool();
    run_in(seed, scenario, &pool).0
}

/// Runs one world like [`run`], with further checks of the test in `check`.
pub fn run_and(seed: u64, scenario: Scenario, check: impl FnOnce(&World)) {
    let mut world = World::new(seed, scenario, new_pool());
    world.run();
    verdict::check(&world);
    check(&world);
    world.assert_at_rest();
}

/// Runs one world like [`run`]. Returns its event counters.
pub fn marks_of(seed: u64, scenario: Scenario) -> Marks {
    run_in(seed, scenario, &new_pool()).1
}

fn run_in(seed: u64, scenario: Scenario, pool: &Rc<Pool>) -> (u64, Marks) {
    let mut world = World::new(seed, scenario, Rc::clone(pool));
    let hash = world.run();
    verdict::check(&world);
    let marks = world.marks();
    world.assert_at_rest();
    (hash, marks)
}

pub fn new_pool() -> Rc<Pool> {
    let plan = PoolPlan::new(SLOT_COUNT * SLOT_LEN).unwrap();
    let (region, _) = Regions::reserve(1, plan).unwrap().lend(Hugepages::Off).unwrap();
    Rc::new(Pool::attach(region))
}

/// Runs the world of `seed`. Returns `None` if it met a dependency's fault.
pub fn replay(seed: u64) -> Option<u64> {
    in_new_thread(|| {
        hush();
        let pool = new_pool();
        let world = AssertUnwindSafe(|| run_in(seed, Scenario::draw(seed), &pool).0);
        if let Ok(hash) = catch_unwind(world) {
            return Ok(Some(hash));
        }
        let message = FIRST.take();
        std::mem::forget(pool);
        if message.contains(FOREIGN) { Ok(None) } else { Err(message) }
    })
    .unwrap_or_else(|message| panic!("seed {seed}: {message}"))
}

/// Runs the worlds of `seeds` on every core. Returns the failed ones by seed, and the event
/// counters of the others.
pub fn sweep(seeds: Range<u64>) -> (Vec<Failure>, Marks) {
    let next = AtomicU64::new(seeds.start);
    let marks = Mutex::new(Marks::new());
    let failures = Mutex::new(Vec::new());
    let core_count = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..core_count {
            scope.spawn(|| {
                // A failed world may hold slots of its thread's pool for ever, so a new thread
                // continues.
                while let Some(failure) =
                    in_new_thread(|| first_failure(&next, seeds.end, None, &marks))
                {
                    let mut failures = failures.lock().unwrap();
                    failures.push(failure);
                    if failures.len() >= FAILURES_MAX {
                        next.store(seeds.end, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    let mut failures = failures.into_inner().unwrap();
    failures.sort_by_key(|failure| failure.seed);
    (failures, marks.into_inner().unwrap())
}

/// Returns the first world of `seeds` that finds `bug`.
pub fn find(bug: Bug, seeds: Range<u64>) -> Option<Failure> {
    let next = AtomicU64::new(seeds.start);
    let marks = Mutex::new(Marks::new());
    in_new_thread(|| first_failure(&next, seeds.end, Some(bug), &marks))
}

fn in_new_thread<T: Send>(run: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| scope.spawn(run).join().expect("failures are caught inside"))
}

fn first_failure(
    next: &AtomicU64,
    end: u64,
    bug: Option<Bug>,
    marks: &Mutex<Marks>,
) -> Option<Failure> {
    hush();
    let pool = new_pool();
    planted::plant(bug);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return None;
        }
        let world = AssertUnwindSafe(|| run_in(seed, Scenario::draw(seed), &pool));
        let Ok((_, seen)) = catch_unwind(world) else {
            let message = FIRST.take();
            if pool.counts().free < pool.counts().total {
                // Its slots are lost, so the region must not be used again.
                std::mem::forget(pool);
                return Some(Failure { seed, message });
            }
            if !message.contains(FOREIGN) {
                return Some(Failure { seed, message });
            }
            *marks.lock().unwrap().entry(FOREIGN_MARK.to_owned()).or_default() += 1;
            continue;
        };
        let mut marks = marks.lock().unwrap();
        for (mark, count) in seen {
            *marks.entry(mark).or_default() += count;
        }
    }
}

thread_local! {
    /// Message of the first panic in this thread's world.
    static FIRST: RefCell<String> = const { RefCell::new(String::new()) };
    static HUSHED: RefCell<bool> = const { RefCell::new(false) };
}

/// Keeps panics of this thread for the report, instead of printing them.
fn hush() {
    static ONCE: std::sync::Once = std::sync::Once::new();
    ONCE.call_once(|| {
        let earlier = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if HUSHED.with_borrow(|hushed| *hushed) {
                let mut text = info.to_string().replace('\n', " ");
                text.truncate(text.floor_char_boundary(1_000));
                // Later panics, while the world is dropped, are of less interest.
                FIRST.with_borrow_mut(|first| {
                    if first.is_empty() {
                        *first = text;
                    }
                });
            } else {
                earlier(info);
            }
        }));
    });
    HUSHED.set(true);
}

/// A debug assertion of quinn-proto 0.11.19 that does not hold after a client's address changed:
/// the new path counts nothing in flight, and the loss timer of the old one still runs. A release
/// build sends one probe too many. Such a world ends there and shows nothing about the gateway.
const FOREIGN: &str = "assertion failed: !self.peer_completed_address_validation()";

/// Counter of worlds that ended this way.
pub const FOREIGN_MARK: &str = "worlds ended by a foreign fault";

/// Maximum number of failures: further ones show nothing new, and each costs a region of address
/// space.
const FAILURES_MAX: usize = 20;
