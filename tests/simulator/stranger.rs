//! A stranger that forges Initials from any address, beside the clients of a world.

use std::net::SocketAddr;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use ringway::testing::forger::{CLOSE, FORBIDDEN, Forger, GAP, PING};

use crate::fixture;

/// The behaviour of a stranger.
#[derive(Debug, Clone, Copy)]
pub struct Flood {
    /// Number of datagrams.
    pub count: u32,
    /// Pause between two of them.
    pub pause: Duration,
}

/// A datagram of a stranger.
pub struct Forged {
    pub after: Duration,
    pub from: SocketAddr,
    pub datagram: Vec<u8>,
}

/// Returns the datagrams of a flood: Initials that close themselves, break a rule, leave a gap or
/// begin a handshake that never goes on, copies of them from other addresses, and damaged ones.
pub fn forge(seed: u64, flood: Flood) -> Vec<Forged> {
    let rng = &mut SmallRng::seed_from_u64(seed ^ 0x7374_7261_6e67_6572);
    let forger = Forger::new(fixture::server_tls());
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    let forged = (0..flood.count).map(|number| {
        let repeats = !datagrams.is_empty() && rng.random_bool(0.3);
        let datagram = if repeats {
            datagrams[rng.random_range(0..datagrams.len())].clone()
        } else {
            draw(rng, &forger)
        };
        datagrams.push(datagram.clone());
        let [a, b, _, _] = rng.random::<[u8; 4]>();
        let from = SocketAddr::from(([172, 16 + a % 4, b, 1], rng.random_range(1..=u16::MAX)));
        Forged { after: flood.pause * number, from, datagram }
    });
    forged.collect()
}

fn draw(rng: &mut SmallRng, forger: &Forger) -> Vec<u8> {
    let id = rng.random();
    let frames: &[u8] = match rng.random_range(0..4) {
        0 => &CLOSE,
        1 => &FORBIDDEN,
        2 => &GAP,
        _ => &PING,
    };
    let token = vec![7; [0, 0, 1, 100][rng.random_range(0..4)]];
    let mut datagram = forger.initial(id, &token, 0, frames, 600);
    datagram.extend(forger.initial(id, &token, 1, &PING, 600));
    if rng.random_bool(0.1) {
        let at = rng.random_range(0..datagram.len());
        datagram[at] ^= rng.random_range(1..=255u8);
    }
    datagram
}
