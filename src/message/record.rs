//! The record of one exchange, for the access log and the counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::Understood;
use crate::metrics::UpstreamFailure;

/// One line of the access log.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// The client's address.
    pub client: SocketAddr,
    /// The name that the client's TLS handshake asked for.
    pub server_name: Option<Arc<str>>,
    /// Method, authority and path, as far as they were understood.
    pub request: Understood,
    /// Status of the response; `None` when none was given.
    pub status: Option<StatusCode>,
    /// Request body bytes received.
    pub request_len: u64,
    /// Response body bytes given to the client's connection.
    pub response_len: u64,
    /// When the request's head was complete.
    pub start: Instant,
    /// From there to the end.
    pub duration: Duration,
    /// The endpoint that was tried last.
    pub upstream: Option<Arc<str>>,
    /// From the first attempt to reach an endpoint to the end of its response.
    pub upstream_duration: Option<Duration>,
    /// The client's protocol.
    pub protocol: &'static str,
    /// The error type of Proxy-Status (RFC 9209 2.3) where the gateway made the response itself.
    pub error: Option<&'static str>,
    /// The upstream's failure behind that response; `None` where the upstream is not to blame.
    pub upstream_failure: Option<UpstreamFailure>,
    /// The rule that the request or the upstream's response broke.
    pub rule: Option<&'static str>,
    /// How the exchange ended.
    pub outcome: Outcome,
}

impl AccessRecord {
    /// A record of a request of which only the client is known.
    pub fn new(start: Instant, client: SocketAddr) -> Self {
        Self {
            client,
            server_name: None,
            request: Understood::default(),
            status: None,
            request_len: 0,
            response_len: 0,
            start,
            duration: Duration::ZERO,
            upstream: None,
            upstream_duration: None,
            protocol: PROTOCOL,
            error: None,
            upstream_failure: None,
            rule: None,
            outcome: Outcome::Complete,
        }
    }
}

/// The protocol of every request: no other is spoken to clients yet.
const PROTOCOL: &str = "HTTP/3";

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client's connection took the whole response.
    Complete,
    /// The client gave up or went away.
    Aborted,
    /// The response was cut off by the gateway.
    Reset(ResetReason),
}

/// Why a response was cut off. The client must not take what it has for the whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The upstream ended or broke before its response was whole.
    UpstreamIncomplete,
    /// The upstream's bytes break HTTP.
    UpstreamProtocol,
    /// The upstream sent nothing for too long.
    UpstreamTimeout,
    /// The request's body is longer than allowed.
    RequestTooLarge,
    /// The request's body contradicts its content-length.
    RequestMalformed,
    /// The client stopped sending its request's body.
    RequestTimeout,
    /// The client stopped taking the response.
    ResponseStalled,
}

impl ResetReason {
    /// Returns whether the client caused it.
    pub fn is_of_client(self) -> bool {
        match self {
            Self::UpstreamIncomplete | Self::UpstreamProtocol | Self::UpstreamTimeout => false,
            Self::RequestTooLarge
            | Self::RequestMalformed
            | Self::RequestTimeout
            | Self::ResponseStalled => true,
        }
    }
}
