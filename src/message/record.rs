//! The record of one request, for the access log and the counters.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::{ClientCertificate, LoggedText, Outcome, Protocol, Sender, Understood};

/// One line of the access log: the account of one request stream.
#[derive(Debug, Clone)]
pub struct AccessRecord {
    /// The client's address at the end.
    pub client: SocketAddr,
    /// The server name (SNI) of the client's TLS handshake.
    pub server_name: Option<Arc<str>>,
    /// The client's certificate, if it has shown one.
    pub client_certificate: Option<Arc<ClientCertificate>>,
    /// Method, authority and path, as far as they were parsed.
    pub request: Understood,
    /// Status of the response; `None` when there was none.
    pub status: Option<StatusCode>,
    /// The gateway made the response itself.
    pub is_own: bool,
    /// Request body bytes received.
    pub request_len: u64,
    /// Response body bytes handed to the client's connection.
    pub response_len: u64,
    /// The time at which the request's head was complete, or was given up.
    pub start: Instant,
    /// Time from `start` until the response's last byte was handed to the client's connection, or
    /// the exchange was over.
    pub duration: Duration,
    /// Time from `start` until the client had acknowledged the whole response; `None` if it did
    /// not.
    pub delivered: Option<Duration>,
    /// The endpoint that was tried last.
    pub upstream: Option<Arc<str>>,
    /// Time from the first attempt to reach an endpoint to the end of its response.
    pub upstream_duration: Option<Duration>,
    /// The client's protocol.
    pub protocol: Protocol,
    /// It came before the TLS handshake was complete.
    pub is_early: bool,
    /// How far the response was handed to the client's connection.
    pub handover: Handover,
    pub outcome: Outcome,
    /// The rule that the request or the upstream's response broke.
    pub rule: Option<&'static str>,
    /// The start of the name of the field that broke it, where one field of a response did.
    pub field: Option<LoggedText>,
    /// The bound that was exceeded.
    pub bound: Option<Bound>,
}

/// How far a response was handed to the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handover {
    Whole,
    /// The client gave up or went away before that.
    Cut,
    /// The gateway reset the response before that, so that the client does not take it for a
    /// complete one.
    Reset,
}

/// The end of a request that did not get its ordinary response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    pub outcome: Outcome,
    pub rule: Option<&'static str>,
    pub bound: Option<Bound>,
}

/// A bound of the configuration, as messages name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// The key of the configuration.
    pub key: &'static str,
    pub max: u64,
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {}", self.key, self.max)
    }
}

impl From<Outcome> for Ending {
    fn from(outcome: Outcome) -> Self {
        Self { outcome, rule: None, bound: None }
    }
}

impl Ending {
    /// Creates the end of a request because of a broken rule.
    pub fn by_rule(outcome: Outcome, rule: &'static str) -> Self {
        Self { outcome, rule: Some(rule), bound: None }
    }
}

impl AccessRecord {
    /// Creates a record of a request of which only the client is known.
    pub fn new(start: Instant, sender: Sender) -> Self {
        let Sender { address, server_name, certificate, protocol, is_early } = sender;
        Self {
            client: address,
            server_name,
            client_certificate: certificate,
            request: Understood::default(),
            status: None,
            is_own: false,
            request_len: 0,
            response_len: 0,
            start,
            duration: Duration::ZERO,
            delivered: None,
            upstream: None,
            upstream_duration: None,
            protocol,
            is_early,
            handover: Handover::Whole,
            field: None,
            outcome: Outcome::Complete,
            rule: None,
            bound: None,
        }
    }

    /// Notes why the request does not end as usual. Only the first cause counts: whatever follows
    /// is its consequence.
    pub fn end(&mut self, ending: Ending) {
        if self.outcome == Outcome::Complete {
            let Ending { outcome, rule, bound } = ending;
            (self.outcome, self.rule, self.bound) = (outcome, rule, bound);
        }
    }

    /// Returns the number of bytes that the record holds.
    pub fn held_len(&self) -> usize {
        size_of::<Self>() + self.request.held_len()
    }
}
