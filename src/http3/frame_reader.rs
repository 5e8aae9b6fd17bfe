//! The reader of a stream's frames, however the stream is split into chunks (RFC 9114 7.1).
//!
//! ```text
//!            header complete: the caller decides how much to keep
//!   Header ---------------------------------------------> Skip     counted, not held
//!     ^  ^                                          \---> Stream   returned piece by piece
//!     |  |                                           \--> Collect  returned when complete
//!     |  +--- the payload's end -----------------------------'
//!     +------ an empty payload
//! ```

use bytes::Bytes;

use super::frame::{FrameHeader, FrameHeaderReader};

/// The part of a frame's payload to keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep<K> {
    Skip,
    /// Each piece as it is received, as a slice of its chunk.
    Stream,
    /// The whole payload, returned with this tag. The caller has bounded its length.
    Collect(K),
}

/// A part of a frame that is kept.
#[derive(Debug)]
pub(super) enum Part<K> {
    /// A piece of a streamed payload, not empty.
    Piece(Bytes),
    Payload(K, Bytes),
}

/// The reader of one stream's frames.
#[derive(Debug)]
pub(super) struct FrameReader<K> {
    header: FrameHeaderReader,
    at: At<K>,
}

#[derive(Debug)]
enum At<K> {
    Header,
    Skip {
        left: u64,
    },
    Stream {
        left: u64,
    },
    /// `held` is the beginning of a payload that comes in several chunks.
    Collect {
        name: K,
        left: usize,
        held: Vec<u8>,
    },
}

impl<K: Copy> FrameReader<K> {
    pub(super) fn new() -> Self {
        Self { header: FrameHeaderReader::default(), at: At::Header }
    }

    /// Returns whether the stream is between two frames.
    pub(super) fn is_between_frames(&self) -> bool {
        matches!(self.at, At::Header) && !self.header.is_inside()
    }

    /// Takes the next part off the start of `chunk`; `None` when the chunk is used up. `begin`
    /// decides how much to keep of a frame whose header is complete.
    ///
    /// # Errors
    ///
    /// Returns the errors of `begin`.
    pub(super) fn read<E>(
        &mut self,
        chunk: &mut Bytes,
        mut begin: impl FnMut(FrameHeader) -> Result<Keep<K>, E>,
    ) -> Result<Option<Part<K>>, E> {
        loop {
            match &mut self.at {
                At::Header => {
                    let Some(header) = self.header.read(chunk) else { return Ok(None) };
                    match begin(header)? {
                        // An empty payload is complete without another chunk.
                        Keep::Collect(name) if header.len == 0 => {
                            return Ok(Some(Part::Payload(name, Bytes::new())));
                        }
                        _ if header.len == 0 => {}
                        Keep::Skip => self.at = At::Skip { left: header.len },
                        Keep::Stream => self.at = At::Stream { left: header.len },
                        Keep::Collect(name) => {
                            let left = usize::try_from(header.len);
                            let left = left.expect("the caller bounds what it collects");
                            self.at = At::Collect { name, left, held: Vec::new() };
                        }
                    }
                }
                _ if chunk.is_empty() => return Ok(None),
                At::Skip { left } => {
                    let piece = split(chunk, left);
                    drop(piece);
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
                At::Collect { name, left, held } => {
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
                    let name = *name;
                    self.at = At::Header;
                    return Ok(Some(Part::Payload(name, payload)));
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
