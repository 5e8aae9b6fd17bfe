//! The gateway in a simulated world: virtual time, a faulty network driven by a seed, a kernel that
//! does anything it is allowed to, and origins that misbehave.
//!
//! Each test runs worlds from seeds. A failing world reports its seed, and the same seed reproduces
//! it: `RINGWAY_SEED=69 cargo test --test simulator`. See docs/TESTING.md.

#![allow(clippy::unwrap_used, reason = "a world that cannot be built is a failed test")]

mod account;
mod books;
mod client;
mod fixture;
mod frames;
mod hostile;
mod kernel;
mod network;
mod origin;
mod plan;
mod planted;
mod request;
mod runner;
mod scenario;
mod stranger;
mod verdict;
mod wire;
mod world;

use std::time::Duration;

use plan::{Ask, Behaviour, Framing, Plan};
use ringway::PoolAllocator;
use runner::{FOREIGN_MARK, Failure, marks_of, replay, run, run_and, sweep};
use scenario::{RESPONSES_LEN_MAX, Scenario};
use world::{Marks, OUT_OF_REACH_MARK};

#[global_allocator]
static ALLOCATOR: PoolAllocator = PoolAllocator;

#[test]
fn without_faults_every_kind_of_response_is_correct() {
    let whole = |framing, len| Plan::Whole { framing, len, interim_count: 1 };
    let asks = vec![
        Ask::plain(0, "GET", 0, whole(Framing::Length, 0)),
        Ask::plain(1, "GET", 0, whole(Framing::Length, 1)),
        Ask::plain(2, "GET", 0, whole(Framing::Length, 1_000_000)),
        Ask::plain(3, "GET", 0, whole(Framing::Chunked { trailers: true }, 300_000)),
        Ask::plain(4, "GET", 0, whole(Framing::UntilClose, 100_000)),
        Ask::plain(5, "HEAD", 0, whole(Framing::Length, 1_000)),
        Ask::plain(6, "POST", 300_000, Plan::Echo),
        Ask::plain(7, "PUT", 1_000_000, whole(Framing::Length, 7)),
        Ask::plain(
            8,
            "GET",
            0,
            Plan::Cut { framing: Framing::Length, len: 500_000, permille: 500, resets: false },
        ),
        Ask::plain(9, "GET", 0, Plan::Never),
        Ask::plain(10, "GET", 0, Plan::Lie(0)),
    ];
    run(1, Scenario::quiet(asks));
}

/// Downloads that their client does not read for longer than the upstream's response timeout: an
/// upstream that the gateway does not read causes no timeout, and the client's other requests are
/// answered meanwhile.
#[test]
fn paused_downloads_cause_no_timeout_and_do_not_block_other_requests() {
    let pause = Duration::from_secs(45);
    let whole = |len| Plan::Whole { framing: Framing::Length, len, interim_count: 0 };
    for responses_len_max in [RESPONSES_LEN_MAX, 300_000] {
        let paused = (0..10).map(|id| Ask {
            behaviour: Behaviour::PauseReading(0, pause),
            ..Ask::plain(id, "GET", 0, whole(500_000))
        });
        let others = (10..20).map(|id| Ask {
            after: Duration::from_secs(id as u64 - 5),
            ..Ask::plain(id, "GET", 0, whole(1_000))
        });
        let mut scenario = Scenario::quiet(paused.chain(others).collect());
        scenario.responses_len_max = responses_len_max;
        scenario.clients[0].0.stream_window = 4 << 10;
        scenario.config.upstreams[0].response_timeout = Duration::from_secs(30);
        run_and(1, scenario, |world| {
            for id in 10..20 {
                let took = world.books.record(id).expect("it was answered").duration;
                assert!(took < Duration::from_secs(1), "request {id} took {took:?}");
            }
        });
    }
}

/// RFC 9114 5.2: a client may send requests until it learns of the drain; later ones are rejected
/// so that it can retry elsewhere. A connection without requests must not end earlier.
#[test]
fn a_request_in_flight_when_a_drain_begins_is_served_or_rejected() {
    const DRAIN: u64 = 300;
    let outcome = |after| {
        let plan = || Plan::Whole { framing: Framing::Length, len: 10, interim_count: 0 };
        let second = Ask { after: Duration::from_millis(after), ..Ask::plain(1, "GET", 0, plan()) };
        let mut scenario = Scenario::quiet(vec![Ask::plain(0, "GET", 0, plan()), second]);
        scenario.drain = Some(Duration::from_millis(DRAIN));
        let marks = marks_of(after, scenario);
        let count = |mark| marks.get(mark).copied().unwrap_or(0);
        (count("status 200"), count("reset 0x10b"), count("connection lost"))
    };
    // The one-way delay is 5 ms: until 305 ms the client does not know of the drain.
    for after in DRAIN - 20..=DRAIN + 5 {
        assert_eq!(outcome(after), (2, 0, 0), "requested after {after} ms");
    }
    assert_eq!(outcome(DRAIN + 150), (1, 1, 0), "a client that ignores the GOAWAY");
    assert_eq!(outcome(DRAIN + 1_000), (1, 0, 1), "the connection has ended");
}

/// Downloads whose client moves to another host without knowing it, while three of ten datagrams
/// are lost. Most connections survive, and none is lost while the gateway may still send a
/// challenge.
#[test]
fn clients_that_move_are_lost_only_if_the_anti_amplification_limit_is_reached() {
    let mut all = Marks::new();
    for seed in 0..60 {
        let plan = Plan::Whole { framing: Framing::Length, len: 400_000, interim_count: 0 };
        let mut scenario = Scenario::quiet(vec![Ask::plain(0, "GET", 0, plan)]);
        scenario.weather.loss = 0.3;
        scenario.clients[0].0.moves = vec![(Duration::from_millis(300), true)];
        for (mark, count) in marks_of(seed, scenario) {
            *all.entry(mark).or_default() += count;
        }
    }
    let count = |mark: &str| all.get(mark).copied().unwrap_or(0);
    assert!(count("moves of clients") >= 20, "{all:?}");
    assert!(count("status 200") >= 50, "{all:?}");
    assert!(count(OUT_OF_REACH_MARK) >= 1, "{all:?}");
}

/// Seeds that once failed are run first.
#[test]
fn seeds_that_failed_before_pass() {
    let seeds = include_str!("seeds.txt").lines().filter(|line| !line.starts_with('#'));
    for line in seeds {
        let seed = line.split_whitespace().next().unwrap().parse().unwrap();
        replay(seed);
    }
}

#[test]
fn the_same_seed_gives_the_same_world() {
    for seed in 0..30 {
        assert_eq!(replay(seed), replay(seed), "seed {seed}");
    }
}

/// `RINGWAY_SEEDS=5000` runs more, `RINGWAY_SEED_FIRST=7000` others, `RINGWAY_SEED=69` that one.
#[test]
fn no_world_breaks_the_gateway() {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let first = number("RINGWAY_SEED_FIRST").unwrap_or(0);
    if let Some(seed) = number("RINGWAY_SEED") {
        // A single world, with all its output.
        let scenario = Scenario::draw(seed);
        eprintln!("{scenario:#?}");
        run(seed, scenario);
        return;
    }
    let count = number("RINGWAY_SEEDS").unwrap_or(SEED_COUNT);
    let (failures, marks) = sweep(first..first + count);
    for (mark, count) in &marks {
        eprintln!("{count:>12}  {mark}");
    }
    for Failure { seed, message } in &failures {
        eprintln!("failed: {seed} {message}");
    }
    assert!(failures.is_empty(), "{} worlds failed", failures.len());
    if count >= SEED_COUNT {
        let foreign = marks.get(FOREIGN_MARK).copied().unwrap_or(0);
        let most = count / 1000 * FOREIGN_PERMILLE_MAX;
        assert!(
            foreign <= most,
            "{foreign} worlds ended by a dependency's fault, of at most {most}"
        );
        let lost = marks.get(OUT_OF_REACH_MARK).copied().unwrap_or(0);
        let most = count / 1000 * OUT_OF_REACH_PERMILLE_MAX;
        assert!(lost <= most, "{lost} clients were unreachable, of at most {most}");
        let happened = |mark: &&str| marks.get(*mark).is_some_and(|count| *count > 0);
        let dull: Vec<_> = EXPECTED.into_iter().filter(|mark| !happened(mark)).collect();
        assert!(dull.is_empty(), "no world met {dull:?}");
    }
}

/// Number of worlds of an ordinary run.
const SEED_COUNT: u64 = 5_000;

/// Worlds out of a thousand that may end by a dependency's fault; such worlds show nothing else.
const FOREIGN_PERMILLE_MAX: u64 = 5;

/// Clients in a thousand worlds that may be lost because of the anti-amplification limit.
const OUT_OF_REACH_PERMILLE_MAX: u64 = 1;

/// Events that must occur in some world of an ordinary run; otherwise the test covers too little.
const EXPECTED: [&str; 35] = [
    "upstream connect failures",
    "requests over kept connections",
    "receives held back",
    "second tries",
    "kept connections discarded",
    "Retry packets",
    "forged Initials",
    "handshakes that failed",
    "packets lost",
    "datagrams lost in bursts",
    "datagrams lost in blackouts",
    "datagrams longer than the MTU",
    "datagrams corrupted",
    "datagrams marked by congestion",
    "datagrams doubled",
    "sends refused",
    "moves of clients",
    "reloads",
    "drains",
    "datagrams without a slot",
    "upstream pieces without a slot",
    "completions for dead keys",
    "cancelled",
    "connection lost",
    "reset 0x102",
    "reset 0x10b",
    "reset 0x10e",
    "status 200",
    "status 204",
    "status 304",
    "status 408",
    "status 413",
    "status 502",
    "status 503",
    "status 504",
];
