//! Style rules that neither the compiler nor clippy checks: the length of lines and files, module
//! docs, banned words, and decision pages that nothing links to.

mod not_yet;
mod planted;
mod words;

use std::collections::BTreeSet;
use std::path::Path;

use proc_macro2::{TokenStream, TokenTree};

use super::package;
use not_yet::NOT_YET;
use words::{DOC_STARTS, FOREIGN_NAMES, FUNCTION_PREFIXES, WORDS, Where};

const LINE_LEN_MAX: usize = 100;
const FILE_LINES_MAX: usize = 600;

/// Files of `src/` that may be longer, each with its reason. Only data tables qualify.
const LONG_FILES: &[(&str, &str)] = &[];

/// The folders and files that are checked.
const PLACES: &[&str] =
    &["src", "tests", "fuzz/src", "benches", "examples", "docs", "configs", "scripts", "README.md"];

/// A file of the package.
struct File {
    /// `src/quic/engine.rs`
    path: String,
    text: String,
}

/// One breach of one rule.
#[derive(Debug)]
struct Fault {
    path: String,
    /// Line number, from 1.
    line: usize,
    /// The rule's name, as in [`NOT_YET`].
    rule: &'static str,
    text: String,
}

#[test]
fn everything_is_tidy() {
    let faults = check(&files());
    let broken: BTreeSet<(&str, &str)> =
        faults.iter().map(|fault| (fault.path.as_str(), fault.rule)).collect();
    let known: BTreeSet<(&str, &str)> = NOT_YET.iter().copied().collect();
    assert_eq!(known.len(), NOT_YET.len(), "not_yet.rs has a duplicate row");
    let is_new = |fault: &&Fault| !known.contains(&(fault.path.as_str(), fault.rule));
    let new = faults.iter().filter(is_new).map(Fault::to_string);
    let done = known.difference(&broken);
    let done = done.map(|row| format!("{row:?}: tidy now, so take it out of not_yet.rs"));
    let wrong: Vec<String> = new.chain(done).collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn functions_are_held_to_one_screen_by_clippy() {
    let read = |name: &str| -> toml::Table {
        std::fs::read_to_string(package().join(name)).expect(name).parse().expect(name)
    };
    assert_eq!(read("clippy.toml")["too-many-lines-threshold"].as_integer(), Some(70));
    let lints = &read("Cargo.toml")["lints"]["clippy"];
    assert_eq!(lints["too_many_lines"].as_str(), Some("deny"));
}

/// Checks all rules.
fn check(files: &[File]) -> Vec<Fault> {
    let mut faults = Vec::new();
    for file in files {
        if file.is_rust() {
            check_lines(file, &mut faults);
        }
        if file.is_rust() && file.path.starts_with("src/") {
            check_module(file, &mut faults);
            check_doc_starts(file, &mut faults);
            check_identifiers(file, &mut faults);
        }
        if ["src/", "docs/", "configs/", "README.md"].iter().any(|at| file.path.starts_with(at)) {
            check_words(file, &mut faults);
        }
    }
    check_decisions(files, &mut faults);
    faults
}

/// Checks that code and comments end at column 100. Rows of a doc table and URLs cannot be broken.
fn check_lines(file: &File, faults: &mut Vec<Fault>) {
    for (line, text) in file.lines() {
        let is_table_row = ["/// |", "//! |"].iter().any(|row| text.trim_start().starts_with(row));
        let len = text.chars().count();
        if len > LINE_LEN_MAX && !is_table_row && !text.contains("://") {
            faults.push(file.fault(line, "line-length", format!("{len} columns")));
        }
    }
}

fn check_module(file: &File, faults: &mut Vec<Fault>) {
    if !file.is_test() && !file.text.starts_with("//!") {
        faults.push(file.fault(1, "module-doc", "no `//!` at its head".to_owned()));
    }
    let count = file.text.lines().count();
    if count > FILE_LINES_MAX && !LONG_FILES.iter().any(|(path, _)| *path == file.path) {
        faults.push(file.fault(count, "file-length", format!("{count} lines")));
    }
}

/// Checks that the first sentence of a doc comment is a noun phrase or starts with a verb like
/// "Returns".
fn check_doc_starts(file: &File, faults: &mut Vec<Fault>) {
    let mut before = "";
    for (line, text) in file.lines() {
        let text = text.trim_start();
        let mark = ["///", "//!"].into_iter().find(|mark| text.starts_with(mark)).unwrap_or("");
        if !mark.is_empty() && mark != before {
            let words = text[mark.len()..].trim_start();
            let start = DOC_STARTS.iter().find(|(start, ..)| words.starts_with(start));
            faults.extend(start.map(|(start, instead, why)| {
                file.fault(line, "doc-start", format!("{start:?}: write {instead} ({why})"))
            }));
        }
        before = mark;
    }
}

fn check_words(file: &File, faults: &mut Vec<Fault>) {
    for (line, text) in file.lines() {
        let text = spaced(text);
        for word in WORDS.iter().filter(|word| word.place == Where::Anywhere) {
            if let Some(form) = word.forms.iter().find(|form| says(&text, form)) {
                faults.push(file.fault(line, "words", word.explain(form)));
            }
        }
    }
}

fn check_identifiers(file: &File, faults: &mut Vec<Fault>) {
    let tokens: TokenStream = file.text.parse().expect("rustc has read it before");
    let mut identifiers = Vec::new();
    collect_identifiers(tokens, &mut identifiers);
    identifiers.retain(|(_, name, _)| !FOREIGN_NAMES.contains(&name.as_str()));
    for (line, name, is_function) in &identifiers {
        let text = spaced(name);
        for word in WORDS.iter().filter(|word| word.place == Where::Identifiers) {
            if let Some(form) = word.forms.iter().find(|form| says(&text, form)) {
                faults.push(file.fault(*line, "words", word.explain(form)));
            }
        }
        let prefix = FUNCTION_PREFIXES.iter().find(|(prefix, ..)| name.starts_with(prefix));
        faults.extend(prefix.filter(|_| *is_function).map(|(prefix, instead, why)| {
            file.fault(*line, "words", format!("`{name}`: write {instead}, not {prefix} ({why})"))
        }));
    }
}

/// Identifiers with their lines; `true` for the name in a function's definition.
fn collect_identifiers(tokens: TokenStream, out: &mut Vec<(usize, String, bool)>) {
    let mut after_fn = false;
    for token in tokens {
        let is_name = std::mem::take(&mut after_fn);
        match token {
            TokenTree::Ident(name) => {
                after_fn = name == "fn";
                out.push((name.span().start().line, name.to_string(), is_name));
            }
            TokenTree::Group(group) => collect_identifiers(group.stream(), out),
            TokenTree::Punct(_) | TokenTree::Literal(_) => {}
        }
    }
}

/// Checks that every decision page is linked from where a reader needs it, and every linked page
/// exists.
fn check_decisions(files: &[File], faults: &mut Vec<Fault>) {
    let is_decision = |file: &&File| {
        file.path.starts_with("docs/decisions/") && !file.path.ends_with("/README.md")
    };
    let mut named = BTreeSet::new();
    for file in files.iter().filter(|file| file.path.ends_with(".md") || file.is_rust()) {
        for (line, text) in file.lines().filter(|_| !file.path.starts_with("tests/")) {
            for rest in text.split("decisions/").skip(1) {
                let Some((name, _)) = rest.split_once(".md") else { continue };
                let path = format!("docs/decisions/{name}.md");
                if name.contains(|c: char| !c.is_ascii_alphanumeric() && c != '-') {
                    continue;
                }
                if !files.iter().any(|file| file.path == path) {
                    faults.push(file.fault(line, "decision-link", format!("{path} is missing")));
                }
                if file.path != path {
                    named.insert(path);
                }
            }
        }
    }
    for page in files.iter().filter(is_decision).filter(|page| !named.contains(&page.path)) {
        let text = "nothing in docs/ or src/ links to it".to_owned();
        faults.push(page.fault(1, "decision-link", text));
    }
}

/// Returns text in lower case, with the parts of identifiers as words of their own.
fn spaced(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    let mut before = ' ';
    for c in text.chars() {
        if before.is_lowercase() && c.is_uppercase() {
            out.push(' ');
        }
        out.extend(if c == '_' { ' ' } else { c }.to_lowercase());
        before = c;
    }
    out
}

/// Returns whether `text` has `form` as whole words; "well-formed" does not have "well".
fn says(text: &str, form: &str) -> bool {
    text.match_indices(form).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + form.len()..].chars().next();
        !before.is_some_and(char::is_alphanumeric)
            && !after.is_some_and(|c| c.is_alphanumeric() || c == '-')
    })
}

impl File {
    fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    fn is_test(&self) -> bool {
        self.path.contains("/tests/") || self.path.ends_with("/tests.rs")
    }

    fn lines(&self) -> impl Iterator<Item = (usize, &str)> {
        (1..).zip(self.text.lines())
    }

    fn fault(&self, line: usize, rule: &'static str, text: String) -> Fault {
        Fault { path: self.path.clone(), line, rule, text }
    }
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.path, self.line, self.rule, self.text)
    }
}

/// Messages of real sites, which have lines of any length.
const FIXTURES: &str = "tests/fixtures";

/// Returns all text files of [`PLACES`], except for fixtures.
fn files() -> Vec<File> {
    let mut files = Vec::new();
    for place in PLACES {
        let path = package().join(place);
        assert!(path.exists(), "{place} was not found");
        collect(&path, &mut files);
    }
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn collect(path: &Path, files: &mut Vec<File>) {
    if path == package().join(FIXTURES) {
        return;
    }
    if path.is_dir() {
        for entry in std::fs::read_dir(path).expect("the package is readable") {
            collect(&entry.expect("the package is readable").path(), files);
        }
    } else if let Ok(text) = std::fs::read_to_string(path) {
        let inside = path.strip_prefix(package()).expect("found below it");
        files.push(File { path: inside.display().to_string(), text });
    }
}
