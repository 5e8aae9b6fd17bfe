//! The HTTP/1.1 codec (RFC 9112), from the client's side: request heads out, responses in. It is
//! sans-IO and without policy: the caller decides which fields to forward.
//!
//! The decoder is strict. Where the standard lets a receiver guess (bare LF, folded lines, two
//! framings at once), another reader of the same bytes may guess differently, and the bytes
//! between the two message ends can then be read as a second message (response smuggling). So an
//! ambiguous response is refused as a whole.
#![forbid(unsafe_code)]

mod chunked;
mod connection_options;
mod field_section;
mod keep_alive;
mod request_head;
mod response_decoder;

#[cfg(test)]
mod tests;

pub(crate) use chunked::{CHUNK_END, last_chunk, size_line};
pub use connection_options::ConnectionOptions;
pub(crate) use request_head::{Framing, put_field, put_framing, put_request_line};
pub use response_decoder::{Part, ResponseDecoder, ResponseHead};

/// The reason for refusing a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The response breaks this rule.
    Malformed(&'static str),
    /// The response's head or trailer section is longer than allowed.
    TooLong,
}

fn broken(rule: &'static str) -> Error {
    Error::Malformed(rule)
}
