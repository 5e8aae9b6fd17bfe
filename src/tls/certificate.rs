//! A certificate chain and its key: reading, checks and errors.

use std::fmt;
use std::fs;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName};
use rustls::sign::CertifiedKey;

use super::names::CertificateNames;
use super::validity::{Validity, validity};
use crate::config::{Certificate, CertificateSource, HostPattern};

/// Time before expiry at which a warning begins. Certificates are usually renewed 30 days before
/// they expire, so the renewal of one this close was probably forgotten.
const EXPIRY_WARNING: Duration = Duration::from_secs(14 * 86_400);

/// Mode bits that the file of a private key may have.
const KEY_MODE: u32 = 0o700;
/// The same for a key of root, which may lend it to a group of services, as with Debian's ssl-cert.
/// Any other user's group may have members who are no services.
const KEY_MODE_OF_ROOT: u32 = 0o740;

/// Label of a subdomain that a wildcard is checked with.
const WILDCARD_PROBE: &str = "any-subdomain";

/// A chain, its key, and the hosts that it serves.
pub(super) struct Entry {
    pub(super) hosts: Vec<HostPattern>,
    pub(super) key: Arc<CertifiedKey>,
    names: CertificateNames,
    origin: Origin,
    validity: Option<Validity>,
}

/// Origin of a chain, for messages.
#[derive(Debug, Clone)]
enum Origin {
    File(PathBuf),
    Memory,
}

impl Entry {
    /// Reads the files of `certificate`, or generates a self-signed one, and checks it.
    pub(super) fn load(
        certificate: &Certificate,
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        match &certificate.source {
            CertificateSource::Files { cert, key } => {
                let chain_pem = read(cert)?;
                let key_pem = read_key(key)?;
                let chain = parse_chain(cert, &chain_pem)?;
                let private = parse_key(key, &key_pem)?;
                let origin = Origin::File(cert.clone());
                Self::build(&certificate.hosts, origin, chain, (key, private), provider)
            }
            CertificateSource::SelfSigned => {
                let (chain, private) = self_signed(&certificate.hosts)?;
                let key = Path::new("the key made in memory");
                let origin = Origin::Memory;
                Self::build(&certificate.hosts, origin, chain, (key, private), provider)
            }
        }
    }

    /// Checks a chain and its key.
    fn build(
        hosts: &[HostPattern],
        origin: Origin,
        chain: Vec<CertificateDer<'static>>,
        (key_path, key): (&Path, PrivateKeyDer<'static>),
        provider: &CryptoProvider,
    ) -> Result<Self, TlsError> {
        let signer = provider
            .key_provider
            .load_private_key(key)
            .map_err(|error| TlsError::of(key_path, Kind::KeyRefused(error)))?;
        let key = CertifiedKey::new(chain, signer);
        match key.keys_match() {
            // Keys of which rustls cannot compute the public half are not checked.
            Ok(()) | Err(rustls::Error::InconsistentKeys(rustls::InconsistentKeys::Unknown)) => {}
            Err(rustls::Error::InconsistentKeys(_)) => {
                let chain = origin.to_string();
                return Err(TlsError::of(key_path, Kind::KeyMismatch { chain }));
            }
            Err(error) => {
                let kind = Kind::LeafRefused(error.to_string());
                return Err(TlsError { file: origin.file(), kind });
            }
        }
        check_hosts(hosts, &origin, &key.cert[0])?;
        let names = CertificateNames::read(&key.cert[0], hosts).map_err(|cause| {
            let kind = Kind::LeafRefused(cause.to_string());
            TlsError { file: origin.file(), kind }
        })?;
        Ok(Self {
            hosts: hosts.to_vec(),
            names,
            validity: validity(&key.cert[0]),
            key: Arc::new(key),
            origin,
        })
    }

    /// Returns true if the leaf is valid for `host`, a name or an address.
    pub(super) fn is_valid_for(&self, host: &str) -> bool {
        self.names.cover(host)
    }

    /// Returns problems that an operator should fix.
    pub(super) fn warnings(&self, now: SystemTime) -> Vec<String> {
        let origin = &self.origin;
        let mut warnings = Vec::new();
        let Some(validity) = self.validity else { return warnings };
        let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64);
        let days = |seconds: i64| seconds / 86_400;
        if now > validity.not_after {
            warnings.push(format!(
                "{origin}: the certificate expired {} days ago and clients refuse it; renew it",
                days(now - validity.not_after)
            ));
        } else if now < validity.not_before {
            warnings.push(format!(
                "{origin}: the certificate is not valid before {} days from now; check the clock \
                 of this host, or use the certificate that it replaces until then",
                days(validity.not_before - now) + 1
            ));
        } else if now + (EXPIRY_WARNING.as_secs() as i64) > validity.not_after {
            warnings.push(format!(
                "{origin}: the certificate expires in {} days; renew it",
                days(validity.not_after - now)
            ));
        }
        warnings
    }
}

impl Origin {
    fn file(&self) -> Option<PathBuf> {
        match self {
            Self::File(path) => Some(path.clone()),
            Self::Memory => None,
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

fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|error| TlsError::of(path, Kind::Unreadable(error)))
}

/// Reads a private key, unless its file is open to others: key and certificate are to be replaced
/// then, since nobody can tell who has read it.
pub(super) fn read_key(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |error| TlsError::of(path, Kind::Unreadable(error));
    let mut file = fs::File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    let (mode, is_roots) = (metadata.mode() & 0o777, metadata.uid() == 0);
    let permitted = if is_roots { KEY_MODE_OF_ROOT } else { KEY_MODE };
    if mode & !permitted != 0 {
        return Err(TlsError::of(path, Kind::KeyMode { mode, is_roots }));
    }
    let mut text = Vec::new();
    file.read_to_end(&mut text).map_err(unreadable)?;
    Ok(text)
}

fn parse_chain(path: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let error = |kind| TlsError::of(path, kind);
    let chain = CertificateDer::pem_slice_iter(text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|cause| error(Kind::NotPem(cause)))?;
    if chain.is_empty() {
        return Err(error(Kind::NoCertificate {
            holds_key: PrivateKeyDer::from_pem_slice(text).is_ok(),
        }));
    }
    Ok(chain)
}

fn parse_key(path: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_slice(text).map_err(|cause| {
        let kind = match cause {
            pem::Error::NoItemsFound => Kind::NoKey {
                encrypted: text.windows(17).any(|window| window == b"ENCRYPTED PRIVATE"),
            },
            cause => Kind::NotPem(cause),
        };
        TlsError::of(path, kind)
    })
}

/// Checks that the leaf is valid for every configured host; clients would refuse it for others.
fn check_hosts(
    hosts: &[HostPattern],
    origin: &Origin,
    leaf: &CertificateDer<'_>,
) -> Result<(), TlsError> {
    let error = |kind| TlsError { file: origin.file(), kind };
    let certificate = webpki::EndEntityCert::try_from(leaf)
        .map_err(|cause| error(Kind::LeafRefused(cause.to_string())))?;
    for host in hosts {
        let probe = match host {
            HostPattern::Exact(name) => name.clone(),
            HostPattern::Wildcard(parent) => format!("{WILDCARD_PROBE}.{parent}"),
        };
        let covered = ServerName::try_from(probe)
            .is_ok_and(|name| certificate.verify_is_valid_for_subject_name(&name).is_ok());
        if !covered {
            let names = certificate.valid_dns_names().map(str::to_owned).collect();
            return Err(error(Kind::HostNotCovered { host: host.to_string(), names }));
        }
    }
    Ok(())
}

fn self_signed(
    hosts: &[HostPattern],
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), TlsError> {
    let names: Vec<String> = hosts.iter().map(HostPattern::to_string).collect();
    let made = rcgen::generate_simple_self_signed(names)
        .map_err(|error| TlsError { file: None, kind: Kind::SelfSigned(error.to_string()) })?;
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    Ok((vec![made.cert.der().clone()], key.into()))
}

/// Writes who may do what with a key, and the command that ends it.
fn write_key_mode(
    f: &mut fmt::Formatter<'_>,
    file: Option<&Path>,
    mode: u32,
    is_roots: bool,
) -> fmt::Result {
    let who = if mode & 0o007 != 0 { "every user of this host" } else { "its group" };
    let does = if mode & 0o022 != 0 { "change" } else { "read" };
    let path = file.unwrap_or(Path::new("FILE")).display();
    write!(
        f,
        "this private key has mode {mode:04o}, so {who} may {does} it; run `chmod 600 {path}`"
    )?;
    if is_roots {
        f.write_str(" (or 640, for a group of services)")?;
    }
    Ok(())
}

/// An error of the TLS settings: the file, what is wrong with it, and the way out.
#[derive(Debug)]
pub struct TlsError {
    file: Option<PathBuf>,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    None,
    Unreadable(io::Error),
    NotPem(pem::Error),
    NoCertificate {
        holds_key: bool,
    },
    NoKey {
        encrypted: bool,
    },
    /// The file of a key is open to others. Root owns it or another user.
    KeyMode {
        mode: u32,
        is_roots: bool,
    },
    KeyRefused(rustls::Error),
    KeyMismatch {
        chain: String,
    },
    LeafRefused(String),
    HostNotCovered {
        host: String,
        names: Vec<String>,
    },
    SelfSigned(String),
    KeyLog(io::Error),
    TokenKeyTooShort {
        len: usize,
    },
    Settings(rustls::Error),
}

impl TlsError {
    /// Returns the file that has to be corrected, if the error is in a file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    fn of(file: &Path, kind: Kind) -> Self {
        Self { file: Some(file.to_owned()), kind }
    }

    pub(super) fn none() -> Self {
        Self { file: None, kind: Kind::None }
    }

    pub(super) fn key_log(file: &Path, error: io::Error) -> Self {
        Self::of(file, Kind::KeyLog(error))
    }

    pub(super) fn token_key_too_short(file: &Path, len: usize) -> Self {
        Self::of(file, Kind::TokenKeyTooShort { len })
    }

    pub(super) fn settings(error: rustls::Error) -> Self {
        Self { file: None, kind: Kind::Settings(error) }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}: ", file.display())?;
        }
        match &self.kind {
            Kind::None => f.write_str("no certificate is configured; add [[certificates]]"),
            Kind::Unreadable(error) => write!(
                f,
                "cannot be read ({error}); check the path, and that the user of this process may \
                 read it"
            ),
            Kind::NotPem(error) => write!(
                f,
                "is damaged PEM ({error}); export it again, with complete BEGIN and END lines"
            ),
            Kind::NoCertificate { holds_key: true } => f.write_str(
                "holds a private key and no certificate; `cert` and `key` seem to be swapped",
            ),
            Kind::NoCertificate { holds_key: false } => f.write_str(
                "holds no CERTIFICATE block; give the chain in PEM form, the leaf first (from DER: \
                 openssl x509 -inform der -in FILE -out FILE.pem)",
            ),
            Kind::NoKey { encrypted: true } => f.write_str(
                "is protected by a passphrase, which ringway cannot ask for; decrypt it with \
                 openssl pkey -in FILE -out FILE.plain and protect the file by its mode (chmod \
                 600)",
            ),
            Kind::NoKey { encrypted: false } => f.write_str(
                "holds no PRIVATE KEY block; give the key in PEM form (PKCS#8, PKCS#1 or SEC1)",
            ),
            Kind::KeyMode { mode, is_roots } => write_key_mode(f, self.file(), *mode, *is_roots),
            Kind::KeyRefused(error) => write!(
                f,
                "this private key cannot be used ({error}); use ECDSA P-256 or P-384, Ed25519, or \
                 RSA with at least 2048 bits"
            ),
            Kind::KeyMismatch { chain } => write!(
                f,
                "this private key does not belong to the first certificate of {chain}; the leaf \
                 must stand first in the chain, and the key must be the one it was issued for"
            ),
            Kind::LeafRefused(error) => write!(
                f,
                "the first certificate cannot be used ({error}); it must be an X.509 v3 \
                 certificate for a server, and stand first in the chain"
            ),
            Kind::HostNotCovered { host, names } => write!(
                f,
                "the certificate is not valid for {host:?} of `hosts`; its names are {}; \
                 remove the host, or have the certificate issued for it",
                if names.is_empty() { "none".to_owned() } else { names.join(", ") }
            ),
            Kind::SelfSigned(error) => {
                write!(f, "no self-signed certificate could be generated for `hosts` ({error})")
            }
            Kind::KeyLog(error) => write!(
                f,
                "cannot be opened for the keys of connections ({error}); correct log.tls_keys, or \
                 set it to \"off\""
            ),
            Kind::TokenKeyTooShort { len } => write!(
                f,
                "holds {len} bytes, but a key of tokens needs 64 random ones; make them with \
                 `head -c 64 /dev/urandom > FILE`"
            ),
            Kind::Settings(error) => write!(f, "TLS could not be set up ({error})"),
        }
    }
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Unreadable(error) | Kind::KeyLog(error) => Some(error),
            Kind::NotPem(error) => Some(error),
            Kind::KeyRefused(error) | Kind::Settings(error) => Some(error),
            _ => None,
        }
    }
}
