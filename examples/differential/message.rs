//! A request as the client sends it, and its bytes (RFC 9114 7).
//!
//! Nothing here uses the gateway's code: what is judged does not judge itself. Names and values may
//! hold any bytes.

use bytes::{BufMut as _, BytesMut};
use qpack::HeaderField;
use rand::Rng as _;
use rand::rngs::SmallRng;

/// Field lines in order.
pub type Lines = Vec<(Vec<u8>, Vec<u8>)>;

const DATA: u64 = 0x00;
const HEADERS: u64 = 0x01;
/// A reserved frame type, which is skipped (RFC 9114 7.2.8).
const RESERVED: u64 = 0x1f * 3 + 0x21;

/// A request.
#[derive(Debug, Clone, Default)]
pub struct Message {
    /// Pseudo-header fields.
    pub pseudo: Lines,
    pub fields: Lines,
    pub body: Vec<u8>,
    pub trailers: Option<Lines>,
}

impl Message {
    /// Returns the value of a pseudo-header field, or nothing if it is missing.
    pub fn pseudo(&self, name: &str) -> &[u8] {
        let line = self.pseudo.iter().find(|(key, _)| key == name.as_bytes());
        line.map_or(b"", |(_, value)| value)
    }

    pub fn set_pseudo(&mut self, name: &str, value: impl Into<Vec<u8>>) {
        let line = self.pseudo.iter_mut().find(|(key, _)| key == name.as_bytes());
        line.expect("every drawn request has it").1 = value.into();
    }

    /// Returns the first value of a field.
    pub fn field(&self, name: &str) -> Option<&[u8]> {
        let line = self.fields.iter().find(|(key, _)| key == name.as_bytes());
        line.map(|(_, value)| value.as_slice())
    }

    pub fn remove_field(&mut self, name: &str) {
        self.fields.retain(|(key, _)| key != name.as_bytes());
    }

    /// Returns the authority that the request names, from `:authority` or `host`.
    pub fn authority(&self) -> &[u8] {
        let authority = self.pseudo(":authority");
        if authority.is_empty() { self.field("host").unwrap_or_default() } else { authority }
    }

    /// Returns the frames of the request stream. The dice decide what means the same either way:
    /// how fields are encoded, where the body is divided, and reserved frames in between.
    pub fn encode(&self, dice: &mut SmallRng) -> Vec<Vec<u8>> {
        let head: Lines = self.pseudo.iter().chain(&self.fields).cloned().collect();
        let mut frames = vec![frame(HEADERS, &section(&head, dice))];
        let mut rest = self.body.as_slice();
        let piece_len_max = [1 + rest.len() / 40, 1 + rest.len() / 4, 1 << 20];
        let piece_len_max = piece_len_max[dice.random_range(0..3)];
        while !rest.is_empty() {
            let len = dice.random_range(0..=rest.len().min(piece_len_max));
            let (piece, left) = rest.split_at(len);
            frames.push(frame(DATA, piece));
            rest = left;
        }
        if let Some(trailers) = &self.trailers {
            frames.push(frame(HEADERS, &section(trailers, dice)));
        }
        if dice.random_bool(0.03) {
            let len = dice.random_range(0..100);
            let reserved = frame(RESERVED, &vec![0xaa; len]);
            frames.insert(dice.random_range(0..=frames.len()), reserved);
        }
        frames
    }
}

fn frame(kind: u64, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::with_capacity(payload.len() + 8);
    put_varint(kind, &mut frame);
    put_varint(payload.len() as u64, &mut frame);
    frame.extend_from_slice(payload);
    frame
}

/// Writes an integer of QUIC (RFC 9000 16).
fn put_varint(value: u64, out: &mut Vec<u8>) {
    match value {
        0..0x40 => out.put_u8(value as u8),
        0x40..0x4000 => out.put_u16(value as u16 | 0x4000),
        _ => out.put_u32(value as u32 | 0x8000_0000),
    }
}

/// Encodes a field section: as literals, or with the static table and Huffman code by another
/// implementation.
fn section(lines: &Lines, dice: &mut SmallRng) -> Vec<u8> {
    let mut out = vec![0, 0];
    if dice.random() {
        let fields =
            lines.iter().map(|(name, value)| HeaderField::new(name.clone(), value.clone()));
        let mut block = BytesMut::new();
        if qpack::encode_stateless(&mut block, fields).is_ok() {
            return block.to_vec();
        }
    }
    for (name, value) in lines {
        put_prefixed(0x20, 3, name.len(), &mut out);
        out.extend_from_slice(name);
        put_prefixed(0, 7, value.len(), &mut out);
        out.extend_from_slice(value);
    }
    out
}

/// Writes a prefixed integer (RFC 9204 4.1.1).
fn put_prefixed(first: u8, bits: u32, value: usize, out: &mut Vec<u8>) {
    let limit = (1 << bits) - 1;
    if value < limit {
        return out.push(first | value as u8);
    }
    out.push(first | limit as u8);
    let mut rest = value - limit;
    while rest >= 128 {
        out.push(rest as u8 | 128);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// The response on one stream.
#[derive(Debug, Default)]
pub struct Response {
    pub status: u16,
    /// The value of `x-parsed`.
    pub parsed: Option<String>,
    pub body: Vec<u8>,
}

impl Response {
    /// Reads the bytes of a stream that ended cleanly.
    pub fn read(mut bytes: &[u8]) -> Result<Self, String> {
        let mut response = Self::default();
        while !bytes.is_empty() {
            let kind = take_varint(&mut bytes).ok_or("the response ends inside a frame")?;
            let len = take_varint(&mut bytes).ok_or("the response ends inside a frame")? as usize;
            let payload = bytes.get(..len).ok_or("the response ends inside a frame")?;
            bytes = &bytes[len..];
            match kind {
                DATA => response.body.extend_from_slice(payload),
                HEADERS => response.read_section(payload)?,
                _ => {}
            }
        }
        if response.status < 200 {
            return Err("the stream ends before a final response".to_owned());
        }
        Ok(response)
    }

    fn read_section(&mut self, mut section: &[u8]) -> Result<(), String> {
        let decoded = qpack::decode_stateless(&mut section, u64::MAX);
        for field in decoded.map_err(|error| format!("a bad field section: {error}"))?.fields {
            let (name, value) = field.into_inner();
            let value = String::from_utf8_lossy(&value).into_owned();
            match &name[..] {
                b":status" => self.status = value.parse().map_err(|_| "a bad status")?,
                b"x-parsed" => self.parsed = Some(value),
                _ => {}
            }
        }
        Ok(())
    }
}

fn take_varint(bytes: &mut &[u8]) -> Option<u64> {
    let first = *bytes.first()?;
    let len = 1usize << (first >> 6);
    let (encoded, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    let start = u64::from(first & 0x3f);
    Some(encoded[1..].iter().fold(start, |value, byte| value << 8 | u64::from(*byte)))
}
