//! Metrics: counters, gauges, histograms, and their exposition.
//!
//! Every worker owns its [`Counters`], [`Gauges`] and latency [`Histogram`]s as plain numbers: no
//! atomics, no locks, one addition on the path of a packet. For a scrape of `/metrics` each worker
//! sends a copy as a [`WorkerReport`], and the control thread writes all of them with
//! [`exposition`]. The number of time series depends on the configuration only: no label holds a
//! value that a client chose.

mod broken_rules;
mod counters;
mod exposition;
mod families;
mod gauges;
mod histogram;
mod outcomes;
mod own_responses;
mod plain_text;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::pressure::HeapUse;
pub(crate) use broken_rules::{BrokenRules, Outcome as BrokenRuleOutcome};
pub use counters::LossReason;
pub(crate) use counters::{
    AcceptFailure, ConnectFailure, ConnectionRefusal, ConnectionsClosed, CopyReason, Counters,
    HandshakeFailure, Http3Counters, Ledger, PoolCounters, ProxyCounters, ProxyField,
    ProxyFieldsDropped, ProxyHeaderFailure, QuicCounters, RingCounters, StreamShed, TcpCounters,
    UpstreamFailure, WorkerCounters,
};
#[cfg(test)]
pub(crate) use counters::{
    AcceptFailures, ConnectFailures, ConnectionsRefused, Copied, Flow, FlowBlocked,
    HandshakeFailures, ProxyHeaderFailures, SendsLost, StreamsShed, UpstreamFailures,
};
pub(crate) use exposition::{ProcessFacts, exposition};
pub(crate) use gauges::{Gauges, PoolSlots, SocketOffload};
pub(crate) use histogram::Histogram;
pub(crate) use outcomes::Outcomes;
pub(crate) use own_responses::OwnResponses;
pub(crate) use plain_text::plain_text;

/// The counters of one endpoint of the configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointReport {
    pub upstream: Arc<str>,
    pub address: Arc<str>,
    /// Ejections, including those after a failed trial.
    pub ejection_count: u64,
    pub restoration_count: u64,
    /// It is ejected, or on trial.
    pub is_ejected: bool,
}

/// The certificates of the process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CertificateReport {
    /// By the path of the chain.
    pub certificates: BTreeMap<String, CertificateFacts>,
    /// Certificates that were renewed from changed files.
    pub loaded_count: u64,
    /// Certificates whose changed files were refused.
    pub refused_count: u64,
}

/// Facts about one certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct CertificateFacts {
    /// When it or its issuer in the file expires, in seconds since 1970.
    pub not_after: i64,
    /// Its files are refused, and the one before them is served.
    pub is_refused: bool,
}

/// All metrics of one worker, at one moment.
#[derive(Debug, Clone, Default)]
pub struct WorkerReport {
    pub worker: u16,
    /// The number of the configuration that it uses.
    pub generation: u64,
    pub counters: Counters,
    pub gauges: Gauges,
    pub endpoints: Vec<EndpointReport>,
    /// The heap of the whole process.
    pub heap: HeapUse,
    /// Time from the first byte of a request to the last byte of its response given to the
    /// connection.
    pub request_duration: Histogram,
    /// Time from the request's hand-over to an upstream connection to the end of its response.
    pub upstream_duration: Histogram,
    /// Time from a request's head until the client has acknowledged its response.
    pub delivery_duration: Histogram,
}

#[cfg(test)]
mod tests;

/// TLS connections over TCP whose client offered early data.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EarlyDataCounters {
    /// It was read.
    pub accepted: u64,
    /// None of it was read.
    pub rejected: u64,
}
