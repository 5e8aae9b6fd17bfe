//! Variable-length integers of QUIC (RFC 9000 16): the upper two bits of the first byte encode the
//! length of 1, 2, 4 or 8 bytes.

use bytes::{BufMut, BytesMut};

/// The largest value that can be encoded.
pub(crate) const MAX: u64 = (1 << 62) - 1;

/// Returns the length of an integer whose first byte is `first`.
pub(crate) const fn len_by_first(first: u8) -> usize {
    1 << (first >> 6)
}

/// Returns the integer at the start of `bytes` and its length, or `None` if more bytes are needed.
#[inline]
pub(crate) fn read(bytes: &[u8]) -> Option<(u64, usize)> {
    let first = *bytes.first()?;
    let len = len_by_first(first);
    let rest = bytes.get(1..len)?;
    let value = rest.iter().fold(u64::from(first & 0x3f), |value, &b| value << 8 | u64::from(b));
    Some((value, len))
}

/// Appends `value` in its shortest form.
///
/// # Panics
///
/// If `value` is greater than [`MAX`].
pub(crate) fn write(value: u64, out: &mut BytesMut) {
    match value {
        0..=0x3f => out.put_u8(value as u8),
        0x40..=0x3fff => out.put_u16(value as u16 | 0x4000),
        0x4000..=0x3fff_ffff => out.put_u32(value as u32 | 0x8000_0000),
        _ => {
            assert!(value <= MAX, "{value} does not fit a varint");
            out.put_u64(value | 0xc000_0000_0000_0000);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 9000 A.1, and the bounds of each length.
    const VECTORS: &[(u64, &[u8])] = &[
        (151_288_809_941_952_652, &[0xc2, 0x19, 0x7c, 0x5e, 0xff, 0x14, 0xe8, 0x8c]),
        (494_878_333, &[0x9d, 0x7f, 0x3e, 0x7d]),
        (15_293, &[0x7b, 0xbd]),
        (37, &[0x25]),
        (0, &[0x00]),
        (63, &[0x3f]),
        (64, &[0x40, 0x40]),
        (16_383, &[0x7f, 0xff]),
        (16_384, &[0x80, 0x00, 0x40, 0x00]),
        (1_073_741_823, &[0xbf, 0xff, 0xff, 0xff]),
        (1_073_741_824, &[0xc0, 0, 0, 0, 0x40, 0, 0, 0]),
        (MAX, &[0xff; 8]),
    ];

    #[test]
    fn vectors_are_read_and_written() {
        for &(value, bytes) in VECTORS {
            assert_eq!(read(bytes), Some((value, bytes.len())));
            let mut out = BytesMut::new();
            write(value, &mut out);
            assert_eq!(&out[..], bytes);
            for cut in 0..bytes.len() {
                assert_eq!(read(&bytes[..cut]), None, "{value} cut at {cut}");
            }
        }
        // RFC 9000 A.1: the two-byte form of a one-byte value is read too.
        assert_eq!(read(&[0x40, 0x25]), Some((37, 2)));
    }
}
