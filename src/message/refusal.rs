//! Requests that are refused before they become one.

use bytes::Bytes;
use http::{HeaderValue, Method, StatusCode};

/// Why a request is answered with an error before it became a request, and what of it can still be
/// told to the operator.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Status of the response: 400, 408 or 431.
    pub status: StatusCode,
    /// The rule that was broken: for the response, the log and a counter.
    pub rule: &'static str,
    /// The part of the head that was understood.
    pub understood: Understood,
}

/// The parts of a request's head that were understood, as a log line shows them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Understood {
    /// The method.
    pub method: Option<Method>,
    /// The authority, as it came.
    pub authority: Option<HeaderValue>,
    /// Path with query, as it came: raw bytes, to be escaped by the writer of the log.
    pub path: Option<Bytes>,
}

impl Refusal {
    /// A refusal of which nothing but the broken rule is known.
    pub fn new(status: StatusCode, rule: &'static str) -> Self {
        Self { status, rule, understood: Understood::default() }
    }
}
