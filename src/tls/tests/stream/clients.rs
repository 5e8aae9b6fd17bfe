//! Certificates of clients: whom a listener serves, over TLS 1.2, TLS 1.3 and the settings of QUIC.

use rcgen::{ExtendedKeyUsagePurpose, IsCa, date_time_ymd};
use rustls::pki_types::UnixTime;
use rustls::server::danger::ClientCertVerifier as _;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{AlertDescription, ProtocolVersion};

use super::faults::alert_to_peer;
use super::*;
use crate::config::{self, ClientAuth, ClientAuthDemand, ClientFact, Listener};
use crate::metrics::HandshakeFailure;
use crate::tls::identify;
use crate::tls::tests::client_authority::{ClientAuthority, ClientIdentity};
use HandshakeFailure::*;

/// A listener that asks its clients for certificates.
struct Door {
    site: Site,
    listener: Listener,
    folder: tempfile::TempDir,
}

impl Door {
    fn new(demand: ClientAuthDemand, ca: &str, crl: Option<&str>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let auth = ClientAuth {
            demand,
            ca: folder.path().join("clients.pem"),
            crls: crl.iter().map(|_| folder.path().join("clients.crl")).collect(),
            fields: Vec::new(),
        };
        std::fs::write(&auth.ca, ca).unwrap();
        if let Some(crl) = crl {
            std::fs::write(&auth.crls[0], crl).unwrap();
        }
        let mut listener = listener();
        listener.tls.as_mut().unwrap().client_auth = Some(auth);
        let mut door = Self { site: Site::new(), listener, folder };
        door.load();
        door
    }

    fn load(&mut self) {
        let tls = self.site.tls.clone().with_client_auth(std::slice::from_ref(&self.listener));
        self.take(tls.unwrap());
    }

    fn take(&mut self, tls: ServerTls) {
        self.site.tcp = tls.config_tcp_of(&self.listener, ALPN).unwrap();
        self.site.tls = tls;
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn refresh(&mut self) -> (usize, Vec<String>) {
        let certificates = [self.site.files.certificate(&[exact(HOST)])];
        let refreshed = self.site.tls.refresh(&certificates, &config::Tls::default());
        self.take(refreshed.tls);
        let refused = refreshed.refused.iter().map(|refusal| refusal.error.to_string());
        (refreshed.renewed.len(), refused.collect())
    }

    /// Returns the settings of a client that shows this chain.
    fn client(
        &self,
        version: TlsVersion,
        chain: &[&ClientIdentity],
        between: &[&ClientAuthority],
    ) -> rustls::ClientConfig {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.site.root.clone()).unwrap();
        let version = match version {
            TlsVersion::Tls12 => &rustls::version::TLS12,
            TlsVersion::Tls13 => &rustls::version::TLS13,
        };
        let builder = rustls::ClientConfig::builder_with_provider(Arc::new(provider_tcp()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let Some(own) = chain.first() else { return builder.with_no_client_auth() };
        let authorities = between.iter().map(|authority| authority.der());
        let chain = std::iter::once(own.der.clone()).chain(authorities).collect();
        // The key need not be that of the certificate.
        let key = provider_tcp().key_provider.load_private_key(own.key.clone_key()).unwrap();
        let shown = SingleCertAndKey::from(CertifiedKey::new(chain, key));
        builder.with_client_cert_resolver(Arc::new(shown))
    }

    /// Returns the certificate that a client has proved, or why it was refused and its alert. Over
    /// TCP and with the settings of QUIC the outcome is the same.
    fn knock(
        &self,
        version: TlsVersion,
        chain: &[&ClientIdentity],
        between: &[&ClientAuthority],
    ) -> Result<Option<Bytes>, (HandshakeFailure, AlertDescription)> {
        let config = self.client(version, chain, between);
        let outcome = self.knock_with(config.clone());
        if version == TlsVersion::Tls13 {
            let of_quic = self.site.tls.config_of(&self.listener);
            let mut config = config;
            config.alpn_protocols = vec![ALPN_H3.to_vec()];
            let shaken = handshake::shake(of_quic, Arc::new(config), HOST);
            match (&outcome, shaken) {
                (Ok(_), Ok(_)) => {}
                (Err((reason, _)), Err(error)) => {
                    assert_eq!(TlsFault::Protocol(error).reason(), *reason);
                }
                (outcome, shaken) => panic!("{outcome:?}, {:?}", shaken.err()),
            }
        }
        outcome
    }

    fn knock_with(
        &self,
        config: rustls::ClientConfig,
    ) -> Result<Option<Bytes>, (HandshakeFailure, AlertDescription)> {
        let mut pair = Pair::new(self.site.tcp.accept().unwrap(), client_of(config), Cut::Whole);
        match pair.run() {
            Err(fault) => Err((fault.reason(), alert_to_peer(&mut pair))),
            Ok(()) => match pair.events.remove(0) {
                TlsEvent::Handshaken(done) => {
                    assert!(!done.resumed);
                    Ok(done.client_certificate)
                }
                other => panic!("{other:?}"),
            },
        }
    }
}

fn listener() -> Listener {
    config::testing::minimal(([127, 0, 0, 1], 1).into()).listeners.remove(0)
}

#[test]
fn only_what_the_authorities_vouch_for_is_served() {
    let (own, other) = (ClientAuthority::new("own"), ClientAuthority::new("other"));
    let between = own.below("between");
    let good = own.issue(1);
    let deep = between.issue(2);
    let revoked = own.issue(3);
    let foreign = other.issue(1);
    let expired = own.issue_with(4, |params| params.not_after = date_time_ymd(2024, 1, 1));
    let early = own.issue_with(5, |params| params.not_before = date_time_ymd(2150, 1, 1));
    let of_server = own.issue_with(6, |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let mut stolen = own.issue(7);
    stolen.key = own.issue(8).key;
    let lists = own.revoke(&[3], 2150) + &between.revoke(&[], 2150);
    for demand in [ClientAuthDemand::Require, ClientAuthDemand::Optional] {
        let door = Door::new(demand, &own.pem(), Some(&lists));
        for version in BOTH_VERSIONS {
            let knock = |identity: &ClientIdentity| door.knock(version, &[identity], &[]);
            assert_eq!(knock(&good), Ok(Some(Bytes::from(good.der.to_vec()))));
            let der = Bytes::from(deep.der.to_vec());
            assert_eq!(door.knock(version, &[&deep], &[&between]), Ok(Some(der)));
            use AlertDescription::*;
            let unknown = Err((ClientCertificateUntrusted, UnknownCA));
            assert_eq!(knock(&deep), unknown, "the one between is not sent");
            assert_eq!(knock(&foreign), unknown);
            let gone = Err((ClientCertificateExpired, CertificateExpired));
            assert_eq!(knock(&expired), gone);
            assert_eq!(knock(&early), gone);
            assert_eq!(knock(&revoked), Err((ClientCertificateRevoked, CertificateRevoked)));
            let unsuitable = Err((ClientCertificateInvalid, UnsupportedCertificate));
            assert_eq!(knock(&of_server), unsuitable);
            assert_eq!(knock(&stolen), Err((Other, DecryptError)));
            let expected = match demand {
                ClientAuthDemand::Optional => Ok(None),
                ClientAuthDemand::Require => Err((ClientCertificateMissing, CertificateRequired)),
            };
            assert_eq!(door.knock(version, &[], &[]), expected, "{demand:?}");
        }
    }
}

/// As nginx does with `ssl_crl`.
#[test]
fn with_revocation_lists_each_issuer_needs_a_valid_one() {
    let (own, second) = (ClientAuthority::new("own"), ClientAuthority::new("second"));
    let ca = own.pem() + &second.pem();
    let (client, of_second) = (own.issue(1), second.issue(1));
    let untrusted = Err((ClientCertificateUntrusted, AlertDescription::UnknownCA));
    let door = Door::new(ClientAuthDemand::Require, &ca, Some(&own.revoke(&[], 2150)));
    assert!(door.knock(TlsVersion::Tls13, &[&client], &[]).is_ok());
    assert_eq!(door.knock(TlsVersion::Tls13, &[&of_second], &[]), untrusted);
    let door = Door::new(ClientAuthDemand::Require, &ca, Some(&own.revoke(&[], 2021)));
    assert_eq!(door.knock(TlsVersion::Tls13, &[&client], &[]), untrusted, "the list has expired");
    let door = Door::new(ClientAuthDemand::Require, &ca, None);
    assert!(door.knock(TlsVersion::Tls13, &[&of_second], &[]).is_ok());
}

#[test]
fn no_authority_vouches_beyond_its_last_day() {
    let ends = |year: i32| {
        move |params: &mut rcgen::CertificateParams| {
            params.not_after = date_time_ymd(year, 1, 1);
        }
    };
    let (early, late) =
        (ClientAuthority::with("early", ends(2100)), ClientAuthority::with("late", ends(2140)));
    let door = Door::new(ClientAuthDemand::Require, &(early.pem() + &late.pem()), None);
    let verifier = &door.site.tls.client_authorities(&door.listener).unwrap().verifier;
    let (of_early, of_late) = (early.issue(1), late.issue(2));
    let at = |identity: &ClientIdentity, year: i32| {
        let now = date_time_ymd(year, 6, 1).unix_timestamp() as u64;
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(now));
        verifier.verify_client_cert(&identity.der, &[], now).is_ok()
    };
    // The clock may also go back.
    for (year, expected) in
        [(2090, (true, true)), (2120, (false, true)), (2145, (false, false)), (2099, (true, true))]
    {
        assert_eq!((at(&of_early, year), at(&of_late, year)), expected, "{year}");
    }
}

/// A ticket would go around the verifier: one of a listener without a verifier, or one from before
/// a certificate was revoked.
#[test]
fn no_session_is_resumed_where_certificates_are_asked_for() {
    let own = ClientAuthority::new("own");
    let client = own.issue(1);
    for version in BOTH_VERSIONS {
        let mut door =
            Door::new(ClientAuthDemand::Require, &own.pem(), Some(&own.revoke(&[], 2150)));
        // One set of sessions, as that of a client of both listeners.
        let config = door.client(version, &[&client], &[]);
        let anonymous = door.client(version, &[], &[]);
        let open = door.site.tls.config_tcp(&[], TlsVersion::Tls12, EarlyData::Off, None).unwrap();
        let meet = |tls: &TcpServerTls, config: &rustls::ClientConfig| {
            let peer = client_of(config.clone());
            let mut pair = Pair::new(tls.accept().unwrap(), peer, Cut::Whole);
            pair.handshake().resumed
        };
        assert!(!meet(&open, &anonymous) && meet(&open, &anonymous), "it has a ticket");
        assert!(door.knock_with(anonymous.clone()).is_err(), "and shows no certificate");
        assert!(!meet(&open, &config) && meet(&open, &config));
        // With a ticket of the open listener it must show its certificate; it gets no other one.
        let expected = Ok(Some(Bytes::from(client.der.to_vec())));
        assert_eq!(door.knock_with(config.clone()), expected);
        assert_eq!(door.knock_with(config.clone()), expected, "not resumed");
        door.write("clients.crl", &own.revoke(&[1], 2150));
        assert_eq!(door.refresh(), (1, vec![]));
        assert_eq!(door.knock_with(config).unwrap_err().0, ClientCertificateRevoked);
    }
}

#[test]
fn a_listener_can_be_served_only_once_its_authorities_are_read() {
    let own = ClientAuthority::new("own");
    let door = Door::new(ClientAuthDemand::Require, &own.pem(), None);
    let mut other = door.listener.clone();
    other.tls.as_mut().unwrap().client_auth.as_mut().unwrap().demand = ClientAuthDemand::Optional;
    let tls = door.site.tls.clone();
    let unread = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| tls.config_of(&other)));
    assert!(unread.is_err());
    let mut door = Door { listener: other, ..door };
    door.load();
    assert_eq!(door.knock(TlsVersion::Tls13, &[], &[]), Ok(None), "it is optional now");
}

#[test]
fn changed_files_are_taken_together_or_not_at_all() {
    let (own, next) = (ClientAuthority::new("own"), ClientAuthority::new("next"));
    let (client, of_next) = (own.issue(1), next.issue(1));
    let mut door = Door::new(ClientAuthDemand::Require, &own.pem(), Some(&own.revoke(&[], 2150)));
    let served = |door: &Door| {
        let is_served = |one| door.knock(TlsVersion::Tls13, &[one], &[]).is_ok();
        (is_served(&client), is_served(&of_next))
    };
    assert_eq!(door.refresh(), (0, vec![]), "nothing has changed");
    door.write("clients.pem", &next.pem());
    door.write("clients.crl", "hello");
    let (renewed, refused) = door.refresh();
    assert!(renewed == 0 && refused[0].contains("clients.crl: holds no block"), "{refused:?}");
    assert_eq!(served(&door), (true, false), "the list is no list");
    door.write("clients.crl", &next.revoke(&[], 2150));
    assert_eq!(door.refresh(), (1, vec![]));
    assert_eq!(served(&door), (false, true));
    let paths: Vec<_> = door.site.tls.files().paths().map(|path| path.to_owned()).collect();
    assert!(paths.contains(&door.folder.path().join("clients.crl")), "{paths:?}");
}

/// The file of authorities, that of lists, and either a refusal or the warnings, by some words.
type Judged = (&'static str, String, Option<String>, Result<&'static [&'static str], &'static str>);

#[test]
fn check_names_what_is_wrong_with_authorities_and_lists() {
    let own = ClientAuthority::new("own");
    let gone = ClientAuthority::with("gone", |params| params.not_after = date_time_ymd(2024, 1, 1));
    let early =
        ClientAuthority::with("early", |params| params.not_before = date_time_ymd(2150, 1, 1));
    let mute = ClientAuthority::with("mute", |params| {
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
    });
    let leaf = ClientAuthority::with("leaf", |params| params.is_ca = IsCa::ExplicitNoCa);
    let namesake = ClientAuthority::new("own");
    let key = TestCertificate::new(&["a.test"]).key_pem;
    let good = own.revoke(&[7, 8], 2150);
    let table: Vec<Judged> = vec![
        ("a good pair", own.pem(), Some(good.clone()), Ok(&[])),
        ("renewed", own.pem() + &own.renewed("own").pem(), Some(good.clone()), Ok(&[])),
        ("no list", own.pem(), None, Ok(&[])),
        ("an empty file", String::new(), None, Err("clients.pem: is empty")),
        ("no authority", "hello".into(), None, Err("authorities that issue your clients'")),
        ("a key", own.pem() + &key, None, Err("is not used, since this file is for certificates")),
        ("a leaf", leaf.pem(), None, Err("\"leaf\" is not the certificate of an authority")),
        ("expired", gone.pem(), None, Ok(&["\"gone\" expired on 2024-01-01"])),
        ("not valid yet", early.pem(), None, Ok(&["\"early\" is not valid yet"])),
        ("may not sign", mute.pem(), None, Ok(&["does not permit it to sign certificates"])),
        ("twice", own.pem() + &own.pem(), None, Ok(&["is already there"])),
        ("a list is no list", own.pem(), Some(own.pem()), Err("this file is for revocation lists")),
        ("a cut list", own.pem(), Some(good[..200].into()), Err("clients.crl")),
        ("expired list", own.pem(), Some(own.revoke(&[], 2021)), Ok(&["expired on 2021-12-31"])),
        (
            "a stranger's list",
            own.pem(),
            Some(good.clone() + &gone.revoke(&[], 2150)),
            Ok(&["of \"gone\", which is not in client_auth.ca"]),
        ),
        ("no list for one", own.pem() + &mute.pem(), Some(good.clone()), Ok(&["sign", "no list"])),
        ("forged", own.pem(), Some(namesake.revoke(&[], 2150)), Err("did not sign it")),
    ];
    for (what, ca, crl, expected) in table {
        let folder = tempfile::tempdir().unwrap();
        let (ca_path, crl_path) =
            (folder.path().join("clients.pem"), folder.path().join("clients.crl"));
        std::fs::write(&ca_path, ca).unwrap();
        let crls = crl.iter().map(|text| std::fs::write(&crl_path, text).unwrap());
        let crls = crls.map(|()| crl_path.clone()).collect();
        let (demand, fields) = (ClientAuthDemand::Require, Vec::new());
        let mut listener = listener();
        listener.tls.as_mut().unwrap().client_auth =
            Some(ClientAuth { demand, ca: ca_path, crls, fields });
        let tls = ServerTls::load(&[in_memory(&[exact(HOST)])], Tls::default()).unwrap();
        match (tls.with_client_auth(&[listener]), expected) {
            (Ok(tls), Ok(words)) => {
                let warnings = tls.warnings(date_time_ymd(2026, 6, 1).into());
                assert_eq!(warnings.len(), words.len(), "{what}: {warnings:#?}");
                for (warning, words) in warnings.iter().zip(words) {
                    assert!(warning.contains(words), "{what}: {warning}");
                }
                assert_eq!(tls.summaries().len(), 2, "{what}");
                assert!(!tls.expiries().is_empty());
            }
            (Err(error), Err(words)) => {
                assert!(error.to_string().contains(words), "{what}: {error}");
            }
            (outcome, expected) => panic!("{what}: {:?}, not {expected:?}", outcome.err()),
        }
    }
}

#[test]
fn upstreams_get_facts_that_cannot_be_mistaken() {
    let authority = ClientAuthority::new("own");
    let identity = authority.issue_with(0xf00d_f00d, |params| {
        let name = |text: &str| text.to_owned().try_into().unwrap();
        params.subject_alt_names = vec![
            rcgen::SanType::DnsName(name("a.example")),
            rcgen::SanType::URI(name("spiffe://a.example/b, DNS:root.example")),
            rcgen::SanType::Rfc822Name(name("a@a.example")),
            rcgen::SanType::IpAddress("2001:db8::1".parse().unwrap()),
            rcgen::SanType::IpAddress("192.0.2.1".parse().unwrap()),
        ];
    });
    let facts = [
        (ClientFact::Subject, "x-subject"),
        (ClientFact::AlternativeNames, "x-san"),
        (ClientFact::Serial, "x-serial"),
        (ClientFact::Fingerprint, "x-fingerprint"),
        (ClientFact::Certificate, "client-cert"),
    ];
    let mut door = Door::new(ClientAuthDemand::Require, &authority.pem(), None);
    let auth = door.listener.tls.as_mut().unwrap().client_auth.as_mut().unwrap();
    auth.fields = facts.iter().map(|(fact, name)| (*fact, (*name).to_owned())).collect();
    let told = identify(Some(&identity.der), &door.listener).unwrap();
    let value = |name: &str| {
        let field = told.fields.iter().find(|(field, _)| field == name).unwrap();
        field.1.to_str().unwrap().to_owned()
    };
    assert_eq!(value("x-subject"), "CN=client,O=Clients\\, Inc.");
    assert_eq!(told.subject.as_bytes(), b"CN=client,O=Clients\\, Inc.");
    assert_eq!(
        value("x-san"),
        "DNS:a.example, URI:spiffe://a.example/b%2C%20DNS:root.example, email:a@a.example, \
         IP:2001:db8::1, IP:192.0.2.1"
    );
    assert_eq!(value("x-serial"), "F00DF00D");
    let certificate = value("client-cert");
    let inner = certificate.strip_prefix(':').and_then(|rest| rest.strip_suffix(':')).unwrap();
    assert_eq!(data_encoding::BASE64.decode(inner.as_bytes()).unwrap(), identity.der.to_vec());
    assert_eq!(value("x-fingerprint").len(), 64);
    assert_eq!(identify(None, &door.listener), None);
    // What does not fit is left out, and the rest is not.
    let large = authority.issue_with(1, |params| {
        params.distinguished_name.push(rcgen::DnType::OrganizationalUnitName, "x".repeat(20_000));
    });
    let told = identify(Some(&large.der), &door.listener).unwrap();
    let names: Vec<&str> = told.fields.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-serial", "x-fingerprint"]);
}

#[test]
fn the_oldest_version_is_that_of_the_listener() {
    let site = Site::new();
    let mut listener = listener();
    for (version_min, is_served) in [(TlsVersion::Tls12, true), (TlsVersion::Tls13, false)] {
        listener.tls.as_mut().unwrap().version_min = version_min;
        let tcp = site.tls.config_tcp_of(&listener, ALPN).unwrap();
        let client = site.client(TlsVersion::Tls12);
        let mut pair = Pair::new(tcp.accept().unwrap(), client, Cut::Whole);
        assert_eq!(pair.run().is_ok(), is_served);
        let mut pair = Pair::new(tcp.accept().unwrap(), site.client(TlsVersion::Tls13), Cut::Whole);
        assert_eq!(pair.handshake().version, TlsVersion::Tls13);
        assert_eq!(pair.peer.protocol_version(), Some(ProtocolVersion::TLSv1_3));
    }
    listener.tls = None;
    assert!(site.tls.config_tcp_of(&listener, ALPN).is_none());
}
