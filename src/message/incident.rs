//! Events that are worth a line of the process log.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::{Ending, Understood};
use crate::metrics::{HandshakeFailure, ProxyHeaderFailure};

/// An event for the process log. Whoever sends packets can cause as many as they like, so their
/// lines are limited in number (`src/worker/incidents.rs`).
#[derive(Debug, Clone)]
pub enum Incident {
    /// An endpoint is sent no requests for a while.
    Ejected {
        endpoint: EndpointName,
        /// The end of the request that caused it.
        cause: Ending,
        /// That request; `None` until the exchange that has it is told.
        request: Option<Understood>,
        pause: Duration,
    },
    /// An endpoint that was ejected has served its trial.
    Restored { endpoint: EndpointName },
    /// The gateway closed a client's connection for the client's behaviour.
    Closed { client: SocketAddr, cause: Ending },
    /// A client's connection was closed because it broke a rule of QUIC or TLS, with this code of
    /// RFC 9000 20.1.
    Violation { client: SocketAddr, code: u64, reason: String },
    /// A client's handshake has failed.
    HandshakeFailed { client: SocketAddr, reason: HandshakeFailure },
    /// A proxy's connection was closed, since it does not begin with a whole PROXY header.
    ProxyHeader {
        peer: SocketAddr,
        failure: ProxyHeaderFailure,
        /// The rule that a malformed header broke.
        rule: Option<&'static str>,
    },
    /// HTTP/3 is not offered any more, since nothing arrives at the UDP socket of this address.
    Http3Withheld { address: SocketAddr },
    /// HTTP/3 is offered again.
    Http3Offered { address: SocketAddr },
}

/// An endpoint, as logs and metrics name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointName {
    pub upstream: Arc<str>,
    pub address: Arc<str>,
}
