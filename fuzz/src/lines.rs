//! Field lines as bytes, and HTTP/3 frames around them, by an encoder of our own: names and values
//! may hold anything.

/// Between two lines of an input (the ASCII record separator).
const LINE_END: u8 = 0x1e;
/// Between the name and the value of a line (the ASCII unit separator).
const NAME_END: u8 = 0x1f;

pub const DATA: u64 = 0x00;
pub const HEADERS: u64 = 0x01;

/// Returns the names and values in `text`.
pub fn read(text: &[u8]) -> Vec<(&[u8], &[u8])> {
    let lines = text.split(|byte| *byte == LINE_END).filter(|line| !line.is_empty());
    lines
        .map(|line| {
            let end = line.iter().position(|byte| *byte == NAME_END).unwrap_or(line.len());
            (&line[..end], line.get(end + 1..).unwrap_or_default())
        })
        .collect()
}

/// Returns a field section of literals without Huffman code (RFC 9204 4.5.6).
pub fn section(lines: &[(&[u8], &[u8])]) -> Vec<u8> {
    let mut out = vec![0, 0];
    for (name, value) in lines {
        put_integer(&mut out, 0x20, 7, name.len());
        out.extend_from_slice(name);
        put_integer(&mut out, 0, 0x7f, value.len());
        out.extend_from_slice(value);
    }
    out
}

/// Appends a prefixed integer (RFC 9204 4.1.1) whose prefix has the bits of `full`.
fn put_integer(out: &mut Vec<u8>, first: u8, full: u8, value: usize) {
    if value < usize::from(full) {
        return out.push(first | value as u8);
    }
    out.push(first | full);
    let mut rest = value - usize::from(full);
    while rest >= 0x80 {
        out.push(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.push(rest as u8);
}

/// Returns a frame (RFC 9114 7.1). Its payload is shorter than 2^14 bytes.
pub fn frame(frame_type: u64, payload: &[u8]) -> Vec<u8> {
    let mut out = varint(frame_type);
    out.extend(varint(payload.len() as u64));
    out.extend_from_slice(payload);
    out
}

/// Encodes an integer of QUIC (RFC 9000 16) below 2^30.
pub fn varint(value: u64) -> Vec<u8> {
    match value {
        0..0x40 => vec![value as u8],
        0x40..0x4000 => (value as u16 | 1 << 14).to_be_bytes().to_vec(),
        _ => (value as u32 | 2 << 30).to_be_bytes().to_vec(),
    }
}
