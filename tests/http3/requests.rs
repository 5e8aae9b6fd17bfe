//! Request streams: which are accepted, which are refused and with which code, however they are
//! split into chunks.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use ringway::testing::http3::code_name;
use ringway::testing::internal::http3::RequestError::{self, Connection, Refused, Stream};
use ringway::testing::internal::http3::{Code, ConnectionError, RequestEvent};
use ringway::testing::internal::message::Scheme;

use crate::*;

/// Returns what a refusal looks like to the peer; the rule's text is for logs only.
pub(super) fn kind(error: RequestError) -> String {
    match error {
        Connection(ConnectionError { code, .. }) => format!("connection {}", code_name(code)),
        Stream { code, .. } => format!("stream {}", code_name(code)),
        Refused(refusal) => refusal.status.as_str().to_owned(),
    }
}

fn name(text: &'static str) -> HeaderName {
    HeaderName::from_static(text)
}

fn value(text: &'static str) -> HeaderValue {
    HeaderValue::from_static(text)
}

#[test]
fn a_complete_request_is_decoded() {
    let bytes = [
        frame(GREASE, b"anything"),
        frame(
            HEADERS,
            &packed_section(&[
                (":method", b"POST"),
                (":scheme", b"https"),
                (":authority", b"Example.com:8443"),
                (":path", b"/a%2Fb?c=d|e"),
                ("cookie", b"a=1"),
                ("content-length", b"11"),
                ("x-custom", b"one"),
                ("host", b"Example.com:8443"),
                ("cookie", b"b=2"),
                ("te", b"trailers"),
                ("content-length", b"11"),
            ]),
        ),
        frame(DATA, b"hello "),
        frame(DATA, b""),
        frame(GREASE, b""),
        frame(DATA, b"world"),
        frame(HEADERS, &packed_section(&[("x-sum", b"42")])),
        frame(GREASE, b"after"),
    ]
    .concat();
    let (events, end) = run_bytes(&bytes);
    assert_eq!(end, Ok(()));
    let events = joined(events);
    let RequestEvent::Head(head) = &events[0] else { panic!("{events:?}") };
    assert_eq!(head.method, Method::POST);
    assert_eq!(head.scheme(), Scheme::Https);
    assert_eq!(head.authority().as_str(), "Example.com:8443");
    assert_eq!((head.authority().host(), head.authority().port()), ("example.com", Some(8443)));
    assert_eq!(head.path(), b"/a%2Fb?c=d|e");
    assert_eq!(head.content_length, Some(11));
    assert_eq!(
        head.fields,
        [
            (name("cookie"), value("a=1")),
            (name("x-custom"), value("one")),
            (name("cookie"), value("b=2")),
            (name("te"), value("trailers")),
        ]
    );
    assert_eq!(events[1], RequestEvent::Body(Bytes::from_static(b"hello world")));
    assert_eq!(events[2], RequestEvent::Trailers(vec![(name("x-sum"), value("42"))]));
    assert_eq!(events.len(), 3);

    // The same, split in two at every byte, and into single bytes.
    for cut in 0..=bytes.len() {
        let (first, second) = bytes.split_at(cut);
        let chunks = [Bytes::copy_from_slice(first), Bytes::copy_from_slice(second)];
        let (cut_events, end) = run(chunks, &SETTINGS);
        assert_eq!((joined(cut_events), end), (events.clone(), Ok(())), "cut at {cut}");
    }
    let single = bytes.iter().map(|&byte| Bytes::copy_from_slice(&[byte]));
    assert_eq!(joined(run(single, &SETTINGS).0), events);
}

#[test]
fn a_body_is_never_copied() {
    let head = frame(HEADERS, &section(GET));
    let first = Bytes::from([&head[..], &varint(DATA), &varint(10), b"01234"].concat());
    let second = Bytes::from_static(b"56789");
    let (events, end) = run([first.clone(), second.clone()], &SETTINGS);
    assert_eq!(end, Ok(()));
    let [RequestEvent::Head(_), RequestEvent::Body(one), RequestEvent::Body(two)] = &events[..]
    else {
        panic!("expected a head and two pieces: {events:?}")
    };
    assert_eq!(one.as_ptr(), first[first.len() - 5..].as_ptr());
    assert_eq!(two.as_ptr(), second.as_ptr());
}

#[test]
fn a_chunk_is_released_once_its_parts_are_taken() {
    let chunk = Bytes::from([&frame(HEADERS, &section(GET))[..], &[0x40]].concat());
    let mut stream = ringway::testing::internal::http3::RequestStream::default();
    stream.handle(chunk.clone());
    let head = stream.poll(&SETTINGS).unwrap();
    assert_eq!(stream.poll(&SETTINGS), Ok(None));
    // The stream is inside a frame and the head is alive, yet the chunk is released.
    assert!(matches!(head, Some(RequestEvent::Head(_))));
    assert!(chunk.is_unique());
}

#[test]
fn an_unknown_frame_of_any_length_is_discarded_without_buffering() {
    let mut stream = ringway::testing::internal::http3::RequestStream::default();
    let begin = [&frame(HEADERS, &section(GET))[..], &varint(GREASE), &[0xff; 8]].concat();
    stream.handle(Bytes::from(begin));
    assert!(stream.poll(&SETTINGS).unwrap().is_some());
    for _ in 0..1000 {
        let chunk = Bytes::from(vec![0; 65_536]);
        stream.handle(chunk.clone());
        assert_eq!(stream.poll(&SETTINGS), Ok(None));
        assert!(chunk.is_unique());
    }
    let end = stream.handle_end().map_err(kind);
    assert_eq!(end, Err("connection H3_FRAME_ERROR".to_owned()));
}

/// Frames and their order: RFC 9114 4.1, 7.1, 7.2.
#[test]
fn malformed_request_streams_are_refused() {
    let get = frame(HEADERS, &section(GET));
    let connect =
        frame(HEADERS, &section(&[(":method", b"CONNECT"), (":authority", b"example.com:443")]));
    let trailers = frame(HEADERS, &section(&[("x", b"y")]));
    let five = frame(HEADERS, &section(&get_with(&[("content-length", b"5")])));
    let unexpected = "connection H3_FRAME_UNEXPECTED";
    let frame_error = "connection H3_FRAME_ERROR";
    let message_error = "stream H3_MESSAGE_ERROR";
    let qpack = "connection QPACK_DECOMPRESSION_FAILED";
    let mut cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], "stream H3_REQUEST_INCOMPLETE"),
        ("unknown frames only", frame(GREASE, b"x"), "stream H3_REQUEST_INCOMPLETE"),
        ("DATA first", frame(DATA, b"x"), unexpected),
        ("DATA after trailers", [&get[..], &trailers, &frame(DATA, b"x")].concat(), unexpected),
        ("a third section", [&get[..], &trailers, &trailers].concat(), unexpected),
        ("HEADERS after CONNECT", [&connect[..], &trailers].concat(), unexpected),
        ("half a frame type", [&get[..], &[0x40]].concat(), frame_error),
        ("half a length", [&get[..], &[0x00, 0x40]].concat(), frame_error),
        ("half a section", get[..get.len() - 1].to_vec(), frame_error),
        ("half a body", [&get[..], &[0x00, 0x02, b'x']].concat(), frame_error),
        ("half an unknown frame", [&get[..], &varint(GREASE), &[9, 9]].concat(), frame_error),
        ("an empty section", frame(HEADERS, b""), qpack),
        ("half a section prefix", frame(HEADERS, &[0]), qpack),
        ("required insert count", frame(HEADERS, &[1, 0, 0xd1]), qpack),
        ("negative base", frame(HEADERS, &[0, 0x80, 0xd1]), qpack),
        ("dynamic index", frame(HEADERS, &[0, 0, 0x80]), qpack),
        ("post-base index", frame(HEADERS, &[0, 0, 0x10]), qpack),
        ("dynamic name", frame(HEADERS, &[0, 0, 0x40, 1, b'x']), qpack),
        ("post-base name", frame(HEADERS, &[0, 0, 0x00, 1, b'x']), qpack),
        ("static index 99", frame(HEADERS, &[0, 0, 0xff, 36]), qpack),
        ("string past the end", frame(HEADERS, &[0, 0, 0x51, 3, b'/']), qpack),
        (
            "string of 2^62 bytes",
            frame(HEADERS, &[&[0, 0, 0x51, 0x7f][..], &[0xff; 9]].concat()),
            qpack,
        ),
        ("bad Huffman padding", frame(HEADERS, &[0, 0, 0x51, 0x81, 0x00]), qpack),
        ("FIN alone, body owed", five.clone(), message_error),
        ("body too short", [&five[..], &frame(DATA, b"1234")].concat(), message_error),
        ("body too long", [&five[..], &frame(DATA, b"123456")].concat(), message_error),
        (
            "body too long in two",
            [&five[..], &frame(DATA, b"12345"), &frame(DATA, b"6")].concat(),
            message_error,
        ),
        (
            "trailers before the body's end",
            [&five[..], &frame(DATA, b"1234"), &trailers].concat(),
            message_error,
        ),
    ];
    for (frame_type, what) in [
        (0x03, "CANCEL_PUSH"),
        (0x04, "SETTINGS"),
        (0x05, "PUSH_PROMISE"),
        (0x07, "GOAWAY"),
        (0x0d, "MAX_PUSH_ID"),
        (0x02, "PRIORITY"),
        (0x06, "PING"),
        (0x08, "WINDOW_UPDATE"),
        (0x09, "CONTINUATION"),
    ] {
        cases.push((what, frame(frame_type, &[0]), unexpected));
        cases.push((what, [&get[..], &frame(frame_type, &[0])].concat(), unexpected));
        cases.push((what, [&get[..], &trailers, &frame(frame_type, &[0])].concat(), unexpected));
    }
    for bad in [("content-length", "1"), ("host", "h"), ("te", "trailers"), (":path", "/")] {
        let lines = [(bad.0, bad.1.as_bytes())];
        cases.push((bad.0, [&get[..], &frame(HEADERS, &section(&lines))].concat(), message_error));
    }
    for (what, bytes, expected) in cases {
        let (events, end) = run_bytes(&bytes);
        assert_eq!(end.clone().map_err(kind), Err(expected.to_owned()), "{what}");
        let single = bytes.iter().map(|&byte| Bytes::copy_from_slice(&[byte]));
        let (single_events, single_end) = run(single, &SETTINGS);
        assert_eq!(single_end, end, "{what}, byte by byte");
        assert_eq!(joined(single_events), joined(events), "{what}, byte by byte");
    }
}

#[test]
fn trailers_with_an_underscore_in_a_name_are_refused() {
    let head = frame(HEADERS, &section(GET));
    let trailers = frame(HEADERS, &section(&[("x_y", b"z")]));
    let (events, end) = run_bytes(&[&head[..], &frame(DATA, b"1234"), &trailers].concat());
    assert_eq!(events.len(), 2, "{events:?}");
    assert_eq!(end.map_err(kind), Err("400".to_owned()));
}

#[test]
fn trailers_of_an_incomplete_body_are_not_reported() {
    let head = frame(HEADERS, &section(&get_with(&[("content-length", b"5")])));
    let trailers = frame(HEADERS, &section(&[("x", b"y")]));
    let (events, end) = run_bytes(&[&head[..], &frame(DATA, b"1234"), &trailers].concat());
    assert_eq!(end.map_err(kind), Err("stream H3_MESSAGE_ERROR".to_owned()));
    assert!(matches!(events[..], [RequestEvent::Head(_), RequestEvent::Body(_)]), "{events:?}");
}

#[test]
fn error_codes_have_their_rfc_values() {
    // RFC 9114 8.1, RFC 9204 6.
    let values = [
        (Code::NoError, 0x100),
        (Code::GeneralProtocolError, 0x101),
        (Code::InternalError, 0x102),
        (Code::StreamCreationError, 0x103),
        (Code::ClosedCriticalStream, 0x104),
        (Code::FrameUnexpected, 0x105),
        (Code::FrameError, 0x106),
        (Code::ExcessiveLoad, 0x107),
        (Code::IdError, 0x108),
        (Code::SettingsError, 0x109),
        (Code::MissingSettings, 0x10a),
        (Code::RequestRejected, 0x10b),
        (Code::RequestCancelled, 0x10c),
        (Code::RequestIncomplete, 0x10d),
        (Code::MessageError, 0x10e),
        (Code::ConnectError, 0x10f),
        (Code::VersionFallback, 0x110),
        (Code::QpackDecompressionFailed, 0x200),
        (Code::QpackEncoderStreamError, 0x201),
        (Code::QpackDecoderStreamError, 0x202),
    ];
    for (code, value) in values {
        assert_eq!(code.value(), value, "{code:?}");
    }
}
