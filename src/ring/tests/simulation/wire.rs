//! The world beyond the kernel: datagrams in flight and the peers of streams, with accounts of
//! both.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use rand::Rng;
use rand::rngs::SmallRng;

use super::submission::{Span, origin, pattern};
use crate::ring::message::HEADER_LEN;

/// A batch that the caller has submitted.
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) segment_len: usize,
    /// Number of times each segment was sent.
    pub(super) sent: Vec<u32>,
}

/// A datagram, or several in one, that the kernel has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bundle {
    pub(super) position: u64,
    pub(super) len: usize,
    pub(super) segment_len: usize,
}

/// The other end of a stream.
#[derive(Debug, Default)]
pub(super) struct Peer {
    pub(super) tag: u64,
    pub(super) is_connected: bool,
    /// Bytes that wait to be received.
    pub(super) waiting: usize,
    pub(super) has_ended: bool,
    /// Our side has ended.
    pub(super) has_our_end: bool,
    /// The connection was reset by us.
    pub(super) has_reset: bool,
    /// Its address, if it has connected to us.
    pub(super) client: Option<SocketAddr>,
    /// Bytes received so far.
    pub(super) fed: u64,
    /// Bytes written to it so far.
    pub(super) taken: u64,
}

impl Peer {
    /// Takes written bytes and asserts that none is lost, duplicated or moved.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        assert!(self.is_connected, "a write on a stream that is not connected");
        assert!(!self.has_our_end && !self.has_reset, "a write after the end");
        // Only the kernel splits a write.
        let expected = pattern(origin(self.tag) + self.taken, bytes.len());
        assert!(bytes == expected, "wrong bytes are written to stream {}", self.tag);
        self.taken += bytes.len() as u64;
    }
}

/// Datagrams dropped because of their header.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Bad {
    pub(super) truncated: u64,
    pub(super) empty: u64,
    pub(super) unreadable: u64,
}

#[derive(Default)]
pub(super) struct Wire {
    /// Batches in flight, by the address of their first byte.
    pub(super) batches: BTreeMap<u64, Batch>,
    /// Sends whose notification has not been seen.
    pub(super) being_read: u32,
    /// Datagrams received and not yet reported, by their number.
    pub(super) bundles: BTreeMap<u64, Bundle>,
    pub(super) bad: Bad,
    /// Clients that the kernel has accepted.
    pub(super) accepted: u64,
    number: u64,
    peers: BTreeMap<u32, Peer>,
}

impl Wire {
    /// Returns the peer of the stream at this index of the file table.
    pub(super) fn peer(&mut self, file: u32) -> &mut Peer {
        self.peers.get_mut(&file).expect("a stream was opened there")
    }

    pub(super) fn open(&mut self, file: u32, tag: u64) {
        self.peers.insert(file, Peer { tag, ..Peer::default() });
    }

    /// Connects the next client, for the stream at this index. Returns its address.
    pub(super) fn accept(&mut self, file: u32) -> SocketAddr {
        self.accepted += 1;
        let client = SocketAddr::from(([10, 0, 0, 1], (self.accepted % 60_000 + 1) as u16));
        let peer = Peer { is_connected: true, client: Some(client), ..Peer::default() };
        self.peers.insert(file, peer);
        client
    }

    /// Sends `bytes`, which are at `payload`: a batch or some of its segments.
    pub(super) fn deliver(&mut self, payload: Span, bytes: &[u8]) {
        let before = self.batches.range_mut(..=payload.address).next_back();
        let (base, batch) = before.expect("somebody sends this");
        let offset = (payload.address - base) as usize;
        let expected = batch.bytes.get(offset..offset + bytes.len());
        assert!(expected == Some(bytes), "the network is given other bytes than were sent");
        let first = offset / batch.segment_len;
        assert_eq!(offset % batch.segment_len, 0, "a datagram starts at a segment boundary");
        for sent in &mut batch.sent[first..][..bytes.len().div_ceil(batch.segment_len)] {
            *sent += 1;
        }
    }

    /// Fills a slot as a multishot receive does. Returns the length written.
    pub(super) fn fill_datagram(
        &mut self,
        random: &mut SmallRng,
        slot: Span,
        is_bad: bool,
    ) -> usize {
        let lens = [8, 100, 1_200, 1_200, 4_000, 60_000];
        let longest = lens[random.random_range(0..lens.len())];
        let len = random.random_range(8..=longest);
        let segment_len = if random.random_range(0..2) == 0 { len } else { len.min(1_200) };
        self.number += 1;
        let position = origin(self.number) + 77;
        let mut header = [0u8; HEADER_LEN];
        header[0..4].copy_from_slice(&16u32.to_ne_bytes());
        header[8..12].copy_from_slice(&(len as u32).to_ne_bytes());
        header[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
        if segment_len < len {
            header[4..8].copy_from_slice(&24u32.to_ne_bytes());
            header[48..56].copy_from_slice(&20u64.to_ne_bytes());
            header[56..60].copy_from_slice(&libc::SOL_UDP.to_ne_bytes());
            header[60..64].copy_from_slice(&libc::UDP_GRO.to_ne_bytes());
            header[64..68].copy_from_slice(&(segment_len as i32).to_ne_bytes());
        }
        if is_bad {
            return self.spoil(random, slot, header);
        }
        slot.write(&header);
        let payload =
            Span { address: slot.address + HEADER_LEN as u64, len: slot.len - HEADER_LEN };
        payload.write(pattern(position, len));
        payload.write(&self.number.to_ne_bytes());
        self.bundles.insert(self.number, Bundle { position, len, segment_len });
        HEADER_LEN + len
    }

    /// Damages a datagram so that it is unusable.
    fn spoil(&mut self, random: &mut SmallRng, slot: Span, mut header: [u8; HEADER_LEN]) -> usize {
        let mut len = HEADER_LEN + 8;
        match random.random_range(0..5) {
            0 => {
                header[8..12].fill(0);
                self.bad.empty += 1;
            }
            1 => {
                header[12..16].copy_from_slice(&libc::MSG_TRUNC.to_ne_bytes());
                self.bad.truncated += 1;
            }
            2 => {
                header[8..12].copy_from_slice(&9u32.to_ne_bytes());
                self.bad.truncated += 1;
            }
            3 => {
                header[8..12].copy_from_slice(&8u32.to_ne_bytes());
                header[16..18].copy_from_slice(&99u16.to_ne_bytes());
                self.bad.unreadable += 1;
            }
            _ => {
                len = random.random_range(0..HEADER_LEN);
                self.bad.unreadable += 1;
            }
        }
        slot.write(&header);
        len
    }
}
