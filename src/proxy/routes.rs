//! Route lookup: the first route of the configuration that a request's host and path match.

use std::collections::BTreeMap;

use crate::config::{HostPattern, Route};

/// The routes by host: a request is compared with the routes of its own host only.
#[derive(Debug)]
pub(crate) struct RouteTable {
    exact: BTreeMap<String, Vec<Entry>>,
    /// Routes by the name after `*.`.
    wildcard: BTreeMap<String, Vec<Entry>>,
    any: Vec<Entry>,
}

/// One route. A list of them is in the configuration's order.
#[derive(Debug)]
struct Entry {
    /// The position among all routes: the first that matches wins.
    index: usize,
    path_prefix: String,
}

impl RouteTable {
    pub(crate) fn new(routes: &[Route]) -> Self {
        let mut table = Self { exact: BTreeMap::new(), wildcard: BTreeMap::new(), any: Vec::new() };
        for (index, route) in routes.iter().enumerate() {
            let list = match &route.host {
                Some(HostPattern::Exact(name)) => table.exact.entry(name.clone()).or_default(),
                Some(HostPattern::Wildcard(parent)) => {
                    table.wildcard.entry(parent.clone()).or_default()
                }
                None => &mut table.any,
            };
            list.push(Entry { index, path_prefix: route.path_prefix.clone() });
        }
        table
    }

    /// Returns the index of the first route that matches `host` (lower case, without port and
    /// trailing dot) and `path`.
    pub(crate) fn find(&self, host: &str, path: &[u8]) -> Option<usize> {
        let parent = host.split_once('.').filter(|(label, _)| !label.is_empty());
        let lists = [
            self.exact.get(host),
            parent.and_then(|(_, parent)| self.wildcard.get(parent)),
            Some(&self.any),
        ];
        let first = |list: &Vec<Entry>| {
            let fits = |entry: &&Entry| prefix_matches(entry.path_prefix.as_bytes(), path);
            list.iter().find(fits).map(|entry| entry.index)
        };
        lists.into_iter().flatten().filter_map(first).min()
    }
}

/// Returns whether `prefix` is `path`, or a prefix of it that ends at the end of a segment.
fn prefix_matches(prefix: &[u8], path: &[u8]) -> bool {
    if prefix == b"/" {
        return true;
    }
    match path.strip_prefix(prefix) {
        Some(rest) => prefix.ends_with(b"/") || matches!(rest.first(), None | Some(b'/' | b'?')),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_match_whole_segments_and_the_first_route_wins() {
        let route = |host: Option<HostPattern>, prefix: &str, upstream| Route {
            host,
            path_prefix: prefix.to_owned(),
            upstream,
            request_timeout: None,
            needs_certificate: false,
        };
        let routes = [
            route(Some(HostPattern::Exact("a.example".into())), "/api", 0),
            route(Some(HostPattern::Wildcard("example".into())), "/api/", 1),
            route(None, "/", 2),
        ];
        let table = RouteTable::new(&routes);
        let find = |host, path: &str| table.find(host, path.as_bytes());
        assert_eq!(find("a.example", "/api"), Some(0));
        assert_eq!(find("a.example", "/api/x"), Some(0));
        assert_eq!(find("a.example", "/api?x"), Some(0));
        assert_eq!(find("a.example", "/apix"), Some(2));
        assert_eq!(find("a.example", "/API"), Some(2));
        assert_eq!(find("a.example", "/%61pi"), Some(2));
        assert_eq!(find("b.example", "/api"), Some(2));
        assert_eq!(find("b.example", "/api/"), Some(1));
        assert_eq!(find("c.b.example", "/api/"), Some(2));
        assert_eq!(RouteTable::new(&routes[..2]).find("c.b.example", b"/"), None);
    }

    /// Oracle: all routes, one after the other.
    #[test]
    fn the_table_finds_the_same_route_as_a_linear_search() {
        use rand::{Rng as _, SeedableRng as _};
        const NAMES: [&str; 6] = ["a", "b.a", "c.b.a", "d.a", ".a", "x"];
        const PREFIXES: [&str; 5] = ["/", "/p", "/p/", "/p/q", "/q"];
        const PATHS: [&str; 6] = ["/", "/p", "/p/", "/p/q?r", "/pq", "/q/p"];
        let mut dice = rand::rngs::SmallRng::seed_from_u64(3);
        let mut found = [0, 0];
        for _ in 0..2_000 {
            let routes: Vec<Route> = (0..dice.random_range(0..12))
                .map(|upstream| {
                    let name = NAMES[dice.random_range(0..NAMES.len())].to_owned();
                    let host = match dice.random_range(0..3) {
                        0 => None,
                        1 => Some(HostPattern::Exact(name)),
                        _ => Some(HostPattern::Wildcard(name)),
                    };
                    let path_prefix = PREFIXES[dice.random_range(0..PREFIXES.len())].to_owned();
                    let request_timeout = None;
                    Route { host, path_prefix, upstream, request_timeout, needs_certificate: false }
                })
                .collect();
            let table = RouteTable::new(&routes);
            for host in NAMES {
                for path in PATHS.map(str::as_bytes) {
                    let expected = routes.iter().position(|route| {
                        route.host.as_ref().is_none_or(|pattern| pattern.matches(host))
                            && prefix_matches(route.path_prefix.as_bytes(), path)
                    });
                    assert_eq!(table.find(host, path), expected, "{host} in {routes:?}");
                    found[usize::from(expected.is_some())] += 1;
                }
            }
        }
        assert!(found.iter().all(|count| *count > 1_000), "{found:?}");
    }
}
