//! One of the configured certificates: its chain and key, judged, with the hosts that it serves.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::sign::CertifiedKey;

use super::chain::{self, Judgement, Located};
use super::error::{Content, Kind, TlsError};
use super::expiry::{Expiring, Expiry};
use super::files;
use super::names::CertificateNames;
use super::ocsp::Staple;
use super::x509;
use crate::config::{Certificate, CertificateSource, HostPattern};

/// A chain, its key, and the hosts that it serves.
pub(super) struct Entry {
    pub(super) hosts: Vec<HostPattern>,
    /// Addresses to which clients connect that get this certificate.
    pub(super) addresses: Vec<IpAddr>,
    pub(super) key: Arc<CertifiedKey>,
    stapled: Option<Stapled>,
    names: CertificateNames,
    origin: Origin,
    /// The outcome for a chain from a file. One made in memory has no reader to warn.
    judgement: Option<Judgement>,
}

/// A certificate with the statement that it is not revoked.
struct Stapled {
    key: Arc<CertifiedKey>,
    path: PathBuf,
    staple: Staple,
    is_expired: AtomicBool,
}

/// Origin of a chain, for messages.
#[derive(Debug, Clone)]
enum Origin {
    File(PathBuf),
    Memory,
}

impl Entry {
    /// Reads the files of `certificate`, or generates a self-signed one, and judges it.
    pub(super) fn load(
        certificate: &Certificate,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        match &certificate.source {
            CertificateSource::Files { cert, key, ocsp } => {
                let chain = files::read_chain(cert, key)?;
                let private = files::read_private_key(key)?;
                let origin = Origin::File(cert.clone());
                let mut entry = Self::build(certificate, origin, chain, (key, private), provider)?;
                entry.stapled = ocsp.as_deref().map(|path| entry.staple(path)).transpose()?;
                Ok(entry)
            }
            CertificateSource::SelfSigned => {
                let (der, private) = self_signed(certificate)?;
                let key = Path::new("the key made in memory");
                let chain = vec![Located { line: 1, der }];
                Self::build(certificate, Origin::Memory, chain, (key, private), provider)
            }
        }
    }

    /// Judges a chain and its key.
    fn build(
        certificate: &Certificate,
        origin: Origin,
        chain: Vec<Located>,
        (key_path, key): (&Path, PrivateKeyDer<'static>),
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let judgement = chain::judge(&chain, &provider.signature_verification_algorithms)
            .map_err(|fault| origin.error(fault.line, Kind::Chain(fault)))?;
        let signer = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| TlsError::of(key_path, Content::KeyRefused(error)))?;
        let ders = chain.iter().map(|located| located.der.clone()).collect();
        let key = CertifiedKey::new(ders, signer);
        let line = chain[0].line;
        match key.keys_match() {
            // Keys of which rustls cannot compute the public half are not checked.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let line_of_other = line_of_key(&chain, &key);
                let content = Content::KeyMismatch { chain: origin.to_string(), line_of_other };
                return Err(TlsError::of(key_path, content));
            }
            Err(error) => return Err(origin.error(line, Content::LeafRefused(error))),
        }
        let names = check_names(certificate, &chain[0].der)
            .map_err(|content| origin.error(line, content))?;
        Ok(Self {
            hosts: certificate.hosts.clone(),
            addresses: certificate.addresses.clone(),
            names,
            key: Arc::new(key),
            stapled: None,
            judgement: matches!(origin, Origin::File(_)).then_some(judgement),
            origin,
        })
    }

    /// Returns true if the leaf is valid for `host`, a name or an address.
    pub(super) fn is_valid_for(&self, host: &str) -> bool {
        self.names.cover(host)
    }

    /// Returns true if clients notice no difference to `other`.
    pub(super) fn serves_the_same(&self, other: &Self) -> bool {
        let ocsp =
            |entry: &Self| entry.stapled.as_ref().and_then(|stapled| stapled.key.ocsp.clone());
        self.key.cert == other.key.cert && ocsp(self) == ocsp(other)
    }

    /// Reads the statement of the authority in the file `path`.
    fn staple(&self, path: &Path) -> Result<Stapled, TlsError> {
        let der = files::read_der(path)?;
        let leaf = x509::Certificate::read(&self.key.cert[0]).expect("the chain has been judged");
        let staple = Staple::read(&der, leaf.serial())
            .map_err(|fault| TlsError::of(path, Kind::Staple(fault)))?;
        let mut key = CertifiedKey::clone(&self.key);
        key.ocsp = Some(der);
        let (key, path) = (Arc::new(key), path.to_owned());
        Ok(Stapled { key, path, staple, is_expired: AtomicBool::new(false) })
    }

    /// Returns what handshakes present: with the statement that it is not revoked, unless that has
    /// expired.
    pub(super) fn presented(&self) -> &Arc<CertifiedKey> {
        let stapled = self.stapled.as_ref().filter(|stapled| !stapled.is_expired.load(Relaxed));
        stapled.map_or(&self.key, |stapled| &stapled.key)
    }

    pub(super) fn note_time(&self, now: SystemTime) {
        if let Some(stapled) = &self.stapled {
            stapled.is_expired.store(stapled.staple.is_expired(seconds(now)), Relaxed);
        }
    }

    /// Returns the last day of a chain from a file.
    pub(super) fn expiry(&self) -> Option<Expiry> {
        let (not_before, not_after) = self.judgement.as_ref()?.validity();
        Some(Expiry {
            certificate: self.origin(),
            kind: Expiring::Certificate,
            not_before,
            not_after,
        })
    }

    /// Returns the place of the chain, for messages.
    pub(super) fn origin(&self) -> String {
        self.origin.to_string()
    }

    /// Returns an error of the chain's file as a whole.
    pub(super) fn refuse(&self, content: Content) -> TlsError {
        match &self.origin {
            Origin::File(path) => TlsError::of(path, content),
            Origin::Memory => TlsError::nowhere(content.into()),
        }
    }

    /// Returns problems that an operator should fix.
    pub(super) fn warnings(&self, now: SystemTime) -> Vec<String> {
        let Some(judgement) = &self.judgement else { return Vec::new() };
        let notes = judgement.notes(seconds(now)).into_iter();
        let notes = notes.map(|note| format!("{}:{}: {}", self.origin, note.line, note.text));
        let expired = self.stapled.iter().filter(|one| one.staple.is_expired(seconds(now)));
        let expired = expired.map(|one| {
            format!(
                "{}: the statement that the certificate is not revoked has expired, and is not \
                 stapled; have it fetched more often",
                one.path.display()
            )
        });
        notes.chain(expired).collect()
    }

    /// Returns a line about the certificate: its names, its issuers, and its last day.
    pub(super) fn summary(&self) -> String {
        let hosts = self.hosts.iter().map(HostPattern::to_string);
        let hosts: Vec<String> =
            hosts.chain(self.addresses.iter().map(IpAddr::to_string)).collect();
        let (origin, hosts) = (&self.origin, hosts.join(", "));
        let Some(judgement) = &self.judgement else { return format!("{origin}: for {hosts}") };
        let signers = match judgement.path() {
            [] => "itself".to_owned(),
            path => path.iter().map(|name| format!("{name:?}")).collect::<Vec<_>>().join(", "),
        };
        let count = match self.key.cert.len() {
            1 => "1 certificate".to_owned(),
            count => format!("{count} certificates"),
        };
        let expiry = judgement.expiry();
        format!("{origin}: {count}; for {hosts}; signed by {signers}; valid until {expiry}")
    }
}

/// Returns a time in seconds since 1970.
pub(super) fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

impl Origin {
    fn error(&self, line: usize, kind: impl Into<Kind>) -> TlsError {
        match self {
            Self::File(path) => TlsError::at(path, line, kind),
            Self::Memory => TlsError::nowhere(kind.into()),
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Memory => f.write_str("the certificate made in memory"),
        }
    }
}

/// Returns the line of the certificate that was issued for `key`.
fn line_of_key(chain: &[Located], key: &CertifiedKey) -> Option<usize> {
    let public = key.key.public_key()?;
    let belongs = |located: &&Located| {
        x509::Certificate::read(&located.der)
            .is_ok_and(|certificate| certificate.public_key() == public.as_ref())
    };
    chain.iter().find(belongs).map(|located| located.line)
}

/// Reads the names of the leaf, which must be valid for everything that it is configured for:
/// clients would refuse it there.
fn check_names(
    certificate: &Certificate,
    leaf: &CertificateDer<'_>,
) -> Result<CertificateNames, Content> {
    let leaf = x509::Certificate::read(leaf).expect("the chain has been judged");
    let names = CertificateNames::read(&leaf);
    let hosts = certificate.hosts.iter().filter(|host| !names.cover_pattern(host));
    let addresses = certificate.addresses.iter().filter(|address| !names.cover_address(**address));
    let mut missing = hosts.map(HostPattern::to_string).chain(addresses.map(IpAddr::to_string));
    match missing.next() {
        None => Ok(names),
        Some(host) => {
            Err(Content::HostNotCovered { host, names: names.list(), subject: leaf.subject() })
        }
    }
}

fn self_signed(
    certificate: &Certificate,
) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
    let hosts = certificate.hosts.iter().map(HostPattern::to_string);
    let names: Vec<String> =
        hosts.chain(certificate.addresses.iter().map(IpAddr::to_string)).collect();
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| TlsError::nowhere(Kind::SelfSigned(error.to_string())))?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((made.cert.der().clone(), key.into()))
}
