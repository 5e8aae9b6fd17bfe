//! The ring on a real kernel, over loopback.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod datagrams;
mod ending;
mod harness;
mod listeners;
mod streams;

#[global_allocator]
static ALLOCATOR: ringway::PoolAllocator = ringway::PoolAllocator;
