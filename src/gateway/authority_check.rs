//! The authority check: the authorities that the connection's certificate covers.

use crate::message::Authority;
use crate::tls::ServerTls;

/// The certificates that a connection was opened with, and the last authority that passed: a client
/// rarely requests more than one.
pub(super) struct AuthorityCheck {
    tls: ServerTls,
    passed: Option<Box<[u8]>>,
}

impl AuthorityCheck {
    pub(super) fn new(tls: ServerTls) -> Self {
        Self { tls, passed: None }
    }

    /// Returns whether a request for `authority` is misdirected, that is, belongs on another
    /// connection (RFC 9110 7.4, 15.5.20).
    pub(super) fn misdirects(&mut self, server_name: Option<&str>, authority: &Authority) -> bool {
        if self.passed.as_deref() == Some(authority.as_bytes()) {
            return false;
        }
        let misdirected = self.tls.misdirects(server_name, authority.host());
        if !misdirected {
            // A copy, since the authority shares its memory with the whole head that it came in.
            self.passed = Some(authority.as_bytes().into());
        }
        misdirected
    }
}
