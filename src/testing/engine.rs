//! Settings of a QUIC engine that tests start from.

use std::sync::Arc;

use super::FrozenClock;
use crate::cid::CidMask;
use crate::config;
use crate::quic::{EngineSettings, ListenerSettings, MTU_MAX_DEFAULT};
use crate::tls::ServerTls;

/// The mask of [`engine_settings`].
pub const CID_MASK: CidMask = CidMask { k1: 0x5a, k2: 0x77, k3: 0xc1 };

/// Settings of a lone worker with one listener and one socket, fixed keys, a fixed seed and a clock
/// that stands still. Tests override fields by struct update.
pub fn engine_settings(quic: config::Quic, tls: &ServerTls) -> EngineSettings {
    EngineSettings {
        listeners: vec![ListenerSettings { quic, tls: tls.config() }],
        sockets: vec![0],
        worker: 0,
        worker_count: 1,
        generation: false,
        window_budget_len: 64 << 20,
        mtu_max: MTU_MAX_DEFAULT,
        seed: [1; 32],
        cid_key: [2; 32],
        cid_mask: CID_MASK,
        reset_key: [3; 64],
        token_key: [4; 64],
        time_source: Arc::new(FrozenClock),
    }
}
