//! The fields that are forwarded in each direction (RFC 9110 7.6.1), and those that the gateway
//! writes itself.
//!
//! | from the client | treatment |
//! |---|---|
//! | `connection`, the fields it names, hop-by-hop, `te`, `proxy` | dropped |
//! | `early-data` | written if the request came in early data, or a trusted proxy says so |
//! | `host`, `content-length` | written from the values that the request was routed by |
//! | `expect` | dropped: the gateway takes the body itself and sends the 100 itself |
//! | `cookie` lines | joined into one (RFC 9114 4.2.1) |
//! | proxy fields (`x-forwarded-*`, `true-client-ip`, ..) | accepted from trusted proxies only |
//! | all others | forwarded unchanged |
//!
//! Names with an underscore do not occur: a request with one is refused when its head is read
//! ([`crate::message::Head`]).

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::{MAX_FORWARDS, VIA};
use http::{HeaderValue, Method};

use super::api::Request;
use super::forwarding::put_forwarding;
use crate::http1::{ConnectionOptions, Framing, put_field, put_framing, put_request_line};
use crate::message::{Fields, Head};

/// Writes a request's head for an upstream whose Host is `host`.
pub(crate) fn encode_head(
    request: &Request,
    host: &[u8],
    framing: Framing,
    trusted: bool,
) -> Bytes {
    let mut out = BytesMut::with_capacity(head_len_estimate(request));
    put_request_line(&mut out, &request.head.method, request.head.path());
    put_field(&mut out, "host", host);
    put_request_fields(&mut out, request, trusted);
    put_framing(&mut out, framing);
    out.freeze()
}

/// Returns an estimate of the head's length: the client's bytes and the gateway's own lines.
fn head_len_estimate(request: &Request) -> usize {
    let line_len = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        name.as_str().len() + value.len() + b": \r\n".len()
    };
    let certificate = request.sender.certificate.iter();
    let own = certificate.flat_map(|certificate| &certificate.fields);
    let fields_len: usize = request.head.fields.iter().chain(own).map(line_len).sum();
    request.head.path().len() + fields_len + 3 * request.head.authority().as_bytes().len() + 320
}

/// Returns whether the field concerns one connection only (RFC 9110 7.6.1).
fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "transfer-encoding"
            | "upgrade"
            | "te"
            | "http2-settings"
            | "proxy-authorization"
    )
}

/// Returns whether the gateway drops this field of a request, or writes it itself.
fn is_own_of_request(name: &str) -> bool {
    matches!(
        name,
        "host"
            | "content-length"
            | "expect"
            | "proxy"
            | "early-data"
            | "cookie"
            | "x-forwarded-for"
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-real-ip"
            | "forwarded"
            | "via"
    )
}

/// Returns whether the client waits for 100 (Continue) (RFC 9110 10.1.1).
pub(crate) fn expects_continue(fields: &Fields) -> bool {
    let mut expectations = fields.iter().filter(|(name, _)| name == http::header::EXPECT);
    expectations.any(|(_, value)| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// Returns how often an OPTIONS request may still be forwarded (RFC 9110 7.6.2), or an error if the
/// value is not a number.
pub(crate) fn max_forwards(head: &Head) -> Result<Option<u64>, &'static str> {
    let Some((_, value)) = head.fields.iter().find(|(name, _)| name == MAX_FORWARDS) else {
        return Ok(None);
    };
    let is_digits = !value.is_empty() && value.as_bytes().iter().all(u8::is_ascii_digit);
    let text = value.to_str().ok().filter(|_| is_digits).ok_or("max-forwards is not a number")?;
    // RFC 9110 7.6.2 allows a recipient to have a maximum of its own.
    Ok(Some(text.parse().unwrap_or(u64::MAX)))
}

/// Writes the fields of a request for an upstream, except Host and framing.
fn put_request_fields(out: &mut BytesMut, request: &Request, trusted: bool) {
    let nominated =
        ConnectionOptions::read(&request.head.fields).expect("checked when it was admitted");
    let mut has_cookie = false;
    for (name, value) in &request.head.fields {
        let name = name.as_str();
        has_cookie |= name == "cookie" && !nominated.nominates(name);
        let dropped = is_hop_by_hop(name) || is_own_of_request(name) || nominated.nominates(name);
        if dropped {
            continue;
        }
        let left = match request.head.method {
            Method::OPTIONS if name == MAX_FORWARDS => max_forwards(&request.head).ok().flatten(),
            _ => None,
        };
        match left {
            Some(left) => put_field(out, name, left.saturating_sub(1).to_string().as_bytes()),
            None => put_field(out, name, value.as_bytes()),
        }
    }
    if has_cookie {
        // RFC 9114 4.2.1: split cookie lines are joined before they are passed to another protocol.
        put_joined_line(out, request, "cookie", b"; ");
    }
    put_forwarding(out, request, trusted);
    if let Some(certificate) = &request.sender.certificate {
        for (name, value) in &certificate.fields {
            put_field(out, name.as_str(), value.as_bytes());
        }
    }
    put_early_data(out, request, trusted);
}

/// Marks a request that may be a copy of an earlier one (RFC 8470 5.1). Whatever value a trusted
/// proxy has written means the same.
fn put_early_data(out: &mut BytesMut, request: &Request, trusted: bool) {
    let told = || request.head.fields.iter().any(|(name, _)| name == "early-data");
    if request.sender.is_early || trusted && told() {
        put_field(out, "early-data", b"1");
    }
}

/// Writes one field line with all values of `name`.
pub(super) fn put_joined_line(out: &mut BytesMut, request: &Request, name: &str, separator: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    put_joined(out, request, name, separator);
    out.put_slice(b"\r\n");
}

/// Writes all values of `name`, joined.
pub(super) fn put_joined(out: &mut BytesMut, request: &Request, name: &str, separator: &[u8]) {
    let values = request.head.fields.iter().filter(|(key, _)| key == name);
    for (index, (_, value)) in values.enumerate() {
        if index > 0 {
            out.put_slice(separator);
        }
        out.put_slice(value.as_bytes());
    }
}

/// Removes the upstream's fields that are for the gateway only, and adds Via.
pub(crate) fn clean_response(fields: &mut Fields, nominated: &ConnectionOptions) {
    fields.retain(|(name, _)| {
        let name = name.as_str();
        // content-length belongs to the message, even if `connection` names it.
        !is_hop_by_hop(name) && (name == "content-length" || !nominated.nominates(name))
    });
    fields.push((VIA, HeaderValue::from_static("1.1 ringway")));
}

/// Returns the trailer fields that may be forwarded, if there are any. Fields for framing, routing
/// and authentication, and those that describe content already read, may not (RFC 9110 6.5.1).
pub(crate) fn clean_trailers(mut fields: Fields) -> Option<Fields> {
    fields.retain(|(name, _)| {
        let name = name.as_str();
        let forbidden = is_hop_by_hop(name)
            || is_own_of_request(name)
            || name.starts_with("content-")
            || matches!(
                name,
                "authorization"
                    | "proxy-authenticate"
                    | "www-authenticate"
                    | "set-cookie"
                    | "cache-control"
                    | "max-forwards"
                    | "range"
                    | "trailer"
                    | "location"
                    | "vary"
                    | "age"
                    | "expires"
            );
        !forbidden
    });
    (!fields.is_empty()).then_some(fields)
}
