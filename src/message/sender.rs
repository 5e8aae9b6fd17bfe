//! The sender of a request.

use std::net::SocketAddr;
use std::sync::Arc;

use super::Protocol;

/// The client that a request came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    pub address: SocketAddr,
    /// The server name (SNI) of its TLS handshake.
    pub server_name: Option<Arc<str>>,
    pub protocol: Protocol,
}
