//! Senders of requests for tests.

use std::net::SocketAddr;

use crate::message::{Protocol, Sender};

/// Returns a client at this address that has sent no server name.
pub fn sender(address: SocketAddr) -> Sender {
    Sender {
        address,
        server_name: None,
        certificate: None,
        protocol: Protocol::Http3,
        is_early: false,
    }
}
