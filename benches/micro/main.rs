//! Micro-benchmarks: what one slot, turn, packet or request costs, without a network where that is
//! possible. `cargo bench` runs them all, `cargo bench -- engine` a subset; a test run executes
//! each once.
//!
//! The allocations column counts the heap's and the pool's; [`allocations`] counts the heap's alone
//! and asserts bounds on them.

mod allocations;
mod client;
mod counting;
mod engine;
mod gateway;
mod http2;
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
