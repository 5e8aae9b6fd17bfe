//! Valid configuration files, and the text of every error.

use std::path::PathBuf;
use std::time::Duration;

use super::*;

mod early_data;
mod effective;
mod least_privilege;
mod listener_tls;

fn parse_here(text: &str) -> Result<(Config, Vec<String>), ConfigErrors> {
    let env = |name: &str| match name {
        "PORT" => Some("8081".to_owned()),
        "STREAMS" => Some("7".to_owned()),
        _ => None,
    };
    let resolve = |name: &str, port: u16| match name {
        "two.internal" => Ok(addresses(port, &["10.0.0.1", "::1", "10.0.0.2", "::2", "10.0.0.1"])),
        "six.internal" => Ok(addresses(port, &["::1", "10.0.0.1"])),
        "plain.internal" => Ok(addresses(port, &["10.0.0.1", "10.0.0.2"])),
        "none.internal" => Ok(Vec::new()),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such name")),
    };
    let tcp_congestions = || Some("reno cubic\n".to_owned());
    let accounts = Accounts {
        user: |name| match name {
            "ringway" | "991" => Ok(Some(UserIds { uid: 991, gid: 992 })),
            "root" | "0" => Ok(Some(UserIds { uid: 0, gid: 0 })),
            "operator" => Ok(Some(UserIds { uid: 11, gid: 0 })),
            "remote" => Err(io::Error::other("the directory is down")),
            _ => Ok(None),
        },
        group: |name| Ok((name == "rings").then_some(77)),
    };
    let surroundings =
        Surroundings { env: &env, resolve: &resolve, tcp_congestions: &tcp_congestions, accounts };
    parse_with(text, Path::new("/etc/ringway/test.toml"), &surroundings, sections::read)
}

fn addresses(port: u16, texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| SocketAddr::new(text.parse().unwrap(), port)).collect()
}

const MINIMAL: &str = include_str!("../../configs/minimal.toml");
const FULL: &str = include_str!("../../configs/ringway.toml");

/// Returns [`MINIMAL`] with one line replaced by another.
fn minimal_with(line: &str, replacement: &str) -> String {
    assert!(MINIMAL.contains(line), "{line}");
    MINIMAL.replacen(line, replacement, 1)
}

/// Returns [`MINIMAL`] with a section before its first one.
fn minimal_and(section: &str) -> String {
    format!("{section}\n{MINIMAL}")
}

#[test]
fn the_minimal_file_is_valid() {
    let (config, _) = parse_here(MINIMAL).unwrap();
    assert_eq!(config.runtime.workers, None);
    assert_eq!((config.runtime.pool_len, config.runtime.heap_len_max), (None, None));
    assert_eq!(config.admin, Some(AdminAddress::Tcp("127.0.0.1:9901".parse().unwrap())));
    assert_eq!(config.listeners[0].name, "listener-0");
    assert_eq!(config.listeners[0].addresses.len(), 2);
    assert_eq!(config.listeners[0].quic.idle_timeout, Duration::from_secs(30));
    let Route { host, upstream, request_timeout, needs_certificate, .. } = &config.routes[0];
    assert_eq!((host, upstream, request_timeout, needs_certificate), (&None, &0, &None, &false));
    assert_eq!(config.routes[0].path_prefix, "/");
    assert_eq!(config.upstreams[0].endpoints[0].weight, 1);
    assert_eq!(config.log.access.unwrap().target, AccessTarget::Stdout);
}

#[test]
fn the_full_file_has_every_key_with_its_default() {
    let (full, absent) = parse_here(FULL).unwrap();
    assert_eq!(absent, [""; 0], "configs/ringway.toml does not have these keys");
    let (minimal, absent) = parse_here(MINIMAL).unwrap();
    assert!(absent.len() > 20, "the shortest file leaves most keys out: {absent:?}");
    assert_eq!(full.runtime, minimal.runtime);
    assert_eq!(full.admin, minimal.admin);
    assert_eq!(full.log, minimal.log);
    assert_eq!(full.limits, minimal.limits);
    assert_eq!(full.tls, minimal.tls);
    assert_eq!(full.listeners[0].quic, minimal.listeners[0].quic);
    assert_eq!(full.listeners[0].trusted_proxies, minimal.listeners[0].trusted_proxies);
    assert_eq!(full.listeners[0].proxy_fields, minimal.listeners[0].proxy_fields);
    let defaults = |upstream: &Upstream| Upstream {
        name: String::new(),
        endpoints: Vec::new(),
        ..upstream.clone()
    };
    assert_eq!(defaults(&full.upstreams[0]), defaults(&minimal.upstreams[0]));
}

#[test]
fn standard_streams_have_many_names() {
    let target = |path: &str| {
        let section = format!("[log]\naccess.path = \"{path}\"");
        parse_here(&minimal_and(&section)).unwrap().0.log.access.unwrap().target
    };
    for path in ["stdout", "-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"] {
        assert_eq!(target(path), AccessTarget::Stdout, "{path}");
    }
    for path in ["stderr", "/dev/stderr", "/dev/fd/2", "/proc/self/fd/2"] {
        assert_eq!(target(path), AccessTarget::Stderr, "{path}");
    }
    assert_eq!(target("a.log"), AccessTarget::File("/etc/ringway/a.log".into()));
    let errors = parse_here(&minimal_and("[log]\naccess.path = \"\"")).unwrap_err();
    assert!(errors.to_string().contains("log.access.path: must be a path"), "{errors}");
}

#[test]
fn sizes_of_memory_are_kept_or_left_to_the_host() {
    let sizes = |value: &str| {
        let section =
            format!("[runtime]\npool.per_worker = \"{value}\"\nmemory.per_worker = \"{value}\"");
        let runtime = parse_here(&minimal_and(&section)).unwrap().0.runtime;
        (runtime.pool_len, runtime.heap_len_max)
    };
    assert_eq!(sizes("auto"), (None, None));
    assert_eq!(sizes("128MiB"), (Some(128 << 20), Some(128 << 20)));
}

#[test]
fn values_come_from_the_environment() {
    let text = minimal_with("127.0.0.1:8080", "127.0.0.1:${PORT}");
    let text = format!("{text}\n[runtime]\nworkers = \"${{WORKERS:-auto}}\"");
    let text = text.replace("address = [", "quic.max_streams = \"${STREAMS}\"\naddress = [");
    let (config, _) = parse_here(&text).unwrap();
    let expected = EndpointAddress::Tcp("127.0.0.1:8081".parse().unwrap());
    assert_eq!(config.upstreams[0].endpoints[0].address, expected);
    assert_eq!(config.listeners[0].quic.max_streams, 7);
    assert_eq!(config.runtime.workers, None);
}

#[test]
fn a_name_is_an_endpoint_for_each_address_of_the_first_family() {
    let found = |name: &str| -> Vec<EndpointAddress> {
        let text = minimal_with("127.0.0.1:8080", &format!("{name}:80"));
        let (config, _) = parse_here(&text).unwrap();
        let endpoints = &config.upstreams[0].endpoints;
        assert!(endpoints.iter().all(|one| one.name.as_deref() == Some(&format!("{name}:80"))));
        endpoints.iter().map(|one| one.address.clone()).collect()
    };
    let named = |label: &str, addresses: &[&str]| {
        let addresses = addresses.iter().map(|text| text.parse().unwrap()).collect();
        EndpointAddress::Named(NamedAddresses { label: label.into(), addresses })
    };
    let tcp = |text: &str| EndpointAddress::Tcp(text.parse().unwrap());
    assert_eq!(found("plain.internal"), [tcp("10.0.0.1:80"), tcp("10.0.0.2:80")]);
    assert_eq!(found("six.internal"), [named("six.internal:80", &["[::1]:80", "10.0.0.1:80"])]);
    // Each endpoint falls back on another address first.
    assert_eq!(
        found("two.internal"),
        [
            named("two.internal:80#1", &["10.0.0.1:80", "[::1]:80", "[::2]:80"]),
            named("two.internal:80#2", &["10.0.0.2:80", "[::2]:80", "[::1]:80"]),
        ]
    );
}

#[test]
fn relative_paths_start_at_the_files_directory() {
    let text = minimal_with("/etc/ringway/example.pem", "tls/example.pem");
    let text = text.replace("127.0.0.1:8080", "unix:run/app.sock");
    let (config, _) = parse_here(&text).unwrap();
    let CertificateSource::Files { cert, key, ocsp } = &config.certificates[0].source else {
        panic!()
    };
    assert_eq!(*cert, PathBuf::from("/etc/ringway/tls/example.pem"));
    assert_eq!(*key, PathBuf::from("/etc/ringway/example.key"));
    assert_eq!(*ocsp, None);
    let text = text.replace("hosts = [", "ocsp = \"tls/example.ocsp\"\nhosts = [");
    let (stapled, _) = parse_here(&text).unwrap();
    let CertificateSource::Files { ocsp, .. } = &stapled.certificates[0].source else { panic!() };
    assert_eq!(*ocsp, Some(PathBuf::from("/etc/ringway/tls/example.ocsp")));
    let expected = EndpointAddress::Unix("/etc/ringway/run/app.sock".into());
    assert_eq!(config.upstreams[0].endpoints[0].address, expected);
}

#[test]
fn a_body_may_be_of_any_length_or_of_none() {
    let config_with = |size: &str| {
        parse_here(&minimal_and(&format!("[limits]\nmax_body_size = {size}"))).unwrap().0
    };
    for (size, len_max, warning) in [
        ("\"unlimited\"", u64::MAX, None),
        ("\"1PiB\"", 1 << 50, None),
        ("1", 1, None),
        ("0", 0, Some("\"unlimited\"")),
        ("\"0B\"", 0, Some("413")),
    ] {
        let config = config_with(size);
        assert_eq!(config.limits.request_body_len_max, len_max, "{size}");
        let warnings = config.warnings();
        assert_eq!(warnings.len(), usize::from(warning.is_some()), "{size}: {warnings:?}");
        let named = warning.unwrap_or_default();
        assert!(warnings.iter().all(|text| text.contains(named)), "{warnings:?}");
    }
    let refused = parse_here(&minimal_and("[limits]\nmax_body_size = \"none\"")).unwrap_err();
    assert!(refused.to_string().contains("limits.max_body_size"), "{refused}");
}

#[test]
fn sections_can_be_switched_off() {
    let text = minimal_and("[admin]\nlisten = \"off\"\n[log]\naccess = { format = \"off\" }");
    let (config, _) = parse_here(&text).unwrap();
    assert_eq!(config.admin, None);
    assert_eq!(config.log.access, None);
}

#[test]
fn routes_refer_to_their_upstream_by_name() {
    let text = MINIMAL.replace(
        "[[routes]]\nupstream = \"app\"",
        "[[routes]]\nmatch = { path_prefix = \"/api\" }\nupstream = \"zoo\"\n\
         [[routes]]\nmatch = { host = \"*.Example.com\" }\nupstream = \"app\"\n\
         [[routes]]\nupstream = \"bee\"\n\
         [upstreams.zoo]\nendpoints = [{ address = \"127.0.0.1:1\" }]\n\
         [upstreams.bee]\nendpoints = [{ address = \"127.0.0.1:2\" }]",
    );
    let (config, _) = parse_here(&text).unwrap();
    let names: Vec<_> =
        config.routes.iter().map(|route| config.upstreams[route.upstream].name.as_str()).collect();
    assert_eq!(names, ["zoo", "app", "bee"]);
    assert_eq!(config.routes[1].host, Some(HostPattern::Wildcard("example.com".to_owned())));
}

/// Asserts one error: the file's text, the line, the key, and the required parts of the message.
fn assert_refused(text: &str, line: usize, key: &str, parts: &[&str]) {
    let errors = parse_here(text).expect_err(text);
    let lines: Vec<_> =
        errors.errors.iter().map(|error| (error.line, error.key.as_str())).collect();
    let found = errors
        .errors
        .iter()
        .find(|error| error.line == Some(line) && error.key == key)
        .unwrap_or_else(|| panic!("no refusal of {key} at {line}, but {lines:?}:\n{errors}"));
    assert_eq!(errors.errors.len(), 1, "one fault, one error:\n{errors}");
    for part in parts {
        assert!(found.message.contains(part), "{part:?} is not in {:?}", found.message);
    }
    let shown = errors.to_string();
    assert!(shown.starts_with(&format!("/etc/ringway/test.toml:{line}: ")), "{shown}");
}

#[test]
fn unknown_keys_are_refused_with_the_most_similar_known_key() {
    for (section, key, parts) in [
        ("[runtme]", "runtme", &["not a known key", "\"runtime\""][..]),
        ("[runtime]\nworker = 2", "runtime.worker", &["did you mean \"workers\"?"]),
        ("[runtime]\nzzz = 2", "runtime.zzz", &["known here: \"workers\", \"pool\""]),
        ("[limits]\nmax-body-size = 2", "limits.max-body-size", &["\"max_body_size\""]),
        ("[log]\naccess.pth = \"x\"", "log.access.pth", &["\"path\""]),
    ] {
        let line = 1 + section.matches('\n').count();
        assert_refused(&minimal_and(section), line, key, parts);
    }
    let nested = minimal_with("address = [", "quic = { idle_timout = \"1s\" }\naddress = [");
    assert_refused(&nested, 5, "listeners[0].quic.idle_timout", &["\"idle_timeout\""]);
    let nested = minimal_with("address = \"127.0.0.1:8080\"", "adress = \"127.0.0.1:8080\"");
    let errors = parse_here(&nested).unwrap_err();
    assert_eq!(errors.errors.len(), 2, "the unknown key and the missing one: {errors}");
}

#[test]
fn numbers_stay_within_their_bounds() {
    for (section, key, parts) in [
        ("[runtime]\nworkers = 0", "runtime.workers", &["is 0, but must be 1 to 64"][..]),
        ("[runtime]\nworkers = 65", "runtime.workers", &["is 65", "1 to 64"]),
        ("[runtime]\nworkers = -1", "runtime.workers", &["\"-1\"", "1 to 64"]),
        ("[runtime]\nworkers = \"many\"", "runtime.workers", &["\"many\"", "1 to 64"]),
        ("[runtime]\nworkers = 1.5", "runtime.workers", &["whole number", "a float stands there"]),
        ("[runtime]\npool.per_worker = \"4MiB\"", "runtime.pool.per_worker", &["6MiB to 2176MiB"]),
        ("[runtime]\npool.per_worker = \"2178MiB\"", "runtime.pool.per_worker", &["is 2178MiB"]),
        ("[runtime]\npool.per_worker = \"4GiB\"", "runtime.pool.per_worker", &["is 4GiB"]),
        ("[runtime]\npool.per_worker = \"7MiB\"", "runtime.pool.per_worker", &["\"8MiB\""]),
        ("[runtime]\npool.per_worker = \"7 sacks\"", "runtime.pool.per_worker", &["\"64MiB\""]),
        ("[runtime]\npool.per_worker = \"-8MiB\"", "runtime.pool.per_worker", &["\"-8MiB\""]),
        ("[runtime]\npool.per_worker = true", "runtime.pool.per_worker", &["a boolean stands"]),
        ("[runtime]\ndrain_timeout = 5", "runtime.drain_timeout", &["without a unit", "\"2s\""]),
        ("[runtime]\ndrain_timeout = \"5\"", "runtime.drain_timeout", &["\"5\"", "0s to 1day"]),
        ("[runtime]\ndrain_timeout = \"2d\"", "runtime.drain_timeout", &["\"2d\"", "1day"]),
        ("[limits]\nmax_header_count = 9", "limits.max_header_count", &["10 to 1000"]),
        ("[limits]\nmax_header_size = 99999999999999999999", "limits.max_header_size", &["1MiB"]),
    ] {
        assert_refused(&minimal_and(section), 2, key, parts);
    }
}

#[test]
fn a_choice_must_be_one_of_its_options() {
    for (section, key, parts) in [
        ("[log]\nlevel = \"inof\"", "log.level", &["\"info\", \"error\"", "mean \"info\"?"][..]),
        ("[log]\naccess.format = \"xml\"", "log.access.format", &["\"json\", \"combined\" or"]),
        ("[runtime]\npool.hugepages = \"yes\"", "runtime.pool.hugepages", &["\"require\""]),
        ("[admin]\nlisten = \"localhost:1\"", "admin.listen", &["\"off\"", "unix:"]),
        ("[admin]\nlisten = \"unix:\"", "admin.listen", &["after \"unix:\""]),
        ("[admin]\nlisten = 9901", "admin.listen", &["must be a string, but an integer stands"]),
        ("[admin]\nlisten = \"${NONE}\"", "admin.listen", &["variable NONE"]),
        ("log = 3\n", "log", &["must be a table of keys, but an integer stands there"]),
    ] {
        let line = if section.starts_with('[') { 2 } else { 1 };
        assert_refused(&minimal_and(section), line, key, parts);
    }
}

#[test]
fn listener_errors_are_refused() {
    let address = "address = [\"0.0.0.0:443\", \"[::]:443\"]";
    for (line, key, parts) in [
        ("", "listeners[0].address", &["is missing", "\"[::]:443\""][..]),
        ("address = []", "listeners[0].address", &["at least one address"]),
        ("address = \"0.0.0.0\"", "listeners[0].address", &["the port is missing"]),
        ("address = \"0.0.0.0:0\"", "listeners[0].address", &["port 0"]),
        ("address = \"edge:443\"", "listeners[0].address", &["\"edge:443\"", "not an IP"]),
        ("address = [\"[::]:1\", 5]", "listeners[0].address[1]", &["must be a string"]),
        (
            "address = \"[::]:1\"\ntls = false\nprotocols = [\"http/1.1\", \"h2\"]",
            "listeners[0].protocols[1]",
            &["\"h2\"", "needs TLS", "tls = false"],
        ),
        (
            "address = \"[::]:1\"\nredirect_to_https = true",
            "listeners[0].redirect_to_https",
            &["listeners without TLS", "tls = false"],
        ),
        (
            "address = \"[::]:1\"\nprotocols = [\"spdy\"]",
            "listeners[0].protocols[0]",
            &["\"spdy\"", "must be \"h3\""],
        ),
        ("address = \"[::]:1\"\nname = \"a b\"", "listeners[0].name", &["\"a b\"", "letters"]),
        (
            "address = \"[::]:1\"\ntrusted_proxies = [\"10.0.0.1/8\"]",
            "listeners[0].trusted_proxies[0]",
            &["write \"10.0.0.0/8\""],
        ),
        (
            "address = \"[::]:1\"\nprotocols = [\"h2\"]\nproxy_protocol = [\"10.0.0.1/8\"]",
            "listeners[0].proxy_protocol[0]",
            &["write \"10.0.0.0/8\""],
        ),
        (
            "address = \"[::]:1\"\nprotocols = [\"h3\"]\nproxy_protocol = [\"10.0.0.1\"]",
            "listeners[0].proxy_protocol",
            &["over TCP", "\"h2\"", "remove it"],
        ),
        (
            "address = \"[::]:1\"\nproxy_fields.add = [\"x-a\", \"x b\"]",
            "listeners[0].proxy_fields.add[1]",
            &["\"x b\"", "\"x-tenant\""],
        ),
        (
            "address = \"[::]:1\"\nproxy_fields.add = [\"x_b\"]",
            "listeners[0].proxy_fields.add[0]",
            &["underscore"],
        ),
        (
            "address = \"[::]:1\"\nproxy_fields.pass = [\"X-Forwarded-For\"]",
            "listeners[0].proxy_fields.pass[0]",
            &["trusted_proxies"],
        ),
        (
            "address = \"[::]:1\"\ntrusted_proxies = [\"all\"]",
            "listeners[0].trusted_proxies[0]",
            &["\"10.0.0.0/8\""],
        ),
    ] {
        let at = if line.is_empty() { 4 } else { 5 + line.matches('\n').count() };
        assert_refused(&minimal_with(address, line), at, key, parts);
    }
    let windows = "quic.stream_receive_window = \"8MiB\"\naddress = [";
    let text = minimal_with("address = [", windows);
    let errors = parse_here(&text).unwrap_err();
    assert!(errors.to_string().contains("raise max_receive_window"), "{errors}");
}

#[test]
fn hosts_paths_and_endpoints_are_checked() {
    let hosts = "hosts = [\"example.com\"]";
    for (host, part) in [
        ("example.com:443", "without a port"),
        ("*", "first label only"),
        ("a.*.com", "first label only"),
        ("b\u{fc}cher.ch", "xn--"),
        ("example.com.", "dot at the end"),
        ("", "not a host name"),
        ("a..b", "not a host name"),
        ("-a.b", "not a host name"),
        ("a b", "not a host name"),
        ("192.0.2.1:443", "without a port"),
        ("[192.0.2.1]", "not a host name"),
    ] {
        let text = minimal_with(hosts, &format!("hosts = [\"{host}\"]"));
        assert_refused(&text, 8, "certificates[0].hosts[0]", &[part, host]);
    }
    let route = "upstream = \"app\"";
    for (prefix, part) in [
        ("api", "must start with"),
        ("", "must start with"),
        ("/api/", "must not end in"),
        ("//", "must not end in"),
        ("/a//b", "empty segment"),
        ("/a/../b", "segments"),
        ("/a/%2E%2e", "segments"),
        ("/a b", "visible ASCII"),
        ("/a?b", "queries"),
    ] {
        let text = minimal_with(route, &format!("match.path_prefix = \"{prefix}\"\n{route}"));
        assert_refused(&text, 13, "routes[0].match.path_prefix", &[part]);
    }
    for (address, part) in [
        ("127.0.0.1", "the port is missing"),
        ("app", "the port is missing"),
        ("app:0", "\"app:0\""),
        ("127.0.0.1:0", "port 0"),
        ("http://app:80", "leave the scheme out, as in \"app:80\""),
        ("gone.internal:80", "cannot be resolved (no such name)"),
        ("none.internal:80", "cannot be resolved (it has no address)"),
        ("*.internal:80", "must be an address"),
        ("unix:", "after \"unix:\""),
    ] {
        let text = minimal_with("127.0.0.1:8080", address);
        assert_refused(&text, 16, "upstreams.app.endpoints[0].address", &[part]);
    }
}

#[test]
fn references_and_combinations_are_checked() {
    let text = minimal_with("upstream = \"app\"", "upstream = \"ap\"");
    assert_refused(&text, 13, "routes[0].upstream", &["\"ap\"", "did you mean \"app\"?"]);
    let text = minimal_with("upstream = \"app\"", "upstream = \"backend\"");
    assert_refused(&text, 13, "routes[0].upstream", &["write [upstreams.backend]"]);
    let text = format!("{MINIMAL}\n[[listeners]]\nname = \"listener-0\"\naddress = \"[::]:1\"");
    assert_refused(&text, 18, "listeners[1]", &["the same name as listeners[0], \"listener-0\""]);
    let text = format!("{MINIMAL}\n[[listeners]]\naddress = \"[::]:443\"");
    assert_refused(&text, 18, "listeners[1]", &["[::]:443, as listeners[0] does"]);
    let text = format!("{MINIMAL}\n[[routes]]\nmatch.host = \"a.b\"\nupstream = \"app\"");
    assert_refused(&text, 18, "routes[1]", &["can never match: routes[0]"]);
    let two = "{ address = \"127.0.0.1:8080\" }, { address = \"127.0.0.1:8080\" }";
    let text = minimal_with("{ address = \"127.0.0.1:8080\" }", two);
    assert_refused(
        &text,
        16,
        "upstreams.app.endpoints[1].address",
        &["is in this upstream twice", "weight"],
    );
}

#[test]
fn a_route_may_follow_one_that_takes_part_of_its_requests() {
    for (first, second) in [
        ("match.path_prefix = \"/api\"", "match.path_prefix = \"/apis\""),
        ("match.host = \"a.b\"", "match.host = \"*.b\""),
        ("match.host = \"a.b\"", "match.path_prefix = \"/x\""),
        ("match = { host = \"*.b\", path_prefix = \"/x\" }", "match.host = \"a.b\""),
    ] {
        let routes =
            format!("{first}\nupstream = \"app\"\n[[routes]]\n{second}\nupstream = \"app\"");
        let text = minimal_with("upstream = \"app\"", &routes);
        assert_eq!(parse_here(&text).unwrap().0.routes.len(), 2);
    }
}

#[test]
fn the_health_pause_may_not_exceed_its_maximum() {
    let endpoints = "endpoints = [{ address = \"127.0.0.1:8080\" }]";
    let health =
        |keys: &str| minimal_with(endpoints, &format!("{endpoints}\nhealth = {{ {keys} }}"));
    let (config, _) = parse_here(&health("failures = 5, pause = \"2s\"")).unwrap();
    let expected = Health {
        failure_count: 5,
        pause: Duration::from_secs(2),
        pause_max: Duration::from_secs(60),
    };
    assert_eq!(config.upstreams[0].health, expected);
    let errors = parse_here(&health("pause = \"2m\"")).unwrap_err();
    assert_eq!(errors.errors[0].key, "upstreams.app.health");
    assert!(errors.to_string().contains("max_pause"), "{errors}");
}

#[test]
fn the_congestion_control_must_be_allowed_by_the_kernel() {
    let endpoints = "endpoints = [{ address = \"127.0.0.1:8080\" }]";
    let named =
        |name: &str| minimal_with(endpoints, &format!("{endpoints}\ncongestion = \"{name}\""));
    let parsed = |name| parse_here(&named(name)).map(|(config, _)| config);
    assert_eq!(parsed("system").unwrap().upstreams[0].congestion, None);
    assert_eq!(parsed("cubic").unwrap().upstreams[0].congestion.as_deref(), Some("cubic"));
    let parts =
        ["\"bbr\"", "\"system\" or", "\"reno\" or \"cubic\"", "tcp_allowed_congestion_control"];
    assert_refused(&named("bbr"), 17, "upstreams.app.congestion", &parts);
}

#[test]
fn one_run_reports_all_errors() {
    let text = "
[runtime]
workers = 1000
[[listeners]]
address = \"nowhere\"
protocols = [\"h4\"]
[[certificates]]
hosts = []
[[routes]]
upstream = \"api\"
[upstreams.app]
endpoints = []
timeout = { conect = \"1s\" }
";
    let errors = parse_here(text).unwrap_err();
    let found: Vec<_> =
        errors.errors.iter().map(|error| (error.line.unwrap(), error.key.as_str())).collect();
    let expected = [
        (3, "runtime.workers"),
        (5, "listeners[0].address"),
        (6, "listeners[0].protocols[0]"),
        (7, "certificates[0].cert"),
        (7, "certificates[0].key"),
        (8, "certificates[0].hosts"),
        (10, "routes[0].upstream"),
        (12, "upstreams.app.endpoints"),
        (13, "upstreams.app.timeout.conect"),
    ];
    assert_eq!(found, expected, "{errors}");
    let shown = errors.to_string();
    assert_eq!(shown.lines().count(), expected.len(), "one line each:\n{shown}");
}

#[test]
fn an_empty_file_lacks_the_required_sections() {
    let errors = parse_here("").unwrap_err();
    let keys: Vec<_> = errors.errors.iter().map(|error| error.key.as_str()).collect();
    assert_eq!(keys, ["listeners", "certificates", "routes", "upstreams"]);
}

#[test]
fn a_syntax_error_is_refused_at_its_line() {
    let errors = parse_here("[runtime]\nworkers = = 2\n").unwrap_err();
    assert_eq!(errors.errors[0].line, Some(2));
    assert!(errors.to_string().contains("is not TOML"), "{errors}");
    let errors = parse_here("[log]\nlevel = \"info\"\nlevel = \"warn\"\n").unwrap_err();
    assert_eq!(errors.errors[0].line, Some(3), "{errors}");
}

#[test]
fn a_file_that_cannot_be_read_is_refused_by_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone.toml");
    let message = load(&path, Accounts::NONE).unwrap_err().to_string();
    assert!(message.contains("gone.toml: does not exist"), "{message}");
    std::fs::write(&path, b"# fine\n\xff\xfe\n").unwrap();
    let message = load(&path, Accounts::NONE).unwrap_err().to_string();
    assert!(message.contains("is not UTF-8 text (line 2)"), "{message}");
    std::fs::write(&path, vec![b'#'; 5 << 20]).unwrap();
    let message = load(&path, Accounts::NONE).unwrap_err().to_string();
    assert!(message.contains("longer than 4194304 bytes"), "{message}");
    std::fs::write(&path, MINIMAL).unwrap();
    assert_eq!(load(&path, Accounts::NONE).unwrap(), parse_here(MINIMAL).unwrap().0);
}

#[test]
fn damaged_files_never_cause_a_panic() {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let noise = *b"\"'[]{}=.,#$\\\n0-zx\0\x7f ";
    let mut refused = 0;
    for _ in 0..2000 {
        let mut bytes = FULL.as_bytes().to_vec();
        for _ in 0..=random(3) {
            if bytes.is_empty() {
                break;
            }
            let at = random(bytes.len());
            match random(3) {
                0 => bytes[at] = noise[random(noise.len())],
                1 => drop(bytes.drain(at..(at + random(40)).min(bytes.len()))),
                _ => bytes.truncate(at.max(1)),
            }
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Err(errors) = parse_here(&text) {
            refused += 1;
            let lines = text.matches('\n').count() + 1;
            assert!(errors.errors.iter().all(|error| error.line.is_none_or(|line| line <= lines)));
            assert!(!errors.to_string().is_empty());
        }
    }
    assert!(refused > 500, "{refused}");
}
