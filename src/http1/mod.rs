//! The HTTP/1.1 codec (RFC 9112): requests in and responses out toward clients, request heads out
//! and responses in toward upstreams. It is sans-IO and without policy: the caller decides which
//! fields to forward.
//!
//! ```text
//!            clients                                          upstreams
//!    bytes |         ^ pieces                             pieces ^         | bytes
//!          v         |                                           |         v
//!  +----------------+ +-----------------+     +----------------------+ +-----------------+
//!  | RequestDecoder | | ResponseEncoder |     | put_request_line, .. | | ResponseDecoder |
//!  +----------------+ +-----------------+     +----------------------+ +-----------------+
//!          |         ^                                           ^         |
//!          v         |                                           |         v
//!    RequestEvent, message::Head                                Part, ResponseHead
//! ```
//!
//! Both decoders are strict. Where the standard lets a receiver guess (bare LF, folded lines, two
//! framings at once), another reader of the same bytes may guess differently, and the bytes
//! between the two message ends can then be read as a second message (smuggling). So an ambiguous
//! message is refused as a whole, and nothing that follows it on its connection is read.
#![forbid(unsafe_code)]

mod chunked;
mod connection_options;
mod field_section;
mod keep_alive;
mod request_decoder;
mod request_head;
mod request_lines;
mod response_decoder;
mod response_encoder;

#[cfg(test)]
mod tests;

pub(crate) use chunked::{CHUNK_END, last_chunk, size_line};
pub use connection_options::ConnectionOptions;
pub use request_decoder::RequestDecoder;
pub(crate) use request_head::{Framing, put_field, put_framing, put_request_line};
pub use response_decoder::{Part, ResponseDecoder, ResponseHead};
pub use response_encoder::ResponseEncoder;

/// The version of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    Http10,
    Http11,
}

/// The fate of a connection after a message (RFC 9112 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Persistence {
    KeepAlive,
    Close,
}

/// The reason for refusing a response, or a section or a chunk of any message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Error {
    /// The message breaks this rule.
    Malformed(&'static str),
    /// The head or trailer section is longer than allowed.
    TooLong,
}

fn broken(rule: &'static str) -> Error {
    Error::Malformed(rule)
}
