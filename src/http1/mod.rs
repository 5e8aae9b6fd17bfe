//! The HTTP/1.1 codec (RFC 9112), as a client speaks it to an upstream: request heads out,
//! responses in. Sans-IO and without policy: which fields pass on is for the caller to decide.
//!
//! The decoder is strict. Where the standard lets a receiver guess (bare LF, folded lines, two
//! framings at once), another reader of the same bytes may guess differently, and the bytes
//! between the two guesses become somebody's second message. So a doubtful response is refused
//! whole.
#![forbid(unsafe_code)]

mod chunked;
mod connection_options;
mod field_section;
mod request_head;
mod response_decoder;

#[cfg(test)]
mod tests;

pub(crate) use chunked::{CHUNK_END, last_chunk, size_line};
pub(crate) use connection_options::ConnectionOptions;
pub(crate) use request_head::{Framing, put_field, put_framing, put_request_line};
pub(crate) use response_decoder::{Part, ResponseDecoder};

/// Why a response is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Error {
    /// It breaks this rule.
    Malformed(&'static str),
    /// Its head, or its trailer section, is longer than allowed.
    TooLong,
}

fn broken(rule: &'static str) -> Error {
    Error::Malformed(rule)
}
