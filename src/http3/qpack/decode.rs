//! The decoder of field sections (RFC 9204 4.5).

use bytes::{Bytes, BytesMut};
use http::HeaderValue;

use super::huffman;
use super::integer;
use super::static_table::{self, Entry};
use crate::message::{Excess, LINE_OVERHEAD_LEN};

/// One field line, its bytes not validated yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line<'a> {
    pub name: Name<'a>,
    pub value: Value,
    /// The N bit (RFC 9204 4.5.4): this value must never enter a dynamic table.
    pub never_indexed: bool,
}

/// A field line's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Name<'a> {
    /// The name of an entry of the static table.
    Static(&'static Entry),
    Literal(&'a [u8]),
}

/// A field line's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// The value of an entry of the static table.
    Static(&'static HeaderValue),
    Literal(Bytes),
}

impl Value {
    /// Returns the bytes of the value, owned.
    pub fn into_bytes(self) -> Bytes {
        match self {
            Self::Static(value) => Bytes::from_static(value.as_bytes()),
            Self::Literal(bytes) => bytes,
        }
    }
}

/// The reason for not reading a section to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionError {
    /// It cannot be decoded: QPACK_DECOMPRESSION_FAILED, with the broken rule.
    Invalid(&'static str),
    /// It exceeds one of our limits.
    TooLarge(Excess),
}

/// Returns the length of the longest encoded section that can be within this limit. Each line
/// counts 32 bytes besides its name and value and has less overhead than that, and an encoder uses
/// the Huffman code only where it is shorter: so an encoded section is not longer than its counted
/// length. The section's own prefix needs two bytes; a little more is allowed.
pub const fn encoded_len_max(field_section_len_max: u32) -> u64 {
    field_section_len_max as u64 + 16
}

/// The reader of a field section, line by line.
///
/// Literal values are copied into one shared buffer, so the section's own bytes can be freed when
/// reading ends. That buffer is allocated once, for the longest decoded form of the section: a
/// caller bounds the section by [`encoded_len_max`] before holding it.
#[derive(Debug)]
pub struct SectionReader<'a> {
    rest: &'a [u8],
    values: BytesMut,
    /// The last name that was in Huffman code.
    name: BytesMut,
    len_left: u64,
}

impl<'a> SectionReader<'a> {
    /// Starts to read `section`, at most `len_max` bytes of it, counted as in RFC 9114 4.2.2. That
    /// bounds the number of lines too.
    pub fn new(section: &'a [u8], len_max: u32) -> Result<Self, SectionError> {
        let mut reader = Self {
            rest: section,
            values: BytesMut::with_capacity(huffman::decoded_len_max(section.len()) + 1),
            name: BytesMut::new(),
            len_left: u64::from(len_max),
        };
        reader.read_prefix()?;
        Ok(reader)
    }

    /// Reads Required Insert Count and Base (RFC 9204 4.5.1).
    fn read_prefix(&mut self) -> Result<(), SectionError> {
        if self.read_integer(8)? != 0 {
            return Err(SectionError::Invalid("a section that requires the dynamic table"));
        }
        let sign = self.peek()? & 0x80;
        self.read_integer(7)?;
        if sign != 0 {
            // RFC 9204 4.5.1.2: with a Required Insert Count of 0 the Base would be negative.
            return Err(SectionError::Invalid("a negative Base"));
        }
        Ok(())
    }

    /// Returns the next line; `None` at the section's end. Not to be called after an error.
    pub fn next_line(&mut self) -> Result<Option<Line<'_>>, SectionError> {
        let Some(&first) = self.rest.first() else {
            return Ok(None);
        };
        self.charge(LINE_OVERHEAD_LEN)?;
        match first {
            // 4.5.2, indexed field line, T = 1.
            0b1100_0000..=0b1111_1111 => {
                let entry = self.read_entry(6)?;
                self.charge(entry.value_text.len() as u64)?;
                let value = Value::Static(&entry.value);
                Ok(Some(Line { name: Name::Static(entry), value, never_indexed: false }))
            }
            // 4.5.4, literal field line with name reference, T = 1.
            0b0101_0000..=0b0101_1111 | 0b0111_0000..=0b0111_1111 => {
                let name = Name::Static(self.read_entry(4)?);
                let value = Value::Literal(self.read_value()?);
                Ok(Some(Line { name, value, never_indexed: first & 0x20 != 0 }))
            }
            // 4.5.6, literal field line with literal name.
            0b0010_0000..=0b0011_1111 => {
                let plain = self.read_name()?;
                let value = Value::Literal(self.read_value()?);
                let name = Name::Literal(plain.unwrap_or(&self.name));
                Ok(Some(Line { name, value, never_indexed: first & 0x10 != 0 }))
            }
            // 4.5.2 and 4.5.4 with T = 0, 4.5.3 and 4.5.5 with a post-Base index.
            0b1000_0000..=0b1011_1111
            | 0b0100_0000..=0b0100_1111
            | 0b0110_0000..=0b0110_1111
            | 0b0000_0000..=0b0001_1111 => {
                Err(SectionError::Invalid("a reference to the dynamic table"))
            }
        }
    }

    fn read_entry(&mut self, prefix_bits: u32) -> Result<&'static Entry, SectionError> {
        let index = self.read_integer(prefix_bits)?;
        let entry = static_table::get(index)
            .ok_or(SectionError::Invalid("an index past the static table"))?;
        self.charge(entry.name_text.len() as u64)?;
        Ok(entry)
    }

    /// Reads a literal name. Returns a slice of the section, or `None` if the name was decoded
    /// into `self.name`.
    fn read_name(&mut self) -> Result<Option<&'a [u8]>, SectionError> {
        let (string, is_huffman) = self.read_string(3)?;
        if !is_huffman {
            self.charge(string.len() as u64)?;
            return Ok(Some(string));
        }
        self.name.clear();
        huffman::decode(string, &mut self.name).map_err(|_| NOT_HUFFMAN)?;
        self.charge(self.name.len() as u64)?;
        Ok(None)
    }

    fn read_value(&mut self) -> Result<Bytes, SectionError> {
        let (string, is_huffman) = self.read_string(7)?;
        if is_huffman {
            huffman::decode(string, &mut self.values).map_err(|_| NOT_HUFFMAN)?;
            self.charge(self.values.len() as u64)?;
        } else {
            self.charge(string.len() as u64)?;
            self.values.extend_from_slice(string);
        }
        Ok(self.values.split().freeze())
    }

    /// Reads a string literal without decoding it (RFC 9204 4.1.2). Returns whether it is in
    /// Huffman code, which is the bit above the prefix.
    fn read_string(&mut self, prefix_bits: u32) -> Result<(&'a [u8], bool), SectionError> {
        let is_huffman = self.peek()? & (1 << prefix_bits) != 0;
        let len = self.read_integer(prefix_bits)?;
        let (string, rest) = usize::try_from(len)
            .ok()
            .and_then(|len| self.rest.split_at_checked(len))
            .ok_or(SectionError::Invalid("a string that passes the end of its section"))?;
        self.rest = rest;
        Ok((string, is_huffman))
    }

    fn read_integer(&mut self, prefix_bits: u32) -> Result<u64, SectionError> {
        let (value, len) = integer::read(self.rest, prefix_bits)
            .ok_or(SectionError::Invalid("an integer that is cut short or over 62 bits"))?;
        self.rest = &self.rest[len..];
        Ok(value)
    }

    fn peek(&self) -> Result<u8, SectionError> {
        self.rest.first().copied().ok_or(SectionError::Invalid("a section that ends inside a line"))
    }

    fn charge(&mut self, len: u64) -> Result<(), SectionError> {
        self.len_left =
            self.len_left.checked_sub(len).ok_or(SectionError::TooLarge(Excess::Length))?;
        Ok(())
    }
}

const NOT_HUFFMAN: SectionError = SectionError::Invalid("a string that is not Huffman code");
