//! Request streams: which are accepted, which are refused and with which code, however they are
//! split into chunks.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use ringway::testing::http3::code_name;
use ringway::testing::internal::http3::RequestError::{self, Connection, Refused, Stream};
use ringway::testing::internal::http3::{Code, ConnectionError, RequestEvent};
use ringway::testing::internal::message::{Head, Scheme, Target};

use crate::*;

fn head_of(lines: &[(&str, &[u8])]) -> Result<Head, RequestError> {
    let (mut events, end) = run_bytes(&frame(HEADERS, &section(lines)));
    let packed = run_bytes(&frame(HEADERS, &packed_section(lines)));
    assert_eq!(
        (&events, &end),
        (&packed.0, &packed.1),
        "literal and Huffman-coded sections give the same result"
    );
    end?;
    match (events.pop(), events.pop()) {
        (Some(RequestEvent::Head(head)), None) => Ok(head),
        other => panic!("expected one head and nothing else, not {other:?}"),
    }
}

/// Returns what a refusal looks like to the peer; the rule's text is for logs only.
fn kind(error: RequestError) -> String {
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

/// Heads: RFC 9114 4.2, 4.3, 4.4; RFC 9110 5.1, 5.5, 7.2, 8.6; RFC 3986 3.2.
#[test]
fn malformed_request_heads_are_refused() {
    let malformed = "stream H3_MESSAGE_ERROR";
    let bad = "400";
    type Changes = &'static [(&'static str, &'static [u8])];
    let cases: &[(Changes, &str)] = &[
        // Pseudo-header fields: complete, known, once.
        (&[(":method", REMOVED)], malformed),
        (&[(":scheme", REMOVED)], malformed),
        (&[(":path", REMOVED)], malformed),
        (&[(":authority", REMOVED)], malformed),
        (&[(":protocol", b"websocket")], malformed),
        (&[(":status", b"200")], malformed),
        (&[(":", b"")], malformed),
        (&[(":Path", b"/")], malformed),
        // Methods.
        (&[(":method", b"")], malformed),
        (&[(":method", b"GE T")], malformed),
        (&[(":method", b"GET\r\nx: y")], malformed),
        (&[(":method", b"get")], bad),
        (&[(":method", b"head")], bad),
        (&[(":method", b"Post")], bad),
        (&[(":method", b"pUT")], bad),
        (&[(":method", b"dELETE")], bad),
        (&[(":method", b"connect")], bad),
        (&[(":method", b"options"), (":path", b"*")], bad),
        (&[(":method", b"Trace")], bad),
        (&[(":method", b"PATCh")], bad),
        (&[(":method", b"query")], bad),
        // Schemes.
        (&[(":scheme", b"")], bad),
        (&[(":scheme", b"ftp")], bad),
        // Paths.
        (&[(":path", b"")], malformed),
        (&[(":path", b"*")], bad),
        (&[(":path", b"a")], bad),
        (&[(":path", b"http://example.com/")], bad),
        (&[(":path", b"/a#b")], bad),
        (&[(":path", b"/a b")], bad),
        (&[(":path", b"/a\tb")], bad),
        (&[(":path", b"/\0")], bad),
        (&[(":path", b"/ HTTP/1.1\r\nx: y")], bad),
        (&[(":path", b"/\x7f")], bad),
        (&[(":path", b"/\xc3\xa4")], bad),
        (&[(":path", b"/..")], bad),
        (&[(":path", b"/%2e%2e/")], bad),
        (&[(":path", b"/%00")], bad),
        // Authorities.
        (&[(":authority", b"")], malformed),
        (&[(":authority", REMOVED), ("host", b"")], malformed),
        (&[("host", b"example.org")], malformed),
        (&[("host", b"Example.com")], malformed),
        (&[("host", b"example.com"), ("host", b"example.com")], bad),
        (&[(":authority", b"user@example.com")], bad),
        (&[(":authority", b"example.com:")], bad),
        (&[(":authority", b"example.com:0")], bad),
        (&[(":authority", b"example.com:65536")], bad),
        (&[(":authority", b"example.com:+80")], bad),
        (&[(":authority", b"example.com:80:80")], bad),
        (&[(":authority", b"example.com/x")], bad),
        (&[(":authority", b"example.com,example.org")], bad),
        (&[(":authority", b"exa mple.com")], bad),
        (&[(":authority", b"example.com\r\nx: y")], bad),
        (&[(":authority", b"%65xample.com")], bad),
        (&[(":authority", b":443")], bad),
        (&[(":authority", b"[::1")], bad),
        (&[(":authority", b"[::1]x")], bad),
        (&[(":authority", b"[]")], bad),
        (&[(":authority", b"[1.2.3.4]")], bad),
        (&[(":authority", b"::1")], bad),
        (&[(":authority", b"[fe80::1%25eth0]")], bad),
        // CONNECT.
        (&[(":method", b"CONNECT"), (":authority", b"example.com:443")], malformed),
        // Expectations.
        (&[("expect", b"200-ok")], "417"),
        (&[("expect", b"100-continue, x")], "417"),
        (&[("expect", b"")], "417"),
        // Field names.
        (&[("", b"x")], malformed),
        (&[("X-Upper", b"x")], malformed),
        (&[("x y", b"x")], malformed),
        (&[("x:y", b"x")], malformed),
        (&[("x\"y", b"x")], malformed),
        (&[("x\r\ny", b"x")], malformed),
        (&[("x\0", b"x")], malformed),
        (&[("x\x7f", b"x")], malformed),
        (&[("\u{e4}", b"x")], malformed),
        (&[("x_forwarded_for", b"10.0.0.1")], bad),
        (&[("content_length", b"5")], bad),
        (&[("_", b"x")], bad),
        (&[("x-y_", b"x")], bad),
        // Field values.
        (&[("x", b"a\rb")], malformed),
        (&[("x", b"a\nb")], malformed),
        (&[("x", b"a\0b")], malformed),
        (&[("x", b"a\x01b")], malformed),
        (&[("x", b"a\x7fb")], malformed),
        (&[("x", b" a")], malformed),
        (&[("x", b"a ")], malformed),
        (&[("x", b"\ta")], malformed),
        (&[("x", b"a\t")], malformed),
        (&[("x", b" ")], malformed),
        (&[("cookie", b"a=b\r\nset-cookie: c")], malformed),
        // Connection-specific fields.
        (&[("connection", b"close")], malformed),
        (&[("keep-alive", b"timeout=5")], malformed),
        (&[("proxy-connection", b"keep-alive")], malformed),
        (&[("transfer-encoding", b"chunked")], malformed),
        (&[("upgrade", b"h2c")], malformed),
        (&[("te", b"gzip")], malformed),
        (&[("te", b"trailers, deflate")], malformed),
        (&[("te", b"")], malformed),
        // Content lengths.
        (&[("content-length", b"0"), ("content-length", b"1")], malformed),
        (&[("content-length", b"")], bad),
        (&[("content-length", b"+5")], bad),
        (&[("content-length", b"-0")], bad),
        (&[("content-length", b"5,5")], bad),
        (&[("content-length", b"0x5")], bad),
        (&[("content-length", b"5 5")], bad),
        (&[("content-length", b"18446744073709551616")], bad),
        (&[("content-length", b" 5")], malformed),
    ];
    for (changes, expected) in cases {
        let outcome = head_of(&get_with(changes)).map_err(kind);
        assert_eq!(outcome, Err((*expected).to_owned()), "{changes:?}");
    }
    // Cases beyond `get_with`: repeated or late pseudo-header fields; CONNECT.
    for (lines, expected) in [
        ([GET, &[(":path", b"/")]].concat(), malformed),
        ([GET, &[(":method", b"GET")]].concat(), malformed),
        ([GET, &[(":scheme", b"https")]].concat(), malformed),
        ([GET, &[(":authority", b"example.com")]].concat(), malformed),
        ([&[("x", &b"y"[..])], GET].concat(), malformed),
        ([&GET[..3], &[("x", b"y"), (":path", b"/")]].concat(), malformed),
        (vec![(":method", b"CONNECT"), ("host", b"example.com:443")], malformed),
        (vec![(":method", b"CONNECT"), (":authority", b"example.com")], bad),
        (
            vec![
                (":method", b"CONNECT"),
                (":authority", b"example.com:443"),
                ("content-length", b"0"),
            ],
            bad,
        ),
    ] {
        assert_eq!(head_of(&lines).map_err(kind), Err(expected.to_owned()), "{lines:?}");
    }
}

#[test]
fn valid_request_heads_are_accepted() {
    for authority in
        ["a", "example.com.", "1.2.3.4:1", "[::1]", "[2001:db8::1]:65535", "a_b-c~d.example"]
    {
        let lines = [&GET[..2], &[(":authority", authority.as_bytes()), (":path", b"/")]].concat();
        assert_eq!(head_of(&lines).unwrap().authority().as_str(), authority);
        // The same with `host` alone.
        let lines = [&GET[..2], &[(":path", b"/"), ("host", authority.as_bytes())]].concat();
        let head = head_of(&lines).unwrap();
        assert_eq!((head.authority().as_str(), head.fields.len()), (authority, 0));
    }
    for path in ["/", "//x", "/...", "/%2e%2e%2e/", "/?", "/a?b=/c?d", "/?%00", "/{a}|^`\\\"<>"] {
        let lines = [&GET[..3], &[(":path", path.as_bytes())]].concat();
        assert_eq!(head_of(&lines).unwrap().path(), path.as_bytes());
    }
    let options = head_of(&get_with(&[(":method", b"OPTIONS"), (":path", b"*")])).unwrap();
    assert_eq!(options.path(), b"*");
    let http = head_of(&get_with(&[(":scheme", b"HTTP"), (":method", b"brew")])).unwrap();
    assert_eq!((http.scheme(), http.method.as_str()), (Scheme::Http, "brew"));
    for method in ["GETS", "gets", "H", "heads", "PROPFIND", "propfind"] {
        let lines = [&[(":method", method.as_bytes())], &GET[1..]].concat();
        assert_eq!(head_of(&lines).unwrap().method.as_str(), method);
    }
    let connect = [(":method", &b"CONNECT"[..]), (":authority", b"example.com:443")];
    let connect = head_of(&connect).unwrap();
    assert!(matches!(connect.target, Target::Connect { .. }));
    for (text, expected) in [("0", 0), ("007", 7)] {
        let lines = [GET, &[("content-length", text.as_bytes())]].concat();
        let body = frame(DATA, &b"1234567"[..expected]);
        let (events, end) = run_bytes(&[frame(HEADERS, &section(&lines)), body].concat());
        assert_eq!(end, Ok(()));
        let RequestEvent::Head(head) = &events[0] else { panic!("{events:?}") };
        assert_eq!(head.content_length, Some(expected as u64));
    }
    let odd = [("x", &b""[..]), ("y", b"a\tb \xff"), ("!#$%&'*+-.^`|~09az", b"v")];
    let head = head_of(&[GET, &odd].concat()).unwrap();
    let fields: Vec<_> = head.fields.iter().map(|(n, v)| (n.as_str(), v.as_bytes())).collect();
    assert_eq!(fields, odd);
}

/// RFC 9114 4.2.2: names, values and 32 bytes for each line.
#[test]
fn section_length_limits_are_exact() {
    let lines = [GET, &[("x-in-huffman-code", b"1234567890"), ("x-b", b"")]].concat();
    let len: usize = lines.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    let encoded = [section(&lines), packed_section(&lines)];
    for section in encoded {
        let bytes = Bytes::from(frame(HEADERS, &section));
        let run_with = |len: usize, count: usize| {
            let settings =
                LocalSettings { field_section_len_max: len as u32, field_count_max: count as u32 };
            run([bytes.clone()], &settings).1.map_err(kind)
        };
        assert_eq!(run_with(len, 2), Ok(()), "pseudo-header fields do not count");
        for limit in 0..len {
            assert_eq!(run_with(limit, 100), Err("431".to_owned()), "{limit} of {len}");
        }
        for count in 0..2 {
            assert_eq!(run_with(len, count), Err("431".to_owned()), "{count} lines");
        }
    }
}

/// RFC 9114 4.2.1: browsers send a line for each cookie, and together they are one field.
#[test]
fn all_lines_of_cookie_count_as_one_field() {
    let values: Vec<String> = (0..82).map(|n| format!("cookie-{n}=0123456789abcdef")).collect();
    let cookies = values.iter().map(|value| ("cookie", value.as_bytes()));
    let others: Vec<String> = (0..15).map(|n| format!("x-{n}")).collect();
    let others = others.iter().map(|name| (name.as_str(), &b"1"[..]));
    let lines: Vec<_> = GET.iter().copied().chain(cookies).chain(others).collect();
    let bytes = Bytes::from(frame(HEADERS, &section(&lines)));
    for (count, expected) in [(16, Ok(())), (15, Err("431".to_owned()))] {
        let settings = LocalSettings { field_section_len_max: 32 << 10, field_count_max: count };
        let (events, end) = run([bytes.clone()], &settings);
        assert_eq!(end.map_err(kind), expected, "{count} fields");
        if let Some(RequestEvent::Head(head)) = events.first() {
            assert_eq!(head.fields.len(), 82 + 15);
        }
    }
}

#[test]
fn an_overlong_section_is_refused_by_its_declared_length() {
    // No byte of it has been received.
    let header = [&varint(HEADERS)[..], &varint((1 << 62) - 1)].concat();
    assert_eq!(run_bytes(&header).1.map_err(kind), Err("431".to_owned()));
    // Huffman code that expands: 16 KiB of '0' in 10 KiB exceed the limit of 16 KiB.
    let long = "0".repeat(16 * 1024);
    let lines = [GET, &[("x", long.as_bytes())]].concat();
    let packed = packed_section(&lines);
    assert!(packed.len() < 11_000);
    assert_eq!(run_bytes(&frame(HEADERS, &packed)).1.map_err(kind), Err("431".to_owned()));
    // Trailers have the same limit.
    let packed = packed_section(&[("x", long.as_bytes())]);
    let bytes = [frame(HEADERS, &section(GET)), frame(HEADERS, &packed)].concat();
    assert_eq!(run_bytes(&bytes).1.map_err(kind), Err("431".to_owned()));
}

/// The log line of a request that was not accepted has what was read before the fault.
#[test]
fn what_was_read_of_a_refused_head_is_kept() {
    let understood = |bytes: &[u8]| {
        let mut stream = ringway::testing::internal::http3::RequestStream::default();
        stream.handle(Bytes::copy_from_slice(bytes));
        let outcome = stream.poll(&SETTINGS);
        assert!(outcome.is_err(), "{outcome:?}");
        let understood = stream.take_understood();
        let method = understood.method.map(|method| method.to_string());
        let authority = understood.authority.map(|text| text.as_bytes().to_vec());
        let path = understood.path.map(|text| text.as_bytes().to_vec());
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (method, authority.map(text), path.map(text))
    };
    let some = |text: &str| Some(text.to_owned());
    let get = (some("GET"), some("example.com"), some("/"));
    // A malformed head, a refused one, one that QPACK cannot decode to its end.
    let upper_case = section(&get_with(&[("X-Upper", b"x")]));
    assert_eq!(understood(&frame(HEADERS, &upper_case)), get);
    let path = section(&get_with(&[(":path", b"/\xc3\xa4")]));
    let expected = (some("GET"), some("example.com"), some("/\u{e4}"));
    assert_eq!(understood(&frame(HEADERS, &path)), expected);
    let dynamic = [&section(GET)[..], &[0x80]].concat();
    assert_eq!(understood(&frame(HEADERS, &dynamic)), get);
    // More fields than accepted, a longer section, and one that is longer by its frame alone, of
    // which only the start has come.
    let many = vec![("x", &b"y"[..]); 1_000];
    assert_eq!(understood(&frame(HEADERS, &section(&get_with(&many)))), get);
    let long = "0".repeat(16 * 1024);
    let long = [GET, &[("x", long.as_bytes())]].concat();
    assert_eq!(understood(&frame(HEADERS, &packed_section(&long))), get);
    let whole = frame(HEADERS, &section(&long));
    assert_eq!(understood(&whole[..1_100]), get);
}

/// A path or an authority that is itself too long has its start in the log, with the rest counted.
#[test]
fn the_start_of_a_value_that_is_too_long_is_kept() {
    let understood = |bytes: &[u8]| {
        let mut stream = ringway::testing::internal::http3::RequestStream::default();
        stream.handle(Bytes::copy_from_slice(bytes));
        let outcome = stream.poll(&SETTINGS);
        assert_eq!(outcome.map(drop).map_err(kind), Err("431".to_owned()));
        stream.take_understood()
    };
    let long: &'static [u8] = "/012".repeat(5_000).leak().as_bytes();
    for name in [":path", ":authority"] {
        let lines = get_with(&[(name, long)]);
        let start_of = |bytes: &[u8]| {
            let understood = understood(bytes);
            let text = if name == ":path" { understood.path } else { understood.authority };
            let text = text.expect(name);
            assert_eq!(text.as_bytes(), &long[..text.as_bytes().len()], "{name}");
            (text.as_bytes().len(), text.cut_len())
        };
        // Too long by the length of its frame, of which the start has come.
        let (kept_len, cut_len) = start_of(&frame(HEADERS, &section(&lines))[..1_100]);
        assert!(kept_len > 900 && kept_len + cut_len == long.len(), "{name}: {kept_len}");
        // Too long when decoded. The start is cut in the middle of the Huffman code.
        let packed = packed_section(&lines);
        assert!(packed.len() < 16 * 1024);
        let (kept_len, cut_len) = start_of(&frame(HEADERS, &packed));
        assert!(kept_len == 2048 && cut_len > 10_000, "{name}: {kept_len} {cut_len}");
    }
}

#[test]
fn never_indexed_values_are_marked() {
    let mut section = BytesMut::from(&packed_section(GET)[..]);
    encode::put_line("authorization", b"secret", true, &mut section);
    encode::put_line("x-token", b"secret", true, &mut section);
    encode::put_line("x-other", b"open", false, &mut section);
    let (events, end) = run_bytes(&frame(HEADERS, &section));
    assert_eq!(end, Ok(()));
    let RequestEvent::Head(head) = &events[0] else { panic!("{events:?}") };
    let marks: Vec<_> = head.fields.iter().map(|(_, value)| value.is_sensitive()).collect();
    assert_eq!(marks, [true, true, false]);
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
