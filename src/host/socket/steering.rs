//! Steering: a classic BPF program that selects the socket, and so the worker, of each datagram.
//!
//! All workers bind the same address. For each datagram the kernel runs the program, which returns
//! the index of a socket of the group. It reads the worker's index from our connection id
//! ([`crate::cid`]):
//!
//! ```text
//!  short header:   | flags | our connection id (8 bytes)            | ...
//!  Handshake:      | flags | version 1 | 8 | our connection id      | ...
//!                             byte 0 of the id: (generation << 7 | worker) ^ mask(bytes 1..)
//! ```
//!
//! All other datagrams (Initial, 0-RTT, other versions, foreign id lengths, an index that no worker
//! has) are distributed by the kernel's own hash of addresses and ports, so a client's first
//! packets stay together. The index is masked, so that it is not obvious that two ids belong to the
//! same worker. The mask is no encryption, since the program must stay a handful of instructions.

use std::net::UdpSocket;

use super::options::{OptionError, set_program};
use crate::cid::{CID_LEN, CidMask, WORKER_INDEX_MAX};

/// The most sockets of a group.
const WORKERS_MAX: u16 = WORKER_INDEX_MAX + 1;

/// The program's result for datagrams that name no worker.
const BY_HASH: u32 = 0xffff_ffff;

/// Returns the steering program for `workers` sockets, bound in worker order.
///
/// A failed load ends a classic BPF program with the result 0, which is worker 0. So lengths are
/// checked before every load.
pub(super) fn program(mask: CidMask, workers: u16) -> Vec<libc::sock_filter> {
    assert!((1..=WORKERS_MAX).contains(&workers), "an index has seven bits");
    let id_len = CID_LEN as u32;
    let mut code = Assembler::default();
    code.emit(LD_W_LEN, 0);
    code.jump_unless(JGE, 1 + id_len, Label::Hash);
    code.emit(LD_B_ABS, 0);
    code.jump_if(JSET, 0x80, Label::Long);
    code.emit(LDX_IMM, 1);
    code.jump(Label::Index);

    // RFC 9000 17.2: flags, version (4), destination id length (1), destination id.
    code.place(Label::Long);
    code.emit(AND, 0x30);
    code.jump_unless(JEQ, 0x20, Label::Hash); // 17.2.4: type 2 is Handshake
    code.emit(LD_W_LEN, 0);
    code.jump_unless(JGE, 6 + id_len, Label::Hash);
    code.emit(LD_W_ABS, 1);
    code.jump_unless(JEQ, 1, Label::Hash);
    code.emit(LD_B_ABS, 5);
    code.jump_unless(JEQ, id_len, Label::Hash);
    code.emit(LDX_IMM, 6);

    // x is the offset of the id. The parts of the mask are kept in two scratch cells, since an
    // exclusive or of two loads needs x itself.
    code.place(Label::Index);
    code.emit(LD_B_IND, 1);
    code.emit(AND, u32::from(mask.k1));
    code.emit(ST, 0);
    code.emit(LD_B_IND, 2);
    code.emit(ADD, u32::from(mask.k2));
    code.emit(ST, 1);
    code.emit(LD_B_IND, 0);
    code.emit(XOR, u32::from(mask.k3));
    code.emit(LDX_MEM, 0);
    code.emit(XOR_X, 0);
    code.emit(LDX_MEM, 1);
    code.emit(XOR_X, 0);
    code.emit(AND, 0x7f);
    code.jump_if(JGE, u32::from(workers), Label::Hash);
    code.emit(RET_A, 0);

    code.place(Label::Hash);
    code.emit(RET_K, BY_HASH);
    code.finish()
}

/// Attaches the steering program to the group of `socket`, or to the group that it will begin when
/// bound.
pub(super) fn attach(socket: &UdpSocket, program: &[libc::sock_filter]) -> Result<(), OptionError> {
    let option = libc::SO_ATTACH_REUSEPORT_CBPF;
    set_program(socket, option, program, "SO_ATTACH_REUSEPORT_CBPF")
}

// Instruction codes as in linux/bpf_common.h.
const LD_W_LEN: u16 = 0x80;
const LD_W_ABS: u16 = 0x20;
const LD_B_ABS: u16 = 0x30;
const LD_B_IND: u16 = 0x50;
const LDX_IMM: u16 = 0x01;
const LDX_MEM: u16 = 0x61;
const ST: u16 = 0x02;
const ADD: u16 = 0x04;
const AND: u16 = 0x54;
const XOR: u16 = 0xa4;
const XOR_X: u16 = 0xac;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const JSET: u16 = 0x45;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Label {
    Long,
    Index,
    Hash,
}

/// Collects instructions and sets jump distances when all labels are placed.
#[derive(Default)]
struct Assembler {
    code: Vec<libc::sock_filter>,
    /// Instruction, label, and whether the jump is taken when the comparison holds.
    jumps: Vec<(usize, Label, bool)>,
    places: Vec<(Label, usize)>,
}

impl Assembler {
    fn emit(&mut self, code: u16, k: u32) {
        self.code.push(libc::sock_filter { code, jt: 0, jf: 0, k });
    }

    fn jump_if(&mut self, comparison: u16, k: u32, to: Label) {
        self.jumps.push((self.code.len(), to, true));
        self.emit(comparison, k);
    }

    fn jump_unless(&mut self, comparison: u16, k: u32, to: Label) {
        self.jumps.push((self.code.len(), to, false));
        self.emit(comparison, k);
    }

    fn jump(&mut self, to: Label) {
        self.jumps.push((self.code.len(), to, true));
        self.emit(JA, 0);
    }

    fn place(&mut self, label: Label) {
        self.places.push((label, self.code.len()));
    }

    fn finish(mut self) -> Vec<libc::sock_filter> {
        for &(at, label, when) in &self.jumps {
            let place = self.places.iter().find(|(placed, _)| *placed == label);
            let &(_, target) = place.expect("every label is placed by the caller above");
            let distance = target - at - 1;
            let instruction = &mut self.code[at];
            let short = u8::try_from(distance).expect("the program is shorter than 256");
            match (instruction.code, when) {
                (JA, _) => instruction.k = u32::from(short),
                (_, true) => instruction.jt = short,
                (_, false) => instruction.jf = short,
            }
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Duration;

    use super::*;
    use crate::host::socket::SocketGroup;

    const MASK: CidMask = CidMask { k1: 0xa7, k2: 0x5c, k3: 0x91 };

    /// Interprets the instructions that the program uses as the kernel does: a load beyond the end
    /// returns 0.
    fn run(program: &[libc::sock_filter], datagram: &[u8]) -> u32 {
        let (mut a, mut x, mut cells, mut at) = (0u32, 0u32, [0u32; 16], 0usize);
        let load = |from: usize, len: usize| {
            let bytes = datagram.get(from..from + len)?;
            Some(bytes.iter().fold(0u32, |value, &byte| value << 8 | u32::from(byte)))
        };
        loop {
            let instruction = program[at];
            let k = instruction.k;
            let mut holds = None;
            match instruction.code {
                0x80 => a = datagram.len() as u32,
                0x20 => match load(k as usize, 4) {
                    Some(value) => a = value,
                    None => return 0,
                },
                0x30 | 0x50 => {
                    let from = if instruction.code == 0x50 { x.wrapping_add(k) } else { k };
                    match load(from as usize, 1) {
                        Some(value) => a = value,
                        None => return 0,
                    }
                }
                0x01 => x = k,
                0x61 => x = cells[k as usize],
                0x02 => cells[k as usize] = a,
                0x04 => a = a.wrapping_add(k),
                0x54 => a &= k,
                0xa4 => a ^= k,
                0xac => a ^= x,
                0x05 => at += k as usize,
                0x15 => holds = Some(a == k),
                0x35 => holds = Some(a >= k),
                0x45 => holds = Some(a & k != 0),
                0x06 => return k,
                0x16 => return a,
                other => panic!("instruction {other:#x} is not known here"),
            }
            at += 1 + match holds {
                Some(true) => usize::from(instruction.jt),
                Some(false) => usize::from(instruction.jf),
                None => 0,
            };
        }
    }

    fn id(worker: u16, generation: u8, seed: u64) -> [u8; CID_LEN] {
        let [_, tail @ ..] = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes();
        MASK.id(worker, generation == 1, tail)
    }

    fn short(id: &[u8]) -> Vec<u8> {
        [&[0x41], id, &[0xee; 20]].concat()
    }

    fn long(kind: u8, version: u32, id: &[u8]) -> Vec<u8> {
        let head = [0xc0 | kind << 4];
        [&head[..], &version.to_be_bytes(), &[id.len() as u8], id, &[0xee; 20]].concat()
    }

    #[test]
    fn the_worker_of_an_id_is_found_in_either_generation() {
        for worker in 0..WORKERS_MAX {
            for seed in 0..50 {
                let id = id(worker, (seed & 1) as u8, seed + u64::from(worker) * 1000);
                assert_eq!(MASK.worker(&id), worker);
                for datagram in [short(&id), long(2, 1, &id)] {
                    assert_eq!(run(&program(MASK, WORKERS_MAX), &datagram), u32::from(worker));
                }
            }
        }
    }

    #[test]
    fn all_other_datagrams_are_left_to_the_kernels_hash() {
        let program = program(MASK, 4);
        let ours = id(2, 0, 7);
        assert_eq!(run(&program, &short(&ours)), 2);
        let by_hash = [
            short(&id(4, 0, 7)),
            long(2, 1, &id(4, 0, 7)),
            long(0, 1, &ours),
            long(1, 1, &ours),
            long(3, 1, &ours),
            long(2, 0x6b33_43cf, &ours),
            long(2, 0, &ours),
            long(2, 1, &ours[..7]),
            long(2, 1, &[0; 20]),
        ];
        for datagram in by_hash {
            assert_eq!(run(&program, &datagram), BY_HASH, "{datagram:02x?}");
        }
    }

    #[test]
    fn no_datagram_length_makes_a_load_fail() {
        // A failed load would return 0; worker 3 is in the id, so 0 reveals one.
        let (program, ours) = (program(MASK, 4), id(3, 1, 9));
        for datagram in [short(&ours), long(2, 1, &ours), long(0, 1, &ours)] {
            for len in 0..datagram.len() {
                let response = run(&program, &datagram[..len]);
                assert!(response == 3 || response == BY_HASH, "{len} bytes: {response}");
            }
        }
    }

    #[test]
    fn the_kernel_agrees_with_the_interpreter() {
        let address: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let group = SocketGroup::bind(address, 4, MASK).unwrap();
        for socket in &group.sockets {
            socket.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
            assert_eq!(socket.local_addr().unwrap(), group.address);
        }
        let client = UdpSocket::bind(address).unwrap();
        let program = program(MASK, 4);
        for seed in 0..64u64 {
            let ours = id((seed % 4) as u16, (seed / 4 % 2) as u8, seed);
            let datagram = if seed % 3 == 0 { long(2, 1, &ours) } else { short(&ours) };
            client.send_to(&datagram, group.address).unwrap();
            let expected = run(&program, &datagram) as usize;
            assert_eq!(expected, (seed % 4) as usize);
            let mut buffer = [0u8; 64];
            let len = group.sockets[expected].recv(&mut buffer).unwrap();
            assert_eq!(&buffer[..len], datagram, "datagram {seed}");
        }
        // A client's Initials stay together, whichever socket the hash selects.
        for seed in 0..16 {
            client.send_to(&long(0, 1, &id(seed % 4, 0, u64::from(seed))), group.address).unwrap();
        }
        let counts: Vec<usize> = group
            .sockets
            .iter()
            .map(|socket| {
                socket.set_nonblocking(true).unwrap();
                std::iter::from_fn(|| socket.recv(&mut [0u8; 64]).ok()).count()
            })
            .collect();
        assert_eq!(counts.iter().sum::<usize>(), 16);
        assert_eq!(counts.iter().filter(|&&count| count > 0).count(), 1, "{counts:?}");
    }
}
