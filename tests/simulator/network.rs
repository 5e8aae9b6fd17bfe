//! A faulty network driven by a seed: the fate of each datagram is drawn once, when it is sent.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

/// The faults of the network.
#[derive(Debug, Clone, Copy)]
pub struct Weather {
    /// Chance that a datagram is lost.
    pub loss: f64,
    /// Chance that a datagram starts a burst of loss.
    pub burst: f64,
    /// Chance that a datagram is duplicated.
    pub duplication: f64,
    /// Chance that a byte of a datagram is flipped.
    pub corruption: f64,
    /// Chance that a datagram is marked as having met congestion (RFC 3168).
    pub congestion_mark: f64,
    /// One-way delay.
    pub delay: Duration,
    /// Maximum jitter added to the delay; it reorders datagrams.
    pub jitter: Duration,
    /// Longest datagram that passes.
    pub mtu: usize,
    /// Blackouts as (start, duration); nothing passes during one.
    pub blackout: Option<(Duration, Duration)>,
}

impl Weather {
    /// A network without faults.
    pub const FAIR: Self = Self {
        loss: 0.0,
        burst: 0.0,
        duplication: 0.0,
        corruption: 0.0,
        congestion_mark: 0.0,
        delay: Duration::from_millis(5),
        jitter: Duration::ZERO,
        mtu: 65_507,
        blackout: None,
    };

    /// Draws the faults from the seed: none, some, or so many that connections may be lost.
    pub fn draw(rng: &mut SmallRng) -> Self {
        let kind = rng.random_range(0..10);
        if kind < 2 {
            return Self::FAIR;
        }
        let harsh = kind >= 8;
        Self {
            loss: rng.random_range(0.0..0.05),
            burst: if harsh { rng.random_range(0.0..0.01) } else { 0.0 },
            duplication: rng.random_range(0.0..0.03),
            corruption: rng.random_range(0.0..0.02),
            congestion_mark: if rng.random_bool(0.2) { 0.05 } else { 0.0 },
            delay: Duration::from_micros(rng.random_range(100..40_000)),
            jitter: Duration::from_micros(rng.random_range(0..8_000)),
            mtu: [1_200, 1_250, 1_452, 65_507][rng.random_range(0..4)],
            blackout: (harsh && rng.random_bool(0.5)).then(|| {
                let length = rng.random_range(100..8_000);
                (Duration::from_millis(rng.random_range(0..3_000)), Duration::from_millis(length))
            }),
        }
    }

    /// Returns whether a connection may be lost through no fault of the gateway.
    pub fn is_harsh(&self) -> bool {
        self.burst > 0.0 || self.blackout.is_some()
    }

    /// Returns whether any datagram may be lost.
    pub fn loses(&self) -> bool {
        self.loss > 0.0 || self.corruption > 0.0 || self.is_harsh()
    }
}

/// The network of one world, with its random number generator.
pub struct Network {
    rng: SmallRng,
    weather: Weather,
    burst_left: u32,
    /// Counters of the faults that occurred.
    pub counts: NetworkCounts,
}

/// Counters of affected datagrams, by fault.
#[derive(Debug, Default)]
pub struct NetworkCounts {
    pub lost_in_bursts: u64,
    pub lost_in_blackouts: u64,
    pub too_long: u64,
    pub corrupted: u64,
    pub marked: u64,
    pub doubled: u64,
}

/// The bits of an IP header that say "congestion experienced" (RFC 3168 5).
const CONGESTION: u8 = 3;

impl Network {
    pub fn new(seed: u64, weather: Weather) -> Self {
        let rng = SmallRng::seed_from_u64(seed ^ 0x6e65_7477_6f72_6b00);
        Self { rng, weather, burst_left: 0, counts: NetworkCounts::default() }
    }

    /// Returns the delays of the copies of `datagram` that arrive, and applies corruption and marks
    /// to it. `at` is counted from the world's start.
    pub fn carry(&mut self, at: Duration, datagram: &mut [u8], ecn: &mut u8) -> Vec<Duration> {
        let weather = self.weather;
        if self.rng.random_bool(weather.burst) {
            self.burst_left = self.rng.random_range(2..40);
        }
        let in_burst = self.burst_left > 0;
        self.burst_left = self.burst_left.saturating_sub(1);
        let in_blackout =
            weather.blackout.is_some_and(|(from, length)| at >= from && at < from + length);
        let lost = self.rng.random_bool(weather.loss);
        let too_long = datagram.len() > weather.mtu;
        if in_burst || in_blackout || lost || too_long {
            self.counts.lost_in_bursts += u64::from(in_burst);
            self.counts.lost_in_blackouts += u64::from(in_blackout);
            self.counts.too_long += u64::from(too_long);
            return Vec::new();
        }
        if self.rng.random_bool(weather.corruption) && !datagram.is_empty() {
            let at = self.rng.random_range(0..datagram.len());
            datagram[at] ^= self.rng.random_range(1..=255u8);
            self.counts.corrupted += 1;
        }
        if *ecn != 0 && self.rng.random_bool(weather.congestion_mark) {
            *ecn = CONGESTION;
            self.counts.marked += 1;
        }
        let copies = 1 + u64::from(self.rng.random_bool(weather.duplication));
        self.counts.doubled += copies - 1;
        (0..copies)
            .map(|_| weather.delay + weather.jitter.mul_f64(self.rng.random_range(0.0..1.0)))
            .collect()
    }
}
