//! The scenario of a world: everything that its seed decides.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};
use ringway::testing::internal::config::{
    Config, Congestion, Endpoint, EndpointAddress, Retry, RetryOn,
};
use ringway::testing::internal::limits::SLOT_LEN;

use crate::client::Manner;
use crate::kernel::SocketTroubles;
use crate::network::Weather;
use crate::plan::{Ask, Behaviour, Framing, LIES, Malformed, Plan};
use crate::stranger::Flood;
use crate::wire::Troubles;

/// Slots of a world's pool, some of which its scenario withholds.
pub const SLOT_COUNT: usize = 128;

/// As in a worker: half of its pool.
pub const RESPONSES_LEN_MAX: usize = SLOT_COUNT * SLOT_LEN / 2;

#[derive(Debug, Clone)]
pub struct Scenario {
    pub config: Config,
    pub weather: Weather,
    pub troubles: Troubles,
    pub socket: SocketTroubles,
    pub clients: Vec<(Manner, Vec<Ask>)>,
    /// Bytes of all responses that may wait in the gateway.
    pub responses_len_max: usize,
    /// Time of a reload.
    pub reload: Option<Duration>,
    /// Time at which a drain begins.
    pub drain: Option<Duration>,
    /// A stranger that forges Initials.
    pub flood: Option<Flood>,
}

impl Scenario {
    /// Returns a scenario of one client and no faults.
    pub fn quiet(asks: Vec<Ask>) -> Self {
        Self {
            config: demo(),
            weather: Weather::FAIR,
            troubles: Troubles::NONE,
            socket: SocketTroubles::NONE,
            clients: vec![(Manner::CALM, asks)],
            responses_len_max: RESPONSES_LEN_MAX,
            reload: None,
            drain: None,
            flood: None,
        }
    }

    pub fn draw(seed: u64) -> Self {
        let rng = &mut SmallRng::seed_from_u64(seed);
        let mut next_id = 0;
        let client_count = rng.random_range(1..=3);
        let mut clients = Vec::new();
        for _ in 0..client_count {
            let hoards = rng.random_bool(0.04);
            let manner = draw_manner(rng);
            let ask_count = if hoards { rng.random_range(5..=12) } else { rng.random_range(1..=6) };
            let draw = if hoards { draw_hoard } else { draw_ask };
            let asks = (next_id..next_id + ask_count).map(|id| draw(rng, id)).collect();
            next_id += ask_count;
            clients.push((manner, asks));
        }
        Self {
            clients,
            responses_len_max: pick(rng, &[RESPONSES_LEN_MAX, RESPONSES_LEN_MAX, 100_000, 400_000]),
            config: draw_config(rng),
            weather: Weather::draw(rng),
            troubles: draw_troubles(rng),
            socket: SocketTroubles {
                delay: Duration::from_micros(some(rng, 0.5, 3_000)),
                refuses: if rng.random_bool(0.1) { 0.02 } else { 0.0 },
                ballast: draw_ballast(rng),
            },
            reload: rng.random_bool(0.1).then(|| millis(rng, 2_000)),
            drain: rng.random_bool(0.05).then(|| millis(rng, 2_000)),
            flood: rng.random_bool(0.2).then(|| Flood {
                count: rng.random_range(1..100),
                pause: Duration::from_micros(some(rng, 0.8, 30_000)),
            }),
        }
    }

    /// Returns whether requests may find every upstream connection in use.
    pub fn has_few_connections(&self) -> bool {
        self.config.upstreams[0].max_connections < 100
    }

    /// Returns whether an origin may close a kept connection while a request is in flight to it.
    pub fn has_race_for_kept(&self) -> bool {
        let plans = self.clients.iter().flat_map(|(_, asks)| asks).map(|ask| ask.plan);
        let mut plans = plans;
        plans.any(|plan| {
            matches!(plan, Plan::Leaves { .. } | Plan::Overlong { .. } | Plan::Cut { .. })
        })
    }
}

pub fn demo() -> Config {
    let mut config = ringway::testing::internal::demo::config("10.0.2.1:80".parse().unwrap());
    config.limits.request_body_timeout = Duration::from_secs(20);
    config
}

/// Returns a random number below `bound` with this chance, else 0.
fn some(rng: &mut SmallRng, chance: f64, bound: u64) -> u64 {
    if rng.random_bool(chance) { rng.random_range(0..bound) } else { 0 }
}

fn millis(rng: &mut SmallRng, bound: u64) -> Duration {
    Duration::from_millis(rng.random_range(0..bound))
}

fn pick<T: Copy>(rng: &mut SmallRng, from: &[T]) -> T {
    *from.choose(rng).expect("something to pick from")
}

fn draw_config(rng: &mut SmallRng) -> Config {
    let mut config = demo();
    let quic = &mut config.listeners[0].quic;
    quic.retry = pick(rng, &[Retry::Never, Retry::Adaptive, Retry::Always]);
    quic.congestion = pick(rng, &[Congestion::Cubic, Congestion::NewReno, Congestion::Bbr]);
    quic.max_streams = pick(rng, &[1, 3, 100]);
    quic.stream_receive_window = pick(rng, &[16 << 10, 64 << 10, 1 << 20]);
    quic.receive_window_max = pick(rng, &[64 << 10, 6 << 20]);
    quic.send_window_max = pick(rng, &[64 << 10, 256 << 10, 6 << 20]);
    let upstream = &mut config.upstreams[0];
    if rng.random_bool(0.2) {
        upstream.max_connections = rng.random_range(1..4);
        upstream.max_waiting = pick(rng, &[0, 2, 1024]);
    }
    upstream.response_timeout = Duration::from_secs(rng.random_range(8..20));
    upstream.idle_timeout = pick(rng, &[Duration::from_millis(50), Duration::from_secs(60)]);
    // The one with which most can go wrong.
    upstream.retry = RetryOn::Timeout;
    for index in 0..rng.random_range(0..3u16) {
        let address = SocketAddr::from(([10, 0, 2, 2], 80 + index));
        let address = EndpointAddress::Tcp(address);
        let weight = rng.random_range(1..4);
        upstream.endpoints.push(Endpoint { address, name: None, weight });
    }
    config.limits.request_head_timeout = Duration::from_secs(10);
    if rng.random_bool(0.05) {
        config.limits.request_body_len_max = 100_000;
    }
    config
}

/// Draws an ample pool, a low one, or one with hardly any slot.
fn draw_ballast(rng: &mut SmallRng) -> usize {
    match rng.random_range(0..4) {
        0 | 1 => 0,
        2 => rng.random_range(0..SLOT_COUNT - 24),
        _ => rng.random_range(SLOT_COUNT - 24..=SLOT_COUNT - 3),
    }
}

fn draw_troubles(rng: &mut SmallRng) -> Troubles {
    let chance = |rng: &mut SmallRng, most: f64| {
        if rng.random_bool(0.15) { rng.random_range(0.0..most) } else { 0.0 }
    };
    Troubles {
        connect_fails: chance(rng, 0.4),
        connect_hangs: chance(rng, 0.2),
        breaks: chance(rng, 0.1),
        stalls: chance(rng, 0.3),
        delay: Duration::from_micros(some(rng, 0.7, 200_000)),
        piece_len_max: pick(rng, &[500, 16 << 10, 64 << 10]),
    }
}

fn draw_manner(rng: &mut SmallRng) -> Manner {
    let move_count = if rng.random_bool(0.2) { rng.random_range(1..4) } else { 0 };
    let mut moves: Vec<_> =
        (0..move_count).map(|_| (millis(rng, 3_000), rng.random_bool(0.5))).collect();
    moves.sort_unstable();
    Manner {
        after: Duration::from_millis(some(rng, 0.5, 500)),
        moves,
        leaves: rng.random_bool(0.05).then(|| (millis(rng, 3_000), rng.random_bool(0.5))),
        stream_window: pick(rng, &[4 << 10, 64 << 10, 1_250_000]),
        send_window: pick(rng, &[32 << 10, 1_250_000]),
    }
}

fn draw_len(rng: &mut SmallRng) -> usize {
    match rng.random_range(0..40) {
        0..8 => 0,
        8..12 => 1,
        12..24 => rng.random_range(0..5_000),
        24..34 => rng.random_range(0..40_000),
        34..38 => rng.random_range(0..200_000),
        38 => rng.random_range(300_000..500_000),
        _ => crate::plan::BODY_LEN_MAX,
    }
}

fn draw_ask(rng: &mut SmallRng, id: usize) -> Ask {
    let len = draw_len(rng);
    let plan = draw_plan(rng, len);
    let method = match plan {
        Plan::Echo => "POST",
        Plan::Whole { .. } | Plan::Bare(_) => {
            pick(rng, &["GET", "GET", "HEAD", "POST", "PUT", "DELETE"])
        }
        _ => pick(rng, &["GET", "GET", "POST", "PUT"]),
    };
    let has_body = matches!(method, "POST" | "PUT");
    let body_len = if has_body { draw_len(rng) } else { 0 };
    let mut ask = Ask::plain(id, method, body_len, plan);
    ask.declared = (has_body && rng.random_bool(0.5)).then_some(body_len);
    ask.trailers = has_body && rng.random_bool(0.1);
    ask.after = Duration::from_millis(some(rng, 0.7, 1_000));
    draw_behaviour(rng, &mut ask);
    ask
}

/// Returns a request of a client that lets many long responses wait at once: for longer than the
/// upstream's timeout, but not for so long that the gateway gives them up.
fn draw_hoard(rng: &mut SmallRng, id: usize) -> Ask {
    let long = rng.random_range(0..4) > 0;
    let len = if long { rng.random_range(200_000..500_000) } else { draw_len(rng) };
    let framing = pick(rng, &[Framing::Length, Framing::Chunked { trailers: false }]);
    let mut ask = Ask::plain(id, "GET", 0, Plan::Whole { framing, len, interim_count: 0 });
    ask.after = Duration::from_millis(some(rng, 0.7, 1_000));
    if long {
        ask.behaviour = Behaviour::PauseReading(0, Duration::from_secs(rng.random_range(2..40)));
    }
    ask
}

fn draw_plan(rng: &mut SmallRng, len: usize) -> Plan {
    let framings = [
        Framing::Length,
        Framing::Length,
        Framing::Chunked { trailers: false },
        Framing::Chunked { trailers: true },
        Framing::UntilClose,
    ];
    let framing = pick(rng, &framings);
    match rng.random_range(0..32) {
        0..12 => Plan::Whole { framing, len, interim_count: 0 },
        12 => Plan::Whole { framing, len, interim_count: pick(rng, &[1, 2, 8, 9]) },
        13..19 => Plan::Echo,
        19 => Plan::Bare(pick(rng, &[204, 304])),
        20 | 21 => Plan::Early { status: pick(rng, &[413, 200]), closes: rng.random_bool(0.5) },
        22..25 => Plan::Cut {
            framing,
            len: len.min(50_000),
            permille: rng.random_range(0..=1000),
            resets: framing == Framing::UntilClose || rng.random_bool(0.5),
        },
        25 => Plan::Never,
        26 => Plan::Stall { len: len.max(2) },
        27 => Plan::Drip { len: len.min(20_000) },
        28 => Plan::Lie(rng.random_range(0..LIES.len())),
        29 => Plan::BadChunk { len: len.max(1) },
        30 => Plan::Overlong { len, late: rng.random_bool(0.5) },
        _ => Plan::Leaves { len },
    }
}

fn draw_behaviour(rng: &mut SmallRng, ask: &mut Ask) {
    let pause = millis(rng, 5_000);
    ask.behaviour = match rng.random_range(0..40) {
        0..3 => Behaviour::CancelAfter(rng.random_range(0..50_000)),
        3 | 4 => Behaviour::AbortAt(rng.random_range(0..=ask.body_len)),
        5..9 => Behaviour::PauseReading(rng.random_range(0..20_000), pause),
        9..11 => Behaviour::PauseSending(rng.random_range(1..20_000), pause),
        11 if ask.body_len >= 10_000 && ask.body_len < 100_000 => {
            Behaviour::StallAt(pick(rng, &[5, 2_000]))
        }
        12 if rng.random_bool(0.5) => Behaviour::Malformed(Malformed::UpperCase),
        13 if rng.random_bool(0.2) => Behaviour::Malformed(Malformed::DataFirst),
        14 if ask.declared.is_some() => {
            let len = ask.body_len;
            ask.declared = Some(if rng.random_bool(0.5) { len + 1 } else { len / 2 });
            Behaviour::Plain
        }
        15 if rng.random_bool(0.3) => {
            Behaviour::PauseReading(rng.random_range(0..20_000), Duration::from_secs(90))
        }
        _ => Behaviour::Plain,
    };
}
