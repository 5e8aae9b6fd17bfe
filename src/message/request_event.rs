//! The parts of a request, in the order in which a codec returns them.

use bytes::Bytes;

use super::{Fields, Head};

/// A part of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestEvent {
    /// The head, first and once.
    Head(Head),
    /// A piece of the body, never empty: a slice of a received chunk.
    Body(Bytes),
    /// The trailers, last and at most once.
    Trailers(Fields),
}
