//! Refusals: line, key, what is wrong, and the way out.

use std::fmt;
use std::path::{Path, PathBuf};

/// One refusal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Line in the file, from 1; `None` for the file as a whole.
    pub line: Option<usize>,
    /// The key with its section, as `listeners[0].quic.retry`; empty for the file as a whole.
    pub key: String,
    /// Error and way out.
    pub message: String,
}

/// All refusals of one file, in the order of its lines; at least one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors {
    pub origin: PathBuf,
    pub errors: Vec<ConfigError>,
}

impl ConfigErrors {
    /// Sorts the refusals by line. Those without a line come first.
    pub(super) fn new(origin: &Path, mut errors: Vec<ConfigError>) -> Self {
        assert!(!errors.is_empty(), "a refusal without a reason");
        errors.sort_by_key(|error| error.line);
        Self { origin: origin.to_owned(), errors }
    }

    /// A refusal of the file as a whole.
    pub(super) fn whole(origin: &Path, message: String) -> Self {
        Self::new(origin, vec![ConfigError { line: None, key: String::new(), message }])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, error) in self.errors.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}:", self.origin.display())?;
            if let Some(line) = error.line {
                write!(f, "{line}:")?;
            }
            if !error.key.is_empty() {
                write!(f, " {}:", error.key)?;
            }
            write!(f, " {}", error.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
