//! The slot policy: splits received bundles into datagrams, and decides whether they stay in their
//! slot or are copied to the heap.
//!
//! A single held byte pins a whole slot, and bytes that quinn-proto holds cannot be moved later. A
//! bundle is therefore decrypted in place only while its flow holds less than its quota of slots
//! and the pool is not low. Otherwise each datagram is copied to a heap buffer of its length, and
//! the slot is free again in the same turn. A flow is a keyed hash of the client's address (without
//! the port, of which it has thousands): it is known before any byte is parsed, and a collision
//! costs copies but is never wrong.
//!
//! The quota is the number of slots that the pool could still spare (dynamic thresholds, Choudhury
//! and Hahne 1998). A single upload may hold half of the pool, a hundred share it evenly, and a
//! new flow always finds slots.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::SocketAddr;

use bytes::BytesMut;

use crate::base::shares::ClientAddress;
use crate::metrics::{CopyReason, Ledger};
use crate::pool::Pool;

/// Decides where received bytes are kept.
#[derive(Default)]
pub(super) struct SlotPolicy {
    hasher: RandomState,
}

impl SlotPolicy {
    /// Splits a bundle into its datagrams, in order. All but the last have `segment_len` bytes.
    pub(super) fn split(
        &self,
        pool: &Pool,
        ledger: &mut Ledger,
        source: SocketAddr,
        bundle: BytesMut,
        segment_len: usize,
    ) -> Datagrams {
        let flow = self.hasher.hash_one(ClientAddress::from(source.ip())) as u16;
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
        Datagrams { bundle, segment_len: segment_len.max(1), copies: reason.is_some() }
    }
}

/// The datagrams of one bundle.
pub(super) struct Datagrams {
    bundle: BytesMut,
    segment_len: usize,
    /// Copies each datagram to the heap.
    copies: bool,
}

impl Iterator for Datagrams {
    type Item = BytesMut;

    fn next(&mut self) -> Option<BytesMut> {
        if self.bundle.is_empty() {
            return None;
        }
        let len = self.segment_len.min(self.bundle.len());
        let datagram = self.bundle.split_to(len);
        Some(if self.copies { BytesMut::from(&datagram[..]) } else { datagram })
    }
}
