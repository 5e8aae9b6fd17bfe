//! The chunked transfer coding (RFC 9112 7.1). Payload is never copied: the decoder returns slices
//! of its input, and the encoder puts lines around the payload.

use bytes::{Buf as _, Bytes, BytesMut};

use super::field_section::{Section, parse_trailers};
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
    /// The last chunk, with the trailer section (may be empty).
    End(Fields),
}

/// The decoder of one chunked body.
#[derive(Debug)]
pub(crate) struct ChunkedDecoder {
    state: State,
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
    pub(crate) fn new(trailers_len_max: usize) -> Self {
        Self { state: State::Size { len: 0, digit_count: 0 }, line_len: 0, trailers_len_max }
    }

    /// Returns the next part at the front of `piece`, or `None` when `piece` is used up or the
    /// body is over.
    pub(crate) fn decode(&mut self, piece: &mut BytesMut) -> Result<Option<ChunkPart>, Error> {
        loop {
            match &mut self.state {
                State::Done => return Ok(None),
                _ if piece.is_empty() => return Ok(None),
                State::Payload { remaining } => {
                    let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(piece.len());
                    *remaining -= len as u64;
                    if *remaining == 0 {
                        self.state = State::PayloadCr;
                    }
                    return Ok(Some(ChunkPart::Payload(piece.split_to(len).freeze())));
                }
                State::Trailers(section) => {
                    let Some(section) = section.take(piece, self.trailers_len_max)? else {
                        return Ok(None);
                    };
                    self.state = State::Done;
                    return Ok(Some(ChunkPart::End(parse_trailers(&section)?)));
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
                    return Err(broken("a chunk size of the response does not fit 64 bits"));
                }
                let digit = u64::from(digit.expect("checked by the guard"));
                State::Size { len: len << 4 | digit, digit_count: digit_count + 1 }
            }
            (State::Size { digit_count: 0, .. }, _) => {
                return Err(broken("a chunk size of the response is missing"));
            }
            (&State::Size { len, .. } | &State::Space { len }, b'\r') => State::SizeEnd { len },
            // RFC 9112 7.1.1 allows white space before the semicolon of an extension only, but some
            // servers pad the size, and no reader takes that for anything else. The bound of the
            // line bounds it.
            (&State::Size { len, .. } | &State::Space { len }, b' ' | b'\t') => {
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
                return Err(broken("a chunk of the response is longer than its size says"));
            }
            _ => return Err(broken("a chunk-size line of the response is malformed")),
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
