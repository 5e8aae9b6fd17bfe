//! QPACK (RFC 9204) without the dynamic table.
//!
//! Both ends agree on a dynamic table of capacity 0, so a field section is a list of self-contained
//! field lines: an index into the [static table](static_table), or a name (by index or literal)
//! with a literal value, each literal either plain or in the [Huffman code](huffman) of RFC 7541.
//! [`SectionReader`] decodes such a section; the `put_*` functions of [`encode`] write one.

pub mod encode;
pub mod huffman;
pub mod integer;
pub mod static_table;

mod decode;

pub use decode::{Line, Name, SectionError, SectionReader, Value, encoded_len_max};

pub use crate::message::Excess;
