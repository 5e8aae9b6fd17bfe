//! `listeners.tls`: a boolean or a table.

use super::*;

const ADDRESS: &str = "address = [\"0.0.0.0:443\", \"[::]:443\"]";

fn tls_of(lines: &str) -> Option<ListenerTls> {
    let text = minimal_with(ADDRESS, &format!("{lines}\n{ADDRESS}"));
    let (config, _) = parse_here(&text).unwrap_or_else(|errors| panic!("{errors}"));
    config.listeners[0].tls.clone()
}

#[test]
fn tls_is_a_boolean_or_a_table() {
    for on in ["", "tls = true", "tls = \"true\"", "tls = {}", "tls.client_auth.mode = \"off\""] {
        assert_eq!(tls_of(on), Some(ListenerTls::default()), "{on}");
    }
    for off in ["tls = false", "tls = \"${TLS:-false}\""] {
        assert_eq!(tls_of(off), None, "{off}");
    }
}

#[test]
fn the_full_file_has_the_defaults() {
    let tls = |text: &str| parse_here(text).unwrap().0.listeners[0].tls.clone();
    assert_eq!(tls(FULL), tls(MINIMAL));
}

#[test]
fn paths_start_at_the_files_directory_and_fields_are_in_lower_case() {
    let found = tls_of(
        "tls.min_version = \"1.3\"\ntls.client_auth = { mode = \"require\", ca = \"a.pem\", \
         crl = \"a.crl\", headers = { subject = \"X-Subject\", san = \"\" } }",
    );
    let expected = ListenerTls {
        version_min: TlsVersion::Tls13,
        client_auth: Some(ClientAuth {
            demand: ClientAuthDemand::Require,
            ca: "/etc/ringway/a.pem".into(),
            crls: vec!["/etc/ringway/a.crl".into()],
            fields: vec![(ClientFact::Subject, "x-subject".to_owned())],
        }),
    };
    assert_eq!(found, Some(expected));
    for none in ["[]", "\"\""] {
        let lines =
            format!("tls.client_auth = {{ mode = \"optional\", ca = \"a\", crl = {none} }}");
        assert_eq!(tls_of(&lines).unwrap().client_auth.unwrap().crls, [""; 0].map(PathBuf::from));
    }
}

/// The routes are those of all listeners, so that one without certificates leads around another.
#[test]
fn a_way_around_a_certificate_is_warned_of() {
    let warnings = |lines: &str, route: &str, listener: &str| {
        let text = minimal_with(ADDRESS, &format!("{lines}\n{ADDRESS}"));
        let text = text.replace("[[routes]]", &format!("{listener}\n[[routes]]\n{route}"));
        parse_here(&text).unwrap_or_else(|errors| panic!("{errors}")).0.warnings()
    };
    let requires = "tls.client_auth = { mode = \"require\", ca = \"a.pem\" }";
    let open = "[[listeners]]\naddress = \"[::]:8443\"";
    let redirecting = "[[listeners]]\naddress = \"[::]:80\"\ntls = false\nredirect_to_https = true";
    let needs = "client_auth = \"require\"";
    assert_eq!(warnings(requires, "", ""), [""; 0]);
    assert_eq!(warnings(requires, "", redirecting), [""; 0]);
    assert_eq!(warnings(requires, needs, open), [""; 0]);
    let found = warnings(requires, "", open);
    assert!(found.len() == 1 && found[0].contains("all routes are served on both"), "{found:?}");
    let found = warnings("", needs, "");
    assert!(found.len() == 1 && found[0].contains("answered with 403"), "{found:?}");
}

#[test]
fn errors_are_refused() {
    for (line, key, parts) in [
        (
            "tls = { min_version = \"1.1\" }",
            "listeners[0].tls.min_version",
            &["\"1.2\" or \"1.3\""][..],
        ),
        (
            "tls.client_auth = { mode = \"require\" }",
            "listeners[0].tls.client_auth",
            &["needs `ca`", "PEM"],
        ),
        (
            "tls.client_auth.headers = { san = \"x_san\" }",
            "listeners[0].tls.client_auth.headers.san",
            &["underscore"],
        ),
        (
            "tls.client_auth.headers = { serial = \"Cookie\" }",
            "listeners[0].tls.client_auth.headers.serial",
            &["means something else", "x-client-subject"],
        ),
        (
            "tls.client_auth.headers = { san = \"x-a\", serial = \"X-A\" }",
            "listeners[0].tls.client_auth.headers.serial",
            &["as another one is"],
        ),
        ("tls = { client_aut = {} }", "listeners[0].tls.client_aut", &["mean \"client_auth\""]),
    ] {
        assert_refused(&minimal_with(ADDRESS, &format!("{line}\n{ADDRESS}")), 5, key, parts);
    }
}
