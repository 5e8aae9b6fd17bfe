//! Tests of the checks themselves: violations planted in strings are found, tidy text passes.

use super::{FILE_LINES_MAX, Fault, File, LINE_LEN_MAX, check, says, spaced};

fn faults(files: &[(&str, &str)]) -> Vec<Fault> {
    let file = |&(path, text): &(&str, &str)| File { path: path.into(), text: text.into() };
    check(&files.iter().map(file).collect::<Vec<_>>())
}

#[track_caller]
fn assert_found(files: &[(&str, &str)], rule: &str, line: usize) {
    let found = faults(files);
    assert_eq!(found.len(), 1, "one fault expected: {found:#?}");
    assert_eq!((found[0].rule, found[0].line), (rule, line), "{found:#?}");
}

#[track_caller]
fn assert_clean(files: &[(&str, &str)]) {
    let found = faults(files);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn line_length_is_measured_in_columns() {
    let line = |c: &str, len: usize| format!("//! {}\n", c.repeat(len - 4));
    for path in ["src/x.rs", "tests/x/main.rs", "benches/x.rs", "examples/x/main.rs"] {
        assert_clean(&[(path, &line("\u{e4}", LINE_LEN_MAX))]);
        assert_found(&[(path, &line("x", LINE_LEN_MAX + 1))], "line-length", 1);
    }
    let long = "x ".repeat(LINE_LEN_MAX);
    assert_clean(&[("src/x.rs", &format!("//! Table:\n//!\n//! | {long} |\n"))]);
    assert_clean(&[("src/x.rs", &format!("//! <https://{long}>\n"))]);
    assert_clean(&[("docs/X.md", &long)]);
}

#[test]
fn a_module_without_a_doc_is_found_unless_it_is_a_test() {
    assert_found(&[("src/x.rs", "use std::fs;\n")], "module-doc", 1);
    assert_found(&[("src/x.rs", "// Text.\n")], "module-doc", 1);
    assert_clean(&[("src/x/tests.rs", "use std::fs;\n"), ("src/x/tests/y.rs", "use std::fs;\n")]);
    assert_clean(&[("tests/x/main.rs", "use std::fs;\n")]);
}

#[test]
fn a_long_file_is_found() {
    let file = |lines: usize| "//! X.\n".to_owned() + &"\n".repeat(lines - 1);
    assert_clean(&[("src/x.rs", &file(FILE_LINES_MAX))]);
    let lines = FILE_LINES_MAX + 1;
    assert_found(&[("src/x.rs", &file(lines))], "file-length", lines);
    assert_clean(&[("tests/x.rs", &file(lines))]);
}

#[test]
fn banned_words_are_found_in_code_comments_documents_and_keys() {
    for text in [
        "struct Alarm;",
        "fn f(idle_alarms: u8) {}",
        "struct IdleAlarm;",
        "// The alarm rings.",
        "const X: &str = \"alarm\";",
        "// An endpoint is set aside.",
        "fn is_well() {}",
        "// edge.toml is well",
    ] {
        assert_found(&[("src/x.rs", &format!("//! X.\n{text}\n"))], "words", 2);
    }
    assert_found(&[("docs/X.md", "The tally.")], "words", 1);
    assert_found(&[("README.md", "A farewell.")], "words", 1);
    assert_found(&[("configs/x.toml", "# dispatch\nplacement = 1")], "words", 2);
    assert_clean(&[("tests/x.rs", "struct Alarm;"), ("scripts/x", "alarm")]);
    assert_clean(&[("docs/X.md", "It is well-formed. Alarming! Misplacement. We set it aside.")]);
}

#[test]
fn identifiers_are_distinguished_from_prose() {
    assert_clean(&[("src/x.rs", "//! Upstreams answer. A managed service has a manager.\n")]);
    for text in [
        "struct AnswerHead;",
        "fn f(answers: u8) {}",
        "mod managed;",
        "struct PoolManager;",
        "mod utils;",
        "fn parse_helper() {}",
        "fn get_name() {}",
        "impl X { pub fn get_mut_name(&self) {} }",
    ] {
        assert_found(&[("src/x.rs", &format!("//! X.\n{text}\n"))], "words", 2);
    }
    assert_clean(&[(
        "src/x.rs",
        "//! X.\nfn get_mut(x: X) { hyper_util::f(); x.get_x(); x.answered(); }\n",
    )]);
}

#[test]
fn bad_starts_of_doc_comments_are_found() {
    for start in ["Answers how many.", "Tells whether.", "What is left.", "Who asked."] {
        assert_found(&[("src/x.rs", &format!("//! {start}\n"))], "doc-start", 1);
        let item = format!("//! X.\n\nimpl X {{\n    /// {start}\n    fn f() {{}}\n}}\n");
        assert_found(&[("src/x.rs", &item)], "doc-start", 4);
        assert_clean(&[("src/x.rs", &format!("//! X: says it.\n//! {start}\n"))]);
        assert_clean(&[("src/x.rs", &format!("//! X.\n// {start}\n"))]);
    }
}

#[test]
fn an_unlinked_decision_page_is_found() {
    let page = ("docs/decisions/one-way.md", "# One way (decisions/one-way.md)");
    assert_found(&[page], "decision-link", 1);
    assert_found(&[page, ("tests/x.rs", "// docs/decisions/one-way.md")], "decision-link", 1);
    assert_clean(&[page, ("docs/X.md", "[why](decisions/one-way.md)")]);
    assert_clean(&[page, ("src/x.rs", "//! X. docs/decisions/one-way.md has the reasons.\n")]);
    assert_found(&[("docs/X.md", "\n[why](decisions/gone.md)")], "decision-link", 2);
    assert_clean(&[("docs/X.md", "docs/decisions/: pages. See X.md.")]);
}

#[test]
fn only_whole_words_match() {
    assert_eq!(spaced("IdleAlarm::set_alarm"), "idle alarm::set alarm");
    assert!(says("an alarm, then", "alarm") && says("alarm", "alarm"));
    assert!(!says("alarming", "alarm") && !says("alarm-like", "alarm") && !says("xalarm", "alarm"));
}
