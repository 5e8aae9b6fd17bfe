//! The choice of a certificate: by the name that a client asks for, then by the kinds of signatures
//! that it verifies.
//!
//! Several certificates may be for one name if their keys are of different kinds. A small and fast
//! ECDSA one then serves almost everybody, and one with an RSA key the old clients that know no
//! other.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{SignatureAlgorithm, SignatureScheme};

use super::certificate::Entry;
use super::error::{Content, Kind, TlsError};
use crate::config::{HostPattern, UnknownServerName};

/// Indices of the certificates for one name, each with another kind of key, best first.
type Group = Vec<usize>;

/// All certificates, by server name.
pub(super) struct Certificates {
    pub(super) entries: Vec<Arc<Entry>>,
    /// Host name -> its certificates. Clients cannot add names.
    exact: HashMap<String, Group>,
    /// The same for `*.NAME`, by NAME.
    wildcard: HashMap<String, Group>,
    /// The certificates for clients that connect to an address.
    addresses: Group,
    /// The first certificate, and those with other keys for its first host.
    first: Group,
    /// Policy for names that are in neither.
    pub(super) unknown: UnknownServerName,
}

impl Certificates {
    /// Groups the certificates by host. Returns an error if two for one host have the same kind of
    /// key.
    pub(super) fn new(
        entries: Vec<Arc<Entry>>,
        unknown: UnknownServerName,
    ) -> Result<Self, TlsError> {
        let Some(first) = entries.first() else { return Err(TlsError::nowhere(Kind::None)) };
        let (mut exact, mut wildcard) = (HashMap::new(), HashMap::new());
        let mut addresses = Group::new();
        for (index, entry) in entries.iter().enumerate() {
            for host in &entry.hosts {
                let group = match host {
                    HostPattern::Exact(name) => exact.entry(name.clone()).or_default(),
                    HostPattern::Wildcard(parent) => wildcard.entry(parent.clone()).or_default(),
                };
                join(group, index, &entries, host)?;
            }
            if let Some(address) = entry.addresses.first() {
                let other = addresses.first().map(|&other: &usize| &entries[other]);
                if let Some(other) = other.filter(|other| !has_same_addresses(other, entry)) {
                    let (address, other) = (*address, other.origin());
                    return Err(entry.refuse(Content::OtherAddresses { address, other }));
                }
                join(&mut addresses, index, &entries, address)?;
            }
        }
        let first = match first.hosts.first() {
            Some(HostPattern::Exact(name)) => exact[name].clone(),
            Some(HostPattern::Wildcard(parent)) => wildcard[parent].clone(),
            None => addresses.clone(),
        };
        Ok(Self { entries, exact, wildcard, addresses, first, unknown })
    }

    /// Returns the certificates for a server name: those of the exact name, else those of the
    /// wildcard, else by the policy for unknown names. A browser that gets the first certificate
    /// shows its user a page that explains the mismatch. A client that connects to an address sends
    /// no name (RFC 6066 3).
    pub(super) fn group(&self, server_name: Option<&str>) -> impl Iterator<Item = &Arc<Entry>> {
        let found = match server_name {
            Some(name) => self.find(&without_last_dot(name).to_ascii_lowercase()),
            None => Some(&self.addresses).filter(|group| !group.is_empty()),
        };
        let unknown = match self.unknown {
            UnknownServerName::Default => Some(&self.first),
            UnknownServerName::Refuse => None,
        };
        found.or(unknown).into_iter().flatten().map(|&index| &self.entries[index])
    }

    /// Returns the best certificate of the group whose signatures a client with these `schemes`
    /// verifies. If there is none, the best one: the handshake then fails with an alert that says
    /// so.
    fn choose(
        &self,
        server_name: Option<&str>,
        schemes: &[SignatureScheme],
    ) -> Option<&Arc<Entry>> {
        let is_verified = |entry: &&Arc<Entry>| entry.key.key.choose_scheme(schemes).is_some();
        let mut group = self.group(server_name).peekable();
        let best = group.peek().copied();
        group.find(is_verified).or(best)
    }

    fn find(&self, name: &str) -> Option<&Group> {
        self.exact.get(name).or_else(|| {
            let (label, parent) = name.split_once('.')?;
            if label.is_empty() { None } else { self.wildcard.get(parent) }
        })
    }
}

/// Returns a name without its last dot, which means the same name. RFC 6066 3 has clients leave it
/// out, and not all of them do.
pub(super) fn without_last_dot(name: &str) -> &str {
    name.strip_suffix('.').unwrap_or(name)
}

/// Adds a certificate to the group for `host`, and keeps the best one first.
fn join(
    group: &mut Group,
    index: usize,
    entries: &[Arc<Entry>],
    host: &impl fmt::Display,
) -> Result<(), TlsError> {
    let algorithm = |index: usize| entries[index].key.key.algorithm();
    let rival = group.iter().find(|&&other| algorithm(other) == algorithm(index));
    if let Some(&rival) = rival.filter(|&&rival| rival != index) {
        let kind = kind_of_key(algorithm(index));
        let (host, other) = (host.to_string(), entries[rival].origin());
        return Err(entries[index].refuse(Content::SecondOfKind { host, other, kind }));
    }
    if !group.contains(&index) {
        group.push(index);
        group.sort_by_key(|&index| rank(algorithm(index)));
    }
    Ok(())
}

/// Returns the place of a kind of key among others, the cheapest handshake first. Every client that
/// verifies Ed25519 verifies ECDSA too, so that Ed25519 is chosen only where ECDSA is not there.
fn rank(algorithm: SignatureAlgorithm) -> u8 {
    match algorithm {
        SignatureAlgorithm::ECDSA => 0,
        SignatureAlgorithm::ED25519 => 1,
        _ => 2,
    }
}

fn kind_of_key(algorithm: SignatureAlgorithm) -> &'static str {
    match algorithm {
        SignatureAlgorithm::ECDSA => "ECDSA",
        SignatureAlgorithm::ED25519 => "Ed25519",
        SignatureAlgorithm::RSA => "RSA",
        _ => "equal",
    }
}

fn has_same_addresses(one: &Entry, other: &Entry) -> bool {
    let are_in = |one: &Entry, other: &Entry| {
        one.addresses.iter().all(|address| other.addresses.contains(address))
    };
    are_in(one, other) && are_in(other, one)
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // For `None` rustls sends access_denied; it cannot send unrecognized_name.
        let chosen = self.choose(client_hello.server_name(), client_hello.signature_schemes())?;
        Some(Arc::clone(chosen.presented()))
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.entries.iter().map(|entry| &entry.hosts)).finish()
    }
}
