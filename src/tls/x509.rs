//! One certificate as this program reads it: x509-parser's view, with the questions that are asked
//! of a server's chain (RFC 5280).

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;
use x509_parser::asn1_rs::{Any, FromDer as _};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{ExtendedKeyUsage, GeneralName, KeyUsage, ParsedExtension};
use x509_parser::oid_registry::{
    OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS, OID_PKIX_AUTHORITY_INFO_ACCESS,
    OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER, OID_X509_EXT_CERTIFICATE_POLICIES,
    OID_X509_EXT_SUBJECT_KEY_IDENTIFIER, Oid,
};
use x509_parser::public_key::PublicKey;
use x509_parser::time::ASN1Time;
use x509_parser::x509::X509Name;

use super::distinguished_name;

/// Arc of the policies by which publicly trusted authorities mark their certificates (CA/Browser
/// Forum, Baseline Requirements 7.1.6.1).
const PUBLIC_POLICY: &str = "2.23.140.1.2.";

/// Signature algorithms on MD2, MD5 or SHA-1: RFC 3279 2.2, and the older name of one in OIW.
const BROKEN_HASHES: &[&str] = &[
    "1.2.840.113549.1.1.2",
    "1.2.840.113549.1.1.4",
    "1.2.840.113549.1.1.5",
    "1.3.14.3.2.29",
    "1.2.840.10045.4.1",
    "1.2.840.10040.4.3",
];

const OID_ED25519: &str = "1.3.101.112";
const OID_P521: &str = "1.3.132.0.35";

/// A certificate, borrowed from its DER.
pub(super) struct Certificate<'a> {
    parsed: X509Certificate<'a>,
}

/// Why DER is not a certificate, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Unreadable {
    /// It is not the DER of a certificate, or is cut.
    NotX509,
    /// So many bytes follow the certificate.
    Trailing(usize),
    /// An extension is there twice, or cannot be read.
    Extension,
}

/// The outcome of checking a signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signature {
    Valid,
    Invalid,
    /// Its algorithm, or the size of the signer's key, is none that rustls checks.
    Unchecked,
}

/// A kind of key that some clients refuse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RareKey {
    Ed25519,
    P521,
}

impl<'a> Certificate<'a> {
    pub(super) fn read(der: &'a CertificateDer<'_>) -> Result<Self, Unreadable> {
        let (rest, parsed) = X509Certificate::from_der(der).map_err(|_| Unreadable::NotX509)?;
        if !rest.is_empty() {
            return Err(Unreadable::Trailing(rest.len()));
        }
        let is_damaged = |extension: &ParsedExtension<'_>| extension.error().is_some();
        let mut extensions = parsed.extensions().iter();
        if parsed.extensions_map().is_err()
            || extensions.any(|extension| is_damaged(extension.parsed_extension()))
        {
            return Err(Unreadable::Extension);
        }
        Ok(Self { parsed })
    }

    /// Returns the name of the subject for messages.
    pub(super) fn subject(&self) -> String {
        short_name(self.parsed.subject())
    }

    /// Returns the whole name of the subject, as text that no other name has.
    pub(super) fn full_subject(&self) -> String {
        distinguished_name::text(self.parsed.subject())
    }

    /// Returns the name of the issuer for messages.
    pub(super) fn issuer(&self) -> String {
        short_name(self.parsed.issuer())
    }

    pub(super) fn not_before(&self) -> ASN1Time {
        self.parsed.validity().not_before
    }

    pub(super) fn not_after(&self) -> ASN1Time {
        self.parsed.validity().not_after
    }

    /// Returns true if `issuer` has the name that this certificate gives for its issuer.
    pub(super) fn names_as_issuer(&self, issuer: &Certificate<'_>) -> bool {
        self.parsed.issuer().as_raw() == issuer.parsed.subject().as_raw()
    }

    /// Returns true if `name` is the name of this certificate's subject.
    pub(super) fn is_named(&self, name: &X509Name<'_>) -> bool {
        self.parsed.subject().as_raw() == name.as_raw()
    }

    pub(super) fn is_self_issued(&self) -> bool {
        self.names_as_issuer(self)
    }

    /// Returns true if this certificate names the key of `issuer`, false if it names another one;
    /// `None` if either leaves it out (RFC 5280 4.2.1.1, 4.2.1.2).
    pub(super) fn names_key_of(&self, issuer: &Certificate<'_>) -> Option<bool> {
        let named = self.extension(&OID_X509_EXT_AUTHORITY_KEY_IDENTIFIER)?;
        let own = issuer.extension(&OID_X509_EXT_SUBJECT_KEY_IDENTIFIER)?;
        match (named, own) {
            (
                ParsedExtension::AuthorityKeyIdentifier(named),
                ParsedExtension::SubjectKeyIdentifier(own),
            ) => Some(named.key_identifier.as_ref()? == own),
            _ => None,
        }
    }

    /// Checks the signature with the public key of `issuer`, as rustls does for a client.
    pub(super) fn check_signature(
        &self,
        issuer: &Certificate<'_>,
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Signature {
        let message = self.parsed.tbs_certificate.as_ref();
        let signature = &self.parsed.signature_value.data;
        issuer.check_signed(self.parsed.as_raw(), message, signature, algorithms)
    }

    /// Checks the signature of `whole`, a certificate or a revocation list in DER, with the public
    /// key of this certificate: that `signature` is one of `message`.
    pub(super) fn check_signed(
        &self,
        whole: &[u8],
        message: &[u8],
        signature: &[u8],
        algorithms: &WebPkiSupportedAlgorithms,
    ) -> Signature {
        let spki = self.parsed.public_key();
        let parts = algorithm_of_key(spki.raw).zip(algorithm_of_signature(whole));
        let Some((key_algorithm, signature_algorithm)) = parts else {
            return Signature::Unchecked;
        };
        let key = &spki.subject_public_key.data;
        let mut outcome = Signature::Unchecked;
        for algorithm in algorithms.all {
            if *algorithm.public_key_alg_id() == *key_algorithm
                && *algorithm.signature_alg_id() == *signature_algorithm
            {
                if algorithm.verify_signature(key, message, signature).is_ok() {
                    return Signature::Valid;
                }
                outcome = Signature::Invalid;
            }
        }
        if self.has_short_key().is_some() { Signature::Unchecked } else { outcome }
    }

    pub(super) fn has_broken_hash(&self) -> bool {
        let algorithm = self.parsed.signature_algorithm.oid().to_id_string();
        BROKEN_HASHES.contains(&algorithm.as_str())
    }

    /// Returns the bits of an RSA key that is shorter than clients accept.
    pub(super) fn has_short_key(&self) -> Option<usize> {
        match self.parsed.public_key().parsed() {
            Ok(PublicKey::RSA(key)) => Some(key.key_size()).filter(|bits| *bits < 2048),
            _ => None,
        }
    }

    pub(super) fn rare_key(&self) -> Option<RareKey> {
        let algorithm = &self.parsed.public_key().algorithm;
        if algorithm.oid().to_id_string() == OID_ED25519 {
            return Some(RareKey::Ed25519);
        }
        let curve = algorithm.parameters().and_then(|curve| curve.as_oid().ok());
        curve.filter(|curve| curve.to_id_string() == OID_P521).map(|_| RareKey::P521)
    }

    /// Returns the content of the serial number in DER.
    pub(super) fn serial(&self) -> &'a [u8] {
        self.parsed.raw_serial()
    }

    /// Returns the key's SubjectPublicKeyInfo in DER.
    pub(super) fn public_key(&self) -> &[u8] {
        self.parsed.public_key().raw
    }

    pub(super) fn is_authority(&self) -> bool {
        self.parsed.is_ca()
    }

    /// Returns the number of authorities that may follow below this one, if it is bounded.
    pub(super) fn path_len_max(&self) -> Option<usize> {
        let constraints = self.parsed.basic_constraints().ok()??;
        constraints.value.path_len_constraint.map(|len| len as usize)
    }

    pub(super) fn key_usage(&self) -> Option<&KeyUsage> {
        Some(self.parsed.key_usage().ok()??.value)
    }

    pub(super) fn extended_key_usage(&self) -> Option<&ExtendedKeyUsage<'_>> {
        Some(self.parsed.extended_key_usage().ok()??.value)
    }

    /// Returns the subject alternative names; none if the extension is missing.
    pub(super) fn names(&self) -> &[GeneralName<'a>] {
        match self.parsed.subject_alternative_name() {
            Ok(Some(names)) => &names.value.general_names,
            _ => &[],
        }
    }

    /// Returns the address of the issuer's certificate (RFC 5280 4.2.2.1), which usually only
    /// authorities with intermediates give, if it can be part of a command.
    pub(super) fn issuer_address(&self) -> Option<&'a str> {
        let Some(ParsedExtension::AuthorityInfoAccess(access)) =
            self.extension(&OID_PKIX_AUTHORITY_INFO_ACCESS)
        else {
            return None;
        };
        access.iter().find_map(|description| match description.access_location {
            GeneralName::URI(address)
                if description.access_method == OID_PKIX_ACCESS_DESCRIPTOR_CA_ISSUERS
                    && address.bytes().all(is_plain) =>
            {
                Some(address)
            }
            _ => None,
        })
    }

    /// Returns true if the certificate claims to be from a publicly trusted authority.
    pub(super) fn is_public(&self) -> bool {
        match self.extension(&OID_X509_EXT_CERTIFICATE_POLICIES) {
            Some(ParsedExtension::CertificatePolicies(policies)) => policies
                .iter()
                .any(|policy| policy.policy_id.to_id_string().starts_with(PUBLIC_POLICY)),
            _ => false,
        }
    }

    fn extension(&self, id: &Oid<'_>) -> Option<&ParsedExtension<'a>> {
        Some(self.parsed.get_extension_unique(id).ok()??.parsed_extension())
    }
}

/// Returns the common name, or all of the name if it has none.
pub(super) fn short_name(name: &X509Name<'_>) -> String {
    let common = name.iter_common_name().last().and_then(|name| name.as_str().ok());
    common.map_or_else(|| name.to_string(), str::to_owned)
}

/// Returns the content of the AlgorithmIdentifier in a SubjectPublicKeyInfo.
fn algorithm_of_key(spki: &[u8]) -> Option<&[u8]> {
    let (_, spki) = Any::from_der(spki).ok()?;
    Some(Any::from_der(spki.data).ok()?.1.data)
}

/// Returns the content of the AlgorithmIdentifier behind the signed part of a certificate or a
/// revocation list.
fn algorithm_of_signature(whole: &[u8]) -> Option<&[u8]> {
    let (_, whole) = Any::from_der(whole).ok()?;
    let (behind, _signed) = Any::from_der(whole.data).ok()?;
    Some(Any::from_der(behind).ok()?.1.data)
}

/// Returns true for characters of an address that mean nothing to a shell.
fn is_plain(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._:/%+".contains(&byte)
}
