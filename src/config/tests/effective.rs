//! The configuration as it is written: reading it gives the same configuration.

use super::*;

/// A value other than the default for as many keys as fit one file.
const UNUSUAL: &str = r#"
    [runtime]
    workers = 3
    user = "ringway:rings"
    core_dumps = true
    drain_timeout = "90s"
    pool = { per_worker = "32MiB", hugepages = "require" }
    memory = { per_worker = "128MiB" }
    token_key = "a $${key}"
    [admin]
    listen = "unix:admin.sock"
    [log]
    level = "debug"
    tls_keys = "/run/keys"
    access = { path = "access.log", format = "combined" }
    [tls]
    unknown_server_name = "refuse"
    ticket_keys = "tickets.keys"
    [[listeners]]
    address = "[::1]:443"
    protocols = ["h3", "h2"]
    proxy_protocol = ["192.0.2.0/24", "2001:db8::1"]
    trusted_proxies = ["10.0.0.0/8", "::1"]
    tcp = { max_half_open_per_address = "3%" }
    proxy_fields = { add = ["x-own"], pass = ["x-original-url"] }
    quic = { retry = "always", congestion = "bbr", max_streams = 7, idle_timeout = "1m 1s" }
    [listeners.tls]
    min_version = "1.3"
    client_auth.mode = "optional"
    client_auth.ca = "clients $${ca}.pem"
    client_auth.crl = ["a.crl", "/etc/b.crl"]
    client_auth.headers = { subject = "X-Subject", certificate = "client-cert" }
    [[listeners]]
    address = "[::1]:80"
    tls = false
    [[listeners]]
    address = "[::1]:8443"
    early_data = "safe-methods"
    [[certificates]]
    hosts = ["*.a.example", "192.0.2.1"]
    cert = "a.pem"
    key = "/etc/a.key"
    [[routes]]
    client_auth = "require"
    match = { host = "*.a.example", path_prefix = "/b" }
    timeout = { request = "1500ms" }
    upstream = "two"
    [[routes]]
    upstream = "one"
    [limits]
    max_body_size = "unlimited"
    min_rate = 1000
    [upstreams.one]
    host = "upstream"
    congestion = "reno"
    retry = "timeout"
    health = { failures = 9, pause = "3s", max_pause = "7s" }
    endpoints = [{ address = "unix:one.sock", weight = 2 }, { address = "10.0.0.1:80" }]
    [upstreams.two]
    endpoints = [{ address = "two.internal:80", weight = 5 }]
"#;

#[test]
fn what_is_written_is_read_as_the_same_configuration() {
    for text in [MINIMAL, FULL, UNUSUAL] {
        let (config, _) = parse_here(text).unwrap();
        let written = config.effective().to_string();
        let (again, absent) = parse_here(&written).unwrap_or_else(|errors| panic!("{errors}"));
        assert_eq!(again, config, "{written}");
        assert_eq!(again.changes_since(&config), []);
        // These have no word for their default.
        let may_be_absent = |key: &String| {
            ["match.host", "congestion", "timeout", "timeout.request"]
                .iter()
                .any(|end| key.ends_with(end))
        };
        assert!(absent.iter().all(may_be_absent), "{absent:?}");
    }
}

#[test]
fn the_admin_address_is_found_in_a_file_that_is_otherwise_broken() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("ringway.toml");
    let find = |text: &str| {
        std::fs::write(&file, text).unwrap();
        admin_address(&file).map_err(|errors| errors.to_string())
    };
    let unix = AdminAddress::Unix(folder.path().join("a.sock"));
    assert_eq!(find("admin.listen = 'unix:a.sock'\nroutes = 7"), Ok(Some(unix)));
    let default = AdminAddress::Tcp("127.0.0.1:9901".parse().unwrap());
    assert_eq!(find("limits = { max_body_size = '${NOT_SET_HERE}' }"), Ok(Some(default)));
    assert_eq!(find("admin.listen = 'off'"), Ok(None));
    assert!(find("admin.listen = 'nonsense'").unwrap_err().contains("admin.listen"));
    assert!(find("admin = [").unwrap_err().contains("not TOML"));
}
