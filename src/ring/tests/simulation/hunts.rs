//! Tests the simulation itself: each bug planted in the ring must be found within a few seeds.

use super::kernel::Marks;
use super::{Failure, first_failure};
use crate::planted::Bug;

fn find(bug: Bug) -> Failure {
    let found = first_failure(&mut (0..1_000), &mut Marks::new(), Some(bug));
    let found = found.unwrap_or_else(|| panic!("{bug:?} is not found within 1,000 seeds"));
    eprintln!("{bug:?}: seed {}: {}", found.seed, found.message);
    found
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::IN_THE_RING {
        find(bug);
    }
}

/// When a batch is returned too early, each slot still has one owner and all accounts balance: only
/// the bytes show that the device still reads them.
#[test]
fn a_batch_returned_too_early_is_detected_by_what_the_device_reads() {
    let found = find(Bug::EarlyBatchReturn);
    assert!(found.message.contains("the device reads other bytes"), "{}", found.message);
}
