//! Errors of the TLS settings, for operators: the file, its line, what is wrong, and the way out.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::chain::ChainFault;
use super::client_authorities::AuthorityFault;
use super::ocsp::StapleFault;
use super::pem::PemFault;
use super::tickets::TicketKeyFault;

/// An error of the TLS settings.
#[derive(Debug)]
pub struct TlsError {
    file: Option<PathBuf>,
    line: Option<usize>,
    kind: Kind,
}

/// The kind of an error. Those in a file name it in front.
#[derive(Debug)]
pub(super) enum Kind {
    None,
    Unreadable(io::Error),
    TooLong { len_max: usize },
    NotPem(Form),
    Pem(PemFault),
    Content(Content),
    Chain(ChainFault),
    Authority(AuthorityFault),
    Staple(StapleFault),
    SelfSigned(String),
    KeyLog(io::Error),
    TokenKeyTooShort { len: usize },
    TicketKey(TicketKeyFault),
    Settings(rustls::Error),
}

/// An error in the blocks of a PEM file.
#[derive(Debug)]
pub(super) enum Content {
    /// The chain's file holds a private key and no certificate.
    Swapped,
    /// The chain's file holds a private key as well, and is not the file of the key.
    KeyInChain {
        key: PathBuf,
    },
    StrangeBlock {
        label: String,
        wanted: &'static str,
    },
    NoCertificate,
    Passphrase,
    SecondKey {
        first: usize,
    },
    CertificateAsKey,
    NoKey,
    /// The file of a key is open to others. Root owns it or another user.
    KeyMode {
        mode: u32,
        is_roots: bool,
    },
    KeyRefused(rustls::Error),
    /// The key belongs to none of the chain's certificates, or to one that is not the first.
    KeyMismatch {
        chain: String,
        line_of_other: Option<usize>,
    },
    LeafRefused(rustls::Error),
    HostNotCovered {
        host: String,
        names: Vec<String>,
        subject: String,
    },
    /// Two certificates for one host have the same kind of key.
    SecondOfKind {
        host: String,
        other: String,
        kind: &'static str,
    },
    /// Two certificates have addresses, and not the same ones.
    OtherAddresses {
        address: IpAddr,
        other: String,
    },
}

impl From<AuthorityFault> for Kind {
    fn from(fault: AuthorityFault) -> Self {
        Self::Authority(fault)
    }
}

impl From<Content> for Kind {
    fn from(content: Content) -> Self {
        Self::Content(content)
    }
}

/// The form of a file that is not PEM.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Empty,
    Utf16,
    DerCertificate,
    DerKey,
    Pkcs7,
    Pkcs12,
    JavaKeyStore,
    DerList,
    Binary,
}

impl TlsError {
    /// Returns the file that has to be corrected, if the error is in a file.
    pub fn file(&self) -> Option<&Path> {
        self.file.as_deref()
    }

    /// An error in a file as a whole.
    pub(super) fn of(file: &Path, kind: impl Into<Kind>) -> Self {
        Self { file: Some(file.to_owned()), line: None, kind: kind.into() }
    }

    /// An error in a line of a file.
    pub(super) fn at(file: &Path, line: usize, kind: impl Into<Kind>) -> Self {
        Self { file: Some(file.to_owned()), line: Some(line), kind: kind.into() }
    }

    /// An error that is in no file.
    pub(super) fn nowhere(kind: Kind) -> Self {
        Self { file: None, line: None, kind }
    }
}

impl fmt::Display for TlsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(line) = self.line {
                write!(f, "{line}:")?;
            }
            f.write_str(" ")?;
        }
        let file = self.file.as_deref().unwrap_or(Path::new("FILE")).display();
        match &self.kind {
            Kind::None => f.write_str("no certificate is configured; add [[certificates]]"),
            Kind::Unreadable(error) => write!(
                f,
                "cannot be read ({error}); check the path, and that the user of this process may \
                 read it"
            ),
            Kind::TooLong { len_max } => write!(
                f,
                "has more than {len_max} bytes, which no file of its kind needs; correct the path"
            ),
            Kind::NotPem(form) => write_form(f, *form, &file),
            Kind::Pem(fault) => fault.fmt(f),
            Kind::Chain(fault) => fault.fmt(f),
            Kind::Authority(fault) => fault.fmt(f),
            Kind::Staple(fault) => fault.fmt(f),
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
            Kind::TicketKey(fault) => fault.fmt(f),
            Kind::Settings(error) => write!(f, "TLS could not be set up ({error})"),
            Kind::Content(content) => write_content(f, content, &file),
        }
    }
}

/// Writes what is wrong with the content of a PEM file.
fn write_content(
    f: &mut fmt::Formatter<'_>,
    content: &Content,
    file: &impl fmt::Display,
) -> fmt::Result {
    match content {
        Content::Swapped => f.write_str(
            "holds a private key and no certificate; `cert` and `key` seem to be swapped",
        ),
        Content::KeyInChain { key } => write!(
            f,
            "a private key begins here, but `key` is {}, and a file of certificates is not \
             protected like a key; move it to a file of its own, or set `key` to this file",
            key.display()
        ),
        Content::StrangeBlock { label, wanted } => write_strange(f, label, wanted, file),
        Content::NoCertificate => f.write_str(
            "holds no block \"-----BEGIN CERTIFICATE-----\"; write the chain in PEM form, the \
             certificate of the server first",
        ),
        Content::Passphrase => write!(
            f,
            "this private key is protected by a passphrase, which ringway cannot ask for; remove \
             it with `openssl pkey -in {file} -out {file}.plain`, and protect that file by its \
             mode (`chmod 600`)"
        ),
        Content::SecondKey { first } => write!(
            f,
            "a second private key begins here, after the one of line {first}; delete the one that \
             is not used"
        ),
        Content::CertificateAsKey => f.write_str(
            "holds a certificate and no private key; `cert` and `key` seem to be swapped, or the \
             key is in another file",
        ),
        Content::NoKey => f.write_str(
            "holds no block \"-----BEGIN PRIVATE KEY-----\"; write the key in PEM form (PKCS#8, \
             PKCS#1 or SEC1)",
        ),
        Content::KeyMode { mode, is_roots } => write_key_mode(f, file, *mode, *is_roots),
        Content::KeyRefused(error) => write!(
            f,
            "this private key cannot be used ({error}); use ECDSA P-256 or P-384, Ed25519, or RSA \
             with 2048 to 8192 bits"
        ),
        Content::KeyMismatch { chain, line_of_other: Some(line) } => write!(
            f,
            "this private key belongs to the certificate in line {line} of {chain}, but that is \
             not the first one there; put it in front of the others"
        ),
        Content::KeyMismatch { chain, line_of_other: None } => write!(
            f,
            "this private key does not belong to any certificate of {chain}; use the key that \
             the certificate was requested with (both print the same: `openssl pkey -in {file} \
             -pubout` and `openssl x509 -in {chain} -noout -pubkey`)"
        ),
        Content::LeafRefused(_) => f.write_str(
            "the first certificate cannot be used; it must be an X.509 v3 certificate for a server",
        ),
        Content::HostNotCovered { host, names, subject } => {
            write_not_covered(f, host, names, subject)
        }
        Content::SecondOfKind { host, other, kind } => write!(
            f,
            "serves {host:?} with an {kind} key, as {other} does; a name may have several \
             certificates only if their keys are of different kinds (ECDSA, RSA, Ed25519): remove \
             the name from one of them"
        ),
        Content::OtherAddresses { address, other } => write!(
            f,
            "serves {address}, but {other} serves other addresses; clients that connect to an \
             address send no name by which to choose, so use one certificate for all addresses"
        ),
    }
}

/// Writes which names a certificate has instead of `host`.
fn write_not_covered(
    f: &mut fmt::Formatter<'_>,
    host: &str,
    names: &[String],
    subject: &str,
) -> fmt::Result {
    write!(f, "the certificate is not valid for {host:?} of `hosts`; ")?;
    match names {
        [] => write!(
            f,
            "it has no subject alternative names, and clients do not look at its common name, \
             {subject:?}; have it issued with them"
        ),
        names => write!(
            f,
            "its names are {}; remove the host, or have the certificate issued for it",
            names.join(", ")
        ),
    }
}

/// Writes what a file is instead of PEM, and the command that makes PEM of it.
fn write_form(f: &mut fmt::Formatter<'_>, form: Form, file: &impl fmt::Display) -> fmt::Result {
    match form {
        Form::Empty => f.write_str("is empty; write the certificates or the key again"),
        Form::Utf16 => write!(
            f,
            "is text in UTF-16, as some programs of Windows write it; convert it with `iconv -f \
             UTF-16 -t UTF-8 {file} > {file}.pem`"
        ),
        Form::DerCertificate => write!(
            f,
            "is a certificate in binary form (DER); convert it with `openssl x509 -inform der -in \
             {file} -out {file}.pem`"
        ),
        Form::DerKey => write!(
            f,
            "is a private key in binary form (DER); convert it with `openssl pkey -inform der -in \
             {file} -out {file}.pem`"
        ),
        Form::Pkcs7 => write!(
            f,
            "is a set of certificates in binary form (PKCS#7); convert it with `openssl pkcs7 \
             -inform der -in {file} -print_certs -out {file}.pem`"
        ),
        Form::Pkcs12 => write!(
            f,
            "is a PKCS#12 file (.p12, .pfx) with certificates and key; convert it with `openssl \
             pkcs12 -in {file} -nokeys -out {file}.pem` and `openssl pkcs12 -in {file} -nocerts \
             -nodes -out {file}.key`"
        ),
        Form::JavaKeyStore => write!(
            f,
            "is a key store of Java; convert it with `keytool -importkeystore -srckeystore {file} \
             -destkeystore {file}.p12 -deststoretype pkcs12`, and that with `openssl pkcs12`"
        ),
        Form::DerList => write!(
            f,
            "is a revocation list in binary form (DER); convert it with `openssl crl -inform der \
             -in {file} -out {file}.pem`"
        ),
        Form::Binary => f.write_str(
            "is binary, but neither a certificate nor a key that is known here; write it in PEM \
             form",
        ),
    }
}

/// Writes what a block is that is neither a certificate nor a private key.
fn write_strange(
    f: &mut fmt::Formatter<'_>,
    label: &str,
    wanted: &str,
    file: &impl fmt::Display,
) -> fmt::Result {
    write!(f, "the block {label:?} that begins here ")?;
    match label {
        "TRUSTED CERTIFICATE" => write!(
            f,
            "holds settings of OpenSSL besides a certificate; convert each one of the file by \
             itself, as the first one with `openssl x509 -in {file} -out {file}.pem`"
        ),
        "PKCS7" | "CMS" => write!(
            f,
            "is a set of certificates; convert it with `openssl pkcs7 -in {file} -print_certs -out \
             {file}.pem`"
        ),
        "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST" => f.write_str(
            "is a request for a certificate, not the certificate; use the file that the authority \
             sent back",
        ),
        "OPENSSH PRIVATE KEY" => write!(
            f,
            "is a key in the form of OpenSSH; convert a copy of it with `ssh-keygen -p -m pem -f \
             {file}`"
        ),
        "PUBLIC KEY" => f.write_str("is a public key; give the private one"),
        _ => write!(
            f,
            "is not used, since this file is for {wanted}; delete it up to its END line, or \
             correct the path"
        ),
    }
}

/// Writes who may do what with a key, and the command that ends it.
fn write_key_mode(
    f: &mut fmt::Formatter<'_>,
    file: &impl fmt::Display,
    mode: u32,
    is_roots: bool,
) -> fmt::Result {
    let who = if mode & 0o007 != 0 { "every user of this host" } else { "its group" };
    let does = if mode & 0o022 != 0 { "change" } else { "read" };
    write!(
        f,
        "this private key has mode {mode:04o}, so {who} may {does} it; run `chmod 600 {file}`"
    )?;
    if is_roots {
        f.write_str(" (or 640, for a group of services)")?;
    }
    Ok(())
}

impl std::error::Error for TlsError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            Kind::Unreadable(error) | Kind::KeyLog(error) => Some(error),
            Kind::Settings(error)
            | Kind::Content(Content::KeyRefused(error) | Content::LeafRefused(error)) => {
                Some(error)
            }
            _ => None,
        }
    }
}
