//! The sender of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{ClientCertificate, Protocol};

/// The client that a request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub address: SocketAddr,
    /// The server name (SNI) of its TLS handshake.
    pub server_name: Option<Arc<str>>,
    /// The certificate that it has proved to be its own, if it has shown one.
    pub certificate: Option<Arc<ClientCertificate>>,
    pub protocol: Protocol,
    /// Its TLS handshake was not complete: the request may be a copy of an earlier one (RFC 8470).
    pub is_early: bool,
}
