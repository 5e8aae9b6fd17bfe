//! Request targets: scheme, authority and path, each validated once, when it is parsed.
//!
//! Accepted bytes are routed on and forwarded exactly as received: nothing is decoded, folded or
//! repaired. A path that some upstream could read as another one is refused, because the route
//! would then be chosen for a path other than the one that is served.

use std::fmt;
use std::net::Ipv6Addr;

use bytes::Bytes;
use http::HeaderValue;

/// A rule that a value breaks, worded for a response and a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BrokenRule(pub &'static str);

/// A request target (RFC 9110 7.1), with the scheme that the client named.
#[derive(Debug, Clone, PartialEq)]
pub enum Target {
    /// A resource of an origin.
    Origin { scheme: Scheme, authority: Authority, path: Path },
    /// The server as a whole, for OPTIONS only (`*`).
    Asterisk { scheme: Scheme, authority: Authority },
    /// A tunnel to the authority, for CONNECT only (RFC 9110 9.3.6).
    Connect { authority: Authority },
}

impl Target {
    /// Parses the target of every method but CONNECT. Refuses a `path` that is not a path, or is
    /// `*` without `for_options`.
    pub fn parse(
        scheme: Scheme,
        authority: Authority,
        path: Bytes,
        for_options: bool,
    ) -> Result<Self, BrokenRule> {
        if &path[..] != b"*" {
            return Ok(Self::Origin { scheme, authority, path: Path::parse(path)? });
        }
        if !for_options {
            return Err(BrokenRule("the path * is for OPTIONS only"));
        }
        Ok(Self::Asterisk { scheme, authority })
    }
}

/// The scheme of a request. All others are refused: the gateway has no upstream for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Scheme {
    Https,
    /// `http`: a client may send it over HTTP/3 for an authority that allows it.
    Http,
}

impl Scheme {
    /// Parses a scheme, in any case (RFC 3986 3.1).
    pub fn parse(bytes: &[u8]) -> Result<Self, BrokenRule> {
        if bytes.eq_ignore_ascii_case(b"https") {
            Ok(Self::Https)
        } else if bytes.eq_ignore_ascii_case(b"http") {
            Ok(Self::Http)
        } else {
            Err(BrokenRule("the scheme is neither https nor http"))
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Https => "https",
            Self::Http => "http",
        }
    }
}

/// Path and query of a request. It starts with `/`, holds visible ASCII without `#`, and has no
/// segment that any upstream could read as a dot segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Path(Bytes);

impl Path {
    /// Parses a path with its query. Refuses one that is not forwarded.
    pub fn parse(bytes: Bytes) -> Result<Self, BrokenRule> {
        if bytes.first() != Some(&b'/') {
            return Err(BrokenRule("the path does not start with a slash"));
        }
        // RFC 3986 3.3, 3.4, 3.5: no control characters, no spaces, only ASCII, no fragment.
        if !bytes.iter().all(|byte| byte.is_ascii_graphic() && *byte != b'#') {
            return Err(BrokenRule("the path holds a byte that a URI does not allow"));
        }
        let end = bytes.iter().position(|byte| *byte == b'?').unwrap_or(bytes.len());
        check_segments(&bytes[..end])?;
        Ok(Self(bytes))
    }

    /// Returns path and query, byte for byte as received.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Refuses segments that are `.` or `..` for some upstream: after percent-decoding, with `\`,
/// `%2f` and `%5c` taken for slashes and `;parameters` left out (as application servers do).
fn check_segments(path: &[u8]) -> Result<(), BrokenRule> {
    const DOTS: BrokenRule =
        BrokenRule("the path holds a dot segment; send the path it stands for");
    let (mut dots, mut others, mut in_parameters) = (0u32, false, false);
    let mut rest = path;
    while let Some((byte, after)) = decode_first(rest) {
        rest = after;
        match byte {
            0 => return Err(BrokenRule("the path holds an encoded NUL")),
            b'/' | b'\\' => {
                if !others && (dots == 1 || dots == 2) {
                    return Err(DOTS);
                }
                (dots, others, in_parameters) = (0, false, false);
            }
            _ if in_parameters => {}
            b';' => in_parameters = true,
            b'.' => dots = dots.saturating_add(1),
            _ => others = true,
        }
    }
    if !others && (dots == 1 || dots == 2) { Err(DOTS) } else { Ok(()) }
}

/// Returns the first byte, percent-decoded if its escape is well-formed, and the bytes after it.
fn decode_first(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [b'%', high, low, rest @ ..] = text
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some(((high * 16 + low) as u8, rest));
    }
    text.split_first().map(|(byte, rest)| (*byte, rest))
}

/// Host and optional port of a request, narrower than RFC 3986 3.2: a name of letters, digits, `-`,
/// `.`, `_` and `~`, an IPv4 address, or an IPv6 address in brackets; a colon is followed by a
/// port from 1 to 65535.
#[derive(Clone)]
pub struct Authority {
    text: HeaderValue,
    host_len: usize,
    /// The host in lower case, if it was received otherwise.
    lower: Option<Box<str>>,
    port: Option<u16>,
}

impl Authority {
    /// Parses an authority. Refuses anything that the type does not allow.
    pub fn parse(bytes: Bytes) -> Result<Self, BrokenRule> {
        // RFC 9110 4.2.4: user information is an error.
        if bytes.contains(&b'@') {
            return Err(BrokenRule("the authority holds user information"));
        }
        const NOT_ASCII: BrokenRule =
            BrokenRule("the authority holds a character that a URI does not allow");
        if !bytes.iter().all(u8::is_ascii_graphic) {
            return Err(NOT_ASCII);
        }
        let text = std::str::from_utf8(&bytes).map_err(|_| NOT_ASCII)?;
        let (host, port) = split_port(text)?;
        let port = port.map(parse_port).transpose()?;
        // RFC 1034 3.1: the trailing dot stands for the root.
        let host = host.strip_suffix('.').unwrap_or(host);
        if host.is_empty() {
            return Err(BrokenRule("the authority has no host"));
        }
        let has_upper = host.bytes().any(|byte| byte.is_ascii_uppercase());
        let (host_len, lower) = (host.len(), has_upper.then(|| host.to_ascii_lowercase().into()));
        let text = HeaderValue::from_maybe_shared(bytes).map_err(|_| NOT_ASCII)?;
        Ok(Self { text, host_len, lower, port })
    }

    /// Returns the authority byte for byte as received.
    pub fn as_bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }

    pub fn as_str(&self) -> &str {
        self.text.to_str().expect("an authority is visible ASCII")
    }

    /// Returns the host: lower case, without port and trailing dot, an IPv6 address in brackets.
    pub fn host(&self) -> &str {
        self.lower.as_deref().unwrap_or_else(|| &self.as_str()[..self.host_len])
    }

    pub fn port(&self) -> Option<u16> {
        self.port
    }
}

impl PartialEq for Authority {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Splits an authority into host and port; an IPv6 address keeps its brackets.
fn split_port(text: &str) -> Result<(&str, Option<&str>), BrokenRule> {
    let Some(inner) = text.strip_prefix('[') else {
        let (host, port) = match text.split_once(':') {
            None => (text, None),
            Some((host, port)) => (host, Some(port)),
        };
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b"-._~".contains(&b);
        if !host.bytes().all(is_name_byte) {
            return Err(BrokenRule("the authority holds a character that no host name has"));
        }
        return Ok((host, port));
    };
    let (address, after) =
        inner.split_once(']').ok_or(BrokenRule("the authority holds an unclosed '['"))?;
    if address.parse::<Ipv6Addr>().is_err() {
        return Err(BrokenRule("the authority holds a bad IPv6 address"));
    }
    let host = &text[..address.len() + 2];
    match after.strip_prefix(':') {
        Some(port) => Ok((host, Some(port))),
        None if after.is_empty() => Ok((host, None)),
        None => Err(BrokenRule("the authority holds text after ']'")),
    }
}

/// Parses a port: digits only (`parse` alone would accept a sign), 1 to 65535.
fn parse_port(text: &str) -> Result<u16, BrokenRule> {
    let is_digits = text.len() <= 5 && text.bytes().all(|byte| byte.is_ascii_digit());
    let port = text.parse().ok().filter(|port| is_digits && *port > 0);
    port.ok_or(BrokenRule("the authority holds a bad port"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_path(path: &'static str) -> Result<Path, BrokenRule> {
        Path::parse(Bytes::from(path))
    }

    fn parse_authority(authority: &'static str) -> Result<Authority, BrokenRule> {
        Authority::parse(Bytes::from(authority))
    }

    #[test]
    fn paths_that_an_upstream_could_read_as_another_path_are_refused() {
        let refused = [
            "",
            "a",
            "http://x/",
            "*",
            "/..",
            "/../",
            "/a/../b",
            "/./",
            "/.",
            "/a/.",
            "/%2e%2e",
            "/%2E%2e/x",
            "/.%2e/",
            "/%2e",
            "/a%2f..%2fb",
            "/a/..%2f",
            "/a/%2e%2e%2fb",
            "/a\\..\\b",
            "/a%5c..%5cb",
            "/a/..;/b",
            "/a/..;x=y/b",
            "/a/.;",
            "/%00",
            "/a#b",
            "/a b",
            "/\u{e9}",
            "/a\u{7f}",
            "/a\r\n",
            "/..?x",
        ];
        for path in refused {
            assert!(parse_path(path).is_err(), "{path:?}");
        }
    }

    #[test]
    fn ordinary_paths_are_accepted() {
        let passed = [
            "/",
            "//x",
            "/a",
            "/a/",
            "/a..b/..c/c..",
            "/...",
            "/a/.well-known",
            "/%2ea",
            "/a;b/c",
            "/a?b=../..",
            "/a?%00",
            "/100%",
            "/%zz",
            "/a%252e%252e/b",
            "/~a/(b)/{c}|d\"",
        ];
        for path in passed {
            assert_eq!(parse_path(path).map(|path| path.0), Ok(Bytes::from(path)), "{path:?}");
        }
        let authority = || Authority::parse(Bytes::from_static(b"a")).unwrap();
        let asterisk = |for_options| {
            Target::parse(Scheme::Https, authority(), Bytes::from_static(b"*"), for_options)
        };
        assert!(matches!(asterisk(true), Ok(Target::Asterisk { .. })));
        assert!(asterisk(false).is_err());
    }

    #[test]
    fn authorities_are_parsed_or_refused() {
        let good = [
            ("example.com", "example.com"),
            ("EXAMPLE.com:443", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:8443", "example.com"),
            ("[::1]:443", "[::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("a_b", "a_b"),
            ("a~b", "a~b"),
            ("[2001:DB8::1]", "[2001:db8::1]"),
        ];
        for (authority, host) in good {
            let parsed = parse_authority(authority).unwrap();
            assert_eq!((parsed.as_str(), parsed.host()), (authority, host));
        }
        let bad = [
            "",
            ".",
            ":443",
            "a@b",
            "user:pass@host",
            "a:",
            "a:b",
            "a:0",
            "a:65536",
            "a:123456",
            "a:-1",
            "[::1",
            "::1",
            "[::1]x",
            "[zz]",
            "a b",
            "a/b",
            "a%41",
            "\u{e9}",
            "a:1:2",
            "a,b",
        ];
        for authority in bad {
            assert!(parse_authority(authority).is_err(), "{authority:?}");
        }
    }
}
