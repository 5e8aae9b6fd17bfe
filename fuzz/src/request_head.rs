//! Request heads, from HTTP/3 to the HTTP/1.1 that an upstream is sent. Input: a byte of flags, and
//! field lines as in `lines.rs`, pseudo-header fields included.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use ringway::testing;
use ringway::testing::internal::config::Config;
use ringway::testing::internal::demo;
use ringway::testing::internal::http3::{LocalSettings, RequestEvent, RequestStream};
use ringway::testing::internal::message::{Authority, Head, Path, Protocol, Sender};
use ringway::testing::internal::proxy::{
    Downstream, Output, Proxy, Request, UpstreamCommand, UpstreamEvent,
};

use super::http1_response::dechunk;
use super::lines;

const SETTINGS: LocalSettings =
    LocalSettings { field_section_len_max: 8 * 1024, field_count_max: 60 };

/// Fields that the gateway writes itself or may change.
const OWN: [&str; 12] = [
    "host",
    "content-length",
    "transfer-encoding",
    "cookie",
    "max-forwards",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-real-ip",
    "forwarded",
    "via",
    "x-request-id",
];

/// Fields that concern the client's connection only (RFC 9110 7.6.1), or have no meaning for an
/// upstream.
const NEVER: [&str; 9] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "proxy-authorization",
    "upgrade",
    "te",
    "http2-settings",
    "expect",
    "proxy",
];

/// # Panics
///
/// If an HTTP/1.1 parser does not find one request with these fields in what is forwarded.
pub fn run(input: &[u8]) {
    let Some((&flags, text)) = input.split_first() else { return };
    let fields = lines::read(text);
    let body: &[u8] = if flags & 1 == 0 { b"" } else { b"0123456789" };
    let Some(head) = read(&lines::section(&fields), body) else { return };
    check_parts(&head);
    let wire = forward(head.clone(), body, flags & 2 != 0);
    if !wire.is_empty() {
        check(&wire, &head, &fields, body);
    }
}

/// Reads the request as HTTP/3; `None` if it is refused.
fn read(section: &[u8], body: &[u8]) -> Option<Head> {
    let mut stream = RequestStream::default();
    stream.handle(lines::frame(lines::HEADERS, section).into());
    if !body.is_empty() {
        stream.handle(lines::frame(lines::DATA, body).into());
    }
    let mut read = None;
    while let Some(event) = stream.poll(&SETTINGS).ok()? {
        match event {
            RequestEvent::Head(head) => read = Some(head),
            RequestEvent::Body(piece) => assert_eq!(piece, body),
            RequestEvent::Trailers(_) => unreachable!("there are none"),
        }
    }
    stream.handle_end().ok()?;
    read
}

/// Asserts that the parts of a head are valid by themselves, and hold no byte that could end one.
fn check_parts(head: &Head) {
    let authority = head.authority();
    let bytes = Bytes::copy_from_slice(authority.as_bytes());
    assert_eq!(Authority::parse(bytes).as_ref(), Ok(authority));
    if head.path().starts_with(b"/") {
        let path = Path::parse(Bytes::copy_from_slice(head.path())).expect("it was accepted");
        assert_eq!(path.as_bytes(), head.path());
    }
    for bytes in [authority.as_bytes(), head.path()] {
        assert!(bytes.iter().all(u8::is_ascii_graphic), "{bytes:?}");
    }
    assert!(head.fields.iter().all(|(name, _)| name != "host" && name != "content-length"));
}

/// Gives the request to a proxy with one upstream. Returns the bytes that the upstream is sent.
fn forward(head: Head, body: &[u8], is_trusted: bool) -> Vec<u8> {
    let now = testing::epoch();
    let config = configuration(is_trusted);
    let listener = Arc::new(config.listeners[0].clone());
    let mut proxy = Proxy::new(config, 1);
    let request = Request {
        head,
        sender: Sender {
            address: SocketAddr::from(([192, 0, 2, 9], 40_000)),
            server_name: None,
            certificate: None,
            protocol: Protocol::Http3,
            is_early: false,
        },
        listener,
        misdirected: false,
    };
    let downstream = Downstream { connection: 1, stream: 0 };
    let exchange = proxy.handle_request(now, downstream, request, body.is_empty());
    if !body.is_empty() {
        proxy.handle_body(now, exchange, [Bytes::copy_from_slice(body)]);
        proxy.handle_end(now, exchange, None);
    }
    let mut wire = Vec::new();
    while let Some(output) = proxy.poll(now) {
        match output {
            Output::Upstream(UpstreamCommand::Connect { key, .. }) => {
                proxy.handle_upstream(now, key, UpstreamEvent::Connected);
            }
            Output::Upstream(UpstreamCommand::Write { key, pieces }) => {
                pieces.iter().for_each(|piece| wire.extend_from_slice(piece));
                proxy.handle_upstream(now, key, UpstreamEvent::Wrote);
            }
            _ => {}
        }
    }
    wire
}

/// Returns the demonstration's configuration. The client may be a trusted proxy.
fn configuration(is_trusted: bool) -> Arc<Config> {
    thread_local! {
        static CONFIGS: [Arc<Config>; 2] = [false, true].map(|is_trusted| {
            let mut config = demo::config(SocketAddr::from(([127, 0, 0, 1], 1)));
            if is_trusted {
                config.listeners[0].trusted_proxies =
                    vec!["192.0.2.0/24".parse().expect("a network")];
            }
            Arc::new(config)
        });
    }
    CONFIGS.with(|configs| Arc::clone(&configs[usize::from(is_trusted)]))
}

/// Reads what was forwarded with another parser.
fn check(wire: &[u8], head: &Head, fields: &[(&[u8], &[u8])], body: &[u8]) {
    let mut headers = [httparse::EMPTY_HEADER; 128];
    let mut request = httparse::Request::new(&mut headers);
    let parsed = request.parse(wire).expect("a valid head is forwarded");
    let httparse::Status::Complete(head_len) = parsed else { panic!("the head is not whole") };
    assert_eq!(request.method, Some(head.method.as_str()));
    assert_eq!(request.path.map(str::as_bytes), Some(head.path()));
    assert_eq!(request.version, Some(1));
    let values = |wanted: &str| -> Vec<&[u8]> {
        let found = request.headers.iter().filter(|header| header.name == wanted);
        found.map(|header| header.value).collect()
    };
    assert_eq!(values("host"), [head.authority().as_bytes()]);
    assert!(values("cookie").len() <= 1, "one cookie line");
    for header in request.headers.iter() {
        let name = header.name;
        assert!(!NEVER.contains(&name), "{name} is forwarded");
        assert!(!name.contains('_') && name == name.to_ascii_lowercase());
        let is_input = fields.iter().any(|(key, value)| {
            *key == name.as_bytes() && value.trim_ascii() == header.value.trim_ascii()
        });
        assert!(is_input || OWN.contains(&name), "{name} was not in the request");
    }
    let rest = &wire[head_len..];
    match (&values("content-length")[..], &values("transfer-encoding")[..]) {
        ([], []) => assert!(body.is_empty() && rest.is_empty(), "bytes after the request"),
        ([len], []) => {
            assert_eq!(*len, body.len().to_string().as_bytes());
            assert_eq!(rest, body);
        }
        ([], [b"chunked"]) => assert_eq!(dechunk(rest), (body.to_vec(), Some(&[][..]))),
        framing => panic!("two framings: {framing:?}"),
    }
}
