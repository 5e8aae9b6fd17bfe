//! The places of TCP connections, and of those in a handshake, by the client addresses that hold
//! them.

use std::collections::{BTreeMap, VecDeque};

use super::TcpKey;
use crate::base::shares::{ClientAddress, Shares};
use crate::gateway::context::TcpSettings;
use crate::limits::TCP_HANDSHAKES_MAX;

/// The places that are taken.
#[derive(Default)]
pub(in crate::gateway) struct Places {
    /// Connections of each listener, by its name: a reload may change its index.
    connections: BTreeMap<String, Shares>,
    /// Connections that wait for a PROXY header or for the end of a TLS handshake.
    handshakes: Shares,
    /// Connections whose address has its share of the handshakes, in the order in which they came.
    waiting: BTreeMap<ClientAddress, VecDeque<TcpKey>>,
}

/// The phase of a connection, as far as it decides which places it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before its handshake, for which its address has no place left.
    Waiting,
    /// Before its session.
    Handshake,
    Session,
}

impl Places {
    /// Returns whether the listener has a place for a connection of any client.
    pub(super) fn are_left(&self, settings: &TcpSettings) -> bool {
        let begins_plain = settings.tls.is_none() && settings.listener.proxy_protocol.is_empty();
        self.count(settings) < settings.connections_max
            && (begins_plain || self.handshakes.total() < TCP_HANDSHAKES_MAX)
    }

    /// Returns whether the listener has as many connections as it may.
    pub(super) fn are_taken(&self, settings: &TcpSettings) -> bool {
        self.count(settings) >= settings.connections_max
    }

    /// Returns whether an address has its share of the listener's connections.
    pub(super) fn are_at_share(&self, settings: &TcpSettings, address: ClientAddress) -> bool {
        let connections = self.connections.get(&settings.listener.name);
        connections.is_some_and(|shares| shares.is_at(settings.connections_per_address, address))
    }

    /// Takes the place of a connection.
    pub(super) fn take(&mut self, settings: &TcpSettings, address: ClientAddress) {
        let name = settings.listener.name.clone();
        self.connections.entry(name).or_default().take(address);
    }

    /// Gives back the place of a connection.
    pub(super) fn give_back(&mut self, settings: &TcpSettings, address: ClientAddress) {
        let connections = self.connections.get_mut(&settings.listener.name);
        connections.expect("it was counted").give_back(address);
    }

    /// Takes the place of a handshake, whatever the share of the address is.
    pub(super) fn take_handshake(&mut self, address: ClientAddress) {
        self.handshakes.take(address);
    }

    /// Takes the place of a handshake, if the address has one left and none of its connections has
    /// waited longer. Returns whether it did.
    pub(super) fn begin_handshake(
        &mut self,
        settings: &TcpSettings,
        address: ClientAddress,
        key: TcpKey,
    ) -> bool {
        let is_next = self.next_waiting(address).is_none_or(|next| next == key);
        let begins = is_next && !self.handshakes.is_at(settings.half_open_per_address, address);
        if begins {
            self.stop_waiting(address, key);
            self.take_handshake(address);
        }
        begins
    }

    /// Lets a connection wait for the place of a handshake.
    pub(super) fn wait(&mut self, address: ClientAddress, key: TcpKey) {
        self.waiting.entry(address).or_default().push_back(key);
    }

    /// Gives back the place of a handshake that is over.
    pub(super) fn end_handshake(&mut self, address: ClientAddress) {
        self.handshakes.give_back(address);
    }

    /// Forgets a connection that waits, if it does.
    pub(super) fn stop_waiting(&mut self, address: ClientAddress, key: TcpKey) {
        let Some(queue) = self.waiting.get_mut(&address) else { return };
        // Those that leave are most often the first: their time is up, or their turn has come.
        if let Some(index) = queue.iter().position(|waiting| *waiting == key) {
            queue.remove(index);
        }
        if queue.is_empty() {
            self.waiting.remove(&address);
        }
    }

    /// Returns the connection of this address that has waited longest.
    pub(super) fn next_waiting(&self, address: ClientAddress) -> Option<TcpKey> {
        self.waiting.get(&address)?.front().copied()
    }

    #[cfg(test)]
    pub(super) fn handshake_count(&self) -> usize {
        self.handshakes.total()
    }

    #[cfg(test)]
    pub(super) fn waiting_count(&self) -> usize {
        self.waiting.values().map(VecDeque::len).sum()
    }

    fn count(&self, settings: &TcpSettings) -> usize {
        self.connections.get(&settings.listener.name).map_or(0, Shares::total)
    }
}
