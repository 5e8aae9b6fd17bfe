//! Buffers' lifetimes and the gateway's patience, with the program as a process of its own (the
//! debug build, which poisons every slot that is handed back), an origin and clients of another
//! stack (quinn, h3) in this one.
//!
//! Every body is made of blocks that carry its connection's 16-byte tag and their own number, so a
//! byte that is lost, doubled, stale, poisoned or another connection's is told apart at once.
//!
//! Short by default, and longer where CI is set; `RINGWAY_SOAK_SECONDS` (see `scripts/soak`) makes
//! the tagged runs, the crowd of slow readers and the load on the smallest pool as long as wished.

#![allow(clippy::unwrap_used, reason = "a test says by a panic that something is wrong")]

mod body;
mod client;
mod gateway;
mod network;
mod origin;
mod slow_readers;
mod slow_senders;
mod small_pool;
mod tagged;
mod upstreams;

use std::future::Future;
use std::time::Duration;

use ringway::testing::internal::host::clock::now;

/// Runs a test on threads of its own, in whatever namespace the caller is.
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

/// How long a run goes on: as long as `scripts/soak` asks for, else `on_ci` or `short` seconds.
fn length(short: u64, on_ci: u64) -> Duration {
    match std::env::var_os("CI") {
        _ if !soak().is_zero() => soak(),
        Some(_) => Duration::from_secs(on_ci),
        None => Duration::from_secs(short),
    }
}

/// What `scripts/soak` asks for; nothing in the suite.
fn soak() -> Duration {
    let seconds = std::env::var("RINGWAY_SOAK_SECONDS").ok();
    Duration::from_secs(seconds.map_or(0, |text| text.parse().expect("a number of seconds")))
}
