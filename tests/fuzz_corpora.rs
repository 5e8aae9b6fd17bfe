//! The inputs that fuzzing has kept, each through its target: what was once found stays fixed, and
//! the targets themselves keep working. `scripts/fuzz` looks for more.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "../fuzz/src/lib.rs"]
mod targets;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use ringway::testing::internal::planted::{Bug, plant};
use targets::TARGETS;

#[global_allocator]
static ALLOCATOR: ringway::PoolAllocator = ringway::PoolAllocator;

/// Files of all corpora together, and their length: they are in everybody's copy of the repository.
const FILES_MAX: usize = 2_000;
const LEN_MAX: u64 = 2 << 20;

fn corpora() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpora")
}

/// Returns the kept inputs of a target, in a fixed order.
fn inputs(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = corpora().join(target);
    let entries = std::fs::read_dir(&folder).unwrap_or_else(|_| panic!("{folder:?} is missing"));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths.into_iter().map(|path| (path.clone(), std::fs::read(path).unwrap())).collect()
}

/// Runs all kept inputs of a target, and one without bytes.
fn replay(target: &str) {
    let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
    run(&[]);
    let inputs = inputs(target);
    assert!(!inputs.is_empty(), "{target} has no inputs");
    let mut failed = Vec::new();
    for (path, input) in inputs {
        if catch_unwind(AssertUnwindSafe(|| run(&input))).is_err() {
            failed.push(path);
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

macro_rules! replays {
    ($($target:ident),*) => {
        $(#[test]
        fn $target() {
            replay(stringify!($target));
        })*

        #[test]
        fn every_target_is_replayed() {
            let mut replayed = vec![$(stringify!($target)),*, "canary"];
            replayed.sort_unstable();
            assert_eq!(TARGETS.map(|(name, _)| name), &replayed[..]);
            let mut kept: Vec<_> = std::fs::read_dir(corpora()).unwrap().collect();
            assert_eq!(kept.len(), TARGETS.len(), "{:?}", kept.drain(..).collect::<Vec<_>>());
        }
    };
}

replays!(
    config,
    datagram,
    frames,
    gateway_inputs,
    http1_request,
    http1_response,
    http2,
    proxy_header,
    qpack,
    request_head
);

/// Runs the inputs that fuzzing starts from. `scripts/fuzz` has them written to a folder.
#[test]
fn every_seed_passes_its_target() {
    for (number, (target, input)) in targets::seeds::all().into_iter().enumerate() {
        if let Some(folder) = std::env::var_os("RINGWAY_FUZZ_SEEDS") {
            let folder = Path::new(&folder).join(target);
            std::fs::create_dir_all(&folder).unwrap();
            std::fs::write(folder.join(format!("seed-{number}")), &input).unwrap();
        }
        let (_, run) = TARGETS.iter().find(|(name, _)| *name == target).unwrap();
        run(&input);
    }
}

/// The canary has a planted bug. Its inputs must show it, and must pass without the bug.
#[test]
#[cfg(debug_assertions)]
fn the_planted_bug_is_found() {
    for (path, input) in inputs("canary") {
        let found = catch_unwind(|| targets::canary::run(&input));
        assert!(found.is_err(), "{path:?} does not show the bug");
        targets::http1_response::run(&input);
    }
}

/// Bugs planted in the gateway that the books of `gateway_inputs` must notice with its kept inputs.
#[test]
#[cfg(debug_assertions)]
fn planted_bugs_break_the_books() {
    let inputs = inputs("gateway_inputs");
    for bug in [Bug::LeakedExchange, Bug::DoubleRecord] {
        plant(Some(bug));
        let is_found = inputs
            .iter()
            .any(|(_, input)| catch_unwind(|| targets::gateway_inputs::run(input)).is_err());
        plant(None);
        assert!(is_found, "{bug:?} is not found");
    }
}

#[test]
fn corpora_are_small() {
    let all: Vec<_> = TARGETS.iter().flat_map(|(target, _)| inputs(target)).collect();
    let len: u64 = all.iter().map(|(_, input)| input.len() as u64).sum();
    assert!(all.len() <= FILES_MAX && len <= LEN_MAX, "{} files, {len} bytes", all.len());
}
