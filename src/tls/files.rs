//! The files of a certificate: its chain, and its private key; and those about clients'
//! certificates: authorities, and revocation lists. All are PEM ([`super::pem`]); what else a file
//! may be by mistake is named, with the command that converts it.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::revocation_list::CertificateRevocationList;

use super::chain::Located;
use super::client_authorities::AuthorityFault;
use super::error::{Content, Form, Kind, TlsError};
use super::pem::{self, Block};
use crate::limits::{CERTIFICATE_FILE_LEN_MAX, REVOCATION_FILE_LEN_MAX};

/// Mode bits that the file of a private key may have.
const KEY_MODE: u32 = 0o700;
/// The same for a key of root, which may lend it to a group of services, as with Debian's ssl-cert.
/// Any other user's group may have members who are no services.
const KEY_MODE_OF_ROOT: u32 = 0o740;

/// Reads a chain: every certificate of the file, in its order. `key_path` may be the same file,
/// which then holds the key as well.
pub(super) fn read_chain(path: &Path, key_path: &Path) -> Result<Vec<Located>, TlsError> {
    let bytes = open(path).and_then(|file| read(path, file, CERTIFICATE_FILE_LEN_MAX))?;
    let blocks = pem_blocks(path, &bytes)?;
    let keys = blocks.iter().filter(|block| is_key(&block.label)).count();
    let certificates = blocks.iter().filter(|block| is_certificate(&block.label)).count();
    if certificates == 0 && keys > 0 {
        return Err(TlsError::of(path, Content::Swapped));
    }
    let mut chain = Vec::new();
    for block in blocks {
        if is_certificate(&block.label) {
            chain.push(Located { line: block.line, der: CertificateDer::from(block.der) });
        } else if is_key(&block.label) || block.label == "EC PARAMETERS" {
            // A key that ringway does not read from this file has nothing to lose in it.
            if !is_same_file(path, key_path) {
                let content = Content::KeyInChain { key: key_path.to_owned() };
                return Err(TlsError::at(path, block.line, content));
            }
        } else {
            let content = Content::StrangeBlock { label: block.label, wanted: "certificates" };
            return Err(TlsError::at(path, block.line, content));
        }
    }
    if chain.is_empty() {
        return Err(TlsError::of(path, Content::NoCertificate));
    }
    Ok(chain)
}

/// Reads the private key of a file, which may hold certificates as well.
pub(super) fn read_private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let blocks = pem_blocks(path, &read_secret(path)?)?;
    let has_certificate = blocks.iter().any(|block| is_certificate(&block.label));
    let mut key: Option<(usize, PrivateKeyDer<'static>)> = None;
    for block in blocks {
        let line = block.line;
        let at = |content: Content| Err(TlsError::at(path, line, content));
        if is_certificate(&block.label) || block.label == "EC PARAMETERS" {
            // The certificates of a file that holds both. A key has the parameters in it, too.
            continue;
        }
        if !is_key(&block.label) {
            return at(Content::StrangeBlock { label: block.label, wanted: "a private key" });
        }
        if let Some((first, _)) = key {
            return at(Content::SecondKey { first });
        }
        if block.is_encrypted || block.label == "ENCRYPTED PRIVATE KEY" {
            return at(Content::Passphrase);
        }
        key = Some((line, private_key(path, block)?));
    }
    match key {
        Some((_, key)) => Ok(key),
        None if has_certificate => Err(TlsError::of(path, Content::CertificateAsKey)),
        None => Err(TlsError::of(path, Content::NoKey)),
    }
}

/// Reads the authorities of clients: every certificate of the file.
pub(super) fn read_authorities(path: &Path) -> Result<Vec<Located>, TlsError> {
    let bytes = open(path).and_then(|file| read(path, file, CERTIFICATE_FILE_LEN_MAX))?;
    let mut authorities = Vec::new();
    for block in pem_blocks(path, &bytes)? {
        if !is_certificate(&block.label) {
            let wanted = "certificates of authorities";
            let content = Content::StrangeBlock { label: block.label, wanted };
            return Err(TlsError::at(path, block.line, content));
        }
        authorities.push(Located { line: block.line, der: CertificateDer::from(block.der) });
    }
    if authorities.is_empty() {
        return Err(TlsError::of(path, AuthorityFault::NoAuthority));
    }
    Ok(authorities)
}

/// Reads the revocation lists of a file, each with its line.
pub(super) fn read_revocation_lists(path: &Path) -> Result<Vec<(usize, Vec<u8>)>, TlsError> {
    let bytes = open(path).and_then(|file| read(path, file, REVOCATION_FILE_LEN_MAX))?;
    if CertificateRevocationList::from_der(&bytes).is_ok() {
        return Err(TlsError::of(path, Kind::NotPem(Form::DerList)));
    }
    let mut lists = Vec::new();
    for block in pem_blocks(path, &bytes)? {
        if block.label != "X509 CRL" {
            let content = Content::StrangeBlock { label: block.label, wanted: "revocation lists" };
            return Err(TlsError::at(path, block.line, content));
        }
        lists.push((block.line, block.der));
    }
    if lists.is_empty() {
        return Err(TlsError::of(path, AuthorityFault::NoList));
    }
    Ok(lists)
}

/// Reads a file in binary form.
pub(super) fn read_der(path: &Path) -> Result<Vec<u8>, TlsError> {
    open(path).and_then(|file| read(path, file, CERTIFICATE_FILE_LEN_MAX))
}

/// Reads a file with a secret, unless it is open to others: the secret is to be replaced then,
/// since nobody can tell who has read it.
pub(super) fn read_secret(path: &Path) -> Result<Vec<u8>, TlsError> {
    let file = open(path)?;
    let metadata = file.metadata().map_err(|error| unreadable(path, error))?;
    let (mode, is_roots) = (metadata.mode() & 0o777, metadata.uid() == 0);
    let permitted = if is_roots { KEY_MODE_OF_ROOT } else { KEY_MODE };
    if mode & !permitted != 0 {
        return Err(TlsError::of(path, Content::KeyMode { mode, is_roots }));
    }
    read(path, file, CERTIFICATE_FILE_LEN_MAX)
}

fn open(path: &Path) -> Result<File, TlsError> {
    File::open(path).map_err(|error| unreadable(path, error))
}

/// Reads a file, unless it is longer than `len_max`.
fn read(path: &Path, file: File, len_max: usize) -> Result<Vec<u8>, TlsError> {
    let mut bytes = Vec::new();
    let mut most = file.take(len_max as u64 + 1);
    most.read_to_end(&mut bytes).map_err(|error| unreadable(path, error))?;
    if bytes.len() > len_max {
        return Err(TlsError::of(path, Kind::TooLong { len_max }));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: io::Error) -> TlsError {
    TlsError::of(path, Kind::Unreadable(error))
}

fn is_certificate(label: &str) -> bool {
    // RFC 7468 5.1: older programs write the second one.
    label == "CERTIFICATE" || label == "X509 CERTIFICATE"
}

fn is_key(label: &str) -> bool {
    label == "PRIVATE KEY" || label.ends_with(" PRIVATE KEY")
}

fn private_key(path: &Path, block: Block) -> Result<PrivateKeyDer<'static>, TlsError> {
    let Block { label, line, der, .. } = block;
    match label.as_str() {
        "PRIVATE KEY" => Ok(PrivatePkcs8KeyDer::from(der).into()),
        "RSA PRIVATE KEY" => Ok(PrivateKeyDer::Pkcs1(der.into())),
        "EC PRIVATE KEY" => Ok(PrivateKeyDer::Sec1(der.into())),
        _ => {
            Err(TlsError::at(path, line, Content::StrangeBlock { label, wanted: "a private key" }))
        }
    }
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path| fs::metadata(path).map(|file| (file.dev(), file.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Reads the blocks of a file that should be PEM.
fn pem_blocks(path: &Path, bytes: &[u8]) -> Result<Vec<Block>, TlsError> {
    if let Some(form) = other_form(bytes) {
        return Err(TlsError::of(path, Kind::NotPem(form)));
    }
    // Explanations around the blocks may have any encoding.
    let text = String::from_utf8_lossy(bytes);
    pem::blocks(&text).map_err(|fault| TlsError::at(path, fault.line, Kind::Pem(fault)))
}

/// Returns the form of a file that is not PEM.
fn other_form(bytes: &[u8]) -> Option<Form> {
    match bytes {
        _ if bytes.trim_ascii().is_empty() => Some(Form::Empty),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'-', ..] | [b'-', 0, ..] => Some(Form::Utf16),
        [0xfe, 0xed, 0xfe, 0xed, ..] => Some(Form::JavaKeyStore),
        // A SEQUENCE of more than 127 bytes.
        [0x30, 0x80..=0x84, ..] => Some(form_of_der(bytes)),
        _ => None,
    }
}

/// Returns the form of DER by its first element: PKCS#12 and keys begin with a version, PKCS#7 with
/// the kind of its content, certificates with what is signed.
fn form_of_der(bytes: &[u8]) -> Form {
    let first =
        Any::from_der(bytes).ok().and_then(|(_, all)| Some(Any::from_der(all.data).ok()?.1));
    let Some(first) = first.filter(|first| first.class() == Class::Universal) else {
        return Form::Binary;
    };
    match (first.tag(), first.data) {
        (Tag::Integer, [3]) => Form::Pkcs12,
        (Tag::Integer, [0 | 1]) => Form::DerKey,
        (Tag::Oid, _) => Form::Pkcs7,
        // An encrypted key begins with the name of its cipher.
        (Tag::Sequence, [0x06, ..]) => Form::DerKey,
        (Tag::Sequence, _) => Form::DerCertificate,
        _ => Form::Binary,
    }
}
