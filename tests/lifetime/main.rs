//! Buffer lifetimes and timeouts, with the program as a process of its own (the debug build, which
//! poisons every freed slot), and an origin and clients of another stack (quinn, h3) in this
//! process.
//!
//! Every body is made of blocks that carry its connection's 16-byte tag and their own number, so a
//! lost, duplicated, stale, poisoned or foreign byte is identified at once.
//!
//! The runs are short by default and longer with CI set; `RINGWAY_SOAK_SECONDS` (see
//! `scripts/soak`) sets the length of the tagged runs, the runs with many slow readers and the load
//! on the smallest pool.

#![allow(clippy::unwrap_used, reason = "a test says by a panic that something is wrong")]

mod body;
mod client;
mod gateway;
mod network;
mod origin;
mod refusals;
mod slow_readers;
mod slow_senders;
mod small_pool;
mod tagged;
mod upstreams;

use std::future::Future;
use std::time::Duration;

use ringway::testing::internal::host::clock::now;

/// Runs a test on threads of its own, in the caller's network namespace.
fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.unwrap().block_on(async {
        tokio::time::timeout(Duration::from_secs(150) + soak(), test).await.expect("it hangs")
    })
}

async fn pause(milliseconds: u64) {
    tokio::time::sleep(Duration::from_millis(milliseconds)).await;
}

/// Returns the length of a run: what `scripts/soak` asks for, else `on_ci` or `short` seconds.
fn length(short: u64, on_ci: u64) -> Duration {
    match std::env::var_os("CI") {
        _ if !soak().is_zero() => soak(),
        Some(_) => Duration::from_secs(on_ci),
        None => Duration::from_secs(short),
    }
}

/// Returns the length that `scripts/soak` asks for; zero in the suite.
fn soak() -> Duration {
    let seconds = std::env::var("RINGWAY_SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(0, |text| text.parse().expect("a number of seconds")))
}
