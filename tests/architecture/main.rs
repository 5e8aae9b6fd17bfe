//! Checks of the architecture: every path in `src/`, re-exports included, is a dependency that
//! [`rules`] allows; external crates are used only in their modules; the protocol side has no
//! clock, randomness, files, threads, locks or unsafe code; unsafe code lives on the kernel side.
//! [`tidy`] checks the text of all files.

mod planted;
mod rules;
mod scan;
mod tidy;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use scan::{Mention, ReExport, Scan};

/// One source file.
struct Source {
    /// `src/quic/engine.rs`
    path: String,
    /// `["quic", "engine"]`; empty for lib.rs and main.rs.
    module: Vec<String>,
    text: String,
}

#[test]
fn every_path_is_an_allowed_dependency() {
    let faults = check(&sources(), &outside_crates());
    assert!(faults.is_empty(), "\n{}\n", faults.join("\n"));
}

/// Returns all faults of `sources`, one line each.
fn check(sources: &[Source], outside: &BTreeSet<String>) -> Vec<String> {
    let mut faults = Vec::new();
    let mut scans: Vec<(&Source, Scan)> = Vec::new();
    let mut test_modules: BTreeSet<Vec<String>> = BTreeSet::new();
    // Parents come before children, so that test-only files are known as such.
    for source in sources {
        let in_test = (1..=source.module.len()).any(|n| test_modules.contains(&source.module[..n]));
        match scan::scan(&source.text, &source.module, in_test) {
            Ok(scan) => {
                for child in &scan.test_children {
                    test_modules.insert([&source.module[..], std::slice::from_ref(child)].concat());
                }
                scans.push((source, scan));
            }
            Err(error) => faults.push(format!("{}: not Rust: {error}", source.path)),
        }
    }
    let modules: BTreeSet<Vec<String>> =
        scans.iter().map(|(source, _)| source.module.clone()).collect();
    let mut re_exports: Vec<ReExport> = Vec::new();
    for (source, scan) in &mut scans {
        rooted(source, scan, &modules);
        re_exports.extend(scan.re_exports.iter().cloned());
    }
    for (source, scan) in &scans {
        check_file(source, scan, &re_exports, outside, &mut faults);
    }
    faults
}

/// Makes paths absolute that name a child module without `crate::` or `self::` in its parent.
fn rooted(source: &Source, scan: &mut Scan, modules: &BTreeSet<Vec<String>>) {
    let targets = scan.re_exports.iter_mut().map(|re_export| &mut re_export.target);
    for mention in scan.mentions.iter_mut().chain(targets) {
        let child = [&source.module[..], &mention.segments[..1]].concat();
        if modules.contains(&child) {
            let root = ["crate".to_owned()];
            mention.segments = [&root[..], &source.module[..], &mention.segments[..]].concat();
        }
    }
}

fn check_file(
    source: &Source,
    scan: &Scan,
    re_exports: &[ReExport],
    outside: &BTreeSet<String>,
    faults: &mut Vec<String>,
) {
    let from = top(source);
    let module = if source.module.is_empty() { from.to_owned() } else { source.module.join("::") };
    let fault = |line: usize, text: String| format!("{}:{line}: {text}", source.path);
    if !rules::is_drawn(from) {
        faults.push(fault(1, format!("module `{from}` is not in tests/architecture/rules.rs")));
    }
    for mention in &scan.mentions {
        if mention.segments[0] == "crate" {
            for wrong in wrong_arrows(from, mention, re_exports) {
                faults.push(fault(mention.line, wrong));
            }
        } else if outside.contains(&mention.segments[0]) && !mention.in_test {
            let wrong = rules::homeless(&mention.segments[0], &module);
            faults.extend(wrong.map(|wrong| fault(mention.line, wrong)));
        }
    }
    if rules::PROTOCOL_SIDE.contains(&from) {
        faults.extend(impurities(&module, scan).into_iter().map(|(line, text)| fault(line, text)));
        if source.path.ends_with(&format!("src/{from}/mod.rs")) && !scan.forbids_unsafe {
            faults.push(fault(1, "starts without #![forbid(unsafe_code)]".to_owned()));
        }
    }
    if !rules::KERNEL_SIDE.contains(&from) {
        let words = scan.words.iter().filter(|(_, word)| word == "unsafe");
        faults
            .extend(words.map(|(line, _)| fault(*line, "unsafe code off the kernel side".into())));
    }
}

/// Returns the forbidden dependencies of one path: the one it names, and those it reaches through
/// re-exports.
fn wrong_arrows(from: &str, mention: &Mention, re_exports: &[ReExport]) -> Vec<String> {
    let path = mention.segments[1..].join("::");
    if path.is_empty() {
        let everything = mention.glob && !mention.in_test;
        return everything.then(|| "`crate::*` hides arrows".to_owned()).into_iter().collect();
    }
    let mut wrong = Vec::new();
    let is_module = rules::is_drawn(&mention.segments[1]);
    if mention.segments[1] == rules::TESTING {
        let is_product = from != rules::TESTING && !mention.in_test;
        wrong.extend(is_product.then(|| format!("product code names `crate::{path}`")));
        return wrong;
    }
    if is_module && !rules::arrow_is_drawn(from, &path) {
        wrong.push(format!("`{from}` may not name `crate::{path}`"));
    }
    for (by, target) in reached(&mention.segments, re_exports) {
        let (by, target) = (by[1..].join("::"), target[1..].join("::"));
        let owner = target.split("::").next().unwrap_or(&target);
        let same_owner = by.split("::").next() == Some(owner);
        if !same_owner && !rules::arrow_is_drawn(from, &target) {
            wrong.push(format!("`{from}` reaches `crate::{target}` over `crate::{by}`"));
        }
    }
    wrong
}

/// Returns everything of this crate that `path` gives access to by `pub use`, as (re-exported path,
/// original path).
fn reached(path: &[String], re_exports: &[ReExport]) -> Vec<(Vec<String>, Vec<String>)> {
    let mut found: Vec<(Vec<String>, Vec<String>)> = Vec::new();
    let mut open = vec![path.to_vec()];
    while let Some(path) = open.pop() {
        for re_export in re_exports {
            let target = &re_export.target;
            // Naming a module gives access to all its re-exports; naming an item, to that item.
            let named = re_export.from.starts_with(&path) || path.starts_with(&re_export.from);
            let pair = (re_export.from.clone(), target.segments.clone());
            if target.segments[0] == "crate" && named && !target.in_test && !found.contains(&pair) {
                open.push(target.segments.clone());
                found.push(pair);
            }
        }
    }
    found
}

/// Returns the faults of a sans-IO module: everything it must not use.
fn impurities(module: &str, scan: &Scan) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    for mention in scan.mentions.iter().filter(|mention| !mention.in_test) {
        let path = mention.segments.join("::");
        let banned = rules::BANNED_PATHS.iter().find(|banned| rules::is_below(&path, banned));
        found.extend(
            banned.map(|banned| (mention.line, format!("`{banned}` on the protocol side"))),
        );
    }
    for (line, word) in &scan.words {
        let is_permitted = rules::PERMITTED_WORDS.contains(&(module, word));
        if rules::BANNED_WORDS.contains(&word.as_str()) && !is_permitted {
            found.push((*line, format!("`{word}` on the protocol side")));
        }
    }
    found
}

fn top(source: &Source) -> &str {
    match source.module.first() {
        Some(module) => module,
        None if source.path.ends_with("main.rs") => "main",
        None => "lib",
    }
}

/// Returns all files of `src/`, parents before children.
fn sources() -> Vec<Source> {
    let root = package().join("src");
    let mut files = Vec::new();
    walk(&root, &mut files);
    let mut sources: Vec<Source> = files.iter().map(|path| read(&root, path)).collect();
    sources.sort_by_key(|source| (source.module.len(), source.path.clone()));
    assert!(sources.iter().any(|source| source.path == "src/lib.rs"), "src/lib.rs was not found");
    sources
}

fn package() -> PathBuf {
    PathBuf::from(std::env::var_os("CARGO_MANIFEST_DIR").expect("cargo tells it to every test"))
}

fn walk(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("src/ is readable") {
        let path = entry.expect("src/ is readable").path();
        if path.is_dir() {
            walk(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

fn read(root: &Path, path: &Path) -> Source {
    let inside = path.strip_prefix(root).expect("it was found below src/");
    let mut module: Vec<String> =
        inside.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if matches!(module.last().map(String::as_str), Some("mod" | "lib" | "main")) {
        module.pop();
    }
    let text = std::fs::read_to_string(path).expect("a source file is readable text");
    Source { path: format!("src/{}", inside.display()), module, text }
}

/// Returns the names of the ordinary dependencies, as code writes them.
fn outside_crates() -> BTreeSet<String> {
    let manifest =
        std::fs::read_to_string(package().join("Cargo.toml")).expect("Cargo.toml is readable");
    let manifest: toml::Table = manifest.parse().expect("cargo has read it before");
    let dependencies = manifest["dependencies"].as_table().expect("a table");
    // rustls-webpki calls its library by a shorter name.
    let code_name = |name: &str| match name {
        "rustls-webpki" => "webpki".to_owned(),
        _ => name.replace('-', "_"),
    };
    dependencies.keys().map(|name| code_name(name)).collect()
}
