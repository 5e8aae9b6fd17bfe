//! The slot policy: splits received bundles into datagrams, and decides whether they, or bytes
//! received over TCP, stay in their slot or are copied to the heap.
//!
//! A single held byte pins a whole slot, and bytes that quinn-proto holds cannot be moved later;
//! over TCP, a body that its upstream does not read keeps them. What was received therefore stays
//! in its slot only while its flow holds less than its quota of slots and the pool is not low.
//! Otherwise it is copied to the heap, each datagram to a buffer of its length, and the slot is
//! free again in the same turn. A flow is a keyed hash of the client's address (without
//! the port, of which it has thousands): it is known before any byte is parsed, and a collision
//! costs copies but is never wrong.
//!
//! The quota is the number of slots that the pool could still spare (dynamic thresholds, Choudhury
//! and Hahne 1998). A single upload may hold half of the pool, a hundred share it evenly, and a
//! new flow always finds slots.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::net::{IpAddr, SocketAddr};

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
        let copies = !self.keeps(pool, ledger, source.ip(), &bundle);
        Datagrams { bundle, segment_len: segment_len.max(1), copies }
    }

    /// Returns bytes of a client over TCP, in their slot or copied.
    pub(super) fn keep(
        &self,
        pool: &Pool,
        ledger: &mut Ledger,
        client: IpAddr,
        bytes: BytesMut,
    ) -> BytesMut {
        match self.keeps(pool, ledger, client, &bytes) {
            true => bytes,
            false => BytesMut::from(&bytes[..]),
        }
    }

    /// Returns whether bytes stay in their slot, which is then charged to the client.
    fn keeps(&self, pool: &Pool, ledger: &mut Ledger, client: IpAddr, bytes: &[u8]) -> bool {
        let flow = self.hasher.hash_one(ClientAddress::from(client)) as u16;
        let spare = pool.counts().free.saturating_sub(pool.plan().low_water());
        let quota = spare.max(pool.plan().flow_quota().into());
        let reason = if u32::from(pool.held_by(flow)) >= quota {
            CopyReason::Quota
        } else if pool.is_low() {
            CopyReason::LowWater
        } else {
            pool.charge(bytes, flow);
            return true;
        };
        ledger.request_copied(reason, bytes.len());
        false
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

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn received(pool: &Pool) -> BytesMut {
        let mut slot = pool.lease_vec().expect("a slot is free");
        slot.resize(10_000, 7);
        Bytes::from(slot).try_into_mut().expect("nobody else has it")
    }

    #[test]
    fn one_client_over_tcp_leaves_slots_to_others() {
        let pool = Pool::for_test();
        let (policy, mut ledger) = (SlotPolicy::default(), Ledger::default());
        let (greedy, other) = (IpAddr::from([192, 0, 2, 1]), IpAddr::from([192, 0, 2, 2]));
        let total = pool.counts().total;
        let held: Vec<BytesMut> = (0..2 * total)
            .map(|_| policy.keep(&pool, &mut ledger, greedy, received(&pool)))
            .collect();
        let in_slots = held.iter().filter(|bytes| Pool::contains(bytes.as_ptr())).count();
        assert!((1..=total as usize / 2).contains(&in_slots), "{in_slots} of {total}");
        assert_eq!(ledger.request.copied_bytes.quota, 10_000 * (held.len() - in_slots) as u64);
        assert!(!pool.is_low());
        let kept = policy.keep(&pool, &mut ledger, other, received(&pool));
        assert!(Pool::contains(kept.as_ptr()), "another client has slots");
        drop((held, kept));
        let again = policy.keep(&pool, &mut ledger, greedy, received(&pool));
        assert!(Pool::contains(again.as_ptr()), "what was given back can be had again");
    }
}
