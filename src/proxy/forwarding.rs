//! The forwarding fields, which tell an upstream about the client (RFC 7239; `x-forwarded-for` and
//! its kin are a custom). Those of a trusted proxy are extended, all others replaced.
//!
//! `forwarded` and `x-forwarded-for` tell the same chain. A trusted proxy that sends only one of
//! them is understood by both kinds of upstreams: the other one is made from it (RFC 7239 7.4).

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::{BufMut as _, BytesMut};
use smallvec::SmallVec;

use super::api::Request;
use super::fields::{put_joined, put_joined_line};

/// Writes the forwarding fields about the client.
pub(super) fn put_forwarding(out: &mut BytesMut, request: &Request, trusted: bool) {
    let address = request.sender.address.ip().to_canonical();
    let mut text = AddressText::new();
    put_address(&mut text, address);
    let told = |name: &str| trusted && request.head.fields.iter().any(|(key, _)| key == name);
    let tells_list = told("x-forwarded-for");
    let tells_elements = told("forwarded");

    out.put_slice(b"x-forwarded-for: ");
    if tells_list {
        put_joined(out, request, "x-forwarded-for", b", ");
        out.put_slice(b", ");
    } else if tells_elements {
        for node in nodes_of_elements(&joined(request, "forwarded")) {
            put_list_node(out, node);
            out.put_slice(b", ");
        }
    }
    out.put_slice(&text);
    out.put_slice(b"\r\n");
    // Protocol and host are those of the client's request to the outermost proxy: one value,
    // not a list.
    for (name, own) in [
        ("x-forwarded-proto", request.head.scheme().as_str().as_bytes()),
        ("x-forwarded-host", request.head.authority().as_bytes()),
    ] {
        out.put_slice(name.as_bytes());
        out.put_slice(b": ");
        match told(name) {
            true => put_joined(out, request, name, b", "),
            false => out.put_slice(own),
        }
        out.put_slice(b"\r\n");
    }
    if told("x-real-ip") {
        put_joined_line(out, request, "x-real-ip", b", ");
    }

    out.put_slice(b"forwarded: ");
    if tells_elements {
        put_joined(out, request, "forwarded", b", ");
        out.put_slice(b", ");
    } else if tells_list {
        for node in nodes_of_list(&joined(request, "x-forwarded-for")) {
            put_element(out, node);
            out.put_slice(b", ");
        }
    }
    put_quoted(out, address, &text);
    for part in [
        &b";host=\""[..],
        request.head.authority().as_bytes(),
        b"\";proto=",
        request.head.scheme().as_str().as_bytes(),
        b"\r\n",
    ] {
        out.put_slice(part);
    }

    // RFC 9110 7.6.3: the protocol of the received message.
    out.put_slice(b"via: ");
    if told("via") {
        put_joined(out, request, "via", b", ");
        out.put_slice(b", ");
    }
    out.put_slice(request.sender.protocol.version().as_bytes());
    out.put_slice(b" ringway\r\n");
}

/// One hop of a chain. Ports are left out: lists do not have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Node {
    Address(IpAddr),
    /// The hop hides its client, or says something that is no address (RFC 7239 6.2, 6.3).
    Unknown,
}

impl Node {
    /// Parses an address, in brackets if it is an IPv6 one with a port, or without.
    fn parse(text: &str) -> Self {
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        let address = bare.parse::<IpAddr>().ok();
        address
            .or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))
            .map_or(Self::Unknown, |address| Self::Address(address.to_canonical()))
    }
}

/// Returns all values of a field as one.
fn joined(request: &Request, name: &str) -> BytesMut {
    let mut value = BytesMut::new();
    put_joined(&mut value, request, name, b",");
    value
}

/// Returns the hops of `x-forwarded-for`.
fn nodes_of_list(value: &[u8]) -> Vec<Node> {
    let texts = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let texts = texts.filter(|text| !text.is_empty());
    texts.map(|text| std::str::from_utf8(text).map_or(Node::Unknown, Node::parse)).collect()
}

/// Returns the hops of `forwarded` (RFC 7239 4). One without `for` is unknown.
fn nodes_of_elements(value: &[u8]) -> Vec<Node> {
    let elements = split_unquoted(value, b',').into_iter().map(<[u8]>::trim_ascii);
    elements.filter(|element| !element.is_empty()).map(node_of_element).collect()
}

fn node_of_element(element: &[u8]) -> Node {
    let pairs = split_unquoted(element, b';');
    let mut values = pairs.iter().filter_map(|pair| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (pair[..equals].trim_ascii(), pair[equals + 1..].trim_ascii());
        name.eq_ignore_ascii_case(b"for").then_some(value)
    });
    let Some(value) = values.next() else { return Node::Unknown };
    let value =
        value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value);
    std::str::from_utf8(value).map_or(Node::Unknown, Node::parse)
}

/// Splits at each separator that is not within a quoted string (RFC 9110 5.6.4).
fn split_unquoted(value: &[u8], separator: u8) -> Vec<&[u8]> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let split = value.split(|byte| {
        let was_escaped = std::mem::replace(&mut is_escaped, false);
        match byte {
            b'\\' if is_quoted && !was_escaped => is_escaped = true,
            b'"' if !was_escaped => is_quoted = !is_quoted,
            _ => {}
        }
        *byte == separator && !is_quoted
    });
    split.collect()
}

/// Writes a hop of `x-forwarded-for`.
fn put_list_node(out: &mut BytesMut, node: Node) {
    match node {
        Node::Address(address) => {
            let mut text = AddressText::new();
            put_address(&mut text, address);
            out.put_slice(&text);
        }
        Node::Unknown => out.put_slice(b"unknown"),
    }
}

/// Writes the `for` of a hop of `forwarded`.
fn put_element(out: &mut BytesMut, node: Node) {
    match node {
        Node::Address(address) => {
            let mut text = AddressText::new();
            put_address(&mut text, address);
            put_quoted(out, address, &text);
        }
        Node::Unknown => out.put_slice(b"for=unknown"),
    }
}

/// Writes the `for` of an address, whose text is `text`. RFC 7239 4 and 6: an IPv6 address is
/// bracketed and quoted.
fn put_quoted(out: &mut BytesMut, address: IpAddr, text: &[u8]) {
    let (before, after) = match address {
        IpAddr::V6(_) => (&b"for=\"["[..], &b"]\""[..]),
        IpAddr::V4(_) => (&b"for="[..], &b""[..]),
    };
    for part in [before, text, after] {
        out.put_slice(part);
    }
}

/// An address as text; the longest has 39 characters.
type AddressText = SmallVec<[u8; 40]>;

/// Writes an address as text, without a formatter for the common kind.
fn put_address(out: &mut AddressText, address: IpAddr) {
    match address {
        IpAddr::V4(address) => {
            for (index, octet) in address.octets().into_iter().enumerate() {
                if index > 0 {
                    out.push(b'.');
                }
                out.extend_from_slice(itoa::Buffer::new().format(octet).as_bytes());
            }
        }
        IpAddr::V6(address) => write!(out, "{address}").expect("a SmallVec grows"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the chain that a value tells, as `x-forwarded-for` writes it.
    fn chain(nodes: Vec<Node>) -> String {
        let mut out = BytesMut::new();
        for node in nodes {
            put_list_node(&mut out, node);
            out.put_slice(b" ");
        }
        String::from_utf8_lossy(&out).trim_end().to_owned()
    }

    /// The examples of RFC 7239 4, 6.3, 7.1 and 7.4, and what proxies really write.
    #[test]
    fn both_fields_are_read_as_chains() {
        for (value, expected) in [
            ("for=\"_gazonk\"", "unknown"),
            ("For=\"[2001:db8:cafe::17]:4711\"", "2001:db8:cafe::17"),
            ("for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60"),
            ("for=192.0.2.43, for=198.51.100.17", "192.0.2.43 198.51.100.17"),
            ("for=_hidden, for=_SEVKISEK", "unknown unknown"),
            ("proto=https;by=\"a,b;for=1.2.3.4\";for=192.0.2.1,,", "192.0.2.1"),
            ("proto=\"\\\",for=1.2.3.4\", for=192.0.2.2", "unknown 192.0.2.2"),
            ("for=unknown;for=192.0.2.3", "unknown"),
            ("for=\"192.0.2.4:80\"", "192.0.2.4"),
            ("for=\"192.0.2.5", "unknown"),
            ("for", "unknown"),
            ("", ""),
        ] {
            assert_eq!(chain(nodes_of_elements(value.as_bytes())), expected, "{value}");
        }
        for (value, expected) in [
            ("192.0.2.43, 2001:db8:cafe::17", "192.0.2.43 2001:db8:cafe::17"),
            (
                "192.0.2.1:1234,[2001:db8::1]:443 , [2001:db8::2]",
                "192.0.2.1 2001:db8::1 2001:db8::2",
            ),
            ("unknown, ::ffff:192.0.2.9", "unknown 192.0.2.9"),
            ("evil\";host=x, \u{e4}", "unknown unknown"),
            (" , ,", ""),
        ] {
            assert_eq!(chain(nodes_of_list(value.as_bytes())), expected, "{value}");
        }
    }
}
