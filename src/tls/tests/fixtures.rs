//! The files of `tests/fixtures/certificates`, as of 2026-03-01: which chains they are, and what is
//! said about them. Another implementation judges them as a client.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use rustls::pki_types::{ServerName, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert};

use super::super::x509;
use super::*;

const HOST: &str = "www.example.test";
/// 2026-03-01, in seconds since 1970.
const NOW: u64 = 1_772_323_200;

const LEAF: &str = HOST;
const E1: &str = "Test Authority E1";
const ROOT: &str = "Test Root X1";

/// The fixtures, in a folder of the test's own, where keys are for their owner only.
struct Fixtures {
    folder: tempfile::TempDir,
}

impl Fixtures {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/certificates");
        for entry in std::fs::read_dir(source).unwrap() {
            let entry = entry.unwrap();
            let copy = folder.path().join(entry.file_name());
            std::fs::copy(entry.path(), &copy).unwrap();
            std::fs::set_permissions(&copy, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn certificate(&self, chain: &str, key: &str) -> Certificate {
        let source =
            CertificateSource::Files { cert: self.path(chain), key: self.path(key), ocsp: None };
        let (hosts, addresses) = match chain {
            "address-only.pem" => (vec![], vec!["192.0.2.1".parse().unwrap()]),
            _ => (vec![exact(HOST)], vec![]),
        };
        Certificate { hosts, addresses, source }
    }

    fn load(&self, chain: &str, key: &str) -> Result<ServerTls, String> {
        let loaded = ServerTls::load(&[self.certificate(chain, key)], Tls::default());
        loaded.map_err(|error| self.shorten(&error.to_string()))
    }

    /// Returns a message without the folder's name.
    fn shorten(&self, message: &str) -> String {
        let message = message.replace(&format!("{}/", self.folder.path().display()), "");
        assert_is_for_people(&message);
        message
    }

    fn warnings(&self, tls: &ServerTls) -> Vec<String> {
        let warnings = tls.warnings(UNIX_EPOCH + Duration::from_secs(NOW));
        warnings.iter().map(|warning| self.shorten(warning)).collect()
    }

    /// Returns true if webpki accepts the chain for a client that trusts the fixtures' root.
    fn is_accepted(&self, tls: &ServerTls, host: &str) -> bool {
        let root = std::fs::read(self.path("root.pem")).unwrap();
        let root = pem::blocks(str::from_utf8(&root).unwrap()).unwrap().remove(0).der.into();
        let chain = tls.chain(None);
        let verdict = EndEntityCert::try_from(&chain[0]).and_then(|leaf| {
            leaf.verify_is_valid_for_subject_name(&ServerName::try_from(host).unwrap())?;
            leaf.verify_for_usage(
                provider().signature_verification_algorithms.all,
                &[anchor_from_trusted_cert(&root)?],
                &chain[1..],
                UnixTime::since_unix_epoch(Duration::from_secs(NOW)),
                KeyUsage::server_auth(),
                None,
                None,
            )
            .map(|_path| ())
        });
        verdict.is_ok()
    }
}

/// A message has no bytes as numbers, and no Rust.
fn assert_is_for_people(message: &str) {
    let is_list = |part: &str| part.starts_with(|first: char| first.is_ascii_digit());
    let has_list = message.split('[').skip(1).any(is_list);
    let has_rust =
        ["Some(", "None", "Err(", " { ", "\\u{", "::"].iter().any(|rust| message.contains(rust));
    assert!(!has_list && !has_rust && message.is_ascii(), "{message}");
}

fn subjects(tls: &ServerTls) -> Vec<String> {
    let chain = tls.chain(None);
    chain.iter().map(|der| x509::Certificate::read(der).unwrap().subject()).collect()
}

/// A warning: the line, and some of its words.
type Warning = (usize, &'static str);

/// Chain, key, subjects of the chain that is served, warnings, and the acceptance by a client that
/// trusts the root.
type Row = (&'static str, &'static str, &'static [&'static str], &'static [Warning], bool);

const SERVED: &[Row] = &[
    ("fullchain.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("fullchain.pem", "leaf-sec1.key", &[LEAF, E1], &[], true),
    ("fullchain.pem", "bag-attributes.key", &[LEAF, E1], &[], true),
    ("fullchain.pem", "combined.pem", &[LEAF, E1], &[], true),
    ("combined.pem", "combined.pem", &[LEAF, E1], &[], true),
    ("crlf-no-last-newline.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("glued.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("byte-order-mark.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("one-line-base64.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("text-preamble.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("bag-attributes.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("leaf-twice.pem", "leaf.key", &[LEAF, LEAF, E1], &[(15, "already there in line 1")], true),
    (
        "root-included.pem",
        "leaf.key",
        &[LEAF, E1, ROOT],
        &[(26, "\"Test Root X1\" is a root")],
        true,
    ),
    (
        "expired-cross-signed-root.pem",
        "leaf.key",
        &[LEAF, E1, ROOT],
        &[(26, "\"Test Root X1\" expired 517 days ago, on 2024-09-30")],
        true,
    ),
    (
        "both-roots.pem",
        "leaf.key",
        &[LEAF, E1, ROOT, ROOT],
        &[(26, "is a root"), (37, "expired 517 days ago")],
        true,
    ),
    (
        "wrong-order.pem",
        "leaf.key",
        &[LEAF, ROOT, E1],
        &[
            (15, "stands before \"Test Authority E1\", which it issued"),
            (15, "expired 517 days ago"),
        ],
        true,
    ),
    (
        "leaf-only.pem",
        "leaf.key",
        &[LEAF],
        &[(
            1,
            "append it (`curl -s http://authority.example.test/e1.der | openssl x509 -inform der`)",
        )],
        false,
    ),
    (
        "strangers-intermediate.pem",
        "leaf.key",
        &[LEAF, "Another Authority"],
        &[(1, "is not in the file"), (15, "issued no other certificate of this chain")],
        false,
    ),
    (
        "namesake.pem",
        "leaf.key",
        &[LEAF, E1],
        &[(15, "has the name of the issuer of \"www.example.test\", but another key")],
        false,
    ),
    ("direct.pem", "leaf.key", &[LEAF], &[], true),
    ("self-signed.pem", "leaf.key", &[LEAF], &[], false),
    (
        "authority-as-leaf.pem",
        "leaf.key",
        &[LEAF],
        &[(1, "is that of an authority, not of a server")],
        false,
    ),
    ("p384.pem", "p384.key", &[LEAF, E1], &[], true),
    ("p521.pem", "p521.key", &[LEAF, E1], &[(1, "browsers refuse")], true),
    ("ed25519.pem", "ed25519.key", &[LEAF, E1], &[(1, "browsers refuse")], true),
    ("rsa-2048.pem", "rsa-2048.key", &[LEAF, E1], &[], true),
    ("rsa-4096.pem", "rsa-4096.key", &[LEAF, E1], &[], true),
    ("rsa-8192.pem", "rsa-8192.key", &[LEAF, E1], &[], true),
    ("hundred-names.pem", "leaf.key", &[LEAF, E1], &[], true),
    ("address-only.pem", "leaf.key", &["www.example.test", E1], &[], true),
    (
        "after-2050.pem",
        "leaf.key",
        &[LEAF, E1],
        &[(1, "valid for 9284 days, but Apple's systems refuse certificates")],
        true,
    ),
    (
        "expired.pem",
        "leaf.key",
        &[LEAF, E1],
        &[(1, "the certificate expired 59 days ago, on 2026-01-01")],
        false,
    ),
    (
        "not-yet-valid.pem",
        "leaf.key",
        &[LEAF, E1],
        &[(1, "not valid before 32 days from now, on 2026-04-01")],
        false,
    ),
    (
        "expired-intermediate.pem",
        "leaf.key",
        &[LEAF, "Test Authority E0"],
        &[(15, "\"Test Authority E0\" expired 14 days ago, on 2026-02-15")],
        false,
    ),
    (
        "rsa-1024-intermediate.pem",
        "leaf.key",
        &[LEAF, "Test Authority R0"],
        &[(16, "\"Test Authority R0\" has a key of only 1024 bits")],
        false,
    ),
    (
        "sha1.pem",
        "leaf.key",
        &[LEAF, "Test Authority R1"],
        &[(1, "the certificate is signed with MD5 or SHA-1")],
        false,
    ),
];

#[test]
fn each_file_is_served_as_it_is_with_what_clients_may_refuse_as_warnings() {
    let fixtures = Fixtures::new();
    for (chain, key, expected, warnings, is_accepted) in SERVED {
        let tls = fixtures.load(chain, key).unwrap_or_else(|error| panic!("{chain}: {error}"));
        assert_eq!(subjects(&tls), *expected, "{chain}");
        let found = fixtures.warnings(&tls);
        assert_eq!(found.len(), warnings.len(), "{chain}: {found:#?}");
        for (found, (line, words)) in found.iter().zip(*warnings) {
            let place = format!("{chain}:{line}: ");
            assert!(found.starts_with(&place) && found.contains(words), "{place}{words}: {found}");
        }
        let host = if *chain == "address-only.pem" { "192.0.2.1" } else { HOST };
        assert_eq!(fixtures.is_accepted(&tls, host), *is_accepted, "{chain}");
    }
}

/// Chain, key, the file and line that a refusal names, and some of its words.
type Refusal = (&'static str, &'static str, &'static str, &'static str);

const REFUSED: &[Refusal] = &[
    ("gone.pem", "leaf.key", "gone.pem: ", "check the path"),
    ("empty.pem", "leaf.key", "empty.pem: ", "is empty"),
    ("leaf.der", "leaf.key", "leaf.der: ", "`openssl x509 -inform der -in leaf.der"),
    ("leaf.p12", "leaf.key", "leaf.p12: ", "`openssl pkcs12 -in leaf.p12 -nokeys"),
    ("chain.p7b", "leaf.key", "chain.p7b: ", "`openssl pkcs7 -inform der -in chain.p7b"),
    ("leaf-key.der", "leaf.key", "leaf-key.der: ", "`openssl pkey -inform der"),
    ("utf-16.pem", "leaf.key", "utf-16.pem: ", "`iconv -f UTF-16 -t UTF-8 utf-16.pem"),
    ("pkcs7.pem", "leaf.key", "pkcs7.pem:1: ", "`openssl pkcs7 -in pkcs7.pem -print_certs"),
    ("trusted-certificate.pem", "leaf.key", "trusted-certificate.pem:1: ", "`openssl x509 -in"),
    ("request.pem", "leaf.key", "request.pem:1: ", "a request for a certificate"),
    ("revocation-list.pem", "leaf.key", "revocation-list.pem:26: ", "\"X509 CRL\""),
    ("dh-parameters.pem", "leaf.key", "dh-parameters.pem:26: ", "\"DH PARAMETERS\""),
    ("cut.pem", "leaf.key", "cut.pem:15: ", "has no END line"),
    ("begin-missing.pem", "leaf.key", "begin-missing.pem:15: ", "BEGIN line is missing"),
    ("trailing-bytes.pem", "leaf.key", "trailing-bytes.pem:1: ", "4 bytes follow"),
    ("changed.pem", "leaf.key", "changed.pem:1: ", "was changed after it was issued"),
    ("combined.pem", "leaf.key", "combined.pem:1: ", "`key` is leaf.key"),
    ("leaf.key", "fullchain.pem", "leaf.key: ", "seem to be swapped"),
    ("leaf-last.pem", "leaf.key", "leaf.key: ", "the certificate in line 12 of leaf-last.pem"),
    ("for-clients.pem", "leaf.key", "for-clients.pem:1: ", "not a server's certificate"),
    (
        "no-authority.pem",
        "leaf.key",
        "no-authority.pem:15: ",
        "not the certificate of an authority",
    ),
    ("path-too-long.pem", "leaf.key", "path-too-long.pem:26: ", "permits 0 authorities below it"),
    ("no-names.pem", "leaf.key", "no-names.pem:1: ", "no subject alternative names"),
    ("fullchain.pem", "old-passphrase.key", "old-passphrase.key:1: ", "by a passphrase"),
    ("fullchain.pem", "passphrase.key", "passphrase.key:1: ", "`openssl pkey -in passphrase.key"),
    ("fullchain.pem", "openssh.key", "openssh.key:1: ", "`ssh-keygen -p -m pem -f openssh.key`"),
    ("fullchain.pem", "public.key", "public.key:1: ", "give the private one"),
    ("fullchain.pem", "two.key", "two.key:6: ", "after the one of line 1"),
    ("fullchain.pem", "fullchain.pem", "fullchain.pem: ", "a certificate and no private key"),
    ("fullchain.pem", "leaf-key.der", "leaf-key.der: ", "`openssl pkey -inform der"),
    ("fullchain.pem", "leaf.p12", "leaf.p12: ", "-nocerts"),
    ("fullchain.pem", "empty.pem", "empty.pem: ", "is empty"),
    (
        "fullchain.pem",
        "p384.key",
        "p384.key: ",
        "does not belong to any certificate of fullchain.pem",
    ),
    ("rsa-1024.pem", "rsa-1024.key", "rsa-1024.key: ", "with 2048 to 8192 bits"),
];

#[test]
fn each_mistake_is_refused_with_its_line_and_the_way_out() {
    let fixtures = Fixtures::new();
    for (chain, key, place, words) in REFUSED {
        let error = fixtures.load(chain, key).err().unwrap_or_else(|| panic!("{chain}, {key}"));
        assert!(error.starts_with(place) && error.contains(words), "{place}{words}: {error}");
    }
}

/// Every fixture is in a row, so that none is kept for nothing.
#[test]
fn all_fixtures_are_used() {
    let fixtures = Fixtures::new();
    let of_served = SERVED.iter().flat_map(|row| [row.0, row.1]);
    let of_refused = REFUSED.iter().flat_map(|row| [row.0, row.1]);
    let used: Vec<&str> =
        of_served.chain(of_refused).chain(["root.pem", "make.py", ".gitattributes"]).collect();
    for entry in std::fs::read_dir(fixtures.folder.path()).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(used.contains(&name.as_str()), "{name} is not used");
    }
}

#[test]
fn a_summary_names_hosts_signers_and_the_last_day() {
    let fixtures = Fixtures::new();
    let signers = "\"Test Authority E1\", \"Test Root X1\"";
    for (chain, count, hosts, signers) in [
        ("fullchain.pem", "2 certificates", HOST, signers),
        ("direct.pem", "1 certificate", HOST, "\"Test Root X1\""),
        ("self-signed.pem", "1 certificate", HOST, "itself"),
        ("address-only.pem", "2 certificates", "192.0.2.1", signers),
    ] {
        let summaries = fixtures.load(chain, "leaf.key").unwrap().summaries();
        let [summary] = &summaries[..] else { panic!("{summaries:?}") };
        let expected =
            format!("{chain}: {count}; for {hosts}; signed by {signers}; valid until 2026-05-02");
        assert_eq!(fixtures.shorten(summary), expected);
    }
}

/// Kubernetes mounts a secret as links to `..data/NAME`, where `..data` is a link to a folder that
/// it replaces as a whole.
#[test]
fn links_of_kubernetes_are_followed_again_by_a_reload() {
    let fixtures = Fixtures::new();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let fill = |version: &str, chain: &str| {
        std::fs::create_dir(at(version)).unwrap();
        std::fs::copy(fixtures.path(chain), at(version).join("tls.crt")).unwrap();
        std::fs::copy(fixtures.path("leaf.key"), at(version).join("tls.key")).unwrap();
        symlink(version, at("..data_tmp")).unwrap();
        std::fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    fill("..2026_02_01", "leaf-only.pem");
    for name in ["tls.crt", "tls.key"] {
        symlink(Path::new("..data").join(name), at(name)).unwrap();
    }
    let source = CertificateSource::Files { cert: at("tls.crt"), key: at("tls.key"), ocsp: None };
    let certificate = Certificate { hosts: vec![exact(HOST)], addresses: vec![], source };
    let certificates = [certificate];
    let first = ServerTls::load(&certificates, Tls::default()).unwrap();
    assert_eq!(subjects(&first), [LEAF]);
    fill("..2026_03_01", "fullchain.pem");
    let second = first.reload(&certificates, Tls::default()).unwrap();
    assert_eq!(subjects(&second), [LEAF, E1]);
    // A reload judges by the same rules as the start.
    assert_eq!((fixtures.warnings(&first).len(), fixtures.warnings(&second).len()), (1, 0));
}

/// Each cut of a chain is refused, or is the chain without whole certificates at its end.
#[test]
fn a_file_that_is_cut_is_never_served_in_part() {
    let fixtures = Fixtures::new();
    let whole = std::fs::read_to_string(fixtures.path("fullchain.pem")).unwrap();
    let leaf_len = whole.find("-----END CERTIFICATE-----").unwrap() + 25;
    for len in 0..whole.len() {
        std::fs::write(fixtures.path("cut.pem"), &whole[..len]).unwrap();
        let served = fixtures.load("cut.pem", "leaf.key").map(|tls| subjects(&tls).len());
        let expected = match len {
            _ if len + 1 == whole.len() => Some(2),
            // The line end, and hyphens that may be an explanation.
            _ if (leaf_len..=leaf_len + 6).contains(&len) => Some(1),
            _ => None,
        };
        assert_eq!(served.ok(), expected, "cut at {len}");
    }
}

#[test]
fn a_file_without_end_is_not_read_to_its_end() {
    let fixtures = Fixtures::new();
    let source = CertificateSource::Files {
        cert: PathBuf::from("/dev/zero"),
        key: fixtures.path("leaf.key"),
        ocsp: None,
    };
    let certificate = Certificate { hosts: vec![exact(HOST)], addresses: vec![], source };
    let error = ServerTls::load(&[certificate], Tls::default()).unwrap_err().to_string();
    assert!(error.starts_with("/dev/zero: has more than"), "{error}");
}
