//! A ring with a small pool, and a loop that runs turns until an expected completion.

use std::net::{SocketAddr, UdpSocket};
use std::ops::ControlFlow;
use std::rc::Rc;
use std::time::Duration;

use ringway::testing::internal::cid::CidMask;
use ringway::testing::internal::host::clock;
use ringway::testing::internal::host::socket::SocketGroup;
use ringway::testing::internal::limits::{SLOT_COUNT_MIN, SLOT_LEN};
use ringway::testing::internal::pool::{Hugepages, Pool, PoolPlan, Regions};
use ringway::testing::internal::ring::{
    Completion, DatagramSend, Ring, RingSettings, SocketIndex, Wait,
};

/// The longest wait of a test; nothing here takes as long even on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(10);

pub struct Bench {
    pub ring: Ring,
    pub pool: Rc<Pool>,
}

pub fn settings() -> RingSettings {
    RingSettings {
        datagram_buffers: 16,
        stream_buffers: 8,
        sends_max: 64,
        streams_max: 64,
        sockets_max: 8,
        listeners_max: 2,
        ..RingSettings::default()
    }
}

/// Returns a pool of 64 slots.
pub fn pool() -> Rc<Pool> {
    let plan = PoolPlan::new(SLOT_COUNT_MIN as usize * SLOT_LEN).unwrap();
    let (handle, _) = Regions::reserve(1, plan).unwrap().lend(Hugepages::Off).unwrap();
    Rc::new(Pool::attach(handle))
}

impl Bench {
    pub fn new(settings: RingSettings) -> Bench {
        let pool = pool();
        let ring = Ring::new(settings, Rc::clone(&pool)).unwrap();
        Bench { ring, pool }
    }

    /// Adds an edge socket, bound as the program binds it, and starts receiving.
    pub fn edge(&mut self, address: &str) -> (SocketIndex, SocketAddr) {
        let (socket, address) = edge_socket(address);
        let index = self.ring.add_socket(socket).unwrap();
        self.ring.receive_datagrams(index);
        (index, address)
    }

    /// Runs turns until `step` breaks, and returns its value.
    pub fn until<T>(&mut self, mut step: impl FnMut(&mut Ring, Completion) -> ControlFlow<T>) -> T {
        let deadline = clock::now() + PATIENCE;
        loop {
            self.ring.submit_and_wait(Wait::Until(deadline)).unwrap();
            while let Some(completion) = self.ring.poll_completion() {
                if let ControlFlow::Break(response) = step(&mut self.ring, completion) {
                    return response;
                }
            }
            assert!(clock::now() < deadline, "timed out: {:?}", self.ring.stats());
        }
    }

    /// Runs turns for `time` and collects the completions.
    pub fn linger(&mut self, time: Duration) -> Vec<Completion> {
        let deadline = clock::now() + time;
        let mut seen = Vec::new();
        while clock::now() < deadline {
            self.ring.submit_and_wait(Wait::Until(deadline)).unwrap();
            seen.extend(std::iter::from_fn(|| self.ring.poll_completion()));
        }
        seen
    }

    /// Shuts the ring down and asserts that every slot is free.
    pub fn end(self) {
        let Bench { ring, pool } = self;
        ring.shut_down(clock::now() + PATIENCE).unwrap();
        assert_all_free(&pool);
    }
}

pub fn assert_all_free(pool: &Pool) {
    pool.take_returns();
    let counts = pool.counts();
    assert_eq!(counts.free, counts.total, "{counts:?}");
}

/// Returns a socket with the edge's options.
pub fn edge_socket(address: &str) -> (UdpSocket, SocketAddr) {
    let mask = CidMask { k1: 0, k2: 0, k3: 0 };
    let mut group = SocketGroup::bind(address.parse().unwrap(), 1, mask).unwrap();
    (group.sockets.pop().unwrap(), group.address)
}

/// Returns an ordinary UDP socket as the peer.
pub fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

/// Bytes that show their own position.
pub fn pattern(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let step = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    (0..len).map(step).collect()
}

/// Returns `bytes` padded with zeros to the shortest datagram that an edge socket accepts.
pub fn padded(bytes: &[u8]) -> Vec<u8> {
    let mut datagram = bytes.to_vec();
    datagram.resize(bytes.len().max(21), 0);
    datagram
}

pub fn send(buffer: Vec<u8>, destination: SocketAddr, segment_len: Option<u16>) -> DatagramSend {
    DatagramSend { buffer, destination, source: None, ecn: 0, segment_len }
}
