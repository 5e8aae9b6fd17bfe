//! Tests of the requests that are refused: the forms of request smuggling, with the rule that each
//! breaks.

use http::Method;

use super::request_decoder::{CUT, LIMITS, decode, decode_cut};
use crate::message::FieldLimits;

/// Decodes one request that is refused. Returns status and rule.
fn refused(wire: &str) -> (u16, &'static str) {
    let seen = decode_cut(wire.as_bytes());
    let refusal = seen.refusal.unwrap_or_else(|| panic!("{wire:?} is accepted"));
    assert!(seen.requests.iter().all(|request| !request.is_whole), "{wire:?}");
    (refusal.status.as_u16(), refusal.rule)
}

#[test]
fn requests_with_two_ends_are_refused() {
    for lines in TWO_ENDS {
        for wire in [
            format!("POST / HTTP/1.1\r\nhost: a\r\n{lines}\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
            format!("POST / HTTP/1.1\r\n{lines}\r\nhost: a\r\n\r\n0\r\n\r\nGET / HTTP/1.1\r\n\r\n"),
        ] {
            assert_eq!(refused(&wire).0, 400, "{wire:?}");
        }
    }
    let coded = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n";
    assert_eq!(refused(coded).0, 501);
    let coded = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip\r\n\
                 transfer-encoding: chunked\r\n\r\n";
    assert_eq!(refused(coded).0, 501);
    let old = "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    assert_eq!(refused(old), (400, "transfer-encoding in an HTTP/1.0 request"));
}

/// Lines of framing that are one length to some servers, and another to others.
const TWO_ENDS: &[&str] = &[
    "content-length: 5\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked\r\ncontent-length: 5",
    "content-length: 0\r\nTransfer-Encoding: CHUNKED",
    "content-length: 5\r\ncontent-length: 5",
    "content-length: 5\r\ncontent-length: 6",
    "content-length: 5, 5",
    "content-length: 5,",
    "content-length: +5",
    "content-length: -5",
    "content-length: 0x5",
    "content-length: 5 5",
    "content-length: 5;",
    "content-length: \u{b2}",
    "content-length:",
    "content-length: ",
    "content-length: 18446744073709551616",
    "content-length : 5",
    "content-length\t: 5",
    " content-length: 5",
    "x: y\r\n content-length: 5",
    "x: y\r\n\tcontent-length: 5",
    "content-length: 5\r\n ",
    "content_length: 5",
    "content-length\0: 5",
    "content-length: 5\0",
    "x: y\ncontent-length: 5",
    "x: y\rcontent-length: 5",
    "x: y\r\rcontent-length: 5",
    "transfer-encoding: identity",
    "transfer-encoding:",
    "transfer-encoding: ,",
    "transfer-encoding: chunked,",
    "transfer-encoding: ,chunked",
    "transfer-encoding: chunked, chunked",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked",
    "transfer-encoding: chunked, gzip",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity",
    "transfer-encoding: gzip",
    "transfer-encoding: xchunked",
    "transfer-encoding: x chunked",
    "transfer-encoding: chunked x",
    "transfer-encoding: chunked;q=1",
    "transfer-encoding: \"chunked\"",
    "transfer-encoding: \x0bchunked",
    "transfer-encoding:\n chunked",
    "transfer-encoding: \r\n chunked",
    "transfer-encoding : chunked",
    "transfer-encoding\r\n: chunked",
    "transfer_encoding: chunked",
    "transfer-\u{e9}ncoding: chunked",
];

#[test]
fn malformed_chunks_are_refused() {
    for body in BAD_CHUNKS {
        let wire =
            format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}");
        let (status, rule) = refused(&wire);
        // It is refused for what is there, and not for what is missing.
        assert_eq!((status, rule == CUT), (400, false), "{body:?}: {rule}");
    }
    let head = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let long = format!("{head}5;{}\r\nhello\r\n", "x".repeat(1000));
    assert_eq!(decode(&[long.as_bytes()], &LIMITS).refusal.unwrap().status, 400);
    let long = format!("{head}0\r\na: {}", "x".repeat(5000));
    assert_eq!(decode(&[long.as_bytes()], &LIMITS).refusal.unwrap().status, 431);
    let many = format!("{head}0\r\n{}\r\n", "a: b\r\n".repeat(61));
    assert_eq!(decode(&[many.as_bytes()], &LIMITS).refusal.unwrap().status, 431);
    // The largest possible size causes no overflow.
    let seen = decode_cut(format!("{head}ffffffffffffffff\r\nhello").as_bytes());
    assert_eq!((&seen.requests[0].body[..], seen.requests[0].is_whole), (&b"hello"[..], false));
}

/// Chunked bodies that are malformed.
const BAD_CHUNKS: &[&str] = &[
    "\r\n",
    ";x\r\n",
    "g\r\n",
    "0x5\r\nhello\r\n0\r\n\r\n",
    "+5\r\nhello\r\n0\r\n\r\n",
    "-1\r\n",
    " 5\r\nhello\r\n0\r\n\r\n",
    "5 \r\nhello\r\n0\r\n\r\n",
    "5\t;x\r\nhello\r\n0\r\n\r\n",
    "5,5\r\nhello\r\n0\r\n\r\n",
    "5\nhello\r\n0\r\n\r\n",
    "5\r\nhello\n0\r\n\r\n",
    "5\r\nhelloX\r\n0\r\n\r\n",
    "5\r\nhell\r\n0\r\n\r\n",
    "5\rX\nhello\r\n0\r\n\r\n",
    "5;a\nb\r\nhello\r\n0\r\n\r\n",
    "5;a\n5\r\nhello\r\n0\r\n\r\n",
    "5;a\rb\r\nhello\r\n0\r\n\r\n",
    "5;a\0\r\nhello\r\n0\r\n\r\n",
    "5;\"a\r\nhello\"\r\n0\r\n\r\n",
    "10000000000000005\r\nhello\r\n0\r\n\r\n",
    "00000000000000005\r\nhello\r\n0\r\n\r\n",
    "0\n\r\n",
    "0\r\n\n",
    "0\r\nno colon\r\n\r\n",
    "0\r\na: b\n\r\n",
    "0\r\na : b\r\n\r\n",
    "0\r\na: b\r\n c\r\n\r\n",
    "0\r\na_b: c\r\n\r\n",
    "0\r\nhost: b\r\n\r\n",
    "0\r\ncontent-length: 5\r\n\r\n",
    "0\r\ntransfer-encoding: chunked\r\n\r\n",
    "0\r\nte: trailers\r\n\r\n",
    "0\r\nconnection: close\r\n\r\n",
];

#[test]
fn malformed_heads_are_refused_with_the_rule_that_they_break() {
    for (wire, status, rule) in BAD_HEADS {
        assert_eq!(refused(wire), (*status, *rule), "{wire:?}");
    }
    let nominates =
        format!("GET / HTTP/1.1\r\nhost: a\r\nconnection: {}\r\n\r\n", "a,".repeat(100));
    assert_eq!(refused(&nominates), (400, "the connection field names too many fields"));
}

const LINE: &str = "the request line is malformed";
const VERSION: &str = "a version of HTTP other than 1.0 and 1.1";
const NO_VERSION: &str = "the request line does not end with a version";
const START: &str = "the request does not begin with a method";
const NAME: &str = "a field name that is no token";

/// Heads that are refused, with the status and the rule.
const BAD_HEADS: &[(&str, u16, &str)] = &[
    ("GET / HTTP/1.1\r\n\r\n", 400, "no host field"),
    ("GET http://a/ HTTP/1.1\r\n\r\n", 400, "no host field"),
    ("GET / HTTP/1.0\r\n\r\n", 400, "no host field"),
    ("OPTIONS * HTTP/1.0\r\n\r\n", 400, "no host field"),
    ("GET / HTTP/1.1\r\nhost:\r\n\r\n", 400, "an empty authority"),
    ("GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n", 400, "host occurs twice"),
    ("GET / HTTP/1.1\r\nhost: a\r\nHost: b\r\n\r\n", 400, "host occurs twice"),
    (
        "GET / HTTP/1.1\r\nhost: a, b\r\n\r\n",
        400,
        "the authority holds a character that a URI does not allow",
    ),
    ("GET / HTTP/1.1\r\nhost: u@a\r\n\r\n", 400, "the authority holds user information"),
    ("GET / HTTP/1.1\r\nhost: a:0\r\n\r\n", 400, "the authority holds a bad port"),
    ("GET http://a/ HTTP/1.1\r\nhost: b\r\n\r\n", 400, "the request target and host differ"),
    ("GET http://a/ HTTP/1.1\r\nhost: a:80\r\n\r\n", 400, "the request target and host differ"),
    ("GET http:///x HTTP/1.1\r\nhost:\r\n\r\n", 400, "an empty authority"),
    ("GET http://u@a/ HTTP/1.1\r\nhost: u@a\r\n\r\n", 400, "the authority holds user information"),
    ("GET ftp://a/ HTTP/1.1\r\nhost: a\r\n\r\n", 400, "the scheme is neither https nor http"),
    ("GET http://a?x HTTP/1.1\r\nhost: a\r\n\r\n", 400, "the path does not start with a slash"),
    (
        "GET http://a* HTTP/1.1\r\nhost: a*\r\n\r\n",
        400,
        "the authority holds a character that no host name has",
    ),
    ("GET * HTTP/1.1\r\nhost: a\r\n\r\n", 400, "the path * is for OPTIONS only"),
    (
        "GET a HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "the request target is neither a path nor an absolute URI",
    ),
    (
        "GET a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        400,
        "the request target is neither a path nor an absolute URI",
    ),
    (
        "GET /../x HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "the path holds a dot segment; send the path it stands for",
    ),
    (
        "GET http://a/%2e%2e/x HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "the path holds a dot segment; send the path it stands for",
    ),
    ("GET /%00 HTTP/1.1\r\nhost: a\r\n\r\n", 400, "the path holds an encoded NUL"),
    (
        "GET /a#b HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "the path holds a byte that a URI does not allow",
    ),
    (
        "GET /\u{e9} HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "the path holds a byte that a URI does not allow",
    ),
    ("GET /a b HTTP/1.1\r\nhost: a\r\n\r\n", 400, NO_VERSION),
    ("GET /\0 HTTP/1.1\r\nhost: a\r\n\r\n", 400, LINE),
    ("GET  / HTTP/1.1\r\nhost: a\r\n\r\n", 400, LINE),
    ("GET /  HTTP/1.1\r\nhost: a\r\n\r\n", 400, NO_VERSION),
    ("GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n", 400, LINE),
    ("GET /\tHTTP/1.1\r\nhost: a\r\n\r\n", 400, LINE),
    ("GET / HTTP/1.1 \r\nhost: a\r\n\r\n", 400, LINE),
    (" GET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, START),
    ("\x16\x03\x01\x02\x00\x01\x00\x01\u{fc}\x03\x03", 400, START),
    ("GET / HTTP/1.1\nhost: a\n\n", 400, "a line that ends without CR"),
    ("GET / HTTP/1.1\r\nhost: a\n\r\n", 400, "a line that ends without CR"),
    ("\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "a line that ends without CR"),
    ("GET / HTTP/1.1\rhost: a\r\n\r\n", 400, "a CR within a line"),
    ("GET / HTTP/1.1\r\nhost: a\r\n\rX", 400, "a CR within a line"),
    ("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "more than one empty line before a request"),
    ("GET /\r\n\r\n", 400, LINE),
    ("GET / \r\n\r\n", 400, NO_VERSION),
    ("GET\r\n\r\n", 400, LINE),
    ("/ HTTP/1.1\r\nhost: a\r\n\r\n", 400, LINE),
    ("G\"T / HTTP/1.1\r\nhost: a\r\n\r\n", 400, LINE),
    (
        "get / HTTP/1.1\r\nhost: a\r\n\r\n",
        400,
        "the method is a standard one in the wrong case; use upper case",
    ),
    ("GET / http/1.1\r\nhost: a\r\n\r\n", 400, NO_VERSION),
    ("GET / HTTP/01.1\r\nhost: a\r\n\r\n", 400, NO_VERSION),
    ("GET / HTTP/1.1.1\r\nhost: a\r\n\r\n", 400, LINE),
    ("GET / HTTP/11\r\nhost: a\r\n\r\n", 400, NO_VERSION),
    ("GET / HTTPS/1.1\r\nhost: a\r\n\r\n", 400, NO_VERSION),
    ("GET / HTTP/1.2\r\nhost: a\r\n\r\n", 505, VERSION),
    ("GET / HTTP/0.9\r\nhost: a\r\n\r\n", 505, VERSION),
    ("GET / HTTP/2.0\r\nhost: a\r\n\r\n", 505, VERSION),
    (
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        505,
        "an HTTP/2 connection preface, where HTTP/1.1 is spoken",
    ),
    ("GET / HTTP/1.1\r\nhost : a\r\n\r\n", 400, "white space before the colon of a field"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx\t: y\r\n\r\n", 400, "white space before the colon of a field"),
    ("GET / HTTP/1.1\r\n host: a\r\n\r\n", 400, "a folded field line"),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: y\r\n\tz\r\n\r\n", 400, "a folded field line"),
    ("GET / HTTP/1.1\r\nhost: a\r\nno colon\r\n\r\n", 400, "a field line without a colon"),
    ("GET / HTTP/1.1\r\nhost: a\r\n: y\r\n\r\n", 400, NAME),
    ("GET / HTTP/1.1\r\nhost: a\r\nx y: z\r\n\r\n", 400, NAME),
    ("GET / HTTP/1.1\r\nhost: a\r\nx\"y: z\r\n\r\n", 400, NAME),
    ("GET / HTTP/1.1\r\nhost: a\r\nx\0: z\r\n\r\n", 400, NAME),
    ("GET / HTTP/1.1\r\nhost: a\r\nx\u{e9}: z\r\n\r\n", 400, NAME),
    ("GET / HTTP/1.1\r\nhost: a\r\nx: \0\r\n\r\n", 400, "a field value with a control character"),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\x7fz\r\n\r\n",
        400,
        "a field value with a control character",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nx: y\x1bz\r\n\r\n",
        400,
        "a field value with a control character",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nx_y: z\r\n\r\n",
        400,
        "a field name holds an underscore, which upstreams take for a hyphen; rename the field",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\n\r\n",
        417,
        "an expectation other than 100-continue",
    ),
    (
        "GET / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue, x\r\n\r\n",
        417,
        "an expectation other than 100-continue",
    ),
    ("CONNECT a HTTP/1.1\r\nhost: a\r\n\r\n", 400, "CONNECT without a port"),
    ("CONNECT / HTTP/1.1\r\nhost: a\r\n\r\n", 400, "the request target and host differ"),
    ("CONNECT a:1 HTTP/1.1\r\nhost: b:1\r\n\r\n", 400, "the request target and host differ"),
    ("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ncontent-length: 0\r\n\r\n", 400, "a body with CONNECT"),
    (
        "CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\ntransfer-encoding: chunked\r\n\r\n",
        400,
        "a body with CONNECT",
    ),
];

/// RFC 9112 3, RFC 6585 5. The accounting is that of HTTP/3, RFC 9114 4.2.2.
#[test]
fn heads_over_the_limits_are_refused() {
    let limits = FieldLimits { field_section_len_max: 300, field_count_max: 4 };
    let status = |wire: &str| {
        let whole = decode(&[wire.as_bytes()], &limits);
        let bytes: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
        assert_eq!(decode(&bytes, &limits), whole, "{wire:?}");
        whole.refusal.map(|refusal| (refusal.status.as_u16(), refusal.bound.map(|b| b.key)))
    };
    let size = Some("limits.max_header_size");
    // :method GET 42, :scheme https 44, :path / 38, :authority a 43: 167 of 300. A field counts 32
    // more than its bytes.
    let head = |len: usize| format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat(len));
    assert_eq!(status(&head(300 - 167 - 33)), None);
    assert_eq!(status(&head(300 - 167 - 32)), Some((431, size)));
    assert_eq!(status(&head(10_000)), Some((431, size)));
    assert_eq!(status(&format!("GET /{}", "y".repeat(10_000))), Some((414, size)));
    assert_eq!(status(&"y".repeat(10_000)), Some((414, size)));
    // Padding does not count, but is bounded.
    let padded = |len| format!("GET / HTTP/1.1\r\nhost:{}a\r\n\r\n", " ".repeat(len));
    assert_eq!((status(&padded(200)), status(&padded(300))), (None, Some((431, size))));
    // Faults behind the bound do not count.
    assert_eq!(status(&format!("{}\n\n", head(10_000))), Some((431, size)));

    let count = Some("limits.max_header_count");
    let lines =
        |line: &str, count| format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", line.repeat(count));
    let room = FieldLimits { field_section_len_max: 64 * 1024, field_count_max: 4 };
    let counted = |fields: usize| {
        let refusal = decode(&[lines("x:\r\n", fields).as_bytes()], &room).refusal;
        refusal.map(|refusal| (refusal.status.as_u16(), refusal.bound.map(|b| b.key)))
    };
    assert_eq!((counted(4), counted(5)), (None, Some((431, count))));
    assert_eq!(status(&lines("x:\r\n", 60)), Some((431, size)));
    let cookies = lines("cookie: a=b\r\n", 500);
    let seen = decode(&[cookies.as_bytes()], &room);
    assert_eq!((seen.refusal, seen.requests[0].head.fields.len()), (None, 500));
}

#[test]
fn the_log_has_the_parts_of_a_refused_head_that_were_read() {
    let long = format!("GET /{} HTTP/1.1\r\n", "y".repeat(5_000));
    for (wire, method, authority, path) in [
        ("HEAD /x HTTP/1.1\r\nhost: a\r\nx : y\r\n\r\n", Some("HEAD"), Some("a"), Some(&b"/x"[..])),
        ("GET /x HTTP/1.1\r\nHost: a\r\nx\n", Some("GET"), Some("a"), Some(b"/x")),
        ("GET /x HTTP/1.1\r\nHost: a\n", Some("GET"), None, Some(b"/x")),
        ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Some("GET"), Some("a"), Some(b"http://b/")),
        ("GET /x\n", None, None, None),
        ("\x16\x03\x01", None, None, None),
        ("(/) /x HTTP/1.1\r\n\r\n", None, None, None),
        (&long, Some("GET"), None, Some(&long.as_bytes()[4..1024])),
    ] {
        let refusal = decode_cut(wire.as_bytes()).refusal.expect("it is refused");
        let seen = refusal.understood;
        assert_eq!(seen.method.as_ref().map(Method::as_str), method, "{wire:?}");
        let authority = authority.map(str::as_bytes);
        assert_eq!(seen.authority.as_ref().map(|text| text.as_bytes()), authority, "{wire:?}");
        assert_eq!(seen.path.as_ref().map(|text| text.as_bytes()), path, "{wire:?}");
    }
}
