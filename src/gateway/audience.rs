//! Which authorities a connection may speak of: those that its certificate is good for.

use http::HeaderValue;

use crate::proxy::host_of;
use crate::tls::ServerTls;

/// The certificates that a connection was made under, and the last authority that passed: a client
/// hardly ever names more than one.
pub(super) struct Audience {
    tls: Option<ServerTls>,
    passed: Option<HeaderValue>,
}

impl Audience {
    pub(super) fn new(tls: Option<ServerTls>) -> Self {
        Self { tls, passed: None }
    }

    /// Whether a request for `authority` belongs on another connection (RFC 9110 7.4). What is no
    /// authority at all is refused elsewhere.
    pub(super) fn misdirects(
        &mut self,
        server_name: Option<&str>,
        authority: &HeaderValue,
    ) -> bool {
        if self.passed.as_ref() == Some(authority) {
            return false;
        }
        let (Some(tls), Ok(host)) = (&self.tls, host_of(authority.as_bytes())) else {
            return false;
        };
        let misdirected = tls.misdirects(server_name, &host);
        if !misdirected {
            // A copy: the value shares its memory with the whole head that it came in.
            self.passed = HeaderValue::from_bytes(authority.as_bytes()).ok();
        }
        misdirected
    }
}
