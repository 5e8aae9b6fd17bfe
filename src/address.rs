//! The address of an upstream endpoint, or several of a name.
#![forbid(unsafe_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

/// The address of a stream socket: TCP or unix.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// IP address and port.
    Tcp(SocketAddr),
    /// The path of a unix stream socket.
    Unix(PathBuf),
    /// A name with addresses of both families.
    Named(NamedAddresses),
}

/// The addresses of a name, one of which is enough: its program may listen on one family only.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NamedAddresses {
    /// The name and its port, for logs.
    pub label: Arc<str>,
    /// At least one. The first is tried first, until another has proved to work.
    pub addresses: Arc<[SocketAddr]>,
}
