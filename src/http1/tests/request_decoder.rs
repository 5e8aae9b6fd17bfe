//! Tests of the decoder of requests: the same result however the bytes are split.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Method;

use crate::http1::{
    CHUNK_END, Framing, Persistence, RequestDecoder, Version, last_chunk, put_field, put_framing,
    put_request_line, size_line,
};
use crate::message::{FieldLimits, Fields, Head, Refusal, RequestEvent, Scheme, Target};

pub(super) const LIMITS: FieldLimits =
    FieldLimits { field_section_len_max: 4096, field_count_max: 60 };

/// The rule that a truncated request breaks.
pub(super) const CUT: &str = "a connection that ends within a request";

/// A request as it was decoded.
#[derive(Debug, PartialEq, Clone)]
pub(super) struct Seen {
    pub(super) head: Head,
    pub(super) version: Version,
    pub(super) persistence: Persistence,
    pub(super) asks_for_websocket: bool,
    pub(super) body: Vec<u8>,
    pub(super) trailers: Option<Fields>,
    pub(super) is_whole: bool,
}

/// A connection's requests, and how it ended.
#[derive(Debug, PartialEq, Clone, Default)]
pub(super) struct Connection {
    pub(super) requests: Vec<Seen>,
    pub(super) refusal: Option<Refusal>,
    /// Bytes that follow the last request.
    pub(super) leftover_len: usize,
}

pub(super) fn decode(pieces: &[&[u8]], limits: &FieldLimits) -> Connection {
    let mut decoder = RequestDecoder::new(Scheme::Https);
    let mut seen = Connection::default();
    for piece in pieces {
        decoder.handle(Bytes::copy_from_slice(piece));
        if let Err(refusal) = take_all(&mut decoder, &mut seen, limits) {
            seen.refusal = Some(Refusal { understood: decoder.take_understood(), ..*refusal });
            decoder.handle(Bytes::from_static(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"));
            assert_eq!(decoder.held_len(), 0, "the rest is dropped");
            assert_eq!(decoder.poll(limits), Ok(None));
            assert_eq!(decoder.handle_end(), Ok(()));
            return seen;
        }
    }
    seen.leftover_len = decoder.held_len();
    let is_whole = seen.requests.last().is_none_or(|request| request.is_whole);
    if let Err(refusal) = decoder.handle_end() {
        seen.refusal = Some(*refusal);
    } else {
        assert!(is_whole && (decoder.is_done() || !decoder.has_begun()));
    }
    seen
}

fn take_all(
    decoder: &mut RequestDecoder,
    seen: &mut Connection,
    limits: &FieldLimits,
) -> Result<(), Box<Refusal>> {
    loop {
        match decoder.poll(limits)? {
            Some(RequestEvent::Head(head)) => seen.requests.push(Seen {
                head,
                version: decoder.version(),
                persistence: decoder.persistence(),
                asks_for_websocket: decoder.asks_for_websocket(),
                body: Vec::new(),
                trailers: None,
                is_whole: decoder.is_done(),
            }),
            Some(RequestEvent::Body(piece)) => {
                let request = seen.requests.last_mut().expect("a body follows a head");
                assert!(!piece.is_empty() && !request.is_whole && request.trailers.is_none());
                request.body.extend_from_slice(&piece);
                request.is_whole = decoder.is_done();
            }
            Some(RequestEvent::Trailers(fields)) => {
                let request = seen.requests.last_mut().expect("trailers follow a head");
                assert!(decoder.is_done() && !fields.is_empty());
                request.trailers = Some(fields);
                request.is_whole = true;
            }
            None if !decoder.is_done() => return Ok(()),
            None => {
                // A last chunk without trailers ends a request without a part of its own.
                let request = seen.requests.last_mut().expect("a request is done");
                request.is_whole = true;
                if request.persistence == Persistence::Close {
                    return Ok(());
                }
                decoder.start_next();
            }
        }
    }
}

/// Decodes `wire` whole, split in two at every byte, byte by byte, and in pieces of lengths that
/// look random. All results must agree.
pub(super) fn decode_cut(wire: &[u8]) -> Connection {
    let whole = decode(&[wire], &LIMITS);
    for cut in 0..=wire.len() {
        let (front, back) = wire.split_at(cut);
        assert_eq!(decode(&[front, back], &LIMITS), whole, "cut at {cut}");
    }
    let bytes: Vec<&[u8]> = wire.chunks(1).collect();
    assert_eq!(decode(&bytes, &LIMITS), whole, "byte by byte");
    for seed in 1..20 {
        assert_eq!(decode(&pieces(wire, seed), &LIMITS), whole, "seed {seed}");
    }
    whole
}

/// Splits `wire` into pieces of 1 to 16 bytes, by a linear congruential generator.
fn pieces(wire: &[u8], seed: u64) -> Vec<&[u8]> {
    let (mut state, mut rest, mut pieces) = (seed, wire, Vec::new());
    while !rest.is_empty() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (piece, after) = rest.split_at((1 + (state >> 60) as usize).min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

fn accepted(wire: &str) -> Vec<Seen> {
    let seen = decode_cut(wire.as_bytes());
    assert_eq!(seen.refusal, None, "{wire:?}");
    assert!(seen.requests.iter().all(|request| request.is_whole), "{wire:?}");
    seen.requests
}

fn only(wire: &str) -> Seen {
    let mut requests = accepted(wire);
    assert_eq!(requests.len(), 1, "{wire:?}");
    requests.remove(0)
}

fn names(fields: &Fields) -> Vec<&str> {
    fields.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn requests_of_every_form_are_decoded() {
    let cases = [
        ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "https", "a", "/"),
        (
            "GET /x?y=//z HTTP/1.1\r\nhOST:\t A.example:8443 \r\n\r\n",
            "GET",
            "https",
            "A.example:8443",
            "/x?y=//z",
        ),
        ("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "https", "a", "/"),
        ("GET http://a/b HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "http", "a", "/b"),
        ("GET HTTPS://a HTTP/1.1\r\nHost: a\r\n\r\n", "GET", "https", "a", "/"),
        ("GET https://[::1]:1/ HTTP/1.1\r\nHost: [::1]:1\r\n\r\n", "GET", "https", "[::1]:1", "/"),
        ("GET https://a/ HTTP/1.0\r\n\r\n", "GET", "https", "a", "/"),
        ("GET / HTTP/1.0\r\nHost: a\r\n\r\n", "GET", "https", "a", "/"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "https", "a", "*"),
        ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "http", "a", "*"),
        ("OPTIONS / HTTP/1.1\r\nHost: a\r\n\r\n", "OPTIONS", "https", "a", "/"),
        ("M-SEARCH / HTTP/1.1\r\nHost: a\r\n\r\n", "M-SEARCH", "https", "a", "/"),
        ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", "CONNECT", "https", "a:443", ""),
    ];
    for (wire, method, scheme, authority, path) in cases {
        let Seen { head, body, .. } = only(wire);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let seen = (
            head.method.as_str(),
            head.scheme().as_str(),
            head.authority().as_str(),
            &text(head.path())[..],
        );
        assert_eq!(seen, (method, scheme, authority, path), "{wire:?}");
        assert!(head.fields.is_empty() && body.is_empty(), "{wire:?}");
        assert_eq!(matches!(head.target, Target::Connect { .. }), method == "CONNECT");
    }
}

#[test]
fn fields_keep_their_order_and_what_frames_a_message_is_taken_out() {
    let wire = "POST / HTTP/1.1\r\nB: 1\r\nHost: a\r\nEmpty:\r\nb:\t\"\u{e9}\"\t \r\n\
                Transfer-Encoding: chunked\r\nTE: trailers, deflate\r\nConnection: TE\r\n\
                Expect: 100-Continue\r\n\r\n0\r\n\r\n";
    let Seen { head, .. } = only(wire);
    assert_eq!(names(&head.fields), ["b", "empty", "b", "te", "connection", "expect"]);
    let value = |index: usize| head.fields[index].1.as_bytes();
    assert_eq!((value(1), value(2)), (&b""[..], "\"\u{e9}\"".as_bytes()));
    let Seen { head, .. } =
        only("POST / HTTP/1.1\r\nHost: a\r\ncontent-length: 007\r\n\r\n1234567");
    assert_eq!((names(&head.fields), head.content_length), (vec![], Some(7)));
    // RFC 9110 10.1.1.
    let wire = "POST / HTTP/1.0\r\nHost: a\r\ncontent-length: 0\r\nexpect: 100-continue\r\n\r\n";
    assert!(only(wire).head.fields.is_empty());
}

#[test]
fn bodies_of_every_framing_are_decoded() {
    let head = "POST / HTTP/1.1\r\nHost: a\r\n";
    let cases = [
        ("content-length: 5\r\n\r\nhello", "hello"),
        ("content-length: 0\r\n\r\n", ""),
        ("transfer-encoding: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", "hello"),
        (
            "transfer-encoding: \tchunked \r\n\r\n00a;x=\"y\";z\r\n0123456789\r\n0;x\r\n\r\n",
            "0123456789",
        ),
        (
            "transfer-encoding: chunked\r\n\r\nB\r\nabc\r\n0\r\n\r\nx\r\n000\r\n\r\n",
            "abc\r\n0\r\n\r\nx",
        ),
        ("\r\n", ""),
    ];
    for (rest, body) in cases {
        let seen = only(&format!("{head}{rest}"));
        assert_eq!(String::from_utf8(seen.body).unwrap(), body, "{rest:?}");
        assert_eq!(seen.trailers, None, "{rest:?}");
    }
    let wire =
        format!("{head}transfer-encoding: chunked\r\n\r\n1\r\n.\r\n0\r\nX-Sum: 1\r\nb:\r\n\r\n");
    let trailers = only(&wire).trailers.unwrap();
    assert_eq!(names(&trailers), ["x-sum", "b"]);
}

#[test]
fn requests_that_follow_each_other_are_read_one_by_one() {
    let wire = "POST /1 HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\n\r\none\r\n\
                POST /2 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\ntwo\r\n\
                0\r\nx: y\r\n\r\n\
                GET /3 HTTP/1.1\r\nhost: a\r\n\r\n\
                GET /4 HTTP/1.0\r\nhost: a\r\nconnection: close\r\n\r\nrest";
    let seen = decode_cut(wire.as_bytes());
    assert_eq!((seen.refusal, seen.leftover_len), (None, 4));
    let parts =
        |seen: &Seen| (seen.head.path().to_vec(), seen.body.clone(), seen.trailers.is_some());
    let expected = [
        (b"/1".to_vec(), b"one".to_vec(), false),
        (b"/2".to_vec(), b"two".to_vec(), true),
        (b"/3".to_vec(), vec![], false),
        (b"/4".to_vec(), vec![], false),
    ];
    assert_eq!(seen.requests.iter().map(parts).collect::<Vec<_>>(), expected);

    // What follows a request is not read before the next one is begun, even if it is malformed.
    let mut decoder = RequestDecoder::new(Scheme::Http);
    decoder.handle(Bytes::from_static(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n\x16\x03"));
    assert!(matches!(decoder.poll(&LIMITS), Ok(Some(RequestEvent::Head(_)))));
    assert!(decoder.is_done() && decoder.poll(&LIMITS) == Ok(None));
    assert_eq!((decoder.held_len(), decoder.handle_end()), (2, Ok(())));
    decoder.start_next();
    assert!(decoder.poll(&LIMITS).is_err() && decoder.held_len() == 0);
}

#[test]
fn a_connection_persists_as_its_request_says() {
    for (version, connection, persists) in [
        ("1.1", "", true),
        ("1.1", "connection: keep-alive\r\n", true),
        ("1.1", "connection: close\r\n", false),
        ("1.1", "connection: x, CLOSE\r\n", false),
        ("1.1", "connection: keep-alive\r\nconnection: close\r\n", false),
        ("1.0", "", false),
        ("1.0", "connection: Keep-Alive\r\n", true),
        ("1.0", "connection: keep-alive, close\r\n", false),
    ] {
        let seen = only(&format!("GET / HTTP/{version}\r\nhost: a\r\n{connection}\r\n"));
        let expected = if persists { Persistence::KeepAlive } else { Persistence::Close };
        assert_eq!(seen.persistence, expected, "{version} {connection:?}");
        assert_eq!(seen.version == Version::Http11, version == "1.1");
    }
    let connect = only("CONNECT a:1 HTTP/1.1\r\nhost: a:1\r\n\r\n");
    assert_eq!(connect.persistence, Persistence::Close);
}

#[test]
fn a_websocket_handshake_is_recognised() {
    for (lines, version, asks) in [
        ("connection: Upgrade\r\nupgrade: websocket\r\n", "1.1", true),
        ("connection: keep-alive, upgrade\r\nUpgrade: h2c, WebSocket/13\r\n", "1.1", true),
        ("connection: upgrade, http2-settings\r\nupgrade: h2c\r\n", "1.1", false),
        ("upgrade: websocket\r\n", "1.1", false),
        ("connection: upgrade\r\nupgrade: xwebsocket\r\n", "1.1", false),
        // RFC 9110 7.8: HTTP/1.0 has no upgrade.
        ("connection: upgrade\r\nupgrade: websocket\r\n", "1.0", false),
    ] {
        let seen = only(&format!("GET / HTTP/{version}\r\nhost: a\r\n{lines}\r\n"));
        assert_eq!(seen.asks_for_websocket, asks, "{lines:?}");
    }
}

#[test]
fn a_truncated_request_is_never_whole() {
    for wire in [
        "GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello",
        "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
         5\r\nhello\r\n0\r\na: b\r\n\r\n",
    ] {
        for len in 1..wire.len() {
            let seen = decode(&[&wire.as_bytes()[..len]], &LIMITS);
            assert_eq!(seen.refusal.map(|refusal| refusal.rule), Some(CUT), "{:?}", &wire[..len]);
            assert!(seen.requests.iter().all(|request| !request.is_whole));
        }
    }
    // An idle connection that ends truncates nothing.
    assert_eq!(decode_cut(b""), Connection::default());
    assert_eq!(decode_cut(b"\r\n"), Connection::default());
}

#[test]
fn payload_and_values_are_sliced_and_not_copied() {
    let wire = b"POST / HTTP/1.1\r\nhost: a\r\nx: yz\r\ntransfer-encoding: chunked\r\n\r\n\
                 5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n";
    let chunk = Bytes::copy_from_slice(wire);
    let range = chunk.as_ptr_range();
    let mut decoder = RequestDecoder::new(Scheme::Https);
    decoder.handle(chunk);
    let mut slices = Vec::new();
    while let Some(event) = decoder.poll(&LIMITS).unwrap() {
        match event {
            RequestEvent::Head(head) => slices.push(head.fields[0].1.as_bytes().as_ptr_range()),
            RequestEvent::Body(piece) => slices.push(piece.as_ptr_range()),
            RequestEvent::Trailers(_) => unreachable!("there are none"),
        }
    }
    assert!(slices.len() == 3 && decoder.is_done());
    assert!(slices.iter().all(|slice| range.start <= slice.start && slice.end <= range.end));
}

/// A head that comes byte by byte is scanned once: a million bytes take no time that is noticed.
#[test]
fn bytes_that_come_one_by_one_are_not_scanned_again() {
    let limits = FieldLimits { field_section_len_max: 1 << 20, field_count_max: 10 };
    let wire = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "y".repeat((1 << 20) - 200));
    let bytes: Vec<&[u8]> = wire.as_bytes().chunks(1).collect();
    let seen = decode(&bytes, &limits);
    assert_eq!((seen.refusal, seen.requests.len()), (None, 1));
}

/// The requests that the other half of this module writes for upstreams.
#[test]
fn what_is_written_for_upstreams_is_read_as_it_was_meant() {
    for (framing, body) in [
        (Framing::None, &[][..]),
        (Framing::Length(0), &[]),
        (Framing::Length(10), &["hello", "world"]),
        (Framing::Chunked, &["hello", "0\r\n\r\n"]),
    ] {
        let mut out = BytesMut::new();
        put_request_line(&mut out, &Method::PUT, b"/a?b");
        put_field(&mut out, "host", b"a");
        put_field(&mut out, "x", b"y z");
        put_framing(&mut out, framing);
        for piece in body {
            if framing == Framing::Chunked {
                out.put_slice(&size_line(piece.len()));
                out.put_slice(piece.as_bytes());
                out.put_slice(&CHUNK_END);
            } else {
                out.put_slice(piece.as_bytes());
            }
        }
        let trailers = vec![("x-sum".parse().unwrap(), "1".parse().unwrap())];
        if framing == Framing::Chunked {
            out.put_slice(&last_chunk(Some(&trailers)));
        }
        let seen = only(std::str::from_utf8(&out).unwrap());
        assert_eq!(seen.head.method, Method::PUT);
        assert_eq!((names(&seen.head.fields), seen.head.path()), (vec!["x"], &b"/a?b"[..]));
        assert_eq!(seen.body, body.concat().as_bytes());
        assert_eq!(seen.trailers, (framing == Framing::Chunked).then_some(trailers));
    }
}
