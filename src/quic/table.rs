//! The connections of a worker, and the queue of those that may have something to send.
//!
//! quinn-proto numbers its connections by the index of a slab and reuses the index of a connection
//! that is gone. [`ConnectionKey`] adds a generation, so a key of the old one never reaches the new
//! one.

use std::collections::VecDeque;

use super::connection::Connection;
use crate::base::slab::{KeyMap, slab_key};

slab_key! {
    /// The key of one connection of one engine, never given out twice.
    pub ConnectionKey
}

/// The connections of an engine, and the queue of those that may have something to send.
#[derive(Default)]
pub(super) struct Table {
    connections: KeyMap<ConnectionKey, Box<Connection>>,
    /// Connections that may have something to send, each at most once.
    dirty: VecDeque<ConnectionKey>,
}

impl Table {
    /// Returns the number of connections, closing ones included.
    pub(super) fn count(&self) -> usize {
        self.connections.len()
    }

    /// Inserts a connection at the index that quinn-proto gave it.
    pub(super) fn insert(&mut self, index: usize, connection: Connection) -> ConnectionKey {
        self.connections.insert_at(index, Box::new(connection))
    }

    pub(super) fn remove(&mut self, key: ConnectionKey) -> Option<Box<Connection>> {
        self.connections.remove(key)
    }

    /// Returns the connection that has `index` now.
    pub(super) fn at(&mut self, index: usize) -> Option<(ConnectionKey, &mut Connection)> {
        let (key, connection) = self.connections.at(index)?;
        Some((key, connection))
    }

    pub(super) fn get(&self, key: ConnectionKey) -> Option<&Connection> {
        self.connections.get(key).map(Box::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.connections.get_mut(key).map(Box::as_mut)
    }

    pub(super) fn keys(&self) -> Vec<ConnectionKey> {
        self.connections.keys()
    }

    /// Appends a connection to the queue of senders, unless it is queued already.
    pub(super) fn mark_dirty(&mut self, key: ConnectionKey) {
        let Some(connection) = self.get_mut(key) else { return };
        if !std::mem::replace(&mut connection.dirty, true) {
            self.dirty.push_back(key);
        }
    }

    /// Removes and returns the connection that has been queued longest.
    pub(super) fn pop_dirty(&mut self) -> Option<ConnectionKey> {
        while let Some(key) = self.dirty.pop_front() {
            if let Some(connection) = self.get_mut(key) {
                connection.dirty = false;
                return Some(key);
            }
        }
        None
    }
}
