//! The `connection` field (RFC 9110 7.6.1).

use http::header::CONNECTION;

use super::{Persistence, Version};
use crate::limits::NOMINATED_COUNT_MAX;
use crate::message::Fields;

/// The options of all `connection` fields of a message.
#[derive(Debug, Default, PartialEq)]
pub struct ConnectionOptions {
    /// The connection closes after this message.
    pub(crate) close: bool,
    /// The connection persists after this message.
    pub(crate) keep_alive: bool,
    /// Names of fields that concern this connection only, in lower case.
    names: Vec<String>,
}

impl ConnectionOptions {
    /// Names the bound that a message exceeds for which [`ConnectionOptions::read`] returns `None`.
    pub(crate) const TOO_MANY: &str =
        "the connection field names more than 32 fields, a fixed bound";

    /// Reads all `connection` fields. Returns `None` when they name too many options.
    pub(crate) fn read(fields: &Fields) -> Option<Self> {
        let mut read = Self::default();
        let values = fields.iter().filter(|(name, _)| name == CONNECTION);
        let tokens = values.flat_map(|(_, value)| value.as_bytes().split(|byte| *byte == b','));
        let tokens = tokens.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty());
        for (index, token) in tokens.enumerate() {
            if index == NOMINATED_COUNT_MAX {
                return None;
            }
            if token.eq_ignore_ascii_case(b"close") {
                read.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                read.keep_alive = true;
            } else {
                read.names.push(String::from_utf8_lossy(token).to_ascii_lowercase());
            }
        }
        Some(read)
    }

    /// Returns whether the connection persists after this message (RFC 9112 9.3).
    pub(crate) fn persistence(&self, version: Version) -> Persistence {
        match version {
            _ if self.close => Persistence::Close,
            Version::Http10 if !self.keep_alive => Persistence::Close,
            Version::Http10 | Version::Http11 => Persistence::KeepAlive,
        }
    }

    /// Returns whether the field `name` (lower case) concerns this connection only.
    pub(crate) fn nominates(&self, name: &str) -> bool {
        self.names.iter().any(|nominated| nominated == name)
            || self.close && name == "close"
            || self.keep_alive && name == "keep-alive"
    }
}
