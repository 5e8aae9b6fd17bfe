//! TLS for the edge: certificates, their selection by server name, and the rustls settings.
//!
//! ```text
//!  [[certificates]] --files--> chain + key --judge--> Entry { hosts, key } --+
//!     PEM, or made in memory    each link of the chain,                      |
//!                               key fits the leaf,                           |
//!                               leaf covers the hosts                        v
//!  ClientHello --SNI--> exact host, else wildcard, else the first entry or none
//!            --no SNI-> the entry with addresses, else the first or none
//!            --signature schemes--> of the entries for one host, one that the client verifies
//! ```
//!
//! A [`ServerTls`] is built from a configuration and does not change, but for the ticket keys of a
//! file. A reload builds the next one with the same ticket keys, or those of their file, so that
//! clients can resume across it. All errors of a file are found here, before a worker uses it, and
//! name the file, the line and the way out. `check`, the start, a reload and a change of the files
//! ([`refresh`]) judge certificates by this one code.
//!
//! QUIC uses TLS 1.3 only (RFC 9001 4.2), and quinn-proto carries it. Over TCP it is TLS 1.2 too,
//! with the settings of [`tcp`], and [`stream`] carries it. Early data is for TCP only, where a
//! listener asks for it ([early-data](../../docs/decisions/early-data.md)).
#![forbid(unsafe_code)]

pub(crate) mod alerts;
mod certificate;
mod chain;
mod client_authorities;
mod client_identity;
mod client_verifier;
mod distinguished_name;
mod error;
mod expiry;
mod files;
mod key_log;
mod names;
mod ocsp;
mod pem;
mod refresh;
mod revocation;
mod selection;
mod sessions;
mod settings;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tickets;
mod token_key;
mod validity;
mod x509;

use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::compress::CompressionCache;
use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::config;

pub(crate) use crate::config::TlsVersion;
use certificate::Entry;
use client_authorities::ClientAuthorities;
pub(crate) use client_identity::identify;
use error::Kind;
pub(crate) use error::TlsError;
#[cfg(test)]
pub(crate) use expiry::Expiring;
pub(crate) use expiry::{Expiry, Nearness};
use key_log::KeyLog;
pub(crate) use refresh::{CertificateFiles, Refreshed};
use selection::{Certificates, without_last_dot};
use sessions::Sessions;
use settings::COMPRESSORS;
pub(crate) use stream::{ByteStream, EarlyDataFate, Handshaken, TlsEvent, TlsFault};
pub(crate) use tcp::TcpServerTls;
use tickets::Tickets;
pub(crate) use token_key::token_key;

/// ALPN identifier of HTTP/3, the only protocol over QUIC (RFC 9114 3.1).
pub(crate) const ALPN_H3: &[u8] = b"h3";
/// ALPN identifier of HTTP/2 over TLS (RFC 9113 3.2).
pub(crate) const ALPN_H2: &[u8] = b"h2";
/// ALPN identifier of HTTP/1.1 (RFC 7301 6).
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// Certificates, ticket keys and the rustls settings made from them. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    shared: Arc<Shared>,
}

#[derive(Clone)]
struct Shared {
    certificates: Arc<Certificates>,
    /// The authorities of clients, of each listener that has any.
    client_authorities: Vec<Arc<ClientAuthorities>>,
    resumption: Resumption,
    key_log: Arc<dyn rustls::KeyLog>,
    /// The compressed form of certificates that have been sent in it.
    compressions: Arc<CompressionCache>,
    /// The files of certificates and ticket keys, in the state in which they were read.
    files: CertificateFiles,
}

/// The means to resume sessions: a ticket, which holds the session, or a store for it.
#[derive(Clone)]
struct Resumption {
    tickets: Tickets,
    /// For listeners with early data.
    sessions: Arc<Sessions>,
}

impl ServerTls {
    /// Reads and checks `certificates`, and the ticket keys.
    pub fn load(certificates: &[config::Certificate], tls: config::Tls) -> Result<Self, TlsError> {
        let resumption = Resumption {
            tickets: Tickets::load(tls.ticket_keys.as_deref())?,
            sessions: Arc::new(Sessions::new()),
        };
        Self::build(certificates, &tls, resumption, Arc::new(rustls::NoKeyLog))
    }

    /// Writes the secrets of all connections to the file `path` from now on.
    pub(crate) fn log_keys(self, path: &Path) -> Result<Self, TlsError> {
        let key_log =
            KeyLog::open(path).map_err(|error| TlsError::of(path, Kind::KeyLog(error)))?;
        let shared = Shared { key_log: Arc::new(key_log), ..Shared::clone(&self.shared) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Reads and checks `certificates` and the file of ticket keys. Keys that were drawn are kept,
    /// so that tickets issued before stay valid, and so is the key log.
    pub fn reload(
        &self,
        certificates: &[config::Certificate],
        tls: config::Tls,
    ) -> Result<Self, TlsError> {
        let Resumption { tickets, sessions } = &self.shared.resumption;
        let resumption = Resumption {
            tickets: tickets.reload(tls.ticket_keys.as_deref())?,
            sessions: Arc::clone(sessions),
        };
        Self::build(certificates, &tls, resumption, Arc::clone(&self.shared.key_log))
    }

    /// Reads and checks the authorities of those `listeners` that ask their clients for
    /// certificates.
    pub fn with_client_auth(self, listeners: &[config::Listener]) -> Result<Self, TlsError> {
        let asking = listeners.iter().filter_map(config::Listener::client_auth);
        let paths = asking.flat_map(|auth| std::iter::once(&auth.ca).chain(&auth.crls));
        let files = self.shared.files.clone().and(paths.cloned());
        let client_authorities = ClientAuthorities::load_all(listeners, &Arc::new(provider()))?;
        let shared = Shared { client_authorities, files, ..Shared::clone(&self.shared) };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Returns problems that an operator should fix although the program can run: certificates and
    /// links of chains that some clients refuse, or soon will.
    pub fn warnings(&self, now: SystemTime) -> Vec<String> {
        let Shared { certificates, client_authorities, .. } = &*self.shared;
        let of_certificates = certificates.entries.iter().flat_map(|entry| entry.warnings(now));
        let of_authorities = client_authorities.iter().flat_map(|one| one.warnings(now));
        of_certificates.chain(of_authorities).collect()
    }

    /// Returns a line for each certificate: its names, its issuers, and its last day; and one for
    /// the authorities of each listener's clients.
    pub fn summaries(&self) -> Vec<String> {
        let Shared { certificates, client_authorities, .. } = &*self.shared;
        let of_certificates = certificates.entries.iter().map(|entry| entry.summary());
        of_certificates.chain(client_authorities.iter().map(|one| one.summary())).collect()
    }

    /// Takes in what time it is: statements of authorities that have expired are not stapled any
    /// more, and clients' authorities are those of now.
    pub(crate) fn note_time(&self, now: SystemTime) {
        self.shared.certificates.entries.iter().for_each(|entry| entry.note_time(now));
        let now = certificate::seconds(now);
        self.shared.client_authorities.iter().for_each(|one| one.verifier.note_time(now));
    }

    /// Returns the last day of each file with certificates or revocation lists.
    pub(crate) fn expiries(&self) -> Vec<Expiry> {
        let Shared { certificates, client_authorities, .. } = &*self.shared;
        let mut expiries: Vec<Expiry> =
            certificates.entries.iter().filter_map(|entry| entry.expiry()).collect();
        for expiry in client_authorities.iter().flat_map(|one| one.expiries()) {
            // Listeners may share a file.
            if !expiries.contains(&expiry) {
                expiries.push(expiry);
            }
        }
        expiries
    }

    /// Returns a description of the ticket keys if they are not those of `earlier`.
    pub(crate) fn ticket_keys_since(&self, earlier: &ServerTls) -> Option<String> {
        self.shared.resumption.tickets.summary_since(&earlier.shared.resumption.tickets)
    }

    /// Returns the lines of the certificates and authorities that `earlier` did not have.
    pub fn summaries_since(&self, earlier: &ServerTls) -> Vec<String> {
        let known = &earlier.shared.certificates.entries;
        let is_new =
            |entry: &&Arc<Entry>| known.iter().all(|known| known.key.cert != entry.key.cert);
        let certificates = self.shared.certificates.entries.iter().filter(is_new);
        let before = &earlier.shared.client_authorities;
        let authorities = self.shared.client_authorities.iter().filter(|one| {
            let is_same = |earlier: &Arc<ClientAuthorities>| {
                earlier.listener == one.listener && earlier.accepts_the_same(one)
            };
            !before.iter().any(is_same)
        });
        let certificates = certificates.map(|entry| entry.summary());
        certificates.chain(authorities.map(|one| one.summary())).collect()
    }

    /// Returns true if the certificate for clients that send `server_name` is also valid for `host`
    /// (lower case, no port; an IPv6 address in brackets). If there are several, with different
    /// keys, each of them has to be: which one a client got is not kept.
    pub fn covers(&self, server_name: Option<&str>, host: &str) -> bool {
        let mut group = self.shared.certificates.group(server_name).peekable();
        group.peek().is_some() && group.all(|entry| entry.is_valid_for(host))
    }

    /// Returns true if a request for `host` is misdirected on a connection for `server_name`
    /// (RFC 9110 7.4, 15.5.20): its certificate is not valid for `host`, and another connection
    /// might get one that is. Another connection would not help for the server name itself, nor for
    /// an address, which SNI cannot carry (RFC 6066 3): such a client has accepted the certificate
    /// that `unknown_server_name` chose.
    pub fn misdirects(&self, server_name: Option<&str>, host: &str) -> bool {
        let asked_for = match server_name {
            Some(name) => without_last_dot(name).eq_ignore_ascii_case(host),
            None => host.starts_with('[') || host.parse::<std::net::Ipv4Addr>().is_ok(),
        };
        !asked_for && !self.covers(server_name, host)
    }

    /// Returns the chain for clients that send `server_name` and verify all signatures, in DER,
    /// leaf first. It is empty if they are refused.
    pub fn chain(
        &self,
        server_name: Option<&str>,
    ) -> Vec<rustls::pki_types::CertificateDer<'static>> {
        let entry = self.shared.certificates.group(server_name).next();
        entry.map_or_else(Vec::new, |entry| entry.key.cert.clone())
    }

    fn build(
        certificates: &[config::Certificate],
        tls: &config::Tls,
        resumption: Resumption,
        key_log: Arc<dyn rustls::KeyLog>,
    ) -> Result<Self, TlsError> {
        // Before they are read: what changes meanwhile is noticed later.
        let files = CertificateFiles::of(certificates, tls);
        let provider = Arc::new(provider());
        let entries = certificates
            .iter()
            .map(|certificate| Entry::load(certificate, &provider).map(Arc::new))
            .collect::<Result<Vec<_>, _>>()?;
        // Each may be sent with a stapled statement and without.
        let compressions = CompressionCache::new(2 * entries.len() * COMPRESSORS.len());
        let shared = Shared {
            certificates: Arc::new(Certificates::new(entries, tls.unknown_server_name)?),
            client_authorities: Vec::new(),
            resumption,
            key_log,
            compressions: Arc::new(compressions),
            files,
        };
        Ok(Self { shared: Arc::new(shared) })
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
