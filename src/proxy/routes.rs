//! Which upstream a request means, and which paths and authorities have a meaning at all.
//!
//! The decision is made on exactly the bytes that are forwarded. Nothing is normalised: a path
//! that an upstream could read as another one (dot segments, plain or encoded) is refused, because
//! a route would then guard a door that is not the one that opens.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::config::{HostPattern, Route};

/// A path that this gateway does not forward; says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadTarget(pub(crate) &'static str);

/// Checks a request's path (with query).
pub(crate) fn check_path(path: &[u8], is_options: bool) -> Result<(), BadTarget> {
    if path == b"*" {
        // RFC 9110 7.1: the asterisk form is for OPTIONS only.
        return if is_options { Ok(()) } else { Err(BadTarget("the path * is for OPTIONS only")) };
    }
    if path.first() != Some(&b'/') {
        return Err(BadTarget("the path does not start with a slash"));
    }
    // RFC 3986 3.3, 3.4: no control, no space, nothing outside ASCII, no fragment.
    if !path.iter().all(|byte| matches!(byte, 0x21..=0x7e) && *byte != b'#') {
        return Err(BadTarget("the path holds a byte that a URI does not allow"));
    }
    let end = path.iter().position(|byte| *byte == b'?').unwrap_or(path.len());
    check_segments(&path[..end])
}

/// Refuses segments that are `.` or `..` for some upstream: after percent-decoding, with `\`, `%2f`
/// and `%5c` taken for slashes and `;parameters` left out (as application servers do).
fn check_segments(path: &[u8]) -> Result<(), BadTarget> {
    const DOTS: BadTarget = BadTarget("the path holds a dot segment; send the path it stands for");
    let (mut dots, mut others, mut in_parameters) = (0u32, false, false);
    let mut rest = path;
    while let Some((byte, after)) = decode_first(rest) {
        rest = after;
        match byte {
            0 => return Err(BadTarget("the path holds an encoded NUL")),
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

/// The first byte, percent-decoded where it is encoded well, and what follows it.
fn decode_first(text: &[u8]) -> Option<(u8, &[u8])> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if let [b'%', high, low, rest @ ..] = text
        && let (Some(high), Some(low)) = (digit(*high), digit(*low))
    {
        return Some(((high * 16 + low) as u8, rest));
    }
    text.split_first().map(|(byte, rest)| (*byte, rest))
}

/// The host of an authority: lower case, without port and trailing dot.
pub fn host_of(authority: &[u8]) -> Result<Cow<'_, str>, BadTarget> {
    const BAD: BadTarget = BadTarget("the authority is not a host with an optional port");
    let text = std::str::from_utf8(authority).map_err(|_| BAD)?;
    let (host, port) = split_port(text);
    let port_is_good = port.is_none_or(|port| {
        (1..=5).contains(&port.len())
            && port.bytes().all(|byte| byte.is_ascii_digit())
            && port.parse::<u16>().is_ok()
    });
    let host_is_good = match host.strip_prefix('[') {
        Some(literal) => literal
            .strip_suffix(']')
            .is_some_and(|literal| literal.parse::<std::net::Ipv6Addr>().is_ok()),
        // RFC 9110 4.2.4: no user information. Encoded and exotic names have no route to match.
        None => host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._".contains(&byte)),
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    if !port_is_good || !host_is_good || host.is_empty() {
        return Err(BAD);
    }
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Ok(Cow::Owned(host.to_ascii_lowercase()));
    }
    Ok(Cow::Borrowed(host))
}

/// Host and port of an authority; the brackets of an IPv6 address stay.
fn split_port(authority: &str) -> (&str, Option<&str>) {
    let end_of_host = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[end_of_host..].find(':') {
        Some(colon) => {
            let colon = end_of_host + colon;
            (&authority[..colon], Some(&authority[colon + 1..]))
        }
        None => (authority, None),
    }
}

/// The routes by the hosts that they are for: a request is held against those of its own host, not
/// against everybody's.
#[derive(Debug)]
pub(crate) struct RouteTable {
    exact: BTreeMap<String, Vec<Entry>>,
    /// By the name behind `*.`.
    wildcard: BTreeMap<String, Vec<Entry>>,
    any: Vec<Entry>,
}

/// One route; those of one list are in the configuration's order.
#[derive(Debug)]
struct Entry {
    /// Its place among all routes: the first that matches wins.
    index: usize,
    path_prefix: String,
}

impl RouteTable {
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut table = Self { exact: BTreeMap::new(), wildcard: BTreeMap::new(), any: Vec::new() };
        for (index, route) in routes.iter().enumerate() {
            let list = match &route.host {
                Some(HostPattern::Exact(name)) => table.exact.entry(name.clone()).or_default(),
                Some(HostPattern::Wildcard(parent)) => {
                    table.wildcard.entry(parent.clone()).or_default()
                }
                None => &mut table.any,
            };
            list.push(Entry { index, path_prefix: route.path_prefix.clone() });
        }
        table
    }

    /// Index of the first route that `host` (lower case, no port, no trailing dot) and `path` match.
    pub(crate) fn find(&self, host: &str, path: &[u8]) -> Option<usize> {
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty());
        let lists = [
            self.exact.get(host),
            parent.and_then(|(_, parent)| self.wildcard.get(parent)),
            Some(&self.any),
        ];
        let first = |list: &Vec<Entry>| {
            let fits = |entry: &&Entry| prefix_matches(entry.path_prefix.as_bytes(), path);
            list.iter().find(fits).map(|entry| entry.index)
        };
        lists.into_iter().flatten().filter_map(first).min()
    }
}

/// Whether `prefix` is `path` or ends where one of its segments ends.
fn prefix_matches(prefix: &[u8], path: &[u8]) -> bool {
    if prefix == b"/" {
        return true;
    }
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.ends_with(b"/") || matches!(rest.first(), None | Some(b'/' | b'?')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_mean_another_path_are_refused() {
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
            assert!(check_path(path.as_bytes(), false).is_err(), "{path:?}");
        }
    }

    #[test]
    fn ordinary_paths_pass() {
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
            assert_eq!(check_path(path.as_bytes(), false), Ok(()), "{path:?}");
        }
        assert_eq!(check_path(b"*", true), Ok(()));
    }

    #[test]
    fn authorities() {
        let good = [
            ("example.com", "example.com"),
            ("EXAMPLE.com:443", "example.com"),
            ("example.com.", "example.com"),
            ("example.com.:8443", "example.com"),
            ("[::1]:443", "[::1]"),
            ("127.0.0.1:80", "127.0.0.1"),
            ("a_b", "a_b"),
        ];
        for (authority, host) in good {
            assert_eq!(host_of(authority.as_bytes()).as_deref(), Ok(host), "{authority}");
        }
        let bad = [
            "",
            ".",
            ":443",
            "a@b",
            "user:pass@host",
            "a:",
            "a:b",
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
            assert!(host_of(authority.as_bytes()).is_err(), "{authority:?}");
        }
    }

    #[test]
    fn prefixes_match_whole_segments_and_the_first_route_wins() {
        let route = |host: Option<HostPattern>, prefix: &str, upstream| Route {
            host,
            path_prefix: prefix.to_owned(),
            upstream,
        };
        let routes = [
            route(Some(HostPattern::Exact("a.example".into())), "/api", 0),
            route(Some(HostPattern::Wildcard("example".into())), "/api/", 1),
            route(None, "/", 2),
        ];
        let table = RouteTable::new(&routes);
        let find = |host, path: &str| table.find(host, path.as_bytes());
        assert_eq!(find("a.example", "/api"), Some(0));
        assert_eq!(find("a.example", "/api/x"), Some(0));
        assert_eq!(find("a.example", "/api?x"), Some(0));
        assert_eq!(find("a.example", "/apix"), Some(2));
        assert_eq!(find("a.example", "/API"), Some(2));
        assert_eq!(find("a.example", "/%61pi"), Some(2));
        assert_eq!(find("b.example", "/api"), Some(2));
        assert_eq!(find("b.example", "/api/"), Some(1));
        assert_eq!(find("c.b.example", "/api/"), Some(2));
        assert_eq!(RouteTable::new(&routes[..2]).find("c.b.example", b"/"), None);
    }

    /// Oracle: all routes, one after the other.
    #[test]
    fn the_table_finds_what_a_look_at_every_route_finds() {
        use rand::{Rng as _, SeedableRng as _};
        const NAMES: [&str; 6] = ["a", "b.a", "c.b.a", "d.a", ".a", "x"];
        const PREFIXES: [&str; 5] = ["/", "/p", "/p/", "/p/q", "/q"];
        const PATHS: [&str; 6] = ["/", "/p", "/p/", "/p/q?r", "/pq", "/q/p"];
        let mut dice = rand::rngs::SmallRng::seed_from_u64(3);
        let mut found = [0, 0];
        for _ in 0..2_000 {
            let routes: Vec<Route> = (0..dice.random_range(0..12))
                .map(|upstream| {
                    let name = NAMES[dice.random_range(0..NAMES.len())].to_owned();
                    let host = match dice.random_range(0..3) {
                        0 => None,
                        1 => Some(HostPattern::Exact(name)),
                        _ => Some(HostPattern::Wildcard(name)),
                    };
                    let path_prefix = PREFIXES[dice.random_range(0..PREFIXES.len())].to_owned();
                    Route { host, path_prefix, upstream }
                })
                .collect();
            let table = RouteTable::new(&routes);
            for host in NAMES {
                for path in PATHS.map(str::as_bytes) {
                    let expected = routes.iter().position(|route| {
                        route.host.as_ref().is_none_or(|pattern| pattern.matches(host))
                            && prefix_matches(route.path_prefix.as_bytes(), path)
                    });
                    assert_eq!(table.find(host, path), expected, "{host} in {routes:?}");
                    found[usize::from(expected.is_some())] += 1;
                }
            }
        }
        assert!(found.iter().all(|count| *count > 1_000), "{found:?}");
    }
}
