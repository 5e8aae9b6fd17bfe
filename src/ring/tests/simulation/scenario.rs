//! The scenario of a world: everything that its seed decides in advance.

use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::ring::RingSettings;

/// A chance of one in this many; 0 is never.
pub(super) type OneIn = u32;

#[derive(Debug, Clone)]
pub(super) struct Scenario {
    pub(super) settings: RingSettings,
    pub(super) sockets: u16,
    pub(super) listeners: u16,
    /// Steps until the end begins.
    pub(super) steps: u32,
    /// Maximum number of slots with received bytes that the caller holds.
    pub(super) held_max: usize,
    /// Maximum number of completions that accumulate before the caller takes them.
    pub(super) burst_max: u32,
    /// Chance of batches long enough for zero copy.
    pub(super) long_batches: OneIn,
    /// The ring is shut down with everything in flight, or becomes idle first.
    pub(super) ends_abruptly: bool,
    pub(super) kernel: Temper,
}

/// The faults of this kernel.
#[derive(Debug, Clone)]
pub(super) struct Temper {
    pub(super) failures: OneIn,
    /// A multishot receive ends with a completion.
    pub(super) endings: OneIn,
    /// A failure names a slot nevertheless.
    pub(super) failures_with_slot: OneIn,
    /// A completion arrives for an operation that is over.
    pub(super) strays: OneIn,
    /// It refuses to segment sends.
    pub(super) refuses_segments: bool,
    /// It refuses zero-copy sends.
    pub(super) refuses_zero_copy: OneIn,
    /// It copies zero-copy sends and reports it.
    pub(super) copies: OneIn,
    /// A notification is delayed.
    pub(super) late_notifications: OneIn,
    /// It reports that a socket has more bytes although it has none.
    pub(super) lies_about_more: OneIn,
    /// Maximum number of bytes that arrive for a stream at a time.
    pub(super) arrival_max: usize,
    /// A stream's peer ends it.
    pub(super) stream_ends: OneIn,
    /// A datagram is empty, truncated or unreadable.
    pub(super) bad_datagrams: OneIn,
}

impl Temper {
    /// Stops all faults.
    pub(super) fn calm(&mut self) {
        (self.failures, self.endings, self.failures_with_slot, self.strays) = (0, 0, 0, 0);
        (self.refuses_zero_copy, self.late_notifications, self.lies_about_more) = (0, 0, 0);
    }
}

impl Scenario {
    pub(super) fn draw(seed: u64) -> Scenario {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut one_of = |choices: &[u32]| choices[random.random_range(0..choices.len())];
        Scenario {
            settings: RingSettings {
                datagram_buffers: one_of(&[1, 2, 4, 8, 16]) as u16,
                stream_buffers: one_of(&[1, 2, 4, 8]) as u16,
                sockets_max: 2,
                sends_max: one_of(&[1, 2, 8]),
                listeners_max: 2,
                streams_max: one_of(&[1, 2, 4, 6, 40]),
                ..RingSettings::default()
            },
            sockets: one_of(&[1, 2]) as u16,
            listeners: one_of(&[0, 1, 2]) as u16,
            steps: one_of(&[100, 300, 600]),
            held_max: one_of(&[0, 2, 10, 60]) as usize,
            burst_max: one_of(&[1, 1, 4, 40]),
            long_batches: one_of(&[0, 1, 2, 4]),
            ends_abruptly: one_of(&[0, 1]) == 1,
            kernel: Temper {
                failures: one_of(&[0, 2, 4, 10, 40]),
                endings: one_of(&[0, 2, 5, 50]),
                failures_with_slot: one_of(&[0, 0, 4]),
                strays: one_of(&[0, 5, 20]),
                refuses_segments: one_of(&[0, 0, 0, 1]) == 1,
                refuses_zero_copy: one_of(&[0, 0, 2, 10]),
                copies: one_of(&[0, 0, 1, 10]),
                late_notifications: one_of(&[0, 2, 30]),
                lies_about_more: one_of(&[0, 3, 20]),
                arrival_max: one_of(&[1, 1_000, 70_000, 300_000]) as usize,
                stream_ends: one_of(&[0, 5, 30]),
                bad_datagrams: one_of(&[0, 3, 30]),
            },
        }
    }
}
