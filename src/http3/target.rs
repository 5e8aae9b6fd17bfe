//! Where a request is meant to go: `:scheme`, `:authority` and `:path`, judged once.
//!
//! What passes here is forwarded byte for byte, and routes are chosen on the same bytes. Nothing
//! is decoded, folded or repaired.

use std::fmt;
use std::net::Ipv6Addr;
use std::ops::Deref;

use bytes::Bytes;

/// Text of visible ASCII characters in a shared buffer.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AsciiText(Bytes);

impl AsciiText {
    /// `bytes` as text; gives them back where one is no visible ASCII character (0x21 to 0x7e).
    pub fn from_bytes(bytes: Bytes) -> Result<Self, Bytes> {
        if bytes.iter().all(u8::is_ascii_graphic) { Ok(Self(bytes)) } else { Err(bytes) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("every byte was ASCII when it was made")
    }

    /// The bytes of the text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text's buffer.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Deref for AsciiText {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl fmt::Debug for AsciiText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

impl fmt::Display for AsciiText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self)
    }
}

/// `:scheme` of a request. Others than these two are refused: a gateway has nowhere to send them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// `https`
    Https,
    /// `http`: a client may send it over HTTP/3 for an authority that allows it.
    Http,
}

impl Scheme {
    /// The scheme that `bytes` name, in any case (RFC 3986 3.1).
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        if bytes.eq_ignore_ascii_case(b"https") {
            Some(Self::Https)
        } else if bytes.eq_ignore_ascii_case(b"http") {
            Some(Self::Http)
        } else {
            None
        }
    }

    /// The scheme in its normal form.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// Judges a path with its query (RFC 9114 4.3.1), not empty. `*` is the caller's to allow.
pub(super) fn path(bytes: Bytes) -> Result<AsciiText, &'static str> {
    if bytes.first() != Some(&b'/') {
        return Err(":path does not start with '/'");
    }
    // RFC 3986 3.5: the fragment is not part of a request.
    if bytes.contains(&b'#') {
        return Err(":path with a fragment");
    }
    AsciiText::from_bytes(bytes).map_err(|_| ":path with a character that a URI cannot hold")
}

/// An authority that was judged, and whether it names a port.
pub(super) struct Authority {
    pub(super) text: AsciiText,
    pub(super) has_port: bool,
}

/// Judges an authority, not empty: a name, an IPv4 address or an IPv6 address in brackets, and
/// perhaps a port (RFC 3986 3.2, narrower: names are of letters, digits, `-`, `.`, `_` and `~`,
/// and a colon is followed by a port).
pub(super) fn authority(bytes: Bytes) -> Result<Authority, &'static str> {
    // RFC 9110 4.2.4: to be treated as an error.
    if bytes.contains(&b'@') {
        return Err("an authority with user information");
    }
    let text = AsciiText::from_bytes(bytes)
        .map_err(|_| "an authority with a character that a URI cannot hold")?;
    let (host_len, port) = match text.strip_prefix('[') {
        Some(inner) => {
            let (address, after) =
                inner.split_once(']').ok_or("an authority with an unclosed '['")?;
            if address.parse::<Ipv6Addr>().is_err() {
                return Err("an authority with a bad IPv6 address");
            }
            let port = match after.strip_prefix(':') {
                None if after.is_empty() => None,
                None => return Err("an authority with text behind ']'"),
                Some(port) => Some(port),
            };
            (address.len(), port)
        }
        None => {
            let (host, port) = match text.split_once(':') {
                None => (text.as_str(), None),
                Some((host, port)) => (host, Some(port)),
            };
            let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
            if !host.bytes().all(is_name_byte) {
                return Err("an authority with a character that no host name holds");
            }
            (host.len(), port)
        }
    };
    if host_len == 0 {
        return Err("an authority without a host");
    }
    if port.is_some_and(|port| !is_port(port)) {
        return Err("an authority with a bad port");
    }
    let has_port = port.is_some();
    Ok(Authority { text, has_port })
}

/// Digits only (`parse` alone would take a sign), 1 to 65535.
fn is_port(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}
