//! The demonstration's origin: a small HTTP/1.1 server on loopback, on a thread of its own, so that
//! `ringway` alone has something to forward to.
//!
//! `/` is a page about the demonstration, `/bytes/N` streams N bytes of a known pattern, `/echo`
//! streams the request's body back, and `/headers` shows the request's head as the gateway
//! forwarded it.

use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderValue, VIA};
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// Largest N of `/bytes/N`: 1 TiB.
const BYTES_LEN_MAX: u64 = 1 << 40;
/// Byte i of `/bytes/N` is i modulo this prime. A piece out of place shows, because no buffer
/// length is a multiple of it.
const PATTERN_PERIOD: usize = 251;

/// Length of a piece: whole periods of the pattern, about 64 KiB.
const PATTERN_LEN: usize = PATTERN_PERIOD * 261;
/// Pause after a failed accept, so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

static PATTERN: LazyLock<Bytes> =
    LazyLock::new(|| (0..PATTERN_LEN).map(|index| (index % PATTERN_PERIOD) as u8).collect());

type Response = http::Response<UnsyncBoxBody<Bytes, hyper::Error>>;

/// An origin whose port is bound and that does not serve yet.
pub(crate) struct BoundOrigin {
    pub(crate) address: SocketAddr,
    listener: std::net::TcpListener,
}

impl BoundOrigin {
    /// Binds a free port of 127.0.0.1.
    pub(crate) fn bind() -> io::Result<BoundOrigin> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        listener.set_nonblocking(true)?;
        Ok(BoundOrigin { address: listener.local_addr()?, listener })
    }

    /// Starts the thread that serves.
    pub(crate) fn start(self) -> io::Result<Origin> {
        let listener = self.listener;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (end, ended) = oneshot::channel();
        let thread =
            std::thread::Builder::new().name("demo-origin".to_owned()).spawn(move || {
                runtime.block_on(async {
                    match TcpListener::from_std(listener) {
                        Ok(listener) => drop(tokio::spawn(accept(listener))),
                        Err(error) => tracing::error!("the built-in origin cannot listen: {error}"),
                    }
                    // The other end is dropped, never used.
                    let _ = ended.await;
                });
            })?;
        Ok(Origin { end: Some(end), thread: Some(thread) })
    }
}

/// A running origin. Dropping it stops it.
pub(crate) struct Origin {
    end: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Origin {
    fn drop(&mut self) {
        drop(self.end.take());
        if let Some(thread) = self.thread.take() {
            // A panic of that thread has already been printed on standard error.
            let _ = thread.join();
        }
    }
}

/// Accepts connections until the runtime is dropped.
async fn accept(listener: TcpListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .serve_connection(TokioIo::new(stream), service_fn(respond));
                tokio::spawn(async move {
                    // The client broke HTTP or went away: there is nothing to report.
                    let _ = connection.await;
                });
            }
            Err(error) => {
                tracing::warn!("the built-in origin cannot accept: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn respond(request: Request<Incoming>) -> Result<Response, Infallible> {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let path = request.uri().path();
    let response = match path {
        "/echo" => echo(request),
        _ if !reads => {
            let mut response = plain(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".into());
            response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            response
        }
        "/" => page(request.headers()),
        "/headers" => plain(StatusCode::OK, head_text(&request)),
        _ => match path.strip_prefix("/bytes/") {
            Some(count) => pattern(count),
            None => plain(StatusCode::NOT_FOUND, "try /, /bytes/N, /echo or /headers\n".into()),
        },
    };
    Ok(response)
}

fn page(fields: &HeaderMap) -> Response {
    let via: Vec<_> = fields.get_all(VIA).iter().map(|via| escape_html(via.as_bytes())).collect();
    let via = match via.join(", ") {
        none if none.is_empty() => "directly, not by ringway".to_owned(),
        via => format!("via <code>{via}</code> (3 is HTTP/3)"),
    };
    let text = format!(
        "<!doctype html>\n<meta charset=\"utf-8\">\n<title>ringway</title>\n\
         <h1>ringway runs</h1>\n\
         <p>This page comes from the built-in origin of the demonstration; the request came \
         {via}.\n\
         <p>Try <a href=\"/headers\">/headers</a>, <a href=\"/bytes/1000000\">/bytes/1000000</a>, \
         or a body of your own:\n\
         <pre>curl --http3-only -k --data-binary @file https://localhost:4433/echo</pre>\n"
    );
    let mut response = plain(StatusCode::OK, text);
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, html);
    response
}

/// Escapes text that came with a request for use in HTML.
fn escape_html(text: &[u8]) -> String {
    let mut escaped = String::new();
    for c in String::from_utf8_lossy(text).chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            _ => escaped.push(c),
        }
    }
    escaped
}

/// The request's head as it arrived here.
fn head_text(request: &Request<Incoming>) -> String {
    let mut text = format!("{} {} {:?}\n", request.method(), request.uri(), request.version());
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        text.push_str(&format!("{name}: {value}\n"));
    }
    text
}

/// Streams the request's body back, with its content-length if the request had one.
fn echo(request: Request<Incoming>) -> Response {
    let kind = request.headers().get(CONTENT_TYPE).cloned();
    let kind = kind.unwrap_or_else(|| HeaderValue::from_static("application/octet-stream"));
    let mut response = Response::new(UnsyncBoxBody::new(request.into_body()));
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// The pattern, of the length that the path asks for.
fn pattern(count: &str) -> Response {
    let digits = !count.is_empty() && count.bytes().all(|byte| byte.is_ascii_digit());
    let len = count.parse::<u64>().ok().filter(|len| digits && *len <= BYTES_LEN_MAX);
    let Some(left) = len else {
        let text = format!("N in /bytes/N is a number from 0 to {BYTES_LEN_MAX}\n");
        return plain(StatusCode::BAD_REQUEST, text);
    };
    let mut response = Response::new(UnsyncBoxBody::new(Pattern { left }));
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(left));
    response
}

fn plain(status: StatusCode, text: String) -> Response {
    let len = text.len();
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(UnsyncBoxBody::new(body));
    *response.status_mut() = status;
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    fields.insert(CONTENT_LENGTH, HeaderValue::from(len));
    response
}

/// The rest of a body made of the pattern.
struct Pattern {
    left: u64,
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        // All pieces but the last are whole periods, so each starts at the beginning of the
        // pattern.
        let len = self.left.min(PATTERN_LEN as u64);
        self.left -= len;
        Poll::Ready(Some(Ok(Frame::data(PATTERN.slice(..len as usize)))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpStream;

    use super::*;

    fn start() -> (SocketAddr, Origin) {
        let bound = BoundOrigin::bind().unwrap();
        (bound.address, bound.start().unwrap())
    }

    /// Sends one request and returns the response: its head, and its body as it was on the wire.
    fn ask(origin: SocketAddr, request: &[u8]) -> (String, Vec<u8>) {
        let mut stream = TcpStream::connect(origin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.write_all(request).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let end = response.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
        let body = response.split_off(end);
        (String::from_utf8(response).unwrap(), body)
    }

    fn get(origin: SocketAddr, path: &str) -> (String, Vec<u8>) {
        let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        ask(origin, request.as_bytes())
    }

    #[test]
    fn bytes_returns_the_pattern_in_the_requested_length() {
        let (origin, _running) = start();
        for len in [0, 1, 250, 251, PATTERN_LEN - 1, PATTERN_LEN, PATTERN_LEN + 1, 1_000_003] {
            let (head, body) = get(origin, &format!("/bytes/{len}"));
            assert!(head.starts_with("HTTP/1.1 200"), "{head}");
            assert!(head.contains(&format!("content-length: {len}\r\n")), "{head}");
            assert_eq!(body.len(), len);
            let wrong = body.iter().enumerate().find(|(at, byte)| at % 251 != **byte as usize);
            assert_eq!(wrong, None);
        }
        let most =
            format!("HEAD /bytes/{BYTES_LEN_MAX} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        let (head, body) = ask(origin, most.as_bytes());
        assert!(head.contains("content-length: 1099511627776\r\n"), "{head}");
        assert!(body.is_empty());
        for wrong in ["", "x", "-1", "+1", "1099511627777", "99999999999999999999", "1/2"] {
            let (head, _) = get(origin, &format!("/bytes/{wrong}"));
            assert!(head.starts_with("HTTP/1.1 400"), "{wrong}: {head}");
        }
    }

    #[test]
    fn echo_streams_the_body_back_while_it_arrives() {
        let (origin, _running) = start();
        let (head, body) = ask(
            origin,
            b"POST /echo HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-type: x/y\r\n\
              content-length: 5\r\n\r\nhello",
        );
        assert!(head.contains("content-length: 5\r\n") && head.contains("content-type: x/y\r\n"));
        assert_eq!(body, b"hello");

        // The first piece comes back before the second is sent.
        let mut stream = TcpStream::connect(origin).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let head = b"PUT /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head).unwrap();
        stream.write_all(b"5\r\nfirst\r\n").unwrap();
        let mut seen = Vec::new();
        while !seen.windows(5).any(|window| window == b"first") {
            let mut piece = [0; 1024];
            let len = stream.read(&mut piece).unwrap();
            assert!(len > 0, "ended early: {}", String::from_utf8_lossy(&seen));
            seen.extend_from_slice(&piece[..len]);
        }
        assert!(!seen.ends_with(b"0\r\n\r\n"));
        stream.write_all(b"6\r\nsecond\r\n0\r\n\r\n").unwrap();
        while !seen.ends_with(b"0\r\n\r\n") {
            let mut piece = [0; 1024];
            let len = stream.read(&mut piece).unwrap();
            assert!(len > 0);
            seen.extend_from_slice(&piece[..len]);
        }
        assert!(seen.windows(6).any(|window| window == b"second"));
    }

    #[test]
    fn headers_and_the_page_show_the_request_as_it_was_forwarded() {
        let (origin, _running) = start();
        let (_, body) = ask(
            origin,
            b"GET /headers?x=y HTTP/1.1\r\nHost: a\r\nVia: 3 ringway\r\nconnection: close\r\n\r\n",
        );
        assert_eq!(
            String::from_utf8(body).unwrap(),
            "GET /headers?x=y HTTP/1.1\nhost: a\nvia: 3 ringway\nconnection: close\n"
        );
        let (head, body) = ask(
            origin,
            b"GET / HTTP/1.1\r\nHost: a\r\nVia: 3 <ringway>\r\nconnection: close\r\n\r\n",
        );
        let page = String::from_utf8(body).unwrap();
        assert!(head.contains("text/html"), "{head}");
        assert!(page.contains("3 &lt;ringway&gt;") && !page.contains("<ringway>"), "{page}");
        let (_, body) = get(origin, "/");
        assert!(String::from_utf8(body).unwrap().contains("directly"));
    }

    #[test]
    fn other_paths_and_methods_are_refused() {
        let (origin, _running) = start();
        assert!(get(origin, "/nothing").0.starts_with("HTTP/1.1 404"));
        let (head, _) = ask(origin, b"DELETE / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 405") && head.contains("allow: GET, HEAD\r\n"));
    }

    #[test]
    fn dropping_the_origin_closes_its_port_and_connections() {
        let (address, origin) = start();
        assert!(address.ip().is_loopback());
        let mut open = TcpStream::connect(address).unwrap();
        drop(origin);
        open.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        assert!(matches!(open.read(&mut [0; 1]), Ok(0) | Err(_)));
        assert!(TcpStream::connect(address).is_err());
    }
}
