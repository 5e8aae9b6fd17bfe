//! HTTP/2 (RFC 9113) with HPACK (RFC 7541), the server's side, sans-IO.
//!
//! Bytes that a client sent go in, requests come out; responses go in, bytes for the client come
//! out. This module depends on neither TLS nor routes nor upstreams: the gateway passes bytes,
//! bodies and codes between them.
//!
//! ```text
//!   bytes of the client                                     bytes for the client
//!        | handle                                                ^ take_output(len_max)
//!        v                                                       |
//!   +---------+   reads   +--------------------------+  writes   +---------+
//!   |  wire   |---------->|  h2::server::Connection  |---------->|  wire   |  as much as the
//!   +---------+           |  frames, HPACK, windows, |           +---------+  transport takes
//!                         |  budgets against floods  |               ^
//!                         +--------------------------+               | DATA: the very Bytes that
//!                           | requests,      ^ heads,                | were written, never copied
//!                           | bodies         | payload --------------+
//!                           v                |
//!                         +--------------------------+
//!                         |  streams, one a request  |<-- wakers: the numbers of the streams at
//!                         +--------------------------+    which something happened
//!                           | fields
//!                           v
//!                     +-----------+
//!                     |  message  |---> Event::Request, ::Refused, ::Malformed
//!                     +-----------+
//! ```
//!
//! The protocol itself is the `h2` crate's. It is polled by hand against buffers in memory, with
//! wakers that note the number of a stream, so that it is a state machine to us
//! ([http2-by-the-h2-crate](../../docs/decisions/http2-by-the-h2-crate.md)).
//!
//! Three decisions shape it:
//!
//! - No more bytes are taken out of `h2` than the transport takes. While a client does not read,
//!   acknowledgements of its SETTINGS and PINGs fill one buffer, and then nothing of it is read.
//! - Windows are credit: they are given back when the proxy has taken the bytes, never before.
//! - A request's head is validated once, by the grammar that HTTP/3 uses too
//!   ([`crate::message`]), into a [`crate::message::Head`].

#![forbid(unsafe_code)]

mod connection;
mod ends;
mod error;
mod head;
mod payload;
mod stream;
#[cfg(test)]
mod tests;
mod wakers;
mod wire;

pub use connection::{Connection, Event};
pub use error::{Closure, Code, ConnectionError};

use crate::message::FieldLimits;

/// The limits that we impose on a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LocalSettings {
    pub fields: FieldLimits,
    /// Requests that a client may have open at once (SETTINGS_MAX_CONCURRENT_STREAMS).
    pub stream_count_max: u32,
    /// Bytes of one request's body that a client may send before they are released.
    pub stream_window: u32,
    /// The same for all bodies of a connection.
    pub connection_window: u32,
}
