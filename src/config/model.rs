//! The validated configuration. Its values are within their bounds, so later code does not check
//! them again.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use super::listener_tls::{
    ClientAuth, ClientAuthDemand, ClientFact, ListenerTls, TlsVersion,
};
pub(crate) use crate::account::Account;
pub use crate::address::EndpointAddress;
pub(crate) use crate::address::NamedAddresses;
pub(crate) use crate::hugepages::Hugepages;

/// The validated configuration of the process. Only [`super::parse`] creates one.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    pub runtime: Runtime,
    /// `[admin]`; `None` when the section sets `listen = "off"`.
    pub admin: Option<AdminAddress>,
    pub log: Log,
    /// `[[listeners]]`, at least one, names distinct.
    pub listeners: Vec<Listener>,
    /// `[[certificates]]`, at least one.
    pub certificates: Vec<Certificate>,
    pub tls: Tls,
    /// `[[routes]]`, in order: the first match wins.
    pub routes: Vec<Route>,
    /// `[upstreams.NAME]`, sorted by name; [`Route::upstream`] indexes this list.
    pub upstreams: Vec<Upstream>,
    pub limits: Limits,
}

/// `[runtime]`: cores, memory and privileges.
#[derive(Debug, Clone, PartialEq)]
pub struct Runtime {
    /// Number of workers, 1..=64; `None` is one per available core, as far as CPU quota and memory
    /// limit allow.
    pub workers: Option<u16>,
    /// Bytes of each worker's pool, a multiple of 2 MiB; `None` is [`Self::POOL_LEN_AUTO`], or less
    /// where memory is limited.
    pub pool_len: Option<usize>,
    pub hugepages: Hugepages,
    /// Bytes of the heap that each worker may have in use, beside its pool; the process may have
    /// as many times that as it has workers. `None` is [`Self::HEAP_LEN_AUTO`], or less where
    /// memory is limited.
    pub heap_len_max: Option<usize>,
    /// File of the key of address validation tokens; `None` draws one at each start.
    pub token_key: Option<PathBuf>,
    /// Account to run as after the start; `None` keeps the one that started the process.
    pub user: Option<Account>,
    /// Core dumps, and debuggers of the same user, are permitted.
    pub core_dumps: bool,
    /// How long QUIT lets exchanges in flight finish before it ends them.
    pub drain_timeout: Duration,
    /// How long TERM does; zero closes at once.
    pub stop_timeout: Duration,
    /// Time between the report that the process is not ready and the begin of a drain.
    pub lame_duck: Duration,
}

impl Config {
    /// Returns the names of endpoints with the addresses that they had when the configuration was
    /// loaded. They are not looked up again.
    pub(crate) fn names(&self) -> BTreeMap<&str, Vec<SocketAddr>> {
        let mut names: BTreeMap<&str, Vec<SocketAddr>> = BTreeMap::new();
        for endpoint in self.upstreams.iter().flat_map(|upstream| &upstream.endpoints) {
            let Some(name) = &endpoint.name else { continue };
            let known = names.entry(name).or_default();
            let found = match &endpoint.address {
                EndpointAddress::Tcp(address) => std::slice::from_ref(address),
                EndpointAddress::Named(named) => &named.addresses,
                EndpointAddress::Unix(_) => &[],
            };
            known.extend(found);
            known.sort();
            known.dedup();
        }
        names
    }
}

impl Runtime {
    /// Bytes of a worker's pool where memory is not limited.
    pub(crate) const POOL_LEN_AUTO: usize = 64 << 20;
    /// Bytes of the heap's budget for each worker where memory is not limited: enough for 40,000
    /// idle connections, or a thousand that each hold a megabyte.
    pub(crate) const HEAP_LEN_AUTO: usize = 1 << 30;
}

/// `[admin] listen`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AdminAddress {
    Tcp(SocketAddr),
    /// A unix socket's path (created with mode 0600).
    Unix(PathBuf),
}

impl AdminAddress {
    /// Returns the address if other hosts may reach it.
    pub(super) fn remote(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) if !address.ip().to_canonical().is_loopback() => Some(*address),
            Self::Tcp(_) | Self::Unix(_) => None,
        }
    }
}

impl fmt::Display for AdminAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// `[log]`
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// Process log level: `error`, `warn`, `info`, `debug`.
    pub level: LogLevel,
    /// A file for the secrets of all connections, for debugging.
    pub tls_keys: Option<PathBuf>,
    /// The access log; `None` is off.
    pub access: Option<AccessLog>,
}

/// `[log] level`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogLevel {
    /// Only errors that end the process or a worker.
    Error,
    /// Also problems that an operator should fix.
    Warn,
    /// Also starts, reloads, stops.
    Info,
    /// Also single connections (not for production).
    Debug,
}

/// `[log] access`
#[derive(Debug, Clone, PartialEq)]
pub struct AccessLog {
    pub target: AccessTarget,
    pub format: AccessFormat,
}

/// `access.path`
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AccessTarget {
    Stdout,
    Stderr,
    /// A file, appended to.
    File(PathBuf),
}

/// `access.format`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccessFormat {
    /// One JSON object per line.
    Json,
    /// The combined format of httpd and nginx.
    Combined,
}

/// One of `[[listeners]]`
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Identifies the listener in error messages.
    pub name: String,
    /// At least one, distinct over all listeners. Each is one of UDP, of TCP or of both, as the
    /// protocols need.
    pub addresses: Vec<SocketAddr>,
    pub protocols: Protocols,
    /// Connections are secured by TLS; `None` is plain, with HTTP/1.1 only.
    pub tls: Option<ListenerTls>,
    /// Requests are redirected to `https` at this port; only without TLS.
    pub redirect_to_https: Option<u16>,
    /// Requests that are served before a handshake is complete; only with TLS over TCP.
    pub early_data: EarlyData,
    /// How HTTP/3 is offered to clients of the other protocols; `None` withholds it.
    pub advertise: Option<Advertise>,
    /// Peers whose connections over TCP begin with a PROXY header.
    pub proxy_protocol: Vec<ipnet::IpNet>,
    /// Peers whose proxy fields (X-Forwarded-* and others) are trusted.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    pub proxy_fields: ProxyFields,
    pub quic: Quic,
    pub tcp: Tcp,
}

impl Listener {
    /// Returns what its clients are asked for; `None` asks for no certificates.
    pub fn client_auth(&self) -> Option<&ClientAuth> {
        self.tls.as_ref()?.client_auth.as_ref()
    }

    /// Returns how its clients over TCP are offered HTTP/3, if they are.
    pub fn http3_offer(&self) -> Option<Advertise> {
        self.advertise.filter(|_| self.protocols.h3 && self.protocols.use_tcp())
    }
}

/// `listeners.early_data`: the part of TLS early data that is served; anybody could send it again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum EarlyData {
    /// Nothing: it is refused.
    #[default]
    Off,
    /// Requests that have no body and whose methods are safe. Others wait for the handshake.
    SafeMethods,
}

/// `listeners.advertise`: the Alt-Svc of responses (RFC 7838).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advertise {
    /// The port of HTTP/3 that clients reach; `None` is that of the listener.
    pub port: Option<u16>,
    /// How long clients may remember it.
    pub max_age: Duration,
}

/// `listeners.protocols`, at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Protocols {
    pub h3: bool,
    pub h2: bool,
    pub http1: bool,
}

impl Protocols {
    /// The default where there is TLS.
    pub const SECURE: Self = Self { h3: true, h2: true, http1: true };
    /// The one that needs no TLS.
    pub const PLAIN: Self = Self { h3: false, h2: false, http1: true };

    /// Returns whether any of them runs over TCP.
    pub fn use_tcp(self) -> bool {
        self.h2 || self.http1
    }
}

/// `listeners.proxy_fields`: changes to the list of fields that only trusted proxies may send.
/// Names are in lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyFields {
    /// Fields that belong to the list too.
    pub add: Vec<String>,
    /// Fields that any client may send.
    pub pass: Vec<String>,
}

/// `[listeners.quic]`
#[derive(Debug, Clone, PartialEq)]
pub struct Quic {
    /// When a client must first prove its address with a Retry token.
    pub retry: Retry,
    pub congestion: Congestion,
    /// Maximum number of connections of the process. More are refused with CONNECTION_REFUSED.
    pub max_connections: u32,
    /// Part of `max_connections` that one client address may have, in percent.
    pub connections_per_address: u8,
    /// Part of a worker's half-open handshakes that one client address may have, in percent.
    pub half_open_per_address: u8,
    /// Idle timeout of a connection (RFC 9000 10.1).
    pub idle_timeout: Duration,
    /// Maximum number of concurrent request streams per connection.
    pub max_streams: u32,
    /// Receive window of a stream, in bytes.
    pub stream_receive_window: u32,
    /// Largest receive window of a connection, in bytes.
    pub receive_window_max: u32,
    /// Largest send window of a connection, in bytes.
    pub send_window_max: u32,
}

/// `[listeners.tcp]`
#[derive(Debug, Clone, PartialEq)]
pub struct Tcp {
    /// Maximum number of connections of the process. More wait in the kernel.
    pub max_connections: u32,
    /// Part of `max_connections` that one client address may have, in percent.
    pub connections_per_address: u8,
    /// Part of a worker's TLS handshakes in progress that one client address may have, in percent.
    pub half_open_per_address: u8,
    /// Time without a request after which a connection is closed.
    pub idle_timeout: Duration,
    /// Maximum number of concurrent request streams of an HTTP/2 connection.
    pub max_streams: u32,
}

/// `quic.retry`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    Never,
    /// While many handshakes are half open.
    Adaptive,
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
    /// The names in `hosts`: clients that ask for one of them get this certificate. Others may have
    /// the same name and another kind of key.
    pub hosts: Vec<HostPattern>,
    /// The addresses in `hosts`. Clients that connect to an address send no server name, so they
    /// all get the certificate that has any.
    pub addresses: Vec<IpAddr>,
    pub source: CertificateSource,
}

/// `cert` and `key`
#[derive(Debug, Clone, PartialEq)]
pub enum CertificateSource {
    /// PEM files.
    Files {
        /// Chain, leaf first.
        cert: PathBuf,
        key: PathBuf,
        /// A statement that the certificate is not revoked (DER), to be stapled to it.
        ocsp: Option<PathBuf>,
    },
    /// Self-signed and generated at start, for the demonstration.
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
    /// Returns true if `host` (lower case, no port, no trailing dot) matches.
    pub fn matches(&self, host: &str) -> bool {
        match self {
            Self::Exact(name) => name == host,
            Self::Wildcard(parent) => host
                .split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest == parent),
        }
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(name) => f.write_str(name),
            Self::Wildcard(parent) => write!(f, "*.{parent}"),
        }
    }
}

/// `[tls]`: settings for all certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificate for a client that sends no server name, or one that no certificate serves.
    pub unknown_server_name: UnknownServerName,
    /// File of the keys of session tickets; `None` draws them.
    pub ticket_keys: Option<PathBuf>,
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
    /// Host to match; `None` matches any.
    pub host: Option<HostPattern>,
    /// Path prefix in whole segments. It starts with `/`, and `/` matches all paths.
    pub path_prefix: String,
    /// Index into [`Config::upstreams`].
    pub upstream: usize,
    /// `timeout.request`: from the request's head to the end of its response; `None` is no limit.
    pub request_timeout: Option<Duration>,
    /// `client_auth`: a request without a verified certificate of its client is refused.
    pub needs_certificate: bool,
}

/// `[upstreams.NAME]`
#[derive(Debug, Clone, PartialEq)]
pub struct Upstream {
    pub name: String,
    /// The `Host` field that the upstream receives.
    pub host: HostPolicy,
    /// Maximum number of connections per endpoint and process.
    pub max_connections: u32,
    /// Part of all connections that the requests of one client address may use while no more than
    /// that are free, in percent. A trusted proxy speaks for many clients and may use all.
    pub connections_per_address: u8,
    /// Maximum number of requests waiting for a connection, per process. More are answered with
    /// 503.
    pub max_waiting: u32,
    /// The kernel's name of TCP's congestion control toward it (tcp(7), `TCP_CONGESTION`); `None`
    /// is the system's.
    pub congestion: Option<Arc<str>>,
    /// The endpoints, at least one.
    pub endpoints: Vec<Endpoint>,
    /// `timeout.connect`
    pub connect_timeout: Duration,
    /// `timeout.response`: from the end of the request to the head of the response, and between
    /// pieces of the response.
    pub response_timeout: Duration,
    /// `timeout.idle`: how long an idle connection is kept.
    pub idle_timeout: Duration,
    pub retry: RetryOn,
    pub health: Health,
}

/// `upstreams.NAME.retry`: the failures after which a request is sent a second time, if that is
/// safe. Each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RetryOn {
    /// No connection could be made, or a kept one was closed as it was used.
    Connect,
    /// A new connection broke before the response began.
    Broken,
    /// The upstream did not take the request, or did not respond, in time.
    Timeout,
}

/// `upstreams.NAME.health`: when an endpoint is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Health {
    /// Failed responses in a row that eject an endpoint. A refused connection ejects it at once.
    pub failure_count: u32,
    /// Duration of the first ejection. Each failed trial doubles it.
    pub pause: Duration,
    /// Longest duration of an ejection.
    pub pause_max: Duration,
}

/// `upstreams.NAME.host`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostPolicy {
    /// The authority of the client's request.
    Preserve,
    /// The endpoint's own address.
    Upstream,
}

/// One of `endpoints`
#[derive(Debug, Clone, PartialEq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    /// The name and its port, if the address was found by a name. It is not looked up again.
    pub name: Option<Arc<str>>,
    /// Share of requests relative to the other endpoints, 1..=1000.
    pub weight: u16,
}

/// `[limits]`: bounds of a request.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Maximum decoded length of a request's fields in bytes (RFC 9114 4.2.2). More is answered
    /// with 431.
    pub field_section_len_max: u32,
    /// Maximum number of fields of a request. More is answered with 431.
    pub field_count_max: u32,
    /// Maximum length of a request body in bytes; `u64::MAX` is no limit. More is answered with
    /// 413.
    pub request_body_len_max: u64,
    /// Time from the first byte of a stream to its complete request head.
    pub request_head_timeout: Duration,
    /// Longest pause between two pieces of a request body.
    pub request_body_timeout: Duration,
    /// Maximum number of requests in flight of one client address in the whole process, unless it
    /// is a trusted proxy. More are answered with 429.
    pub requests_per_address: u32,
    /// Bytes a second below which a request's body, or the taking of a response, is too slow; 0
    /// permits any rate.
    pub rate_min: u32,
    /// Requests per connection that the client may cancel or break, beyond those that were served.
    /// The budget is restored in ten seconds.
    pub stream_reset_count_max: u32,
    /// Maximum length of an upstream's response head in bytes. More is answered with 502.
    pub response_head_len_max: u32,
}
