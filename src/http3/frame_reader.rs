//! The reader of a stream's frames, however the stream is split into chunks (RFC 9114 7.1).
//!
//! ```text
//!            header complete: the caller decides how much to keep
//!   Header ---------------------------------------------> Skip     counted, not held
//!     ^  ^                                          \---> Stream   returned piece by piece
//!     |  |                                           \--> Collect  returned when complete
//!     |  |                                            \-> Start    returned as far as it is there
//!     |  +--- the payload's end -----------------------------'
//!     +------ an empty payload
//! ```

use bytes::Bytes;

use super::frame::{FrameHeader, FrameKind, HeaderReader, parse_header};

/// The part of a frame's payload to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    Skip,
    /// Each piece as it is received, as a slice of its chunk.
    Stream,
    /// The whole payload. The caller has bounded its length.
    Collect,
    /// As much of the start of the payload as has come, up to this length; the caller reads nothing
    /// behind it.
    Start(usize),
}

/// A part of a frame that is kept.
#[derive(Debug)]
pub(super) enum Part {
    /// A piece of a streamed payload, not empty.
    Piece(Bytes),
    /// A whole payload, or the start that was asked for, with the kind of its frame.
    Payload(FrameKind, Bytes),
}

/// The reader of one stream's frames.
#[derive(Debug, Default)]
pub(super) struct FrameReader {
    header: HeaderReader,
    at: At,
}

#[derive(Debug, Default)]
enum At {
    /// Between frames, or in a header.
    #[default]
    Header,
    /// In a payload of which this much is to come.
    Skip { left: u64 },
    /// As `Skip`.
    Stream { left: u64 },
    /// `held` is the beginning of a payload that comes in several chunks.
    Collect { kind: FrameKind, left: usize, held: Vec<u8> },
}

impl FrameReader {
    /// Returns the number of bytes that are held of an incomplete payload.
    pub(super) fn held_len(&self) -> usize {
        match &self.at {
            At::Collect { held, .. } => held.capacity(),
            At::Header | At::Skip { .. } | At::Stream { .. } => 0,
        }
    }

    /// Returns whether the stream is between two frames.
    pub(super) fn is_between_frames(&self) -> bool {
        matches!(self.at, At::Header) && !self.header.is_inside()
    }

    /// Takes the next part off the start of `chunk`; `None` when the chunk is used up. `begin`
    /// decides how much to keep of a frame whose header is complete, or refuses it.
    pub(super) fn read<E>(
        &mut self,
        chunk: &mut Bytes,
        mut begin: impl FnMut(FrameHeader) -> Result<Keep, E>,
    ) -> Result<Option<Part>, E> {
        loop {
            match &mut self.at {
                At::Header => {
                    let Some(header) = self.header.read(chunk, parse_header) else {
                        return Ok(None);
                    };
                    let kind = header.kind;
                    match begin(header)? {
                        // An empty payload is complete without another chunk.
                        Keep::Collect if header.len == 0 => {
                            return Ok(Some(Part::Payload(kind, Bytes::new())));
                        }
                        _ if header.len == 0 => {}
                        Keep::Skip => self.at = At::Skip { left: header.len },
                        Keep::Stream => self.at = At::Stream { left: header.len },
                        Keep::Collect => {
                            let left = usize::try_from(header.len);
                            let left = left.expect("the caller bounds what it collects");
                            self.at = At::Collect { kind, left, held: Vec::new() };
                        }
                        Keep::Start(len) => {
                            let start = chunk.split_to(len.min(chunk.len()));
                            return Ok(Some(Part::Payload(kind, start)));
                        }
                    }
                }
                _ if chunk.is_empty() => return Ok(None),
                At::Skip { left } => {
                    drop(split(chunk, left));
                    if *left == 0 {
                        self.at = At::Header;
                    }
                }
                At::Stream { left } => {
                    let piece = split(chunk, left);
                    if *left == 0 {
                        self.at = At::Header;
                    }
                    return Ok(Some(Part::Piece(piece)));
                }
                At::Collect { kind, left, held } => {
                    let piece = chunk.split_to((*left).min(chunk.len()));
                    *left -= piece.len();
                    if *left > 0 {
                        held.extend_from_slice(&piece);
                        return Ok(None);
                    }
                    // A payload received in one piece is not copied.
                    let payload = if held.is_empty() {
                        piece
                    } else {
                        held.extend_from_slice(&piece);
                        std::mem::take(held).into()
                    };
                    let kind = *kind;
                    self.at = At::Header;
                    return Ok(Some(Part::Payload(kind, payload)));
                }
            }
        }
    }
}

/// Takes at most `left` bytes off the start of `chunk`, and off `left`.
fn split(chunk: &mut Bytes, left: &mut u64) -> Bytes {
    let len = (*left).min(chunk.len() as u64);
    *left -= len;
    chunk.split_to(len as usize)
}
