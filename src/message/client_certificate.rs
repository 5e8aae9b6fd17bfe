//! The certificate that a client has proved to be its own.

use super::{Fields, LoggedText};

/// A client's certificate, verified in its handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The distinguished name of its subject (RFC 4514).
    pub subject: LoggedText,
    /// The fields that tell upstreams about it.
    pub fields: Fields,
}
