#![no_main]

#[global_allocator]
static ALLOCATOR: ringway::PoolAllocator = ringway::PoolAllocator;

libfuzzer_sys::fuzz_target!(|input: &[u8]| ringway_fuzz::proxy_header::run(input));
