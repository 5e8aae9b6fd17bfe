//! Valid requests: all that RFC 9110 and RFC 9114 allow and the gateway forwards, the rare forms
//! more often than the usual ones.

use rand::Rng as _;
use rand::rngs::SmallRng;

use crate::message::{Lines, Message};

/// Returns one of them.
pub fn pick<'a, T: ?Sized>(dice: &mut SmallRng, of: &[&'a T]) -> &'a T {
    of[dice.random_range(0..of.len())]
}

const COMMON_METHODS: [&str; 10] =
    ["GET", "GET", "GET", "POST", "POST", "PUT", "HEAD", "DELETE", "OPTIONS", "PATCH"];
/// Registered ones and free tokens.
const RARE_METHODS: [&str; 18] = [
    "PROPFIND",
    "REPORT",
    "M-SEARCH",
    "MKCOL",
    "PURGE",
    "SEARCH",
    "LOCK",
    "COPY",
    "SUBSCRIBE",
    "QUERY",
    "FOO",
    "GETT",
    "A",
    "a",
    "X-1",
    "foo",
    "BASELINE-CONTROL",
    "!#$%&'*+-.^_`|~",
];

const AUTHORITIES: [&str; 15] = [
    "e2e.test",
    "e2e.test",
    "e2e.test",
    "e2e.test:443",
    "e2e.test:1",
    "e2e.test:65535",
    "e2e.test:0443",
    "E2E.Test",
    "E2E.TEST:443",
    "e2e.test.",
    "localhost",
    "[::1]",
    "[::1]:443",
    "[0:0:0:0:0:0:0:1]:8443",
    "127.0.0.1:4433",
];

/// Parts of a path that no reader takes for a dot segment or the start of one.
const SEGMENTS: [&str; 30] = [
    "a",
    "B",
    "index.html",
    "a.b..c",
    "...",
    "~user",
    "a;b=c",
    "a;x=1;y=2",
    "x%20y",
    "%7Euser",
    "%e4%F6",
    "a%2fb",
    "a%5Cb",
    "a\\b",
    "a%0d%0ab",
    "a%2525b",
    "%252e%252e",
    "a%2eb",
    "-._~",
    "a!$&'()*+,=:@",
    "\"<>^`{|}",
    "a%3fb",
    "a%23b",
    "%41",
    "a,b",
    "a=b",
    "http:",
    "x%3Bb",
    "@",
    ":",
];
const BAD_ESCAPES: [&str; 5] = ["a%zz", "a%", "a%4", "%%41", "a%2"];
const QUERIES: [&str; 13] = [
    "",
    "a",
    "a=b&c=d",
    "a=b&a=b&&=",
    "/../..",
    "?",
    "%00",
    "%0d%0aHost:%20x",
    "%zz",
    "url=http://x/?y",
    "\"<>\\^`{|}",
    "a=1;b=2",
    "+%2b",
];

/// Names that mean nothing to the gateway. Most servers have a use for some of them.
const NAMES: [&str; 28] = [
    "accept",
    "accept-language",
    "accept-encoding",
    "referer",
    "origin",
    "priority",
    "dnt",
    "pragma",
    "cache-control",
    "x-a",
    "x-b",
    "x-c",
    "x-a-b",
    "x",
    "1",
    "!#$%&'*+-.^`|~",
    "x.y",
    "link",
    "content-language",
    "trailer",
    "upgrade-insecure-requests",
    "x-http-method-override",
    "x-original-url",
    "content-lengths",
    "transfer-encodings",
    "hosts",
    "connections",
    "x-te",
];
/// Names of fields that occur once at most.
const SINGLE_NAMES: [&str; 6] =
    ["user-agent", "content-type", "authorization", "date", "max-forwards", "from"];

const VALUES: [&str; 26] = [
    "",
    "v",
    "a b",
    "a\tb",
    "a, b",
    ",",
    "\"quoted \\\" text\"",
    "close",
    "chunked",
    "gzip, deflate",
    "text/html;q=0.5",
    "x: y",
    "GET /smuggled HTTP/1.1",
    "0",
    "5",
    "content-length: 5",
    "transfer-encoding: chunked",
    "a  \t  b",
    ":",
    ";",
    "=",
    "\\",
    "%0d%0a",
    "(comment)",
    "keep-alive",
    "100-continue",
];

/// Bodies that look like the end of a message and the start of another.
const SMUGGLING: [&str; 6] = [
    "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: e2e.test\r\n\r\n",
    "\r\n\r\nPOST /smuggled HTTP/1.1\r\nhost: e2e.test\r\ncontent-length: 3\r\n\r\nabc",
    "GET /smuggled HTTP/1.1\r\nhost: e2e.test\r\nx: ",
    "5\r\nhello\r\n0\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n",
    "\n\n0\n\nGET /smuggled HTTP/1.1\nhost: e2e.test\n\n",
];

/// Draws a request that is forwarded.
pub fn draw(index: u64, dice: &mut SmallRng) -> Message {
    let method = match dice.random_range(0..10) {
        0..8 => pick(dice, &COMMON_METHODS),
        _ => pick(dice, &RARE_METHODS),
    };
    let is_asterisk = method == "OPTIONS" && dice.random_bool(0.3);
    let path = if is_asterisk { "*".to_owned() } else { draw_path(dice) };
    let authority = pick(dice, &AUTHORITIES);
    let scheme = pick(dice, &["https", "https", "https", "http", "HTTPS"]);
    let mut pseudo: Lines = [(":method", method), (":scheme", scheme), (":path", &path)]
        .map(|(name, value)| (name.into(), value.into()))
        .into();
    let mut message = Message { fields: draw_fields(index, method, dice), ..Message::default() };
    // The authority comes as `:authority`, as `host`, or as both.
    let form = dice.random_range(0..10);
    if form > 0 {
        pseudo.insert(dice.random_range(0..=pseudo.len()), line(":authority", authority));
    }
    if form < 2 {
        insert(&mut message.fields, line("host", authority), dice);
    }
    message.pseudo = pseudo;
    draw_body(&mut message, dice);
    message
}

pub fn line(name: &str, value: &str) -> (Vec<u8>, Vec<u8>) {
    (name.into(), value.into())
}

/// Inserts a line anywhere.
pub fn insert(lines: &mut Lines, line: (Vec<u8>, Vec<u8>), dice: &mut SmallRng) {
    lines.insert(dice.random_range(0..=lines.len()), line);
}

pub fn draw_path(dice: &mut SmallRng) -> String {
    let mut path = String::new();
    for _ in 0..dice.random_range(1..6) {
        path.push('/');
        match dice.random_range(0..100) {
            // Two slashes in a row.
            0..15 => {}
            15..17 => path.push_str(pick(dice, &BAD_ESCAPES)),
            17..60 => path.push_str(pick(dice, &SEGMENTS)),
            60 => path.push_str(&"long/".repeat(dice.random_range(1..1500))),
            _ => path.push_str(&format!("{:x}", dice.random::<u32>())),
        }
    }
    if dice.random_bool(0.4) {
        path.push('?');
        path.push_str(pick(dice, &QUERIES));
        if dice.random_bool(0.02) {
            path.push_str(&"q=".repeat(dice.random_range(1..2000)));
        }
    }
    path
}

fn draw_fields(index: u64, method: &str, dice: &mut SmallRng) -> Lines {
    let mut fields = vec![line("x-request", &index.to_string())];
    let count = if dice.random_bool(0.05) { 60 } else { dice.random_range(0..8) };
    for _ in 0..count {
        let name = match dice.random_range(0..10) {
            0 => draw_name(dice),
            _ => pick(dice, &NAMES).to_owned(),
        };
        let value = draw_value(dice);
        insert(&mut fields, (name.into(), value), dice);
    }
    for name in SINGLE_NAMES {
        if dice.random_bool(0.1) {
            let value = match name {
                "max-forwards" => dice.random_range(1..300).to_string().into(),
                "content-type" => pick(dice, &["text/plain", "a/b; c=\"d\"", "x", ""]).into(),
                _ => draw_value(dice),
            };
            insert(&mut fields, (name.into(), value), dice);
        }
    }
    if dice.random_bool(0.2) {
        for _ in 0..dice.random_range(1..5) {
            let crumb = pick(dice, &["a=1", "b=\"2\"", "c", "d=;e", "f==", "", "g=h, i=j"]);
            insert(&mut fields, line("cookie", crumb), dice);
        }
    }
    if dice.random_bool(0.25) {
        for _ in 0..dice.random_range(1..4) {
            let (name, value) = OWN[dice.random_range(0..OWN.len())];
            insert(&mut fields, line(name, value), dice);
        }
    }
    debug_assert!(!method.is_empty());
    fields
}

/// Fields that the gateway drops, or replaces by its own.
const OWN: [(&str, &str); 14] = [
    ("te", "trailers"),
    ("expect", "100-continue"),
    ("expect", "100-Continue"),
    ("proxy-authorization", "Basic eA=="),
    ("http2-settings", "AAMAAABk"),
    ("proxy", "http://10.0.0.1"),
    ("early-data", "1"),
    ("x-forwarded-for", "10.0.0.1"),
    ("x-forwarded-proto", "http"),
    ("x-forwarded-host", "other.test"),
    ("x-forwarded-port", "1"),
    ("forwarded", "for=10.0.0.1;proto=http"),
    ("x-real-ip", "10.0.0.1"),
    ("via", "1.1 other"),
];

fn draw_name(dice: &mut SmallRng) -> String {
    const TOKEN: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789-!#$%&'*+.^`|~";
    let rest = (0..dice.random_range(0..40)).map(|_| TOKEN[dice.random_range(0..TOKEN.len())]);
    // No name that means something begins with it.
    std::iter::once(b'z').chain(rest).map(char::from).collect()
}

fn draw_value(dice: &mut SmallRng) -> Vec<u8> {
    match dice.random_range(0..100) {
        0..60 => pick(dice, &VALUES).into(),
        60 => vec![b'v'; dice.random_range(0..8000)],
        61..75 => {
            // RFC 9110 5.5: visible bytes at both ends; space, tab and obs-text inside.
            let mut value: Vec<u8> = (0..dice.random_range(2..40))
                .map(|_| match dice.random_range(0..10) {
                    0 => b' ',
                    1 => b'\t',
                    2..5 => dice.random_range(0x80..=0xff),
                    _ => dice.random_range(0x21..0x7f),
                })
                .collect();
            value[0] = dice.random_range(0x80..=0xff);
            *value.last_mut().expect("two bytes at least") = b'~';
            value
        }
        _ => format!("{:x}", dice.random::<u64>()).into(),
    }
}

/// Draws the body, its length and the trailers.
fn draw_body(message: &mut Message, dice: &mut SmallRng) {
    let expects_body = !matches!(message.pseudo(":method"), b"GET" | b"HEAD" | b"DELETE");
    if dice.random_bool(if expects_body { 0.75 } else { 0.15 }) {
        message.body = bytes_of_body(dice);
    }
    if dice.random_bool(if message.body.is_empty() { 0.2 } else { 0.5 }) {
        let mut text = message.body.len().to_string();
        if dice.random_bool(0.1) {
            text.insert_str(0, "00");
        }
        insert(&mut message.fields, line("content-length", &text), dice);
        if dice.random_bool(0.1) {
            insert(&mut message.fields, line("content-length", &text), dice);
        }
    }
    if dice.random_bool(0.15) {
        message.trailers = Some(draw_trailers(dice));
    }
}

fn bytes_of_body(dice: &mut SmallRng) -> Vec<u8> {
    let len = match dice.random_range(0..1000) {
        0..400 => return pick(dice, &SMUGGLING).into(),
        400..800 => dice.random_range(1..200),
        800..970 => dice.random_range(200..10_000),
        970..995 => dice.random_range(10_000..70_000),
        _ => dice.random_range(70_000..300_000),
    };
    let mut body = vec![0; len];
    dice.fill(&mut body[..]);
    body
}

/// Draws trailer fields, some of which are not allowed there (RFC 9110 6.5.1) and are dropped.
fn draw_trailers(dice: &mut SmallRng) -> Lines {
    let mut trailers = Lines::new();
    for _ in 0..dice.random_range(1..5) {
        if dice.random_bool(0.3) {
            let name = pick(dice, &crate::model::DROPPED_TRAILERS);
            trailers.push(line(name, "1"));
        } else {
            let name = pick(dice, &["x-t", "x-t", "server-timing", "x-checksum", "!#$%&'*+-.^`|~"]);
            trailers.push((name.into(), draw_value(dice)));
        }
    }
    trailers
}
