//! The part of HTTP/3 that a client needs: writes request frames, reads response frames (RFC 9114
//! 7).

use bytes::{Buf as _, Bytes, BytesMut};
use ringway::testing::http3::name_bytes;
use ringway::testing::internal::http3::qpack;

use crate::plan::{Ask, Behaviour, Malformed, Side, body};

/// An incremental reader of a response's frames.
#[derive(Default)]
pub struct Response {
    buffer: BytesMut,
    data_left: u64,
    status: Option<u16>,
    trailers: bool,
    pub interim_count: usize,
    pub body: Vec<u8>,
}

impl Response {
    pub fn handle(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        loop {
            let data_len = self.buffer.len().min(self.data_left as usize);
            self.body.extend_from_slice(&self.buffer[..data_len]);
            self.buffer.advance(data_len);
            self.data_left -= data_len as u64;
            if self.data_left > 0 {
                return;
            }
            let mut rest = &self.buffer[..];
            let (Some(kind), Some(len)) = (varint(&mut rest), varint(&mut rest)) else { return };
            let header_len = self.buffer.len() - rest.len();
            match kind {
                0x00 => {
                    assert!(self.status.is_some() && !self.trailers, "DATA out of place");
                    self.buffer.advance(header_len);
                    self.data_left = len;
                }
                0x01 if rest.len() as u64 >= len => {
                    self.buffer.advance(header_len);
                    let block = self.buffer.split_to(len as usize).freeze();
                    self.take_head(&block);
                }
                0x01 => return,
                _ => panic!("unexpected frame type {kind:#x} on a response"),
            }
        }
    }

    /// Status of the final response head, once it was received.
    pub fn status(&self) -> Option<u16> {
        self.status
    }

    fn take_head(&mut self, block: &Bytes) {
        match (status_of(block), self.status) {
            (Some(status @ 100..200), None) => {
                assert!(
                    [100, 103].contains(&status),
                    "an interim response that the origin did not send"
                );
                self.interim_count += 1;
            }
            (Some(status), None) => self.status = Some(status),
            (Some(status), Some(first)) => panic!("two final responses: {first}, then {status}"),
            (None, None) => panic!("a response without :status"),
            (None, Some(_)) => {
                assert!(!self.trailers, "trailers twice");
                self.trailers = true;
            }
        }
    }

    /// Handles the end of the stream. Returns the status and whether there were trailers.
    pub fn finish(&mut self) -> (u16, bool) {
        assert!(self.buffer.is_empty() && self.data_left == 0, "the response ended inside a frame");
        (self.status.expect("a response has a head"), self.trailers)
    }
}

fn status_of(block: &Bytes) -> Option<u16> {
    let mut reader = qpack::SectionReader::new(block, u32::MAX).expect("a field section");
    let mut status = None;
    while let Some(line) = reader.next_line().expect("a field line") {
        if name_bytes(&line.name) == b":status" {
            let value = line.value.into_bytes();
            let digits = std::str::from_utf8(&value).expect("digits");
            status = Some(digits.parse().expect("a status"));
        }
    }
    status
}

/// Returns all bytes that a request sends on its stream.
pub fn encode_request(ask: &Ask) -> Bytes {
    let mut out = BytesMut::new();
    let malformed = match ask.behaviour {
        Behaviour::Malformed(how) => Some(how),
        _ => None,
    };
    if malformed == Some(Malformed::DataFirst) {
        put_frame_header(&mut out, 0x00, 3);
        out.extend_from_slice(b"abc");
    }
    let declared = ask.declared.map(|len| len.to_string());
    let path = ask.path();
    let pseudo = [(":method", ask.method), (":scheme", "https"), (":authority", "localhost")];
    let mut lines = pseudo.to_vec();
    lines.push((":path", &path));
    lines.extend(declared.as_deref().map(|len| ("content-length", len)));
    if malformed == Some(Malformed::UpperCase) {
        lines.push(("X-Upper", "1"));
    }
    put_section(&mut out, &lines);
    // RFC 9114 7.2.8: a frame of a reserved type is ignored.
    put_frame_header(&mut out, 0x21, 5);
    out.extend_from_slice(b"greas");
    for piece in body(ask.id, Side::Request, ask.body_len).chunks(3_000) {
        put_frame_header(&mut out, 0x00, piece.len());
        out.extend_from_slice(piece);
    }
    if ask.trailers {
        put_section(&mut out, &[("x-sum", "1")]);
    }
    out.freeze()
}

fn put_section(out: &mut BytesMut, lines: &[(&str, &str)]) {
    let mut block = BytesMut::new();
    qpack::encode::put_prefix(&mut block);
    for (name, value) in lines {
        qpack::encode::put_line(name, value.as_bytes(), false, &mut block);
    }
    put_frame_header(out, 0x01, block.len());
    out.extend_from_slice(&block);
}

/// Encodes type and length as QUIC variable-length integers (RFC 9000 16); lengths are below
/// 16,384.
fn put_frame_header(out: &mut BytesMut, kind: u8, len: usize) {
    assert!(len < 16_384 && kind < 64);
    out.extend_from_slice(&[kind]);
    out.extend_from_slice(&(0x4000 | len as u16).to_be_bytes());
}

fn varint(input: &mut &[u8]) -> Option<u64> {
    let first = *input.first()?;
    let len = 1 << (first >> 6);
    let bytes = input.get(..len)?;
    let mut value = u64::from(first & 0x3f);
    for byte in &bytes[1..] {
        value = value << 8 | u64::from(*byte);
    }
    *input = &input[len..];
    Some(value)
}
