//! Parsers of host patterns, path prefixes, addresses, accounts and congestion controls.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use super::model::{
    AccessTarget, Account, AdminAddress, EndpointAddress, HostPattern, NamedAddresses,
};
use super::reader::quoted;
use super::{Accounts, Surroundings};

/// Parses `example.com` or `*.example.com`. Labels are those of RFC 1123 2.1, and underscores,
/// which are in use.
pub(super) fn host_pattern(text: &str) -> Result<HostPattern, String> {
    let lower = text.to_ascii_lowercase();
    if lower.parse::<SocketAddr>().is_ok()
        || lower.rsplit_once(':').is_some_and(|(_, port)| {
            !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
        })
    {
        return Err(format!("is {text:?}, but a host is written without a port"));
    }
    let (wildcard, name) = match lower.strip_prefix("*.") {
        Some(parent) => (true, parent),
        None => (false, lower.as_str()),
    };
    if !name.is_ascii() {
        return Err(format!(
            "is {text:?}; write an international name in its ASCII form, as \"xn--bcher-kva.ch\""
        ));
    }
    if name.ends_with('.') {
        return Err(format!("is {text:?}; leave out the dot at the end"));
    }
    if name.contains('*') {
        return Err(format!(
            "is {text:?}; a \"*\" stands for the first label only, as in \"*.example.com\""
        ));
    }
    let label_fits = |label: &str| {
        let plain = label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        (1..=63).contains(&label.len()) && plain && !label.starts_with('-') && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(label_fits) {
        return Err(format!(
            "is {text:?}, which is not a host name; write it like \"example.com\" or \
             \"*.example.com\""
        ));
    }
    let name = name.to_owned();
    Ok(if wildcard { HostPattern::Wildcard(name) } else { HostPattern::Exact(name) })
}

/// A name or an address that a certificate is for.
pub(super) enum CertificateHost {
    Name(HostPattern),
    Address(IpAddr),
}

/// Parses a host pattern or an IP address; an IPv6 address may stand in brackets, as in a URL.
pub(super) fn certificate_host(text: &str) -> Result<CertificateHost, String> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let address = match bare {
        Some(bare) => bare.parse().ok().map(IpAddr::V6),
        None => text.parse().ok(),
    };
    match address {
        Some(address) => Ok(CertificateHost::Address(address)),
        None => host_pattern(text).map(CertificateHost::Name),
    }
}

/// Parses the name of a field.
pub(super) fn field_name(text: &str) -> Result<String, String> {
    let lower = text.to_ascii_lowercase();
    if lower.contains('_') {
        return Err(format!(
            "is {text:?}; requests with an underscore in a field name are always refused"
        ));
    }
    match http::HeaderName::from_bytes(lower.as_bytes()) {
        Ok(_) => Ok(lower),
        Err(_) => {
            Err(format!("is {text:?}, which is not a field name; write it like \"x-tenant\""))
        }
    }
}

/// Parses the name of a field that any client may send. Those that the gateway writes itself are
/// refused.
pub(super) fn passed_field_name(text: &str) -> Result<String, String> {
    const OWN: [&str; 6] = [
        "x-forwarded-for",
        "x-forwarded-proto",
        "x-forwarded-host",
        "x-real-ip",
        "forwarded",
        "via",
    ];
    let name = field_name(text)?;
    if OWN.contains(&name.as_str()) {
        return Err(format!(
            "is {text:?}, which tells upstreams who the client is; whoever may send it belongs \
             into trusted_proxies"
        ));
    }
    Ok(name)
}

/// Parses the name of a field that the gateway writes for an upstream, which must have no other
/// meaning.
pub(super) fn written_field_name(text: &str) -> Result<String, String> {
    const TAKEN: [&str; 20] = [
        "authorization",
        "connection",
        "content-length",
        "content-type",
        "cookie",
        "expect",
        "forwarded",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "via",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-proto",
        "x-real-ip",
    ];
    let name = field_name(text)?;
    if TAKEN.contains(&name.as_str()) {
        return Err(format!(
            "is {text:?}, which means something else; choose a name like \"x-client-subject\""
        ));
    }
    Ok(name)
}

/// Parses `/` or `/one/two`: whole segments of visible ASCII, as clients send them.
pub(super) fn path_prefix(text: &str) -> Result<String, String> {
    let refusal = if !text.starts_with('/') {
        "must start with \"/\""
    } else if text.bytes().any(|byte| !byte.is_ascii_graphic()) {
        "must be visible ASCII; write other characters percent-encoded, as clients send them"
    } else if text.contains(['?', '#']) {
        "must be a path only; queries are not matched"
    } else if text != "/" && text.ends_with('/') {
        "must not end in \"/\": a prefix matches whole segments, \"/api\" takes \"/api\" and \
         \"/api/...\" but not \"/apis\""
    } else if text != "/" && text[1..].split('/').any(str::is_empty) {
        "must not hold an empty segment (\"//\")"
    } else if text.split('/').any(is_dot_segment) {
        "must not hold \".\" or \"..\" segments: such requests are answered with 400"
    } else {
        return Ok(text.to_owned());
    };
    Err(format!("is {text:?}, but {refusal}"))
}

/// Returns true for `.` and `..`, plain or percent-encoded (RFC 3986 3.3, 6.2.2.3).
fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

/// Parses `ip:port`; the port is not 0.
pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    let address: SocketAddr = text.parse().map_err(|_| {
        let why = if text.parse::<IpAddr>().is_ok() {
            "the port is missing"
        } else {
            "not an IP address with a port"
        };
        format!("is {text:?}: {why}; write it like \"0.0.0.0:443\" or \"[::]:443\"")
    })?;
    if address.port() == 0 {
        return Err(format!("is {text:?}, but clients cannot connect to port 0"));
    }
    Ok(address)
}

/// Parses `[admin] listen`, except for `off`.
pub(super) fn admin_address(text: &str, folder: &Path) -> Result<AdminAddress, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return unix_path(text, path, folder).map(AdminAddress::Unix);
    }
    socket_address(text).map(AdminAddress::Tcp).map_err(|message| {
        format!("{message}, or like \"unix:/run/ringway/admin.sock\", or \"off\"")
    })
}

/// Parses `log.access.path`. Every name of a standard stream means the stream that the process has:
/// a path to it can be opened again only by its owner, and not at all if it is a socket.
pub(super) fn log_target(text: &str, folder: &Path) -> Result<AccessTarget, String> {
    match text {
        "" => Err("must be a path, \"stdout\" or \"stderr\", but it is empty".to_owned()),
        "stdout" | "-" | "/dev/stdout" | "/dev/fd/1" | "/proc/self/fd/1" => {
            Ok(AccessTarget::Stdout)
        }
        "stderr" | "/dev/stderr" | "/dev/fd/2" | "/proc/self/fd/2" => Ok(AccessTarget::Stderr),
        path => Ok(AccessTarget::File(folder.join(path))),
    }
}

/// Longest path of a unix socket: `sun_path` holds 108 bytes with the closing zero (unix(7)).
const UNIX_PATH_LEN_MAX: usize = 107;

fn unix_path(text: &str, path: &str, folder: &Path) -> Result<std::path::PathBuf, String> {
    if path.is_empty() {
        return Err(format!("is {text:?}; write a path after \"unix:\""));
    }
    let path = folder.join(path);
    let len = path.as_os_str().len();
    if len > UNIX_PATH_LEN_MAX {
        return Err(format!(
            "is {text:?}, a path of {len} bytes, but a unix socket's path has at most \
             {UNIX_PATH_LEN_MAX}"
        ));
    }
    Ok(path)
}

/// An endpoint's name, if it has one, and the address of each endpoint that it stands for.
pub(super) type NameAndAddresses = (Option<Arc<str>>, Vec<EndpointAddress>);

/// Parses `ip:port`, `unix:/path` or `name:port`. A name stands for an endpoint for each address of
/// the family of the resolver's first one. Each has the addresses of the other family to fall back
/// on.
pub(super) fn endpoint_addresses(
    text: &str,
    folder: &Path,
    surroundings: &Surroundings,
) -> Result<NameAndAddresses, String> {
    if let Some(path) = text.strip_prefix("unix:") {
        return Ok((None, vec![EndpointAddress::Unix(unix_path(text, path, folder)?)]));
    }
    if let Some(rest) = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")) {
        return Err(format!("is {text:?}; leave the scheme out, as in {rest:?}"));
    }
    if text.parse::<SocketAddr>().is_ok() || text.parse::<IpAddr>().is_ok() {
        return socket_address(text).map(|address| (None, vec![EndpointAddress::Tcp(address)]));
    }
    let form = "\"127.0.0.1:8080\", \"app.internal:8080\" or \"unix:/run/app.sock\"";
    let Some((name, port)) = text.rsplit_once(':') else {
        return Err(format!("is {text:?}, but the port is missing; write it like {form}"));
    };
    let port = port.parse().ok().filter(|port| *port != 0);
    let is_name = matches!(host_pattern(name), Ok(HostPattern::Exact(_)));
    let (Some(port), true) = (port, is_name) else {
        return Err(format!("is {text:?}, but must be an address; write it like {form}"));
    };
    let resolved: io::Result<Vec<SocketAddr>> = (surroundings.resolve)(name, port);
    let why = match resolved {
        Ok(addresses) if addresses.is_empty() => "it has no address".to_owned(),
        Ok(addresses) => return Ok((Some(text.into()), of_name(text, &addresses))),
        Err(error) => error.to_string(),
    };
    Err(format!(
        "is {text:?}, whose name cannot be resolved ({why}); names are resolved when the \
         configuration is loaded: correct it, or write the IP address"
    ))
}

/// Parses `user` or `user:group`, each a name or a number. Without a group it is the user's own.
pub(super) fn account(text: &str, accounts: &Accounts) -> Result<Account, String> {
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let refusal = |why: &str| Err(format!("is {text:?}, but {why}"));
    let unknown = |error: io::Error| format!("is {text:?}, which cannot be looked up: {error}");
    let known = (accounts.user)(user).map_err(unknown)?;
    let Some(uid) = known.map(|ids| ids.uid).or_else(|| number(user)) else {
        return refusal(&format!(
            "this host has no user {user:?}; make one (`useradd --system --user-group \
             --no-create-home --shell /usr/sbin/nologin {user}`), or write a number"
        ));
    };
    let gid = match group {
        None => known.map(|ids| ids.gid),
        Some(group) => (accounts.group)(group).map_err(unknown)?.or_else(|| number(group)),
    };
    match (gid, group) {
        (Some(0), _) => refusal("group 0 is root's; write another one, as in \"ringway:ringway\""),
        (Some(_), _) if uid == 0 => refusal("user 0 is root; leave the key out to stay root"),
        (Some(gid), _) => Ok(Account { name: text.to_owned(), uid, gid }),
        (None, Some(group)) => refusal(&format!(
            "this host has no group {group:?}; make one (`groupadd --system {group}`), or write a \
             number"
        )),
        (None, None) => refusal(&format!(
            "this host does not know the group of user {user}; write it, as in \"{user}:{user}\""
        )),
    }
}

/// Parses the number of a user or group. The highest one stands for "none" in the kernel.
fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number != u32::MAX)
}

/// Parses the kernel's name of a congestion control that TCP may use; `None` for "system".
pub(super) fn tcp_congestion(
    text: &str,
    surroundings: &Surroundings,
) -> Result<Option<Arc<str>>, String> {
    if text == "system" {
        return Ok(None);
    }
    let allowed = (surroundings.tcp_congestions)();
    let allowed: Option<Vec<&str>> = allowed.as_deref().map(|all| all.split_whitespace().collect());
    match allowed {
        Some(allowed) if !allowed.contains(&text) => Err(format!(
            "is {text:?}, but must be \"system\" or one that this kernel lets TCP use ({}); \
             sysctl net.ipv4.tcp_allowed_congestion_control allows more",
            quoted(&allowed, " or ")
        )),
        _ => Ok(Some(text.into())),
    }
}

/// Returns the endpoints of a name with these addresses, at least one. Those of the other family
/// begin with another one for each endpoint, so that they share the load if the first family fails.
fn of_name(label: &str, addresses: &[SocketAddr]) -> Vec<EndpointAddress> {
    let is_first_ipv4 = addresses[0].is_ipv4();
    let (mut first, mut other) = (Vec::new(), Vec::new());
    for address in addresses {
        let family = if address.is_ipv4() == is_first_ipv4 { &mut first } else { &mut other };
        if !family.contains(address) {
            family.push(*address);
        }
    }
    if other.is_empty() {
        return first.into_iter().map(EndpointAddress::Tcp).collect();
    }
    let is_alone = first.len() == 1;
    let named = first.into_iter().enumerate().map(|(index, address)| {
        let label = if is_alone { label.to_owned() } else { format!("{label}#{}", index + 1) };
        let mut addresses = vec![address];
        addresses.extend(other.iter().cycle().skip(index % other.len()).take(other.len()));
        EndpointAddress::Named(NamedAddresses { label: label.into(), addresses: addresses.into() })
    });
    named.collect()
}
