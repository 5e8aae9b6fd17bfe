//! The client of a TCP connection: the state that all of its requests share.

use std::net::SocketAddr;
use std::sync::Arc;

use http::Method;

use super::TcpKey;
use crate::gateway::budget::Waiting;
use crate::gateway::context::TcpSettings;
use crate::gateway::coverage::Coverage;
use crate::gateway::delivery::Deliveries;
use crate::message::{Authority, ClientCertificate, Head, Protocol, Sender};

pub(super) struct Client {
    pub(super) key: TcpKey,
    pub(super) address: SocketAddr,
    /// The settings of its listener, as configured when it was accepted.
    pub(super) settings: Arc<TcpSettings>,
    pub(super) protocol: Protocol,
    /// The TLS handshake is not complete: requests come in early data.
    pub(super) is_early: bool,
    /// The names that the certificate covers; `None` without TLS.
    pub(super) coverage: Option<Coverage>,
    /// The certificate that it has proved to be its own, if it has shown one.
    pub(super) certificate: Option<Arc<ClientCertificate>>,
    /// Bytes of responses that wait for this connection to take them.
    pub(super) waiting: Waiting,
    /// The records of responses that the kernel has not taken whole.
    pub(super) deliveries: Deliveries,
}

impl Client {
    pub(super) fn new(key: TcpKey, address: SocketAddr, settings: Arc<TcpSettings>) -> Self {
        Self {
            key,
            address,
            settings,
            protocol: Protocol::Http11,
            is_early: false,
            coverage: None,
            certificate: None,
            waiting: Waiting::default(),
            deliveries: Deliveries::default(),
        }
    }

    /// Returns the client as the sender of a request.
    pub(super) fn sender(&self) -> Sender {
        let server_name = self.coverage.as_ref().and_then(|coverage| coverage.server_name.clone());
        Sender {
            address: self.address,
            server_name,
            certificate: self.certificate.clone(),
            protocol: self.protocol,
            is_early: self.is_early,
        }
    }

    /// Returns whether a request has to wait until the handshake is complete: anybody could send
    /// early data again, and only a safe method may be carried out twice (RFC 8470 4). A body would
    /// have to be held.
    pub(super) fn defers(&self, head: &Head, ended: bool) -> bool {
        let is_safe = matches!(head.method, Method::GET | Method::HEAD | Method::OPTIONS);
        self.is_early && !(is_safe && ended)
    }

    /// Returns whether a request for `authority` belongs on another connection. Without TLS none
    /// does.
    pub(super) fn misdirects(&mut self, authority: &Authority) -> bool {
        self.coverage.as_mut().is_some_and(|coverage| coverage.misdirects(authority))
    }
}
