//! Received bytes of a TLS stream, cut into records (RFC 8446 5.1).
//!
//! ```text
//!  received   | ... record | record | rec      ord | record | ...
//!                   split off, no copy  \      /
//!  joined                                record     one copy
//! ```
//!
//! The joined record frees the buffers that it came in, which may be slots of the pool. In front of
//! it may be earlier records of a handshake message that is not whole: rustls still refers to them.

use std::collections::VecDeque;
use std::mem;

use bytes::{Buf as _, BytesMut};

/// Length of a record's header: type, version, length.
pub(super) const HEADER_LEN: usize = 5;
/// Longest payload of a record before it is encrypted (RFC 8446 5.1).
pub(super) const PLAINTEXT_LEN_MAX: usize = 1 << 14;
/// Longest record: TLS 1.2 permits 2048 bytes more than the plaintext (RFC 5246 6.2.3), TLS 1.3
/// permits 256.
const RECORD_LEN_MAX: usize = HEADER_LEN + PLAINTEXT_LEN_MAX + 2048;

/// The bytes that a peer has sent and that are not yet read.
#[derive(Debug, Default)]
pub(super) struct Records {
    received: VecDeque<BytesMut>,
    /// `kept_len` bytes that rustls has seen, then a part of the next record.
    joined: BytesMut,
    kept_len: usize,
    copied_len: usize,
}

/// A whole record, behind bytes that rustls has seen.
#[derive(Debug)]
pub(super) struct Record {
    pub(super) bytes: BytesMut,
    pub(super) kept_len: usize,
    /// Origin of the bytes: a buffer of their own, or one that was received.
    is_joined: bool,
}

/// The next part of the input.
#[derive(Debug)]
pub(super) enum Next {
    Whole(Record),
    /// The rest of a record is missing.
    Part,
    Nothing,
}

impl Records {
    pub(super) fn receive(&mut self, bytes: BytesMut) {
        if !bytes.is_empty() {
            self.received.push_back(bytes);
        }
    }

    /// Takes the next record, if it is whole.
    pub(super) fn next(&mut self) -> Next {
        if self.joined.is_empty()
            && let Some(front) = self.received.front_mut()
            && let Some(len) = record_len(front)
            && len <= front.len()
        {
            let bytes = front.split_to(len);
            self.drop_empty();
            return Next::Whole(Record { bytes, kept_len: 0, is_joined: false });
        }
        loop {
            let part = &self.joined[self.kept_len..];
            let known_len = record_len(part);
            if known_len == Some(part.len()) {
                let kept_len = mem::take(&mut self.kept_len);
                let bytes = mem::take(&mut self.joined);
                return Next::Whole(Record { bytes, kept_len, is_joined: true });
            }
            let Some(front) = self.received.front_mut() else {
                return if part.is_empty() { Next::Nothing } else { Next::Part };
            };
            let first_len = if part.is_empty() { record_len(front) } else { None };
            let missing = known_len.or(first_len).unwrap_or(HEADER_LEN) - part.len();
            let taken = missing.min(front.len());
            self.joined.reserve(missing);
            self.joined.extend_from_slice(&front[..taken]);
            self.copied_len += taken;
            front.advance(taken);
            self.drop_empty();
        }
    }

    /// Keeps what is left of a record, since rustls still refers to it.
    pub(super) fn keep(&mut self, record: Record) {
        debug_assert!(self.joined.is_empty(), "a record is read to its end before the next");
        self.kept_len = record.bytes.len();
        if record.is_joined {
            self.joined = record.bytes;
        } else if !record.bytes.is_empty() {
            self.copied_len += record.bytes.len();
            self.joined = BytesMut::from(&record.bytes[..]);
        }
    }

    /// Returns the bytes that rustls still refers to.
    pub(super) fn kept(&mut self) -> &mut [u8] {
        &mut self.joined[..self.kept_len]
    }

    /// Returns the same, and the part of the next record behind them.
    pub(super) fn kept_and_part(&mut self) -> &mut [u8] {
        &mut self.joined
    }

    pub(super) fn part(&self) -> &[u8] {
        &self.joined[self.kept_len..]
    }

    /// Drops the bytes that rustls has not seen. It reads the others again with each step, at
    /// places that it has noted, so they stay.
    pub(super) fn drop_unread(&mut self) {
        self.received = VecDeque::new();
        self.joined.truncate(self.kept_len);
    }

    pub(super) fn clear(&mut self) {
        *self = Self { copied_len: self.copied_len, ..Self::default() };
    }

    pub(super) fn is_empty(&self) -> bool {
        self.received.is_empty() && self.joined.is_empty()
    }

    pub(super) fn held_len(&self) -> usize {
        self.received.iter().map(BytesMut::len).sum::<usize>() + self.joined.capacity()
    }

    pub(super) fn take_copied_len(&mut self) -> usize {
        mem::take(&mut self.copied_len)
    }

    /// Drops the first buffer if it is used up, and the queue's own memory with the last one.
    fn drop_empty(&mut self) {
        if self.received.front().is_some_and(BytesMut::is_empty) {
            self.received.pop_front();
        }
        if self.received.is_empty() {
            self.received = VecDeque::new();
        }
    }
}

/// Returns the length of the record at the front, with its header. For a record that is too long it
/// is that of the header, by which rustls refuses the record without the rest of it.
fn record_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_LEN>()?;
    let len = HEADER_LEN + usize::from(u16::from_be_bytes([header[3], header[4]]));
    Some(if len > RECORD_LEN_MAX { HEADER_LEN } else { len })
}
