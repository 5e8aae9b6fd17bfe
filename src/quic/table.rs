//! The connections of a worker, and which of them want to send.
//!
//! quinn-proto numbers its connections by the index of a slab, and hands an index out again when a
//! connection is gone. [`ConnectionKey`] adds a generation, so what was meant for the old one never
//! reaches the new one.

use std::collections::VecDeque;

use super::managed::Managed;

/// Names one connection of one engine, for ever.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    index: u32,
    generation: u32,
}

impl ConnectionKey {
    /// Index of the connection among those that are there now: small, and used again later.
    pub fn index(self) -> usize {
        self.index as usize
    }

    /// The key as one number, for those to whom it is opaque.
    pub fn to_bits(self) -> u64 {
        u64::from(self.generation) << 32 | u64::from(self.index)
    }

    /// The key that [`ConnectionKey::to_bits`] made.
    pub fn from_bits(bits: u64) -> Self {
        Self { index: bits as u32, generation: (bits >> 32) as u32 }
    }
}

/// Index -> connection.
#[derive(Default)]
pub(super) struct Table {
    slots: Vec<Slot>,
    count: usize,
    /// Connections that may have something to send, each at most once.
    dirty: VecDeque<ConnectionKey>,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    managed: Option<Box<Managed>>,
}

impl Table {
    /// Count of connections, those that are closing included.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn insert(&mut self, index: usize, managed: Managed) -> ConnectionKey {
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, Slot::default);
        }
        let slot = &mut self.slots[index];
        assert!(slot.managed.is_none(), "quinn-proto gave the index of a live connection out");
        slot.managed = Some(Box::new(managed));
        self.count += 1;
        ConnectionKey { index: index as u32, generation: slot.generation }
    }

    pub(super) fn remove(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        assert!(slot.managed.take().is_some(), "a connection is removed once");
        slot.generation = slot.generation.wrapping_add(1);
        self.count -= 1;
    }

    /// The connection that is at `index` now.
    pub(super) fn at(&mut self, index: usize) -> Option<(ConnectionKey, &mut Managed)> {
        let slot = self.slots.get_mut(index)?;
        let key = ConnectionKey { index: index as u32, generation: slot.generation };
        Some((key, slot.managed.as_deref_mut()?))
    }

    pub(super) fn get(&self, key: ConnectionKey) -> Option<&Managed> {
        let slot = self.slots.get(key.index())?;
        if slot.generation != key.generation {
            return None;
        }
        slot.managed.as_deref()
    }

    pub(super) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Managed> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation {
            return None;
        }
        slot.managed.as_deref_mut()
    }

    /// All connections, for the few things that concern all of them.
    pub(super) fn keys(&self) -> Vec<ConnectionKey> {
        let live = self.slots.iter().enumerate().filter(|(_, slot)| slot.managed.is_some());
        live.map(|(index, slot)| ConnectionKey { index: index as u32, generation: slot.generation })
            .collect()
    }

    /// Puts a connection behind all others that want to send, unless it waits already.
    pub(super) fn mark_dirty(&mut self, key: ConnectionKey) {
        let Some(managed) = self.get_mut(key) else { return };
        if !std::mem::replace(&mut managed.dirty, true) {
            self.dirty.push_back(key);
        }
    }

    /// Takes the connection that has waited longest.
    pub(super) fn pop_dirty(&mut self) -> Option<ConnectionKey> {
        while let Some(key) = self.dirty.pop_front() {
            if let Some(managed) = self.get_mut(key) {
                managed.dirty = false;
                return Some(key);
            }
        }
        None
    }
}
