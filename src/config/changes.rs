//! The differences between two configurations, in words: the tables of their keys are compared, so
//! that no key can be forgotten.

use std::collections::BTreeSet;
use std::fmt;
use std::net::SocketAddr;

use toml::{Table, Value};

use super::model::Config;

/// Keys that take effect at the start only, each with everything below it: the process has sized
/// its memory, bound its admin endpoint and given its privileges up by then.
const FIXED: &[&str] = &[
    "admin",
    "log.tls_keys",
    "runtime.core_dumps",
    "runtime.memory",
    "runtime.pool",
    "runtime.token_key",
    "runtime.user",
    "runtime.workers",
];

/// Keys of which one tells the tables of a list apart.
const IDENTITIES: &[&str] = &["name", "hosts", "match", "address"];

/// One difference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// As `listeners[edge].quic.retry`.
    key: String,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Added,
    Removed,
    /// The entries of a list are the same, in another order.
    Reordered,
    /// Values before and after.
    Replaced(String, String),
}

impl Change {
    /// Returns whether only a start can apply it.
    pub(crate) fn is_fixed(&self) -> bool {
        FIXED.iter().any(|fixed| {
            let rest = self.key.strip_prefix(fixed);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        })
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        match &self.kind {
            Kind::Added => write!(f, "{key}: added"),
            Kind::Removed => write!(f, "{key}: removed"),
            Kind::Reordered => write!(f, "{key}: in another order"),
            Kind::Replaced(before, after) => write!(f, "{key}: {before} -> {after}"),
        }
    }
}

impl Config {
    /// Returns what differs from `earlier`, sorted by key.
    pub(crate) fn changes_since(&self, earlier: &Config) -> Vec<Change> {
        let mut changes = Changes(Vec::new());
        changes.compare_tables("", &earlier.effective().table, &self.effective().table);
        changes.compare_names(earlier, self);
        changes.0
    }
}

struct Changes(Vec<Change>);

impl Changes {
    fn push(&mut self, key: &str, kind: Kind) {
        self.0.push(Change { key: key.to_owned(), kind });
    }

    fn compare(&mut self, key: &str, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (Some(before), Some(after)) if before == after => {}
            (Some(Value::Table(before)), Some(Value::Table(after))) => {
                self.compare_tables(key, before, after);
            }
            (Some(Value::Array(before)), Some(Value::Array(after))) => {
                self.compare_lists(key, before, after);
            }
            (Some(before), Some(after)) => {
                self.push(key, Kind::Replaced(before.to_string(), after.to_string()));
            }
            (None, Some(Value::Table(_))) => self.push(key, Kind::Added),
            (Some(Value::Table(_)), None) => self.push(key, Kind::Removed),
            (None, Some(after)) => {
                self.push(key, Kind::Replaced("none".to_owned(), after.to_string()));
            }
            (Some(before), None) => {
                self.push(key, Kind::Replaced(before.to_string(), "none".to_owned()));
            }
            (None, None) => {}
        }
    }

    fn compare_tables(&mut self, key: &str, before: &Table, after: &Table) {
        let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        for name in names {
            let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
            self.compare(&key, before.get(name), after.get(name));
        }
    }

    /// Compares the entries of two lists by what identifies them, and then their order.
    fn compare_lists(&mut self, key: &str, before: &[Value], after: &[Value]) {
        let (known, found) = (identities(before), identities(after));
        let mut kept = Vec::new();
        for (entry, name) in before.iter().zip(&known) {
            let key = format!("{key}[{name}]");
            match found.iter().position(|other| other == name) {
                Some(index) => {
                    kept.push(index);
                    self.compare(&key, Some(entry), Some(&after[index]));
                }
                None => self.push(&key, Kind::Removed),
            }
        }
        for name in found.iter().filter(|name| !known.contains(name)) {
            self.push(&format!("{key}[{name}]"), Kind::Added);
        }
        if !kept.is_sorted() {
            self.push(key, Kind::Reordered);
        }
    }

    /// Compares the addresses that were found by name.
    fn compare_names(&mut self, before: &Config, after: &Config) {
        let written = |addresses: &[SocketAddr]| {
            let addresses: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
            addresses.join(", ")
        };
        let earlier = before.names();
        for (name, addresses) in after.names() {
            if let Some(found) = earlier.get(name).filter(|found| **found != addresses) {
                let kind = Kind::Replaced(written(found), written(&addresses));
                self.push(&format!("address of {name}"), kind);
            }
        }
    }
}

/// Returns what tells each entry of a list from the others. Where several have the same, as two
/// certificates of one host, they are numbered.
fn identities(entries: &[Value]) -> Vec<String> {
    let mut found: Vec<String> = Vec::new();
    for name in entries.iter().map(identity) {
        let numbered = |number: usize| match number {
            1 => name.clone(),
            _ => format!("{name}, {number}"),
        };
        let free = (1..).map(numbered).find(|name| !found.contains(name));
        found.extend(free);
    }
    found
}

/// Returns what an entry of a list is known by.
fn identity(entry: &Value) -> String {
    let Value::Table(table) = entry else { return plain(entry) };
    let named = IDENTITIES.iter().find_map(|key| table.get(*key));
    named.map_or_else(|| entry.to_string(), plain)
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(plain).collect::<Vec<_>>().join(", "),
        // Of a route: its host and its path.
        Value::Table(table) => table.values().map(plain).collect(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::testing::parsed;

    const BEFORE: &str = r#"
        [[listeners]]
        name = "edge"
        address = ["192.0.2.1:443", "192.0.2.2:443"]
        [[certificates]]
        hosts = ["a.example"]
        cert = "a.pem"
        key = "a.key"
        [[routes]]
        match = { host = "a.example", path_prefix = "/api" }
        upstream = "api"
        [[routes]]
        match = { path_prefix = "/old" }
        upstream = "api"
        [[routes]]
        upstream = "api"
        [upstreams.api]
        endpoints = [{ address = "10.0.0.1:80" }, { address = "10.0.0.2:80" }]
    "#;

    /// Returns what a reload says when `edits` are made to the file.
    fn changes(edits: &[(&str, &str)]) -> Vec<String> {
        let mut text = BEFORE.to_owned();
        for (from, to) in edits {
            assert!(text.contains(from), "{from}");
            text = text.replacen(from, to, 1);
        }
        let changes = parsed(&text).changes_since(&parsed(BEFORE));
        changes.iter().map(Change::to_string).collect()
    }

    #[test]
    fn changes_are_named_by_their_keys() {
        assert_eq!(changes(&[]), [""; 0]);
        assert_eq!(changes(&[("[[listeners]]", "# a comment\n[[listeners]]")]), [""; 0]);
        for (from, to, expected) in [
            (
                "[[listeners]]",
                "limits = { max_body_size = '2GiB' }\n[[listeners]]",
                "limits.max_body_size: \"1GiB\" -> \"2GiB\"",
            ),
            ("192.0.2.2:443", "192.0.2.3:443", "listeners[edge].address[192.0.2.2:443]: removed"),
            (
                "a.pem",
                "b.pem",
                "certificates[a.example].cert: \"/etc/ringway/a.pem\" -> \
                                \"/etc/ringway/b.pem\"",
            ),
            (
                ", { address = \"10.0.0.2:80\" }",
                "",
                "upstreams.api.endpoints[10.0.0.2:80]: removed",
            ),
            (
                "10.0.0.2:80\" }",
                "10.0.0.2:80\", weight = 3 }",
                "upstreams.api.endpoints[10.0.0.2:80].weight: 1 -> 3",
            ),
            (
                "upstream = \"api\"",
                "upstream = \"api\"\ntimeout = { request = '5s' }",
                "routes[a.example/api].timeout: added",
            ),
            ("/old", "/new", "routes[/old]: removed"),
            ("/old", "/new", "routes[/new]: added"),
            (
                "[upstreams.api]",
                "[upstreams.b]\nendpoints = [{ address = '10.0.0.9:1' }]\n\
                                 [upstreams.api]",
                "upstreams.b: added",
            ),
            (
                "endpoints = [",
                "congestion = 'cubic'\nendpoints = [",
                "upstreams.api.congestion: none -> \"cubic\"",
            ),
        ] {
            let found = changes(&[(from, to)]);
            assert!(found.iter().any(|line| line == expected), "{expected}: {found:?}");
        }
        let swapped = changes(&[
            ("host = \"a.example\", path_prefix = \"/api\"", "path_prefix = \"/x\""),
            ("path_prefix = \"/old\"", "host = \"a.example\", path_prefix = \"/api\""),
            ("path_prefix = \"/x\"", "path_prefix = \"/old\""),
        ]);
        assert_eq!(swapped, ["routes: in another order"]);
    }

    #[test]
    fn what_only_a_start_can_change_is_known() {
        let fixed = |addition: &str| {
            let text = format!("{addition}\n{BEFORE}");
            let changes = parsed(&text).changes_since(&parsed(BEFORE));
            assert!(!changes.is_empty(), "{addition}");
            changes.iter().all(Change::is_fixed)
        };
        for addition in [
            "runtime = { workers = 3 }",
            "runtime = { pool = { per_worker = '32MiB' } }",
            "runtime = { pool = { hugepages = 'off' } }",
            "runtime = { memory = { per_worker = '128MiB' } }",
            "runtime = { core_dumps = true }",
            "runtime = { token_key = 'key' }",
            "runtime = { user = '7:7' }",
            "admin = { listen = 'off' }",
            "log = { tls_keys = 'keys' }",
        ] {
            assert!(fixed(addition), "{addition}");
        }
        for addition in [
            "runtime = { drain_timeout = '1s', lame_duck = '2s', stop_timeout = '3s' }",
            "log = { level = 'debug', access = { format = 'off' } }",
            "tls = { unknown_server_name = 'refuse', ticket_keys = 'tickets.keys' }",
            "limits = { max_header_count = 50 }",
        ] {
            assert!(!fixed(addition), "{addition}");
        }
    }

    #[test]
    fn addresses_of_a_name_that_are_others_now_are_a_change() {
        let of = |address: &str| {
            let text = BEFORE.replace("10.0.0.1:80", "api.internal:80");
            crate::config::testing::parsed_with(&text, &[address.parse().unwrap()])
        };
        let changes = of("10.0.0.7:80").changes_since(&of("10.0.0.6:80"));
        let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(changes, ["address of api.internal:80: 10.0.0.6:80 -> 10.0.0.7:80"]);
    }

    #[test]
    fn certificates_of_the_same_hosts_are_told_apart() {
        let other = "hosts = [\"a.example\"]\n cert = \"rsa.pem\"\n key = \"rsa.key\"\n";
        let both = format!("[[certificates]]\n{other}[[certificates]]");
        let text = BEFORE.replacen("[[certificates]]", &both, 1);
        assert_eq!(parsed(&text).changes_since(&parsed(&text)), []);
        let renamed = text.replacen("\"a.pem\"", "\"b.pem\"", 1);
        let changes = parsed(&renamed).changes_since(&parsed(&text));
        let changes: Vec<String> = changes.iter().map(Change::to_string).collect();
        assert_eq!(changes.len(), 1, "{changes:?}");
        assert!(changes[0].starts_with("certificates[a.example, 2].cert: "), "{changes:?}");
    }
}
