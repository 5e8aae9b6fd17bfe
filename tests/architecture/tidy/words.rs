//! Banned words, each with the term to use instead and the reason.

/// The scope of a banned word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Where {
    /// In identifiers of Rust code.
    Identifiers,
    /// In all text: code, comments, documents and configuration.
    Anywhere,
}

/// A banned word.
pub struct Word {
    /// In lower case; a space also stands for the underscore in an identifier.
    pub forms: &'static [&'static str],
    pub place: Where,
    pub instead: &'static str,
    pub reason: &'static str,
}

impl Word {
    pub fn explain(&self, form: &str) -> String {
        format!("{form:?}: write {} ({})", self.instead, self.reason)
    }
}

use Where::{Anywhere, Identifiers};

pub const WORDS: &[Word] = &[
    word(&["answer", "answers"], Identifiers, "response", "HTTP's term, RFC 9110 3.4"),
    word(&["tally", "tallies"], Anywhere, "counters", "one word for one thing"),
    word(&["alarm", "alarms"], Anywhere, "timer", "one word for one thing"),
    word(&["farewell", "farewells"], Anywhere, "drain", "the field's term"),
    word(&["audience"], Anywhere, "authority check", "RFC 9110 7.4 speaks of the authority"),
    word(&["placement"], Anywhere, "dispatch", "the field's term"),
    word(&["revival", "revivals"], Anywhere, "restart", "the field's term"),
    word(&["managed"], Identifiers, "connection", "says nothing of what it holds"),
    word(&["set aside", "sets aside"], Anywhere, "ejected", "the field's term"),
    word(&["is well", "are well"], Anywhere, "is valid or is healthy", "people are well"),
    word(&["enters into the kernel"], Anywhere, "io_uring_enter calls", "the call has a name"),
    word(&["manager", "managers"], Identifiers, "what it does", "says nothing"),
    word(&["util", "utils"], Identifiers, "what it does", "says nothing"),
    word(&["helper", "helpers"], Identifiers, "what it does", "says nothing"),
];

/// Banned starts of a doc comment: (start, replacement, reason).
pub const DOC_STARTS: &[(&str, &str, &str)] = &[
    ("Answers ", "\"Returns\"", "a function returns"),
    ("Tells ", "\"Returns\" or \"Reports\"", "a function returns"),
    ("What ", "a noun phrase or a verb", "a clause without a head is a riddle"),
    ("Who ", "a noun phrase or a verb", "a clause without a head is a riddle"),
    ("Whose ", "a noun phrase or a verb", "a clause without a head is a riddle"),
];

/// Banned prefixes of a function's name: (prefix, replacement, reason).
pub const FUNCTION_PREFIXES: &[(&str, &str, &str)] =
    &[("get_", "the noun alone", "Rust API Guidelines, C-GETTER")];

/// Names chosen by others: the standard library's own, and crates.
pub const FOREIGN_NAMES: &[&str] = &["get_mut", "http_body_util", "hyper_util"];

const fn word(
    forms: &'static [&'static str],
    place: Where,
    instead: &'static str,
    reason: &'static str,
) -> Word {
    Word { forms, place, instead, reason }
}
