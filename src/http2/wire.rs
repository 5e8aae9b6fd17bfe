//! The transport that `h2` reads and writes: two queues in memory.
//!
//! Bytes for the client leave `h2` as slices of memory. Those that lie within the piece of payload
//! that is being written become a slice of that piece again, by their address; the others (frame
//! headers, heads, and payloads too short to be worth a piece) are copied.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::ends::StreamEnds;
use super::error::FLOOD_NAME_LEN_MAX;

/// The state that a connection shares with the parts of it that `h2` owns: its transport, and the
/// payloads that it has not written.
pub(super) type SharedWire = Rc<RefCell<Wire>>;

#[derive(Debug, Default)]
pub(super) struct Wire {
    input: VecDeque<Bytes>,
    input_len: usize,
    input_ended: bool,
    output: Vec<Bytes>,
    output_len: usize,
    /// Copied bytes that follow those of `output`.
    copied: BytesMut,
    /// Bytes that may still be written.
    room: usize,
    /// A write found no room.
    is_blocked: bool,
    /// The payload whose bytes may be written next.
    payload: Bytes,
    /// Bytes of payload that `h2` holds.
    queued_len: usize,
    /// The last bytes that were written.
    tail: [u8; FLOOD_NAME_LEN_MAX],
    ends: StreamEnds,
    /// Bytes that were taken so far.
    taken_len: u64,
}

impl Wire {
    pub(super) fn push_input(&mut self, bytes: Bytes) {
        if !bytes.is_empty() {
            self.input_len += bytes.len();
            self.input.push_back(bytes);
        }
    }

    pub(super) fn end_input(&mut self) {
        self.input_ended = true;
    }

    pub(super) fn drop_input(&mut self) {
        (self.input, self.input_len) = (VecDeque::new(), 0);
    }

    /// Returns the number of bytes that were not read yet.
    pub(super) fn input_len(&self) -> usize {
        self.input_len
    }

    /// Permits writes until this many bytes are to be taken.
    pub(super) fn set_room(&mut self, len_max: usize) {
        self.room = len_max.saturating_sub(self.output_len());
        self.is_blocked &= self.room == 0;
    }

    /// Returns whether bytes wait in `h2` for room.
    pub(super) fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Returns the number of bytes to be taken.
    pub(super) fn output_len(&self) -> usize {
        self.output_len + self.copied.len()
    }

    /// Moves bytes that were written to `out`, at most `len_max`, and ends the permission to write.
    /// Returns their number.
    pub(super) fn take_output(&mut self, out: &mut Vec<Bytes>, len_max: usize) -> usize {
        self.room = 0;
        // The next write names its payload again.
        self.payload = Bytes::new();
        self.flush_copied();
        let len = self.output_len.min(len_max);
        self.output_len -= len;
        self.taken_len += len as u64;
        if self.output_len == 0 {
            out.append(&mut self.output);
            return len;
        }
        // More was permitted before than is taken now.
        let mut left = len;
        while left > 0 {
            let first = self.output.first_mut().expect("its length is counted");
            let piece = first.split_to(left.min(first.len()));
            left -= piece.len();
            out.push(piece);
            if first.is_empty() {
                self.output.remove(0);
            }
        }
        len
    }

    /// Takes the streams that have ended in the bytes that were taken.
    pub(super) fn take_ended(&mut self) -> Vec<u32> {
        self.ends.take_until(self.taken_len)
    }

    /// Returns the last bytes that were written.
    pub(super) fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// Returns the number of bytes of payload that `h2` holds.
    pub(super) fn queued_len(&self) -> usize {
        self.queued_len
    }

    pub(super) fn add_queued(&mut self, len: usize) {
        self.queued_len += len;
    }

    pub(super) fn remove_queued(&mut self, len: usize) {
        self.queued_len = self.queued_len.checked_sub(len).expect("a byte leaves once");
    }

    /// Notes the payload whose bytes may be written next.
    pub(super) fn offer(&mut self, payload: &Bytes) {
        self.payload.clone_from(payload);
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let mut written_len = 0;
        for slice in slices {
            let taken = &slice[..slice.len().min(self.room)];
            self.push_output(taken);
            self.room -= taken.len();
            written_len += taken.len();
            if taken.len() < slice.len() {
                self.is_blocked = true;
                break;
            }
        }
        // No waker: who makes room polls.
        if written_len == 0 { Poll::Pending } else { Poll::Ready(Ok(written_len)) }
    }

    fn push_output(&mut self, bytes: &[u8]) {
        if bytes.is_empty() {
            return;
        }
        self.ends.read(bytes);
        if is_within(bytes, &self.payload) {
            self.flush_copied();
            self.output_len += bytes.len();
            self.output.push(self.payload.slice_ref(bytes));
            return;
        }
        self.copied.extend_from_slice(bytes);
        let len = bytes.len().min(self.tail.len());
        self.tail.copy_within(len.., 0);
        let place = self.tail.len() - len;
        self.tail[place..].copy_from_slice(&bytes[bytes.len() - len..]);
    }

    fn flush_copied(&mut self) {
        if !self.copied.is_empty() {
            self.output_len += self.copied.len();
            self.output.push(self.copied.split().freeze());
        }
    }

    fn read(&mut self, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.input.is_empty() {
            // No waker: who hands bytes over polls.
            return if self.input_ended { Poll::Ready(Ok(())) } else { Poll::Pending };
        }
        while let Some(first) = self.input.front_mut() {
            let len = first.len().min(buffer.remaining());
            buffer.put_slice(&first[..len]);
            first.advance(len);
            self.input_len -= len;
            if !first.is_empty() {
                break;
            }
            self.input.pop_front();
        }
        Poll::Ready(Ok(()))
    }
}

/// Returns whether `part` lies within the memory of `whole`.
fn is_within(part: &[u8], whole: &Bytes) -> bool {
    let (part, whole) = (part.as_ptr_range(), whole.as_ptr_range());
    whole.start <= part.start && part.end <= whole.end
}

/// The side of the wire that `h2` owns.
#[derive(Debug)]
pub(super) struct Io(pub(super) SharedWire);

impl AsyncRead for Io {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.borrow_mut().read(buffer)
    }
}

impl AsyncWrite for Io {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(&[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.0.borrow_mut().write(slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
