//! A request's head.

use http::{HeaderName, HeaderValue, Method, StatusCode, header};

use super::target::{Authority, BrokenRule, Scheme, Target};
use super::{Fields, Refusal, Understood};

/// The head of a request, whichever protocol it came over.
///
/// It holds each fact once: `host` and `content-length` are not among the fields, so that no later
/// code can read a conflicting value.
#[derive(Debug, Clone, PartialEq)]
pub struct Head {
    pub method: Method,
    pub target: Target,
    /// All fields but `host` and `content-length`, in order. No name holds an underscore.
    pub fields: Fields,
    /// The value of `content-length`, if the client sent one.
    pub content_length: Option<u64>,
}

impl Head {
    /// Returns the authority that the request names.
    pub fn authority(&self) -> &Authority {
        match &self.target {
            Target::Origin { authority, .. }
            | Target::Asterisk { authority, .. }
            | Target::Connect { authority } => authority,
        }
    }

    /// Returns the request target as HTTP/1.1 writes it (RFC 9112 3.2): path and query, or `*`.
    /// CONNECT is never forwarded; its target has no path.
    pub fn path(&self) -> &[u8] {
        match &self.target {
            Target::Origin { path, .. } => path.as_bytes(),
            Target::Asterisk { .. } => b"*",
            Target::Connect { .. } => b"",
        }
    }

    /// Returns the scheme that the client named. CONNECT has none, and is refused before its scheme
    /// would matter.
    pub fn scheme(&self) -> Scheme {
        match self.target {
            Target::Origin { scheme, .. } | Target::Asterisk { scheme, .. } => scheme,
            Target::Connect { .. } => Scheme::Https,
        }
    }

    /// Replaces the scheme that the client named with that of its connection.
    pub fn set_scheme(&mut self, proven: Scheme) {
        match &mut self.target {
            Target::Origin { scheme, .. } | Target::Asterisk { scheme, .. } => *scheme = proven,
            Target::Connect { .. } => {}
        }
    }

    /// Returns the parts of the head that a log line shows.
    pub fn understood(self) -> Understood {
        let (authority, path) = (self.authority().as_bytes(), self.path());
        Understood::new(Some(self.method.clone()), Some(authority), Some(path))
    }
}

/// The methods of RFC 9110 9.3, PATCH (RFC 5789) and QUERY: those that readers of a request
/// recognise, so that it matters to them which of these it is.
const STANDARD_METHODS: [Method; 10] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::DELETE,
    Method::CONNECT,
    Method::OPTIONS,
    Method::TRACE,
    Method::PATCH,
    Method::QUERY,
];

/// Refuses a method that differs from a standard one in case only.
///
/// Methods are case-sensitive (RFC 9110 9.1), so `head` is an unknown method here and would be
/// forwarded. An upstream that ignores case responds to it as to HEAD, without the content that its
/// response announces, and takes `connect` for a tunnel.
pub(crate) fn check_method_case(method: &Method) -> Result<(), BrokenRule> {
    let differs_in_case = |standard: &Method| {
        standard != method && standard.as_str().eq_ignore_ascii_case(method.as_str())
    };
    if STANDARD_METHODS.iter().any(differs_in_case) {
        return Err(BrokenRule("the method is a standard one in the wrong case; use upper case"));
    }
    Ok(())
}

/// Refuses a field name with an underscore.
///
/// Many upstreams cannot tell it from a hyphen: CGI and its successors write both `x_y` and `x-y`
/// as `X_Y` (RFC 3875 4.1.18). Such a field could pass for one that the gateway writes or drops.
pub(crate) fn check_field_name(name: &HeaderName) -> Result<(), BrokenRule> {
    if name.as_str().contains('_') {
        return Err(BrokenRule(
            "a field name holds an underscore, which upstreams take for a hyphen; rename the field",
        ));
    }
    Ok(())
}

/// Refuses an expectation other than 100-continue (RFC 9110 10.1.1). No upstream would see it: the
/// gateway meets expectations itself.
pub(crate) fn check_expectation(value: &HeaderValue) -> Result<(), Box<Refusal>> {
    if !value.as_bytes().eq_ignore_ascii_case(b"100-continue") {
        let rule = "an expectation other than 100-continue";
        return Err(Box::new(Refusal::new(StatusCode::EXPECTATION_FAILED, rule)));
    }
    Ok(())
}

/// Returns whether the field concerns one connection only (RFC 9110 7.6.1), and so is malformed in
/// HTTP/3 (RFC 9114 4.2).
pub(crate) fn is_connection_specific(name: &HeaderName) -> bool {
    // Standard names compare as integers; the two others compare bytes.
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Returns whether the field is for framing or routing, and so not allowed in trailers (RFC 9110
/// 6.5.1).
pub(crate) fn belongs_to_head(name: &HeaderName) -> bool {
    [header::CONTENT_LENGTH, header::HOST, header::TE].contains(name)
}

/// Returns whether a method is safe: a request with it changes nothing (RFC 9110 9.2.1), as
/// registered with IANA.
pub(crate) fn is_safe(method: &Method) -> bool {
    method.is_safe() || matches!(method.as_str(), "PROPFIND" | "QUERY" | "REPORT" | "SEARCH")
}

/// Parses a `content-length` (RFC 9110 8.6): digits only. A list of equal values is refused rather
/// than repaired.
pub(crate) fn parse_content_length(value: &[u8]) -> Result<u64, BrokenRule> {
    let is_digits = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
    let text = std::str::from_utf8(value).ok().filter(|_| is_digits);
    text.and_then(|digits| digits.parse().ok())
        .ok_or(BrokenRule("content-length is no number of 64 bits"))
}
