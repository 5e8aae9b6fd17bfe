//! The lines of the process log about endpoints, about connections that were closed for their
//! client's behaviour, about handshakes that failed, about proxies without a PROXY header, and
//! about sockets at which nothing arrives.
//!
//! Clients and upstreams cause them, so each kind has a budget. Lines beyond it are counted, and
//! the next line says how many there were. The log itself drops lines rather than wait.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Worker;
use crate::base::token_bucket::TokenBucket;
use crate::message::{Ending, EndpointName, Incident, Outcome, Understood};
use crate::metrics::{HandshakeFailure, ProxyHeaderFailure};
use crate::quic::transport_error_name;

/// Lines of one kind that a worker writes at once, and again within [`FILL_TIME`].
const LINE_COUNT_MAX: u32 = 10;
const FILL_TIME: Duration = Duration::from_secs(60);
/// Bytes of a request's host and path in a line.
const REQUEST_LEN_MAX: usize = 200;
/// Bytes of the cause for which QUIC has closed a connection.
const CAUSE_LEN_MAX: usize = 400;

/// The budgets of a worker's lines.
#[derive(Debug, Default)]
pub(super) struct Incidents {
    of_endpoints: LineBudget,
    of_clients: LineBudget,
    of_handshakes: LineBudget,
    of_proxies: LineBudget,
    of_sockets: LineBudget,
}

/// The budget of one kind of lines.
#[derive(Debug, Default)]
struct LineBudget {
    left: TokenBucket,
    omitted_count: u64,
}

impl LineBudget {
    /// Returns how many lines were omitted since the last one, or `None` if this one is to be
    /// omitted too.
    fn take(&mut self, now: Instant) -> Option<u64> {
        if self.left.take(now, LINE_COUNT_MAX, FILL_TIME) {
            return Some(std::mem::take(&mut self.omitted_count));
        }
        self.omitted_count += 1;
        None
    }
}

impl Worker<'_> {
    /// Writes a line about an incident, if the budget of its kind permits.
    pub(super) fn note_incident(&mut self, now: Instant, incident: &Incident) {
        let worker = self.setup.index;
        let budget = match incident {
            Incident::Ejected { .. } | Incident::Restored { .. } => {
                &mut self.incidents.of_endpoints
            }
            Incident::Closed { .. } | Incident::Violation { .. } => &mut self.incidents.of_clients,
            Incident::HandshakeFailed { .. } => &mut self.incidents.of_handshakes,
            Incident::ProxyHeader { .. } => &mut self.incidents.of_proxies,
            Incident::Http3Withheld { .. } | Incident::Http3Offered { .. } => {
                &mut self.incidents.of_sockets
            }
        };
        let Some(omitted) = budget.take(now) else { return };
        match incident {
            Incident::Ejected { endpoint, cause, request, pause } => {
                let EndpointName { upstream, address } = endpoint;
                let (cause, request) = (cause_text(*cause), request_text(request.as_ref()));
                tracing::warn!(
                    worker, %upstream, endpoint = %address, cause, request, ?pause, omitted,
                    "an endpoint has failed and gets no requests for a while"
                );
            }
            Incident::Restored { endpoint: EndpointName { upstream, address } } => {
                tracing::info!(
                    worker, %upstream, endpoint = %address, omitted,
                    "the endpoint has served a request and gets its share again"
                );
            }
            Incident::Closed { client, cause } => {
                note_closed(worker, *client, &cause_text(*cause), omitted);
            }
            Incident::Violation { client, code, reason } => {
                note_closed(worker, *client, &violation_text(*code, reason), omitted);
            }
            Incident::HandshakeFailed { client, reason } => {
                let reason = failure_text(*reason);
                tracing::debug!(worker, %client, reason, omitted, "a handshake has failed");
            }
            Incident::ProxyHeader { peer, failure, rule } => {
                let reason = rule.unwrap_or(header_failure_text(*failure));
                tracing::warn!(
                    worker, %peer, reason, omitted,
                    "a connection of a proxy (listeners.proxy_protocol) was closed"
                );
            }
            Incident::Http3Withheld { address } => {
                tracing::warn!(
                    worker, %address, omitted,
                    "HTTP/3 is not offered to clients over TCP, since this worker's probes do not \
                     arrive at its UDP socket; look for a rule that drops them (`nft list ruleset`)"
                );
            }
            Incident::Http3Offered { address } => {
                tracing::info!(
                    worker, %address, omitted,
                    "the UDP socket receives, and HTTP/3 is offered to clients over TCP again"
                );
            }
        }
    }
}

fn note_closed(worker: u16, client: SocketAddr, cause: &str, omitted: u64) {
    tracing::warn!(
        worker, %client, cause, omitted, "a connection was closed for what its client did"
    );
}

fn cause_text(Ending { outcome, rule, bound }: Ending) -> String {
    let rule = rule.map_or_else(String::new, |rule| format!(": {rule}"));
    let bound = bound.map_or_else(String::new, |bound| format!(" ({bound})"));
    let setting = if outcome == Outcome::Evicted { " (runtime.memory)" } else { "" };
    format!("{}{rule}{bound}{setting}", outcome.token())
}

/// Returns the cause of a connection that QUIC itself has closed, with the error's name and code.
fn violation_text(code: u64, reason: &str) -> String {
    let (outcome, name) = (Outcome::ConnectionError.token(), transport_error_name(code));
    let reason = if reason.is_empty() { String::new() } else { format!(": {reason}") };
    let mut text = format!("{outcome}: {name} ({code:#x}){reason}");
    text.truncate(text.floor_char_boundary(CAUSE_LEN_MAX));
    text
}

fn failure_text(reason: HandshakeFailure) -> &'static str {
    match reason {
        HandshakeFailure::NoSharedProtocol => "the client does not offer h3 (ALPN)",
        HandshakeFailure::UnknownServerName => "no certificate is for the name it asks for",
        HandshakeFailure::CertificateRejected => "the client does not accept the certificate",
        HandshakeFailure::ClientCertificateMissing => {
            "the client shows no certificate, which listeners.tls.client_auth requires"
        }
        HandshakeFailure::ClientCertificateExpired => "the client's certificate has expired",
        HandshakeFailure::ClientCertificateRevoked => "the client's certificate is revoked",
        HandshakeFailure::ClientCertificateUntrusted => {
            "none of the listener's authorities vouches for the client's certificate"
        }
        HandshakeFailure::ClientCertificateInvalid => "the client's certificate is not valid here",
        HandshakeFailure::NoSharedParameters => "no version, cipher suite or group is shared",
        HandshakeFailure::TransportParameters => "the transport parameters are missing or wrong",
        HandshakeFailure::TimedOut => "the client fell silent",
        HandshakeFailure::Client => "the client closed the connection",
        HandshakeFailure::Other => "the client broke another rule, or the gateway stopped",
    }
}

fn header_failure_text(failure: ProxyHeaderFailure) -> &'static str {
    match failure {
        ProxyHeaderFailure::Malformed => "its PROXY header is malformed",
        ProxyHeaderFailure::CutOff => "it ended within its PROXY header",
        ProxyHeaderFailure::TimedOut => "its PROXY header did not come in time",
    }
}

/// Returns method, host and path on one line, whatever bytes they hold.
fn request_text(request: Option<&Understood>) -> String {
    let Some(request) = request else { return "unknown".to_owned() };
    let method = request.method.as_ref().map_or("-", |method| method.as_str());
    let part = |text: Option<&[u8]>| {
        let text = text.unwrap_or_default();
        String::from_utf8_lossy(&text[..text.len().min(REQUEST_LEN_MAX)]).into_owned()
    };
    let authority = part(request.authority.as_ref().map(|text| text.as_bytes()));
    let path = part(request.path.as_ref().map(|text| text.as_bytes()));
    let method = &method[..method.len().min(REQUEST_LEN_MAX)];
    format!("{method} {authority}{path}").escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Bound;
    use crate::testing::epoch;

    #[test]
    fn lines_beyond_the_budget_are_omitted_and_counted() {
        let mut budget = LineBudget::default();
        let now = epoch();
        for _ in 0..LINE_COUNT_MAX {
            assert_eq!(budget.take(now), Some(0));
        }
        for _ in 0..1_000_000 {
            assert_eq!(budget.take(now), None);
        }
        let later = now + FILL_TIME / LINE_COUNT_MAX;
        assert_eq!(budget.take(later), Some(1_000_000));
        assert_eq!(budget.take(later), None);
        assert_eq!(budget.take(later + FILL_TIME), Some(1));
    }

    #[test]
    fn a_cause_names_the_rule_and_the_setting() {
        let rule = "too many requests that come to nothing";
        let bound = Some(Bound { key: "limits.max_stream_resets", max: 200 });
        let ending = Ending { bound, ..Ending::by_rule(Outcome::ExcessiveLoad, rule) };
        let expected = "excessive_load: too many requests that come to nothing \
                        (limits.max_stream_resets = 200)";
        assert_eq!(cause_text(ending), expected);
        let ending = Ending::by_rule(Outcome::ExcessiveLoad, "a rule without a key");
        assert_eq!(cause_text(ending), "excessive_load: a rule without a key");
        let bound = Some(Bound { key: "limits.max_response_header_size", max: 1024 });
        let cause = Ending { bound, ..Outcome::UpstreamHeadTooLong.into() };
        let expected = "upstream_head_too_long (limits.max_response_header_size = 1024)";
        assert_eq!(cause_text(cause), expected);
    }

    #[test]
    fn a_violation_of_quic_is_named_with_its_code() {
        let text = violation_text(0x4, "streams of the client: 101");
        assert_eq!(text, "connection_error: STREAM_LIMIT_ERROR (0x4): streams of the client: 101");
        assert_eq!(violation_text(0x10a, ""), "connection_error: CRYPTO_ERROR (0x10a)");
        let text = violation_text(0xa, &"\u{20ac}".repeat(1000));
        assert!((CAUSE_LEN_MAX - 3..=CAUSE_LEN_MAX).contains(&text.len()), "{}", text.len());
    }

    #[test]
    fn a_hostile_request_stays_on_one_line() {
        let path = [&b"/\n\x1b[31m\xff\"\\"[..], &[b'a'; 5_000]].concat();
        let understood = Understood::new(Some(http::Method::GET), Some(b"h"), Some(&path));
        let text = request_text(Some(&understood));
        assert!(text.starts_with("GET h/\\n\\u{1b}[31m\u{fffd}\\\"\\\\aaa"), "{text}");
        assert!(text.len() < 300 && !text.chars().any(char::is_control), "{text}");
    }
}
