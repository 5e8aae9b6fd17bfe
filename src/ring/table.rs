//! The op table: what the kernel holds, until its completion.
//!
//! An operation's key is its place in the table with the place's generation, and travels through
//! the kernel as user data. The generation changes whenever a place is freed, so a completion that
//! comes too late names nobody.
//!
//! ```text
//!  user data:  | generation (32) | piece (8) | place (24) |
//! ```
//!
//! The piece tells apart the sends of one batch that go segment by segment.

use super::completion::{SocketIndex, StreamKey};
use super::datagrams::SendOp;
use super::streams::{ConnectOp, ScatterOp, WriteOp};
use crate::planted::{Bug, is_planted};

/// User data of cancel requests: names no operation, since places end below.
pub(super) const CANCEL: u64 = u64::MAX;

/// Most places that a table has.
pub(super) const PLACES_MAX: usize = (1 << 24) - 1;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct OpKey(pub(super) u64);

impl OpKey {
    fn new(place: u32, generation: u32) -> OpKey {
        OpKey(u64::from(generation) << 32 | u64::from(place))
    }

    fn place(self) -> usize {
        (self.0 & 0xff_ffff) as usize
    }

    fn generation(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Which piece of the operation is meant.
    pub(super) fn piece(self) -> u32 {
        (self.0 >> 24) as u32 & 0xff
    }

    /// The same operation's key for one of its pieces.
    pub(super) fn with_piece(self, piece: u32) -> OpKey {
        debug_assert!(piece <= 0xff);
        OpKey(self.0 & !0xff00_0000 | u64::from(piece) << 24)
    }
}

/// An operation in flight, with all memory that the kernel may touch.
pub(super) enum Op {
    /// Multishot receive on a UDP socket; its message header belongs to the socket.
    ReceiveDatagrams(SocketIndex),
    /// A batch of datagrams.
    Send(Box<SendOp>),
    /// A connect, with the address.
    Connect(Box<ConnectOp>),
    /// A receive into a provided buffer.
    Receive(StreamKey),
    /// A receive into slots of its own.
    Scatter(Box<ScatterOp>),
    /// A vectored write.
    Write(Box<WriteOp>),
    /// The closing of a stream's descriptor.
    Close(StreamKey),
    /// A poll of the wake-up.
    Wake,
}

struct Place {
    generation: u32,
    op: Option<Op>,
}

pub(super) struct OpTable {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl OpTable {
    pub(super) fn new(len: usize) -> OpTable {
        assert!(len <= PLACES_MAX, "a place has 24 bits");
        OpTable {
            places: (0..len).map(|_| Place { generation: 0, op: None }).collect(),
            free: (0..len as u32).rev().collect(),
        }
    }

    /// Takes an operation in. The callers' own bounds add up to the table's length.
    pub(super) fn insert(&mut self, op: Op) -> OpKey {
        let index = self.free.pop().expect("the table is as long as the sum of its users' bounds");
        let place = &mut self.places[index as usize];
        debug_assert!(place.op.is_none(), "a free place is empty");
        place.op = Some(op);
        OpKey::new(index, place.generation)
    }

    pub(super) fn get_mut(&mut self, key: OpKey) -> Option<&mut Op> {
        self.place(key)?.op.as_mut()
    }

    fn place(&mut self, key: OpKey) -> Option<&mut Place> {
        let place = self.places.get_mut(key.place())?;
        let is_current = place.generation == key.generation() || is_planted(Bug::StaleOpKey);
        is_current.then_some(place)
    }

    pub(super) fn remove(&mut self, key: OpKey) -> Option<Op> {
        let place = self.place(key)?;
        let op = place.op.take()?;
        place.generation = place.generation.wrapping_add(1);
        self.free.push(key.place() as u32);
        Some(op)
    }

    /// The keys of all operations in flight, each of its first piece.
    pub(super) fn keys(&self) -> impl Iterator<Item = OpKey> {
        let places = (0..).zip(&self.places).filter(|(_, place)| place.op.is_some());
        places.map(|(index, place)| OpKey::new(index, place.generation))
    }

    pub(super) fn in_flight(&self) -> usize {
        self.places.len() - self.free.len()
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
        assert_eq!(first.place(), second.place(), "the place is used again");
        assert!(table.get_mut(first).is_none() && table.remove(first).is_none());
        assert!(matches!(table.get_mut(second), Some(Op::ReceiveDatagrams(SocketIndex(3)))));
        assert_eq!(table.in_flight(), 1);
    }

    #[test]
    fn pieces_do_not_change_the_operation() {
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
