//! Tests of the codec against vectors, split at every byte. Here are those of responses from
//! upstreams.

mod request_decoder;
mod request_refusals;
mod response_encoder;

use bytes::{Bytes, BytesMut};

use super::{ConnectionOptions, Error, Part, ResponseDecoder};
use crate::limits::{
    CHUNK_LINE_LEN_MAX, NOMINATED_COUNT_MAX, RESPONSE_FIELD_COUNT_MAX, RESPONSE_INTERIM_COUNT_MAX,
};
use crate::message::Fields;

/// A client's view of the decoded response.
#[derive(Debug, Default, PartialEq, Clone)]
struct Outcome {
    interim: Vec<u16>,
    status: u16,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
    trailers: Vec<(String, String)>,
    whole: bool,
    keeps_alive: bool,
    leftover_len: usize,
}

fn plain(fields: &Fields) -> Vec<(String, String)> {
    let plain = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    fields.iter().map(|(name, value)| (name.to_string(), plain(value))).collect()
}

fn decode(pieces: &[&[u8]], to_head: bool, closes: bool) -> Result<Outcome, Error> {
    let mut decoder = ResponseDecoder::new(to_head, 4096);
    let mut outcome = Outcome::default();
    for piece in pieces {
        let mut piece = BytesMut::from(*piece);
        while let Some(part) = decoder.decode(&mut piece)? {
            assert!(!outcome.whole, "a part follows the end");
            match part {
                Part::Interim(head) => outcome.interim.push(head.status.as_u16()),
                Part::Head(head) => {
                    outcome.status = head.status.as_u16();
                    outcome.fields = plain(&head.fields);
                    outcome.whole = head.ended;
                }
                Part::Body(piece) => {
                    assert!(!piece.is_empty());
                    outcome.body.extend_from_slice(&piece);
                }
                Part::End(trailers) => {
                    outcome.trailers = plain(&trailers);
                    outcome.whole = true;
                }
            }
        }
        outcome.leftover_len += piece.len();
    }
    if closes {
        outcome.whole = outcome.whole || decoder.ends_with_connection();
    }
    outcome.keeps_alive = decoder.keeps_alive();
    Ok(outcome)
}

/// Decodes `wire` whole, split in two at every byte, and byte by byte. All results must agree.
fn decode_cut(wire: &[u8], to_head: bool, closes: bool) -> Result<Outcome, Error> {
    let whole = decode(&[wire], to_head, closes);
    for cut in 0..=wire.len() {
        let (front, back) = wire.split_at(cut);
        assert_eq!(decode(&[front, back], to_head, closes), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(decode(&bytes, to_head, closes), whole, "byte by byte");
    whole
}

/// A complete response: status, body, whether the connection is kept alive, bytes left over.
type Whole = (u16, &'static str, bool, usize);

fn assert_response(wire: &str, to_head: bool, expected: Whole) {
    let outcome = decode_cut(wire.as_bytes(), to_head, true).expect("a good answer");
    assert!(outcome.whole, "{wire:?} is not whole");
    let body = String::from_utf8(outcome.body).unwrap();
    let seen = (outcome.status, body.as_str(), outcome.keeps_alive, outcome.leftover_len);
    assert_eq!(seen, expected, "{wire:?}");
}

#[test]
fn responses_of_every_framing_are_decoded() {
    let cases: [(&str, Whole); 19] = [
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", (200, "hello", true, 0)),
        ("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloX", (200, "hello", true, 1)),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", (200, "", true, 0)),
        ("HTTP/1.1 200\r\ncontent-length:\t05 \r\n\r\nhello", (200, "hello", true, 0)),
        (
            "HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length: 2\r\n\r\nhi",
            (200, "hi", false, 0),
        ),
        (
            "HTTP/1.1 200 OK\r\nconnection: x, CLOSE\r\ncontent-length: 2\r\n\r\nhi",
            (200, "hi", false, 0),
        ),
        ("HTTP/1.0 200 OK\r\ncontent-length: 2\r\n\r\nhi", (200, "hi", false, 0)),
        (
            "HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nhi",
            (200, "hi", true, 0),
        ),
        ("HTTP/1.1 200 OK\r\n\r\nuntil the close", (200, "until the close", false, 0)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            (200, "hello", true, 0),
        ),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n0\r\n\r\nHTTP", (200, "", true, 4)),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             00a;x=\"y\"\r\n0123456789\r\nB \t;z\r\nabcdefghijk\r\n000\r\n\r\n",
            (200, "0123456789abcdefghijk", true, 0),
        ),
        (
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n\
             5   \r\nhello\r\n6\t \r\n world\r\n0 \r\n\r\n",
            (200, "hello world", true, 0),
        ),
        // RFC 9110 15: a client treats it as 5xx; what delimits it is the same.
        ("HTTP/1.1 600 High\r\ncontent-length: 2\r\n\r\nhi", (600, "hi", true, 0)),
        ("HTTP/1.1 999 Denied\r\ncontent-length: 2\r\n\r\nhi", (999, "hi", true, 0)),
        // RFC 9112 5.1: white space before a colon is removed.
        ("HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi", (200, "hi", true, 0)),
        ("HTTP/1.1 204 No Content\r\n\r\n", (204, "", true, 0)),
        ("HTTP/1.1 304 Not Modified\r\ncontent-length: 9\r\n\r\n", (304, "", true, 0)),
        ("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nhi", (204, "", true, 2)),
    ];
    for (wire, expected) in cases {
        assert_response(wire, false, expected);
    }
    assert_response("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n", true, (200, "", true, 0));
    assert_response("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", true, (200, "", true, 5));
    assert_response(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        true,
        (200, "", true, 0),
    );
}

#[test]
fn equal_content_lengths_become_one_without_leading_zeros() {
    for (lines, fields) in [
        ("content-length: 2\r\n", vec!["2"]),
        ("content-length: 02\r\n", vec!["2"]),
        ("content-length: 002\r\ncontent-length: 2\r\n", vec!["2"]),
        ("content-length: 2\r\ncontent-length: 02\r\n", vec!["2"]),
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\n{lines}\r\nhi");
        let outcome = decode_cut(wire.as_bytes(), false, false).unwrap();
        let lengths = outcome.fields.iter().filter(|(name, _)| name == "content-length");
        assert_eq!(lengths.map(|(_, value)| value.as_str()).collect::<Vec<_>>(), fields, "{lines}");
    }
}

#[test]
fn interim_responses_precede_the_final_one_and_are_bounded() {
    let wire = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n\
                HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n.";
    let outcome = decode_cut(wire.as_bytes(), false, false).unwrap();
    assert_eq!((outcome.interim, outcome.status), (vec![100, 103], 200));

    let flood = "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(10_000);
    assert!(matches!(decode(&[flood.as_bytes()], false, false), Err(Error::Malformed(_))));
}

/// A response at each fixed bound is accepted, and the refusal of one beyond it has the number.
#[test]
fn a_fixed_bound_that_was_exceeded_is_named_with_its_number() {
    let respond = |fields: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\n{body}");
    let chunked = |body: &str| respond("transfer-encoding: chunked\r\n", body);
    let fields = |count: usize| "a: b\r\n".repeat(count);
    let sized = "content-length: 0\r\n";
    type Form<'a> = Box<dyn Fn(usize) -> String + 'a>;
    let forms: [(usize, Form<'_>); 5] = [
        (RESPONSE_FIELD_COUNT_MAX, Box::new(|count| respond(&(fields(count - 1) + sized), ""))),
        (
            RESPONSE_FIELD_COUNT_MAX,
            Box::new(|count| chunked(&format!("0\r\n{}\r\n", fields(count)))),
        ),
        (
            RESPONSE_INTERIM_COUNT_MAX as usize,
            Box::new(|count| "HTTP/1.1 103 Early\r\n\r\n".repeat(count) + &respond(sized, "")),
        ),
        (
            NOMINATED_COUNT_MAX,
            Box::new(|count| {
                respond(&format!("connection: {}\r\n{sized}", "x,".repeat(count)), "")
            }),
        ),
        (
            CHUNK_LINE_LEN_MAX,
            // A digit, the line end, and blanks.
            Box::new(|len| chunked(&format!("1{}\r\n.\r\n0\r\n\r\n", " ".repeat(len - 3)))),
        ),
    ];
    for (bound, form) in forms {
        assert!(decode(&[form(bound).as_bytes()], false, false).is_ok_and(|outcome| outcome.whole));
        let Err(Error::Malformed(rule)) = decode(&[form(bound + 1).as_bytes()], false, false)
        else {
            panic!("{bound} and one more");
        };
        assert!(rule.contains(&format!(" {bound} ")), "{rule}");
        assert!(rule.ends_with(", a fixed bound"), "{rule}");
    }
    assert!(ConnectionOptions::TOO_MANY.contains(&format!(" {NOMINATED_COUNT_MAX} ")));
}

#[test]
fn trailers_are_decoded_and_bounded() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\n.\r\n0\r\n";
    for line in ["X-Sum: 1", "X-Sum \t: 1"] {
        let wire = format!("{head}{line}\r\n\r\n");
        let outcome = decode_cut(wire.as_bytes(), false, false).unwrap();
        assert_eq!(outcome.trailers, [("x-sum".to_owned(), "1".to_owned())]);
        assert!(outcome.whole && outcome.keeps_alive);
    }

    for bad in
        ["no colon\r\n\r\n", "a: b\n\n", "a b: c\r\n\r\n", "a: b\r\n c\r\n\r\n", "a: b\r\r\n"]
    {
        let wire = format!("{head}{bad}");
        assert!(decode_cut(wire.as_bytes(), false, false).is_err(), "{bad:?}");
    }
    let wire = format!("{head}a: {}\r\n\r\n", "b".repeat(5000));
    assert_eq!(decode(&[wire.as_bytes()], false, false), Err(Error::TooLong));
}

#[test]
fn ambiguous_responses_are_refused() {
    let heads = [
        "hello\r\n",
        "<html>",
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2 200\r\n\r\n",
        "HTTP/1.2 200 OK\r\n\r\n",
        "ICY 200 OK\r\n\r\n",
        "HTTP/1.1 099 Low\r\n\r\n",
        "HTTP/1.1 20 OK\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "HTTP/1.1 +20 OK\r\n\r\n",
        "HTTP/1.1  200 OK\r\n\r\n",
        "HTTP/1.1 200 OK\n\n",
        "HTTP/1.1 200 OK\r\na: b\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\rc: d\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\r\n c\r\n\r\n",
        "HTTP/1.1 200 OK\r\n a: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\na b: c\r\n\r\n",
        "HTTP/1.1 200 OK\r\n : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length : 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\n: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 200 OK\r\na: b\0c\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 5, 5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: +5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: -0\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 0x5\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length:\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 18446744073709551616\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked, chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: xchunked\r\n\r\n",
        "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\ntransfer-encoding: chunked\r\n\r\n",
    ];
    for wire in heads {
        let refused = decode_cut(wire.as_bytes(), false, true);
        assert!(matches!(refused, Err(Error::Malformed(_))), "{wire:?}: {refused:?}");
    }
    let long = format!("HTTP/1.1 200 OK\r\na: {}", "b".repeat(1 << 20));
    assert_eq!(decode(&[long.as_bytes()], false, false), Err(Error::TooLong));
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n", "a: b\r\n".repeat(200));
    assert!(matches!(decode(&[many.as_bytes()], false, false), Err(Error::Malformed(_))));
    let nominates = format!("HTTP/1.1 200 OK\r\nconnection: {}\r\n\r\n", "a,".repeat(100));
    assert!(matches!(decode(&[nominates.as_bytes()], false, false), Err(Error::Malformed(_))));
}

/// RFC 9112 5.1, 5.2: an operator looks for the name, whatever is wrong with its line.
#[test]
fn the_name_of_a_faulty_field_is_known() {
    let long = "x".repeat(100);
    for (line, name) in [
        ("x-odd: a\0b", Some("x-odd")),
        ("x-odd\t : a\x7fb", Some("x-odd")),
        ("x-odd: a\r\n folded", Some("x-odd")),
        ("x-odd: a\r\n\tfolded", Some("x-odd")),
        ("x odd: a", Some("x odd")),
        ("no colon", Some("no colon")),
        (": no name", Some("")),
        (&long, Some(&long[..64])),
        // No single field is wrong.
        ("content-length: 1\r\ncontent-length: 2", None),
        ("transfer-encoding: gzip", None),
    ] {
        let wire = format!("HTTP/1.1 200 OK\r\nserver: x\r\nempty:\r\n{line}\r\nlast: y\r\n\r\n");
        let mut decoder = ResponseDecoder::new(false, 4096);
        let refused = decoder.decode(&mut BytesMut::from(wire.as_bytes()));
        assert!(matches!(refused, Err(Error::Malformed(_))), "{line:?}: {refused:?}");
        assert_eq!(decoder.faulty_field(), name.map(str::as_bytes), "{line:?}");
        assert!(decoder.speaks_http(), "{line:?}");
    }
}

#[test]
fn what_does_not_begin_as_http_is_not_http() {
    for (wire, speaks_http) in [
        ("SSH-2.0-x\r\n", false),
        ("HTTP/2 200\r\n\r\n", false),
        ("HTTP/", false),
        ("HTTP/1.1 200 OK\nbare", true),
        ("HTTP/1.1 20\r\n\r\n", true),
    ] {
        let mut decoder = ResponseDecoder::new(false, 4096);
        for byte in wire.bytes() {
            if decoder.decode(&mut BytesMut::from(&[byte][..])).is_err() {
                break;
            }
        }
        assert_eq!(decoder.speaks_http(), speaks_http, "{wire:?}");
    }
}

#[test]
fn malformed_chunks_are_refused() {
    let head = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
    let bodies = [
        "\r\n",
        ";x\r\n",
        "g\r\n",
        "0x5\r\nhello\r\n",
        "-1\r\n",
        " 5\r\nhello\r\n",
        "5 5\r\nhello\r\n",
        "5 \r \nhello\r\n",
        "5\x0b\r\nhello\r\n",
        "5\nhello\r\n",
        "5\r\nhello\n",
        "5\r\nhelloX\r\n",
        "5\r\nhello\rX",
        "5;a\nb\r\n",
        "5;a\rb\r\n",
        "5;a\0b\r\n",
        "5;\"a\nb\"\r\n",
        "5 x\r\n",
        "10000000000000000\r\n",
        "00000000000000005\r\n",
        "0\r\n\n",
    ];
    for body in bodies {
        let wire = format!("{head}{body}");
        let refused = decode_cut(wire.as_bytes(), false, false);
        assert!(matches!(refused, Err(Error::Malformed(_))), "{body:?}: {refused:?}");
    }
    for long in [format!(";{}", "x".repeat(1000)), " ".repeat(1000)] {
        let wire = format!("{head}5{long}\r\nhello\r\n");
        assert!(matches!(decode(&[wire.as_bytes()], false, false), Err(Error::Malformed(_))));
    }
    // The largest possible size causes no overflow.
    let wire = format!("{head}ffffffffffffffff\r\nhello");
    let outcome = decode_cut(wire.as_bytes(), false, true).unwrap();
    assert_eq!((outcome.body.as_slice(), outcome.whole), (&b"hello"[..], false));
}

#[test]
fn a_truncated_response_is_never_complete() {
    let responses = [
        "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\na: b\r\n\r\n",
        "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    ];
    for wire in responses {
        for len in 0..wire.len() {
            let outcome = decode(&[&wire.as_bytes()[..len]], false, true).unwrap();
            assert!(!outcome.whole && !outcome.keeps_alive, "{:?}", &wire[..len]);
        }
    }
}

#[test]
fn payload_is_sliced_and_not_copied() {
    let wire = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n";
    let mut piece = BytesMut::from(&wire[..]);
    let range = piece.as_ptr_range();
    let mut decoder = ResponseDecoder::new(false, 4096);
    let mut bodies: Vec<Bytes> = Vec::new();
    while let Some(part) = decoder.decode(&mut piece).unwrap() {
        match part {
            Part::Body(body) => bodies.push(body),
            Part::Head(head) => {
                let (_, value) = &head.fields[0];
                assert_eq!(value, "chunked");
            }
            _ => unreachable!("only a head and two pieces"),
        }
    }
    assert_eq!(bodies, ["hello", "world"]);
    assert!(bodies.iter().all(|body| range.contains(&body.as_ptr())));
}
