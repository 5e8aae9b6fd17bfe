//! Heap allocations per operation, averaged over many rounds and checked against bounds. Their time
//! is not measured.

use crate::counting::allocations;
use crate::engine::{BATCH_COUNT, BUNDLE_COUNT, Pair};
use crate::gateway::World;

const ROUND_COUNT: usize = 500;

/// None per received packet: the shared handle of a bundle's datagrams is allocated once, when the
/// bundle is split, and not counted here. The remainder are tables that grow now and then.
const PER_RECEIVED_MAX: f64 = 0.01;
/// Nodes of quinn-proto's table of sent packets: 6 per batch of 44.
const PER_SENT_MAX: f64 = 0.15;
/// A complete request: stream, head, exchange, response. 15 at the time of writing.
const PER_REQUEST_MAX: f64 = 18.0;

fn assert_average(what: &str, count: u64, among: usize, max: f64) {
    let average = count as f64 / among as f64;
    println!("{average:.3} allocations per {what}");
    assert!(average <= max, "{average:.3} allocations per {what}, of at most {max}");
}

/// Counts allocations per packet of an upload.
#[divan::bench(sample_size = 1, sample_count = 1)]
fn per_packet_received() {
    let mut pair = Pair::new();
    let mut count = 0;
    for _ in 0..ROUND_COUNT {
        let datagrams = pair.upload();
        count += allocations(|| pair.receive(datagrams)).1;
    }
    assert_average("packet received", count, ROUND_COUNT * BUNDLE_COUNT, PER_RECEIVED_MAX);
}

/// Counts allocations per packet of a download.
#[divan::bench(sample_size = 1, sample_count = 1)]
fn per_packet_sent() {
    let mut pair = Pair::new();
    let mut count = 0;
    for _ in 0..ROUND_COUNT {
        pair.prepare_batch();
        count += allocations(|| pair.send()).1;
    }
    assert_average("packet sent", count, ROUND_COUNT * BATCH_COUNT, PER_SENT_MAX);
}

/// Counts allocations per small request through the whole protocol side.
#[divan::bench(sample_size = 1, sample_count = 1)]
fn per_request() {
    let mut world = World::new();
    let mut count = 0;
    for _ in 0..ROUND_COUNT {
        let input = world.ask();
        count += allocations(|| world.serve(input)).1;
    }
    assert_average("request", count, ROUND_COUNT, PER_REQUEST_MAX);
}
