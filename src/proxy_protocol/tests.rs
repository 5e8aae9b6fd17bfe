//! Headers as the specification has them, cut at every byte, and bytes that are none.

use super::*;

/// Reads a header that comes in pieces, with a request behind it, and asserts that the request is
/// left whole.
fn read<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<Option<Announced>, Malformed> {
    let mut reader = HeaderReader::default();
    let mut left = Vec::new();
    let mut found = None;
    for piece in pieces {
        let mut bytes = BytesMut::from(piece);
        if found.is_none() {
            found = reader.read(&mut bytes)?;
            assert!(found.is_some() || bytes.is_empty(), "an unfinished header takes all");
        }
        left.extend_from_slice(&bytes);
    }
    assert!(reader.held_len() <= 2 * PROXY_HEADER_LEN_MAX);
    assert_eq!(left, if found.is_some() { REQUEST } else { b"" });
    Ok(found)
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\n\r\n";

/// Asserts that a header reads the same however it is cut in two, and byte by byte.
fn assert_read(header: &[u8], expected: Result<Announced, Malformed>) {
    let whole = [header, REQUEST].concat();
    let expected = expected.map(Some);
    for place in 0..=whole.len() {
        let (first, second) = whole.split_at(place);
        assert_eq!(read([first, second]), expected, "cut at {place}: {header:?}");
    }
    assert_eq!(read(whole.chunks(1)), expected, "{header:?}");
    for len in 0..header.len() {
        let start = read([&header[..len]]);
        assert!(matches!(start, Ok(None) | Err(_)), "{len} bytes are not all");
    }
}

fn client(text: &str) -> Announced {
    Announced::Client(text.parse().unwrap())
}

/// Returns a header of version 2.
fn binary(version_command: u8, family_transport: u8, rest: &[u8]) -> Vec<u8> {
    let len = u16::try_from(rest.len()).unwrap().to_be_bytes();
    [SIGNATURE, &[version_command, family_transport], &len, rest].concat()
}

/// The addresses of TCP over IPv4, from 192.0.2.1:40000 to 198.51.100.1:443.
const V4: [u8; 12] = [192, 0, 2, 1, 198, 51, 100, 1, 0x9c, 0x40, 0x01, 0xbb];

/// The addresses of TCP over IPv6, from [2001:db8::1]:40000.
fn v6() -> Vec<u8> {
    let source = "2001:db8::1".parse::<Ipv6Addr>().unwrap().octets();
    [&source, &source, &V4[8..]].concat()
}

/// The examples of 2.1, and the longest line.
#[test]
fn version_1_is_read() {
    for (header, expected) in [
        ("PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\n", client("192.0.2.1:40000")),
        (
            "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
            client("255.255.255.255:65535"),
        ),
        ("PROXY TCP4 1.2.3.4 1.2.3.4 0 0\r\n", client("1.2.3.4:0")),
        ("PROXY TCP6 2001:db8::1 ::1 40000 443\r\n", client("[2001:db8::1]:40000")),
        ("PROXY UNKNOWN\r\n", Announced::Nobody),
        (
            "PROXY UNKNOWN ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff \
             ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
            Announced::Nobody,
        ),
    ] {
        assert_read(header.as_bytes(), Ok(expected));
    }
}

#[test]
fn version_2_is_read() {
    let tlv = [0x04, 0, 3, 1, 2, 3];
    let longest = vec![0; PROXY_HEADER_LEN_MAX - PREFIX_LEN];
    for (header, expected) in [
        (binary(0x21, 0x11, &V4), client("192.0.2.1:40000")),
        (binary(0x21, 0x11, &[&V4[..], &tlv].concat()), client("192.0.2.1:40000")),
        (binary(0x21, 0x21, &v6()), client("[2001:db8::1]:40000")),
        (binary(0x21, 0x21, &[v6(), tlv.to_vec()].concat()), client("[2001:db8::1]:40000")),
        // LOCAL, whatever else it has.
        (binary(0x20, 0x00, &[]), Announced::Nobody),
        (binary(0x20, 0x11, &V4), Announced::Nobody),
        (binary(0x20, 0xff, &tlv), Announced::Nobody),
        (binary(0x20, 0x11, &longest), Announced::Nobody),
        // UNSPEC, datagrams, and unix sockets.
        (binary(0x21, 0x00, &[]), Announced::Nobody),
        (binary(0x21, 0x00, &tlv), Announced::Nobody),
        (binary(0x21, 0x10, &V4), Announced::Nobody),
        (binary(0x21, 0x12, &V4), Announced::Nobody),
        (binary(0x21, 0x22, &v6()), Announced::Nobody),
        (binary(0x21, 0x31, &[b'/'; 216]), Announced::Nobody),
    ] {
        assert_read(&header, Ok(expected));
    }
}

#[test]
fn other_bytes_are_refused_as_soon_as_they_differ() {
    for bytes in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PROXIES",
        b"proxy TCP4",
        b"\r\n\r\n\0\r\nQUIT\r",
    ] {
        let place = (1..=bytes.len()).find(|len| read([&bytes[..*len]]).is_err());
        let place = place.expect("it is refused");
        let same =
            |start: &[u8]| start.iter().zip(bytes).take_while(|(one, other)| one == other).count();
        assert_eq!(place, 1 + same(FIRST_WORD).max(same(SIGNATURE)), "{bytes:?}");
    }
}

#[test]
fn malformed_lines_are_refused() {
    let long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(LINE_LEN_MAX - 15));
    assert_eq!(long.len(), LINE_LEN_MAX + 1);
    for header in [
        "PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\n\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 40000\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 40000 443 1\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 40000 443 \r\n",
        "PROXY TCP4  192.0.2.1 198.51.100.1 40000 443\r\n",
        "PROXY  TCP4 192.0.2.1 198.51.100.1 40000 443\r\n",
        "PROXY TCP4 192.0.2.01 198.51.100.1 40000 443\r\n",
        "PROXY TCP4 192.0.2.256 198.51.100.1 40000 443\r\n",
        "PROXY TCP4 192.0.2.1 name 40000 443\r\n",
        "PROXY TCP4 ::1 ::1 40000 443\r\n",
        "PROXY TCP6 192.0.2.1 192.0.2.1 40000 443\r\n",
        "PROXY TCP6 [::1] ::1 40000 443\r\n",
        "PROXY TCP6 fe80::1%eth0 ::1 40000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 65536 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 40000 65536\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 040000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 +4000 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1 -1 443\r\n",
        "PROXY TCP4 192.0.2.1 198.51.100.1  443\r\n",
        "PROXY UDP4 192.0.2.1 198.51.100.1 40000 443\r\n",
        "PROXY tcp4 192.0.2.1 198.51.100.1 40000 443\r\n",
        "PROXY UNKNOWNS\r\n",
        "PROXY \r\n",
        long.as_str(),
    ] {
        assert!(read([header.as_bytes()]).is_err(), "{header:?}");
        assert!(read(header.as_bytes().chunks(1)).is_err(), "{header:?}");
    }
}

/// A header that cannot become a valid one is refused with its first 16 bytes, not when the rest
/// has come.
#[test]
fn malformed_prefixes_are_refused_at_once() {
    let long = vec![0; PROXY_HEADER_LEN_MAX - PREFIX_LEN + 1];
    for header in [
        binary(0x11, 0x11, &V4),
        binary(0x31, 0x11, &V4),
        binary(0x22, 0x11, &V4),
        binary(0x2f, 0x11, &V4),
        binary(0x21, 0x13, &V4),
        binary(0x21, 0x41, &V4),
        binary(0x21, 0xf1, &V4),
        binary(0x21, 0x11, &V4[..11]),
        binary(0x21, 0x21, &v6()[..35]),
        binary(0x21, 0x31, &[b'/'; 215]),
        binary(0x21, 0x11, &long),
        binary(0x20, 0x00, &long),
    ] {
        assert_eq!(read([&header[..PREFIX_LEN - 1]]), Ok(None));
        assert!(read([&header[..PREFIX_LEN]]).is_err(), "{header:?}");
    }
}
