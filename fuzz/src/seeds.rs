//! Inputs to start from, made anew each time: the repository's configurations, messages as real
//! peers send them, and the packets of a real client.

use std::net::SocketAddr;

use bytes::BytesMut;
use quinn_proto::ConnectionId;
use quinn_proto::crypto::ServerConfig as _;
use quinn_proto::crypto::rustls::QuicServerConfig;
use ringway::testing;
use ringway::testing::internal::http3::qpack::encode;

use super::client::Client;
use super::datagram::CLIENT_ID;
use super::lines::{DATA, HEADERS, frame, section};
use super::world::tls;

/// Returns the inputs, each with its target.
pub fn all() -> Vec<(&'static str, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut add = |target: &'static str, parts: &[&[u8]]| seeds.push((target, parts.concat()));
    for text in [
        include_str!("../../configs/minimal.toml"),
        include_str!("../../configs/ringway.toml"),
        "[[listeners]]\naddress = '[::]:${PORT}'\n[upstreams.a]\nendpoints = 'origin.internal:1'\n",
    ] {
        add("config", &[text.as_bytes()]);
    }
    for requests in REQUESTS {
        add("http1_request", &[&[0], requests.as_bytes()]);
        add("http1_request", &[&[3, 1, 20, 7], requests.as_bytes()]);
    }
    for header in PROXY_HEADERS {
        add("proxy_header", &[&[0], header, b"GET / HTTP/1.1\r\n"]);
        add("proxy_header", &[&[3, 1, 12, 5], header, b"\x16\x03\x01"]);
    }
    for response in RESPONSES {
        // Without flags or cuts; byte by byte is checked anyway.
        add("http1_response", &[&[0, 0], response.as_bytes()]);
        add("http1_response", &[&[1, 2, 9, 30], response.as_bytes()]);
        add("canary", &[&[1, 0], response.as_bytes()]);
    }
    for fields in HEADS {
        let lines: Vec<(&[u8], &[u8])> =
            fields.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
        let text: Vec<u8> = lines
            .iter()
            .flat_map(|(name, value)| [name, &b"\x1f"[..], value, b"\x1e"].concat())
            .collect();
        for flags in 0..4 {
            add("request_head", &[&[flags], &text]);
        }
        let mut packed = BytesMut::new();
        encode::put_prefix(&mut packed);
        fields
            .iter()
            .for_each(|(name, value)| encode::put_line(name, value.as_bytes(), false, &mut packed));
        for section in [&packed[..], &section(&lines)] {
            add("qpack", &[&[255, 255], section]);
            let body = frame(DATA, b"a body");
            let trailers = frame(HEADERS, &super::lines::section(&[(b"x", b"y")]));
            add("frames", &[&[0, 2, 5, 9], &frame(HEADERS, section), &body, &trailers]);
        }
    }
    for stream in UNI_STREAMS {
        add("frames", &[&[1, 3, 1, 2, 3], stream]);
    }
    for play in PLAYS {
        add("gateway_inputs", &[play]);
    }
    for input in captured() {
        add("datagram", &[&input]);
    }
    seeds
}

/// PROXY headers of both versions.
const PROXY_HEADERS: &[&[u8]] = &[
    b"PROXY TCP4 192.0.2.1 198.51.100.1 40000 443\r\n",
    b"PROXY TCP6 2001:db8::1 2001:db8::2 40000 443\r\n",
    b"PROXY UNKNOWN 1 2 3\r\n",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\x9c\x40\x01\xbb",
    b"\r\n\r\n\0\r\nQUIT\n\x21\x21\0\x28\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x01\
      \x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\x02\x9c\x40\x01\xbb\x04\0\x01\0",
    b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
];

/// Requests as clients and proxies before us send them over HTTP/1.1, and such as smuggle.
const REQUESTS: &[&str] = &[
    "GET /a?b HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n\
     GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\nhello\r\n\
     PUT /x HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n\
     5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n",
    "OPTIONS * HTTP/1.0\r\nHost: a:8080\r\nConnection: keep-alive\r\n\r\n\
     GET http://a/ HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\nrest",
    "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n\
     0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\nx: y\r\n z\r\n\r\n",
    "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
];

const RESPONSES: &[&str] = &[
    "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\nx: y\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\netag: \"1\"\r\nconnection: keep-alive\r\n\r\n",
    "HTTP/1.0 404 Not Found\r\nConnection: close\r\nContent-Length: 2\r\n\r\nnoHTTP/1.1 200",
];

/// Fields of heads, as clients and proxies before us send them.
const HEADS: &[&[(&str, &str)]] = &[
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":authority", "localhost:4433"),
        (":path", "/assets/app.js?v=31"),
        ("accept", "*/*"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
        ("priority", "u=1, i"),
    ],
    &[
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "localhost"),
        (":path", "/"),
        ("content-length", "10"),
        ("expect", "100-continue"),
        ("x-forwarded-for", "192.0.2.1"),
        ("forwarded", "for=192.0.2.1;proto=https"),
        ("via", "1.1 other"),
        ("te", "trailers"),
    ],
    &[
        (":method", "OPTIONS"),
        (":scheme", "https"),
        (":path", "*"),
        ("host", "localhost"),
        ("max-forwards", "3"),
    ],
    &[(":method", "CONNECT"), (":authority", "example.com:443")],
];

/// Control streams with SETTINGS, GOAWAY, MAX_PUSH_ID and a reserved frame; QPACK's streams; a push
/// stream; an unknown one.
const UNI_STREAMS: &[&[u8]] = &[
    &[0x00, 0x04, 0x04, 0x06, 0x50, 0x00, 0x21, 0x07, 0x01, 0x00, 0x0d, 0x01, 0x05, 0x21, 0x00],
    &[0x00, 0x04, 0x00, 0x07, 0x01, 0x04, 0x07, 0x01, 0x00],
    &[0x02, 0x20],
    &[0x03, 0x44, 0x48],
    &[0x01, 0x00],
    &[0x40, 0x54, 0xff],
];

/// Steps of `gateway_inputs`: a request and its response; an upload that is cancelled; a drain; a
/// slow response with low memory; a move during a request.
const PLAYS: &[&[u8]] = &[
    b"\x00\x42\x00\x1c\x17\x00\x19\x00\x1b\x00\x27HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx\
        \x1c\x1c\x07\x00\x1c",
    b"\x00\x03\x04body\x1c\x17\x00\x1c\x05\x00\x0c\x1c\x1c\x12\x0c\x1c",
    b"\x00\x42\x00\x1c\x17\x00\x19\x00\x15\x1c\x0f\x00\x04\x1c\x1c\x12\x0f",
    b"\x06\xc3\x88abcdefgh\x9c\x53\x17\x00\x19\x00\x1b\x00\x13HTTP/1.1 200 OK\r\n\r\n\
        \x0f\x00\x03\x88xxxxxxxx\x82yy\x9c\x87\x00\x9c\x0f\x00\x04\x9c\x9c",
    b"\x01\x42\x00\x1c\x0e\x01\x1c\x17\x00\x19\x00\x1c\x09\x00\x99\x1c\x0a\x1c\x0b\x14\x16\x1c",
];

/// Returns inputs of `datagram`: the first flight of a real client as it is, the same flight opened
/// and to be sealed again, and a datagram of an unknown version.
fn captured() -> Vec<Vec<u8>> {
    let mut client = Client::new(testing::epoch(), SocketAddr::from(([203, 0, 113, 1], 4_000)));
    client.drive(testing::epoch());
    let flight: Vec<Vec<u8>> = client.outgoing.into();
    let entry = |form: u8, bytes: &[u8]| {
        let len = (bytes.len() as u16).to_be_bytes();
        [&[form, 3], &len[..], bytes].concat()
    };
    let raw: Vec<u8> = flight.iter().flat_map(|datagram| entry(0, datagram)).collect();
    let frames: Vec<Vec<u8>> = flight.iter().map(|datagram| open(datagram)).collect();
    let sealed: Vec<u8> = frames.iter().flat_map(|frames| entry(0x08, frames)).collect();
    // After Retry, and from another address.
    let again: Vec<u8> = frames.iter().flat_map(|frames| entry(0x28, frames)).collect();
    let moved: Vec<u8> = frames.iter().flat_map(|frames| entry(0x0a, frames)).collect();
    let unknown = [&[0xc3, 0x1a, 0x2a, 0x3a, 0x4a, 8][..], &[7; 8], &[0], &[0; 1_300]].concat();
    vec![
        [&[0], &raw[..]].concat(),
        [&[0], &sealed[..]].concat(),
        [&[1], &sealed[..], &again].concat(),
        [&[2], &sealed[..], &moved].concat(),
        [&[0], &entry(0, &unknown)[..], &entry(1, &[0x47; 60])].concat(),
        // CONNECTION_CLOSE; two packets in a datagram.
        [&[0], &entry(0x08, &[0x1c, 0, 0, 0])[..], &entry(0xc8, &[1]), &entry(0x48, &[0x10, 1])]
            .concat(),
    ]
}

/// Returns the frames of a client's first Initial packet, without padding, as if it had
/// [`CLIENT_ID`].
fn open(datagram: &[u8]) -> Vec<u8> {
    let keys = QuicServerConfig::try_from(tls().server.config()).expect("TLS 1.3");
    let id_len = usize::from(datagram[5]);
    let id = &datagram[6..6 + id_len];
    let keys = keys.initial_keys(1, &ConnectionId::new(id)).expect("version 1");
    let source_len = usize::from(datagram[6 + id_len]);
    // The source id, no token (one byte), and the length in two bytes.
    let number_at = 6 + id_len + 1 + source_len + 1 + 2;
    let mut packet = BytesMut::from(datagram);
    keys.header.remote.decrypt(number_at, &mut packet);
    let number_len = usize::from(packet[0] & 3) + 1;
    let number =
        packet[number_at..][..number_len].iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
    let len =
        usize::from(u16::from_be_bytes([packet[number_at - 2] & 0x3f, packet[number_at - 1]]));
    packet.truncate(number_at + len);
    let header = packet.split_to(number_at + number_len);
    keys.packet.remote.decrypt(number, &header, &mut packet).expect("its keys are public");
    let end = packet.iter().rposition(|byte| *byte != 0).map_or(0, |at| at + 1);
    let mut frames = packet[..end].to_vec();
    let own_id = &datagram[6 + id_len + 1..][..source_len];
    if let Some(at) = frames.windows(source_len).position(|window| window == own_id) {
        frames[at..at + source_len].copy_from_slice(&CLIENT_ID);
    }
    frames
}
