//! The places of TCP connections, and of those in a handshake, by the client addresses that hold
//! them.

use std::collections::BTreeMap;

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
}

/// The phase of a connection, as far as it decides which places it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Before its session.
    Handshake,
    Session,
}

impl Places {
    /// Returns whether the listener has a place for a connection of any client.
    pub(super) fn are_left(&self, settings: &TcpSettings) -> bool {
        self.count(settings) < settings.connections_max
            && self.handshakes.total() < TCP_HANDSHAKES_MAX
    }

    /// Returns whether the listener has as many connections as it may.
    pub(super) fn are_taken(&self, settings: &TcpSettings) -> bool {
        self.count(settings) >= settings.connections_max
    }

    /// Returns whether an address has its share of the places that a connection in this stage
    /// needs.
    pub(super) fn are_at_share(
        &self,
        settings: &TcpSettings,
        stage: Stage,
        address: ClientAddress,
    ) -> bool {
        let connections = self.connections.get(&settings.listener.name);
        let has_connections = connections
            .is_some_and(|shares| shares.is_at(settings.connections_per_address, address));
        let half_open_max = settings.half_open_per_address;
        let has_handshakes = self.handshakes.is_at(half_open_max, address);
        has_connections || stage == Stage::Handshake && has_handshakes
    }

    /// Takes the places of a connection.
    pub(super) fn take(&mut self, settings: &TcpSettings, stage: Stage, address: ClientAddress) {
        let name = settings.listener.name.clone();
        self.connections.entry(name).or_default().take(address);
        if stage == Stage::Handshake {
            self.handshakes.take(address);
        }
    }

    /// Gives back the places of a connection.
    pub(super) fn give_back(
        &mut self,
        settings: &TcpSettings,
        stage: Stage,
        address: ClientAddress,
    ) {
        let connections = self.connections.get_mut(&settings.listener.name);
        connections.expect("it was counted").give_back(address);
        if stage == Stage::Handshake {
            self.end_handshake(address);
        }
    }

    /// Gives back the place of a handshake, whose connection goes on.
    pub(super) fn end_handshake(&mut self, address: ClientAddress) {
        self.handshakes.give_back(address);
    }

    #[cfg(test)]
    pub(super) fn handshake_count(&self) -> usize {
        self.handshakes.total()
    }

    fn count(&self, settings: &TcpSettings) -> usize {
        self.connections.get(&settings.listener.name).map_or(0, Shares::total)
    }
}
