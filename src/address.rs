//! The address of an upstream endpoint.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;

/// The address of a stream socket: TCP or unix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// IP address and port.
    Tcp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
}
