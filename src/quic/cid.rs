//! Connection ids that tell which worker they belong to.
//!
//! ```text
//!   byte 0                         bytes 1..8 (the tail)
//!  +------------------------------+----------------------------------+
//!  | (generation << 7 | worker)   | 56 bits of HMAC-SHA256(key, n)   |
//!  |   ^ mask(tail)               |                                  |
//!  +------------------------------+----------------------------------+
//! ```
//!
//! The program that steers datagrams to sockets runs in the kernel as classic BPF: it can load a
//! byte, AND, XOR and add, and that is what [`CidMask::mask`] is made of. The mask keeps the index
//! from standing in the open; it is not encryption, and who sees many ids of one worker can find
//! out that they are one worker's. Which connection an id belongs to stays hidden: the tails are
//! the output of a keyed pseudo-random function.

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::limits::WORKER_INDEX_MAX;

/// Length of every connection id that the gateway issues.
pub const CID_LEN: usize = 8;

/// Length of what follows byte 0.
const TAIL_LEN: usize = CID_LEN - 1;

/// Length of one HMAC-SHA256 output.
const BLOCK_LEN: usize = 32;

/// The keys that hide the worker's index, the same in every worker and in the steering program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CidMask {
    /// ANDed with byte 1.
    pub k1: u8,
    /// Added to byte 2.
    pub k2: u8,
    /// XORed with both.
    pub k3: u8,
}

impl CidMask {
    /// What byte 0 is XORed with, from the bytes behind it:
    /// `(tail[0] & k1) ^ (tail[1] + k2 mod 256) ^ k3`.
    ///
    /// The steering program computes the same; both sides are compared by a test where they meet.
    pub fn mask(self, tail: &[u8; TAIL_LEN]) -> u8 {
        (tail[0] & self.k1) ^ tail[1].wrapping_add(self.k2) ^ self.k3
    }
}

/// Generates the ids of one worker, and knows them again.
#[derive(Clone)]
pub(super) struct WorkerIds {
    index_byte: u8,
    mask: CidMask,
    key: hmac::Key,
    counter: u64,
    block: [u8; BLOCK_LEN],
    block_used: usize,
}

impl WorkerIds {
    /// `key` must differ from worker to worker, or two of them issue the same tails.
    pub(super) fn new(worker: u16, generation: bool, mask: CidMask, key: &[u8; 32]) -> Self {
        assert!(worker <= WORKER_INDEX_MAX, "worker index {worker} does not fit 7 bits");
        Self {
            index_byte: u8::from(generation) << 7 | worker as u8,
            mask,
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            counter: 0,
            block: [0; BLOCK_LEN],
            block_used: BLOCK_LEN,
        }
    }

    /// Whether `id` could be one of this worker's, of either generation.
    pub(super) fn is_ours(&self, id: &[u8]) -> bool {
        let Some((&first, tail)) = id.split_first() else { return false };
        let Ok(tail) = tail.try_into() else { return false };
        (first ^ self.mask.mask(tail)) & 0x7f == self.index_byte & 0x7f
    }

    fn tail(&mut self) -> [u8; TAIL_LEN] {
        if self.block_used + TAIL_LEN > BLOCK_LEN {
            let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
            self.block.copy_from_slice(tag.as_ref());
            self.counter += 1;
            self.block_used = 0;
        }
        let mut tail = [0; TAIL_LEN];
        tail.copy_from_slice(&self.block[self.block_used..self.block_used + TAIL_LEN]);
        self.block_used += TAIL_LEN;
        tail
    }
}

impl ConnectionIdGenerator for WorkerIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let tail = self.tail();
        let mut id = [0; CID_LEN];
        id[0] = self.index_byte ^ self.mask.mask(&tail);
        id[1..].copy_from_slice(&tail);
        ConnectionId::new(&id)
    }

    /// quinn-proto asks before it answers an unknown id with a stateless reset. An id of another
    /// worker came to the wrong socket: its connection may well live there, and a reset from here
    /// would end it.
    fn validate(&self, id: &ConnectionId) -> Result<(), InvalidCid> {
        if self.is_ours(id) { Ok(()) } else { Err(InvalidCid) }
    }

    fn cid_len(&self) -> usize {
        CID_LEN
    }

    fn cid_lifetime(&self) -> Option<std::time::Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    const MASK: CidMask = CidMask { k1: 0xa5, k2: 0x3c, k3: 0x96 };

    /// Oracle: the formula worked out by hand.
    #[test]
    fn mask_by_hand() {
        // (0x0f & 0xa5) = 0x05; 0xff + 0x3c = 0x3b; 0x05 ^ 0x3b ^ 0x96 = 0xa8.
        assert_eq!(MASK.mask(&[0x0f, 0xff, 9, 9, 9, 9, 9]), 0xa8);
    }

    #[test]
    fn ids_are_distinct_and_known_only_to_their_worker() {
        let mut workers = (0..=WORKER_INDEX_MAX)
            .map(|worker| WorkerIds::new(worker, worker % 2 == 1, MASK, &[worker as u8; 32]))
            .collect::<Vec<_>>();
        let mut seen = HashSet::new();
        for owner in 0..workers.len() {
            for _ in 0..20 {
                let id = workers[owner].generate_cid();
                assert!(seen.insert(id));
                let owners = (0..workers.len()).filter(|&index| workers[index].is_ours(&id));
                assert_eq!(owners.collect::<Vec<_>>(), [owner]);
            }
        }
    }

    #[test]
    fn both_generations_of_a_worker_are_ours() {
        let mut old = WorkerIds::new(5, false, MASK, &[1; 32]);
        let new = WorkerIds::new(5, true, MASK, &[2; 32]);
        let id = old.generate_cid();
        assert!(new.is_ours(&id));
        assert!(new.validate(&id).is_ok());
    }

    #[test]
    fn other_lengths_are_never_ours() {
        let ids = WorkerIds::new(0, false, MASK, &[1; 32]);
        for len in (0..=20).filter(|&len| len != CID_LEN) {
            assert!(!ids.is_ours(&[0; 20][..len]));
        }
    }

    #[test]
    fn the_same_key_gives_the_same_ids() {
        let mut left = WorkerIds::new(3, false, MASK, &[7; 32]);
        let mut right = left.clone();
        for _ in 0..100 {
            assert_eq!(left.generate_cid(), right.generate_cid());
        }
    }
}
