//! TLS for the edge: certificates, which of them a client is shown, and the rustls settings.
//!
//! ```text
//!  [[certificates]] --read--> chain + key --check--> Entry { hosts, key }  --+
//!     (files or made in memory)   key fits the leaf,                         |
//!                                 leaf covers the hosts                      v
//!  ClientHello --SNI--> exact host, else wildcard, else the first entry or none
//! ```
//!
//! One [`ServerTls`] is built from a configuration and never changes; a reload builds the next one
//! and keeps the ticket keys, so clients resume across it. Whatever can be wrong with a file is
//! found here, before a worker hears of it, and said with the file and the way out.
//!
//! QUIC has TLS 1.3 only (RFC 9001 4.2). There is no early data: a request in it could be replayed
//! (RFC 9001 9.2), and nothing behind the gateway can tell.
#![forbid(unsafe_code)]

mod certificate;
#[cfg(test)]
mod tests;
mod validity;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Once};
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{self, HostPattern, UnknownServerName};

use certificate::Entry;
pub use certificate::TlsError;

/// The one protocol that the edge speaks over QUIC (RFC 9114 3.1).
pub const ALPN_H3: &[u8] = b"h3";

/// Session tickets sent after a handshake: one is enough to resume once, and each costs a packet's
/// worth of bytes and a key derivation (rustls sends two).
const TICKETS_PER_HANDSHAKE: usize = 1;

/// The environment variable that asks for a key log, as browsers know it.
const KEY_LOG_VARIABLE: &str = "SSLKEYLOGFILE";

/// Certificates, ticket keys and the rustls settings made of them. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

struct Shared {
    certificates: Arc<Certificates>,
    config: Arc<rustls::ServerConfig>,
    ticketer: Arc<dyn ProducesTickets>,
}

impl ServerTls {
    /// Reads and checks `certificates`.
    pub fn load(certificates: &[config::Certificate], tls: config::Tls) -> Result<Self, TlsError> {
        let ticketer = aws_lc_rs::Ticketer::new().map_err(TlsError::settings)?;
        Self::build(certificates, tls.unknown_server_name, ticketer)
    }

    /// Reads and checks `certificates`, and keeps the ticket keys: tickets issued before stay
    /// valid.
    pub fn reload(
        &self,
        certificates: &[config::Certificate],
        tls: config::Tls,
    ) -> Result<Self, TlsError> {
        Self::build(certificates, tls.unknown_server_name, Arc::clone(&self.shared.ticketer))
    }

    /// The settings for QUIC connections.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.shared.config)
    }

    /// What an operator should mend although the program can run: chains that have expired, are not
    /// valid yet or expire soon, private keys that everybody may read.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        self.shared.certificates.entries.iter().flat_map(|entry| entry.warnings(now)).collect()
    }

    /// Whether the certificate that a client who asked for `server_name` was shown is good for
    /// `host` too (lower case, no port; an IPv6 address in brackets).
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        let Some(entry) = self.shared.certificates.choose(server_name) else { return false };
        entry.hosts.iter().any(|pattern| pattern.matches(host)) || entry.is_valid_for(host)
    }

    /// Whether a request for `host` came over a connection that was not made for it (RFC 9110 7.4,
    /// 15.5.20): another connection would do better. None would for the name that the client has
    /// asked for already, nor for an address, which has no place in a handshake (RFC 6066 3): such
    /// a client got the first certificate by `unknown_server_name` and went on knowingly.
    pub fn misdirects(&self, server_name: Option<&str>, host: &str) -> bool {
        let asked_for = match server_name {
            Some(name) => name.eq_ignore_ascii_case(host),
            None => host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        !asked_for && !self.covers(server_name, host)
    }

    /// The chain that a client who asks for `server_name` is shown, leaf first, DER; empty where it
    /// is refused.
    pub fn chain(
        &self,
        server_name: Option<&str>,
    ) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        let entry = self.shared.certificates.choose(server_name);
        entry.map_or_else(Vec::new, |entry| entry.key.cert.clone())
    }

    fn build(
        certificates: &[config::Certificate],
        unknown: UnknownServerName,
        ticketer: Arc<dyn ProducesTickets>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let entries = certificates
            .iter()
            .map(|certificate| Entry::load(certificate, &provider))
            .collect::<Result<Vec<_>, _>>()?;
        let certificates = Arc::new(Certificates::new(entries, unknown)?);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(TlsError::settings)?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN_H3.to_vec()];
        config.ticketer = Arc::clone(&ticketer);
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        config.max_early_data_size = 0;
        if std::env::var_os(KEY_LOG_VARIABLE).is_some() {
            say_that_keys_are_logged();
            config.key_log = Arc::new(rustls::KeyLogFile::new());
        }
        let config = Arc::new(config);
        Ok(Self { shared: Arc::new(Shared { certificates, config, ticketer }) })
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("certificates", &self.shared.certificates)
            .finish_non_exhaustive()
    }
}

/// Fills `bytes` from the operating system's random source, for keys and seeds.
///
/// # Panics
///
/// If the system has no randomness to give: nothing can be kept secret then.
pub fn fill_random(bytes: &mut [u8]) {
    provider().secure_random.fill(bytes).expect("the system's random source answers");
}

/// The cryptography of the edge, named in full: never the process default, which any dependency
/// could have set.
pub fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            // RFC 8446 9.1: every implementation must have it.
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// Said once in the process's life, however many reloads there are.
fn say_that_keys_are_logged() {
    static SAID: Once = Once::new();
    SAID.call_once(|| {
        tracing::warn!(
            "{KEY_LOG_VARIABLE} is set: the secrets of EVERY connection are written to that file, \
             and who reads it can decrypt them all. Unset it unless you are debugging."
        );
    });
}

/// All certificates and who is shown which.
struct Certificates {
    entries: Vec<Entry>,
    /// Host name -> index of its entry. The names are the operator's; clients only look up.
    exact: HashMap<String, usize>,
    /// The same for `*.NAME`, by NAME.
    wildcard: HashMap<String, usize>,
    /// For names that are in neither.
    unknown: UnknownServerName,
}

impl Certificates {
    fn new(entries: Vec<Entry>, unknown: UnknownServerName) -> Result<Self, TlsError> {
        if entries.is_empty() {
            return Err(TlsError::none());
        }
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for host in &entry.hosts {
                // The first certificate that names a host serves it, as with routes.
                match host {
                    HostPattern::Exact(name) => exact.entry(name.clone()).or_insert(index),
                    HostPattern::Wildcard(parent) => {
                        wildcard.entry(parent.clone()).or_insert(index)
                    }
                };
            }
        }
        Ok(Self { entries, exact, wildcard, unknown })
    }

    /// Exact name, else wildcard, else what the configuration says of strangers: shown the first,
    /// they refuse it, and the user gets a page that says why.
    fn choose(&self, server_name: Option<&str>) -> Option<&Entry> {
        let index = server_name.and_then(|name| {
            let name = name.to_ascii_lowercase();
            self.exact.get(&name).copied().or_else(|| {
                let (label, parent) = name.split_once('.')?;
                if label.is_empty() { None } else { self.wildcard.get(parent).copied() }
            })
        });
        match (index, self.unknown) {
            (Some(index), _) => Some(&self.entries[index]),
            (None, UnknownServerName::Default) => self.entries.first(),
            (None, UnknownServerName::Refuse) => None,
        }
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Where this is `None` rustls says access_denied; it has no way to say unrecognized_name.
        Some(Arc::clone(&self.choose(client_hello.server_name())?.key))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.hosts)).finish()
    }
}
