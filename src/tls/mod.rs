//! TLS for the edge: certificates, their selection by server name, and the rustls settings.
//!
//! ```text
//!  [[certificates]] --files--> chain + key --judge--> Entry { hosts, key } --+
//!     PEM, or made in memory    each link of the chain,                      |
//!                               key fits the leaf,                           |
//!                               leaf covers the hosts                        v
//!  ClientHello --SNI--> exact host, else wildcard, else the first entry or none
//!            --no SNI-> the entry with addresses, else the first or none
//! ```
//!
//! A [`ServerTls`] is built from a configuration and does not change. A reload builds the next one
//! with the same ticket keys, so that clients can resume across it. All errors of a file are found
//! here, before a worker uses it, and name the file, the line and the way out. `check`, the start
//! and a reload judge certificates by this one code.
//!
//! QUIC uses TLS 1.3 only (RFC 9001 4.2). There is no early data: a request in it could be replayed
//! (RFC 9001 9.2), and upstreams could not tell.
#![forbid(unsafe_code)]

mod certificate;
mod chain;
mod error;
mod files;
mod key_log;
mod names;
mod pem;
#[cfg(test)]
mod tests;
mod token_key;
mod validity;
mod x509;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{ClientHello, ProducesTickets, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use crate::config::{self, HostPattern, UnknownServerName};

use certificate::Entry;
use error::Kind;
pub(crate) use error::TlsError;
use key_log::KeyLog;
pub(crate) use token_key::token_key;

/// ALPN identifier of HTTP/3, the only protocol over QUIC (RFC 9114 3.1).
pub(crate) const ALPN_H3: &[u8] = b"h3";

/// Session tickets sent after a handshake. One is enough to resume once, and each costs about a
/// packet and a key derivation (rustls sends two by default).
const TICKETS_PER_HANDSHAKE: usize = 1;

/// Certificates, ticket keys and the rustls settings made from them. Cheap to clone.
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
        let ticketer =
            aws_lc_rs::Ticketer::new().map_err(|error| TlsError::nowhere(Kind::Settings(error)))?;
        Self::build(certificates, tls.unknown_server_name, ticketer, Arc::new(rustls::NoKeyLog))
    }

    /// Writes the secrets of all connections to the file `path` from now on.
    pub(crate) fn log_keys(self, path: &Path) -> Result<Self, TlsError> {
        let key_log =
            KeyLog::open(path).map_err(|error| TlsError::of(path, Kind::KeyLog(error)))?;
        let mut config = (*self.shared.config).clone();
        config.key_log = Arc::new(key_log);
        let shared = Shared {
            certificates: Arc::clone(&self.shared.certificates),
            config: Arc::new(config),
            ticketer: Arc::clone(&self.shared.ticketer),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads and checks `certificates`, and keeps the ticket keys and the key log: tickets issued
    /// before stay valid.
    pub fn reload(
        &self,
        certificates: &[config::Certificate],
        tls: config::Tls,
    ) -> Result<Self, TlsError> {
        let Shared { ticketer, config, .. } = &*self.shared;
        let key_log = Arc::clone(&config.key_log);
        Self::build(certificates, tls.unknown_server_name, Arc::clone(ticketer), key_log)
    }

    /// Returns the rustls settings for QUIC connections.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::clone(&self.shared.config)
    }

    /// Returns problems that an operator should fix although the program can run: certificates and
    /// links of chains that some clients refuse, or soon will.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        self.shared.certificates.entries.iter().flat_map(|entry| entry.warnings(now)).collect()
    }

    /// Returns a line for each certificate: its names, its issuers, and its last day.
    pub fn summaries(&self) -> Vec<String> {
        self.shared.certificates.entries.iter().map(Entry::summary).collect()
    }

    /// Returns the lines of the certificates that `earlier` did not have.
    pub fn summaries_since(&self, earlier: &ServerTls) -> Vec<String> {
        let known = &earlier.shared.certificates.entries;
        let is_new = |entry: &&Entry| known.iter().all(|known| known.key.cert != entry.key.cert);
        self.shared.certificates.entries.iter().filter(is_new).map(Entry::summary).collect()
    }

    /// Returns true if the certificate for clients that send `server_name` is also valid for `host`
    /// (lower case, no port; an IPv6 address in brackets).
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        let entry = self.shared.certificates.choose(server_name);
        entry.is_some_and(|entry| entry.is_valid_for(host))
    }

    /// Returns true if a request for `host` is misdirected on a connection for `server_name`
    /// (RFC 9110 7.4, 15.5.20): its certificate is not valid for `host`, and another connection
    /// might get one that is. Another connection would not help for the server name itself, nor for
    /// an address, which SNI cannot carry (RFC 6066 3): such a client has accepted the certificate
    /// that `unknown_server_name` chose.
    pub fn misdirects(&self, server_name: Option<&str>, host: &str) -> bool {
        let asked_for = match server_name {
            Some(name) => name.eq_ignore_ascii_case(host),
            None => host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        !asked_for && !self.covers(server_name, host)
    }

    /// Returns the chain for clients that send `server_name`, in DER, leaf first. It is empty if
    /// they are refused.
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
        key_log: Arc<dyn rustls::KeyLog>,
    ) -> Result<Self, TlsError> {
        let provider = Arc::new(provider());
        let entries = certificates
            .iter()
            .map(|certificate| Entry::load(certificate, &provider))
            .collect::<Result<Vec<_>, _>>()?;
        let certificates = Arc::new(Certificates::new(entries, unknown)?);
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .map_err(|error| TlsError::nowhere(Kind::Settings(error)))?
            .with_no_client_auth()
            .with_cert_resolver(Arc::clone(&certificates) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN_H3.to_vec()];
        config.ticketer = Arc::clone(&ticketer);
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        config.max_early_data_size = 0;
        config.key_log = key_log;
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

/// Fills `bytes` with random bytes of the operating system, for keys and seeds.
///
/// # Panics
///
/// Panics if the system has no random bytes: nothing can be kept secret then.
pub(crate) fn fill_random(bytes: &mut [u8]) {
    provider().secure_random.fill(bytes).expect("the system has random bytes");
}

/// Returns the cryptography of the edge, listed in full. The process default is not used, because
/// any dependency could have set it.
pub(crate) fn provider() -> CryptoProvider {
    CryptoProvider {
        cipher_suites: vec![
            aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256,
            aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384,
            aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
        ],
        kx_groups: vec![
            aws_lc_rs::kx_group::X25519MLKEM768,
            aws_lc_rs::kx_group::X25519,
            // Mandatory (RFC 8446 9.1).
            aws_lc_rs::kx_group::SECP256R1,
        ],
        ..aws_lc_rs::default_provider()
    }
}

/// All certificates, by server name.
struct Certificates {
    entries: Vec<Entry>,
    /// Host name -> index of its entry. Clients cannot add names.
    exact: HashMap<String, usize>,
    /// The same for `*.NAME`, by NAME.
    wildcard: HashMap<String, usize>,
    /// The entry for clients that connect to an address, if one has addresses.
    addresses: Option<usize>,
    /// Policy for names that are in neither.
    unknown: UnknownServerName,
}

impl Certificates {
    fn new(entries: Vec<Entry>, unknown: UnknownServerName) -> Result<Self, TlsError> {
        if entries.is_empty() {
            return Err(TlsError::nowhere(Kind::None));
        }
        let mut exact = HashMap::new();
        let mut wildcard = HashMap::new();
        for (index, entry) in entries.iter().enumerate() {
            for host in &entry.hosts {
                // The first certificate with a host serves it, as with routes.
                match host {
                    HostPattern::Exact(name) => exact.entry(name.clone()).or_insert(index),
                    HostPattern::Wildcard(parent) => {
                        wildcard.entry(parent.clone()).or_insert(index)
                    }
                };
            }
        }
        let addresses = entries.iter().position(|entry| !entry.addresses.is_empty());
        Ok(Self { entries, exact, wildcard, addresses, unknown })
    }

    /// Chooses by exact name, then by wildcard, then by the policy for unknown names. A browser
    /// that gets the first certificate shows its user a page that explains the mismatch. A client
    /// that connects to an address sends no name (RFC 6066 3).
    fn choose(&self, server_name: Option<&str>) -> Option<&Entry> {
        let index = match server_name {
            Some(name) => self.find(&name.to_ascii_lowercase()),
            None => self.addresses,
        };
        match (index, self.unknown) {
            (Some(index), _) => Some(&self.entries[index]),
            (None, UnknownServerName::Default) => self.entries.first(),
            (None, UnknownServerName::Refuse) => None,
        }
    }

    fn find(&self, name: &str) -> Option<usize> {
        self.exact.get(name).copied().or_else(|| {
            let (label, parent) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(parent).copied() }
        })
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // For `None` rustls sends access_denied; it cannot send unrecognized_name.
        Some(Arc::clone(&self.choose(client_hello.server_name())?.key))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.hosts)).finish()
    }
}
