//! The idle connections of one endpoint: last in, first out, and any of them goes in O(1).
//!
//! A list through the connections themselves: each idle one names its neighbours.

use super::group::{Connection, Role};
use crate::base::slab::Slab;
use crate::proxy::api::UpstreamKey;

/// Both ends of the list.
#[derive(Debug, Default)]
pub(crate) struct IdleList {
    newest: Option<UpstreamKey>,
    oldest: Option<UpstreamKey>,
}

/// An idle connection's neighbours.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Links {
    newer: Option<UpstreamKey>,
    older: Option<UpstreamKey>,
}

impl IdleList {
    /// The connection that became idle last.
    pub(crate) fn newest(&self) -> Option<UpstreamKey> {
        self.newest
    }

    /// The connection that has been idle for longest.
    pub(crate) fn oldest(&self) -> Option<UpstreamKey> {
        self.oldest
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.newest.is_none()
    }

    /// Takes a connection in, which becomes idle.
    pub(crate) fn push(
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
        connection.role = Role::Idle(Links { newer: None, older });
    }

    /// Takes a connection out, whose links these were.
    pub(crate) fn remove(
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
    match &mut connection.role {
        Role::Idle(links) => links,
        _ => unreachable!("a connection in the idle list is not idle"),
    }
}
