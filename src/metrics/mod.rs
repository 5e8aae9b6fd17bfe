//! What the program counts, and how it is told.
//!
//! Every worker owns its [`Counters`], [`Gauges`] and two latency [`Histogram`]s as plain numbers:
//! no atomics, no locks, one add on the path of a packet. When someone asks `/metrics`, each worker
//! hands a copy over as a [`WorkerReport`] and the control thread writes all of them out with
//! [`exposition`]. The number of time series is fixed by the number of workers: no label holds
//! anything that a client chose.

mod broken_rules;
mod counters;
mod exposition;
mod families;
mod histogram;

pub use broken_rules::{BrokenRules, Outcome as BrokenRuleOutcome};
pub use counters::{
    ConnectionsClosed, Copied, CopyReason, Counters, Flow, Gauges, Http3Counters, Ledger,
    OwnResponses, PoolCounters, PoolSlots, ProxyCounters, QuicCounters, RingCounters, SendsLost,
    SocketOffload, UpstreamFailure, UpstreamFailures, WorkerCounters,
};
pub use exposition::{ProcessFacts, exposition};
pub use histogram::Histogram;

/// Everything that one worker tells, at one moment.
#[derive(Debug, Clone, Default)]
pub struct WorkerReport {
    /// Index of the worker, from 0.
    pub worker: u16,
    /// What only grows.
    pub counters: Counters,
    /// What rises and falls.
    pub gauges: Gauges,
    /// From the first byte of a request to the last byte of its response given to the connection.
    pub request_duration: Histogram,
    /// From the request's hand-over to an upstream connection to the end of its response.
    pub upstream_duration: Histogram,
}

#[cfg(test)]
mod tests;
