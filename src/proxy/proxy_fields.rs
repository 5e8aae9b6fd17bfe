//! Proxy fields: those by which a proxy tells an upstream what it knows of a request, such as the
//! client's address or identity, or the target or method that is really meant. Upstreams believe
//! them, so only a trusted proxy may send them. Those of all others are dropped and counted, from
//! trailers too: many servers merge trailers into the fields of the head.

use crate::config;
use crate::message::Fields;
use crate::metrics::{ProxyField, ProxyFieldsDropped};

/// Drops the proxy fields of a client that is no trusted proxy.
pub(super) fn drop_proxy_fields(
    fields: &mut Fields,
    configured: &config::ProxyFields,
    dropped: &mut ProxyFieldsDropped,
) {
    fields.retain(|(name, _)| match kind_of(name.as_str(), configured) {
        Some(kind) => {
            dropped.count(kind, 1);
            false
        }
        None => true,
    });
}

/// Drops the fields that tell upstreams about certificates of clients of `listener`, also where a
/// client has shown none.
pub(super) fn drop_client_fields(
    fields: &mut Fields,
    listener: &config::Listener,
    dropped: &mut ProxyFieldsDropped,
) {
    let Some(auth) = listener.client_auth().filter(|auth| !auth.fields.is_empty()) else { return };
    fields.retain(|(name, _)| {
        let is_own = auth.fields.iter().any(|(_, own)| own == name.as_str());
        if is_own {
            dropped.count(ProxyField::Identity, 1);
        }
        !is_own
    });
}

/// Returns the kind of a proxy field, or `None` for all other fields.
fn kind_of(name: &str, configured: &config::ProxyFields) -> Option<ProxyField> {
    let is_in = |names: &[String]| names.iter().any(|known| known == name);
    let kind = known(name).or_else(|| is_in(&configured.add).then_some(ProxyField::Added));
    kind.filter(|_| !is_in(&configured.pass))
}

/// Returns the kind of a field that is in use as a proxy field somewhere. README.md has this list
/// too.
#[rustfmt::skip]
fn known(name: &str) -> Option<ProxyField> {
    let kind = match name {
        _ if name.starts_with("x-forwarded-") => ProxyField::Forwarding,
        "forwarded" | "via" | "x-real-ip" | "x-original-forwarded-for" => ProxyField::Forwarding,

        "true-client-ip" | "client-ip" | "x-client-ip" | "x-cluster-client-ip"
        | "x-originating-ip" | "x-remote-ip" | "x-remote-addr" | "proxy-client-ip"
        | "wl-proxy-client-ip" | "x-proxyuser-ip"
        | "cf-connecting-ip" | "cf-connecting-ipv6" | "cf-pseudo-ipv4" | "fastly-client-ip"
        | "fly-client-ip" | "do-connecting-ip" | "x-azure-clientip" | "x-azure-socketip"
        | "x-appengine-user-ip" | "x-envoy-external-address" => ProxyField::Address,

        "x-original-url" | "x-rewrite-url" | "x-original-uri" | "x-original-host" | "x-host"
        | "x-http-host-override" => ProxyField::Target,

        "x-http-method-override" | "x-http-method" | "x-method-override"
        | "x-original-method" => ProxyField::Method,

        // RFC 9440 2.4: a proxy that does not set these removes them.
        "client-cert" | "client-cert-chain" | "x-client-cert" | "ssl-client-cert"
        | "x-ssl-client-cert" | "x-ssl-client-verify" | "x-ssl-client-dn" | "x-client-verify"
        | "x-client-dn" | "remote-user" | "x-remote-user" | "x-remote-group"
            => ProxyField::Identity,

        _ => return None,
    };
    Some(kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_in_the_readme_is_true() {
        let readme = include_str!("../../README.md");
        let mut count = 0;
        for (label, kind) in [
            ("forwarding", ProxyField::Forwarding),
            ("address", ProxyField::Address),
            ("target", ProxyField::Target),
            ("method", ProxyField::Method),
            ("identity", ProxyField::Identity),
        ] {
            let row = format!("| `{label}` | ");
            let row = readme.lines().find_map(|line| line.strip_prefix(&row)).expect(label);
            for name in row.trim_end_matches(" |").split(", ").map(|name| name.trim_matches('`')) {
                assert_eq!(known(&name.replace('*', "any")), Some(kind), "{name}");
                count += 1;
            }
        }
        assert_eq!(count, 47);
        for name in ["accept", "x-request-id", "forwarded-for", "x-forwarded", "authorization"] {
            assert_eq!(known(name), None, "{name}");
        }
    }
}
