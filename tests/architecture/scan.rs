//! Reads one source file as tokens and lists the paths that it names.
//!
//! Tokens, not a syntax tree: paths inside macros (`assert!(crate::limits::X > 0)`) count as
//! well, and comments and strings do not.

use std::collections::BTreeMap;

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// A path as written in the code, made absolute: it starts with `crate` or with an outside crate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mention {
    /// Line in the file, from 1.
    pub line: usize,
    /// `["crate", "pool", "Lease"]`, without a glob's star.
    pub segments: Vec<String>,
    /// Whether the path ends in `::*`.
    pub glob: bool,
    /// Whether it is in test-only code.
    pub in_test: bool,
}

/// A name that a module re-exports under a second path by `pub use`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReExport {
    /// The second path, `["crate", "worker", "mailbox", "AccessRecord"]`; without the last
    /// segment for a glob.
    pub from: Vec<String>,
    /// The original path.
    pub target: Mention,
}

/// The contents of one file that the checks need.
#[derive(Debug, Default)]
pub struct Scan {
    /// Every path.
    pub mentions: Vec<Mention>,
    /// Every `pub use`.
    pub re_exports: Vec<ReExport>,
    /// Identifiers and keywords outside of test-only code, with their lines.
    pub words: Vec<(usize, String)>,
    /// Test-only child modules in files of their own (`mod name;`).
    pub test_children: Vec<String>,
    /// Whether the file starts with `#![forbid(unsafe_code)]`.
    pub forbids_unsafe: bool,
}

/// Scans `text`, the file of `module` (`["quic", "engine"]`; empty for the crate's root). `in_test`
/// means that a parent declared the whole file as test-only.
pub fn scan(text: &str, module: &[String], in_test: bool) -> Result<Scan, String> {
    let tokens: TokenStream =
        text.parse().map_err(|error: proc_macro2::LexError| error.to_string())?;
    let mut scanner = Scanner { out: Scan::default(), bindings: BTreeMap::new() };
    scanner.level(tokens, &Context { module: module.to_vec(), in_test });
    Ok(scanner.out)
}

#[derive(Clone)]
struct Context {
    module: Vec<String>,
    in_test: bool,
}

struct Scanner {
    out: Scan,
    /// Names that `use` imported into the file, for `pub use` of such a name.
    bindings: BTreeMap<String, Vec<String>>,
}

impl Scanner {
    /// Scans one sequence of tokens: a file, a block, the inside of any bracket.
    fn level(&mut self, tokens: TokenStream, context: &Context) {
        let tokens: Vec<TokenTree> = tokens.into_iter().collect();
        let mut item = context.clone();
        let mut public = false;
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Punct(punct) if punct.as_char() == '#' => {
                    at = self.attribute(&tokens, at, context, &mut item);
                    continue;
                }
                TokenTree::Ident(word) if word == "pub" => public = true,
                TokenTree::Group(group)
                    if public
                        && group.delimiter() == Delimiter::Parenthesis
                        && is_word(&tokens, at - 1, "pub") => {}
                TokenTree::Ident(word) if word == "use" && !is_punct(&tokens, at + 1, '<') => {
                    at = self.use_item(&tokens, at + 1, &item, public);
                    (item, public) = (context.clone(), false);
                    continue;
                }
                TokenTree::Ident(word) if word == "mod" && word_at(&tokens, at + 1).is_some() => {
                    at = self.mod_item(&tokens, at + 1, &item);
                    (item, public) = (context.clone(), false);
                    continue;
                }
                TokenTree::Ident(_) => {
                    at = self.path(&tokens, at, &item);
                    public = false;
                    if item.in_test != context.in_test && is_field_end(&tokens, at) {
                        item = context.clone();
                    }
                    continue;
                }
                TokenTree::Group(group) => {
                    self.level(group.stream(), &item);
                    if group.delimiter() == Delimiter::Brace {
                        item = context.clone();
                    }
                    public = false;
                }
                TokenTree::Punct(punct) if punct.as_char() == ';' => {
                    (item, public) = (context.clone(), false);
                }
                _ => public = false,
            }
            at += 1;
        }
    }

    /// Scans `#[..]` or `#![..]`, records it and returns the position after it.
    fn attribute(
        &mut self,
        tokens: &[TokenTree],
        at: usize,
        context: &Context,
        item: &mut Context,
    ) -> usize {
        let inner = is_punct(tokens, at + 1, '!');
        let group_at = if inner { at + 2 } else { at + 1 };
        let Some(TokenTree::Group(group)) = tokens.get(group_at) else { return at + 1 };
        let text: String = group.stream().to_string().split_whitespace().collect();
        if inner && text == "forbid(unsafe_code)" && context.module.len() <= 1 {
            self.out.forbids_unsafe = true;
        }
        if text.starts_with("cfg(") && text.contains("test") && !text.contains("not(test") {
            item.in_test = true;
        }
        self.level(group.stream(), item);
        group_at + 1
    }

    /// Scans `mod name;` or `mod name { .. }`; `at` is its name.
    fn mod_item(&mut self, tokens: &[TokenTree], at: usize, item: &Context) -> usize {
        let name = word_at(tokens, at).expect("the caller saw a name");
        if let Some(TokenTree::Group(group)) = tokens.get(at + 1) {
            let mut inside = item.clone();
            inside.module.push(name);
            self.level(group.stream(), &inside);
        } else if item.in_test {
            self.out.test_children.push(name);
        }
        at + 2
    }

    /// Scans a `use` item; `at` is the token after `use`. Returns the position after its semicolon.
    fn use_item(&mut self, tokens: &[TokenTree], at: usize, item: &Context, public: bool) -> usize {
        let end = (at..tokens.len()).find(|&i| is_punct(tokens, i, ';')).unwrap_or(tokens.len());
        self.use_tree(&tokens[at..end], &[], item, public);
        end + 1
    }

    /// Scans one branch of a `use` tree after `prefix` (as written, not yet absolute).
    fn use_tree(&mut self, tokens: &[TokenTree], prefix: &[String], item: &Context, public: bool) {
        let mut segments = prefix.to_vec();
        let (mut glob, mut name, mut at) = (false, None, 0);
        while at < tokens.len() {
            match &tokens[at] {
                TokenTree::Ident(word) if word == "as" => {
                    name = word_at(tokens, at + 1);
                    at += 1;
                }
                TokenTree::Ident(word) => segments.push(plain(&word.to_string())),
                TokenTree::Punct(punct) if punct.as_char() == '*' => glob = true,
                TokenTree::Group(group) => {
                    for branch in branches(group) {
                        self.use_tree(&branch, &segments, item, public);
                    }
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        let Some(first) = tokens.first() else { return };
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let line = first.span().start().line;
        self.import(segments, name, glob, line, item, public);
    }

    fn import(
        &mut self,
        segments: Vec<String>,
        name: Option<String>,
        glob: bool,
        line: usize,
        item: &Context,
        public: bool,
    ) {
        let name = name.or_else(|| segments.last().cloned()).unwrap_or_default();
        let segments = self.absolute(segments, item);
        let target = Mention { line, segments, glob, in_test: item.in_test };
        if public {
            let mut from = vec!["crate".to_owned()];
            from.extend(item.module.iter().cloned());
            if !glob {
                from.push(name.clone());
            }
            self.out.re_exports.push(ReExport { from, target: target.clone() });
        }
        if !glob && !item.in_test {
            self.bindings.insert(name, target.segments.clone());
        }
        self.out.mentions.push(target);
    }

    /// Scans a path in an expression, a type or a macro; `at` is its first word.
    fn path(&mut self, tokens: &[TokenTree], at: usize, item: &Context) -> usize {
        let line = tokens[at].span().start().line;
        let mut segments = vec![word_at(tokens, at).expect("the caller saw a word")];
        let mut next = at + 1;
        while is_punct(tokens, next, ':') && is_punct(tokens, next + 1, ':') {
            let Some(word) = word_at(tokens, next + 2) else { break };
            segments.push(word);
            next += 3;
        }
        if !item.in_test {
            self.out.words.extend(segments.iter().map(|word| (line, word.clone())));
        }
        if segments.len() > 1 {
            let segments = self.absolute(segments, item);
            let glob = false;
            self.out.mentions.push(Mention { line, segments, glob, in_test: item.in_test });
        }
        next
    }

    /// Resolves `self`, `super` and names imported by `use`.
    fn absolute(&self, segments: Vec<String>, item: &Context) -> Vec<String> {
        let first = segments[0].as_str();
        if first == "ringway" || first == "crate" {
            return [vec!["crate".to_owned()], segments[1..].to_vec()].concat();
        }
        let mut module = item.module.clone();
        let mut rest = segments.as_slice();
        if first == "self" || first == "super" {
            while let Some((word, tail)) = rest.split_first() {
                match word.as_str() {
                    "self" => {}
                    "super" => drop(module.pop()),
                    _ => break,
                }
                rest = tail;
            }
            return [vec!["crate".to_owned()], module, rest.to_vec()].concat();
        }
        match self.bindings.get(first) {
            Some(target) => [target.clone(), segments[1..].to_vec()].concat(),
            None => segments,
        }
    }
}

/// Returns the comma-separated branches of a `use` group.
fn branches(group: &Group) -> Vec<Vec<TokenTree>> {
    let mut branches = vec![Vec::new()];
    for token in group.stream() {
        if matches!(&token, TokenTree::Punct(punct) if punct.as_char() == ',') {
            branches.push(Vec::new());
        } else if let Some(last) = branches.last_mut() {
            last.push(token);
        }
    }
    branches
}

fn is_punct(tokens: &[TokenTree], at: usize, wanted: char) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Punct(punct)) if punct.as_char() == wanted)
}

fn is_word(tokens: &[TokenTree], at: usize, wanted: &str) -> bool {
    matches!(tokens.get(at), Some(TokenTree::Ident(word)) if word == wanted)
}

fn word_at(tokens: &[TokenTree], at: usize) -> Option<String> {
    match tokens.get(at) {
        Some(TokenTree::Ident(word)) => Some(plain(&word.to_string())),
        _ => None,
    }
}

/// Returns an identifier without its raw prefix.
fn plain(word: &str) -> String {
    word.strip_prefix("r#").unwrap_or(word).to_owned()
}

/// Returns whether a struct field or an enum variant under `#[cfg(test)]` ends here, at its comma.
fn is_field_end(tokens: &[TokenTree], at: usize) -> bool {
    is_punct(tokens, at, ',') && !tokens.iter().any(is_item_keyword)
}

fn is_item_keyword(token: &TokenTree) -> bool {
    matches!(token, TokenTree::Ident(word)
        if ["fn", "impl", "struct", "enum", "trait"].iter().any(|known| word == known))
}
