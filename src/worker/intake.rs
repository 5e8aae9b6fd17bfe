//! A received bundle becomes datagrams, and it is decided once whether they stay in their slot.
//!
//! One held byte pins a whole slot, and what quinn-proto holds cannot be moved afterwards. So a
//! bundle is decrypted where it lies only while its flow holds less than its quota of slots and
//! the pool is not low; otherwise each datagram moves to an exact heap buffer and the slot goes
//! back in the same turn. A flow is a keyed hash of the client's address: it is known before any
//! byte is parsed, and a collision costs copies, never correctness.
//!
//! The quota follows what is free: a flow may hold as many slots as the pool could still spare
//! (dynamic thresholds, Choudhury and Hahne 1998). One upload alone may have half of the pool, a
//! hundred share it evenly, and nobody can starve a newcomer.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;

use bytes::BytesMut;

use crate::gateway::{CopyReason, Ledger};
use crate::pool::Pool;

/// Decides where received bytes stay.
#[derive(Default)]
pub(super) struct IntakePolicy {
    hasher: RandomState,
}

impl IntakePolicy {
    /// Splits a bundle into its datagrams, in order, each `segment_len` bytes but the last.
    pub(super) fn split(
        &self,
        pool: &Pool,
        ledger: &mut Ledger,
        source: SocketAddr,
        bundle: BytesMut,
        segment_len: usize,
    ) -> Datagrams {
        let flow = self.hasher.hash_one(source) as u16;
        let spare = pool.counts().free.saturating_sub(pool.plan().low_water());
        let quota = spare.max(pool.plan().flow_quota().into());
        let reason = if u32::from(pool.held_by(flow)) >= quota {
            Some(CopyReason::Quota)
        } else if pool.is_low() {
            Some(CopyReason::LowWater)
        } else {
            pool.charge(&bundle, flow);
            None
        };
        if let Some(reason) = reason {
            ledger.request_copied(reason, bundle.len());
        }
        Datagrams { bundle, segment_len: segment_len.max(1), moves: reason.is_some() }
    }
}

/// The datagrams of one bundle.
pub(super) struct Datagrams {
    bundle: BytesMut,
    segment_len: usize,
    /// Each datagram moves to the heap.
    moves: bool,
}

impl Iterator for Datagrams {
    type Item = BytesMut;

    fn next(&mut self) -> Option<BytesMut> {
        if self.bundle.is_empty() {
            return None;
        }
        let len = self.segment_len.min(self.bundle.len());
        let datagram = self.bundle.split_to(len);
        Some(if self.moves { BytesMut::from(&datagram[..]) } else { datagram })
    }
}
