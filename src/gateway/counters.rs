//! The counters of a gateway: of its streams, and of exchanges, taken from their access records.

use crate::message::{AccessRecord, Handover, Outcome};
use crate::metrics::{
    BrokenRuleOutcome, BrokenRules, ConnectionsClosed, Histogram, Http3Counters, Outcomes,
    ProxyCounters, TcpCounters,
};
use crate::planted::{Bug, is_planted};
use crate::proxy::Proxy;
use crate::quic::CloseReason;

/// The counters of one gateway since it was created.
#[derive(Debug, Default)]
pub struct GatewayCounters {
    pub http3: Http3Counters,
    pub tcp: TcpCounters,
    /// Messages that broke a rule.
    pub broken_rules: BrokenRules,
    pub connections_closed: ConnectionsClosed,
    /// Time from a request's head to the end of its response.
    pub request_duration: Histogram,
    /// Time from the first attempt to reach an endpoint to the end of its response.
    pub upstream_duration: Histogram,
    /// Time from a request's head until the client has acknowledged its response.
    pub delivery_duration: Histogram,
    /// Requests that are over, by outcome: one for each record.
    pub outcomes: Outcomes,
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

    /// Counts an exchange that is over: its response was handed to the client's connection, or will
    /// not be.
    pub(super) fn count_exchange(&mut self, record: &AccessRecord) {
        let counts = &mut self.exchanges;
        counts.request_body_bytes += record.request_len;
        counts.response_body_bytes += record.response_len;
        match record.handover {
            Handover::Whole => {}
            Handover::Cut => counts.exchanges_aborted += 1,
            Handover::Reset => counts.responses_reset += 1,
        }
        if let Some(status) = record.status {
            counts.count_response(status.as_u16());
        }
        if record.is_own {
            counts.own_responses.count(record.status.map(|status| status.as_u16()));
        }
        if let Some(failure) = record.outcome.upstream_failure() {
            counts.upstream_failures.count(failure, 1);
        }
        self.request_duration.record(record.duration);
        if let Some(duration) = record.upstream_duration {
            self.upstream_duration.record(duration);
        }
        self.count_rule(record);
    }

    /// Counts the rule that a request or its response broke.
    pub(super) fn count_rule(&mut self, record: &AccessRecord) {
        let Some(rule) = record.rule else { return };
        let status = record.status.filter(|_| record.handover == Handover::Whole);
        let status = status.map(|status| BrokenRuleOutcome::Status(status.as_u16()));
        self.broken_rules.count(status.unwrap_or(BrokenRuleOutcome::Reset), rule);
    }

    /// Counts the end of a request, whose record goes to the log.
    pub(super) fn count_end(&mut self, record: &AccessRecord) {
        let is_lost = is_planted(Bug::UncountedEnd) && record.outcome == Outcome::ClientCancelled;
        if !is_lost {
            self.outcomes.count(record.outcome);
        }
        if let Some(duration) = record.delivered {
            self.delivery_duration.record(duration);
        }
    }
}
