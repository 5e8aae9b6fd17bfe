//! HTTP/1.1 as it is spoken to upstreams (RFC 9112): requests out, answers in.
//!
//! The reading half is strict. Where the standard lets a receiver guess (bare LF, folded lines,
//! two framings at once), another reader of the same bytes may guess differently, and what lies
//! between the two guesses is somebody's second message. So a doubtful response is refused whole.

pub(crate) mod chunked;
pub(crate) mod request;
pub(crate) mod response;
mod section;

use super::errors::Fault;

/// A rule that a response breaks.
pub(crate) fn broken(rule: &'static str) -> Fault {
    Fault::Protocol(rule)
}
