//! The validated configuration: values that cannot be wrong, so later code never checks again.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// The whole configuration of the process, checked. Built by [`super::parse`] only.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// `[runtime]`
    pub runtime: Runtime,
    /// `[admin]`; `None` when the section sets `listen = "off"`.
    pub admin: Option<AdminAddress>,
    /// `[log]`
    pub log: Log,
    /// `[[listeners]]`, at least one, names distinct.
    pub listeners: Vec<Listener>,
    /// `[[certificates]]`, at least one.
    pub certificates: Vec<Certificate>,
    /// `[tls]`
    pub tls: Tls,
    /// `[[routes]]` in order: the first match wins.
    pub routes: Vec<Route>,
    /// `[upstreams.NAME]`, sorted by name; [`Route::upstream`] indexes this list.
    pub upstreams: Vec<Upstream>,
    /// `[limits]`
    pub limits: Limits,
}

/// `[runtime]`: cores and memory.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// Worker count, 1..=64; `None` is one per core the process may use.
    pub workers: Option<u16>,
    /// Pool bytes of each worker, a whole number of 2 MiB.
    pub pool_len: usize,
    /// Whether the pool is to lie in huge pages.
    pub hugepages: Hugepages,
    /// How long QUIT lets exchanges finish before it ends them.
    pub drain_timeout: Duration,
}

/// `pool.hugepages`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hugepages {
    /// Use huge pages where the kernel has them, else say once how to reserve them.
    Try,
    /// Refuse to start without huge pages.
    Require,
    /// Plain pages.
    Off,
}

/// `[admin] listen`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A unix socket's path (created with mode 0600).
    Unix(PathBuf),
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Process log level: `error`, `warn`, `info`, `debug`.
    pub level: LogLevel,
    /// Where access lines go; `None` is off.
    pub access: Option<AccessLog>,
}

/// `[log] level`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only what ends the process or a worker.
    Error,
    /// Also what an operator should mend.
    Warn,
    /// Also starts, reloads, stops.
    Info,
    /// Also single connections (not for production).
    Debug,
}

/// `[log] access`
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    /// `stdout` or a file.
    pub target: AccessTarget,
    /// Line format.
    pub format: AccessFormat,
}

/// `access.path`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    /// Standard output.
    Stdout,
    /// A file, appended to.
    File(PathBuf),
}

/// `access.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object a line.
    Json,
    /// The combined format of httpd and nginx.
    Combined,
}

/// One of `[[listeners]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Tells listeners apart in error messages.
    pub name: String,
    /// UDP addresses, at least one, distinct over all listeners.
    pub addresses: Vec<SocketAddr>,
    /// Peers whose X-Forwarded-* fields are believed.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// `[listeners.quic]`
    pub quic: Quic,
}

/// `[listeners.quic]`
#[derive(Debug, Clone, PartialEq)]
pub struct Quic {
    /// When a client must prove its address with a Retry token first.
    pub retry: Retry,
    /// Congestion controller.
    pub congestion: Congestion,
    /// Connections of the whole process; more are refused with CONNECTION_REFUSED.
    pub max_connections: u32,
    /// Silence after which a connection ends (RFC 9000 10.1).
    pub idle_timeout: Duration,
    /// Bidirectional streams a client may have open at once.
    pub max_streams: u32,
    /// Receive window of one stream in bytes.
    pub stream_receive_window: u32,
    /// Ceiling that a connection's receive window grows to, in bytes.
    pub receive_window_max: u32,
    /// Ceiling that a connection's send window grows to, in bytes.
    pub send_window_max: u32,
}

/// `quic.retry`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Never.
    Never,
    /// While many handshakes are half open.
    Adaptive,
    /// Always.
    Always,
}

/// `quic.congestion`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Congestion {
    /// RFC 9438.
    Cubic,
    /// Bottleneck bandwidth and round-trip time (experimental in quinn-proto).
    Bbr,
    /// RFC 9002 7.
    NewReno,
}

/// One of `[[certificates]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Certificate {
    /// Names it serves: `example.com` or `*.example.com`, lower case, at least one.
    pub hosts: Vec<HostPattern>,
    /// Where chain and key come from.
    pub source: CertificateSource,
}

/// `cert` and `key`
#[derive(Debug, Clone, PartialEq)]
pub enum CertificateSource {
    /// PEM files.
    Files {
        /// Chain, leaf first.
        cert: PathBuf,
        /// Private key.
        key: PathBuf,
    },
    /// Made in memory at start, self-signed, for the demonstration.
    SelfSigned,
}

/// A host name, or every direct subdomain of one. Lower case, without port.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostPattern {
    /// This name only.
    Exact(String),
    /// `*.NAME`: holds NAME without the `*.`; matches exactly one more label.
    Wildcard(String),
}

impl HostPattern {
    /// Whether `host` (lower case, no port, no trailing dot) is meant.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        }
    }
}

/// `[tls]`: what holds for all certificates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Tls {
    /// What a client is shown that asks for no name, or for one that no certificate serves.
    pub unknown_server_name: UnknownServerName,
}

/// `tls.unknown_server_name`
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum UnknownServerName {
    /// The first certificate.
    #[default]
    Default,
    /// None: the handshake fails.
    Refuse,
}

/// One of `[[routes]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Route {
    /// Host to match; `None` is any.
    pub host: Option<HostPattern>,
    /// Whole-segment path prefix, starts with `/`; `/` matches all.
    pub path_prefix: String,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
}

/// `[upstreams.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    /// NAME.
    pub name: String,
    /// What `Host` the upstream is told.
    pub host: HostPolicy,
    /// Connections per endpoint and process.
    pub max_connections: u32,
    /// Requests that may wait for a connection, per process; more are answered 503.
    pub max_waiting: u32,
    /// The kernel's name of TCP's congestion control toward it (tcp(7), `TCP_CONGESTION`); `None`
    /// is the system's.
    pub congestion: Option<Arc<str>>,
    /// At least one.
    pub endpoints: Vec<Endpoint>,
    /// `timeout.connect`
    pub connect_timeout: Duration,
    /// `timeout.response`: from the request's last byte to the response's head, and between pieces.
    pub response_timeout: Duration,
    /// `timeout.idle`: how long a connection without a request is kept.
    pub idle_timeout: Duration,
    /// `health`
    pub health: Health,
}

/// `upstreams.NAME.health`: when an endpoint is set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Responses in a row that broke off or did not come; a refused connection is enough by itself.
    pub failure_count: u32,
    /// For how long the first time; each failed trial doubles it.
    pub pause: Duration,
    /// For how long at most.
    pub pause_max: Duration,
}

/// `upstreams.NAME.host`
#[derive(Debug, Clone, PartialEq)]
pub enum HostPolicy {
    /// The client's authority.
    Preserve,
    /// The endpoint's own address.
    Upstream,
}

/// One of `endpoints`
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    /// Where it is.
    pub address: EndpointAddress,
    /// Share of requests against its siblings, 1..=1000.
    pub weight: u16,
}

/// `endpoints[].address`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EndpointAddress {
    /// IP address and port (names are resolved when the configuration is loaded).
    Tcp(SocketAddr),
    /// A unix stream socket.
    Unix(PathBuf),
}

/// `[limits]`: what one request may cost.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Decoded length of a request's fields (RFC 9114 4.2.2), in bytes; more is 431.
    pub field_section_len_max: u32,
    /// Fields of one request; more is 431.
    pub field_count_max: u32,
    /// Length of a request body in bytes; more is 413.
    pub request_body_len_max: u64,
    /// Time from a stream's first byte to its complete request head.
    pub request_head_timeout: Duration,
    /// Longest pause between two pieces of a request body.
    pub request_body_timeout: Duration,
    /// Requests of one connection that may come to nothing by the client's doing beyond those that
    /// were answered; the budget fills up in ten seconds.
    pub stream_reset_count_max: u32,
    /// Length of an upstream's response head in bytes; more is 502.
    pub response_head_len_max: u32,
}
