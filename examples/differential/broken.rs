//! Requests that no upstream may see: each breaks one rule of RFC 9110, RFC 9114 or RFC 3986, or
//! one that docs/decisions says the gateway is stricter about.

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::message::{Lines, Message};
use crate::valid::{insert, line, pick};

/// The refusal that the client must see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The stream is reset with H3_MESSAGE_ERROR.
    Reset,
    /// A response of the gateway itself.
    Status(u16),
    /// Either: the rule is broken behind the head, which may have been routed by then.
    ResetOr(u16),
}

use Refusal::{Reset, ResetOr, Status};

/// Breaks one rule in a valid request.
type Break = fn(&mut Message, &mut SmallRng) -> Refusal;

const BREAKS: [Break; 30] = [
    control_in_value,
    control_in_value,
    bad_name,
    bad_name,
    upper_case_name,
    space_around_value,
    connection_field,
    connection_field,
    framing_field,
    framing_field,
    bad_te,
    bad_method,
    method_in_wrong_case,
    not_implemented,
    bad_path,
    bad_path,
    dot_segment,
    bad_authority,
    other_authority,
    bad_scheme,
    bad_host,
    underscore,
    wrong_length,
    wrong_length,
    bad_length,
    two_lengths,
    bad_pseudo,
    bad_pseudo,
    bad_trailer,
    too_large,
];

/// Breaks a rule. Returns the refusal that is due.
pub fn draw(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    BREAKS[dice.random_range(0..BREAKS.len())](message, dice)
}

/// Texts that some parser takes for the end of a value, a line or a message.
fn control(dice: &mut SmallRng) -> Vec<u8> {
    let smuggled = "\r\nx: y\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n";
    let texts = ["\r", "\n", "\0", "\r\n", "\r\n ", smuggled, "\r\ncontent-length: 5", "\r\n\r\n"];
    if dice.random() {
        return pick(dice, &texts).into();
    }
    loop {
        match dice.random_range(0..=32) {
            32 => return vec![0x7f],
            b'\t' => {}
            byte => return vec![byte],
        }
    }
}

/// Puts a text inside another, not at its ends.
fn within(outer: &str, inner: &[u8], dice: &mut SmallRng) -> Vec<u8> {
    let (before, after) = outer.split_at(dice.random_range(1..outer.len()));
    [before.as_bytes(), inner, after.as_bytes()].concat()
}

fn add(message: &mut Message, name: impl Into<Vec<u8>>, value: &[u8], dice: &mut SmallRng) {
    insert(&mut message.fields, (name.into(), value.into()), dice);
}

fn control_in_value(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let name =
        pick(dice, &["x-v", "cookie", "user-agent", "via", "te", "expect", "x-forwarded-for"]);
    let value = within("value", &control(dice), dice);
    add(message, name, &value, dice);
    Reset
}

fn bad_name(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let inner = match dice.random_range(0..3) {
        0 => control(dice),
        1 => vec![dice.random_range(0x80..=0xff)],
        _ => pick(
            dice,
            &[
                "(", ")", ",", "/", ":", ";", "<", "=", ">", "?", "@", "[", "\\", "]", "{", "}",
                "\"", " ", "\t", ": ", ":\r\n",
            ],
        )
        .into(),
    };
    let name = match dice.random_range(0..8) {
        0 => inner,
        1 => Vec::new(),
        2 => [b"x-n", &inner[..]].concat(),
        3 => within("transfer-encoding", &inner, dice),
        4 => within("content-length", &inner, dice),
        _ => within("x-name", &inner, dice),
    };
    add(message, name, b"5", dice);
    Reset
}

fn upper_case_name(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let name = pick(dice, &["X-Upper", "Content-Length", "Transfer-Encoding", "HOST", "cookiE"]);
    add(message, name, b"5", dice);
    Reset
}

fn space_around_value(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let value = pick(dice, &[" v", "v ", "\tv", "v\t", " ", "\t", " chunked", "5 "]);
    let name = pick(dice, &["x-v", "cookie", "accept", "content-length"]);
    add(message, name, value.as_bytes(), dice);
    Reset
}

fn connection_field(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let (name, value) = [
        ("connection", "close"),
        ("connection", "x-request"),
        ("connection", "content-length"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "keep-alive"),
        ("upgrade", "websocket"),
        ("upgrade", "h2c"),
        ("connection", ""),
    ][dice.random_range(0..8)];
    add(message, name, value.as_bytes(), dice);
    Reset
}

fn framing_field(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let value = pick(
        dice,
        &[
            "chunked",
            "identity",
            "gzip, chunked",
            "Chunked",
            "chunked, chunked",
            "x",
            "",
            "chunked\x0b",
            "xchunked",
        ],
    );
    add(message, "transfer-encoding", value.as_bytes(), dice);
    if dice.random() {
        message.body = b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n".into();
    }
    Reset
}

fn bad_te(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let value = pick(dice, &["gzip", "trailers, gzip", "chunked", "", "trailers;q=0.5"]);
    add(message, "te", value.as_bytes(), dice);
    Reset
}

fn bad_method(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let method = match dice.random_range(0..4) {
        0 => Vec::new(),
        1 => within("GET", &control(dice), dice),
        2 => {
            within("POST", pick(dice, &[" ", "/", ":", "(", "\"", "\u{e4}", "\t"]).as_bytes(), dice)
        }
        _ => b"GET / HTTP/1.1\r\nhost: h\r\n\r\nGET".into(),
    };
    message.set_pseudo(":method", method);
    Reset
}

fn method_in_wrong_case(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let method = pick(
        dice,
        &[
            "get", "head", "Head", "pOST", "Put", "delete", "connect", "options", "tRACE", "patch",
            "Query",
        ],
    );
    if message.pseudo(":path") == b"*" {
        message.set_pseudo(":path", "/");
    }
    message.set_pseudo(":method", method);
    Status(400)
}

/// CONNECT, TRACE, and an OPTIONS that ends here.
fn not_implemented(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    match dice.random_range(0..3) {
        0 => {
            message.pseudo = vec![line(":method", "CONNECT"), line(":authority", "e2e.test:443")];
            message.remove_field("host");
            message.remove_field("content-length");
            (message.body, message.trailers) = (Vec::new(), None);
        }
        1 => {
            if message.pseudo(":path") == b"*" {
                message.set_pseudo(":path", "/");
            }
            message.set_pseudo(":method", "TRACE");
        }
        _ => {
            message.set_pseudo(":method", "OPTIONS");
            message.remove_field("max-forwards");
            add(message, "max-forwards", pick(dice, &["0", "00"]).as_bytes(), dice);
        }
    }
    Status(501)
}

fn bad_path(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let path = match dice.random_range(0..7) {
        0 | 1 => within("/path", &control(dice), dice),
        2 => within("/path", &[dice.random_range(0x80..=0xff)], dice),
        3 => within("/path?query", pick(dice, &[" ", "#", "\t", " HTTP/1.1\r\n"]).as_bytes(), dice),
        4 => pick(dice, &["a", "http://e2e.test/", "*/", "?a", "%2f", "\\", "**", "e2e.test:443"])
            .into(),
        5 => pick(dice, &["/%00", "/a%00b", "/a/%00?x"]).into(),
        _ => {
            message.set_pseudo(":method", pick(dice, &["GET", "POST", "PRI"]));
            b"*".into()
        }
    };
    message.set_pseudo(":path", path);
    Status(400)
}

/// A path that some upstream resolves to another one
/// (docs/decisions/proxy-targets-are-refused-not-repaired.md).
fn dot_segment(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let slash = pick(dice, &["/", "/", "%2f", "%2F", "\\", "%5c", "%5C", "//"]);
    let dots = pick(dice, &[".", "..", "%2e", "%2E%2e", ".%2e", "..;", "..;a=b", ".;", "%2e%2e;x"]);
    let end = pick(dice, &["", "/", "/b", "%2fb", "\\b", "?q", "%5c"]);
    message.set_pseudo(":path", format!("/a{slash}{dots}{end}"));
    Status(400)
}

/// Names another authority everywhere.
fn set_authority(message: &mut Message, authority: &[u8]) {
    message.remove_field("host");
    message.pseudo.retain(|(name, _)| name != b":authority");
    message.pseudo.push((b":authority".into(), authority.into()));
}

fn bad_authority(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let authority = match dice.random_range(0..3) {
        0 => within("e2e.test", &control(dice), dice),
        1 => within(
            "e2e.test",
            pick(dice, &["@", "/", " ", "\\", ",", "%65", "\"", "[", "?", "#", "\t"]).as_bytes(),
            dice,
        ),
        _ => pick(
            dice,
            &[
                "e2e.test:0",
                "e2e.test:65536",
                "e2e.test:",
                "e2e.test:a",
                "e2e.test:1:2",
                "[::1",
                "[::1]x",
                "::1",
                "[::g]",
                "user@e2e.test",
                "e2e.test:+1",
                "[::1]:",
                ":443",
                "[]",
                ".",
                "e2e.test:443, other.test",
            ],
        )
        .into(),
    };
    set_authority(message, &authority);
    Status(400)
}

/// A name that the certificate does not cover (RFC 9110 7.4).
fn other_authority(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let other = pick(
        dice,
        &[
            "other.test",
            "e2e.test.other.test",
            "192.0.2.1",
            "[2001:db8::1]",
            "xe2e.test",
            "x.e2e.test:443",
        ],
    );
    set_authority(message, other.as_bytes());
    Status(421)
}

fn bad_scheme(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let scheme = match dice.random_range(0..2) {
        0 => within("https", &control(dice), dice),
        _ => pick(dice, &["ftp", "", "https ", "httpss", "https:", "file", "https://e2e.test/"])
            .into(),
    };
    message.set_pseudo(":scheme", scheme);
    Status(400)
}

fn bad_host(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let refusal = match dice.random_range(0..3) {
        0 => {
            set_authority(message, b"e2e.test");
            let host = pick(dice, &["other.test", "E2E.test", "e2e.test:443", "e2e.test.", ""]);
            add(message, "host", host.as_bytes(), dice);
            Reset
        }
        1 => {
            set_authority(message, b"e2e.test");
            add(message, "host", b"e2e.test", dice);
            add(message, "host", b"e2e.test", dice);
            Status(400)
        }
        _ => {
            set_authority(message, b"");
            Reset
        }
    };
    if refusal == Reset && dice.random() {
        message.pseudo.retain(|(name, _)| name != b":authority");
        message.remove_field("host");
    }
    refusal
}

fn underscore(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let name = pick(dice, &["content_length", "transfer_encoding", "x_forwarded_for", "x-a_", "_"]);
    add(message, name, b"5", dice);
    Status(400)
}

/// Makes the head one that every upstream accepts: it may see the head of a request that is broken
/// behind it.
fn set_plain_head(message: &mut Message, dice: &mut SmallRng) {
    message.set_pseudo(":method", pick(dice, &["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]));
    message.set_pseudo(":path", "/late");
}

/// A content-length that is not the body's (RFC 9114 4.1.2).
fn wrong_length(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    set_plain_head(message, dice);
    if message.body.is_empty() {
        message.body = b"GET /smuggled HTTP/1.1\r\nhost: h\r\n\r\n".into();
    }
    let len = message.body.len();
    let wrong = match dice.random_range(0..6) {
        0 => 0,
        1 => len - 1,
        2 => dice.random_range(0..len),
        3 => len + 1,
        4 => len + dice.random_range(1..1000),
        _ => {
            message.body.clear();
            len
        }
    };
    message.remove_field("content-length");
    add(message, "content-length", wrong.to_string().as_bytes(), dice);
    ResetOr(400)
}

fn bad_length(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    message.remove_field("content-length");
    let len = message.body.len();
    let value = match dice.random_range(0..12) {
        0 => format!("+{len}"),
        1 => format!("-{len}"),
        2 => format!("{len}, {len}"),
        3 => format!("{len},{len}"),
        4 => format!("0x{len:x}"),
        5 => format!("{len}.0"),
        6 => format!("{len} {len}"),
        7 => "18446744073709551616".to_owned(),
        8 => format!("{len};"),
        9 => format!("\"{len}\""),
        10 => "99999999999999999999999999".to_owned(),
        _ => String::new(),
    };
    add(message, "content-length", value.as_bytes(), dice);
    Status(400)
}

fn two_lengths(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    message.remove_field("content-length");
    let len = message.body.len();
    for value in [len, len + 1] {
        add(message, "content-length", value.to_string().as_bytes(), dice);
    }
    Reset
}

fn bad_pseudo(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    let name = pick(dice, &[":method", ":scheme", ":path"]);
    match dice.random_range(0..5) {
        0 => message.pseudo.retain(|(key, _)| key != name.as_bytes()),
        1 => {
            let twice = (name.into(), message.pseudo(name).into());
            insert(&mut message.pseudo, twice, dice);
        }
        2 => {
            let unknown =
                pick(dice, &[":status", ":protocol", ":", ":Path", ":path ", ":host", "::"]);
            insert(&mut message.pseudo, line(unknown, "200"), dice);
        }
        3 => {
            let late = (name.into(), message.pseudo(name).into());
            message.pseudo.retain(|(key, _)| key != name.as_bytes());
            message.fields.insert(dice.random_range(1..=message.fields.len()), late);
        }
        _ => message.set_pseudo(":path", ""),
    }
    Reset
}

fn bad_trailer(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    set_plain_head(message, dice);
    let (name, value): (Vec<u8>, Vec<u8>) = match dice.random_range(0..5) {
        0 => {
            let name = pick(
                dice,
                &[
                    "content-length",
                    "host",
                    "te",
                    "transfer-encoding",
                    "connection",
                    ":path",
                    ":method",
                    "keep-alive",
                    "upgrade",
                ],
            );
            (name.into(), b"1".into())
        }
        1 => (b"x-t".into(), within("value", &control(dice), dice)),
        2 => (within("x-name", &control(dice), dice), b"v".into()),
        3 => (b"X-T".into(), b"v".into()),
        _ => (b"x_t".into(), b"v".into()),
    };
    let mut trailers: Lines = vec![line("x-t", "v")];
    insert(&mut trailers, (name, value), dice);
    message.trailers = Some(trailers);
    ResetOr(400)
}

/// More fields than are accepted, by number or by length.
fn too_large(message: &mut Message, dice: &mut SmallRng) -> Refusal {
    if dice.random() {
        for _ in 0..101 {
            add(message, "x-many", b"v", dice);
        }
    } else {
        add(message, "x-long", &[b'v'; 40_000], dice);
    }
    Status(431)
}
