//! The operation table: each operation that the kernel holds, until its completion.
//!
//! An operation's key travels through the kernel as user data. Its generation makes sure that a
//! completion that comes too late finds nothing.
//!
//! ```text
//!  user data:  | generation (32) | piece (8) | index (24) |
//! ```
//!
//! The piece distinguishes the sends of a batch that goes segment by segment.

use super::completion::{ListenerIndex, SocketIndex, StreamKey};
use super::listeners::AcceptOp;
use super::send::SendOp;
use super::stream_ops::{ConnectOp, ScatterOp, WriteOp};
use crate::base::slab::{Slab, SlabKey};
use crate::planted::{Bug, is_planted};

/// User data of cancel requests; no operation has it, since indexes end below.
pub(super) const CANCEL: u64 = u64::MAX;

/// The most operations that a table holds.
pub(super) const OPERATIONS_MAX: usize = (1 << 24) - 1;

/// The key of an operation and of one of its pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpKey(pub(super) u64);

impl SlabKey for OpKey {
    fn from_parts(index: u32, generation: u32) -> Self {
        debug_assert!(index as usize <= OPERATIONS_MAX);
        Self(u64::from(generation) << 32 | u64::from(index))
    }

    fn parts(self) -> (u32, u32) {
        (self.0 as u32 & 0xff_ffff, (self.0 >> 32) as u32)
    }
}

impl OpKey {
    pub(super) fn piece(self) -> u32 {
        (self.0 >> 24) as u32 & 0xff
    }

    /// Returns the key of another piece of the same operation.
    pub(super) fn with_piece(self, piece: u32) -> OpKey {
        debug_assert!(piece <= 0xff);
        OpKey(self.0 & !0xff00_0000 | u64::from(piece) << 24)
    }
}

/// An operation in flight, with all memory that the kernel may touch.
pub(super) enum Op {
    /// Multishot receive on a UDP socket; its message header belongs to the socket.
    ReceiveDatagrams(SocketIndex),
    Send(Box<SendOp>),
    /// A connect, with the address.
    Connect(Box<ConnectOp>),
    /// A receive into a provided buffer.
    Receive(StreamKey),
    /// A receive into slots of its own.
    Scatter(Box<ScatterOp>),
    Write(Box<WriteOp>),
    /// The end of our side of a stream.
    ShutDown(StreamKey),
    /// The reset of a stream's connection.
    Reset(StreamKey),
    /// The closing of a stream's descriptor.
    Close(StreamKey),
    /// An accept, with the client's address.
    Accept(Box<AcceptOp>),
    /// A pause of a listening socket.
    AcceptPause(ListenerIndex),
    /// A poll of the wake-up.
    Wake,
}

/// The operations in flight. Its memory grows with the most that there were at once; the bounds of
/// its users add up to its longest length.
pub(super) struct OpTable {
    operations: Slab<OpKey, Op>,
    len_max: usize,
}

impl OpTable {
    pub(super) fn new(len_max: usize) -> OpTable {
        assert!(len_max <= OPERATIONS_MAX, "an index has 24 bits");
        OpTable { operations: Slab::new(), len_max }
    }

    pub(super) fn insert(&mut self, op: Op) -> OpKey {
        let has_room = self.operations.len() < self.len_max;
        assert!(has_room, "the table is as long as the sum of its users' bounds");
        self.operations.insert(op)
    }

    pub(super) fn get_mut(&mut self, key: OpKey) -> Option<&mut Op> {
        let key = self.planted_key(key);
        self.operations.get_mut(key)
    }

    /// Returns a send, which stays in the table until its last completion.
    pub(super) fn send(&mut self, key: OpKey) -> &mut SendOp {
        match self.get_mut(key) {
            Some(Op::Send(op)) => op,
            _ => unreachable!("the caller has just found or inserted it"),
        }
    }

    /// Returns a write, which stays in the table until its last completion.
    pub(super) fn write(&mut self, key: OpKey) -> &mut WriteOp {
        match self.get_mut(key) {
            Some(Op::Write(op)) => op,
            _ => unreachable!("the caller has just found or inserted it"),
        }
    }

    pub(super) fn remove(&mut self, key: OpKey) -> Option<Op> {
        let key = self.planted_key(key);
        self.operations.remove(key)
    }

    /// Returns the keys of all operations in flight, each of its first piece.
    pub(super) fn keys(&self) -> Vec<OpKey> {
        self.operations.keys()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.operations.len()
    }

    /// Returns `key`, or the current key of its index where that bug is planted.
    fn planted_key(&mut self, key: OpKey) -> OpKey {
        if !is_planted(Bug::StaleOpKey) {
            return key;
        }
        self.operations.at(key.parts().0 as usize).map_or(key, |(current, _)| current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_names_one_operation_only() {
        let mut table = OpTable::new(2);
        let first = table.insert(Op::Wake);
        assert!(matches!(table.remove(first), Some(Op::Wake)));
        let second = table.insert(Op::ReceiveDatagrams(SocketIndex(3)));
        assert_eq!(first.parts().0, second.parts().0, "the index is used again");
        assert!(table.get_mut(first).is_none() && table.remove(first).is_none());
        assert!(matches!(table.get_mut(second), Some(Op::ReceiveDatagrams(SocketIndex(3)))));
        assert_eq!(table.in_flight(), 1);
    }

    #[test]
    fn the_keys_of_all_pieces_find_the_operation() {
        let mut table = OpTable::new(3);
        table.insert(Op::Wake);
        let key = table.insert(Op::Wake);
        for piece in [0, 1, 63, 255] {
            let named = key.with_piece(piece);
            assert_eq!(named.piece(), piece);
            assert!(table.get_mut(named).is_some());
            assert_eq!(named.with_piece(0), key);
        }
        assert!(table.get_mut(OpKey(CANCEL)).is_none());
    }

    #[test]
    #[should_panic(expected = "sum of its users' bounds")]
    fn more_than_its_length_is_a_bug() {
        let mut table = OpTable::new(1);
        table.insert(Op::Wake);
        table.insert(Op::Wake);
    }
}
