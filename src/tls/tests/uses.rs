//! Uses, dates and policies of certificates that an authority rarely gets wrong.

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, date_time_ymd,
};

use super::*;

/// `certificatePolicies` (2.5.29.32) with 2.23.140.1.2.1, by which public authorities mark that
/// they have validated the domain.
const POLICIES: &[u64] = &[2, 5, 29, 32];
const DOMAIN_VALIDATED: [u8; 12] =
    [0x30, 0x0a, 0x30, 0x08, 0x06, 0x06, 0x67, 0x81, 0x0c, 0x01, 0x02, 0x01];

fn dated(params: &mut CertificateParams, days: i64) {
    params.not_before = date_time_ymd(2026, 1, 1);
    params.not_after = params.not_before + std::time::Duration::from_secs(days as u64 * 86_400);
}

/// Returns the warnings of a self-signed certificate as of 2026-02-01, or the refusal.
fn judged(change: impl FnOnce(&mut CertificateParams)) -> Result<Vec<String>, String> {
    let made = TestCertificate::with(&["example.com"], |params| {
        dated(params, 90);
        change(params);
    });
    judge_files(&made.chain_pem, &made.key_pem)
}

fn judge_files(chain: &str, key: &str) -> Result<Vec<String>, String> {
    let files = Files::new(chain, key);
    let certificates = [files.certificate(&[exact("example.com")])];
    let tls = ServerTls::load(&certificates, Tls::default()).map_err(|error| error.to_string())?;
    let now = date_time_ymd(2026, 2, 1).unix_timestamp() as u64;
    Ok(tls.warnings(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now)))
}

#[track_caller]
fn assert_warned(outcome: Result<Vec<String>, String>, words: &[&str]) {
    let warnings = outcome.expect("it is served");
    assert_eq!(warnings.len(), words.len(), "{warnings:#?}");
    for (warning, words) in warnings.iter().zip(words) {
        assert!(warning.contains(words), "{warning} lacks {words:?}");
    }
}

#[test]
fn a_leaf_for_other_uses_is_warned_or_refused() {
    use ExtendedKeyUsagePurpose as Extended;
    use KeyUsagePurpose as Usage;
    assert_warned(judged(|_| {}), &[]);
    let usual = |params: &mut CertificateParams| {
        params.key_usages = vec![Usage::DigitalSignature, Usage::KeyEncipherment];
        params.extended_key_usages = vec![Extended::ClientAuth, Extended::ServerAuth];
    };
    assert_warned(judged(usual), &[]);
    let no_signatures = judged(|params| params.key_usages = vec![Usage::KeyEncipherment]);
    assert_warned(
        no_signatures,
        &["the certificate has a key usage that does not permit signatures"],
    );
    let any = judged(|params| params.extended_key_usages = vec![Extended::Any]);
    assert_warned(any, &["has an extended key usage that does not name servers"]);
    let mail = judged(|params| params.extended_key_usages = vec![Extended::EmailProtection]);
    assert!(mail.unwrap_err().contains("have one issued for servers"));
}

#[test]
fn a_certificate_that_is_valid_for_long_is_warned() {
    for (days, is_public, words) in [
        (825, false, None),
        (826, false, Some("Apple's systems refuse certificates that are valid for more than 825")),
        (398, true, None),
        (399, true, Some("browsers refuse certificates of public authorities")),
    ] {
        let outcome = judged(|params| {
            dated(params, days);
            if is_public {
                let policies = DOMAIN_VALIDATED.to_vec();
                let extension = CustomExtension::from_oid_content(POLICIES, policies);
                params.custom_extensions.push(extension);
            }
        });
        assert_warned(outcome, &words.map_or(vec![], |words| vec![words]));
    }
}

/// Returns the judgement of a leaf below an authority with `change` made to its parameters.
fn below(change: impl FnOnce(&mut CertificateParams)) -> Result<Vec<String>, String> {
    let mut authority = CertificateParams::new([]).unwrap();
    authority.distinguished_name.push(DnType::CommonName, "the root");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = Issuer::new(authority.clone(), KeyPair::generate().unwrap());
    authority.distinguished_name.push(DnType::CommonName, "the authority");
    authority.use_authority_key_identifier_extension = true;
    dated(&mut authority, 365);
    change(&mut authority);
    let key = KeyPair::generate().unwrap();
    let made = authority.signed_by(&key, &root).unwrap().pem();
    authority.key_usages.clear();
    let issuer = Issuer::new(authority, key);
    let mut leaf = CertificateParams::new(["example.com".to_owned()]).unwrap();
    leaf.use_authority_key_identifier_extension = true;
    dated(&mut leaf, 90);
    let key = KeyPair::generate().unwrap();
    let chain = leaf.signed_by(&key, &issuer).unwrap().pem() + &made;
    judge_files(&chain, &key.serialize_pem())
}

#[test]
fn an_authority_is_judged_by_its_own_uses_and_dates() {
    assert_warned(below(|_| {}), &[]);
    let signs = |params: &mut CertificateParams| {
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    };
    assert_warned(below(signs), &[]);
    let only_crls = below(|params| params.key_usages = vec![KeyUsagePurpose::CrlSign]);
    let words = "\"the authority\" has a key usage that does not permit it to sign certificates";
    assert_warned(only_crls, &[words]);
    let words = "\"the authority\" expires in 9 days, on 2026-02-10; replace it by the authority's";
    assert_warned(below(|params| dated(params, 40)), &[words]);
    let no_authority = below(|params| params.is_ca = IsCa::ExplicitNoCa);
    assert!(no_authority.unwrap_err().contains("do not contain CA:TRUE"));
}
