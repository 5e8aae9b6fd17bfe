//! The user and group that the process runs as after its start.
#![forbid(unsafe_code)]

/// The ids of an entry in the system's database of users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UserIds {
    pub uid: u32,
    /// The user's primary group.
    pub gid: u32,
}

/// An account of this host; neither its user nor its group is root.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    /// As the configuration names it, for messages.
    pub name: String,
    pub uid: u32,
    pub gid: u32,
}

impl Account {
    pub(crate) fn ids(&self) -> UserIds {
        UserIds { uid: self.uid, gid: self.gid }
    }
}
