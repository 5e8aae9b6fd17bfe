//! The verifier of clients' certificates: rustls' own, over the authorities that are valid at the
//! moment, with a line of the process log for each refusal.
//!
//! rustls takes an authority for a mere key and never looks at its dates, which RFC 5280 6.1.1
//! leaves to the application. nginx refuses what an expired authority issued, and so does this.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{self, CryptoProvider};
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertRevocationListError, CertificateError, DigitallySignedStruct, DistinguishedName, Error,
    RootCertStore, SignatureScheme,
};

use super::x509::Certificate;
use crate::config::ClientAuthDemand;

/// Lines about refused certificates in each minute, for each listener.
const LINES_PER_MINUTE: u32 = 10;
/// Bytes of a subject in a line.
const SUBJECT_LEN_MAX: usize = 300;

/// An authority, and the seconds since 1970 between which it is valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Anchor {
    pub(super) der: CertificateDer<'static>,
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

/// The verifier of one listener.
pub(super) struct ClientVerifier {
    listener: String,
    demand: ClientAuthDemand,
    provider: Arc<CryptoProvider>,
    anchors: Vec<Anchor>,
    crls: Vec<CertificateRevocationListDer<'static>>,
    /// The names of the authorities, by which clients choose a certificate.
    hints: Vec<DistinguishedName>,
    current: RwLock<Current>,
    lines: Mutex<Lines>,
}

/// The verifier over the authorities that are valid in a time.
struct Current {
    /// `None` if there are none.
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    /// Seconds since 1970 between which no authority begins or ends to be valid.
    from: i64,
    until: i64,
}

/// The lines of the current minute.
#[derive(Default)]
struct Lines {
    minute: u64,
    count: u32,
    omitted_count: u64,
}

impl ClientVerifier {
    /// Returns a verifier of certificates from `anchors`, whose names are `hints`. If there are
    /// `crls`, one must cover each certificate. rustls can use all of them.
    pub(super) fn new(
        listener: &str,
        demand: ClientAuthDemand,
        provider: Arc<CryptoProvider>,
        anchors: Vec<Anchor>,
        hints: Vec<DistinguishedName>,
        crls: Vec<CertificateRevocationListDer<'static>>,
    ) -> Self {
        Self {
            listener: listener.to_owned(),
            demand,
            provider,
            anchors,
            crls,
            hints,
            // Of no time: the first look makes it.
            current: RwLock::new(Current { verifier: None, from: i64::MAX, until: i64::MIN }),
            lines: Mutex::default(),
        }
    }

    /// Returns true if `other` accepts the same certificates.
    pub(super) fn accepts_the_same(&self, other: &Self) -> bool {
        self.anchors == other.anchors && self.crls == other.crls
    }

    /// Returns the verifier for a moment, in seconds since 1970; `None` if no authority is valid.
    fn at(&self, now: i64) -> Option<Arc<dyn ClientCertVerifier>> {
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if (current.from..=current.until).contains(&now) {
            return current.verifier.clone();
        }
        drop(current);
        // The lists are read, which takes its time: one worker does it, and the others wait.
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if !(current.from..=current.until).contains(&now) {
            *current = self.make(now);
        }
        current.verifier.clone()
    }

    /// Reads the lists for this moment, so that no handshake has to.
    pub(super) fn note_time(&self, now: i64) {
        self.at(now);
    }

    fn make(&self, now: i64) -> Current {
        let anchors = &self.anchors;
        let is_valid = |anchor: &&Anchor| (anchor.not_before..=anchor.not_after).contains(&now);
        let changes = anchors.iter().flat_map(|one| [one.not_before, one.not_after + 1]);
        let (past, future): (Vec<i64>, Vec<i64>) = changes.partition(|at| *at <= now);
        let verifier = store(anchors.iter().filter(is_valid)).ok().and_then(|roots| {
            let provider = Arc::clone(&self.provider);
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .with_crls(self.crls.iter().cloned())
                .enforce_revocation_expiration();
            builder.build().ok()
        });
        Current {
            verifier,
            from: past.into_iter().max().unwrap_or(i64::MIN),
            until: future.into_iter().min().map_or(i64::MAX, |at| at - 1),
        }
    }

    /// Writes a line about a refused certificate, unless the minute has enough of them.
    fn note_refusal(&self, der: &CertificateDer<'_>, error: &Error, now: UnixTime) {
        let omitted = {
            let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
            let minute = now.as_secs() / 60;
            if lines.minute != minute {
                (lines.minute, lines.count) = (minute, 0);
            }
            if lines.count == LINES_PER_MINUTE {
                lines.omitted_count += 1;
                return;
            }
            lines.count += 1;
            std::mem::take(&mut lines.omitted_count)
        };
        let (listener, reason) = (&self.listener, reason(error));
        let mut subject = Certificate::read(der)
            .map_or_else(|_| "unreadable".to_owned(), |certificate| certificate.full_subject());
        // It is ASCII.
        subject.truncate(SUBJECT_LEN_MAX);
        tracing::warn!(listener, subject, reason, omitted, "a client's certificate was refused");
    }
}

/// Returns these authorities as rustls takes them.
pub(super) fn store<'a>(
    anchors: impl IntoIterator<Item = &'a Anchor>,
) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for anchor in anchors {
        roots.add(anchor.der.clone())?;
    }
    Ok(roots)
}

/// Returns why a certificate was refused, and the way out.
fn reason(error: &Error) -> String {
    let Error::InvalidCertificate(error) = error else { return error.to_string() };
    let text = match error {
        CertificateError::UnknownIssuer => {
            "none of the authorities in client_auth.ca issued it, or those in between were not \
             sent: add its authority there, or have the client send the whole chain"
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "it has expired, or an authority in between: have it renewed"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet: compare the clocks of this host and of its authority"
        }
        CertificateError::Revoked => "it is in a list of client_auth.crl: have another one issued",
        CertificateError::UnknownRevocationStatus => {
            "no list of client_auth.crl is valid for its issuer: add the issuer's list there"
        }
        CertificateError::ExpiredRevocationList
        | CertificateError::ExpiredRevocationListContext { .. } => {
            "the list of its issuer in client_auth.crl has expired: fetch the current one"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "its extended key usage does not permit clients: have one issued with clientAuth"
        }
        _ => return format!("{error}: have it issued anew, with keys and signatures of today"),
    };
    text.to_owned()
}

impl ClientCertVerifier for ClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        self.demand == ClientAuthDemand::Require
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verifier = self.at(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        let verified = match verifier {
            Some(verifier) => verifier.verify_client_cert(end_entity, intermediates, now),
            None => Err(CertificateError::UnknownIssuer.into()),
        };
        verified
            .map_err(|error| match error {
                // A list that its issuer has not signed tells nothing.
                Error::InvalidCertRevocationList(CertRevocationListError::BadSignature) => {
                    CertificateError::UnknownRevocationStatus.into()
                }
                error => error,
            })
            .inspect_err(|error| self.note_refusal(end_entity, error, now))
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        crypto::verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientVerifier")
            .field("listener", &self.listener)
            .field("demand", &self.demand)
            .finish_non_exhaustive()
    }
}
