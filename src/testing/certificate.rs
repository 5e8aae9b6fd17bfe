//! Certificates made for one test.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PKCS_RSA_SHA256,
    SignatureAlgorithm,
};
use rustls::pki_types::CertificateDer;

use crate::config::CertificateSource;

/// A self-signed certificate and its key.
#[derive(Debug, Clone)]
pub struct TestCertificate {
    /// The certificate itself, for a client to trust.
    pub der: CertificateDer<'static>,
    /// The certificate as PEM. A test may append others to it.
    pub chain_pem: String,
    /// The key as PEM.
    pub key_pem: String,
}

impl TestCertificate {
    /// Makes an ECDSA certificate for `names`.
    pub fn new(names: &[&str]) -> Self {
        Self::with(names, |_| {})
    }

    /// Makes an ECDSA certificate for `names`, with `change` made to its parameters.
    pub fn with(names: &[&str], change: impl FnOnce(&mut CertificateParams)) -> Self {
        Self::make(names, &PKCS_ECDSA_P256_SHA256, change)
    }

    /// Makes an Ed25519 certificate for `names`: all of its signatures have the same length.
    pub fn ed25519(names: &[&str]) -> Self {
        Self::make(names, &PKCS_ED25519, |_| {})
    }

    /// Makes an RSA certificate for `names`.
    pub fn rsa(names: &[&str]) -> Self {
        Self::make(names, &PKCS_RSA_SHA256, |_| {})
    }

    fn make(
        names: &[&str],
        algorithm: &'static SignatureAlgorithm,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Self {
        let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
        let mut params = CertificateParams::new(names).expect("names that a certificate may have");
        change(&mut params);
        let key = KeyPair::generate_for(algorithm).expect("the provider has this algorithm");
        let made = params.self_signed(&key).expect("the key can sign");
        Self { der: made.der().clone(), chain_pem: made.pem(), key_pem: key.serialize_pem() }
    }

    /// Writes `chain.pem`, and `key.pem` for the owner's eyes only, into `folder`.
    pub fn write(&self, folder: &Path) -> CertificateSource {
        let (cert, key) = (folder.join("chain.pem"), folder.join("key.pem"));
        std::fs::write(&cert, &self.chain_pem).expect("the test's folder is writable");
        std::fs::write(&key, &self.key_pem).expect("the test's folder is writable");
        let owner_only = std::fs::Permissions::from_mode(0o600);
        std::fs::set_permissions(&key, owner_only).expect("the key's file is the test's own");
        CertificateSource::Files { cert, key, ocsp: None }
    }
}
