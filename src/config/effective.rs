//! The effective configuration: every key with the value that it has, written as TOML.
//!
//! It is written by hand, key by key, as it is read ([`super::sections`]). Reading the written text
//! gives the same configuration, which a test checks. No value is a secret: keys of certificates
//! and tokens are named by the paths of their files.

use std::fmt;
use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::choices::{self, word};
use super::model::*;
use super::reader::{duration_text, size_text};

/// A configuration as a table of all keys.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Effective {
    pub(super) table: Table,
}

impl fmt::Display for Effective {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.table.fmt(f)
    }
}

impl Config {
    /// Returns the configuration with the defaults of all keys that its file leaves out.
    pub(crate) fn effective(&self) -> Effective {
        let upstream = |upstream: &Upstream| (upstream.name.clone(), self::upstream(upstream));
        let table = table([
            ("runtime", runtime(&self.runtime)),
            ("admin", admin(self.admin.as_ref())),
            ("log", log(&self.log)),
            ("listeners", list(&self.listeners, listener)),
            ("certificates", list(&self.certificates, certificate)),
            (
                "tls",
                section([
                    (
                        "unknown_server_name",
                        word(choices::UNKNOWN_SERVER_NAME, &self.tls.unknown_server_name).into(),
                    ),
                    (
                        "ticket_keys",
                        self.tls.ticket_keys.as_deref().map_or_else(|| "".into(), path),
                    ),
                ]),
            ),
            ("routes", list(&self.routes, |route| self.route(route))),
            ("upstreams", Value::Table(self.upstreams.iter().map(upstream).collect())),
            ("limits", limits(&self.limits)),
        ]);
        Effective { table }
    }

    fn route(&self, route: &Route) -> Value {
        let mut matching = table([("path_prefix", text(&route.path_prefix))]);
        if let Some(host) = &route.host {
            matching.insert("host".to_owned(), text(host));
        }
        let mut written = table([
            ("match", Value::Table(matching)),
            ("upstream", text(&self.upstreams[route.upstream].name)),
            ("client_auth", word(choices::ROUTE_CLIENT_AUTH, &route.needs_certificate).into()),
        ]);
        if let Some(limit) = route.request_timeout {
            written.insert("timeout".to_owned(), section([("request", duration(limit))]));
        }
        Value::Table(written)
    }
}

fn runtime(runtime: &Runtime) -> Value {
    let auto = || "auto".into();
    let user = runtime.user.as_ref().map_or("", |account| account.name.as_str());
    section([
        ("workers", runtime.workers.map_or_else(auto, |count| i64::from(count).into())),
        ("user", text(user)),
        ("core_dumps", runtime.core_dumps.into()),
        ("drain_timeout", duration(runtime.drain_timeout)),
        ("stop_timeout", duration(runtime.stop_timeout)),
        ("lame_duck", duration(runtime.lame_duck)),
        (
            "pool",
            section([
                ("per_worker", runtime.pool_len.map_or_else(auto, |len| size(len as u64))),
                ("hugepages", word(choices::HUGEPAGES, &runtime.hugepages).into()),
            ]),
        ),
        (
            "memory",
            section([(
                "per_worker",
                runtime.heap_len_max.map_or_else(auto, |len| size(len as u64)),
            )]),
        ),
        ("token_key", runtime.token_key.as_deref().map_or_else(|| "".into(), path)),
    ])
}

/// `allow_remote` is written as the address needs it.
fn admin(address: Option<&AdminAddress>) -> Value {
    section([
        ("listen", address.map_or_else(|| "off".into(), text)),
        ("allow_remote", address.is_some_and(|address| address.remote().is_some()).into()),
    ])
}

fn log(log: &Log) -> Value {
    let format = log.access.as_ref().map(|access| access.format);
    let target = match log.access.as_ref().map(|access| &access.target) {
        None | Some(AccessTarget::Stdout) => "stdout".into(),
        Some(AccessTarget::Stderr) => "stderr".into(),
        Some(AccessTarget::File(file)) => path(file),
    };
    section([
        ("level", word(choices::LOG_LEVEL, &log.level).into()),
        ("tls_keys", log.tls_keys.as_deref().map_or_else(|| "off".into(), path)),
        (
            "access",
            section([("path", target), ("format", word(choices::ACCESS_FORMAT, &format).into())]),
        ),
    ])
}

fn listener(listener: &Listener) -> Value {
    let quic = &listener.quic;
    let tcp = &listener.tcp;
    let ProxyFields { add, pass } = &listener.proxy_fields;
    let Protocols { h3, h2, http1 } = listener.protocols;
    let protocols = [(h3, "h3"), (h2, "h2"), (http1, "http/1.1")];
    let protocols =
        protocols.into_iter().filter(|(is_on, _)| *is_on).map(|(_, name)| name.into()).collect();
    let redirect = listener.redirect_to_https.map_or(false.into(), |port| i64::from(port).into());
    let advertise = listener.advertise.map_or_else(
        || "off".into(),
        |advertise| {
            let port = advertise.port.map_or("auto".into(), |port| i64::from(port).into());
            section([("port", port), ("max_age", duration(advertise.max_age))])
        },
    );
    section([
        ("name", text(&listener.name)),
        ("address", texts(&listener.addresses)),
        ("protocols", Value::Array(protocols)),
        ("tls", listener.tls.as_ref().map_or_else(|| false.into(), listener_tls)),
        ("redirect_to_https", redirect),
        ("early_data", word(choices::EARLY_DATA, &listener.early_data).into()),
        ("advertise", advertise),
        ("proxy_protocol", texts(&listener.proxy_protocol)),
        ("trusted_proxies", texts(&listener.trusted_proxies)),
        ("proxy_fields", section([("add", texts(add)), ("pass", texts(pass))])),
        (
            "quic",
            section([
                ("retry", word(choices::RETRY, &quic.retry).into()),
                ("congestion", word(choices::CONGESTION, &quic.congestion).into()),
                ("max_connections", i64::from(quic.max_connections).into()),
                ("max_connections_per_address", percent(quic.connections_per_address)),
                ("max_half_open_per_address", percent(quic.half_open_per_address)),
                ("idle_timeout", duration(quic.idle_timeout)),
                ("max_streams", i64::from(quic.max_streams).into()),
                ("stream_receive_window", size(quic.stream_receive_window.into())),
                ("max_receive_window", size(quic.receive_window_max.into())),
                ("max_send_window", size(quic.send_window_max.into())),
            ]),
        ),
        (
            "tcp",
            section([
                ("max_connections", i64::from(tcp.max_connections).into()),
                ("max_connections_per_address", percent(tcp.connections_per_address)),
                ("max_half_open_per_address", percent(tcp.half_open_per_address)),
                ("idle_timeout", duration(tcp.idle_timeout)),
                ("max_streams", i64::from(tcp.max_streams).into()),
            ]),
        ),
    ])
}

fn listener_tls(tls: &ListenerTls) -> Value {
    let auth = tls.client_auth.as_ref();
    let field = |fact: &ClientFact| {
        let mut fields = auth.iter().flat_map(|auth| &auth.fields);
        let name = fields.find(|(named, _)| named == fact).map(|(_, name)| text(name));
        name.unwrap_or_else(|| "".into())
    };
    let headers = choices::CLIENT_FACTS;
    let headers = headers.iter().map(|(key, fact)| ((*key).to_owned(), field(fact))).collect();
    let crls = auth.iter().flat_map(|auth| &auth.crls);
    let demand = auth.map(|auth| auth.demand);
    section([
        ("min_version", word(choices::TLS_VERSION, &tls.version_min).into()),
        (
            "client_auth",
            section([
                ("mode", word(choices::CLIENT_AUTH, &demand).into()),
                ("ca", auth.map_or_else(|| "".into(), |auth| path(&auth.ca))),
                ("crl", Value::Array(crls.map(|file| path(file)).collect())),
                ("headers", Value::Table(headers)),
            ]),
        ),
    ])
}

fn certificate(certificate: &Certificate) -> Value {
    let hosts = certificate.hosts.iter().map(text);
    let hosts = hosts.chain(certificate.addresses.iter().map(text)).collect();
    let hosts = ("hosts", Value::Array(hosts));
    match &certificate.source {
        CertificateSource::Files { cert, key, ocsp } => {
            let ocsp = ocsp.as_deref().map_or_else(|| "".into(), path);
            section([hosts, ("cert", path(cert)), ("key", path(key)), ("ocsp", ocsp)])
        }
        CertificateSource::SelfSigned => {
            section([hosts, ("cert", "self-signed".into()), ("key", "self-signed".into())])
        }
    }
}

fn upstream(upstream: &Upstream) -> Value {
    let mut endpoints: Vec<Value> = Vec::new();
    for endpoint in &upstream.endpoints {
        let address = match (&endpoint.name, &endpoint.address) {
            (Some(name), _) => text(name),
            (None, EndpointAddress::Tcp(address)) => text(address),
            (None, EndpointAddress::Unix(file)) => text(format_args!("unix:{}", file.display())),
            (None, EndpointAddress::Named(named)) => text(&named.label),
        };
        let endpoint =
            section([("address", address), ("weight", i64::from(endpoint.weight).into())]);
        // Several have one name.
        if !endpoints.contains(&endpoint) {
            endpoints.push(endpoint);
        }
    }
    let health = &upstream.health;
    let mut written = table([
        ("protocol", word(choices::UPSTREAM_PROTOCOL, &()).into()),
        ("balance", word(choices::BALANCE, &()).into()),
        ("host", word(choices::HOST, &upstream.host).into()),
        ("max_connections", i64::from(upstream.max_connections).into()),
        ("max_connections_per_address", percent(upstream.connections_per_address)),
        ("max_waiting", i64::from(upstream.max_waiting).into()),
        ("endpoints", Value::Array(endpoints)),
        (
            "timeout",
            section([
                ("connect", duration(upstream.connect_timeout)),
                ("response", duration(upstream.response_timeout)),
                ("idle", duration(upstream.idle_timeout)),
            ]),
        ),
        ("retry", word(choices::RETRY_ON, &upstream.retry).into()),
        (
            "health",
            section([
                ("failures", i64::from(health.failure_count).into()),
                ("pause", duration(health.pause)),
                ("max_pause", duration(health.pause_max)),
            ]),
        ),
    ]);
    if let Some(congestion) = &upstream.congestion {
        written.insert("congestion".to_owned(), text(congestion));
    }
    Value::Table(written)
}

fn limits(limits: &Limits) -> Value {
    let body_len_max = match limits.request_body_len_max {
        u64::MAX => "unlimited".into(),
        len => size(len),
    };
    section([
        ("max_header_size", size(limits.field_section_len_max.into())),
        ("max_header_count", i64::from(limits.field_count_max).into()),
        ("max_body_size", body_len_max),
        ("header_timeout", duration(limits.request_head_timeout)),
        ("body_timeout", duration(limits.request_body_timeout)),
        ("max_requests_per_address", i64::from(limits.requests_per_address).into()),
        ("min_rate", size(limits.rate_min.into())),
        ("max_stream_resets", i64::from(limits.stream_reset_count_max).into()),
        ("max_response_header_size", size(limits.response_head_len_max.into())),
    ])
}

fn table<const COUNT: usize>(keys: [(&str, Value); COUNT]) -> Table {
    keys.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
}

fn section<const COUNT: usize>(keys: [(&str, Value); COUNT]) -> Value {
    Value::Table(table(keys))
}

fn list<T>(items: &[T], write: impl Fn(&T) -> Value) -> Value {
    Value::Array(items.iter().map(write).collect())
}

fn texts<T: fmt::Display>(items: &[T]) -> Value {
    Value::Array(items.iter().map(text).collect())
}

/// Writes a string, in which `${` stands for itself.
fn text(value: impl fmt::Display) -> Value {
    Value::String(value.to_string().replace("${", "$${"))
}

fn path(path: &Path) -> Value {
    text(path.display())
}

fn size(len: u64) -> Value {
    size_text(len).into()
}

fn duration(duration: Duration) -> Value {
    duration_text(duration).into()
}

fn percent(part: u8) -> Value {
    format!("{part}%").into()
}
