//! The configuration: reads a TOML file and returns a validated [`Config`].
//!
//! A file is accepted as a whole or not at all, and one run reports all of its errors. Each refusal
//! names the key, its line, the value, the allowed values and the way out. The rest of the program
//! does not validate again.
//!
//! ```text
//! text --toml--> table --sections--> values, each within its bound --checks--> Config
//!                          |             ^                            |
//!                          |             +-- environment, names       |
//!                          +----------- refusals (all of them) -------+
//! ```
//!
//! docs/decisions/configuration-by-hand.md says why no derive reads it.

mod bounds;
mod changes;
mod checks;
mod choices;
mod effective;
mod environment;
mod error;
mod listener_tls;
mod model;
mod names;
mod reader;
mod sections;
#[cfg(test)]
pub(crate) mod testing;

use std::io::{self, Read as _};
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::Path;

use toml::de::DeTable;

pub(crate) use changes::Change;
pub use error::ConfigErrors;
pub use model::*;

use crate::account::UserIds;
use reader::{Reader, Section};

/// Inputs of a configuration besides its file.
pub struct Surroundings<'a> {
    /// Returns the value of an environment variable.
    pub env: &'a dyn Fn(&str) -> Option<String>,
    /// Resolves `name:port`.
    pub resolve: &'a dyn Fn(&str, u16) -> io::Result<Vec<SocketAddr>>,
    /// Returns the congestion controls that TCP may use, separated by blanks, or `None` if that is
    /// not known.
    pub tcp_congestions: &'a dyn Fn() -> Option<String>,
    pub accounts: Accounts,
}

/// Look-ups of accounts on this host. Each returns `None` if there is no such user or group.
#[derive(Debug, Clone, Copy)]
pub struct Accounts {
    /// Finds a user by name or number.
    pub user: fn(&str) -> io::Result<Option<UserIds>>,
    /// Finds the id of a group by name.
    pub group: fn(&str) -> io::Result<Option<u32>>,
}

impl Accounts {
    /// A host without accounts.
    pub const NONE: Accounts = Accounts { user: |_| Ok(None), group: |_| Ok(None) };
}

/// The congestion controls that processes without privileges may use (tcp(7)).
const TCP_CONGESTIONS: &str = "/proc/sys/net/ipv4/tcp_allowed_congestion_control";

/// Reads and validates a file, with the environment and the resolver of this host.
pub(crate) fn load(path: &Path, accounts: Accounts) -> Result<Config, ConfigErrors> {
    let text = read(path).map_err(|message| ConfigErrors::whole(path, message))?;
    parse(&text, path, &of_this_host(accounts))
}

/// Reads the address of the admin endpoint from a file, and nothing else: the rest may need the
/// environment of the process that serves. `None` if there is no endpoint.
pub(crate) fn admin_address(path: &Path) -> Result<Option<AdminAddress>, ConfigErrors> {
    let text = read(path).map_err(|message| ConfigErrors::whole(path, message))?;
    let surroundings = of_this_host(Accounts::NONE);
    let read = |mut root: Section| sections::admin(root.section("admin"));
    Ok(parse_with(&text, path, &surroundings, read)?.0)
}

fn of_this_host(accounts: Accounts) -> Surroundings<'static> {
    Surroundings {
        env: &|name| std::env::var(name).ok(),
        resolve: &|name, port| (name, port).to_socket_addrs().map(Iterator::collect),
        tcp_congestions: &|| std::fs::read_to_string(TCP_CONGESTIONS).ok(),
        accounts,
    }
}

/// Validates the text of a file. `origin` is the path of the file: refusals name it, and relative
/// paths start at its directory.
pub fn parse(
    text: &str,
    origin: &Path,
    surroundings: &Surroundings,
) -> Result<Config, ConfigErrors> {
    parse_with(text, origin, surroundings, sections::read).map(|parsed| parsed.0)
}

/// Reads the text of a file by `read`. Also returns the keys that it asked for in vain.
fn parse_with<T>(
    text: &str,
    origin: &Path,
    surroundings: &Surroundings,
    read: impl FnOnce(Section) -> T,
) -> Result<(T, Vec<String>), ConfigErrors> {
    let reader = Reader::new(text, origin, surroundings);
    let (table, syntax) = DeTable::parse_recoverable(text);
    for error in &syntax {
        let message = format!("is not TOML: {}", error.message());
        match error.span() {
            Some(span) => reader.refuse(&span, "", message),
            None => reader.refuse_whole(message),
        }
    }
    // The content of a file with syntax errors would only be misread.
    let found = syntax.is_empty().then(|| read(Section::root(&table, &reader)));
    let (errors, absent) = reader.into_parts();
    match found {
        Some(found) if errors.is_empty() => Ok((found, absent)),
        _ => Err(ConfigErrors::new(origin, errors)),
    }
}

/// Returns the text of the file, or an error message.
fn read(path: &Path) -> Result<String, String> {
    let file = std::fs::File::open(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => "does not exist; give the file's path with --config".to_owned(),
        _ => format!("cannot be opened: {error}"),
    })?;
    let mut bytes = Vec::new();
    file.take(bounds::FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| format!("cannot be read: {error}"))?;
    if bytes.len() as u64 > bounds::FILE_LEN_MAX {
        let most = bounds::FILE_LEN_MAX;
        return Err(format!("is longer than {most} bytes, which no configuration needs"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let line = error.as_bytes()[..error.utf8_error().valid_up_to()]
            .iter()
            .filter(|byte| **byte == b'\n')
            .count()
            + 1;
        format!("is not UTF-8 text (line {line}); TOML is UTF-8 always")
    })
}

#[cfg(test)]
mod tests;
