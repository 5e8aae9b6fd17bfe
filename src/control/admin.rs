//! The admin endpoint: `/healthz`, `/readyz`, `/metrics`, `/config` and `/reload` over plain
//! HTTP/1.1, for probes, scrapers and operators on this host. Connections, their heads and their
//! duration are bounded.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener as StdTcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener as StdUnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{
    ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::AdminAddress;
use crate::metrics::plain_text;

use super::reload::ReloadResult;
use super::state::State;

/// Concurrent connections, enough for a few scrapers and probes. More wait in the kernel's queue.
const CONNECTION_COUNT_MAX: usize = 32;
/// Length of a request head; hyper's minimum.
const HEAD_LEN_MAX: usize = 8 * 1024;
/// Time for a request head to arrive. Probes send theirs at once.
const HEAD_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest duration of a connection. Scrapers come every 10 to 60 seconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(120);
/// Pause after a failed accept (no descriptors left), so that the loop does not spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) enum Bound {
    Tcp(TcpListener),
    Unix(UnixListener, SocketFile),
}

/// A unix socket's path, removed at the end.
pub(super) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // It may have been removed already, and there is nothing to do about other errors.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Bound {
    pub(super) fn address(&self) -> AdminAddress {
        match self {
            Self::Tcp(listener) => {
                AdminAddress::Tcp(listener.local_addr().expect("a bound socket knows its address"))
            }
            Self::Unix(_, file) => AdminAddress::Unix(file.0.clone()),
        }
    }
}

/// Binds a listening socket. Must be called inside the runtime.
pub(super) fn bind(address: &AdminAddress) -> io::Result<Bound> {
    match address {
        AdminAddress::Tcp(address) => {
            let listener = StdTcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            Ok(Bound::Tcp(TcpListener::from_std(listener)?))
        }
        AdminAddress::Unix(path) => {
            let listener = bind_unix(path)?;
            listener.set_nonblocking(true)?;
            Ok(Bound::Unix(UnixListener::from_std(listener)?, SocketFile(path.clone())))
        }
    }
}

/// Binds a unix socket, and replaces one that no process listens on. The socket gets its mode under
/// a temporary name, so that no other user can connect before it has.
fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
        Ok(found) => {
            use std::os::unix::fs::FileTypeExt as _;
            if !found.file_type().is_socket() {
                let message = "a file that is not a socket has this name";
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, message));
            }
            if UnixStream::connect(path).is_ok() {
                return Err(io::ErrorKind::AddrInUse.into());
            }
        }
    }
    let mut new = path.as_os_str().to_owned();
    new.push(format!(".{}", std::process::id()));
    let new = SocketFile(PathBuf::from(new));
    let listener = StdUnixListener::bind(&new.0)?;
    std::fs::set_permissions(&new.0, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&new.0, path)?;
    Ok(listener)
}

/// Accepts connections for the life of the process.
pub(super) async fn serve(bound: Bound, state: Rc<State>) {
    let permits = Arc::new(Semaphore::new(CONNECTION_COUNT_MAX));
    loop {
        let permit = Arc::clone(&permits).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let state = Rc::clone(&state);
        let accepted = match &bound {
            Bound::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                tokio_uring::spawn(serve_connection(stream, state, permit));
            }),
            Bound::Unix(listener, _) => listener.accept().await.map(|(stream, _)| {
                tokio_uring::spawn(serve_connection(stream, state, permit));
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!("the admin endpoint cannot accept: {error}");
            tokio::time::sleep(ACCEPT_PAUSE).await;
        }
    }
}

async fn serve_connection<S>(stream: S, state: Rc<State>, permit: OwnedSemaphorePermit)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let service = service_fn(move |request: Request<Incoming>| {
        let state = Rc::clone(&state);
        async move { Ok::<_, Infallible>(respond(&request, &state).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_LEN_MAX)
        .serve_connection(TokioIo::new(stream), service);
    // The peer broke HTTP, went away or took too long: there is nothing to report.
    let _ = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await;
    drop(permit);
}

/// Responds to one request. Request bodies are ignored.
async fn respond(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if request.uri().path() == "/reload" {
        return reload(request, state).await;
    }
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "GET and HEAD only\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/healthz" => text(StatusCode::OK, "alive\n".into()),
        "/readyz" => match state.ready() {
            Ok(()) => text(StatusCode::OK, "ready\n".into()),
            Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
        },
        "/metrics" => {
            let metrics = state.metrics().await;
            let (metrics, content_type) = if prefers_plain_text(request.headers()) {
                (plain_text(&metrics), "text/plain; version=0.0.4; charset=utf-8")
            } else {
                (metrics, "application/openmetrics-text; version=1.0.0; charset=utf-8")
            };
            let mut response = text(StatusCode::OK, metrics);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
            response.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
            response
        }
        "/config" => {
            let effective = state.running().config.effective().to_string();
            let mut response = text(StatusCode::OK, effective);
            let content_type = HeaderValue::from_static("application/toml");
            response.headers_mut().insert(CONTENT_TYPE, content_type);
            response
        }
        _ => text(
            StatusCode::NOT_FOUND,
            "try /healthz, /readyz, /metrics, /config, or POST /reload\n".into(),
        ),
    }
}

/// Reloads the configuration and responds with the report, as JSON.
async fn reload(request: &Request<Incoming>, state: &State) -> Response<Full<Bytes>> {
    if *request.method() != Method::POST {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "POST only\n".into());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return response;
    }
    // Browsers add it to each POST: a page that its user visits has no business here.
    if request.headers().contains_key(ORIGIN) {
        return text(StatusCode::FORBIDDEN, "a web page may not reload\n".into());
    }
    let report = match state.reload("POST /reload").await {
        Ok(report) => report,
        Err(why) => return text(StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    };
    let status = match report.result {
        ReloadResult::Applied | ReloadResult::Unchanged => StatusCode::OK,
        ReloadResult::ConfigurationRefused | ReloadResult::HostRefused => {
            StatusCode::UNPROCESSABLE_ENTITY
        }
        ReloadResult::Incomplete => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let json = serde_json::to_string(&report).expect("a report is plain text");
    let mut response = text(status, format!("{json}\n"));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// Returns whether `accept` names plain text, and OpenMetrics not at all or with a lower weight
/// (RFC 9110 12.5.1).
fn prefers_plain_text(fields: &HeaderMap) -> bool {
    let (mut plain, mut open) = (0.0, 0.0);
    let values = fields.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    for range in values.flat_map(|value| value.split(',')) {
        let mut parts = range.split(';').map(str::trim);
        let kind = parts.next().unwrap_or_default().to_ascii_lowercase();
        let weight = parts.find_map(|part| part.strip_prefix("q="));
        let weight = weight.map_or(1.0, |weight| weight.parse().unwrap_or(0.0));
        match kind.as_str() {
            "text/plain" | "text/*" => plain = f32::max(plain, weight),
            "application/openmetrics-text" => open = f32::max(open, weight),
            _ => {}
        }
    }
    plain > open
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_of_the_metrics_is_that_of_accept() {
        let prefers = |accept: Option<&'static str>| {
            let mut fields = HeaderMap::new();
            if let Some(accept) = accept {
                fields.insert(ACCEPT, HeaderValue::from_static(accept));
            }
            prefers_plain_text(&fields)
        };
        // As Prometheus 2 and 3 ask, curl, and a client without the field.
        for open_metrics in [
            Some(
                "application/openmetrics-text;version=1.0.0,application/openmetrics-text;\
                 version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
            ),
            Some("*/*"),
            Some("application/openmetrics-text, text/plain"),
            Some("text/plain;q=0"),
            Some("text/plain;q=nonsense"),
            None,
        ] {
            assert!(!prefers(open_metrics), "{open_metrics:?}");
        }
        // As telegraf and older agents ask.
        for plain in [
            "text/plain",
            "text/plain;version=0.0.4;q=1,*/*;q=0.1",
            "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;q=0.7,\
             TEXT/Plain;version=0.0.4;q=0.3",
            "application/openmetrics-text;q=0.2, text/plain; q=0.3",
        ] {
            assert!(prefers(Some(plain)), "{plain:?}");
        }
    }
}
