//! The chunked transfer coding (RFC 9112 7.1). Payload is never copied: the decoder returns slices
//! of its input, and the encoder puts lines around the payload.

use bytes::{Buf, Bytes, BytesMut};

use super::field_section::Section;
use super::request_head::put_field;
use super::{Error, broken};
use crate::limits::CHUNK_LINE_LEN_MAX;
use crate::message::Fields;

pub(super) const LINE_TOO_LONG: &str =
    "a chunk-size line of the response is longer than 256 bytes, a fixed bound";

/// A part of a chunked body.
#[derive(Debug, PartialEq)]
pub(crate) enum ChunkPart {
    /// Payload, not empty.
    Payload(Bytes),
    /// The last chunk, with the trailer section and its empty line.
    End(Bytes),
}

/// White space after a chunk's size. RFC 9112 7.1.1 allows it before the semicolon of an extension
/// only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SizePadding {
    /// For responses: some servers pad the size, and no reader takes that for anything else.
    Accepted,
    /// For requests, where no client is known to need it.
    Refused,
}

/// The decoder of one chunked body.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    state: State,
    padding: SizePadding,
    /// Length of the current line of framing.
    line_len: usize,
    trailers_len_max: usize,
}

#[derive(Debug)]
enum State {
    /// In the chunk size, after this many digits.
    Size { len: u64, digit_count: u8 },
    /// In the white space after the size.
    Space { len: u64 },
    /// In an extension.
    Extension { len: u64 },
    /// Before the LF of the size line.
    SizeEnd { len: u64 },
    /// In a chunk's payload.
    Payload { remaining: u64 },
    /// Before the CR that follows the payload.
    PayloadCr,
    /// Before the LF that follows the payload.
    PayloadLf,
    /// In the trailer section.
    Trailers(Section),
    /// The end has been returned.
    Done,
}

impl ChunkedDecoder {
    pub(crate) fn new(padding: SizePadding, trailers_len_max: usize) -> Self {
        let state = State::Size { len: 0, digit_count: 0 };
        Self { state, padding, line_len: 0, trailers_len_max }
    }

    /// Returns the number of bytes that are held, those of an incomplete trailer section.
    pub(crate) fn held_len(&self) -> usize {
        match &self.state {
            State::Trailers(section) => section.len(),
            _ => 0,
        }
    }

    /// Returns the next part at the front of `piece`, or `None` when `piece` is used up or the
    /// body is over. `piece` is `Bytes` or `BytesMut`, of which payload is a slice.
    pub(crate) fn decode(&mut self, piece: &mut impl Buf) -> Result<Option<ChunkPart>, Error> {
        loop {
            match &mut self.state {
                State::Done => return Ok(None),
                _ if !piece.has_remaining() => return Ok(None),
                State::Payload { remaining } => {
                    let len =
                        usize::try_from(*remaining).unwrap_or(usize::MAX).min(piece.remaining());
                    *remaining -= len as u64;
                    if *remaining == 0 {
                        self.state = State::PayloadCr;
                    }
                    return Ok(Some(ChunkPart::Payload(piece.copy_to_bytes(len))));
                }
                State::Trailers(section) => {
                    let Some(section) = section.take(piece, self.trailers_len_max)? else {
                        return Ok(None);
                    };
                    self.state = State::Done;
                    return Ok(Some(ChunkPart::End(section)));
                }
                _ => {
                    let byte = piece.get_u8();
                    self.step(byte)?;
                }
            }
        }
    }

    fn step(&mut self, byte: u8) -> Result<(), Error> {
        self.line_len += 1;
        if self.line_len > CHUNK_LINE_LEN_MAX {
            return Err(broken(LINE_TOO_LONG));
        }
        let digit = char::from(byte).to_digit(16);
        self.state = match (&self.state, byte) {
            (&State::Size { len, digit_count }, _) if digit.is_some() => {
                // 16 digits fill a u64 exactly; leading zeros count too, so the line is bounded.
                if digit_count == 16 {
                    return Err(broken("a chunk size does not fit 64 bits"));
                }
                let digit = u64::from(digit.expect("checked by the guard"));
                State::Size { len: len << 4 | digit, digit_count: digit_count + 1 }
            }
            (State::Size { digit_count: 0, .. }, _) => {
                return Err(broken("a chunk size is missing"));
            }
            (&State::Size { len, .. } | &State::Space { len }, b'\r') => State::SizeEnd { len },
            // The bound of the line bounds it.
            (&State::Size { len, .. } | &State::Space { len }, b' ' | b'\t')
                if self.padding == SizePadding::Accepted =>
            {
                State::Space { len }
            }
            (&State::Size { len, .. } | &State::Space { len }, b';') => State::Extension { len },
            (&State::Extension { len }, b'\r') => State::SizeEnd { len },
            (&State::Extension { len }, b'\t' | 0x20..=0x7e | 0x80..) => State::Extension { len },
            (State::SizeEnd { len: 0 }, b'\n') => State::Trailers(Section::default()),
            (&State::SizeEnd { len }, b'\n') => State::Payload { remaining: len },
            (State::PayloadCr, b'\r') => State::PayloadLf,
            (State::PayloadLf, b'\n') => {
                self.line_len = 0;
                State::Size { len: 0, digit_count: 0 }
            }
            (State::PayloadCr | State::PayloadLf, _) => {
                return Err(broken("a chunk is longer than its size says"));
            }
            _ => return Err(broken("a chunk-size line is malformed")),
        };
        if matches!(self.state, State::Payload { .. } | State::Trailers(_)) {
            self.line_len = 0;
        }
        Ok(())
    }
}

/// Returns the size line of a chunk of `len` bytes, not 0.
pub(crate) fn size_line(len: usize) -> Bytes {
    assert!(len > 0, "a chunk of size 0 would end the body");
    Bytes::from(format!("{len:x}\r\n"))
}

/// The line end that follows a chunk's payload.
pub(crate) const CHUNK_END: Bytes = Bytes::from_static(b"\r\n");

/// Returns the last chunk with the trailer section.
pub(crate) fn last_chunk(trailers: Option<&Fields>) -> Bytes {
    let Some(trailers) = trailers else {
        return Bytes::from_static(b"0\r\n\r\n");
    };
    let mut out = BytesMut::from(&b"0\r\n"[..]);
    for (name, value) in trailers {
        put_field(&mut out, name.as_str(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
    out.freeze()
}
