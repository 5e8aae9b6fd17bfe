//! The layout of the connection ids that the gateway issues. Each names the worker that it belongs
//! to, so that the kernel can steer datagrams to the worker's socket.
//!
//! ```text
//!   byte 0                         bytes 1..8 (the tail)
//!  +------------------------------+----------------------------------+
//!  | (generation << 7 | worker)   | 56 bits of HMAC-SHA256(key, n)   |
//!  |   ^ mask(tail)               |                                  |
//!  +------------------------------+----------------------------------+
//! ```
//!
//! The steering program runs in the kernel as classic BPF: it can load a byte, AND, XOR and add,
//! and [`CidMask::mask`] is made of these. The mask keeps the worker's index from being readable in
//! plain text. It is not encryption: an observer with many ids of one worker can find out that they
//! belong to the same worker. Which connection an id belongs to stays hidden: the tails are the
//! output of a keyed pseudo-random function.
#![forbid(unsafe_code)]

use crate::limits::REGION_COUNT_MAX;

/// Length of every connection id that the gateway issues, in bytes.
pub(crate) const CID_LEN: usize = 8;

/// Length of what follows byte 0.
pub(crate) const CID_TAIL_LEN: usize = CID_LEN - 1;

/// Highest worker index: seven bits of byte 0, the eighth is the generation.
pub(crate) const WORKER_INDEX_MAX: u16 = 127;

const _: () = assert!(REGION_COUNT_MAX <= WORKER_INDEX_MAX as usize + 1);

/// The keys that mask the worker's index, the same in all workers and in the steering program.
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
    /// Returns what byte 0 is XORed with: `(tail[0] & k1) ^ (tail[1] + k2 mod 256) ^ k3`.
    pub fn mask(self, tail: &[u8; CID_TAIL_LEN]) -> u8 {
        (tail[0] & self.k1) ^ tail[1].wrapping_add(self.k2) ^ self.k3
    }

    /// Returns the id of `worker` with this tail.
    ///
    /// # Panics
    ///
    /// If `worker` is greater than [`WORKER_INDEX_MAX`].
    pub fn id(self, worker: u16, generation: bool, tail: [u8; CID_TAIL_LEN]) -> [u8; CID_LEN] {
        assert!(worker <= WORKER_INDEX_MAX, "worker index {worker} does not fit 7 bits");
        let mut id = [0; CID_LEN];
        id[0] = (u8::from(generation) << 7 | worker as u8) ^ self.mask(&tail);
        id[1..].copy_from_slice(&tail);
        id
    }

    /// Returns the index of the worker that `id` names, in either generation.
    pub fn worker(self, id: &[u8; CID_LEN]) -> u16 {
        let [first, tail @ ..] = id;
        u16::from((first ^ self.mask(tail)) & 0x7f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: CidMask = CidMask { k1: 0xa5, k2: 0x3c, k3: 0x96 };

    /// Oracle: the formula worked out by hand.
    #[test]
    fn mask_by_hand() {
        // (0x0f & 0xa5) = 0x05; 0xff + 0x3c = 0x3b; 0x05 ^ 0x3b ^ 0x96 = 0xa8.
        assert_eq!(MASK.mask(&[0x0f, 0xff, 9, 9, 9, 9, 9]), 0xa8);
        let id = MASK.id(5, true, [0x0f, 0xff, 9, 9, 9, 9, 9]);
        assert_eq!(id, [0x85 ^ 0xa8, 0x0f, 0xff, 9, 9, 9, 9, 9]);
        assert_eq!(MASK.worker(&id), 5);
    }
}
