//! A batch of datagrams that the kernel holds: its memory, its messages, and the method of sending.

use std::net::SocketAddr;

use io_uring::types::Timespec;

use super::completion::{DatagramSend, LossReason, SocketIndex};
use super::message::{Route, SendMessage};
use crate::pool::{InKernel, Pool};

/// The memory of a batch while the kernel reads it.
pub(super) enum HeldBuffer {
    Slot(InKernel),
    Heap(Vec<u8>),
}

/// The method of sending a batch, including what the kernel refused before.
///
/// ```text
///            zero copy refused            segmentation refused
///  ZeroCopy ------------------> CopyAfterRefusal ----> SplitAfterBoth
///      |        segmentation refused
///      +------------------------------+--------------> SplitAfterRefusal
///  Copy ------------------------------+
///
///  Split (the socket does not segment at present)
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// One send that the kernel copies.
    Copy,
    /// One send from the slot itself.
    ZeroCopy,
    /// As `Copy`, after the kernel refused `ZeroCopy`.
    CopyAfterRefusal,
    /// One send per segment.
    Split,
    /// As `Split`, after the kernel refused to segment the batch.
    SplitAfterRefusal,
    /// As `Split`, after the kernel refused `ZeroCopy`, then to segment the batch.
    SplitAfterBoth,
}

impl Method {
    /// Returns the method after the kernel refused to send without a copy.
    pub(super) fn refused_zero_copy(self) -> Option<Self> {
        match self {
            Self::ZeroCopy => Some(Self::CopyAfterRefusal),
            Self::Copy | Self::CopyAfterRefusal => None,
            Self::Split | Self::SplitAfterRefusal | Self::SplitAfterBoth => None,
        }
    }

    /// Returns the method after the kernel refused to segment. A datagram by itself is not worth a
    /// zero-copy send.
    pub(super) fn refused_segmentation(self) -> Option<Self> {
        match self {
            Self::Copy | Self::ZeroCopy => Some(Self::SplitAfterRefusal),
            Self::CopyAfterRefusal => Some(Self::SplitAfterBoth),
            Self::Split | Self::SplitAfterRefusal | Self::SplitAfterBoth => None,
        }
    }
}

/// The pause before the next try of a send for which the kernel had no buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Backoff {
    /// None: pieces are sent again at once.
    None,
    /// To begin when no piece is in flight.
    Due,
    /// A timeout is in flight.
    UnderWay,
}

/// A batch in flight.
pub(super) struct SendOp {
    pub(super) socket: SocketIndex,
    pub(super) buffer: Option<HeldBuffer>,
    pub(super) payload: *const u8,
    pub(super) len: usize,
    pub(super) segment_len: usize,
    pub(super) route: Route,
    pub(super) whole: SendMessage,
    /// One message per segment once it is split; never grows while the kernel reads it.
    pub(super) split: Vec<SendMessage>,
    /// Completions that are still to come from the kernel.
    pub(super) outstanding: u32,
    pub(super) method: Method,
    /// Pieces to be sent again.
    pub(super) again: u64,
    pub(super) retries: u8,
    pub(super) backoff: Backoff,
    pub(super) lost: Option<LossReason>,
    pub(super) rest: Timespec,
}

impl SendOp {
    pub(super) fn new() -> SendOp {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        SendOp {
            socket: SocketIndex(0),
            buffer: None,
            payload: std::ptr::null(),
            len: 0,
            segment_len: 0,
            route: Route { destination: nowhere, source: None, ecn: 0 },
            whole: SendMessage::new(),
            split: Vec::new(),
            outstanding: 0,
            method: Method::Copy,
            again: 0,
            retries: 0,
            backoff: Backoff::None,
            lost: None,
            rest: Timespec::new().nsec(1_000_000),
        }
    }

    pub(super) fn begin(&mut self, socket: SocketIndex, send: DatagramSend, pool: &Pool) {
        let len = send.buffer.len();
        self.socket = socket;
        self.len = len;
        self.payload = send.buffer.as_ptr();
        self.segment_len = send.segment_len.map_or(len, |wanted| len.min(usize::from(wanted)));
        self.route = Route { destination: send.destination, source: send.source, ecn: send.ecn };
        self.buffer = Some(if Pool::contains(self.payload) {
            HeldBuffer::Slot(pool.send(send.buffer))
        } else {
            HeldBuffer::Heap(send.buffer)
        });
        self.split.clear();
        (self.outstanding, self.again, self.retries) = (0, 0, 0);
        (self.method, self.backoff, self.lost) = (Method::Copy, Backoff::None, None);
    }

    pub(super) fn is_batch(&self) -> bool {
        self.len > self.segment_len
    }

    pub(super) fn prepare_whole(&mut self) {
        let segment_len = self.is_batch().then_some(self.segment_len as u16);
        self.whole.prepare(self.route, self.payload, self.len, segment_len);
        self.again = 1;
    }

    pub(super) fn prepare_split(&mut self) {
        let count = self.len.div_ceil(self.segment_len);
        self.split.clear();
        self.split.resize_with(count, SendMessage::new);
        for (index, message) in self.split.iter_mut().enumerate() {
            let at = index * self.segment_len;
            let len = self.segment_len.min(self.len - at);
            message.prepare(self.route, self.payload.wrapping_add(at), len, None);
        }
        self.again = u64::MAX >> (64 - count);
    }

    pub(super) fn message(&self, piece: u32) -> &SendMessage {
        if self.split.is_empty() { &self.whole } else { &self.split[piece as usize] }
    }

    pub(super) fn take_buffer(&mut self) -> Vec<u8> {
        let mut buffer = match self.buffer.take() {
            Some(HeldBuffer::Slot(slot)) => slot.complete(),
            Some(HeldBuffer::Heap(buffer)) => buffer,
            None => unreachable!("a batch in flight has its buffer"),
        };
        buffer.clear();
        buffer
    }
}

#[cfg(test)]
mod tests {
    use super::Method::{self, *};

    #[test]
    fn each_refusal_has_a_method_that_follows() {
        let methods = [Copy, ZeroCopy, CopyAfterRefusal, Split, SplitAfterRefusal, SplitAfterBoth];
        let name =
            |method: Option<Method>| method.map_or("-".into(), |method| format!("{method:?}"));
        let table: Vec<String> = methods
            .iter()
            .map(|method| {
                let after = [method.refused_zero_copy(), method.refused_segmentation()].map(name);
                format!("{method:?}: {} {}", after[0], after[1])
            })
            .collect();
        let expected = [
            "Copy: - SplitAfterRefusal",
            "ZeroCopy: CopyAfterRefusal SplitAfterRefusal",
            "CopyAfterRefusal: - SplitAfterBoth",
            "Split: - -",
            "SplitAfterRefusal: - -",
            "SplitAfterBoth: - -",
        ];
        assert_eq!(table, expected);
    }
}
