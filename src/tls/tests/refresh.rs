//! Certificates that follow their files.

use super::*;

/// Writes another certificate into the files of an earlier one.
fn renew(files: &Files, made: &TestCertificate) {
    std::fs::write(&files.cert, &made.chain_pem).unwrap();
    std::fs::write(&files.key, &made.key_pem).unwrap();
}

fn made(names: &[&str]) -> (TestCertificate, Files) {
    let made = TestCertificate::new(names);
    let files = Files::new(&made.chain_pem, &made.key_pem);
    (made, files)
}

#[test]
fn each_certificate_is_renewed_by_itself() {
    let ((a, files_a), (b, files_b)) = (made(&["a.test"]), made(&["b.test"]));
    let certificates =
        [files_a.certificate(&[exact("a.test")]), files_b.certificate(&[exact("b.test")])];
    let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
    let chains = |tls: &ServerTls| [tls.chain(Some("a.test")), tls.chain(Some("b.test"))];
    let refreshed = tls.refresh(&certificates, &Tls::default());
    assert!(refreshed.renewed.is_empty() && refreshed.refused.is_empty());
    assert_eq!(chains(&refreshed.tls), [[a.der.clone()], [b.der.clone()]]);

    let new_b = TestCertificate::new(&["b.test"]);
    renew(&files_b, &new_b);
    let ticket = tls.config().ticketer.encrypt(b"session").unwrap();
    let refreshed = tls.refresh(&certificates, &Tls::default());
    assert!(refreshed.refused.is_empty());
    assert!(refreshed.renewed[0].contains(&files_b.cert.display().to_string()));
    assert_eq!(chains(&refreshed.tls), [[a.der.clone()], [new_b.der.clone()]]);
    // Connections with the earlier settings keep them, and tickets are good in both.
    assert_eq!(chains(&tls), [[a.der.clone()], [b.der.clone()]]);
    assert_eq!(refreshed.tls.config().ticketer.decrypt(&ticket).unwrap(), b"session");

    // One is damaged, the other one is renewed in the same moment.
    let new_a = TestCertificate::new(&["a.test"]);
    renew(&files_a, &new_a);
    std::fs::write(&files_b.cert, "hello").unwrap();
    let refreshed = refreshed.tls.refresh(&certificates, &Tls::default());
    assert_eq!((refreshed.renewed.len(), refreshed.refused.len()), (1, 1));
    let refusal = &refreshed.refused[0];
    assert_eq!(refusal.certificate, files_b.cert.display().to_string());
    assert!(refusal.error.to_string().contains("no block \"-----BEGIN CERTIFICATE"));
    assert_eq!(chains(&refreshed.tls), [[new_a.der.clone()], [new_b.der.clone()]]);
    // What is repaired is taken.
    renew(&files_b, &b);
    let refreshed = refreshed.tls.refresh(&certificates, &Tls::default());
    assert!(refreshed.refused.is_empty());
    assert_eq!(chains(&refreshed.tls), [[new_a.der.clone()], [b.der.clone()]]);
}

#[test]
fn a_new_certificate_has_to_serve_what_the_one_before_did() {
    let (a, files) = made(&["a.test"]);
    let certificates = [files.certificate(&[exact("a.test")])];
    let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
    let other = TestCertificate::new(&["b.test"]);
    let refuse = |words: &str| {
        let refreshed = tls.refresh(&certificates, &Tls::default());
        assert_eq!(refreshed.tls.chain(None), std::slice::from_ref(&a.der));
        let message = refreshed.refused[0].error.to_string();
        assert!(refreshed.renewed.is_empty() && message.contains(words), "{message}");
    };
    renew(&files, &other);
    refuse("not valid for \"a.test\"");
    // The half of a pair.
    std::fs::write(&files.cert, &TestCertificate::new(&["a.test"]).chain_pem).unwrap();
    refuse("does not belong");
    std::fs::remove_file(&files.cert).unwrap();
    refuse("cannot be read");
}

#[test]
fn a_new_kind_of_key_must_not_be_that_of_another_certificate() {
    let (ecdsa, _files) = made(&["a.test"]);
    let rsa = TestCertificate::rsa(&["a.test"]);
    let files = [&ecdsa, &rsa].map(|made| Files::new(&made.chain_pem, &made.key_pem));
    let certificates = files.each_ref().map(|files| files.certificate(&[exact("a.test")]));
    let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
    renew(&files[1], &TestCertificate::new(&["a.test"]));
    let refreshed = tls.refresh(&certificates, &Tls::default());
    let message = refreshed.refused[0].error.to_string();
    assert!(message.contains("with an ECDSA key, as "), "{message}");
    assert!(refreshed.renewed.is_empty());
    assert_eq!(refreshed.tls.chain(None), [ecdsa.der]);
}

#[test]
fn a_last_day_is_that_of_the_leaf_or_of_its_issuer() {
    let made = TestCertificate::with(&["a.test"], |params| {
        params.not_before = rcgen::date_time_ymd(2024, 1, 1);
        params.not_after = rcgen::date_time_ymd(2024, 3, 31);
    });
    let files = Files::new(&made.chain_pem, &made.key_pem);
    let certificates = [in_memory(&[exact("m.test")]), files.certificate(&[exact("a.test")])];
    let tls = ServerTls::load(&certificates, Tls::default()).unwrap();
    let [expiry] = &tls.expiries()[..] else { panic!("one from a file") };
    assert_eq!(expiry.certificate, files.cert.display().to_string());
    assert_eq!(expiry.not_before, rcgen::date_time_ymd(2024, 1, 1).unix_timestamp());
    assert_eq!(expiry.not_after, rcgen::date_time_ymd(2024, 3, 31).unix_timestamp());
    let paths: Vec<&Path> = tls.files().paths().collect();
    assert_eq!(paths, [&files.cert, &files.key]);
}

#[test]
fn ticket_keys_follow_their_file_beside_certificates() {
    use std::os::unix::fs::PermissionsExt as _;
    let (a, files) = made(&["a.test"]);
    let certificates = [files.certificate(&[exact("a.test")])];
    let path = files.cert.with_file_name("tickets.keys");
    let write = |text: &str| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    };
    write(&"01".repeat(32));
    let settings = Tls { ticket_keys: Some(path.clone()), ..Tls::default() };
    let tls = ServerTls::load(&certificates, settings.clone()).unwrap();
    assert!(tls.files().paths().any(|watched| watched == path));
    let ticket = tls.config().ticketer.encrypt(b"session").unwrap();

    // A bad file holds up no certificate.
    write("hello");
    let renewed = TestCertificate::new(&["a.test"]);
    renew(&files, &renewed);
    let refreshed = tls.refresh(&certificates, &settings);
    assert_eq!((refreshed.renewed.len(), refreshed.refused.len()), (1, 0));
    assert!(refreshed.ticket_keys.unwrap_err().to_string().contains("tickets.keys:1: "));
    assert_eq!(refreshed.tls.chain(None), [renewed.der]);
    assert!(refreshed.tls.config().ticketer.decrypt(&ticket).is_some());

    // New keys hold for all settings, those of earlier connections too.
    write(&"02".repeat(32));
    renew(&files, &a);
    let refreshed = refreshed.tls.refresh(&certificates, &settings);
    assert!(refreshed.ticket_keys.unwrap().is_some());
    for tls in [&tls, &refreshed.tls] {
        assert_eq!(tls.config().ticketer.decrypt(&ticket), None);
    }
}
