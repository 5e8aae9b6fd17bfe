//! The simulation is worth what it finds: bugs planted in the ring, each to be found soon.

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

/// The books are in order while a batch is given back too early, each slot has one owner: only the
/// bytes tell that the device still reads them.
#[test]
fn what_the_device_reads_tells_of_a_batch_that_is_given_back_too_early() {
    let found = find(Bug::EarlyBatchReturn);
    assert!(found.message.contains("the device reads other bytes"), "{}", found.message);
}
