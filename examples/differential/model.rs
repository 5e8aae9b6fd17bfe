//! The form in which a request must reach an upstream, written from README.md ("Which fields reach
//! an upstream") and docs/CONFORMANCE.md, not from the gateway's code.

use std::sync::LazyLock;

use aws_lc_rs::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};

use crate::Profile;
use crate::message::{Lines, Message};

/// Fields that are not forwarded as trailers (RFC 9110 6.5.1), among those that are drawn.
pub const DROPPED_TRAILERS: [&str; 12] = [
    "authorization",
    "content-type",
    "content-encoding",
    "cache-control",
    "set-cookie",
    "cookie",
    "expect",
    "via",
    "x-forwarded-for",
    "max-forwards",
    "range",
    "trailer",
];

/// Fields of a head that the gateway drops or writes itself, besides proxy fields.
const OWN: [&str; 9] = [
    "host",
    "content-length",
    "cookie",
    "te",
    "expect",
    "proxy-authorization",
    "http2-settings",
    "proxy",
    "early-data",
];

/// The proxy fields of README.md's table, which are dropped from the requests of strangers.
static PROXY_FIELDS: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let rows = include_str!("../../README.md").lines().filter_map(|line| {
        let (kind, names) = line.strip_prefix("| `")?.split_once("` | ")?;
        let is_kind = ["forwarding", "address", "target", "method", "identity"].contains(&kind);
        is_kind.then(|| names.trim_end_matches(" |"))
    });
    let names = rows.flat_map(|row| row.split(", ")).map(|name| name.trim_matches('`'));
    let names: Vec<_> = names.collect();
    assert!(names.len() > 40, "README.md has another form");
    names
});

fn is_proxy_field(name: &[u8]) -> bool {
    PROXY_FIELDS.iter().any(|known| match known.strip_suffix('*') {
        Some(start) => name.starts_with(start.as_bytes()),
        None => name == known.as_bytes(),
    })
}

/// Returns the forms that the upstream may report: one, or two where it depends on the arrival of
/// packets whether the gateway already sees that there is no body. `tests/differential/upstreams/
/// echo.py` describes the form.
pub fn forms(message: &Message, profile: &Profile) -> Vec<Vec<u8>> {
    framings(message).into_iter().map(|framing| form(message, framing, profile)).collect()
}

/// The framing of a body in HTTP/1.1 (RFC 9112 6).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    None,
    Length,
    Chunked,
}

fn framings(message: &Message) -> Vec<Framing> {
    let method = message.pseudo(":method");
    if message.field("content-length").is_some() {
        return vec![Framing::Length];
    }
    if !message.body.is_empty() {
        return vec![Framing::Chunked];
    }
    match method {
        // RFC 9110 8.6: these announce an empty body too.
        b"POST" | b"PUT" | b"PATCH" if message.trailers.is_some() => vec![Framing::Chunked],
        b"POST" | b"PUT" | b"PATCH" => vec![Framing::Length, Framing::Chunked],
        // All others are sent once it is known whether a body comes.
        _ => vec![Framing::None],
    }
}

fn form(message: &Message, framing: Framing, profile: &Profile) -> Vec<u8> {
    let mut method = message.pseudo(":method").to_vec();
    if profile.raises_methods {
        method.make_ascii_uppercase();
    }
    let mut form = [&method, &b" "[..], message.pseudo(":path"), b"\n"].concat();
    put_lines(head(message, framing), &mut form);
    form.push(b'\n');
    let body_len = message.body.len();
    form.extend_from_slice(format!("{body_len} {}\n", sha1(&message.body)).as_bytes());
    if profile.has_trailers && framing == Framing::Chunked {
        let mut trailers = message.trailers.clone().unwrap_or_default();
        trailers.retain(|(name, _)| {
            !DROPPED_TRAILERS.iter().any(|own| own.as_bytes() == name) && !is_proxy_field(name)
        });
        put_lines(trailers, &mut form);
    }
    form
}

/// Returns the fields that the upstream reads.
fn head(message: &Message, framing: Framing) -> Lines {
    let is_own = |name: &[u8]| OWN.iter().any(|own| own.as_bytes() == name) || is_proxy_field(name);
    let mut fields: Lines =
        message.fields.iter().filter(|(name, _)| !is_own(name)).cloned().collect();
    if message.pseudo(":method") == b"OPTIONS" {
        // RFC 9110 7.6.2.
        for (_, value) in fields.iter_mut().filter(|(name, _)| name == b"max-forwards") {
            let text = String::from_utf8(value.clone()).expect("digits are drawn");
            *value = (text.parse::<u64>().expect("digits are drawn") - 1).to_string().into();
        }
    }
    let crumbs: Vec<&[u8]> = message
        .fields
        .iter()
        .filter(|(name, _)| name == b"cookie")
        .map(|(_, value)| value.as_slice())
        .collect();
    if !crumbs.is_empty() {
        fields.push((b"cookie".into(), crumbs.join(&b"; "[..])));
    }
    let authority = message.authority();
    let forwarded = [b"for=127.0.0.1;host=\"", authority, b"\";proto=https"].concat();
    let mut own = |name: &str, value: &[u8]| fields.push((name.into(), value.into()));
    own("host", authority);
    own("x-forwarded-for", b"127.0.0.1");
    own("x-forwarded-proto", b"https");
    own("x-forwarded-host", authority);
    own("forwarded", &forwarded);
    own("via", b"3 ringway");
    match framing {
        Framing::None => {}
        Framing::Length => own("content-length", message.body.len().to_string().as_bytes()),
        Framing::Chunked => own("transfer-encoding", b"chunked"),
    }
    fields
}

/// Writes lines sorted by name; those of one name keep their order. White space around a value is
/// not part of it (RFC 9112 5): an empty crumb at the end of `cookie` leaves some.
fn put_lines(mut lines: Lines, out: &mut Vec<u8>) {
    lines.sort_by(|(left, _), (right, _)| left.cmp(right));
    for (name, value) in lines {
        for part in [&name[..], b": ", value.trim_ascii(), b"\n"] {
            out.extend_from_slice(part);
        }
    }
}

/// Returns whether the server refuses the request by itself, though the gateway forwards it.
pub fn is_refused_by(message: &Message, profile: &Profile) -> bool {
    let path = message.pseudo(":path");
    if path == b"*" && !profile.has_asterisk {
        return true;
    }
    let path = path.split(|byte| *byte == b'?').next().unwrap_or_default();
    let has_bad_escape = path.iter().enumerate().any(|(at, byte)| {
        let digits = path.get(at + 1..at + 3);
        *byte == b'%' && !digits.is_some_and(|two| two.iter().all(u8::is_ascii_hexdigit))
    });
    !profile.takes_method(message.pseudo(":method")) || has_bad_escape && !profile.has_bad_escapes
}

/// Returns the SHA-1 as the servers write it. It is compared, and protects nothing.
pub fn sha1(bytes: &[u8]) -> String {
    let digest = digest(&SHA1_FOR_LEGACY_USE_ONLY, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
