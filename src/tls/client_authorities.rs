//! The authorities of one listener's clients, and their revocation lists, read and judged.
//!
//! ```text
//!   client_auth.ca   --PEM--> authorities --judge--> anchors --+
//!                                                              +--> ClientVerifier --> rustls
//!   client_auth.crl  --PEM--> lists --signed by one of them?---+
//! ```
//!
//! A file that lets no client in is an error. A list or an authority that has expired, or an
//! authority without a list, is a warning: some clients are refused
//! (docs/decisions/client-certificates.md).

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};

use super::certificate::seconds;
use super::chain::{ChainFault, Located};
use super::client_verifier::{self, Anchor, ClientVerifier};
use super::error::{Kind, TlsError};
use super::expiry::{Expiring, Expiry};
use super::files;
use super::revocation::{ListFault, RevocationList};
use super::validity::day;
use super::x509::Certificate;
use crate::config::{ClientAuth, Listener};

/// The authorities of one listener's clients.
pub(super) struct ClientAuthorities {
    /// The listener's name.
    pub(super) listener: String,
    pub(super) settings: ClientAuth,
    authorities: Vec<Authority>,
    lists: Vec<LocatedList>,
    pub(super) verifier: Arc<ClientVerifier>,
}

/// An authority of the file.
struct Authority {
    line: usize,
    der: CertificateDer<'static>,
    subject: String,
    not_before: i64,
    not_after: i64,
    last_day: String,
    notes: Vec<String>,
}

/// A revocation list, and its place.
struct LocatedList {
    path: PathBuf,
    line: usize,
    list: RevocationList,
}

/// An error in the files about clients' certificates.
#[derive(Debug)]
pub(super) enum AuthorityFault {
    /// The file of authorities holds no certificate.
    NoAuthority,
    /// It holds a certificate that is not one of an authority.
    Leaf {
        subject: String,
    },
    /// rustls cannot use an authority.
    Refused(rustls::Error),
    /// The file of revocation lists holds none.
    NoList,
    List(ListFault),
}

impl ClientAuthorities {
    /// Reads and judges the files of every listener that asks its clients for certificates.
    pub(super) fn load_all(
        listeners: &[Listener],
        provider: &Arc<CryptoProvider>,
    ) -> Result<Vec<Arc<Self>>, TlsError> {
        let asking = listeners.iter().filter_map(|listener| {
            let settings = listener.client_auth()?;
            Some(Self::load(&listener.name, settings, provider).map(Arc::new))
        });
        asking.collect()
    }

    /// Reads and judges the files of `settings`.
    fn load(
        listener: &str,
        settings: &ClientAuth,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, TlsError> {
        let ca = &settings.ca;
        let found = files::read_authorities(ca)?;
        let certificates = found
            .iter()
            .map(|located| read_authority(ca, located))
            .collect::<Result<Vec<Certificate<'_>>, TlsError>>()?;
        let authorities: Vec<Authority> =
            found.iter().zip(&certificates).map(|(one, read)| Authority::new(one, read)).collect();
        let anchors: Vec<Anchor> = authorities.iter().map(Authority::anchor).collect();
        let refused = |error| TlsError::of(ca, AuthorityFault::Refused(error));
        let roots = Arc::new(client_verifier::store(&anchors).map_err(refused)?);
        let (mut lists, mut crls) = (Vec::new(), Vec::new());
        for path in &settings.crls {
            for (line, der) in files::read_revocation_lists(path)? {
                let der = CertificateRevocationListDer::from(der);
                let list = RevocationList::read(&der, &certificates, &roots, provider)
                    .map_err(|fault| TlsError::at(path, line, AuthorityFault::List(fault)))?;
                lists.push(LocatedList { path: path.clone(), line, list });
                crls.push(der);
            }
        }
        let verifier = ClientVerifier::new(
            listener,
            settings.demand,
            Arc::clone(provider),
            anchors,
            roots.subjects(),
            crls,
        );
        Ok(Self {
            listener: listener.to_owned(),
            settings: settings.clone(),
            authorities,
            lists,
            verifier: Arc::new(verifier),
        })
    }

    /// Reads the files again.
    pub(super) fn reload(&self, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        Self::load(&self.listener, &self.settings, provider)
    }

    /// Returns true if `other` accepts the same certificates.
    pub(super) fn accepts_the_same(&self, other: &Self) -> bool {
        self.verifier.accepts_the_same(&other.verifier)
    }

    pub(super) fn paths(&self) -> impl Iterator<Item = &Path> {
        let ClientAuth { ca, crls, .. } = &self.settings;
        std::iter::once(ca.as_path()).chain(crls.iter().map(PathBuf::as_path))
    }

    /// Returns problems that an operator should fix, at this moment.
    pub(super) fn warnings(&self, now: SystemTime) -> Vec<String> {
        let (ca, now) = (self.settings.ca.display(), seconds(now));
        let mut warnings = Vec::new();
        for (index, authority) in self.authorities.iter().enumerate() {
            let mut note = |text: &str| {
                warnings.push(format!("{ca}:{}: {:?} {text}", authority.line, authority.subject));
            };
            authority.notes.iter().for_each(|text| note(text));
            if now > authority.not_after {
                note(&format!(
                    "expired on {}, so that every client that it vouches for is refused; replace \
                     it by the authority's current certificate",
                    authority.last_day
                ));
            } else if now < authority.not_before {
                note("is not valid yet, so that every client that it vouches for is refused");
            }
            if self.authorities[..index].iter().any(|earlier| earlier.der == authority.der) {
                note("is already there; remove one");
            }
            let has_list = self.lists.iter().any(|located| located.list.signers.contains(&index));
            if !self.lists.is_empty() && !has_list {
                note(
                    "has no list in client_auth.crl, so that every client whose certificate it \
                     issued itself is refused; add its revocation list",
                );
            }
        }
        warnings.extend(self.lists.iter().filter_map(|located| located.warning(now)));
        warnings
    }

    /// Returns a line about the authorities: their names, and the number of certificates that they
    /// have revoked.
    pub(super) fn summary(&self) -> String {
        let (ca, listener) = (self.settings.ca.display(), &self.listener);
        let names: Vec<String> =
            self.authorities.iter().map(|authority| format!("{:?}", authority.subject)).collect();
        let revoked: usize = self.lists.iter().map(|located| located.list.revoked_count).sum();
        let revoked = match self.lists.len() {
            0 => "no revocation list".to_owned(),
            1 => format!("1 revocation list with {revoked} certificates"),
            count => format!("{count} revocation lists with {revoked} certificates"),
        };
        let names = names.join(", ");
        format!("{ca}: authorities of the clients of {listener:?}: {names}; {revoked}")
    }

    /// Returns the last day of the file's authorities, and of each revocation list.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        let first = self.authorities.iter().min_by_key(|authority| authority.not_after);
        let of_authorities = first.map(|authority| Expiry {
            certificate: self.settings.ca.display().to_string(),
            kind: Expiring::ClientAuthority,
            not_before: authority.not_before,
            not_after: authority.not_after,
        });
        let of_lists = self.lists.iter().map(|located| Expiry {
            certificate: located.path.display().to_string(),
            kind: Expiring::RevocationList,
            not_before: located.list.this_update.timestamp(),
            not_after: located.list.next_update.timestamp(),
        });
        of_authorities.into_iter().chain(of_lists).collect()
    }
}

/// Reads the certificate of an authority. Returns an error if it is that of a leaf.
fn read_authority<'a>(path: &Path, located: &'a Located) -> Result<Certificate<'a>, TlsError> {
    let line = located.line;
    let certificate = Certificate::read(&located.der).map_err(|error| {
        TlsError::at(path, line, Kind::Chain(ChainFault::unreadable(line, error)))
    })?;
    if !certificate.is_authority() {
        let subject = certificate.subject();
        return Err(TlsError::at(path, line, AuthorityFault::Leaf { subject }));
    }
    Ok(certificate)
}

impl Authority {
    fn new(located: &Located, certificate: &Certificate<'_>) -> Self {
        let mut notes = Vec::new();
        if certificate.key_usage().is_some_and(|usage| !usage.key_cert_sign()) {
            notes.push(
                "has a key usage that does not permit it to sign certificates; have it issued anew"
                    .to_owned(),
            );
        }
        if let Some(bits) = certificate.has_short_key() {
            notes.push(format!(
                "has a key of only {bits} bits, so that every client that it vouches for is \
                 refused; use an authority with 2048 or more"
            ));
        }
        let (not_before, not_after) = (certificate.not_before(), certificate.not_after());
        Self {
            line: located.line,
            der: located.der.clone(),
            subject: certificate.subject(),
            not_before: not_before.timestamp(),
            not_after: not_after.timestamp(),
            last_day: day(not_after),
            notes,
        }
    }

    fn anchor(&self) -> Anchor {
        let Self { not_before, not_after, .. } = *self;
        Anchor { der: self.der.clone(), not_before, not_after }
    }
}

impl LocatedList {
    fn warning(&self, now: i64) -> Option<String> {
        let (path, line, issuer) = (self.path.display(), self.line, &self.list.issuer);
        if now > self.list.next_update.timestamp() {
            let last_day = day(self.list.next_update);
            return Some(format!(
                "{path}:{line}: the revocation list of {issuer:?} expired on {last_day}, so that \
                 every client whose certificate it issued is refused; fetch the current list"
            ));
        }
        self.list.signers.is_empty().then(|| {
            format!(
                "{path}:{line}: the revocation list is of {issuer:?}, which is not in \
                 client_auth.ca: it is used only if clients send the certificate of that authority"
            )
        })
    }
}

impl fmt::Display for AuthorityFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoAuthority => f.write_str(
                "holds no block \"-----BEGIN CERTIFICATE-----\"; write the certificates of the \
                 authorities that issue your clients' certificates, in PEM form",
            ),
            Self::Leaf { subject } => write!(
                f,
                "{subject:?} is not the certificate of an authority (its basic constraints do not \
                 contain CA:TRUE); give that of the authority that issued it"
            ),
            Self::Refused(error) => {
                write!(f, "an authority of clients cannot be used ({error}); have it issued anew")
            }
            Self::NoList => f.write_str(
                "holds no block \"-----BEGIN X509 CRL-----\"; write the revocation lists of the \
                 authorities in PEM form, or remove the path from client_auth.crl",
            ),
            Self::List(fault) => fault.fmt(f),
        }
    }
}
