//! Request heads: which are accepted, which are refused, and how.

use bytes::Bytes;
use ringway::testing::internal::http3::{RequestError, RequestEvent};
use ringway::testing::internal::message::{Head, Scheme, Target};

use crate::requests::kind;
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
