//! The encoder of field sections (RFC 9204 4.5), with the static table and the Huffman code only.

use bytes::{BufMut, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};

use super::huffman;
use super::integer;
use super::static_table;

/// Appends the prefix of a section that refers to no dynamic table: Required Insert Count 0,
/// Base 0.
pub fn put_prefix(out: &mut BytesMut) {
    out.put_u16(0);
}

pub fn put_status(status: StatusCode, out: &mut BytesMut) {
    let text = status.as_str().as_bytes();
    match static_table::find_value(FIRST_STATUS, text) {
        Some(index) => put_indexed(index, out),
        None => put_with_name_of(FIRST_STATUS, text, false, out),
    }
}

/// Appends a field. A value marked sensitive is written as a literal that is never indexed.
pub fn put_field(name: &HeaderName, value: &HeaderValue, out: &mut BytesMut) {
    put_line(name.as_str(), value.as_bytes(), value.is_sensitive(), out);
}

/// Appends a field line, which may be a pseudo-header field.
pub fn put_line(name: &str, value: &[u8], never_indexed: bool, out: &mut BytesMut) {
    let Some(first) = static_table::find_name(name) else {
        let first_byte = 0b0010_0000 | u8::from(never_indexed) << 4;
        put_string(first_byte, 3, name.as_bytes(), out);
        put_string(0, 7, value, out);
        return;
    };
    match static_table::find_value(first, value) {
        Some(index) if !never_indexed => put_indexed(index, out),
        _ => put_with_name_of(first, value, never_indexed, out),
    }
}

/// The first entry named `:status`.
const FIRST_STATUS: u8 = 24;

fn put_indexed(index: u8, out: &mut BytesMut) {
    integer::write(0b1100_0000, 6, u64::from(index), out);
}

fn put_with_name_of(index: u8, value: &[u8], never_indexed: bool, out: &mut BytesMut) {
    let first_byte = 0b0101_0000 | u8::from(never_indexed) << 5;
    integer::write(first_byte, 4, u64::from(index), out);
    put_string(0, 7, value, out);
}

/// Appends a string literal in the shorter of its two forms; the bit above the prefix marks Huffman
/// code.
fn put_string(first_byte: u8, prefix_bits: u32, string: &[u8], out: &mut BytesMut) {
    let huffman_len = huffman::encoded_len(string);
    if huffman_len < string.len() {
        integer::write(first_byte | 1 << prefix_bits, prefix_bits, huffman_len as u64, out);
        huffman::encode(string, out);
    } else {
        integer::write(first_byte, prefix_bits, string.len() as u64, out);
        out.extend_from_slice(string);
    }
}
