//! The encoder of responses: frames for request streams (RFC 9114 4.1, 7.2.1, 7.2.2).

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};

use super::qpack::encode;
use crate::base::varint;
use crate::message::is_connection_specific;

type Field = (HeaderName, HeaderValue);

/// Appends the HEADERS frame of a response, interim (1xx) or final. The caller has removed
/// connection-specific fields (RFC 9114 4.2).
pub fn encode_response_head(status: StatusCode, fields: &[Field], out: &mut BytesMut) {
    put_headers_frame(out, |out| {
        encode::put_status(status, out);
        put_fields(fields, out);
    });
}

/// Appends the HEADERS frame of trailers.
pub fn encode_trailers(fields: &[Field], out: &mut BytesMut) {
    put_headers_frame(out, |out| put_fields(fields, out));
}

/// Appends the header of a DATA frame whose `len` bytes of payload follow.
pub fn encode_data_header(len: u64, out: &mut BytesMut) {
    out.put_u8(FRAME_DATA);
    varint::write(len, out);
}

const FRAME_DATA: u8 = 0x00;
const FRAME_HEADERS: u8 = 0x01;

fn put_fields(fields: &[Field], out: &mut BytesMut) {
    for (name, value) in fields {
        debug_assert!(
            !is_connection_specific(name),
            "{name} is connection-specific and was to be removed"
        );
        encode::put_field(name, value, out);
    }
}

/// Writes the payload after room for a two-byte length, and makes room for four bytes if the
/// section is longer than 16,383 bytes. RFC 9000 16 allows a length to be encoded in more bytes
/// than it needs.
fn put_headers_frame(out: &mut BytesMut, put_lines: impl FnOnce(&mut BytesMut)) {
    out.put_u8(FRAME_HEADERS);
    let at = out.len();
    out.put_u16(0);
    encode::put_prefix(out);
    put_lines(out);
    let len = out.len() - at - 2;
    if len < 1 << 14 {
        out[at..at + 2].copy_from_slice(&(len as u16 | 0x4000).to_be_bytes());
        return;
    }
    assert!(len < 1 << 30, "a field section of {len} bytes");
    out.put_u16(0);
    out.copy_within(at + 2..at + 2 + len, at + 4);
    out[at..at + 4].copy_from_slice(&(len as u32 | 0x8000_0000).to_be_bytes());
}
