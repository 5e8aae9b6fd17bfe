//! Generation of connection ids, each naming the worker that issued it ([`crate::cid`]).

use aws_lc_rs::hmac;
use quinn_proto::{ConnectionId, ConnectionIdGenerator, InvalidCid};

use crate::cid::{CID_LEN, CID_TAIL_LEN, CidMask, WORKER_INDEX_MAX};

/// Length of one HMAC-SHA256 output.
const BLOCK_LEN: usize = 32;

/// The generator of one worker's connection ids, which also recognizes them.
#[derive(Clone)]
pub(super) struct WorkerIds {
    worker: u16,
    generation: bool,
    mask: CidMask,
    key: hmac::Key,
    counter: u64,
    block: [u8; BLOCK_LEN],
    block_used: usize,
}

impl WorkerIds {
    /// `key` must differ from worker to worker, or two of them would issue the same tails.
    pub(super) fn new(worker: u16, generation: bool, mask: CidMask, key: &[u8; 32]) -> Self {
        assert!(worker <= WORKER_INDEX_MAX, "worker index {worker} does not fit 7 bits");
        Self {
            worker,
            generation,
            mask,
            key: hmac::Key::new(hmac::HMAC_SHA256, key),
            counter: 0,
            block: [0; BLOCK_LEN],
            block_used: BLOCK_LEN,
        }
    }

    /// Returns whether `id` could be one of this worker's, of either generation.
    pub(super) fn is_ours(&self, id: &[u8]) -> bool {
        id.try_into().is_ok_and(|id| self.mask.worker(id) == self.worker)
    }

    fn tail(&mut self) -> [u8; CID_TAIL_LEN] {
        if self.block_used + CID_TAIL_LEN > BLOCK_LEN {
            let tag = hmac::sign(&self.key, &self.counter.to_be_bytes());
            self.block.copy_from_slice(tag.as_ref());
            self.counter += 1;
            self.block_used = 0;
        }
        let mut tail = [0; CID_TAIL_LEN];
        tail.copy_from_slice(&self.block[self.block_used..self.block_used + CID_TAIL_LEN]);
        self.block_used += CID_TAIL_LEN;
        tail
    }
}

impl ConnectionIdGenerator for WorkerIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let tail = self.tail();
        ConnectionId::new(&self.mask.id(self.worker, self.generation, tail))
    }

    /// quinn-proto calls this before it sends a stateless reset for an unknown id. An id of another
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

    #[test]
    fn ids_are_distinct_and_recognized_only_by_their_worker() {
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
