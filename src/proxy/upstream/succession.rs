//! Succession: what the groups of a new configuration take over from those that they replace.
//!
//! An endpoint continues if a group of the same name still has its address. Its health goes on, and
//! its open connections are kept: idle ones at once, those in use when their exchange, which ends
//! under the configuration before, releases them.

use super::group::{Group, GroupKey};
use super::{Upstreams, connection, group};
use crate::proxy::api::UpstreamKey;
use crate::proxy::context::Context;

/// An endpoint of a current group.
#[derive(Debug, Clone, Copy)]
pub(super) struct Heir {
    group: GroupKey,
    endpoint: usize,
}

impl Upstreams {
    /// Hands health and idle connections of a retired group to the group that replaces it.
    pub(super) fn hand_over(&mut self, cx: &mut Context<'_>, retired: GroupKey) {
        let endpoint_count = group(&mut self.groups, retired).endpoints.len();
        // Its connections are its users, and it must not go with the last of them.
        self.join(retired);
        for endpoint in 0..endpoint_count {
            let Some(heir) = self.heir_of(retired, endpoint) else { continue };
            let earlier = &group(&mut self.groups, retired).endpoints[endpoint];
            let standing = earlier.standing();
            group(&mut self.groups, heir.group).endpoints[heir.endpoint].inherit(standing);
            // In their order: the one used last is used next.
            while let Some(key) = group(&mut self.groups, retired).endpoints[endpoint].idle.oldest
                && self.can_keep_for(heir, retired)
            {
                self.take_from_idle(key);
                self.keep_for(cx, key, heir);
            }
        }
        self.leave(retired);
    }

    /// Returns the endpoint that continues this one of a retired group.
    pub(super) fn heir_of(&self, retired: GroupKey, endpoint: usize) -> Option<Heir> {
        let earlier = self.groups.get(retired)?;
        let has_name = |group: &Group| group.config.name == earlier.config.name;
        let mut current = self.current.iter();
        let key = *current.find(|key| self.groups.get(**key).is_some_and(has_name))?;
        let address = &earlier.endpoints[endpoint].address;
        let later = self.groups.get(key)?.endpoints.iter();
        let endpoint = later.into_iter().position(|later| later.address == *address)?;
        Some(Heir { group: key, endpoint })
    }

    /// Returns whether a connection of the retired group may be kept for the heir.
    pub(super) fn can_keep_for(&self, heir: Heir, retired: GroupKey) -> bool {
        let (later, earlier) = (self.groups.get(heir.group), self.groups.get(retired));
        later.zip(earlier).is_some_and(|(later, earlier)| {
            // A connection keeps its congestion control.
            later.config.congestion == earlier.config.congestion
                && later.endpoints[heir.endpoint].has_room()
        })
    }

    /// Makes a connection that is in no list an idle one of its heir.
    pub(super) fn keep_for(&mut self, cx: &mut Context<'_>, key: UpstreamKey, heir: Heir) {
        let connection = connection(&mut self.connections, key);
        let (retired, endpoint) = (connection.group, connection.endpoint);
        (connection.group, connection.endpoint) = (heir.group, heir.endpoint);
        group(&mut self.groups, retired).endpoints[endpoint].closed();
        self.join(heir.group);
        group(&mut self.groups, heir.group).endpoints[heir.endpoint].opened();
        self.leave(retired);
        self.keep_or_close(cx, key);
    }
}
