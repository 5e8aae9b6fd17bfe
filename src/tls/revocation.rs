//! A list of revoked certificates (RFC 5280 5).

use std::fmt;
use std::sync::Arc;

use rustls::RootCertStore;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::revocation_list::CertificateRevocationList;
use x509_parser::time::ASN1Time;

use super::x509::{Certificate, Signature, short_name};

/// A revocation list.
#[derive(Debug)]
pub(super) struct RevocationList {
    /// The name of its issuer for messages.
    pub(super) issuer: String,
    /// Indices of the authorities whose key signed it: none, or several certificates of one.
    pub(super) signers: Vec<usize>,
    pub(super) this_update: ASN1Time,
    pub(super) next_update: ASN1Time,
    pub(super) revoked_count: usize,
}

/// Why DER is no list that can be used, in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ListFault {
    /// It is not the DER of a list, or is cut.
    Unreadable,
    /// It does not say until when it is valid.
    Endless,
    /// It names an authority as its issuer whose key did not sign it.
    Forged { issuer: String },
    /// rustls refuses it: a delta, an indirect list, or one with extensions that it does not know.
    Unsupported(String),
}

impl RevocationList {
    /// Reads a list. Its signature is checked if its issuer is among `authorities`, which are also
    /// in `roots`.
    pub(super) fn read(
        der: &CertificateRevocationListDer<'static>,
        authorities: &[Certificate<'_>],
        roots: &Arc<RootCertStore>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Self, ListFault> {
        let (rest, list) =
            CertificateRevocationList::from_der(der).map_err(|_| ListFault::Unreadable)?;
        if !rest.is_empty() {
            return Err(ListFault::Unreadable);
        }
        let next_update = list.next_update().ok_or(ListFault::Endless)?;
        let issuer = short_name(list.issuer());
        let named: Vec<usize> = (0..authorities.len())
            .filter(|&index| authorities[index].is_named(list.issuer()))
            .collect();
        let (signed, signature) = (list.tbs_cert_list.as_ref(), &list.signature_value.data);
        let algorithms = &provider.signature_verification_algorithms;
        let has_signed = |&index: &usize| {
            let checked = authorities[index].check_signed(der, signed, signature, algorithms);
            checked == Signature::Valid
        };
        let signers: Vec<usize> = named.iter().copied().filter(has_signed).collect();
        if signers.is_empty() && !named.is_empty() {
            return Err(ListFault::Forged { issuer });
        }
        let (this_update, revoked_count) =
            (list.last_update(), list.iter_revoked_certificates().count());
        // rustls tells what it cannot use only when a verifier is made.
        let builder =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(roots), Arc::clone(provider));
        if let Err(VerifierBuilderError::InvalidCrl(error)) =
            builder.with_crls([der.clone()]).build()
        {
            return Err(ListFault::Unsupported(format!("{error:?}")));
        }
        Ok(Self { issuer, signers, this_update, next_update, revoked_count })
    }
}

impl fmt::Display for ListFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable => {
                f.write_str("this block is not a whole revocation list; fetch it again")
            }
            Self::Endless => f.write_str(
                "this revocation list does not say until when it is valid (nextUpdate), which \
                 RFC 5280 demands; have it issued with a date",
            ),
            Self::Forged { issuer } => write!(
                f,
                "this revocation list names {issuer:?} as its issuer, but that authority of \
                 client_auth.ca did not sign it; fetch it again, or replace the authority's \
                 certificate"
            ),
            Self::Unsupported(error) => write!(
                f,
                "this revocation list cannot be used ({error}); it must be a full list of version \
                 2 by the authority itself, no delta and no indirect one"
            ),
        }
    }
}
