//! The kernel's side of the UDP socket: datagrams wait for slots, batches are read when they leave
//! and not when they are submitted, and sends are delayed, reordered and refused.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::time::Duration;

use bytes::BytesMut;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use ringway::testing::internal::limits::{DATAGRAM_LEN_MAX, SLOT_LEN};
use ringway::testing::internal::pool::{InKernel, Lease, Pool};
use ringway::testing::internal::quic::{Datagram, Transmit};

/// The faults of the socket.
#[derive(Debug, Clone, Copy)]
pub struct SocketTroubles {
    /// Maximum delay of a send.
    pub delay: Duration,
    /// Chance that a batch is refused and lost.
    pub refuses: f64,
    /// Slots of the pool that are withheld all the time.
    pub ballast: usize,
}

impl SocketTroubles {
    pub const NONE: Self = Self { delay: Duration::ZERO, refuses: 0.0, ballast: 0 };
}

/// A datagram in the socket's buffer.
struct Waiting {
    from: SocketAddr,
    ecn: u8,
    bytes: Vec<u8>,
}

/// A batch that the kernel is sending.
struct Sending {
    transmit: Transmit,
    batch: InKernel,
    lost: bool,
}

pub struct Socket {
    troubles: SocketTroubles,
    rng: SmallRng,
    pool: Rc<Pool>,
    waiting: VecDeque<Waiting>,
    sendings: BTreeMap<u64, Sending>,
    sequence: u64,
    _ballast: Vec<Lease>,
    /// Number of datagrams for which no slot was free.
    pub starved_count: usize,
    /// Number of refused batches.
    pub refused_count: u64,
}

impl Socket {
    pub fn new(seed: u64, troubles: SocketTroubles, pool: Rc<Pool>) -> Self {
        let ballast = (0..troubles.ballast).map(|_| pool.lease().expect("a free slot")).collect();
        Self {
            troubles,
            rng: SmallRng::seed_from_u64(seed ^ 0x736f_636b),
            pool,
            waiting: VecDeque::new(),
            sendings: BTreeMap::new(),
            sequence: 0,
            _ballast: ballast,
            starved_count: 0,
            refused_count: 0,
        }
    }

    /// Adds a datagram to the socket's buffer, which is bounded.
    pub fn take_in(&mut self, from: SocketAddr, ecn: u8, bytes: Vec<u8>) {
        if self.waiting.len() < SOCKET_DATAGRAMS_MAX {
            self.waiting.push_back(Waiting { from, ecn, bytes });
        }
    }

    /// Delivers waiting datagrams as far as slots are free. Datagrams of one sender and one length
    /// share a slot, as with GRO. When the pool is low they are copied out of the slot, as a worker
    /// does.
    pub fn deliver(&mut self) -> Vec<Datagram> {
        let mut delivered = Vec::new();
        while let Some(first) = self.waiting.front() {
            let Some(lease) = self.pool.lease() else {
                self.starved_count += 1;
                break;
            };
            let (from, ecn, segment_len) = (first.from, first.ecn, first.bytes.len());
            let mut bundle = lease.into_bytes_mut();
            while let Some(next) = self.waiting.front()
                && (next.from, next.ecn) == (from, ecn)
                && next.bytes.len() <= segment_len
                && bundle.len() + next.bytes.len() <= DATAGRAM_LEN_MAX
            {
                bundle.extend_from_slice(&next.bytes);
                let is_last = next.bytes.len() < segment_len;
                self.waiting.pop_front();
                if is_last {
                    break;
                }
            }
            let copies = self.pool.is_low();
            while !bundle.is_empty() {
                let mut payload = bundle.split_to(segment_len.min(bundle.len()));
                if copies {
                    payload = BytesMut::from(&payload[..]);
                }
                let (socket, local_ip) = (0, None);
                delivered.push(Datagram { socket, remote: from, local_ip, ecn, payload });
            }
        }
        delivered
    }

    /// Submits a batch. Returns its number and the delay until it leaves.
    pub fn send(&mut self, transmit: Transmit, buffer: Vec<u8>) -> (u64, Duration) {
        assert!(transmit.len == buffer.len() && buffer.len() <= SLOT_LEN);
        let lost = self.rng.random_bool(self.troubles.refuses);
        self.refused_count += u64::from(lost);
        self.sequence += 1;
        let batch = self.pool.send(buffer);
        self.sendings.insert(self.sequence, Sending { transmit, batch, lost });
        (self.sequence, self.troubles.delay.mul_f64(self.rng.random_range(0.0..1.0)))
    }

    /// Sends a batch. Returns its destination, its ECN marks, and the datagrams as they are now.
    pub fn sent(&mut self, number: u64) -> Option<(Transmit, Vec<Vec<u8>>)> {
        let Sending { transmit, batch, lost } = self.sendings.remove(&number).expect("sent once");
        let bytes = batch.complete();
        let segment_len = transmit.segment_len.unwrap_or(bytes.len()).max(1);
        let datagrams = bytes.chunks(segment_len).map(<[u8]>::to_vec).collect();
        (!lost).then_some((transmit, datagrams))
    }

    /// Ends the socket; no batch may be in flight.
    pub fn close(self) {
        assert!(self.sendings.is_empty() && self.waiting.is_empty());
    }
}

impl Drop for Socket {
    /// Returns the slots of batches in flight after a failed world, for the next one.
    fn drop(&mut self) {
        for (_, sending) in std::mem::take(&mut self.sendings) {
            // The failure itself may be a misplaced slot.
            let _refused = catch_unwind(AssertUnwindSafe(|| sending.batch.complete()));
        }
    }
}

/// Capacity of a socket's buffer in datagrams; more are lost.
const SOCKET_DATAGRAMS_MAX: usize = 200;
