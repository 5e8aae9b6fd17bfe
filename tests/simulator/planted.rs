//! Tests the simulator itself: each bug planted in the gateway must be found within a few seeds.

use ringway::testing::internal::planted::Bug;

use crate::runner::find;

#[cfg(debug_assertions)]
#[test]
fn every_planted_bug_is_found() {
    let mut missed = Vec::new();
    std::thread::scope(|scope| {
        let hunts = Bug::SIMULATED.map(|bug| (bug, scope.spawn(move || find(bug, 0..1_000))));
        for (bug, hunt) in hunts {
            match hunt.join().unwrap() {
                Some(failure) => eprintln!("{bug:?}: seed {}: {}", failure.seed, failure.message),
                None => missed.push(bug),
            }
        }
    });
    assert!(missed.is_empty(), "not found within 1,000 seeds: {missed:?}");
}
