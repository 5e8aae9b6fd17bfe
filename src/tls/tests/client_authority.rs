//! An authority that issues clients' certificates, and its revocation lists.

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SerialNumber, date_time_ymd,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// An authority of clients.
#[derive(Debug)]
pub(super) struct ClientAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A client's certificate and its key.
#[derive(Debug)]
pub(super) struct ClientIdentity {
    pub(super) der: CertificateDer<'static>,
    pub(super) key: PrivateKeyDer<'static>,
}

impl Clone for ClientIdentity {
    fn clone(&self) -> Self {
        Self { der: self.der.clone(), key: self.key.clone_key() }
    }
}

impl ClientAuthority {
    /// Makes an authority with this common name.
    pub(super) fn new(name: &str) -> Self {
        Self::with(name, |_| {})
    }

    /// Makes an authority, with `change` made to its parameters.
    pub(super) fn with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let (params, key) = authority(name, change);
        let issuer = CertifiedIssuer::self_signed(params, key).expect("the key can sign");
        Self { issuer }
    }

    /// Makes an authority that this one has issued.
    pub(super) fn below(&self, name: &str) -> Self {
        let (params, key) = authority(name, |_| {});
        let issuer = CertifiedIssuer::signed_by(params, key, &self.issuer);
        Self { issuer: issuer.expect("the key can sign") }
    }

    /// Returns the authority with another certificate for the same name and key.
    pub(super) fn renewed(&self, name: &str) -> Self {
        let (params, _) = authority(name, |_| {});
        let key = KeyPair::try_from(self.issuer.key().serialize_der()).expect("PKCS#8");
        Self { issuer: CertifiedIssuer::self_signed(params, key).expect("the key can sign") }
    }

    pub(super) fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub(super) fn der(&self) -> CertificateDer<'static> {
        self.issuer.der().clone()
    }

    /// Issues a certificate for clients with this serial number.
    pub(super) fn issue(&self, serial: u64) -> ClientIdentity {
        self.issue_with(serial, |_| {})
    }

    /// Issues a certificate with this serial number, with `change` made to its parameters.
    pub(super) fn issue_with(
        &self,
        serial: u64,
        change: impl FnOnce(&mut CertificateParams),
    ) -> ClientIdentity {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Clients, Inc.");
        params.distinguished_name.push(DnType::CommonName, "client");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(SerialNumber::from(serial));
        params.use_authority_key_identifier_extension = true;
        change(&mut params);
        let key = KeyPair::generate().expect("random bytes");
        let made = params.signed_by(&key, &self.issuer).expect("the key can sign");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("PKCS#8");
        ClientIdentity { der: made.der().clone(), key }
    }

    /// Issues a revocation list with these serial numbers, valid until the end of `last_year`.
    pub(super) fn revoke(&self, serials: &[u64], last_year: i32) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            next_update: date_time_ymd(last_year, 12, 31),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("the key can sign");
        list.pem().expect("a list as PEM")
    }
}

fn authority(
    name: &str,
    change: impl FnOnce(&mut CertificateParams),
) -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    change(&mut params);
    (params, KeyPair::generate().expect("random bytes"))
}
