//! The client's side of HTTP/3 as far as load and benchmarks need it (RFC 9114 7): frames out, the
//! status and body length of a response in. Sans-IO: the caller moves the bytes.
//!
//! Suites that judge the gateway's HTTP/3 write their frames themselves and do not use this module.

use bytes::{Bytes, BytesMut};

use crate::base::varint;
use crate::http3::Code;
use crate::http3::qpack::{Name, SectionReader, encode};

const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;

/// The start of a client's control stream: its type, and SETTINGS without entries (RFC 9114 6.2.1,
/// 7.2.4).
pub const CONTROL_PREFACE: [u8; 3] = [0x00, 0x04, 0x00];

/// Appends a HEADERS frame with these field lines, pseudo-header fields first.
pub fn put_headers<'a>(lines: impl IntoIterator<Item = (&'a str, &'a str)>, out: &mut BytesMut) {
    let mut section = BytesMut::new();
    encode::put_prefix(&mut section);
    for (name, value) in lines {
        encode::put_line(name, value.as_bytes(), false, &mut section);
    }
    put_frame_header(HEADERS, section.len() as u64, out);
    out.extend_from_slice(&section);
}

/// Appends the header of a DATA frame whose payload has `len` bytes.
pub fn put_data_header(len: u64, out: &mut BytesMut) {
    put_frame_header(DATA, len, out);
}

fn put_frame_header(frame_type: u64, len: u64, out: &mut BytesMut) {
    varint::write(frame_type, out);
    varint::write(len, out);
}

/// Reads one response: its status and the length of its body. The body itself is not kept.
#[derive(Debug, Default)]
pub struct ResponseReader {
    /// The start of a frame header of which more is to come.
    header: BytesMut,
    /// Type of the frame that is being read, and how much of its payload is still to come.
    frame: Option<(u64, u64)>,
    /// Payload of the HEADERS frame that is being read.
    section: BytesMut,
    status: Option<u16>,
}

impl ResponseReader {
    /// Takes bytes of the stream and returns how many of them belong to the body.
    ///
    /// # Errors
    ///
    /// A sentence that says what is wrong with a field section.
    pub fn handle(&mut self, mut bytes: &[u8]) -> Result<u64, String> {
        let mut body_len = 0;
        while !bytes.is_empty() {
            let Some((frame_type, left)) = &mut self.frame else {
                self.header.extend_from_slice(&bytes[..1]);
                bytes = &bytes[1..];
                self.frame = frame_header(&self.header);
                if self.frame.is_some() {
                    self.header.clear();
                    self.end_frame()?;
                }
                continue;
            };
            let len = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            match *frame_type {
                DATA => body_len += len as u64,
                HEADERS => self.section.extend_from_slice(&bytes[..len]),
                _ => {}
            }
            *left -= len as u64;
            bytes = &bytes[len..];
            self.end_frame()?;
        }
        Ok(body_len)
    }

    /// Returns the status of the final response, once its head has come.
    pub fn status(&self) -> Option<u16> {
        self.status.filter(|status| *status >= 200)
    }

    /// Returns whether the stream may end here: after a final head, and not inside a frame.
    pub fn is_whole(&self) -> bool {
        self.frame.is_none() && self.header.is_empty() && self.status().is_some()
    }

    fn end_frame(&mut self) -> Result<(), String> {
        if let Some((frame_type, 0)) = self.frame {
            self.frame = None;
            let section = std::mem::take(&mut self.section).freeze();
            // After the final head only trailers follow.
            if frame_type == HEADERS && self.status().is_none() {
                self.status = Some(status_of(&section)?);
            }
        }
        Ok(())
    }
}

/// Type and length of a frame (RFC 9114 7.1), once both are there.
fn frame_header(bytes: &[u8]) -> Option<(u64, u64)> {
    let (frame_type, type_len) = varint::read(bytes)?;
    let (len, _) = varint::read(&bytes[type_len..])?;
    Some((frame_type, len))
}

fn status_of(section: &Bytes) -> Result<u16, String> {
    let wrong = || format!("no field section with a status: {section:02x?}");
    let mut reader = SectionReader::new(section, u32::MAX).map_err(|_| wrong())?;
    while let Some(line) = reader.next_line().map_err(|_| wrong())? {
        if name_bytes(&line.name) == b":status" {
            let value = line.value.into_bytes();
            let digits = std::str::from_utf8(&value).map_err(|_| wrong())?;
            return digits.parse().map_err(|_| wrong());
        }
    }
    Err(wrong())
}

/// Returns the bytes of a field line's name.
pub fn name_bytes<'a>(name: &Name<'a>) -> &'a [u8] {
    match name {
        Name::Static(entry) => entry.name_text.as_bytes(),
        Name::Literal(bytes) => bytes,
    }
}

/// Returns the name of an error code in its RFC.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::NoError => "H3_NO_ERROR",
        Code::GeneralProtocolError => "H3_GENERAL_PROTOCOL_ERROR",
        Code::InternalError => "H3_INTERNAL_ERROR",
        Code::StreamCreationError => "H3_STREAM_CREATION_ERROR",
        Code::ClosedCriticalStream => "H3_CLOSED_CRITICAL_STREAM",
        Code::FrameUnexpected => "H3_FRAME_UNEXPECTED",
        Code::FrameError => "H3_FRAME_ERROR",
        Code::ExcessiveLoad => "H3_EXCESSIVE_LOAD",
        Code::IdError => "H3_ID_ERROR",
        Code::SettingsError => "H3_SETTINGS_ERROR",
        Code::MissingSettings => "H3_MISSING_SETTINGS",
        Code::RequestRejected => "H3_REQUEST_REJECTED",
        Code::RequestCancelled => "H3_REQUEST_CANCELLED",
        Code::RequestIncomplete => "H3_REQUEST_INCOMPLETE",
        Code::MessageError => "H3_MESSAGE_ERROR",
        Code::ConnectError => "H3_CONNECT_ERROR",
        Code::VersionFallback => "H3_VERSION_FALLBACK",
        Code::QpackDecompressionFailed => "QPACK_DECOMPRESSION_FAILED",
        Code::QpackEncoderStreamError => "QPACK_ENCODER_STREAM_ERROR",
        Code::QpackDecoderStreamError => "QPACK_DECODER_STREAM_ERROR",
    }
}
#[cfg(test)]
mod tests {
    use super::*;

    /// An interim response, `:status: 200` (RFC 9204 A, index 25), a frame of a reserved type, a
    /// body in two frames and trailers, all by hand.
    const RESPONSE: [u8; 30] = [
        0x01, 0x03, 0x00, 0x00, 0xd8, // 103
        0x01, 0x03, 0x00, 0x00, 0xd9, // 200
        0x21, 0x01, 0xff, // reserved
        0x00, 0x40, 0x02, b'h', b'i', // the length as a varint of two bytes
        0x00, 0x00, // an empty DATA frame
        0x00, 0x01, b'!', // the rest
        0x01, 0x05, 0x00, 0x00, 0x21, b'x', 0x00, // x: (nothing)
    ];

    #[test]
    fn a_response_is_read_however_it_is_cut() {
        for cut in 0..=RESPONSE.len() {
            let mut reader = ResponseReader::default();
            let (first, second) = RESPONSE.split_at(cut);
            let len = reader.handle(first).unwrap() + reader.handle(second).unwrap();
            assert_eq!((len, reader.status()), (3, Some(200)), "cut at {cut}");
            assert!(reader.is_whole());
        }
    }

    #[test]
    fn a_response_is_whole_between_frames_after_its_final_head() {
        let whole = [10, 13, 18, 20, 23, 30];
        for len in 0..=RESPONSE.len() {
            let mut reader = ResponseReader::default();
            reader.handle(&RESPONSE[..len]).unwrap();
            assert_eq!(reader.is_whole(), whole.contains(&len), "after {len} bytes");
        }
    }

    #[test]
    fn a_head_without_a_status_is_refused() {
        let trailers = &RESPONSE[23..];
        assert!(ResponseReader::default().handle(trailers).is_err());
    }
}
