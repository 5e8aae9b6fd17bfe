//! Keys that decide what the process may do, and who may reach it.

use super::*;

fn user(text: &str) -> Option<Account> {
    let (config, _) = parse_here(&minimal_and(&format!("[runtime]\nuser = \"{text}\""))).unwrap();
    config.runtime.user
}

#[test]
fn a_user_is_given_by_name_or_number() {
    for (text, uid, gid) in [
        ("ringway", 991, 992),
        ("991", 991, 992),
        ("ringway:rings", 991, 77),
        ("ringway:5", 991, 5),
        ("operator:rings", 11, 77),
        ("1234:5678", 1234, 5678),
    ] {
        assert_eq!(user(text), Some(Account { name: text.to_owned(), uid, gid }));
    }
    assert_eq!(user(""), None);
    assert_eq!(user("${NAME:-}"), None);
    assert_eq!(parse_here(MINIMAL).unwrap().0.runtime.user, None);
}

#[test]
fn a_user_that_is_unknown_or_root_is_refused() {
    for (text, parts) in [
        ("ringwai", &["no user \"ringwai\"", "useradd --system"][..]),
        ("ringway:ring", &["no group \"ring\"", "groupadd --system ring"]),
        ("1234", &["does not know the group of user 1234", "\"1234:1234\""]),
        ("root", &["group 0 is root's"]),
        ("root:rings", &["user 0 is root"]),
        ("0:5", &["user 0 is root"]),
        ("operator", &["group 0 is root's"]),
        ("ringway:0", &["group 0 is root's"]),
        ("4294967295:5", &["no user"]),
        ("ringway:4294967295", &["no group"]),
        ("-1:5", &["no user"]),
        (":rings", &["no user \"\""]),
        ("ringway:", &["no group \"\""]),
        ("remote", &["cannot be looked up", "the directory is down"]),
    ] {
        let text = minimal_and(&format!("[runtime]\nuser = \"{text}\""));
        assert_refused(&text, 2, "runtime.user", parts);
    }
    assert_refused(&minimal_and("[runtime]\nuser = 991"), 2, "runtime.user", &["a string"]);
}

#[test]
fn an_admin_endpoint_for_other_hosts_has_to_be_allowed() {
    let section =
        |listen: &str, more: &str| minimal_and(&format!("[admin]\nlisten = {listen}{more}"));
    for listen in ["\"0.0.0.0:1\"", "\"[::]:1\"", "\"192.0.2.1:1\"", "\"[::ffff:192.0.2.1]:1\""] {
        let parts = ["other hosts", "\"127.0.0.1:1\"", "unix socket", "allow_remote = true"];
        assert_refused(&section(listen, ""), 2, "admin.listen", &parts);
        assert_refused(&section(listen, "\nallow_remote = false"), 2, "admin.listen", &parts);
        let (config, _) = parse_here(&section(listen, "\nallow_remote = true")).unwrap();
        let expected = listen.trim_matches('"').parse().unwrap();
        assert_eq!(config.admin, Some(AdminAddress::Tcp(expected)));
    }
    for listen in ["\"127.0.0.2:1\"", "\"[::1]:1\"", "\"[::ffff:127.0.0.1]:1\"", "\"unix:a\""] {
        assert!(parse_here(&section(listen, "")).unwrap().0.admin.is_some(), "{listen}");
    }
}

#[test]
fn keys_of_connections_are_logged_only_if_a_file_is_named() {
    let tls_keys = |text: &str| parse_here(text).unwrap().0.log.tls_keys;
    assert_eq!(tls_keys(MINIMAL), None);
    assert_eq!(tls_keys(&minimal_and("[log]\ntls_keys = \"off\"")), None);
    let expected = PathBuf::from("/etc/ringway/keys.log");
    assert_eq!(tls_keys(&minimal_and("[log]\ntls_keys = \"keys.log\"")), Some(expected));
    assert_refused(&minimal_and("[log]\ntls_keys = \"\""), 2, "log.tls_keys", &["a path"]);
    assert_refused(&minimal_and("[log]\ntls_keys = true"), 2, "log.tls_keys", &["a string"]);
}

#[test]
fn a_flag_is_true_or_false() {
    let core_dumps = |value: &str| {
        let text = minimal_and(&format!("[runtime]\ncore_dumps = {value}"));
        parse_here(&text).map(|(config, _)| config.runtime.core_dumps)
    };
    for (value, expected) in
        [("true", true), ("false", false), ("\"true\"", true), ("\"${NONE:-false}\"", false)]
    {
        assert_eq!(core_dumps(value).unwrap(), expected, "{value}");
    }
    assert!(!parse_here(MINIMAL).unwrap().0.runtime.core_dumps);
    for (value, part) in [
        ("\"yes\"", "must be \"true\" or \"false\""),
        ("1", "must be true or false, but an integer stands there"),
    ] {
        let text = minimal_and(&format!("[runtime]\ncore_dumps = {value}"));
        assert_refused(&text, 2, "runtime.core_dumps", &[part]);
    }
}
