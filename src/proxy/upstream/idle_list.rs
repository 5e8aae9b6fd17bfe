//! The idle connections of one endpoint: last in, first out, with removal of any of them in O(1).
//!
//! The list is linked through the connections themselves.

use super::connection_states::{Connection, State};
use crate::base::slab::Slab;
use crate::proxy::api::UpstreamKey;

/// The two ends of the list.
#[derive(Debug, Default)]
pub(super) struct IdleList {
    /// The connection that became idle last.
    pub(super) newest: Option<UpstreamKey>,
    /// The connection that has been idle for longest.
    pub(super) oldest: Option<UpstreamKey>,
}

/// An idle connection's neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Links {
    newer: Option<UpstreamKey>,
    older: Option<UpstreamKey>,
}

impl IdleList {
    /// Adds a connection, which becomes idle.
    pub(super) fn push(
        &mut self,
        connections: &mut Slab<UpstreamKey, Connection>,
        key: UpstreamKey,
    ) {
        let older = self.newest.replace(key);
        match older {
            Some(older) => links(connections, older).newer = Some(key),
            None => self.oldest = Some(key),
        }
        let connection = connections.get_mut(key).expect("a connection to keep exists");
        connection.state = State::Idle(Links { newer: None, older });
    }

    /// Removes the connection whose links these are.
    pub(super) fn remove(
        &mut self,
        connections: &mut Slab<UpstreamKey, Connection>,
        Links { newer, older }: Links,
    ) {
        match newer {
            Some(newer) => links(connections, newer).older = older,
            None => self.newest = older,
        }
        match older {
            Some(older) => links(connections, older).newer = newer,
            None => self.oldest = newer,
        }
    }
}

fn links(connections: &mut Slab<UpstreamKey, Connection>, key: UpstreamKey) -> &mut Links {
    let connection = connections.get_mut(key).expect("a connection in the list exists");
    match &mut connection.state {
        State::Idle(links) => links,
        _ => unreachable!("a connection in the idle list is not idle"),
    }
}
