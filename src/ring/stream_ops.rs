//! Operations of streams that the kernel holds, with the memory that it reads or writes.

use std::mem;
use std::ptr;

use bytes::{Bytes, BytesMut};
use io_uring::types::{Fixed, Timespec};
use io_uring::{opcode, squeue};

use super::buffers::filled;
use super::completion::StreamKey;
use super::message::empty_header;
use crate::base::slab::SlabKey as _;
use crate::host::address::SockAddr;
use crate::limits::{RECEIVE_SLOT_COUNT_MAX, SLOT_LEN, UPSTREAM_WRITE_PIECES_MAX};
use crate::pool::Provided;

/// A connect in flight, with the address that the kernel reads.
pub(super) struct ConnectOp {
    pub(super) stream: StreamKey,
    pub(super) address: SockAddr,
}

/// A write in flight, with the pieces and the vectors that the kernel reads.
pub(super) struct WriteOp {
    pub(super) stream: StreamKey,
    pub(super) pieces: Vec<Bytes>,
    /// The first piece that is not completely written, and its written bytes.
    next: usize,
    gone: usize,
    pub(super) written: usize,
    pub(super) vectors: Vec<libc::iovec>,
    header: libc::msghdr,
    pub(super) state: WriteState,
    pub(super) rest: Timespec,
}

/// The operation of a write that the kernel holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WriteState {
    /// A send of the rest.
    Sending,
    /// A pause of 1 ms, since the kernel had no memory for the send.
    Resting,
}

impl WriteOp {
    pub(super) fn new() -> WriteOp {
        WriteOp {
            stream: StreamKey::from_parts(0, 0),
            pieces: Vec::new(),
            next: 0,
            gone: 0,
            written: 0,
            vectors: Vec::new(),
            header: empty_header(),
            state: WriteState::Sending,
            rest: Timespec::new().nsec(1_000_000),
        }
    }

    pub(super) fn begin(&mut self, stream: StreamKey, pieces: Vec<Bytes>) {
        self.stream = stream;
        self.pieces = pieces;
        (self.next, self.gone, self.written) = (0, 0, 0);
        self.state = WriteState::Sending;
        self.advance(0);
    }

    /// Records that `len` more bytes are written, and drops completely written pieces.
    pub(super) fn advance(&mut self, len: usize) {
        self.written += len;
        self.gone += len;
        while let Some(piece) = self.pieces.get_mut(self.next) {
            if self.gone < piece.len() {
                return;
            }
            self.gone -= piece.len();
            *piece = Bytes::new();
            self.next += 1;
        }
        assert_eq!(self.gone, 0, "the kernel takes no more than it is given");
    }

    pub(super) fn is_over(&self) -> bool {
        self.next == self.pieces.len()
    }

    /// Returns a submission of the rest; a single piece needs no message header.
    pub(super) fn offer(&mut self, file: Fixed) -> squeue::Entry {
        self.vectors.clear();
        let mut gone = self.gone;
        for piece in self.pieces[self.next..].iter().take(UPSTREAM_WRITE_PIECES_MAX) {
            let rest = &piece[mem::take(&mut gone)..];
            let iov_base = rest.as_ptr().cast_mut().cast();
            self.vectors.push(libc::iovec { iov_base, iov_len: rest.len() });
        }
        if let [single] = self.vectors[..] {
            // A longer piece is written in parts, as after a short write.
            let len = u32::try_from(single.iov_len).unwrap_or(u32::MAX);
            let at = single.iov_base.cast_const().cast();
            return opcode::Send::new(file, at, len).flags(libc::MSG_NOSIGNAL).build();
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.vectors.len();
        let flags = libc::MSG_NOSIGNAL.cast_unsigned();
        opcode::SendMsg::new(file, &raw const self.header).flags(flags).build()
    }
}

/// A receive into several slots, of bytes that the kernel is known to have.
pub(super) struct ScatterOp {
    pub(super) stream: StreamKey,
    pub(super) slots: Vec<Provided>,
    vectors: [libc::iovec; RECEIVE_SLOT_COUNT_MAX],
    header: libc::msghdr,
}

impl ScatterOp {
    pub(super) fn new(stream: StreamKey) -> Box<ScatterOp> {
        let nothing = libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 };
        let header = empty_header();
        let slots = Vec::with_capacity(RECEIVE_SLOT_COUNT_MAX);
        Box::new(ScatterOp { stream, slots, vectors: [nothing; RECEIVE_SLOT_COUNT_MAX], header })
    }

    /// Returns a submission that takes the available bytes and does not wait for more.
    pub(super) fn offer(&mut self, file: Fixed) -> squeue::Entry {
        for (vector, slot) in self.vectors.iter_mut().zip(&self.slots) {
            *vector = libc::iovec { iov_base: slot.address().cast(), iov_len: SLOT_LEN };
        }
        self.header.msg_iov = self.vectors.as_mut_ptr();
        self.header.msg_iovlen = self.slots.len();
        let flags = libc::MSG_DONTWAIT.cast_unsigned();
        opcode::RecvMsg::new(file, &raw mut self.header).flags(flags).build()
    }

    /// Returns the first `len` bytes in order; unused slots go back to the pool.
    pub(super) fn into_pieces(self, mut len: usize) -> impl Iterator<Item = BytesMut> {
        self.slots.into_iter().filter_map(move |slot| {
            let here = len.min(SLOT_LEN);
            len -= here;
            if here == 0 {
                drop(slot.reclaim());
                return None;
            }
            Some(filled(slot, here))
        })
    }
}
