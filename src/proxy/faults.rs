//! The responses that the gateway generates itself: each has a status, a Proxy-Status (RFC 9209)
//! and a short text.

use std::borrow::Cow;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};

use super::api::{Resource, TransportFault};
use crate::message::{Bound, Ending, Fields, Head, Outcome};

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The reason for a response of the gateway's own, or for resetting a response that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request breaks this rule.
    BadRequest(&'static str),
    /// The listener redirects to `https` at this port.
    Redirect(u16),
    /// No route matches.
    NoRoute,
    /// The route needs a certificate of the client, and the connection has none.
    NoClientCertificate,
    /// The client's body paused too long, or came too slowly.
    RequestTimeout,
    /// The body is longer than allowed.
    RequestTooLarge(Bound),
    /// The method is not implemented, for this reason.
    NotImplemented(&'static str),
    /// The connection's certificate does not cover the authority.
    Misdirected,
    /// The client's address has as many requests in flight as it may.
    TooManyRequests(Bound),
    /// The worker has no time or no memory left for the request.
    Overloaded,
    /// The request was refused before its head was accepted (400, 408, 431).
    Refused(StatusCode, Ending),
    /// No endpoint could be connected to, or none in time.
    Connect(TransportFault),
    /// Every connection is in use and the queue is full.
    QueueFull,
    /// Every connection stayed in use until the queue timeout.
    QueueTimeout,
    /// The connection broke before a byte of a response.
    Terminated,
    /// The connection broke before the response was complete.
    Incomplete,
    /// The response breaks this rule of HTTP.
    Protocol(&'static str),
    /// The response's head is longer than allowed.
    HeadTooLong(Bound),
    /// The response, or the rest of it, did not come in time.
    ResponseTimeout,
    /// The upstream did not take the request in time.
    WriteTimeout,
    /// The client took nothing of the response for too long, or took it too slowly.
    ResponseStalled,
    /// The exchange took longer than its route allows.
    Deadline,
}

/// Returns the URL of a request's target at `https` and this port.
pub(crate) fn https_url(head: &Head, port: u16) -> Option<HeaderValue> {
    let host = head.authority().host();
    let port = if port == 443 { String::new() } else { format!(":{port}") };
    let mut url = format!("https://{host}{port}").into_bytes();
    url.extend_from_slice(head.path());
    HeaderValue::from_bytes(&url).ok()
}

/// A response of the gateway's own.
#[derive(Debug)]
pub(crate) struct OwnResponse {
    pub(crate) fields: Fields,
    /// The value of `content-length`: the body's length, or what it would be for GET.
    pub(crate) content_length: u64,
    pub(crate) body: Bytes,
}

impl Fault {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Redirect(_) => StatusCode::PERMANENT_REDIRECT,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::NoClientCertificate => StatusCode::FORBIDDEN,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RequestTooLarge(_) => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyRequests(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(status, _) => status,
            Self::Overloaded
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::Connect(TransportFault::Exhausted(_)) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Connect(TransportFault::TimedOut)
            | Self::ResponseTimeout
            | Self::WriteTimeout
            | Self::ResponseStalled
            | Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_)
            | Self::Terminated
            | Self::Incomplete
            | Self::Protocol(_)
            | Self::HeadTooLong(_) => StatusCode::BAD_GATEWAY,
        }
    }

    /// Returns the outcome of a request that ends by it.
    pub(crate) fn outcome(self) -> Outcome {
        match self {
            Self::BadRequest(_) => Outcome::RequestMalformed,
            Self::Redirect(_) => Outcome::Redirected,
            Self::NoRoute => Outcome::NoRoute,
            Self::NoClientCertificate => Outcome::ClientCertificateRequired,
            Self::RequestTimeout => Outcome::RequestTimeout,
            Self::RequestTooLarge(_) => Outcome::RequestTooLarge,
            Self::NotImplemented(_) => Outcome::NotImplemented,
            Self::Misdirected => Outcome::Misdirected,
            Self::TooManyRequests(_) => Outcome::TooManyRequests,
            Self::Overloaded => Outcome::Overloaded,
            Self::Refused(_, ending) => ending.outcome,
            Self::Connect(TransportFault::Refused) => Outcome::ConnectRefused,
            Self::Connect(TransportFault::Unreachable) => Outcome::ConnectUnreachable,
            Self::Connect(TransportFault::Missing) => Outcome::ConnectMissing,
            Self::Connect(TransportFault::Forbidden) => Outcome::ConnectForbidden,
            Self::Connect(TransportFault::TimedOut) => Outcome::ConnectTimeout,
            Self::Connect(TransportFault::Exhausted(_)) => Outcome::Exhausted,
            Self::Connect(TransportFault::Reset | TransportFault::Other) => Outcome::ConnectBroken,
            Self::QueueFull => Outcome::QueueFull,
            Self::QueueTimeout => Outcome::QueueTimeout,
            Self::Terminated => Outcome::UpstreamClosed,
            Self::Incomplete => Outcome::UpstreamIncomplete,
            Self::Protocol(_) => Outcome::UpstreamProtocol,
            Self::HeadTooLong(_) => Outcome::UpstreamHeadTooLong,
            Self::ResponseTimeout => Outcome::UpstreamTimeout,
            Self::WriteTimeout => Outcome::UpstreamWriteTimeout,
            Self::ResponseStalled => Outcome::ResponseStalled,
            Self::Deadline => Outcome::Deadline,
        }
    }

    /// Returns the end of a request that ends by it: the outcome, and the rule or bound that a
    /// message broke.
    pub(crate) fn ending(self) -> Ending {
        let outcome = self.outcome();
        match self {
            Self::Refused(_, ending) => ending,
            Self::BadRequest(rule) | Self::Protocol(rule) => Ending::by_rule(outcome, rule),
            Self::RequestTooLarge(bound)
            | Self::TooManyRequests(bound)
            | Self::HeadTooLong(bound) => Ending { outcome, rule: None, bound: Some(bound) },
            _ => outcome.into(),
        }
    }

    /// The sentence for people: what, where, way out.
    pub(crate) fn details(self) -> Cow<'static, str> {
        let fixed = match self {
            Self::RequestTooLarge(bound) => {
                return format!("the request body is longer than {bound} bytes").into();
            }
            Self::TooManyRequests(bound) => {
                let what = "this client's address has as many requests in flight as it may";
                return format!("{what} ({bound}); send it again later").into();
            }
            Self::HeadTooLong(bound) => {
                return format!(
                    "the head or trailers of the upstream's response are longer than {bound} bytes"
                )
                .into();
            }
            Self::Refused(_, Ending { rule, bound: Some(bound), .. }) => {
                return format!("{} ({bound})", rule.unwrap_or_default()).into();
            }
            Self::Refused(_, Ending { rule, .. }) => rule.unwrap_or_default(),
            Self::BadRequest(rule) | Self::Protocol(rule) => rule,
            Self::Redirect(_) => "this address redirects to https",
            Self::NoRoute => "no route matches this host and path",
            Self::NoClientCertificate => "this needs a certificate of the client; connect with one",
            Self::RequestTimeout => {
                "the request body paused too long or came too slowly; send it again"
            }
            Self::NotImplemented(reason) => reason,
            Self::Overloaded => "the gateway has more to do than it can; try again later",
            Self::Misdirected => {
                "the certificate of this connection is not for this host; ask on another connection"
            }
            Self::Connect(TransportFault::Refused) => "the upstream refused the connection",
            Self::Connect(TransportFault::Unreachable) => "the upstream's address is unreachable",
            Self::Connect(TransportFault::Missing) => "the upstream's socket does not exist",
            Self::Connect(TransportFault::Forbidden) => {
                "the gateway may not connect to the upstream's address"
            }
            Self::Connect(TransportFault::Exhausted(Resource::Port)) => {
                "the gateway has no port left toward the upstream; try again later"
            }
            Self::Connect(TransportFault::Exhausted(Resource::Descriptor)) => {
                "the gateway has no descriptor left; try again later"
            }
            Self::Connect(TransportFault::Exhausted(Resource::Memory)) => {
                "the system has no memory left for a connection; try again later"
            }
            Self::Connect(TransportFault::Exhausted(Resource::Place)) => {
                "the gateway holds as many upstream connections as it can; try again later"
            }
            Self::Connect(TransportFault::TimedOut) => {
                "the upstream did not accept the connection in time"
            }
            Self::Connect(_) => "the connection to the upstream broke while it was opened",
            Self::QueueFull => {
                "every upstream connection that this client may use is in use, and so is the queue"
            }
            Self::QueueTimeout => "every upstream connection stayed in use while this one waited",
            Self::Terminated => "the upstream closed the connection before it answered",
            Self::Incomplete => "the upstream's response broke off",
            Self::ResponseTimeout => "the upstream did not answer in time",
            Self::WriteTimeout => "the upstream did not take the request in time",
            Self::Deadline => "the request took longer than its route allows",
            Self::ResponseStalled => {
                "the client took nothing of the response for too long, or took it too slowly"
            }
        };
        fixed.into()
    }

    /// Returns the response to a request with this method, without content for HEAD (RFC 9110
    /// 9.3.2). Whoever sends a head so long or so slow that not even its method was read gets text:
    /// it is hardly a HEAD.
    pub(crate) fn response(self, method: Option<&Method>) -> OwnResponse {
        let status = self.status();
        let reason = status.canonical_reason().unwrap_or("Error");
        let mut text = format!("{} {reason}: {}\n", status.as_u16(), self.details());
        let content_length = text.len() as u64;
        if method == Some(&Method::HEAD) {
            text.clear();
        }
        // RFC 9209 2.3: the error's token; details is an sf-string, so quote and backslash are
        // escaped and what is not printable ASCII is replaced.
        let details = self.details().bytes().fold(String::new(), |mut text, byte| {
            match byte {
                b'"' | b'\\' => text.extend(['\\', char::from(byte)]),
                0x20..=0x7e => text.push(char::from(byte)),
                _ => text.push('?'),
            }
            text
        });
        let error = self.outcome().error().map(|error| format!("; error={error}"));
        let error = error.unwrap_or_default();
        let proxy_status = format!("ringway{error}; details=\"{details}\"");
        let proxy_status = HeaderValue::from_str(&proxy_status).expect("printable ASCII");
        let mut fields = vec![
            (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
            (CONTENT_LENGTH, HeaderValue::from(content_length)),
            // RFC 9111 4.2.2: 404, 501 and others may be stored unless told otherwise.
            (CACHE_CONTROL, HeaderValue::from_static("no-store")),
            (PROXY_STATUS, proxy_status),
        ];
        if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
            fields.push((RETRY_AFTER, HeaderValue::from_static("1")));
        }
        OwnResponse { fields, content_length, body: Bytes::from(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_tell_status_error_and_details() {
        let fault = Fault::Connect(TransportFault::Refused);
        let OwnResponse { fields, body, .. } = fault.response(Some(&Method::GET));
        let value = |name: &str| {
            let mut found = fields.iter().filter(|(key, _)| key == name);
            found.next().map(|(_, value)| value.to_str().unwrap())
        };
        assert_eq!(
            value("proxy-status"),
            Some(
                "ringway; error=connection_refused; details=\"the upstream refused the connection\""
            )
        );
        assert_eq!(value("content-length"), Some(body.len().to_string().as_str()));
        assert_eq!(&body[..], b"502 Bad Gateway: the upstream refused the connection\n");
        assert_eq!(value("retry-after"), None);
    }

    /// RFC 9110 9.3.2: a response to HEAD has no content, and the content-length of GET's or none.
    #[test]
    fn a_response_to_a_head_has_no_content() {
        let response = |method: Option<Method>| {
            let OwnResponse { fields, content_length, body } =
                Fault::NoRoute.response(method.as_ref());
            let (_, field) = fields.iter().find(|(name, _)| name == CONTENT_LENGTH).unwrap();
            assert_eq!(field.to_str().unwrap(), content_length.to_string());
            (content_length, body.len() as u64)
        };
        let (announced, sent) = response(Some(Method::GET));
        assert!(announced > 0 && sent == announced);
        assert_eq!(response(Some(Method::HEAD)), (announced, 0));
        assert_eq!(response(None), (announced, announced));
    }

    #[test]
    fn details_are_a_structured_string() {
        let rule = "a \"name\" with \\ and \u{e9}";
        let ending = Ending::by_rule(Outcome::RequestMalformed, rule);
        let fault = Fault::Refused(StatusCode::BAD_REQUEST, ending);
        let fields = fault.response(None).fields;
        let (_, value) = fields.iter().find(|(name, _)| name == "proxy-status").unwrap();
        let expected = "ringway; error=http_request_error; \
                        details=\"a \\\"name\\\" with \\\\ and ??\"";
        assert_eq!(value.to_str().unwrap(), expected);
    }

    /// The client is told the bound that its message exceeded. The operator's timeouts and queues
    /// are in the log.
    #[test]
    fn a_response_names_a_key_only_with_a_bound_that_was_exceeded() {
        let bound = Bound { key: "limits.max_header_size", max: 1 };
        let rule = Ending::by_rule(Outcome::FieldsTooLarge, "a rule");
        let refused = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        let with_key = [
            Fault::RequestTooLarge(bound),
            Fault::TooManyRequests(bound),
            Fault::HeadTooLong(bound),
            Fault::Refused(refused, Ending { bound: Some(bound), ..rule }),
        ];
        for fault in with_key {
            assert!(fault.details().contains("limits.max_header_size = 1"), "{fault:?}");
            assert_eq!(fault.ending().bound, Some(bound), "{fault:?}");
        }
        use TransportFault::*;
        let without = [
            Fault::Refused(refused, rule),
            Fault::BadRequest("a rule"),
            Fault::NoRoute,
            Fault::NoClientCertificate,
            Fault::RequestTimeout,
            Fault::NotImplemented("a reason"),
            Fault::Misdirected,
            Fault::QueueFull,
            Fault::QueueTimeout,
            Fault::Terminated,
            Fault::Incomplete,
            Fault::Protocol("a rule"),
            Fault::ResponseTimeout,
            Fault::WriteTimeout,
            Fault::ResponseStalled,
            Fault::Deadline,
        ];
        let connect = [Refused, Unreachable, Missing, Forbidden, TimedOut, Reset, Other];
        let resources = [Resource::Port, Resource::Descriptor, Resource::Memory, Resource::Place];
        let connect = connect.into_iter().chain(resources.map(Exhausted)).map(Fault::Connect);
        for fault in without.into_iter().chain(connect) {
            let details = fault.details();
            assert!(!details.contains(['.', '_', '=']), "{fault:?}: {details}");
            assert_eq!(fault.ending().bound, None, "{fault:?}");
        }
    }

    #[test]
    fn a_bound_that_was_exceeded_is_named_with_its_key() {
        let bound = Bound { key: "limits.max_response_header_size", max: 32_768 };
        let fault = Fault::HeadTooLong(bound);
        let expected = "the head or trailers of the upstream's response are longer than \
             limits.max_response_header_size = 32768 bytes";
        assert_eq!(fault.details(), expected);
        assert_eq!(fault.ending().bound, Some(bound));
        let ending = Ending {
            outcome: Outcome::FieldsTooLarge,
            rule: Some("more fields than are accepted"),
            bound: Some(Bound { key: "limits.max_header_count", max: 100 }),
        };
        let fault = Fault::Refused(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, ending);
        let expected = "more fields than are accepted (limits.max_header_count = 100)";
        assert_eq!(fault.details(), expected);
        assert_eq!(fault.ending(), ending);
    }
}
