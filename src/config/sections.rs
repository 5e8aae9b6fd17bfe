//! The sections of the file, top down: the keys of each, and the values they are read into.

use super::bounds as b;
use super::checks::{self, Found, NamedRoute, Reference};
use super::choices;
use super::listener_tls;
use super::model::*;
use super::names::{self, CertificateHost};
use super::reader::{Item, Section};

/// Reads the whole file. If the reader has refusals, the configuration is not to be used.
pub(super) fn read(mut root: Section) -> Config {
    let runtime = runtime(root.section("runtime"));
    let admin = admin(root.section("admin"));
    let log = log(root.section("log"));
    let listeners = root.required("listeners", "write [[listeners]] with an address");
    let certificates =
        root.required("certificates", "write [[certificates]] with hosts, cert and key");
    let routes = root.required("routes", "write [[routes]] with an upstream's name");
    let upstreams = root.required("upstreams", "write [upstreams.NAME] with endpoints");
    let tls = tls(root.section("tls"));
    let limits = limits(root.section("limits"));
    root.finish();

    let listeners = listeners
        .map(|item| each(item, |section, index| Some(listener(section, index))))
        .unwrap_or_default();
    let certificates =
        certificates.map(|item| each(item, |section, _| certificate(section))).unwrap_or_default();
    let routes = routes.map(|item| each(item, |section, _| route(section))).unwrap_or_default();
    let mut upstreams = upstreams.map(all_upstreams).unwrap_or_default();
    upstreams.sort_by(|one, other| one.value.name.cmp(&other.value.name));

    checks::listeners(&listeners);
    let routes = checks::routes(routes, &upstreams);
    Config {
        runtime,
        admin,
        log,
        listeners: listeners.into_iter().map(|found| found.value).collect(),
        certificates: certificates.into_iter().map(|found| found.value).collect(),
        tls,
        routes,
        upstreams: upstreams.into_iter().map(|found| found.value).collect(),
        limits,
    }
}

/// Reads each table of a list, which must not be empty.
fn each<'a, T>(
    item: Item<'a>,
    read: impl Fn(Section<'a>, usize) -> Option<T>,
) -> Vec<Found<'a, T>> {
    let mut found = Vec::new();
    for (index, item) in item.filled_list("entry").into_iter().enumerate() {
        let value = item.section().and_then(|section| read(section, index));
        found.extend(value.map(|value| Found { value, item }));
    }
    found
}

fn runtime(mut section: Section) -> Runtime {
    let workers = section.item("workers").and_then(|item| {
        let auto = item.is_str("auto");
        if auto { None } else { item.integer(&b::WORKERS) }
    });
    let mut pool = section.section("pool");
    let pool_len = pool.item("per_worker").filter(|item| !item.is_str("auto"));
    let pool_len = pool_len
        .and_then(|item| item.size(&b::POOL_PER_WORKER).map(|size| whole_pages(&item, size)));
    let hugepages = pool.choice("hugepages", choices::HUGEPAGES);
    pool.finish();
    let mut memory = section.section("memory");
    let heap_len_max = memory.item("per_worker").filter(|item| !item.is_str("auto"));
    let heap_len_max = heap_len_max.and_then(|item| item.size(&b::MEMORY_PER_WORKER));
    memory.finish();
    let user = section.item("user").and_then(account);
    let core_dumps = section.flag("core_dumps");
    let token_key = section.item("token_key").filter(|item| !item.is_str(""));
    let token_key = token_key.and_then(|item| item.path());
    let drain_timeout = section.duration("drain_timeout", &b::DRAIN_TIMEOUT);
    let stop_timeout = section.duration("stop_timeout", &b::STOP_TIMEOUT);
    let lame_duck = section.duration("lame_duck", &b::LAME_DUCK);
    section.finish();
    Runtime {
        workers: workers.map(narrow),
        heap_len_max: heap_len_max.map(narrow),
        pool_len: pool_len.map(narrow),
        hugepages,
        user,
        core_dumps,
        token_key,
        drain_timeout,
        stop_timeout,
        lame_duck,
    }
}

/// Reads an account; "" keeps the one that starts the process.
fn account(item: Item) -> Option<Account> {
    if item.is_str("") {
        return None;
    }
    item.parsed(|text| names::account(text, &item.reader().surroundings.accounts))
}

/// Returns the length of a pool, after checking that it is a whole number of pages.
fn whole_pages(item: &Item, size: u64) -> u64 {
    if !size.is_multiple_of(b::POOL_STEP) {
        let near = size.next_multiple_of(b::POOL_STEP) >> 20;
        item.refuse(format_args!(
            "is {size} bytes, but must be a whole number of 2MiB pages; the next is \"{near}MiB\""
        ));
    }
    size
}

/// Reads `[admin]`.
pub(super) fn admin(mut section: Section) -> Option<AdminAddress> {
    let default = AdminAddress::Tcp(b::ADMIN_ADDRESS);
    let allow_remote = section.flag("allow_remote");
    let address = match section.item("listen") {
        None => Some(default),
        Some(item) if item.is_str("off") => None,
        Some(item) => {
            let address = item.parsed(|text| names::admin_address(text, item.reader().folder));
            let remote = address.as_ref().and_then(AdminAddress::remote);
            if let (Some(address), false) = (remote, allow_remote) {
                item.refuse(format_args!(
                    "is {address}, which other hosts may reach, and there is no authentication; \
                     listen on \"127.0.0.1:{}\" or a unix socket, or write allow_remote = true",
                    address.port()
                ));
            }
            address
        }
    };
    section.finish();
    address
}

fn log(mut section: Section) -> Log {
    let level = section.choice("level", choices::LOG_LEVEL);
    let tls_keys = section.item("tls_keys").filter(|item| !item.is_str("off"));
    let tls_keys = tls_keys.and_then(|item| item.path());
    let mut access = section.section("access");
    let target = match access.item("path") {
        None => None,
        Some(item) => item.parsed(|text| names::log_target(text, item.reader().folder)),
    };
    let target = target.unwrap_or(AccessTarget::Stdout);
    let format = access.choice("format", choices::ACCESS_FORMAT);
    access.finish();
    section.finish();
    Log { level, tls_keys, access: format.map(|format| AccessLog { target, format }) }
}

fn limits(mut section: Section) -> Limits {
    let limits = Limits {
        field_section_len_max: narrow(section.size("max_header_size", &b::MAX_HEADER_SIZE)),
        field_count_max: narrow(section.integer("max_header_count", &b::MAX_HEADER_COUNT)),
        request_body_len_max: section
            .item("max_body_size")
            .and_then(|item| match item.is_str("unlimited") {
                true => Some(u64::MAX),
                false => item.size(&b::MAX_BODY_SIZE),
            })
            .unwrap_or(b::MAX_BODY_SIZE.default),
        request_head_timeout: section.duration("header_timeout", &b::HEADER_TIMEOUT),
        request_body_timeout: section.duration("body_timeout", &b::BODY_TIMEOUT),
        requests_per_address: narrow(
            section.integer("max_requests_per_address", &b::MAX_REQUESTS_PER_ADDRESS),
        ),
        rate_min: narrow(section.size("min_rate", &b::MIN_RATE)),
        stream_reset_count_max: narrow(section.integer("max_stream_resets", &b::MAX_STREAM_RESETS)),
        response_head_len_max: narrow(
            section.size("max_response_header_size", &b::MAX_RESPONSE_HEADER_SIZE),
        ),
    };
    section.finish();
    limits
}

fn listener(mut section: Section, index: usize) -> Listener {
    let name = section.item("name").and_then(|item| item.parsed(plain_name));
    let address = section.required("address", "write it like [\"0.0.0.0:443\", \"[::]:443\"]");
    let addresses = address.map(|item| {
        let items = item.one_or_many("address");
        items.iter().filter_map(|item| item.parsed(names::socket_address)).collect()
    });
    let tls = listener_tls::read(&mut section);
    let has_tls = tls.is_some();
    let protocols = match section.item("protocols") {
        Some(item) => protocols(item, has_tls),
        None if has_tls => Protocols::SECURE,
        None => Protocols::PLAIN,
    };
    let redirect_to_https =
        section.item("redirect_to_https").and_then(|item| redirect_to_https(item, has_tls));
    let early_data = section.item("early_data");
    let early_data = early_data.map(|item| early_data_of(&item, tls.as_ref(), protocols));
    let advertise = match section.item("advertise") {
        Some(item) if item.is_str("off") => None,
        Some(item) => item.section().map(advertise),
        None => Some(Advertise { port: None, max_age: b::ADVERTISE_MAX_AGE.default }),
    };
    let proxy_protocol = section.item("proxy_protocol");
    let proxy_protocol = proxy_protocol.map(|item| proxy_protocol_peers(&item, protocols));
    let trusted_proxies = section.item("trusted_proxies").map(|item| networks(&item));
    let proxy_fields = proxy_fields(section.section("proxy_fields"));
    let quic = quic(section.section("quic"));
    let tcp = tcp(section.section("tcp"));
    section.finish();
    Listener {
        name: name.unwrap_or_else(|| format!("listener-{index}")),
        addresses: addresses.unwrap_or_default(),
        protocols,
        tls,
        redirect_to_https,
        early_data: early_data.unwrap_or_default(),
        advertise,
        proxy_protocol: proxy_protocol.unwrap_or_default(),
        trusted_proxies: trusted_proxies.unwrap_or_default(),
        proxy_fields,
        quic,
        tcp,
    }
}

fn proxy_fields(mut section: Section) -> ProxyFields {
    let mut names = |key: &'static str, parse: fn(&str) -> Result<String, String>| {
        let items = section.item(key).map(|item| item.list()).unwrap_or_default();
        items.iter().filter_map(|item| item.parsed(parse)).collect()
    };
    let add = names("add", names::field_name);
    let pass = names("pass", names::passed_field_name);
    section.finish();
    ProxyFields { add, pass }
}

/// Checks the name of a listener or an upstream.
fn plain_name(text: &str) -> Result<String, String> {
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte));
    if plain && (1..=64).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    Err(format!("is {text:?}, but must be 1 to 64 letters, digits, \"-\", \"_\" or \".\""))
}

/// Reads the protocols of a listener.
fn protocols(item: Item, has_tls: bool) -> Protocols {
    let mut protocols = Protocols { h3: false, h2: false, http1: false };
    for item in item.filled_list("protocol; write [\"h3\", \"h2\", \"http/1.1\"]") {
        match item.string().as_deref() {
            None => {}
            Some("http/1.1") => protocols.http1 = true,
            Some(secure @ ("h3" | "h2")) if !has_tls => item.refuse(format_args!(
                "is {secure:?}, which needs TLS; leave it out, or remove tls = false"
            )),
            Some("h3") => protocols.h3 = true,
            Some("h2") => protocols.h2 = true,
            Some(other) => item
                .refuse(format_args!("is {other:?}, but must be \"h3\", \"h2\" or \"http/1.1\"")),
        }
    }
    protocols
}

/// Reads the port that requests are redirected to: 443 for `true`, or a number.
fn redirect_to_https(item: Item, has_tls: bool) -> Option<u16> {
    let port = match item.boolean() {
        Some(true) => Some(b::HTTPS_PORT.default),
        Some(false) => None,
        None => item.integer(&b::HTTPS_PORT),
    };
    if port.is_some() && has_tls {
        item.refuse("is for listeners without TLS; add tls = false, or remove it");
    }
    port.map(narrow)
}

/// Reads what is served of early data, at a listener with these settings.
fn early_data_of(item: &Item, tls: Option<&ListenerTls>, protocols: Protocols) -> EarlyData {
    let early_data = item.choice(choices::EARLY_DATA).unwrap_or_default();
    match tls {
        _ if early_data == EarlyData::Off => {}
        Some(tls) if protocols.use_tcp() => {
            if tls.client_auth.is_some() {
                item.refuse(
                    "has no place beside tls.client_auth: where clients show certificates, no \
                     session is resumed; remove one of the two",
                );
            }
        }
        _ => item.refuse(
            "is for TLS over TCP, and early data over QUIC is always refused; add \"h2\" or \
             \"http/1.1\" to protocols, or remove it",
        ),
    }
    early_data
}

fn advertise(mut section: Section) -> Advertise {
    let port = section.item("port").filter(|item| !item.is_str("auto"));
    let port = port.and_then(|item| item.integer(&b::HTTPS_PORT));
    let max_age = section.duration("max_age", &b::ADVERTISE_MAX_AGE);
    section.finish();
    Advertise { port: port.map(narrow), max_age }
}

fn tcp(mut section: Section) -> Tcp {
    let tcp = Tcp {
        max_connections: narrow(section.integer("max_connections", &b::TCP_MAX_CONNECTIONS)),
        connections_per_address: narrow(
            section.percent("max_connections_per_address", &b::CONNECTIONS_PER_ADDRESS),
        ),
        half_open_per_address: narrow(
            section.percent("max_half_open_per_address", &b::HALF_OPEN_PER_ADDRESS),
        ),
        idle_timeout: section.duration("idle_timeout", &b::TCP_IDLE_TIMEOUT),
        max_streams: narrow(section.integer("max_streams", &b::TCP_MAX_STREAMS)),
    };
    section.finish();
    tcp
}

/// Reads the peers whose connections begin with a PROXY header.
fn proxy_protocol_peers(item: &Item, protocols: Protocols) -> Vec<ipnet::IpNet> {
    let peers = networks(item);
    if !peers.is_empty() && !protocols.use_tcp() {
        item.refuse(
            "is for connections over TCP, which this listener has not; add \"h2\" or \"http/1.1\" \
             to protocols, or remove it",
        );
    }
    peers
}

/// Reads a list of networks.
fn networks(item: &Item) -> Vec<ipnet::IpNet> {
    item.list().iter().filter_map(|item| item.parsed(network)).collect()
}

/// Parses a network in CIDR form, or a single address.
fn network(text: &str) -> Result<ipnet::IpNet, String> {
    let network = text.parse::<ipnet::IpNet>().ok();
    let network = network.or_else(|| text.parse::<std::net::IpAddr>().ok().map(Into::into));
    let Some(network) = network else {
        return Err(format!(
            "is {text:?}, but must be a network; write it like \"10.0.0.0/8\" or \"fd00::/8\""
        ));
    };
    if network.trunc() != network {
        let right = network.trunc();
        return Err(format!("is {text:?}, which has bits beyond its prefix; write \"{right}\""));
    }
    Ok(network)
}

fn quic(mut section: Section) -> Quic {
    let retry = section.choice("retry", choices::RETRY);
    let congestion = section.choice("congestion", choices::CONGESTION);
    let quic = Quic {
        retry,
        congestion,
        max_connections: narrow(section.integer("max_connections", &b::MAX_CONNECTIONS)),
        connections_per_address: narrow(
            section.percent("max_connections_per_address", &b::CONNECTIONS_PER_ADDRESS),
        ),
        half_open_per_address: narrow(
            section.percent("max_half_open_per_address", &b::HALF_OPEN_PER_ADDRESS),
        ),
        idle_timeout: section.duration("idle_timeout", &b::IDLE_TIMEOUT),
        max_streams: narrow(section.integer("max_streams", &b::MAX_STREAMS)),
        stream_receive_window: narrow(
            section.size("stream_receive_window", &b::STREAM_RECEIVE_WINDOW),
        ),
        receive_window_max: narrow(section.size("max_receive_window", &b::MAX_RECEIVE_WINDOW)),
        send_window_max: narrow(section.size("max_send_window", &b::MAX_SEND_WINDOW)),
    };
    if quic.stream_receive_window > quic.receive_window_max {
        section.refuse(format_args!(
            "stream_receive_window ({} bytes) must not be more than max_receive_window ({} \
             bytes): a stream never gets more than its connection; raise max_receive_window",
            quic.stream_receive_window, quic.receive_window_max
        ));
    }
    section.finish();
    quic
}

fn certificate(mut section: Section) -> Option<Certificate> {
    let served = section.required("hosts", "write it like [\"example.com\", \"*.example.com\"]");
    let served = served.map(|item| {
        let items = item.one_or_many("name");
        items.iter().filter_map(|item| item.parsed(names::certificate_host)).collect::<Vec<_>>()
    });
    let cert = section.required("cert", "give the path of the certificate chain (PEM)");
    let cert = cert.and_then(|item| item.path());
    let key = section.required("key", "give the path of the private key (PEM)");
    let key = key.and_then(|item| item.path());
    let ocsp = section.item("ocsp").filter(|item| !item.is_str(""));
    let ocsp = ocsp.and_then(|item| item.path());
    section.finish();
    let source = CertificateSource::Files { cert: cert?, key: key?, ocsp };
    let (mut hosts, mut addresses) = (Vec::new(), Vec::new());
    for one in served? {
        match one {
            CertificateHost::Name(pattern) => hosts.push(pattern),
            CertificateHost::Address(address) => addresses.push(address),
        }
    }
    Some(Certificate { hosts, addresses, source })
}

fn tls(mut section: Section) -> Tls {
    let unknown_server_name = section.choice("unknown_server_name", choices::UNKNOWN_SERVER_NAME);
    let ticket_keys = section.item("ticket_keys").filter(|item| !item.is_str(""));
    let ticket_keys = ticket_keys.and_then(|item| item.path());
    section.finish();
    Tls { unknown_server_name, ticket_keys }
}

fn route(mut section: Section) -> Option<NamedRoute> {
    let mut matching = section.section("match");
    let host = matching.item("host").and_then(|item| item.parsed(names::host_pattern));
    let path_prefix = matching.item("path_prefix").and_then(|item| item.parsed(names::path_prefix));
    matching.finish();
    let mut timeout = section.section("timeout");
    let request = timeout.item("request");
    let request_timeout = request.and_then(|item| item.duration(&b::ROUTE_TIMEOUT));
    timeout.finish();
    let needs_certificate = section.choice("client_auth", choices::ROUTE_CLIENT_AUTH);
    let upstream = section.required("upstream", "name one of [upstreams.NAME]");
    section.finish();
    let item = upstream?;
    let upstream = Reference { name: item.string()?, span: item.span(), key: item.key.clone() };
    let path_prefix = path_prefix.unwrap_or_else(|| "/".to_owned());
    Some(NamedRoute { host, path_prefix, upstream, request_timeout, needs_certificate })
}

fn all_upstreams(item: Item<'_>) -> Vec<Found<'_, Upstream>> {
    let Some(section) = item.section() else { return Vec::new() };
    let named = section.named_items();
    if named.is_empty() {
        section.refuse("must hold at least one upstream; write [upstreams.NAME] with endpoints");
    }
    let mut found = Vec::new();
    for (name, item) in named {
        if let Err(message) = plain_name(&name) {
            item.refuse(format_args!("the name {message}"));
        }
        let value = item.section().map(|section| upstream(section, name));
        found.extend(value.map(|value| Found { value, item }));
    }
    found
}

fn upstream(mut section: Section, name: String) -> Upstream {
    section.choice("protocol", choices::UPSTREAM_PROTOCOL);
    section.choice("balance", choices::BALANCE);
    let host = section.choice("host", choices::HOST);
    let max_connections = section.integer("max_connections", &b::UPSTREAM_MAX_CONNECTIONS);
    let connections_per_address =
        section.percent("max_connections_per_address", &b::UPSTREAM_CONNECTIONS_PER_ADDRESS);
    let max_waiting = section.integer("max_waiting", &b::UPSTREAM_MAX_WAITING);
    let congestion = section.item("congestion").and_then(|item| {
        item.parsed(|text| names::tcp_congestion(text, item.reader().surroundings)).flatten()
    });
    let way_out = "write it like [{ address = \"127.0.0.1:8080\" }]";
    let endpoints = section.required("endpoints", way_out).map(endpoints).unwrap_or_default();
    let mut timeout = section.section("timeout");
    let connect_timeout = timeout.duration("connect", &b::CONNECT_TIMEOUT);
    let response_timeout = timeout.duration("response", &b::RESPONSE_TIMEOUT);
    let idle_timeout = timeout.duration("idle", &b::UPSTREAM_IDLE_TIMEOUT);
    timeout.finish();
    let retry = section.choice("retry", choices::RETRY_ON);
    let health = health(section.section("health"));
    section.finish();
    Upstream {
        name,
        host,
        max_connections: narrow(max_connections),
        connections_per_address: narrow(connections_per_address),
        max_waiting: narrow(max_waiting),
        congestion,
        endpoints,
        connect_timeout,
        response_timeout,
        idle_timeout,
        retry,
        health,
    }
}

fn health(mut section: Section) -> Health {
    let health = Health {
        failure_count: narrow(section.integer("failures", &b::HEALTH_FAILURES)),
        pause: section.duration("pause", &b::HEALTH_PAUSE),
        pause_max: section.duration("max_pause", &b::HEALTH_MAX_PAUSE),
    };
    if health.pause > health.pause_max {
        section.refuse("pause must not be longer than max_pause; raise max_pause");
    }
    section.finish();
    health
}

fn endpoints(item: Item) -> Vec<Endpoint> {
    let mut endpoints: Vec<Endpoint> = Vec::new();
    for item in item.filled_list("endpoint") {
        let Some(mut section) = item.section() else { continue };
        let address = section.required("address", "write it like \"127.0.0.1:8080\"");
        let weight = narrow(section.integer("weight", &b::WEIGHT));
        section.finish();
        let Some(address) = address else { continue };
        let reader = address.reader();
        let addresses = address
            .parsed(|text| names::endpoint_addresses(text, reader.folder, reader.surroundings));
        let (name, addresses) = addresses.unwrap_or_default();
        for found in addresses {
            if endpoints.iter().any(|endpoint| endpoint.address == found) {
                address.refuse("is in this upstream twice; use weight for a larger share");
            }
            endpoints.push(Endpoint { address: found, name: name.clone(), weight });
        }
    }
    endpoints
}

/// Converts into a smaller type: every maximum in [`super::bounds`] fits its field.
fn narrow<T: TryFrom<u64>>(value: u64) -> T {
    T::try_from(value).ok().expect("the bound's maximum fits the field")
}
