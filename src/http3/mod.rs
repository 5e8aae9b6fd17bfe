//! HTTP/3 (RFC 9114) with QPACK (RFC 9204), the server's side, sans-IO.
//!
//! Bytes of QUIC streams go in, requests come out; responses go in, bytes for QUIC streams come
//! out. This module depends on neither QUIC nor routes nor upstreams: the gateway passes bytes and
//! codes between them.
//!
//! ```text
//!   unidirectional streams                       client's bidirectional streams
//!            |                                                |
//!            v                                                v
//!      +------------+                                 +---------------+
//!      | Connection |  control, encoder, decoder      | RequestStream |  one per request
//!      +------------+  stream; SETTINGS, GOAWAY       +---------------+
//!            |                                          | frames       | DATA payload: slices of
//!            v                                          v              v what came in, never
//!     ConnectionError                             +---------+     RequestEvent::Body     copied
//!                                                 |  qpack  |
//!                                                 +---------+
//!                                                   | field lines
//!                                                   v
//!                                                 +---------+
//!                                                 | message |---> RequestEvent::Head, ::Trailers
//!                                                 +---------+
//! ```
//!
//! Three decisions shape it:
//!
//! - The dynamic table is off (capacity 0 is advertised). So no stream ever waits for another, no
//!   peer makes the gateway hold table entries, and each field section is self-contained.
//! - A request's head is validated once, here, into a [`crate::message::Head`] that names one
//!   authority, one path and at most one content length.
//! - Whatever a peer sends, memory is bounded before it is used: an unknown frame of 2^62 bytes is
//!   counted, not held, and a field section is refused by the length that its frame declares.
//!
//! Request streams and the peer's control stream read their frames with the same reader.

#![forbid(unsafe_code)]

mod connection;
mod error;
mod frame;
mod frame_reader;
mod message;
pub mod qpack;
mod request;
mod response;
mod settings;

pub use connection::{Connection, UniVerdict};
pub use error::{Code, ConnectionError, RequestError};
pub use request::RequestStream;
pub use response::{encode_data_header, encode_response_head, encode_trailers};

pub use crate::message::{FieldLimits as LocalSettings, RequestEvent};
