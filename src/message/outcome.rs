//! The outcome of a request: one closed set, with one table of names.
//!
//! The access log, the counters and the Proxy-Status field of the gateway's own responses take
//! their words from this table, so that they agree.

use http::StatusCode;

use crate::metrics::UpstreamFailure;

/// Defines the outcomes and their table: variant, token, error type, failure of the upstream.
macro_rules! outcomes {
    ($(
        $(#[$doc:meta])*
        $variant:ident: $token:literal $(, error $error:literal)? $(, failure $failure:ident)?;
    )+) => {
        /// The outcome of a request: the first cause that kept it from an ordinary response of an
        /// upstream, delivered to its end.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Outcome {
            $($(#[$doc])* $variant),+
        }

        impl Outcome {
            /// All outcomes, in the order of their definition.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// Returns the token of the access log and of metrics. Operators' tools match on it, so
            /// it does not change with the code.
            pub fn token(self) -> &'static str {
                match self {
                    $(Self::$variant => $token),+
                }
            }

            /// Returns the error type of RFC 9209 2.3, for the outcomes that have one.
            pub fn error(self) -> Option<&'static str> {
                match self {
                    $(Self::$variant => outcomes!(@option $($error)?)),+
                }
            }

            /// Returns the upstream's failure; `None` where the upstream is not to blame.
            pub(crate) fn upstream_failure(self) -> Option<UpstreamFailure> {
                match self {
                    $(Self::$variant => outcomes!(@option $(UpstreamFailure::$failure)?)),+
                }
            }
        }
    };
    (@option) => { None };
    (@option $value:expr) => { Some($value) };
}

outcomes! {
    /// The client acknowledged the whole response of an upstream.
    Complete: "complete";
    /// The whole response was handed to the client's connection, which the client closed before
    /// it acknowledged the end. It may have it or not.
    Unconfirmed: "unconfirmed";

    /// The client reset the request or asked to stop the response.
    ClientCancelled: "client_cancelled";
    /// The client closed its connection.
    ClientClosed: "client_closed";
    /// The client sent a stateless reset: it has lost its connection.
    ClientReset: "client_reset";
    /// Nothing came from the client for the idle timeout of its connection.
    IdleTimeout: "idle_timeout";
    /// The connection was closed for a violation of QUIC or HTTP/3, by either side.
    ConnectionError: "connection_error";
    /// The gateway closed the connection because of the load that the client caused.
    ExcessiveLoad: "excessive_load";
    /// The gateway closed the connection because memory was used up.
    Evicted: "evicted";
    /// The gateway closed the connection: a stop, or the end of a drain.
    GatewayClosed: "gateway_closed";

    /// The client was redirected to `https`.
    Redirected: "redirected";

    /// The request breaks a rule of HTTP.
    RequestMalformed: "request_malformed", error "http_request_error";
    /// The request's fields are longer or more than allowed.
    FieldsTooLarge: "fields_too_large", error "http_request_error";
    /// The request's body is longer than allowed.
    RequestTooLarge: "request_too_large", error "http_request_error";
    /// The request's head did not come whole in time.
    HeadTimeout: "head_timeout", error "http_request_error";
    /// The client's body paused too long, or came too slowly.
    RequestTimeout: "request_timeout", error "http_request_error";
    /// The client took nothing of the response for too long, or took it too slowly.
    ResponseStalled: "response_stalled", error "proxy_internal_response";
    /// The method is not implemented.
    NotImplemented: "not_implemented", error "http_request_error";
    /// The connection's certificate does not cover the authority.
    Misdirected: "misdirected", error "http_request_error";
    /// The client's address has as many requests in flight as it may.
    TooManyRequests: "too_many_requests", error "http_request_denied";
    /// The worker had no time or no memory left for the request. Over HTTP/2 and HTTP/3 such
    /// requests have no record: their streams are rejected.
    Overloaded: "overloaded", error "proxy_internal_error";
    /// The route needs a certificate of the client, and the connection has none.
    ClientCertificateRequired: "client_certificate_required", error "http_request_denied";
    /// No route matches. RFC 9209 2.3.3: a gateway that cannot determine the next hop, "for
    /// example, it may not be configured". The status is still 404, which clients know.
    NoRoute: "no_route", error "destination_not_found";
    /// The exchange took longer than its route allows.
    Deadline: "deadline", error "http_response_timeout";

    /// The upstream refused the connection.
    ConnectRefused: "connect_refused", error "connection_refused", failure ConnectRefused;
    /// The upstream did not accept the connection in time.
    ConnectTimeout: "connect_timeout", error "connection_timeout", failure ConnectTimeout;
    /// The upstream's address is unreachable.
    ConnectUnreachable: "connect_unreachable",
        error "destination_ip_unroutable", failure ConnectFailed;
    /// The upstream's unix socket does not exist.
    ConnectMissing: "connect_missing", error "destination_unavailable", failure ConnectFailed;
    /// The gateway may not connect to the upstream's address.
    ConnectForbidden: "connect_forbidden",
        error "destination_ip_prohibited", failure ConnectFailed;
    /// The connection to the upstream broke while it was opened.
    ConnectBroken: "connect_broken", error "connection_terminated", failure Terminated;
    /// This process lacks a descriptor, a port or memory for a connection to the upstream.
    Exhausted: "exhausted", error "proxy_internal_error";
    /// Every upstream connection was in use and the queue was full.
    QueueFull: "queue_full", error "connection_limit_reached";
    /// Every upstream connection stayed in use until the queue timeout.
    QueueTimeout: "queue_timeout", error "connection_limit_reached";
    /// The upstream closed the connection before a byte of its response.
    UpstreamClosed: "upstream_closed", error "connection_terminated", failure Terminated;
    /// The upstream closed or broke the connection before its response was complete.
    UpstreamIncomplete: "upstream_incomplete",
        error "http_response_incomplete", failure Terminated;
    /// The upstream's response breaks a rule of HTTP.
    UpstreamProtocol: "upstream_protocol", error "http_protocol_error", failure Protocol;
    /// The upstream's response has a longer head than allowed.
    UpstreamHeadTooLong: "upstream_head_too_long",
        error "http_response_header_section_size", failure Protocol;
    /// The upstream's response, or the rest of it, did not come in time.
    UpstreamTimeout: "upstream_timeout", error "http_response_timeout", failure ResponseTimeout;
    /// The upstream did not take the request in time.
    UpstreamWriteTimeout: "upstream_write_timeout",
        error "connection_write_timeout", failure ResponseTimeout;
}

impl Outcome {
    /// Returns whether a response that is reset for it counts as the client's own doing.
    pub fn is_of_client(self) -> bool {
        matches!(
            self,
            Self::RequestMalformed
                | Self::FieldsTooLarge
                | Self::RequestTooLarge
                | Self::RequestTimeout
                | Self::ResponseStalled
        )
    }

    /// Returns the status of a log line whose request got no response head, in formats that have
    /// numbers only. 499 is the custom for a client that left.
    pub fn status_without_response(self) -> StatusCode {
        match self {
            Self::ClientCancelled | Self::ClientClosed | Self::ClientReset | Self::IdleTimeout => {
                StatusCode::from_u16(499).expect("three digits")
            }
            Self::RequestMalformed | Self::ConnectionError => StatusCode::BAD_REQUEST,
            Self::ExcessiveLoad => StatusCode::TOO_MANY_REQUESTS,
            Self::FieldsTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Evicted | Self::GatewayClosed => StatusCode::SERVICE_UNAVAILABLE,
            // All others come with a response.
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn tokens_are_unique_and_are_words_for_metrics_and_logs() {
        let tokens: BTreeSet<_> = Outcome::ALL.iter().map(|outcome| outcome.token()).collect();
        assert_eq!(tokens.len(), Outcome::ALL.len());
        for token in tokens {
            assert!(token.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{token}");
        }
    }

    /// RFC 9209 2.3 registers these, and no others that the gateway uses.
    #[test]
    fn error_types_are_registered() {
        let registered = [
            "destination_not_found",
            "destination_unavailable",
            "destination_ip_prohibited",
            "destination_ip_unroutable",
            "connection_refused",
            "connection_terminated",
            "connection_timeout",
            "connection_write_timeout",
            "connection_limit_reached",
            "http_response_incomplete",
            "http_response_header_section_size",
            "http_response_timeout",
            "http_protocol_error",
            "http_request_error",
            "http_request_denied",
            "proxy_internal_response",
            "proxy_internal_error",
        ];
        for error in Outcome::ALL.iter().filter_map(|outcome| outcome.error()) {
            assert!(registered.contains(&error), "{error}");
        }
    }

    #[test]
    fn a_failure_of_the_upstream_has_an_error_type() {
        for outcome in Outcome::ALL {
            let is_failure = outcome.upstream_failure().is_some();
            assert!(!is_failure || outcome.error().is_some(), "{outcome:?}");
            assert!(!is_failure || !outcome.is_of_client(), "{outcome:?}");
        }
    }

    /// docs/ACCESS-LOG.md is the reference of the tokens.
    #[test]
    fn every_token_is_documented() {
        let page = include_str!("../../docs/ACCESS-LOG.md");
        for outcome in Outcome::ALL {
            assert!(page.contains(&format!("| `{}` |", outcome.token())), "{}", outcome.token());
        }
    }
}
