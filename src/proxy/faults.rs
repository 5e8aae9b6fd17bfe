//! The responses that the gateway generates itself: each has a status, a Proxy-Status (RFC 9209)
//! and a short text.

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, RETRY_AFTER};
use http::{HeaderValue, Method, StatusCode};

use super::api::{Resource, TransportFault};
use crate::http1;
use crate::message::{Fields, ResetReason};
use crate::metrics::UpstreamFailure;

const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");

/// The reason for a response of the gateway's own, or for resetting a response that has begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The request breaks this rule.
    BadRequest(&'static str),
    /// No route matches.
    NoRoute,
    /// The client's body paused too long, or came too slowly.
    RequestTimeout,
    /// The body is longer than allowed.
    RequestTooLarge,
    /// The method is not implemented, for this reason.
    NotImplemented(&'static str),
    /// The connection's certificate does not cover the authority.
    Misdirected,
    /// The client's address has as many requests in flight as it may.
    TooManyRequests,
    /// The request was refused before its head was accepted (400, 408, 431).
    Refused(StatusCode, &'static str),
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
    HeadTooLong,
    /// The response, or the rest of it, did not come in time.
    ResponseTimeout,
    /// The upstream did not take the request in time.
    WriteTimeout,
    /// The client took nothing of the response for too long, or took it too slowly.
    ResponseStalled,
    /// The exchange took longer than its route allows.
    Deadline,
}

/// A response of the gateway's own.
#[derive(Debug)]
pub(crate) struct OwnResponse {
    pub(crate) fields: Fields,
    /// The value of `content-length`: the body's length, or what it would be for GET.
    pub(crate) content_length: u64,
    pub(crate) body: Bytes,
}

impl From<http1::Error> for Fault {
    fn from(error: http1::Error) -> Self {
        match error {
            http1::Error::Malformed(rule) => Self::Protocol(rule),
            http1::Error::TooLong => Self::HeadTooLong,
        }
    }
}

impl Fault {
    pub(crate) fn status(self) -> StatusCode {
        match self {
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::NoRoute => StatusCode::NOT_FOUND,
            Self::RequestTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::RequestTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::NotImplemented(_) => StatusCode::NOT_IMPLEMENTED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Refused(status, _) => status,
            Self::QueueFull | Self::QueueTimeout | Self::Connect(TransportFault::Exhausted(_)) => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Connect(TransportFault::TimedOut)
            | Self::ResponseTimeout
            | Self::WriteTimeout
            | Self::ResponseStalled
            | Self::Deadline => StatusCode::GATEWAY_TIMEOUT,
            Self::Connect(_)
            | Self::Terminated
            | Self::Incomplete
            | Self::Protocol(_)
            | Self::HeadTooLong => StatusCode::BAD_GATEWAY,
        }
    }

    /// Returns the error type of RFC 9209 2.3.
    pub(crate) fn token(self) -> &'static str {
        match self {
            Self::BadRequest(_)
            | Self::RequestTimeout
            | Self::RequestTooLarge
            | Self::NotImplemented(_)
            | Self::Misdirected
            | Self::Refused(..) => "http_request_error",
            Self::TooManyRequests => "http_request_denied",
            // RFC 9209 2.3.3: a gateway that cannot determine the next hop, "for example, it may
            // not be configured". The status is still 404, which clients know.
            Self::NoRoute => "destination_not_found",
            Self::Connect(TransportFault::Refused) => "connection_refused",
            Self::Connect(TransportFault::Missing) => "destination_unavailable",
            Self::Connect(TransportFault::Forbidden) => "destination_ip_prohibited",
            Self::Connect(TransportFault::Unreachable) => "destination_ip_unroutable",
            Self::Connect(TransportFault::TimedOut) => "connection_timeout",
            Self::Connect(TransportFault::Exhausted(_)) => "proxy_internal_error",
            Self::Connect(_) | Self::Terminated => "connection_terminated",
            Self::QueueFull | Self::QueueTimeout => "connection_limit_reached",
            Self::Incomplete => "http_response_incomplete",
            Self::Protocol(_) => "http_protocol_error",
            Self::HeadTooLong => "http_response_header_section_size",
            Self::ResponseTimeout | Self::Deadline => "http_response_timeout",
            Self::WriteTimeout => "connection_write_timeout",
            Self::ResponseStalled => "proxy_internal_response",
        }
    }

    /// The rule that a message broke.
    pub(crate) fn rule(self) -> Option<&'static str> {
        match self {
            Self::BadRequest(rule) | Self::Refused(_, rule) | Self::Protocol(rule) => Some(rule),
            _ => None,
        }
    }

    /// The upstream's failure; `None` where the upstream is not to blame.
    pub(crate) fn upstream_failure(self) -> Option<UpstreamFailure> {
        match self {
            Self::Connect(TransportFault::Refused) => Some(UpstreamFailure::ConnectRefused),
            Self::Connect(TransportFault::TimedOut) => Some(UpstreamFailure::ConnectTimeout),
            Self::Connect(
                TransportFault::Missing | TransportFault::Forbidden | TransportFault::Unreachable,
            ) => Some(UpstreamFailure::ConnectFailed),
            Self::Connect(TransportFault::Exhausted(_)) => None,
            Self::Connect(TransportFault::Reset | TransportFault::Other)
            | Self::Terminated
            | Self::Incomplete => Some(UpstreamFailure::Terminated),
            Self::ResponseTimeout | Self::WriteTimeout => Some(UpstreamFailure::ResponseTimeout),
            Self::Protocol(_) | Self::HeadTooLong => Some(UpstreamFailure::Protocol),
            Self::BadRequest(_)
            | Self::NoRoute
            | Self::RequestTimeout
            | Self::RequestTooLarge
            | Self::NotImplemented(_)
            | Self::Misdirected
            | Self::TooManyRequests
            | Self::Refused(..)
            | Self::QueueFull
            | Self::QueueTimeout
            | Self::ResponseStalled
            | Self::Deadline => None,
        }
    }

    /// The sentence for people: what, where, way out.
    pub(crate) fn details(self) -> &'static str {
        match self {
            Self::BadRequest(rule) | Self::Refused(_, rule) | Self::Protocol(rule) => rule,
            Self::NoRoute => "no route matches this host and path",
            Self::RequestTimeout => {
                "the request body paused too long or came too slowly; send it again"
            }
            Self::RequestTooLarge => "the request body is longer than this gateway allows",
            Self::NotImplemented(reason) => reason,
            Self::Misdirected => {
                "the certificate of this connection is not for this host; ask on another connection"
            }
            Self::TooManyRequests => {
                "this client's address has too many requests in flight; send it again later"
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
            Self::HeadTooLong => "the upstream's response head is longer than allowed",
            Self::ResponseTimeout => "the upstream did not answer in time",
            Self::WriteTimeout => "the upstream did not take the request in time",
            Self::Deadline => "the request took longer than its route allows",
            Self::ResponseStalled => {
                "the client took nothing of the response for too long, or took it too slowly"
            }
        }
    }

    /// Returns the reason for resetting a response that has begun.
    pub(crate) fn reset_reason(self) -> ResetReason {
        match self {
            Self::RequestTimeout => ResetReason::RequestTimeout,
            Self::RequestTooLarge => ResetReason::RequestTooLarge,
            Self::BadRequest(_) | Self::Refused(..) => ResetReason::RequestMalformed,
            Self::Protocol(_) | Self::HeadTooLong => ResetReason::UpstreamProtocol,
            Self::ResponseTimeout | Self::WriteTimeout => ResetReason::UpstreamTimeout,
            Self::ResponseStalled => ResetReason::ResponseStalled,
            Self::Deadline => ResetReason::Deadline,
            // Only `Incomplete` can follow a response's head; the others come before it.
            _ => ResetReason::UpstreamIncomplete,
        }
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
        let proxy_status = format!("ringway; error={}; details=\"{details}\"", self.token());
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
        let fault = Fault::Refused(StatusCode::BAD_REQUEST, "a \"name\" with \\ and \u{e9}");
        let fields = fault.response(None).fields;
        let (_, value) = fields.iter().find(|(name, _)| name == "proxy-status").unwrap();
        let expected = "ringway; error=http_request_error; \
                        details=\"a \\\"name\\\" with \\\\ and ??\"";
        assert_eq!(value.to_str().unwrap(), expected);
    }

    /// The counter and the error type of Proxy-Status agree on whose fault it was.
    #[test]
    fn error_types_count_as_the_upstreams_failure_or_not_at_all() {
        for (fault, token, failure) in [
            (
                Fault::Connect(TransportFault::Refused),
                "connection_refused",
                Some(UpstreamFailure::ConnectRefused),
            ),
            (
                Fault::Connect(TransportFault::TimedOut),
                "connection_timeout",
                Some(UpstreamFailure::ConnectTimeout),
            ),
            (
                Fault::Connect(TransportFault::Unreachable),
                "destination_ip_unroutable",
                Some(UpstreamFailure::ConnectFailed),
            ),
            (
                Fault::Connect(TransportFault::Missing),
                "destination_unavailable",
                Some(UpstreamFailure::ConnectFailed),
            ),
            (
                Fault::Connect(TransportFault::Forbidden),
                "destination_ip_prohibited",
                Some(UpstreamFailure::ConnectFailed),
            ),
            (
                Fault::Connect(TransportFault::Exhausted(Resource::Port)),
                "proxy_internal_error",
                None,
            ),
            (
                Fault::ResponseTimeout,
                "http_response_timeout",
                Some(UpstreamFailure::ResponseTimeout),
            ),
            (Fault::Incomplete, "http_response_incomplete", Some(UpstreamFailure::Terminated)),
            (Fault::Protocol("a rule"), "http_protocol_error", Some(UpstreamFailure::Protocol)),
            (Fault::QueueFull, "connection_limit_reached", None),
        ] {
            assert_eq!((fault.token(), fault.upstream_failure()), (token, failure), "{fault:?}");
        }
    }
}
