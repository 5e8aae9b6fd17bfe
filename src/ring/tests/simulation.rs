//! A made-up kernel that answers in any order with any result, from a seed. Whatever it does,
//! each operation has one end and each slot leaves once.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use io_uring::opcode;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use super::{Bench, F_BUFFER, F_MORE, datagram_header};
use crate::host::address::SockAddr;
use crate::ring::completion::{Completion, SocketIndex, StreamKey};

#[derive(Default)]
struct Owed {
    connect: bool,
    receive: bool,
    write: bool,
    closing: bool,
}

struct Simulation {
    bench: Bench,
    random: SmallRng,
    in_flight: Vec<(u8, u64)>,
    /// Streams that are not closed: what they still owe.
    streams: BTreeMap<u64, (StreamKey, Owed)>,
    sends_owed: usize,
    tag: u64,
    /// Generation-checked keys that are over.
    over: BTreeSet<u64>,
}

/// What may go wrong with anything.
const ERRNOS: [i32; 9] = [
    libc::EAGAIN,
    libc::EINTR,
    libc::ECANCELED,
    libc::ENOBUFS,
    libc::EFAULT,
    libc::ECONNRESET,
    libc::EIO,
    libc::EINVAL,
    libc::EMSGSIZE,
];

impl Simulation {
    fn new(seed: u64) -> Simulation {
        let mut bench = Bench::new();
        bench.machine.receive_datagrams(SocketIndex(0));
        Simulation {
            bench,
            random: SmallRng::seed_from_u64(seed),
            in_flight: Vec::new(),
            streams: BTreeMap::new(),
            sends_owed: 0,
            tag: 0,
            over: BTreeSet::new(),
        }
    }

    fn chance(&mut self, one_in: u32) -> bool {
        self.random.random_range(0..one_in) == 0
    }

    fn some_stream(&mut self) -> Option<u64> {
        let at = self.random.random_range(0..self.streams.len().max(1));
        self.streams.keys().nth(at).copied()
    }

    /// The caller's side: asks for something.
    fn ask(&mut self) {
        match self.random.random_range(0..6) {
            0 => {
                let len = self.random.random_range(1..1000);
                if self.sends_owed < 8 && self.bench.pool.counts().free > 2 {
                    self.bench.send(len);
                    self.sends_owed += 1;
                }
            }
            1 => {
                self.tag += 1;
                if let Ok((key, _)) = self.bench.machine.open_stream(self.tag) {
                    let address: std::net::SocketAddr = "192.0.2.1:1".parse().unwrap();
                    self.bench.machine.connect(key, SockAddr::from(address));
                    let owed = Owed { connect: true, ..Owed::default() };
                    self.streams.insert(self.tag, (key, owed));
                }
            }
            2 => {
                if let Some(tag) = self.some_stream() {
                    let (key, owed) = self.streams.get_mut(&tag).unwrap();
                    if !owed.connect && !owed.closing && !owed.receive {
                        owed.receive = true;
                        self.bench.machine.receive(*key);
                    }
                }
            }
            3 => {
                if let Some(tag) = self.some_stream() {
                    let (key, owed) = self.streams.get_mut(&tag).unwrap();
                    if !owed.connect && !owed.closing && !owed.write {
                        owed.write = true;
                        let pieces = vec![Bytes::from_static(b"abcd"); 3];
                        self.bench.machine.write(*key, pieces).unwrap();
                    }
                }
            }
            4 if self.chance(3) => {
                if let Some(tag) = self.some_stream() {
                    let (key, owed) = self.streams.get_mut(&tag).unwrap();
                    owed.closing = true;
                    self.bench.machine.close(*key);
                }
            }
            _ => {
                self.bench.machine.replenish();
                let submitted = self.bench.submitted();
                self.in_flight.extend(submitted);
            }
        }
    }

    /// The kernel's side: ends one operation, or gives a multishot's next.
    fn answer(&mut self) {
        if self.in_flight.is_empty() {
            return;
        }
        let at = self.random.random_range(0..self.in_flight.len());
        let (code, user_data) = self.in_flight[at];
        let fails = self.chance(3);
        let errno = ERRNOS[self.random.random_range(0..ERRNOS.len())];
        let (mut result, mut flags) = (if fails { -errno } else { 0 }, 0);
        if code == opcode::RecvMsgMulti::CODE && !self.chance(4) {
            flags |= F_MORE;
        }
        let ids = match code {
            opcode::RecvMsgMulti::CODE => self.bench.machine.datagram_buffers.provided_ids(),
            opcode::Recv::CODE => self.bench.machine.stream_buffers.provided_ids(),
            _ => Vec::new(),
        };
        if let Some(&id) = ids.first().filter(|_| !fails) {
            flags |= F_BUFFER | u32::from(id) << 16;
            result = 1;
            if code == opcode::RecvMsgMulti::CODE {
                let slot = datagram_header(self.random.random_range(0..50));
                self.bench.machine.datagram_buffers.write_slot(id, &slot);
                result = slot.len() as i32;
            }
        } else if !ids.is_empty() && self.chance(4) {
            // A failure with a slot: rare, and the slot must come back all the same.
            flags |= F_BUFFER | u32::from(ids[0]) << 16;
        } else if !fails && matches!(code, opcode::RecvMsgMulti::CODE) {
            (result, flags) = (-libc::ENOBUFS, 0);
        }
        let in_write = self.bench.machine.try_offered(user_data);
        if let Some(offered) = in_write.filter(|_| result >= 0) {
            result = self.random.random_range(1..=offered.len()) as i32;
        }
        if flags & F_MORE == 0 {
            self.in_flight.swap_remove(at);
        }
        let completion = self.bench.event(user_data, result, flags);
        self.hear(completion);
    }

    fn hear(&mut self, completion: Option<Completion>) {
        match completion {
            Some(Completion::Sent { .. }) => self.sends_owed -= 1,
            Some(Completion::Connected { tag, .. }) => {
                let (_, owed) = self.streams.get_mut(&tag).unwrap();
                assert!(std::mem::take(&mut owed.connect) && !owed.closing);
            }
            Some(Completion::Received { tag, .. }) => {
                let (_, owed) = self.streams.get_mut(&tag).unwrap();
                assert!(std::mem::take(&mut owed.receive) && !owed.closing);
            }
            Some(Completion::Wrote { tag, len, outcome }) => {
                let (_, owed) = self.streams.get_mut(&tag).unwrap();
                assert!(std::mem::take(&mut owed.write) && !owed.closing);
                assert_eq!(len == 12, outcome.is_ok(), "{len} bytes, {outcome:?}");
            }
            Some(Completion::Closed { tag }) => {
                let (_, owed) = self.streams.remove(&tag).unwrap();
                assert!(owed.closing && self.over.insert(tag), "closed once, and when asked to");
            }
            Some(Completion::Datagrams { payload, segment_len, .. }) => {
                assert!((1..=payload.len()).contains(&segment_len));
            }
            Some(Completion::ReceiveStopped { socket, .. }) => {
                self.bench.machine.receive_datagrams(socket);
            }
            Some(Completion::Woken) => panic!("nothing is watched"),
            None => {}
        }
    }

    /// From here on all goes well: everything that was asked for must be answered.
    fn settle(&mut self) {
        for _ in 0..40 {
            self.bench.machine.replenish();
            let submitted = self.bench.submitted();
            self.in_flight.extend(submitted);
            for (code, user_data) in std::mem::take(&mut self.in_flight) {
                if code == opcode::RecvMsgMulti::CODE {
                    self.in_flight.push((code, user_data));
                    continue;
                }
                let offered = self.bench.machine.try_offered(user_data);
                let result = offered.map_or(0, |offered| offered.len() as i32);
                let completion = self.bench.event(user_data, result, 0);
                self.hear(completion);
            }
        }
        assert!(self.in_flight.len() <= 1, "only the socket's receive stays");
        assert_eq!(self.sends_owed, 0);
        for (tag, (_, owed)) in &self.streams {
            assert!(!owed.connect && !owed.receive && !owed.write && !owed.closing, "{tag}");
        }
    }

    /// Ends everything: what is still in flight is cancelled.
    fn end(mut self) {
        for (key, owed) in self.streams.values_mut() {
            owed.closing = true;
            self.bench.machine.close(*key);
        }
        let mut rounds = 0;
        loop {
            while let Some(completion) = self.bench.machine.ready.pop_front() {
                self.hear(Some(completion));
            }
            if rounds > 20 {
                self.bench.machine.is_ending = true;
            }
            let submitted = self.bench.submitted();
            self.in_flight.extend(submitted);
            if self.in_flight.is_empty() {
                break;
            }
            for (_, user_data) in std::mem::take(&mut self.in_flight) {
                let completion = self.bench.fails(user_data, libc::ECANCELED);
                self.hear(completion);
            }
            self.bench.machine.replenish();
            rounds += 1;
            assert!(rounds < 100, "it does not end: {:?}", self.bench.machine.stats);
        }
        assert_eq!((self.sends_owed, self.streams.len()), (0, 0));
        assert_eq!(self.bench.machine.stats.late, 0);
        self.bench.assert_idle();
    }
}

#[test]
fn any_order_and_any_result_ends_well() {
    for seed in 0..300 {
        let mut simulation = Simulation::new(seed);
        for _ in 0..400 {
            if simulation.chance(2) {
                simulation.ask();
            } else {
                simulation.answer();
            }
            while let Some(completion) = simulation.bench.machine.ready.pop_front() {
                simulation.hear(Some(completion));
            }
        }
        simulation.settle();
        simulation.end();
    }
}
