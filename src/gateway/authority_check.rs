//! The authority check: which authorities a connection may name, by its certificate.

use crate::message::Authority;
use crate::tls::ServerTls;

/// The certificates that a connection was made under, and the last authority that passed: a client
/// hardly ever names more than one.
pub(super) struct AuthorityCheck {
    tls: ServerTls,
    passed: Option<Box<[u8]>>,
}

impl AuthorityCheck {
    pub(super) fn new(tls: ServerTls) -> Self {
        Self { tls, passed: None }
    }

    /// Returns whether a request for `authority` is misdirected: it belongs on another connection
    /// (RFC 9110 7.4, 15.5.20).
    pub(super) fn misdirects(&mut self, server_name: Option<&str>, authority: &Authority) -> bool {
        if self.passed.as_deref() == Some(authority.as_bytes()) {
            return false;
        }
        let misdirected = self.tls.misdirects(server_name, authority.host());
        if !misdirected {
            // A copy: the authority shares its memory with the whole head that it came in.
            self.passed = Some(authority.as_bytes().into());
        }
        misdirected
    }
}
