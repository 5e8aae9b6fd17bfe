//! The record of one exchange, for the access log and the counters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{LoggedText, Understood};
use crate::metrics::UpstreamFailure;

/// One line of the access log.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    pub client: SocketAddr,
    /// The server name (SNI) of the client's TLS handshake.
    pub server_name: Option<Arc<str>>,
    /// Method, authority and path, as far as they were parsed.
    pub request: Understood,
    /// Status of the response; `None` when there was none.
    pub status: Option<StatusCode>,
    /// Request body bytes received.
    pub request_len: u64,
    /// Response body bytes passed to the client's connection.
    pub response_len: u64,
    /// The time at which the request's head was complete.
    pub start: Instant,
    /// Time from `start` to the end of the exchange.
    pub duration: Duration,
    /// The endpoint that was tried last.
    pub upstream: Option<Arc<str>>,
    /// Time from the first attempt to reach an endpoint to the end of its response.
    pub upstream_duration: Option<Duration>,
    /// The client's protocol.
    pub protocol: &'static str,
    /// The error type of Proxy-Status (RFC 9209 2.3), if the gateway generated the response.
    pub error: Option<&'static str>,
    /// The upstream's failure behind that response; `None` where the upstream is not to blame.
    pub upstream_failure: Option<UpstreamFailure>,
    /// The rule that the request or the upstream's response broke.
    pub rule: Option<&'static str>,
    /// The start of the name of the field that broke it, where one field of a response did.
    pub field: Option<LoggedText>,
    /// The end of the exchange.
    pub outcome: Outcome,
}

impl AccessRecord {
    /// Creates a record of a request of which only the client is known.
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
            // Clients have no other protocol yet.
            protocol: "HTTP/3",
            error: None,
            upstream_failure: None,
            rule: None,
            field: None,
            outcome: Outcome::Complete,
        }
    }
}

/// The end of an exchange.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The client's connection took the whole response.
    Complete,
    /// The client gave up or went away.
    Aborted,
    /// The gateway reset the response before it was complete.
    Reset(ResetReason),
}

/// The reason for resetting an incomplete response, so that the client does not take it for a
/// complete one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetReason {
    /// The upstream closed or broke the connection before its response was complete.
    UpstreamIncomplete,
    /// The upstream's response violates HTTP.
    UpstreamProtocol,
    /// The upstream sent nothing for too long.
    UpstreamTimeout,
    /// The exchange took longer than its route allows.
    Deadline,
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
            Self::UpstreamIncomplete
            | Self::UpstreamProtocol
            | Self::UpstreamTimeout
            | Self::Deadline => false,
            Self::RequestTooLarge
            | Self::RequestMalformed
            | Self::RequestTimeout
            | Self::ResponseStalled => true,
        }
    }
}
