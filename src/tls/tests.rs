//! Certificates from files and memory, checked by what a rustls client sees.

mod client_authority;
mod fixtures;
mod handshake;
mod refresh;
mod selection;
mod stream;
mod uses;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use rustls::time_provider::TimeProvider;

use super::*;
use crate::config::{
    Certificate, CertificateSource, EarlyData, HostPattern, Tls, UnknownServerName,
};
use crate::testing::TestCertificate;

/// A clock that a test sets, in seconds since 1970.
#[derive(Debug)]
pub(super) struct Clock(AtomicU64);

impl Clock {
    pub(super) fn at(seconds: u64) -> Self {
        Self(AtomicU64::new(seconds))
    }

    pub(super) fn set(&self, seconds: u64) {
        self.0.store(seconds, Ordering::Relaxed);
    }

    pub(super) fn pass(&self, seconds: u64) {
        self.0.fetch_add(seconds, Ordering::Relaxed);
    }
}

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(self.0.load(Ordering::Relaxed))))
    }
}

fn exact(name: &str) -> HostPattern {
    HostPattern::Exact(name.to_owned())
}

fn wildcard(parent: &str) -> HostPattern {
    HostPattern::Wildcard(parent.to_owned())
}

fn in_memory(hosts: &[HostPattern]) -> Certificate {
    Certificate {
        hosts: hosts.to_vec(),
        addresses: Vec::new(),
        source: CertificateSource::SelfSigned,
    }
}

struct Files {
    _directory: tempfile::TempDir,
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(cert: &str, key: &str) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let files = Self {
            cert: directory.path().join("chain.pem"),
            key: directory.path().join("key.pem"),
            _directory: directory,
        };
        std::fs::write(&files.cert, cert).unwrap();
        std::fs::write(&files.key, key).unwrap();
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(0o600)).unwrap();
        files
    }

    fn certificate(&self, hosts: &[HostPattern]) -> Certificate {
        let source =
            CertificateSource::Files { cert: self.cert.clone(), key: self.key.clone(), ocsp: None };
        Certificate { hosts: hosts.to_vec(), addresses: Vec::new(), source }
    }
}

/// Returns a chain and a key as PEM.
fn pem_pair(names: &[&str]) -> (String, String) {
    let made = TestCertificate::new(names);
    (made.chain_pem, made.key_pem)
}

fn refusal(files: &Files, hosts: &[HostPattern]) -> String {
    let error = ServerTls::load(&[files.certificate(hosts)], Tls::default()).unwrap_err();
    assert!(error.file().is_some());
    error.to_string()
}

#[test]
fn exact_names_win_over_wildcards_and_unknown_names_get_the_first_certificate() {
    let tls = ServerTls::load(
        &[
            in_memory(&[exact("first.test")]),
            in_memory(&[wildcard("example.com")]),
            in_memory(&[exact("api.example.com"), exact("example.com")]),
        ],
        Tls::default(),
    )
    .unwrap();
    let chosen = |name: Option<&str>| {
        let chain = tls.chain(name);
        (0..3).find(|&index| chain == tls.shared.certificates.entries[index].key.cert).unwrap()
    };
    assert_eq!(chosen(Some("first.test")), 0);
    assert_eq!(chosen(Some("www.example.com")), 1);
    assert_eq!(chosen(Some("WWW.Example.com")), 1);
    assert_eq!(chosen(Some("api.example.com")), 2);
    assert_eq!(chosen(Some("example.com")), 2);
    assert_eq!(chosen(Some("a.b.example.com")), 0);
    assert_eq!(chosen(Some(".example.com")), 0);
    assert_eq!(chosen(Some("stranger.test")), 0);
    assert_eq!(chosen(None), 0);
    assert!(tls.covers(Some("api.example.com"), "example.com"));
    assert!(!tls.covers(Some("api.example.com"), "www.example.com"));
    assert!(tls.covers(None, "first.test"));
}

#[test]
fn unknown_names_are_refused_if_configured() {
    let certificates = [in_memory(&[exact("first.test")]), in_memory(&[wildcard("example.com")])];
    let refuse = Tls { unknown_server_name: UnknownServerName::Refuse, ..Tls::default() };
    let tls = ServerTls::load(&certificates, refuse.clone()).unwrap();
    assert!(tls.chain(None).is_empty() && tls.chain(Some("stranger.test")).is_empty());
    assert!(!tls.chain(Some("a.example.com")).is_empty());
    assert!(tls.reload(&certificates, refuse).unwrap().chain(None).is_empty());
    assert!(!tls.reload(&certificates, Tls::default()).unwrap().chain(None).is_empty());
}

#[test]
fn a_request_is_misdirected_if_another_connection_might_serve_it() {
    let (cert, key) = pem_pair(&["example.com", "*.example.com", "192.0.2.1", "2001:db8::1"]);
    let files = Files::new(&cert, &key);
    // The leaf certificate has more names than the operator has listed.
    let tls = ServerTls::load(
        &[files.certificate(&[exact("example.com")]), in_memory(&[exact("other.test")])],
        Tls::default(),
    )
    .unwrap();
    for (server_name, host, expected) in [
        (Some("example.com"), "example.com", false),
        (Some("EXAMPLE.com"), "www.example.com", false),
        (Some("example.com"), "a.b.example.com", true),
        (Some("example.com"), "other.test", true),
        (Some("other.test"), "example.com", true),
        (Some("stranger.test"), "example.com", false),
        (Some("stranger.test"), "stranger.test", false),
        (Some("stranger.test"), "other.test", true),
        (Some("example.com"), "192.0.2.1", false),
        (Some("example.com"), "[2001:db8::1]", false),
        (Some("example.com"), "192.0.2.2", true),
        (None, "192.0.2.2", false),
        (None, "[::1]", false),
        (None, "other.test", true),
        (None, "example.com", false),
    ] {
        assert_eq!(tls.misdirects(server_name, host), expected, "{server_name:?}, {host}");
    }
}

/// A client that connects to an address sends no name (RFC 6066 3).
#[test]
fn clients_without_a_server_name_get_the_certificate_with_addresses() {
    let address = |text: &str| text.parse::<std::net::IpAddr>().unwrap();
    let (cert, key) = pem_pair(&["192.0.2.1", "2001:db8::1"]);
    let files = Files::new(&cert, &key);
    let for_addresses = Certificate {
        addresses: vec![address("192.0.2.1"), address("2001:db8::1")],
        ..files.certificate(&[])
    };
    let certificates = [in_memory(&[exact("example.com")]), for_addresses];
    for policy in [UnknownServerName::Default, UnknownServerName::Refuse] {
        let tls =
            ServerTls::load(&certificates, Tls { unknown_server_name: policy, ..Tls::default() })
                .unwrap();
        let chain_of = |index: usize| tls.shared.certificates.entries[index].key.cert.clone();
        assert_eq!(tls.chain(None), chain_of(1));
        assert_eq!(tls.chain(Some("example.com")), chain_of(0));
        let unknown = if policy == UnknownServerName::Refuse { vec![] } else { chain_of(0) };
        assert_eq!(tls.chain(Some("stranger.test")), unknown);
        for (server_name, host, expected) in [
            (None, "192.0.2.1", false),
            (None, "[2001:db8::1]", false),
            (None, "example.com", true),
            (Some("example.com"), "192.0.2.1", true),
            (Some("example.com"), "example.com", false),
        ] {
            assert_eq!(tls.misdirects(server_name, host), expected, "{server_name:?}, {host}");
        }
        assert!(tls.covers(None, "192.0.2.1") && !tls.covers(None, "192.0.2.2"));
    }
    let mut other = certificates[1].clone();
    other.addresses.push(address("192.0.2.2"));
    let error = ServerTls::load(&[other], Tls::default()).unwrap_err().to_string();
    assert!(error.contains("\"192.0.2.2\"") && error.contains("192.0.2.1, 2001:db8::1"), "{error}");
}

/// A client chooses the authority of each request, so checking one must not cost a certificate's
/// parsing.
#[test]
fn names_are_read_from_the_certificate_once() {
    let (cert, key) = pem_pair(&["example.com", "*.example.org", "192.0.2.1"]);
    let files = Files::new(&cert, &key);
    let certificate = files.certificate(&[exact("example.com")]);
    let mut entry = Entry::load(&certificate, &provider()).unwrap();
    // The certificate is gone; its names are not.
    let signer = Arc::clone(&entry.key.key);
    entry.key = Arc::new(rustls::sign::CertifiedKey::new(Vec::new(), signer));
    for host in ["example.com", "a.example.org", "192.0.2.1"] {
        assert!(entry.is_valid_for(host), "{host}");
    }
    for host in ["www.example.com", "example.org", "a.b.example.org", "192.0.2.2", "[::1]"] {
        assert!(!entry.is_valid_for(host), "{host}");
    }
}

#[test]
fn files_are_read_and_a_reload_keeps_the_ticket_keys() {
    let made = TestCertificate::with(&["example.com", "*.example.com"], |params| {
        params.not_before = rcgen::date_time_ymd(2004, 1, 1);
        params.not_after = rcgen::date_time_ymd(2004, 3, 31);
    });
    let files = Files::new(&made.chain_pem, &made.key_pem);
    let certificate = files.certificate(&[exact("example.com"), wildcard("example.com")]);
    let tls = ServerTls::load(std::slice::from_ref(&certificate), Tls::default()).unwrap();
    assert_eq!(
        tls.warnings(std::time::UNIX_EPOCH + std::time::Duration::from_secs(1 << 30)),
        [""; 0]
    );
    let config = tls.config();
    assert_eq!(config.alpn_protocols, [b"h3"]);
    assert_eq!(config.max_early_data_size, 0);
    assert_eq!(config.send_tls13_tickets, 1);
    let ticket = config.ticketer.encrypt(b"session").unwrap();
    let next = tls.reload(&[certificate], Tls::default()).unwrap();
    assert_eq!(next.config().ticketer.decrypt(&ticket).unwrap(), b"session");
}

#[test]
fn every_error_names_its_file_and_the_remedy() {
    let (cert, key) = pem_pair(&["example.com"]);
    let (_, other_key) = pem_pair(&["example.com"]);
    let hosts = [exact("example.com")];
    let mut missing = Files::new(&cert, &key);
    missing.cert.set_file_name("gone.pem");
    let cut = &cert[..cert.len() / 2];
    let encrypted =
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n";
    let junk_leaf = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let junk_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let cases: [(Files, &[HostPattern], &str, &str); 10] = [
        (missing, &hosts, "gone.pem", "check the path"),
        (Files::new(&key, &cert), &hosts, "chain.pem", "swapped"),
        (Files::new("hello", &key), &hosts, "chain.pem", "no block \"-----BEGIN CERTIFICATE"),
        (Files::new(cut, &key), &hosts, "chain.pem:1:", "no END line"),
        (Files::new(&cert, "hello"), &hosts, "key.pem", "no block \"-----BEGIN PRIVATE KEY"),
        (Files::new(&cert, encrypted), &hosts, "key.pem", "passphrase"),
        (Files::new(&cert, junk_key), &hosts, "key.pem", "cannot be used"),
        (Files::new(&cert, &other_key), &hosts, "key.pem", "does not belong"),
        (Files::new(junk_leaf, &key), &hosts, "chain.pem:1:", "not a whole X.509"),
        (Files::new(&cert, &key), &[wildcard("example.com")], "chain.pem", "\"*.example.com\""),
    ];
    for (files, hosts, file, words) in &cases {
        let message = refusal(files, hosts);
        assert!(message.contains(file) && message.contains(words), "{message:?} lacks {words:?}");
    }
}

#[test]
fn expiry_causes_warnings() {
    let made = TestCertificate::with(&["example.com"], |params| {
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 3, 31);
    });
    let files = Files::new(&made.chain_pem, &made.key_pem);
    let hosts = [exact("example.com")];
    let tls = ServerTls::load(&[files.certificate(&hosts)], Tls::default()).unwrap();
    let on = |year, month, day| {
        let seconds = rcgen::date_time_ymd(year, month, day).unix_timestamp() as u64;
        tls.warnings(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(seconds)).join("; ")
    };
    assert!(on(2023, 12, 22).contains("chain.pem:1: the certificate is not valid before 11 days"));
    assert_eq!(on(2024, 2, 1), "");
    assert!(on(2024, 3, 21).contains("expires in 10 days"));
    assert!(on(2024, 4, 10).contains("expired 10 days ago"));
}

/// The key is root's if root runs the test.
#[test]
fn a_key_that_others_may_read_or_change_is_refused() {
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    let (cert, key) = pem_pair(&["example.com"]);
    let files = Files::new(&cert, &key);
    let hosts = [exact("example.com")];
    let is_roots = std::fs::metadata(&files.key).unwrap().uid() == 0;
    let set = |mode| {
        std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    for mode in [0o400, 0o600, 0o700] {
        set(mode);
        ServerTls::load(&[files.certificate(&hosts)], Tls::default()).unwrap();
    }
    for (mode, words) in [
        (0o644, "has mode 0644, so every user of this host may read it"),
        (0o604, "every user of this host may read"),
        (0o602, "every user of this host may change"),
        (0o620, "its group may change"),
        (0o660, "its group may change"),
        (0o666, "every user of this host may change"),
    ] {
        set(mode);
        let message = refusal(&files, &hosts);
        assert!(message.contains(words), "{mode:o}: {message}");
        assert!(message.contains(&format!("`chmod 600 {}`", files.key.display())), "{message}");
        assert_eq!(message.contains("640"), is_roots, "{message}");
    }
    for mode in [0o640, 0o440] {
        set(mode);
        let loaded = ServerTls::load(&[files.certificate(&hosts)], Tls::default());
        assert_eq!(loaded.is_ok(), is_roots, "{mode:o}: {loaded:?}");
    }
}

#[test]
fn no_certificate_is_refused() {
    let error = ServerTls::load(&[], Tls::default()).unwrap_err();
    assert!(error.to_string().contains("[[certificates]]"));
}
