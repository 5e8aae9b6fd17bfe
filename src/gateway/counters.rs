//! The counters of a gateway: of its streams, and of exchanges, taken from their access records.

use crate::message::{AccessRecord, Outcome};
use crate::metrics::{
    BrokenRuleOutcome, BrokenRules, ConnectionsClosed, Histogram, Http3Counters, ProxyCounters,
};
use crate::proxy::Proxy;
use crate::quic::CloseReason;

/// The counters of one gateway since it was created.
#[derive(Debug, Default)]
pub struct GatewayCounters {
    pub http3: Http3Counters,
    /// Messages that broke a rule.
    pub broken_rules: BrokenRules,
    pub connections_closed: ConnectionsClosed,
    /// Time from a request's head to the end of its response.
    pub request_duration: Histogram,
    /// Time from the first attempt to reach an endpoint to the end of its response.
    pub upstream_duration: Histogram,
    exchanges: ProxyCounters,
}

impl GatewayCounters {
    /// Returns the counters of exchanges and upstreams.
    pub fn proxy(&self, proxy: &Proxy) -> ProxyCounters {
        let counted = &proxy.counters().exported;
        ProxyCounters {
            requests: counted.requests,
            upstream_connects: counted.upstream_connects,
            upstream_reuses: counted.upstream_reuses,
            upstream_retries: counted.upstream_retries,
            upstream_idle_discarded: counted.upstream_idle_discarded,
            queue_sheds: counted.queue_sheds,
            upstream_ejections: counted.upstream_ejections,
            upstream_connect_failures: counted.upstream_connect_failures.clone(),
            proxy_fields_dropped: counted.proxy_fields_dropped.clone(),
            ..self.exchanges.clone()
        }
    }

    pub(super) fn count_closed(&mut self, reason: &CloseReason) {
        let closed = &mut self.connections_closed;
        *match reason {
            CloseReason::Local { .. } => &mut closed.gateway,
            CloseReason::Peer { .. } | CloseReason::PeerTransport { .. } => &mut closed.client,
            CloseReason::Violation { .. } => &mut closed.error,
            CloseReason::Reset => &mut closed.reset,
            CloseReason::IdleTimeout => &mut closed.idle,
        } += 1;
    }

    pub(super) fn count_exchange(&mut self, record: &AccessRecord) {
        let counts = &mut self.exchanges;
        counts.request_body_bytes += record.request_len;
        counts.response_body_bytes += record.response_len;
        match record.outcome {
            Outcome::Complete => {}
            Outcome::Aborted => counts.exchanges_aborted += 1,
            Outcome::Reset(_) => counts.responses_reset += 1,
        }
        if let Some(status) = record.status {
            counts.count_response(status.as_u16());
        }
        if let Some(rule) = record.rule {
            let status = record.status.map(|status| status.as_u16());
            let outcome = status.map_or(BrokenRuleOutcome::Reset, BrokenRuleOutcome::Status);
            self.broken_rules.count(outcome, rule);
        }
        if record.error.is_some() {
            counts.own_responses.count(record.status.map(|status| status.as_u16()));
        }
        if let Some(failure) = record.upstream_failure {
            counts.upstream_failures.count(failure, 1);
        }
        self.request_duration.record(record.duration);
        if let Some(duration) = record.upstream_duration {
            self.upstream_duration.record(duration);
        }
    }
}
