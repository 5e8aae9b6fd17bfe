//! Micro-benchmarks: what one slot, turn, packet or request costs, without a network where that is
//! possible. `cargo bench` measures, `cargo bench -- engine` some of it; a test run does each once.
//!
//! The column of allocations counts the heap's and the pool's; [`allocations`] asserts the bounds,
//! and counts the heap's alone.

mod allocations;
mod client;
mod counting;
mod engine;
mod gateway;
mod pool;
mod proxy;
mod qpack;
mod ring;

use divan::AllocProfiler;

use counting::Counting;

#[global_allocator]
static ALLOCATOR: AllocProfiler<Counting> = AllocProfiler::new(Counting);

fn main() {
    divan::main();
}
