//! The static table (RFC 9204 Appendix A), by index for reading and by name for writing.

use http::{HeaderName, HeaderValue};

use crate::message::Pseudo;

pub const LEN: usize = 99;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryName {
    Pseudo(Pseudo),
    Field(HeaderName),
}

/// An entry of the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    pub name: EntryName,
    pub name_text: &'static str,
    /// The value, empty for an entry with only a name.
    pub value: HeaderValue,
    pub value_text: &'static str,
}

/// Returns the entry with this index.
pub fn get(index: u64) -> Option<&'static Entry> {
    usize::try_from(index).ok().and_then(|index| TABLE.get(index))
}

/// Returns the index of the first entry named `name`, for literals with a name reference.
#[inline]
pub fn find_name(name: &str) -> Option<u8> {
    let index = BY_NAME[slot_of(name.as_bytes(), SEED)];
    (index != NONE && TEXTS[usize::from(index)].0 == name).then_some(index)
}

/// Returns the index of the entry that has the name of entry `first` (the first of that name) and
/// this value.
#[inline]
pub fn find_value(first: u8, value: &[u8]) -> Option<u8> {
    let mut index = first;
    loop {
        if TEXTS[usize::from(index)].1.as_bytes() == value {
            return Some(index);
        }
        index = NEXT[usize::from(index)];
        if index == NONE {
            return None;
        }
    }
}

const NONE: u8 = u8::MAX;

/// By index: the next entry of the same name.
static NEXT: [u8; LEN] = next_of_same_name();

/// A perfect hash of the names: by slot, the index of the first entry of a name.
static BY_NAME: [u8; SLOTS] = match by_name(SEED) {
    Some(slots) => slots,
    None => panic!("the seed was found to keep all names apart"),
};
const SLOTS: usize = 512;
const SEED: u32 = find_seed();

/// Hashes four bytes and the length, which distinguish the names of the table.
#[inline]
const fn slot_of(name: &[u8], seed: u32) -> usize {
    let len = name.len();
    if len == 0 {
        return 0;
    }
    let picked = u32::from_le_bytes([name[0], name[len / 2], name[len - 1], name[len * 3 / 4]]);
    let mixed = (picked ^ (len as u32).wrapping_mul(0x9e37_79b1)).wrapping_mul(seed | 1);
    (mixed >> (32 - SLOTS.trailing_zeros())) as usize
}

const fn find_seed() -> u32 {
    let mut seed = 0x85eb_ca6b_u32;
    while by_name(seed).is_none() {
        seed = seed.wrapping_mul(0x0019_660d).wrapping_add(0x3c6e_f35f);
    }
    seed
}

/// Builds the hash table; `None` if two names fall into one slot.
const fn by_name(seed: u32) -> Option<[u8; SLOTS]> {
    let mut slots = [NONE; SLOTS];
    let mut index = 0;
    while index < LEN {
        let name = TEXTS[index].0;
        let slot = slot_of(name.as_bytes(), seed);
        if slots[slot] == NONE {
            slots[slot] = index as u8;
        } else if !is_same(TEXTS[slots[slot] as usize].0, name) {
            return None;
        }
        index += 1;
    }
    Some(slots)
}

const fn next_of_same_name() -> [u8; LEN] {
    let mut next = [NONE; LEN];
    let mut index = 0;
    while index < LEN {
        let mut later = index + 1;
        while later < LEN && !is_same(TEXTS[index].0, TEXTS[later].0) {
            later += 1;
        }
        if later < LEN {
            next[index] = later as u8;
        }
        index += 1;
    }
    next
}

const fn is_same(left: &str, right: &str) -> bool {
    let (left, right) = (left.as_bytes(), right.as_bytes());
    if left.len() != right.len() {
        return false;
    }
    let mut index = 0;
    while index < left.len() {
        if left[index] != right[index] {
            return false;
        }
        index += 1;
    }
    true
}

const fn entry(name_text: &'static str, value_text: &'static str) -> Entry {
    let name = match Pseudo::from_name(name_text.as_bytes()) {
        Some(pseudo) => EntryName::Pseudo(pseudo),
        None => EntryName::Field(HeaderName::from_static(name_text)),
    };
    Entry { name, name_text, value: HeaderValue::from_static(value_text), value_text }
}

macro_rules! table {
    ($($name:literal, $value:literal;)*) => {
        /// Names and values alone, for lookups while compiling and while encoding.
        const TEXTS: [(&str, &str); LEN] = [$(($name, $value)),*];

        static TABLE: [Entry; LEN] = [$(entry($name, $value)),*];
    };
}

table! {
    ":authority", "";
    ":path", "/";
    "age", "0";
    "content-disposition", "";
    "content-length", "0";
    "cookie", "";
    "date", "";
    "etag", "";
    "if-modified-since", "";
    "if-none-match", "";
    "last-modified", "";
    "link", "";
    "location", "";
    "referer", "";
    "set-cookie", "";
    ":method", "CONNECT";
    ":method", "DELETE";
    ":method", "GET";
    ":method", "HEAD";
    ":method", "OPTIONS";
    ":method", "POST";
    ":method", "PUT";
    ":scheme", "http";
    ":scheme", "https";
    ":status", "103";
    ":status", "200";
    ":status", "304";
    ":status", "404";
    ":status", "503";
    "accept", "*/*";
    "accept", "application/dns-message";
    "accept-encoding", "gzip, deflate, br";
    "accept-ranges", "bytes";
    "access-control-allow-headers", "cache-control";
    "access-control-allow-headers", "content-type";
    "access-control-allow-origin", "*";
    "cache-control", "max-age=0";
    "cache-control", "max-age=2592000";
    "cache-control", "max-age=604800";
    "cache-control", "no-cache";
    "cache-control", "no-store";
    "cache-control", "public, max-age=31536000";
    "content-encoding", "br";
    "content-encoding", "gzip";
    "content-type", "application/dns-message";
    "content-type", "application/javascript";
    "content-type", "application/json";
    "content-type", "application/x-www-form-urlencoded";
    "content-type", "image/gif";
    "content-type", "image/jpeg";
    "content-type", "image/png";
    "content-type", "text/css";
    "content-type", "text/html; charset=utf-8";
    "content-type", "text/plain";
    "content-type", "text/plain;charset=utf-8";
    "range", "bytes=0-";
    "strict-transport-security", "max-age=31536000";
    "strict-transport-security", "max-age=31536000; includesubdomains";
    "strict-transport-security", "max-age=31536000; includesubdomains; preload";
    "vary", "accept-encoding";
    "vary", "origin";
    "x-content-type-options", "nosniff";
    "x-xss-protection", "1; mode=block";
    ":status", "100";
    ":status", "204";
    ":status", "206";
    ":status", "302";
    ":status", "400";
    ":status", "403";
    ":status", "421";
    ":status", "425";
    ":status", "500";
    "accept-language", "";
    "access-control-allow-credentials", "FALSE";
    "access-control-allow-credentials", "TRUE";
    "access-control-allow-headers", "*";
    "access-control-allow-methods", "get";
    "access-control-allow-methods", "get, post, options";
    "access-control-allow-methods", "options";
    "access-control-expose-headers", "content-length";
    "access-control-request-headers", "content-type";
    "access-control-request-method", "get";
    "access-control-request-method", "post";
    "alt-svc", "clear";
    "authorization", "";
    "content-security-policy", "script-src 'none'; object-src 'none'; base-uri 'none'";
    "early-data", "1";
    "expect-ct", "";
    "forwarded", "";
    "if-range", "";
    "origin", "";
    "purpose", "prefetch";
    "server", "";
    "timing-allow-origin", "*";
    "upgrade-insecure-requests", "1";
    "user-agent", "";
    "x-forwarded-for", "";
    "x-frame-options", "deny";
    "x-frame-options", "sameorigin";
}
