//! The Huffman code for strings (RFC 7541 5.2 and Appendix B).
//!
//! The code is canonical: codes of one length are consecutive, in the order of their symbols, and
//! shorter ones come first. So the lengths define the whole code, and every table here is computed
//! from them at compile time.

use bytes::{BufMut, BytesMut};

/// Bits of each symbol's code; symbol 256 is EOS, whose beginning pads the last byte.
#[rustfmt::skip]
const CODE_LEN: [u8; SYMBOLS] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

const SYMBOLS: usize = 257;
const EOS: u16 = 256;
const CODE_LEN_MIN: usize = 5;
const CODE_LEN_MAX: usize = 30;

/// Symbols in the order of their codes.
const ORDER: [u16; SYMBOLS] = order();

/// Code of each byte: its bits, right-aligned, and their number.
static CODES: [(u32, u8); 256] = codes();

/// By code length: the first code of the next length, left-aligned to 32 bits. A window of 32
/// bits below it starts with a code of this length or a shorter one.
const LIMIT: [u64; CODE_LEN_MAX + 1] = limits();

/// By code length: index in [`ORDER`] of its first symbol, and that symbol's code.
const FIRST: [(u16, u32); CODE_LEN_MAX + 1] = firsts();

/// Bits that one lookup in [`SHORT`] resolves: one or two common characters, in a table of 8 KiB.
const SHORT_BITS: u32 = 11;

/// By the next [`SHORT_BITS`] bits: the one or two bytes whose codes they start with.
static SHORT: [Short; 1 << SHORT_BITS] = short();

/// The one or two codes that a window starts with. Digits and lower-case letters have codes of 5
/// to 7 bits, so most windows hold two.
#[derive(Clone, Copy)]
struct Short {
    bytes: [u8; 2],
    /// Bits of the first code; 0 where it is longer than the window.
    first_bits: u8,
    /// Bits of both codes, or of the first where the second does not fit.
    bits: u8,
}

/// The error for an invalid Huffman string: it contains EOS, or its padding is too long or not all
/// ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Invalid;

/// Returns the most bytes that a Huffman string of `len` bytes can decode to.
pub const fn decoded_len_max(len: usize) -> usize {
    len * 8 / CODE_LEN_MIN
}

/// Appends `input` decoded. After an error `out` is unchanged.
pub fn decode(input: &[u8], out: &mut BytesMut) -> Result<(), Invalid> {
    let start = out.len();
    // One byte more, since two bytes are written even where only one counts.
    out.resize(start + decoded_len_max(input.len()) + 1, 0);
    let len = decode_into(input, End::Padding, &mut out[start..]);
    out.truncate(start + len.unwrap_or_default());
    len.map(drop).ok_or(Invalid)
}

/// Appends what the start of a longer string decodes to: the symbols that it holds as a whole.
/// After an error `out` is unchanged.
pub fn decode_start(input: &[u8], out: &mut BytesMut) -> Result<(), Invalid> {
    let start = out.len();
    out.resize(start + decoded_len_max(input.len()) + 1, 0);
    let len = decode_into(input, End::Cut, &mut out[start..]);
    out.truncate(start + len.unwrap_or_default());
    len.map(drop).ok_or(Invalid)
}

/// The bits behind the last whole symbol of an input.
#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    /// They are padding, which is checked.
    Padding,
    /// They may be the start of a symbol.
    Cut,
}

/// Decodes into `out`, which is long enough, and returns the length.
fn decode_into(mut input: &[u8], end: End, out: &mut [u8]) -> Option<usize> {
    let mut len = 0;
    // The next bits, left-aligned and followed by zeros, and their number.
    let mut window = 0u64;
    let mut bits = 0u32;
    loop {
        if bits < 32 {
            if let Some((word, rest)) = input.split_first_chunk::<4>() {
                window |= u64::from(u32::from_be_bytes(*word)) << (32 - bits);
                bits += 32;
                input = rest;
            } else {
                for &byte in std::mem::take(&mut input) {
                    window |= u64::from(byte) << (56 - bits);
                    bits += 8;
                }
            }
        }
        let short = SHORT[(window >> (64 - SHORT_BITS)) as usize];
        if short.bits != 0 && u32::from(short.bits) <= bits {
            out[len..len + 2].copy_from_slice(&short.bytes);
            len += 1 + usize::from(short.bits != short.first_bits);
            window <<= short.bits;
            bits -= u32::from(short.bits);
            continue;
        }
        let (symbol, code_bits) = match short.first_bits {
            0 => long_code((window >> 32) as u32),
            code_bits => (u16::from(short.bytes[0]), u32::from(code_bits)),
        };
        if code_bits > bits {
            // The input is used up, as the longest code has less than 32 bits. RFC 7541 5.2: less
            // than a byte is left, and it is the beginning of EOS.
            let is_padding = bits < 8 && window == !(u64::MAX >> bits);
            return (is_padding || end == End::Cut).then_some(len);
        }
        out[len] = byte(symbol)?;
        len += 1;
        window <<= code_bits;
        bits -= code_bits;
    }
}

/// Returns the byte that `symbol` stands for; EOS stands for none (RFC 7541 5.2).
fn byte(symbol: u16) -> Option<u8> {
    u8::try_from(symbol).ok()
}

/// Returns the symbol whose code is longer than [`SHORT_BITS`] and starts `window`.
fn long_code(window: u32) -> (u16, u32) {
    let mut code_len = SHORT_BITS as usize + 1;
    while u64::from(window) >= LIMIT[code_len] {
        code_len += 1;
    }
    let (index, first) = FIRST[code_len];
    let code = window >> (32 - code_len);
    (ORDER[usize::from(index) + (code - first) as usize], code_len as u32)
}

pub fn encoded_len(input: &[u8]) -> usize {
    let bits: usize = input.iter().map(|&byte| usize::from(CODES[usize::from(byte)].1)).sum();
    bits.div_ceil(8)
}

pub fn encode(input: &[u8], out: &mut BytesMut) {
    // At most 31 bits are pending, right-aligned, and a code adds at most 30.
    let mut window = 0u64;
    let mut bits = 0u32;
    for &byte in input {
        let (code, code_bits) = CODES[usize::from(byte)];
        window = window << code_bits | u64::from(code);
        bits += u32::from(code_bits);
        if bits >= 32 {
            bits -= 32;
            out.put_u32((window >> bits) as u32);
        }
    }
    while bits >= 8 {
        bits -= 8;
        out.put_u8((window >> bits) as u8);
    }
    if bits > 0 {
        out.put_u8((window << (8 - bits)) as u8 | (0xff >> bits));
    }
}

const fn order() -> [u16; SYMBOLS] {
    let mut order = [0; SYMBOLS];
    let mut count = 0;
    let mut code_len = CODE_LEN_MIN;
    while code_len <= CODE_LEN_MAX {
        let mut symbol = 0;
        while symbol < SYMBOLS {
            if CODE_LEN[symbol] as usize == code_len {
                order[count] = symbol as u16;
                count += 1;
            }
            symbol += 1;
        }
        code_len += 1;
    }
    assert!(count == SYMBOLS, "every symbol has a code of a known length");
    order
}

const fn firsts() -> [(u16, u32); CODE_LEN_MAX + 1] {
    let mut firsts = [(0, 0); CODE_LEN_MAX + 1];
    let mut code = 0u32;
    let mut index = 0;
    let mut code_len = 1;
    while code_len <= CODE_LEN_MAX {
        code <<= 1;
        firsts[code_len] = (index as u16, code);
        while index < SYMBOLS && CODE_LEN[ORDER[index] as usize] as usize == code_len {
            code += 1;
            index += 1;
        }
        code_len += 1;
    }
    // The last code is all ones: the code is complete, every bit string starts with a symbol.
    assert!(code == 1 << CODE_LEN_MAX, "the code is complete");
    firsts
}

const fn limits() -> [u64; CODE_LEN_MAX + 1] {
    let mut limits = [0; CODE_LEN_MAX + 1];
    let mut code_len = 1;
    while code_len < CODE_LEN_MAX {
        limits[code_len] = (FIRST[code_len + 1].1 as u64) << (31 - code_len);
        code_len += 1;
    }
    limits[CODE_LEN_MAX] = 1 << 32;
    limits
}

const fn codes() -> [(u32, u8); 256] {
    let mut codes = [(0, 0); 256];
    let mut index = 0;
    while index < SYMBOLS {
        let symbol = ORDER[index];
        if symbol != EOS {
            let code_len = CODE_LEN[symbol as usize];
            let (first_index, first) = FIRST[code_len as usize];
            codes[symbol as usize] = (first + (index as u32 - first_index as u32), code_len);
        }
        index += 1;
    }
    codes
}

const fn short() -> [Short; 1 << SHORT_BITS] {
    let mut table = [Short { bytes: [0; 2], first_bits: 0, bits: 0 }; 1 << SHORT_BITS];
    let mut entry = 0;
    while entry < table.len() {
        if let Some((first, first_bits)) = code_at(entry as u32, SHORT_BITS) {
            let mut short = Short { bytes: [first, 0], first_bits, bits: first_bits };
            let left = SHORT_BITS - first_bits as u32;
            if let Some((second, second_bits)) = code_at(entry as u32 & ((1 << left) - 1), left) {
                short.bytes[1] = second;
                short.bits += second_bits;
            }
            table[entry] = short;
        }
        entry += 1;
    }
    table
}

/// Returns the byte whose code starts `window`, of `bits` bits, and that code's bits; `None` if the
/// code is longer.
const fn code_at(window: u32, bits: u32) -> Option<(u8, u8)> {
    let mut code_len = CODE_LEN_MIN;
    while code_len <= bits as usize {
        let code = window >> (bits as usize - code_len);
        let (index, first) = FIRST[code_len];
        let next_index = FIRST[code_len + 1].0;
        if code >= first && code - first < (next_index - index) as u32 {
            return Some((ORDER[index as usize + (code - first) as usize] as u8, code_len as u8));
        }
        code_len += 1;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(|b| !b.is_ascii_whitespace()).collect();
        digits
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn decoded(input: &[u8]) -> Result<Vec<u8>, Invalid> {
        let mut out = BytesMut::from(&b"before"[..]);
        decode(input, &mut out)?;
        assert_eq!(&out[..6], b"before");
        Ok(out[6..].to_vec())
    }

    #[test]
    fn strings_of_rfc_7541_c_4_and_c_6() {
        for (plain, encoded) in [
            ("www.example.com", "f1e3 c2e5 f23a 6ba0 ab90 f4ff"),
            ("no-cache", "a8eb 1064 9cbf"),
            ("custom-key", "25a8 49e9 5ba9 7d7f"),
            ("custom-value", "25a8 49e9 5bb8 e8b4 bf"),
            ("302", "6402"),
            ("private", "aec3 771a 4b"),
            (
                "Mon, 21 Oct 2013 20:13:21 GMT",
                "d07a be94 1054 d444 a820 0595 040b 8166 e082 a62d 1bff",
            ),
            ("https://www.example.com", "9d29 ad17 1863 c78f 0b97 c8e9 ae82 ae43 d3"),
            ("307", "640e ff"),
            ("gzip", "9bd9 ab"),
            (
                "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
                "94e7 821d d7f2 e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 \
                 3160 65c0 03ed 4ee5 b106 3d50 07",
            ),
        ] {
            let mut out = BytesMut::new();
            encode(plain.as_bytes(), &mut out);
            assert_eq!(out[..], hex(encoded)[..], "{plain}");
            assert_eq!(encoded_len(plain.as_bytes()), out.len());
            assert_eq!(decoded(&out).unwrap(), plain.as_bytes());
        }
    }

    #[test]
    fn every_pair_of_bytes_round_trips() {
        for first in 0..=255u8 {
            for second in 0..=255u8 {
                let plain = [first, second, b'a'];
                let mut out = BytesMut::new();
                encode(&plain, &mut out);
                assert_eq!(out.len(), encoded_len(&plain));
                assert_eq!(decoded(&out).unwrap(), plain);
            }
        }
    }

    #[test]
    fn padding_is_less_than_a_byte_of_ones_and_eos_is_refused() {
        // '0' is 00000: three bits of padding, any zero among them is wrong (RFC 7541 5.2).
        assert_eq!(decoded(&[0b0000_0111]).unwrap(), b"0");
        for wrong in [0b0000_0000, 0b0000_0011, 0b0000_0101, 0b0000_0110] {
            assert_eq!(decoded(&[wrong]), Err(Invalid), "{wrong:08b}");
        }
        // A whole byte of padding, and EOS itself.
        assert_eq!(decoded(&[0b0000_0111, 0xff]), Err(Invalid));
        assert_eq!(decoded(&[0xff]), Err(Invalid));
        assert_eq!(decoded(&[0xff; 4]), Err(Invalid));
        assert_eq!(decoded(&[0xff; 40]), Err(Invalid));
        assert_eq!(decoded(&[]).unwrap(), b"");
    }
}
