//! The machine driven by lists of events: results, flags and orders that a real kernel produces
//! rarely or never. No kernel is involved.

mod datagrams;
mod listeners;
mod memory;
mod simulation;
mod streams;

use std::rc::Rc;

use bytes::Bytes;
use io_uring::opcode;

use super::completion::{
    Completion, DatagramSend, LossReason, ReceiveOutcome, SendOutcome, SocketIndex, StreamError,
    StreamKey,
};
use super::datagrams::UNSEGMENTED_BATCHES;
use super::machine::{Event, Machine};
use super::settings::RingSettings;
use super::table::{CANCEL, Op, OpKey};
use crate::host::address::SockAddr;
use crate::host::socket::offload::Offload;
use crate::limits::SLOT_LEN;
use crate::pool::Pool;

// From linux/io_uring.h.
const F_BUFFER: u32 = 1;
const F_MORE: u32 = 2;
const F_SOCK_NONEMPTY: u32 = 4;
const F_NOTIF: u32 = 8;
const USAGE_COPIED: i32 = i32::MIN;

const OFFLOAD: Offload = Offload { is_coalescing: true, is_segmenting: true };

/// A machine for which the test plays the kernel: it takes submissions and fills buffers.
struct Bench {
    machine: Machine,
    pool: Rc<Pool>,
}

impl Bench {
    fn new() -> Bench {
        Bench::with_streams(4)
    }

    fn with_streams(streams_max: u32) -> Bench {
        let pool = Rc::new(Pool::for_test());
        let settings = RingSettings {
            datagram_buffers: 4,
            stream_buffers: 2,
            sockets_max: 2,
            sends_max: 8,
            streams_max,
            ..RingSettings::default()
        };
        let mut machine = Machine::new(&settings, Rc::clone(&pool)).unwrap();
        machine.add_socket(0, OFFLOAD);
        machine.replenish();
        Bench { machine, pool }
    }

    /// Takes the submissions: operation codes and user data, in order.
    fn submitted(&mut self) -> Vec<(u8, u64)> {
        let entries = self.machine.outbox.drain(..);
        entries.map(|entry| (entry.get_opcode() as u8, entry.get_user_data())).collect()
    }

    fn one_submitted(&mut self, code: u8) -> u64 {
        match self.submitted()[..] {
            [(got, user_data)] if got == code => user_data,
            ref other => panic!("expected one operation {code}: {other:?}"),
        }
    }

    fn event(&mut self, user_data: u64, result: i32, flags: u32) -> Option<Completion> {
        self.machine.complete(Event { user_data, result, flags })
    }

    /// Returns the socket of the receive.
    fn socket_of(&mut self, user_data: u64) -> usize {
        match self.machine.table.get_mut(OpKey(user_data)) {
            Some(Op::ReceiveDatagrams(socket)) => socket.index(),
            _ => panic!("no receive of datagrams"),
        }
    }

    /// Returns the single submitted write, of one piece or of several.
    fn submitted_write(&mut self) -> u64 {
        match self.submitted()[..] {
            [(opcode::Send::CODE | opcode::SendMsg::CODE, key)] => key,
            ref other => panic!("expected one write: {other:?}"),
        }
    }

    fn fails(&mut self, user_data: u64, errno: i32) -> Option<Completion> {
        self.event(user_data, -errno, 0)
    }

    /// Sends `len` bytes from a slot, in segments of 100.
    fn send(&mut self, len: usize) {
        self.send_on(SocketIndex(0), len);
    }

    fn send_on(&mut self, socket: SocketIndex, len: usize) {
        let mut buffer = self.pool.lease_vec().unwrap();
        buffer.resize(len, 7);
        let destination = "192.0.2.1:1".parse().unwrap();
        let segment_len = Some(100);
        let send = DatagramSend { buffer, destination, source: None, ecn: 0, segment_len };
        self.machine.send_datagrams(socket, send).unwrap();
    }

    fn stream(&mut self, tag: u64) -> StreamKey {
        let (key, _) = self.machine.open_stream(tag).unwrap();
        let address: std::net::SocketAddr = "192.0.2.1:1".parse().unwrap();
        self.machine.connect(key, SockAddr::from(address));
        let connect = self.one_submitted(opcode::Connect::CODE);
        let outcome = self.event(connect, 0, 0);
        assert!(matches!(outcome, Some(Completion::Connected { outcome: Ok(()), .. })));
        key
    }

    /// Closes a stream that has nothing in flight.
    fn close_idle(&mut self, key: StreamKey) {
        self.machine.close(key);
        let close = self.one_submitted(opcode::Close::CODE);
        assert!(matches!(self.event(close, 0, 0), Some(Completion::Closed { .. })));
    }

    /// Asserts that no operation is in flight and every slot but the provided ones is free.
    fn assert_idle(&self) {
        assert_eq!(self.machine.table.in_flight(), 0);
        let counts = self.pool.counts();
        let provided = u32::from(self.machine.datagram_buffers.provided_count())
            + u32::from(self.machine.stream_buffers.provided_count());
        assert_eq!((counts.owned, counts.in_kernel), (0, 0), "{counts:?}");
        assert_eq!(u32::from(counts.provided as u16), provided, "{counts:?}");
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        // SAFETY: no kernel is involved, so none holds them.
        unsafe {
            self.machine.datagram_buffers.reclaim_all();
            self.machine.stream_buffers.reclaim_all();
        }
        if !std::thread::panicking() {
            assert_eq!(
                self.pool.counts().in_kernel,
                0,
                "the next pool of this thread would find them"
            );
        }
    }
}

fn assert_sent(completion: Option<Completion>, expected: SendOutcome) {
    match completion {
        Some(Completion::Sent { outcome, buffer, .. }) => {
            assert_eq!(outcome, expected);
            assert!(buffer.is_empty() && Pool::contains(buffer.as_ptr()));
        }
        other => panic!("{other:?}"),
    }
}

/// Returns a slot's first bytes, as the kernel fills them for a datagram of `payload_len` bytes.
fn datagram_header(payload_len: u32) -> Vec<u8> {
    let mut header = vec![0u8; super::message::HEADER_LEN + payload_len as usize];
    header[0..4].copy_from_slice(&16u32.to_ne_bytes());
    header[8..12].copy_from_slice(&payload_len.to_ne_bytes());
    header[16..18].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
    header
}
