//! The binary: the process, with the pool's allocator as its heap.

use std::process::ExitCode;

/// Serves slots of the pool to allocations made in pool mode, and the heap to all others.
#[global_allocator]
static ALLOCATOR: ringway::PoolAllocator = ringway::PoolAllocator;

fn main() -> ExitCode {
    ringway::run()
}
