//! Prefixed integers (RFC 7541 5.1, RFC 9204 4.1.1): the low `PREFIX` bits of the first byte, and
//! where these are all ones, seven bits in each byte that follows, the low ones first.

use bytes::{BufMut, BytesMut};

/// Reads the integer at the start of `bytes` whose first byte has `prefix_bits` bits for it.
/// Returns it with its length; `None` if it is truncated or needs more than 62 bits.
#[inline]
pub fn read(bytes: &[u8], prefix_bits: u32) -> Option<(u64, usize)> {
    debug_assert!((1..=8).contains(&prefix_bits), "a prefix has 1 to 8 bits");
    let full = (1u64 << prefix_bits) - 1;
    let first = u64::from(*bytes.first()?) & full;
    if first < full {
        return Some((first, 1));
    }
    let mut value = full;
    for (index, &byte) in bytes[1..].iter().enumerate() {
        let shift = 7 * index as u32;
        if shift > 56 {
            return None;
        }
        // At most 2^63 - 2^56 is added to less than 2^63: no overflow before the check.
        value += u64::from(byte & 0x7f) << shift;
        if value > MAX {
            return None;
        }
        if byte & 0x80 == 0 {
            return Some((value, index + 2));
        }
    }
    None
}

/// The largest integer that is read, of 62 bits (RFC 9204 4.1.1).
pub const MAX: u64 = (1 << 62) - 1;

/// Appends `value`, with the bits of `first` above the prefix.
#[inline]
pub fn write(first: u8, prefix_bits: u32, value: u64, out: &mut BytesMut) {
    debug_assert!((1..=8).contains(&prefix_bits), "a prefix has 1 to 8 bits");
    let full = (1u64 << prefix_bits) - 1;
    debug_assert_eq!(u64::from(first) & full, 0, "the prefix's bits are free");
    if value < full {
        out.put_u8(first | value as u8);
        return;
    }
    out.put_u8(first | full as u8);
    let mut rest = value - full;
    while rest >= 0x80 {
        out.put_u8(rest as u8 | 0x80);
        rest >>= 7;
    }
    out.put_u8(rest as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_of_rfc_7541_c_1() {
        for (value, prefix_bits, bytes) in [
            (10, 5, &[0b01010][..]),
            (1337, 5, &[0b11111, 0b1001_1010, 0b0000_1010]),
            (42, 8, &[0b0010_1010]),
        ] {
            assert_eq!(read(bytes, prefix_bits), Some((value, bytes.len())));
            let mut out = BytesMut::new();
            write(0, prefix_bits, value, &mut out);
            assert_eq!(&out[..], bytes);
        }
    }

    #[test]
    fn every_prefix_round_trips_at_its_bounds_and_refuses_truncation() {
        for prefix_bits in 1..=8 {
            let full = (1u64 << prefix_bits) - 1;
            for value in [0, full - 1, full, full + 1, full + 127, full + 128, MAX - 1, MAX] {
                let mut out = BytesMut::new();
                write(0, prefix_bits, value, &mut out);
                assert_eq!(read(&out, prefix_bits), Some((value, out.len())));
                for cut in 0..out.len() {
                    assert_eq!(read(&out[..cut], prefix_bits), None);
                }
            }
        }
    }

    #[test]
    fn more_than_62_bits_are_refused() {
        let mut out = BytesMut::new();
        write(0, 7, MAX + 1, &mut out);
        assert_eq!(read(&out, 7), None);
        // Endless padding with empty continuation bytes.
        assert_eq!(read(&[&[0x7f][..], &[0x80; 64]].concat(), 7), None);
    }
}
