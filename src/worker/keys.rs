//! Secrets of the process, and what one worker derives its randomness from.

use std::sync::Arc;
use std::time::SystemTime;

use super::WorkerSetup;
use crate::cid::CidMask;
use crate::host::clock;
use crate::limits::WINDOW_BUDGET_LEN;
use crate::quic::{EngineSettings, ListenerSettings, MTU_MAX_DEFAULT, TimeSource};

/// Secrets that all workers share: any of them reads what another has written.
#[derive(Clone)]
pub(crate) struct ProcessKeys {
    /// Hides the worker's index in connection ids; the steering program has the same.
    pub cid_mask: CidMask,
    /// Key of stateless resets (RFC 9000 10.3.2).
    pub reset_key: [u8; 64],
    /// Key of address validation tokens (RFC 9000 8.1.2, 8.1.3).
    pub token_key: [u8; 64],
}

impl ProcessKeys {
    /// Draws new keys from `random`.
    pub(crate) fn generate(random: fn(&mut [u8])) -> Self {
        let [k1, k2, k3] = draw(random);
        Self { cid_mask: CidMask { k1, k2, k3 }, reset_key: draw(random), token_key: draw(random) }
    }
}

impl WorkerSetup {
    /// Settings of this worker's engine. Each call draws a new seed and a new key of connection
    /// ids: a worker that begins anew must not repeat the ids of the one before.
    pub(super) fn engine_settings(&self) -> EngineSettings {
        let snapshot = self.snapshot.borrow();
        let listeners = snapshot.config.listeners.iter();
        EngineSettings {
            listeners: listeners.map(|one| ListenerSettings::of(one, &snapshot.tls)).collect(),
            sockets: snapshot.edges.iter().map(|edge| edge.listener).collect(),
            worker: self.index,
            worker_count: self.count,
            generation: false,
            window_budget_len: WINDOW_BUDGET_LEN,
            mtu_max: MTU_MAX_DEFAULT,
            seed: draw(self.random),
            cid_key: draw(self.random),
            cid_mask: self.keys.cid_mask,
            reset_key: self.keys.reset_key,
            token_key: self.keys.token_key,
            time_source: Arc::new(WallClock),
        }
    }
}

/// The host's wall clock, for the age of tokens.
struct WallClock;

impl TimeSource for WallClock {
    fn now(&self) -> SystemTime {
        clock::wall()
    }
}

fn draw<const LEN: usize>(random: fn(&mut [u8])) -> [u8; LEN] {
    let mut bytes = [0; LEN];
    random(&mut bytes);
    bytes
}
