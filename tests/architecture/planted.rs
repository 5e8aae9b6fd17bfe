//! Tests of the checks themselves: forbidden dependencies planted in strings are found, allowed
//! ones pass.

use super::{Source, check};

const OUTSIDE: [&str; 4] = ["bytes", "io_uring", "quinn_proto", "tokio"];

/// Returns the faults of files given as (path below src/, text).
fn faults(files: &[(&str, &str)]) -> Vec<String> {
    let sources: Vec<Source> = files
        .iter()
        .map(|(path, text)| {
            let mut module: Vec<String> =
                path.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
            if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
                module.pop();
            }
            Source { path: format!("src/{path}"), module, text: (*text).to_owned() }
        })
        .collect();
    check(&sources, &OUTSIDE.iter().map(|name| (*name).to_owned()).collect())
}

#[track_caller]
fn assert_found(files: &[(&str, &str)], wanted: &str) {
    let found = faults(files);
    assert_eq!(found.len(), 1, "one fault expected: {found:#?}");
    assert!(found[0].contains(wanted), "{found:#?} does not mention {wanted:?}");
}

#[track_caller]
fn assert_clean(files: &[(&str, &str)]) {
    assert_eq!(faults(files), Vec::<String>::new());
}

#[test]
fn allowed_dependencies_pass() {
    assert_clean(&[
        ("gateway/turn.rs", "use crate::{quic::Engine, http3, proxy::{self, Proxy as Hop}};"),
        ("ring/table.rs", "use crate::pool::Lease; use super::setup::Ring; use bytes::Bytes;"),
        ("control/run.rs", "use crate::worker::mailbox::{Command, MailboxSender};"),
        ("http3/frame.rs", "const _: () = assert!(crate::limits::SLOT_LEN > 3);"),
    ]);
}

#[test]
fn a_forbidden_dependency_is_found_in_every_spelling() {
    for text in [
        "use crate::quic::Engine;",
        "use crate::{limits, quic::{Engine}};",
        "use super::super::quic;",
        "fn f(engine: &crate::quic::Engine) {}",
        "fn f() { assert!(super::super::quic::LEN > 0); }",
        "mod inner { mod more { use super::super::super::super::quic::Engine; } }",
        "macro_rules! m { () => { $crate::quic::Engine } }",
        "pub(in crate::http3) use crate::quic::Engine as Other;",
        "use crate::r#quic::Engine;",
        "fn f() -> impl Iterator<Item = crate::quic::Key> + use<> { x }",
        "#[cfg(test)] mod tests { use crate::quic::Engine; }",
        "#[cfg(test)] fn f() {} use crate::quic::Engine;",
    ] {
        assert_found(&[("http3/frame.rs", text)], "may not name `crate::quic");
    }
}

#[test]
fn comments_and_strings_are_not_dependencies() {
    assert_clean(&[(
        "http3/frame.rs",
        r##"
            // crate::quic::Engine
            /* use crate::quic; /* crate::ring */ */
            /// See [`crate::quic::Engine`].
            const A: &str = "crate::quic::Engine unsafe { std::fs::read() }";
            const B: &str = r#"use crate::quic; "#;
            fn lifetime<'unsafe_free>(quic: &'unsafe_free u8) -> u8 { quic.crate_len() }
        "##,
    )]);
}

#[test]
fn re_exports_do_not_hide_dependencies() {
    let relay = ("worker/relay.rs", "pub use crate::ring::Ring;");
    let main = ("process.rs", "fn main() { crate::worker::relay::Ring::new(); }");
    assert_found(&[relay, main], "`process` reaches `crate::ring::Ring`");
    let whole = ("process.rs", "use crate::worker;");
    assert_found(&[relay, whole], "`process` reaches `crate::ring::Ring`");
    let glob = ("worker/relay.rs", "pub use crate::ring::*;");
    assert_found(&[glob, main], "`process` reaches `crate::ring`");
    let bound = ("worker/relay.rs", "use crate::ring; pub(crate) use ring::setup as up;");
    let main = ("process.rs", "use crate::worker::relay::up::Ring;");
    assert_found(&[bound, main], "`process` reaches `crate::ring::setup`");
}

#[test]
fn re_exports_are_followed_through_several_modules() {
    let files = [
        ("worker/mod.rs", "pub mod relay; pub use relay::Ring;"),
        ("worker/relay.rs", "pub use crate::ring::Ring;"),
        ("process.rs", "use crate::worker::Ring;"),
    ];
    let found = faults(&files);
    assert!(found.iter().any(|fault| fault.contains("reaches `crate::ring::Ring`")), "{found:#?}");
}

#[test]
fn re_exports_at_the_root_do_not_bypass_the_table() {
    let root = ("lib.rs", "pub mod quic; pub use quic::Engine;");
    let found = faults(&[root, ("quic/mod.rs", "#![forbid(unsafe_code)]")]);
    assert!(found.iter().any(|fault| fault.contains("`lib` may not name")), "{found:#?}");
    assert_found(&[("http3/frame.rs", "use crate::*;")], "hides arrows");
}

#[test]
fn re_exports_grant_no_access_and_an_allowed_dependency_may_be_a_submodule() {
    let mailbox = ("worker/mailbox.rs", "pub use crate::proxy::Output;");
    let over = ("control/log.rs", "use crate::worker::mailbox::Output;");
    assert_found(&[mailbox, over], "reaches `crate::proxy::Output`");
    let wrong = ("control/log.rs", "use crate::proxy::Output;");
    assert_found(&[wrong], "may not name `crate::proxy::Output`");
    let own = ("worker/mailbox.rs", "pub struct Command;");
    assert_clean(&[own, ("control/log.rs", "use crate::worker::mailbox::Command;")]);
    let inside = ("control/log.rs", "use crate::worker::turn::Worker;");
    assert_found(&[own, inside], "may not name `crate::worker::turn::Worker`");
}

#[test]
fn external_crates_are_used_only_in_their_modules() {
    assert_clean(&[("ring/setup.rs", "use io_uring::IoUring; use bytes::Bytes;")]);
    assert_found(&[("worker/turn.rs", "use io_uring::IoUring;")], "lives in host, ring");
    assert_found(&[("gateway/turn.rs", "fn f(_: ::quinn_proto::VarInt) {}")], "lives in quic");
    assert_clean(&[("worker/mailbox.rs", "use tokio::sync::mpsc;")]);
    assert_found(&[("ring/table.rs", "use tokio::sync::mpsc;")], "lives in");
    assert_clean(&[("ring/table.rs", "#[cfg(test)] mod tests { use tokio::sync::mpsc; }")]);
}

#[test]
fn the_protocol_side_stays_pure() {
    for (text, wanted) in [
        ("fn f() { std::fs::read(\"x\"); }", "std::fs"),
        ("use std::{fs, io};", "std::fs"),
        ("use std::thread;", "std::thread"),
        ("use std::time::{Duration, Instant}; fn f() { Instant::now(); }", "Instant::now"),
        ("fn f() { std::time::SystemTime::now(); }", "SystemTime::now"),
        ("async fn f() {}", "`async`"),
        ("fn f() { rand::random::<u8>(); }", "`rand`"),
    ] {
        assert_found(&[("proxy/machine.rs", text)], wanted);
        assert_clean(&[("proxy/machine.rs", &format!("#[cfg(test)] mod tests {{ {text} }}"))]);
    }
    assert_found(&[("proxy/x.rs", "struct X(std::sync::Mutex<u8>);")], "`Mutex`");
    assert_found(&[("proxy/mod.rs", "//! Proxy.")], "forbid(unsafe_code)");
    assert_clean(&[("proxy/mod.rs", "//! Proxy.\n#![forbid(unsafe_code)]")]);
}

#[test]
fn unsafe_code_outside_the_kernel_side_is_found() {
    let text = "fn f() { unsafe { g() } }";
    assert_clean(&[("ring/table.rs", text)]);
    assert_found(&[("worker/turn.rs", text)], "unsafe code off the kernel side");
    assert_found(
        &[("worker/turn.rs", "#[cfg(test)] struct T; unsafe impl Send for X {}")],
        "unsafe",
    );
}

#[test]
fn test_only_files_are_recognized_by_their_parent() {
    let text = "use std::thread; fn f() { unsafe { g() } }";
    let child = ("quic/tests.rs", text);
    let parent = "#![forbid(unsafe_code)] #[cfg(test)] mod tests;";
    assert_clean(&[("quic/mod.rs", parent), child]);
    let found = faults(&[("quic/mod.rs", "#![forbid(unsafe_code)] mod tests;"), child]);
    assert!(found.len() >= 2, "{found:#?}");
}

#[test]
fn fixtures_may_import_anything_and_only_tests_may_import_them() {
    assert_clean(&[(
        "testing/engine.rs",
        "use crate::{quic::Engine, ring::Ring}; use tokio::net;",
    )]);
    assert_clean(&[("testing/mod.rs", "pub use crate::testing::engine::engine_settings;")]);
    let text = "use crate::testing::epoch;";
    assert_clean(&[("proxy/x.rs", &format!("#[cfg(test)] mod tests {{ {text} }}"))]);
    assert_found(&[("proxy/x.rs", text)], "product code names `crate::testing::epoch`");
    assert_found(&[("main.rs", "fn f() { ringway::testing::epoch(); }")], "product code names");
    let relay = ("worker/relay.rs", "pub use crate::testing::epoch;");
    assert_found(&[relay], "product code names");
}

#[test]
fn a_module_missing_from_the_table_is_found() {
    assert_found(&[("extras/mod.rs", "")], "module `extras` is not in");
}
