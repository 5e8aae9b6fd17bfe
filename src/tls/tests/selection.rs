//! Several certificates for one name, and the one that each kind of client gets.

use rustls::SignatureScheme;
use rustls::crypto::WebPkiSupportedAlgorithms;

use super::handshake::shake;
use super::*;
use crate::testing::ClientTls;

/// A client that trusts `certificate`, and verifies only the signatures that are `verified`.
fn client(
    certificate: &TestCertificate,
    verified: fn(SignatureScheme) -> bool,
) -> Arc<rustls::ClientConfig> {
    let mut client = ClientTls::trusting(certificate.der.clone());
    let all = client.provider.signature_verification_algorithms;
    let mapping = all.mapping.iter().filter(|(scheme, _)| verified(*scheme)).copied();
    client.provider.signature_verification_algorithms = WebPkiSupportedAlgorithms {
        all: all.all,
        mapping: Box::leak(mapping.collect::<Vec<_>>().into_boxed_slice()),
    };
    Arc::new(client.tls13())
}

fn is_rsa(scheme: SignatureScheme) -> bool {
    format!("{scheme:?}").starts_with("RSA")
}

fn is_ecdsa(scheme: SignatureScheme) -> bool {
    format!("{scheme:?}").starts_with("ECDSA")
}

struct Made {
    made: TestCertificate,
    files: Files,
}

fn made(made: TestCertificate) -> Made {
    let files = Files::new(&made.chain_pem, &made.key_pem);
    Made { made, files }
}

#[test]
fn clients_get_the_certificate_of_a_name_that_they_verify() {
    let ecdsa = made(TestCertificate::new(&["a.test", "b.test"]));
    let rsa = made(TestCertificate::rsa(&["a.test", "b.test"]));
    let ed25519 = made(TestCertificate::ed25519(&["a.test"]));
    let a = [exact("a.test")];
    // The order of the file does not matter: a client that verifies all gets the cheapest.
    let mut certificates = vec![
        rsa.files.certificate(&[exact("b.test"), exact("a.test")]),
        ed25519.files.certificate(&a),
        ecdsa.files.certificate(&a),
    ];
    for _ in 0..3 {
        certificates.rotate_left(1);
        let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
        type Verified = fn(SignatureScheme) -> bool;
        let cases: [(&Made, Verified); 4] = [
            (&ecdsa, |_| true),
            (&ecdsa, is_ecdsa),
            (&rsa, is_rsa),
            (&ed25519, |scheme| scheme == SignatureScheme::ED25519),
        ];
        for (expected, verified) in cases {
            let peer = shake(tls.config(), client(&expected.made, verified), "a.test").unwrap();
            assert_eq!(peer.peer_certificates().unwrap()[0], expected.made.der);
        }
        // Only RSA is there for this name.
        assert!(shake(tls.config(), client(&rsa.made, |_| true), "b.test").is_ok());
        let error = shake(tls.config(), client(&rsa.made, is_ecdsa), "b.test").map(drop);
        let rustls::Error::PeerIncompatible(why) = error.unwrap_err() else { panic!() };
        assert_eq!(why, rustls::PeerIncompatible::NoSignatureSchemesInCommon);
    }
}

#[test]
fn clients_of_unknown_names_get_the_first_certificate_in_the_kind_that_they_verify() {
    let ecdsa = made(TestCertificate::new(&["first.test"]));
    let rsa = made(TestCertificate::rsa(&["first.test"]));
    let first = [exact("first.test")];
    let tls = ServerTls::load(
        &[
            rsa.files.certificate(&first),
            in_memory(&[exact("other.test")]),
            ecdsa.files.certificate(&first),
        ],
        Tls::default(),
    )
    .unwrap();
    assert_eq!(tls.chain(Some("stranger.test")), std::slice::from_ref(&ecdsa.made.der));
    assert_eq!(tls.chain(None), std::slice::from_ref(&ecdsa.made.der));
    // The client does not accept the name, but it gets what it can verify.
    let error = shake(tls.config(), client(&rsa.made, is_rsa), "stranger.test").map(drop);
    let error = error.unwrap_err();
    assert!(matches!(error, rustls::Error::InvalidCertificate(_)), "{error:?}");
}

/// Which of them a client got is not known when its request comes.
#[test]
fn all_certificates_of_a_name_have_to_cover_a_request() {
    let ecdsa = made(TestCertificate::new(&["a.test", "b.test"]));
    let rsa = made(TestCertificate::rsa(&["a.test", "c.test"]));
    let a = [exact("a.test")];
    let certificates = [ecdsa.files.certificate(&a), rsa.files.certificate(&a)];
    let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
    assert!(tls.covers(Some("a.test"), "a.test"));
    assert!(tls.misdirects(Some("a.test"), "b.test") && tls.misdirects(Some("a.test"), "c.test"));
    let alone = ServerTls::load(&certificates[..1], Tls::default()).unwrap();
    assert!(alone.covers(Some("a.test"), "b.test"));
}

#[test]
fn a_second_certificate_with_the_same_kind_of_key_is_refused() {
    let one = made(TestCertificate::new(&["a.test", "*.a.test", "192.0.2.1", "192.0.2.2"]));
    let two = made(TestCertificate::new(&["a.test", "*.a.test", "192.0.2.1", "192.0.2.2"]));
    let rsa = made(TestCertificate::rsa(&["192.0.2.1", "192.0.2.2"]));
    let at = |made: &Made, hosts: &[HostPattern], addresses: &[&str]| Certificate {
        addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
        ..made.files.certificate(hosts)
    };
    let loaded = |certificates: [Certificate; 2]| {
        ServerTls::load(&certificates, Tls::default()).map(drop).map_err(|error| {
            assert!(error.file().is_some());
            error.to_string()
        })
    };
    for host in [exact("a.test"), wildcard("a.test")] {
        let hosts = [host.clone(), host.clone()];
        assert_eq!(loaded([at(&one, &hosts, &[]), at(&rsa, &[], &["192.0.2.1"])]), Ok(()));
        let error = loaded([at(&one, &hosts, &[]), at(&two, &hosts, &[])]).unwrap_err();
        let (first, second) = (one.files.cert.display(), two.files.cert.display());
        let start = format!("{second}: serves \"{host}\" with an ECDSA key, as {first} does; ");
        assert!(error.starts_with(&start), "{error}");
    }
    let address = ["192.0.2.1"];
    let error = loaded([at(&one, &[], &address), at(&two, &[], &address)]).unwrap_err();
    assert!(error.contains("serves \"192.0.2.1\" with an ECDSA key, as "), "{error}");
    assert_eq!(loaded([at(&one, &[], &address), at(&rsa, &[], &address)]), Ok(()));
    let error = loaded([at(&one, &[], &address), at(&rsa, &[], &["192.0.2.2"])]).unwrap_err();
    assert!(
        error.contains("serves 192.0.2.2, but ") && error.contains("other addresses"),
        "{error}"
    );
}

#[test]
fn one_dot_at_the_end_of_a_server_name_is_ignored() {
    let certificates = [in_memory(&[exact("first.test")]), in_memory(&[wildcard("example.com")])];
    let refuse = Tls { unknown_server_name: UnknownServerName::Refuse, ..Tls::default() };
    let tls = ServerTls::load(&certificates, refuse).unwrap();
    for name in ["first.test", "www.example.com"] {
        let dotted = format!("{name}.");
        assert_eq!(tls.chain(Some(&dotted)), tls.chain(Some(name)));
        assert!(!tls.chain(Some(name)).is_empty());
        assert!(!tls.misdirects(Some(&dotted), name));
    }
    for name in ["first.test..", ".", "", ".example.com."] {
        assert!(tls.chain(Some(name)).is_empty(), "{name}");
    }
    let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
    assert!(!tls.misdirects(Some("stranger.test."), "stranger.test"));
}
