//! Checks across sections: distinct names and addresses, and references between sections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use super::bounds::ADDRESS_COUNT_MAX;
use super::model::{ClientAuthDemand, Config, HostPattern, Listener, Route, Upstream};
use super::reader::{Item, nearest};

/// A value and its item in the file.
pub(super) struct Found<'a, T> {
    pub(super) value: T,
    pub(super) item: Item<'a>,
}

/// A name that refers to another section, and its place in the file.
pub(super) struct Reference {
    pub(super) name: String,
    pub(super) span: Range<usize>,
    pub(super) key: String,
}

/// A route whose upstream is not resolved yet.
pub(super) struct NamedRoute {
    pub(super) host: Option<HostPattern>,
    pub(super) path_prefix: String,
    pub(super) upstream: Reference,
    pub(super) request_timeout: Option<Duration>,
    pub(super) needs_certificate: bool,
}

/// Checks that names and addresses are distinct over all listeners.
pub(super) fn listeners(listeners: &[Found<Listener>]) {
    let mut names: BTreeMap<&str, &str> = BTreeMap::new();
    let mut addresses: BTreeMap<SocketAddr, &str> = BTreeMap::new();
    for found in listeners {
        let key = found.item.key.as_str();
        if let Some(first) = names.insert(&found.value.name, key) {
            let name = &found.value.name;
            found.item.refuse(format_args!("has the same name as {first}, {name:?}; rename one"));
        }
        for address in &found.value.addresses {
            if let Some(first) = addresses.insert(*address, key) {
                found.item.refuse(format_args!(
                    "listens on {address}, as {first} does; an address belongs to one listener"
                ));
            }
        }
    }
    let count = addresses.len();
    if count > ADDRESS_COUNT_MAX {
        listeners[0].item.refuse(format_args!(
            "and the other listeners have {count} addresses, but at most {ADDRESS_COUNT_MAX} are \
             allowed, as each needs a socket per worker; listen on \"0.0.0.0\" and \"[::]\" instead"
        ));
    }
}

/// Resolves the upstreams of routes, and checks that every route can match.
pub(super) fn routes(routes: Vec<Found<NamedRoute>>, upstreams: &[Found<Upstream>]) -> Vec<Route> {
    for (index, later) in routes.iter().enumerate() {
        let earlier =
            routes[..index].iter().find(|earlier| takes_all(&earlier.value, &later.value));
        if let Some(earlier) = earlier {
            later.item.refuse(format_args!(
                "can never match: {} comes before it and takes all of its requests; put this one \
                 first, or delete it",
                earlier.item.key
            ));
        }
    }
    let names: Vec<&str> = upstreams.iter().map(|found| found.value.name.as_str()).collect();
    let mut resolved = Vec::new();
    for found in routes {
        let NamedRoute { host, path_prefix, upstream, request_timeout, needs_certificate } =
            found.value;
        let Reference { name, span, key } = upstream;
        match names.binary_search(&name.as_str()) {
            Ok(upstream) => {
                resolved.push(Route {
                    host,
                    path_prefix,
                    upstream,
                    request_timeout,
                    needs_certificate,
                });
            }
            Err(_) => {
                let way_out = match nearest(&name, &names) {
                    Some(near) => format!("did you mean \"{near}\"?"),
                    None => format!("write [upstreams.{name}]"),
                };
                let message = format!("is {name:?}, which is not an upstream; {way_out}");
                found.item.reader().refuse(&span, &key, message);
            }
        }
    }
    resolved
}

/// Returns true if `earlier` matches every request that `later` matches.
fn takes_all(earlier: &NamedRoute, later: &NamedRoute) -> bool {
    let host = match (&earlier.host, &later.host) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(later)) if earlier == later => true,
        (Some(earlier), Some(HostPattern::Exact(name))) => earlier.matches(name),
        (Some(_), Some(HostPattern::Wildcard(_))) => false,
    };
    let rest = later.path_prefix.strip_prefix(&earlier.path_prefix);
    let path = earlier.path_prefix == "/"
        || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    host && path
}

impl Config {
    /// Returns what is valid, and may mean something else than was intended.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.limits.request_body_len_max == 0 {
            warnings.push(
                "limits.max_body_size is 0, so every request with a body is answered with 413. \
                 For no limit, which 0 is in nginx, write \"unlimited\""
                    .to_owned(),
            );
        }
        let asks = |listener: &&Listener| listener.client_auth().is_some();
        let requires = |listener: &&Listener| {
            let auth = listener.client_auth();
            auth.is_some_and(|auth| auth.demand == ClientAuthDemand::Require)
        };
        let serves = |listener: &&Listener| listener.redirect_to_https.is_none();
        let open = self.listeners.iter().filter(serves).find(|listener| !requires(listener));
        let guarded = self.listeners.iter().find(requires);
        let is_open = |route: &Route| !route.needs_certificate;
        if let (Some(open), Some(guarded)) = (open, guarded)
            && self.routes.iter().any(is_open)
        {
            warnings.push(format!(
                "the listener {:?} requires certificates of its clients, and {:?} does not: all \
                 routes are served on both. Set client_auth = \"require\" in the routes that only \
                 clients with a certificate may use",
                guarded.name, open.name
            ));
        }
        if self.routes.iter().any(|route| route.needs_certificate)
            && !self.listeners.iter().any(|listener| asks(&listener))
        {
            warnings.push(
                "a route has client_auth = \"require\", but no listener asks its clients for \
                 certificates, so its requests are answered with 403; set client_auth.mode of \
                 [listeners.tls]"
                    .to_owned(),
            );
        }
        warnings
    }
}
