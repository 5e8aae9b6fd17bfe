//! Tests of the encoder of responses: exact bytes, and the reader of the other half of this module.

use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};

use crate::http1::{Part, Persistence, ResponseDecoder, ResponseEncoder, Version};
use crate::message::Fields;

use Persistence::{Close, KeepAlive};
use Version::{Http10, Http11};

fn fields(lines: &[(&str, &str)]) -> Fields {
    let field = |(name, value): &(&str, &str)| (name.parse().unwrap(), value.parse().unwrap());
    lines.iter().map(field).collect()
}

fn text(out: &[Bytes]) -> String {
    String::from_utf8(out.concat()).unwrap()
}

/// Encodes a response with this content. Returns its bytes, and whether the connection persists.
fn encode(
    (version, method): (Version, Method),
    status: u16,
    content_length: Option<u64>,
    persistence: Persistence,
    content: &[&'static str],
) -> (String, Persistence) {
    let mut encoder = ResponseEncoder::new(version, &method);
    let mut out = Vec::new();
    let status = StatusCode::from_u16(status).unwrap();
    let fields = fields(&[("b", "1"), ("content-length", "999"), ("a", "2")]);
    let persistence = encoder.begin(status, &fields, content_length, persistence, &mut out);
    for piece in content {
        encoder.body(Bytes::from_static(piece.as_bytes()), &mut out);
    }
    assert!(!encoder.is_done());
    encoder.end(None, &mut out);
    assert!(encoder.is_done() && !encoder.ends_with_connection());
    (text(&out), persistence)
}

/// Status line, own lines and content of a response.
type Expected = (&'static str, &'static str, Persistence);

fn check(
    to: &(Version, Method),
    (status, len, persistence): (u16, Option<u64>, Persistence),
    content: &[&'static str],
    (line, rest, persists): Expected,
) {
    let expected = format!("HTTP/1.1 {line}\r\nb: 1\r\na: 2\r\n{rest}");
    let seen = encode(to.clone(), status, len, persistence, content);
    assert_eq!(seen, (expected, persists), "{to:?} {status} {len:?}");
}

#[test]
fn responses_of_every_framing_have_their_exact_bytes() {
    let (to, hello) = (&(Http11, Method::GET), &["hello"]);
    let expected = ("200 OK", "content-length: 5\r\n\r\nhello", KeepAlive);
    check(to, (200, Some(5), KeepAlive), hello, expected);
    let expected = ("200 OK", "content-length: 5\r\nconnection: close\r\n\r\nhello", Close);
    check(to, (200, Some(5), Close), hello, expected);
    let expected = ("299 ", "content-length: 0\r\n\r\n", KeepAlive);
    check(to, (299, Some(0), KeepAlive), &[], expected);
    let rest = "transfer-encoding: chunked\r\n\r\n\
                5\r\nhello\r\n10\r\n0123456789abcdef\r\n0\r\n\r\n";
    let content = &["hello", "0123456789abcdef"];
    check(to, (200, None, KeepAlive), content, ("200 OK", rest, KeepAlive));
    let rest = "transfer-encoding: chunked\r\nconnection: close\r\n\r\n0\r\n\r\n";
    check(to, (500, None, Close), &[], ("500 Internal Server Error", rest, Close));
}

/// RFC 9112 6.3, RFC 9110 8.6.
#[test]
fn responses_without_content_have_the_length_of_what_is_left_out() {
    let (to, hello) = (&(Http11, Method::GET), &["hello"]);
    let expected = ("204 No Content", "\r\n", KeepAlive);
    check(to, (204, None, KeepAlive), hello, expected);
    check(to, (204, Some(5), KeepAlive), hello, expected);
    let expected = ("304 Not Modified", "content-length: 5\r\n\r\n", KeepAlive);
    check(to, (304, Some(5), KeepAlive), hello, expected);
    check(to, (304, None, KeepAlive), &[], ("304 Not Modified", "\r\n", KeepAlive));
    let to = &(Http11, Method::HEAD);
    let expected = ("200 OK", "content-length: 5\r\n\r\n", KeepAlive);
    check(to, (200, Some(5), KeepAlive), hello, expected);
    check(to, (200, None, KeepAlive), hello, ("200 OK", "\r\n", KeepAlive));
}

/// HTTP/1.0 has no chunks, and does not persist by itself.
#[test]
fn responses_to_head_and_some_statuses_have_no_content() {
    let to_get = ResponseEncoder::new(Http11, &Method::GET);
    let to_head = ResponseEncoder::new(Http11, &Method::HEAD);
    for (status, to_get_has) in [(200, true), (204, false), (205, true), (304, false), (404, true)]
    {
        let status = StatusCode::from_u16(status).unwrap();
        assert_eq!(!to_get.omits_content(status), to_get_has, "{status}");
        assert!(to_head.omits_content(status), "{status}");
    }
}

#[test]
fn a_client_of_http_1_0_gets_no_chunks() {
    let (to, hello) = (&(Http10, Method::GET), &["hello"]);
    let rest = "content-length: 5\r\nconnection: keep-alive\r\n\r\nhello";
    check(to, (200, Some(5), KeepAlive), hello, ("200 OK", rest, KeepAlive));
    let expected = ("200 OK", "connection: close\r\n\r\nhello", Close);
    check(to, (200, None, KeepAlive), hello, expected);
    let expected = ("204 No Content", "connection: keep-alive\r\n\r\n", KeepAlive);
    check(to, (204, None, KeepAlive), &[], expected);
}

#[test]
fn interim_responses_are_for_http_1_1_only() {
    let mut out = Vec::new();
    let hints = fields(&[("link", "</a>")]);
    ResponseEncoder::new(Http11, &Method::GET).interim(StatusCode::EARLY_HINTS, &hints, &mut out);
    assert_eq!(text(&out), "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    out.clear();
    let mut encoder = ResponseEncoder::new(Http10, &Method::GET);
    encoder.interim(StatusCode::CONTINUE, &Fields::new(), &mut out);
    assert!(out.is_empty());
    let _ = encoder.begin(StatusCode::OK, &Fields::new(), Some(0), KeepAlive, &mut out);
    assert_eq!(out.len(), 1);
}

#[test]
fn pieces_are_not_copied() {
    let piece = Bytes::from_static(b"hello");
    for (version, len) in [(Http11, None), (Http11, Some(5)), (Http10, None)] {
        let mut encoder = ResponseEncoder::new(version, &Method::GET);
        let mut out = Vec::new();
        let _ = encoder.begin(StatusCode::OK, &Fields::new(), len, KeepAlive, &mut out);
        encoder.body(piece.clone(), &mut out);
        assert!(
            out.iter().any(|written| written.as_ptr() == piece.as_ptr()),
            "{version:?} {len:?}"
        );
    }
}

#[test]
fn an_upstreams_reader_finds_what_was_written() {
    let trailers = fields(&[("x-sum", "1")]);
    for (version, content_length) in [(Http11, None), (Http11, Some(10)), (Http10, None)] {
        let mut encoder = ResponseEncoder::new(version, &Method::GET);
        let mut out = Vec::new();
        encoder.interim(StatusCode::EARLY_HINTS, &Fields::new(), &mut out);
        let ok = StatusCode::OK;
        let sent = fields(&[("x", "y z"), ("set-cookie", "a"), ("set-cookie", "b")]);
        let persistence = encoder.begin(ok, &sent, content_length, KeepAlive, &mut out);
        encoder.body(Bytes::from_static(b"hello"), &mut out);
        encoder.body(Bytes::from_static(b"world"), &mut out);
        let cut_len = out.concat().len();
        let needs_close = encoder.ends_with_connection();
        encoder.end(Some(&trailers), &mut out);

        let wire = out.concat();
        let mut decoder = ResponseDecoder::new(false, 4096);
        let (mut body, mut seen_trailers) = (Vec::new(), None);
        let mut piece = BytesMut::from(&wire[..]);
        while let Some(part) = decoder.decode(&mut piece).unwrap() {
            match part {
                Part::Interim(head) => assert_eq!(head.status, StatusCode::EARLY_HINTS),
                Part::Head(head) => {
                    assert_eq!((head.status, &head.fields[..3]), (ok, &sent[..]));
                    assert_eq!(head.content_length, content_length);
                }
                Part::Body(bytes) => body.extend_from_slice(&bytes),
                Part::End(fields) => seen_trailers = Some(fields),
            }
        }
        assert_eq!(body, b"helloworld");
        assert_eq!(decoder.keeps_alive(), persistence == KeepAlive);
        let is_chunked = version == Http11 && content_length.is_none();
        let none = (!needs_close).then(Fields::new);
        assert_eq!(seen_trailers, if is_chunked { Some(trailers.clone()) } else { none });
        assert_eq!(decoder.ends_with_connection(), needs_close);

        // A response that is not ended is not whole, unless the close ends it.
        let mut decoder = ResponseDecoder::new(false, 4096);
        let len = if content_length.is_some() { cut_len - 1 } else { cut_len };
        let mut piece = BytesMut::from(&wire[..len]);
        while decoder.decode(&mut piece).unwrap().is_some() {}
        assert!(!decoder.is_done());
        assert_eq!(decoder.ends_with_connection(), needs_close);
    }
}

#[test]
#[should_panic(expected = "a response that breaks off is not ended")]
fn a_response_that_is_too_short_cannot_be_ended() {
    let _ = encode((Http11, Method::GET), 200, Some(6), KeepAlive, &["hello"]);
}

#[test]
#[should_panic(expected = "content is not longer than its content-length")]
fn a_response_cannot_be_longer_than_its_content_length() {
    let _ = encode((Http11, Method::GET), 200, Some(4), KeepAlive, &["hello"]);
}
