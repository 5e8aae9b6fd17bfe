//! The hosts that a connection's certificate covers.

use std::sync::Arc;

use crate::message::Authority;
use crate::tls::ServerTls;

/// The certificates that a connection was opened with, and what they cover.
pub(super) struct Coverage {
    /// The server name (SNI) that the client has sent.
    pub(super) server_name: Option<Arc<str>>,
    tls: ServerTls,
    /// The last authority that is covered: a client rarely requests more than one.
    covered: Option<Box<[u8]>>,
}

impl Coverage {
    pub(super) fn new(server_name: Option<String>, tls: ServerTls) -> Self {
        Self { server_name: server_name.map(Arc::from), tls, covered: None }
    }

    /// Returns whether a request for `authority` is misdirected, that is, belongs on another
    /// connection (RFC 9110 7.4, 15.5.20).
    pub(super) fn misdirects(&mut self, authority: &Authority) -> bool {
        if self.covered.as_deref() == Some(authority.as_bytes()) {
            return false;
        }
        let misdirected = self.tls.misdirects(self.server_name.as_deref(), authority.host());
        if !misdirected {
            // A copy, since the authority shares its memory with the whole head that it came in.
            self.covered = Some(authority.as_bytes().into());
        }
        misdirected
    }
}
