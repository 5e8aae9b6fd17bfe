//! Refusals of requests whose head could not be accepted.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

/// The refusal of a request whose head was not accepted, with the parts of the head that the
/// response and the log need.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Status of the response: 400, 408 or 431.
    pub status: StatusCode,
    /// The broken rule, for the response, the log and a counter.
    pub rule: &'static str,
    /// The parts of the head that were parsed.
    pub understood: Understood,
}

/// The parts of a request's head that were parsed, as a log line shows them. The response depends
/// on the method: one to HEAD has no content (RFC 9110 9.3.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Understood {
    /// The method; `None` if it could not be read, so that it may be HEAD.
    pub method: Option<Method>,
    /// The authority, as received.
    pub authority: Option<HeaderValue>,
    /// Path with query, as received: raw bytes, to be escaped by the writer of the log.
    pub path: Option<Bytes>,
}

impl Refusal {
    /// Creates a refusal of which only the status and the broken rule are known.
    pub fn new(status: StatusCode, rule: &'static str) -> Self {
        Self { status, rule, understood: Understood::default() }
    }
}
