//! What a connection needs from its surroundings while it acts.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::budget::ResponseBudget;
use super::counters::GatewayCounters;
use super::{Owner, StreamRef};
use crate::base::timers::Timers;
use crate::config::Config;
use crate::http3::{Code, ConnectionError, LocalSettings};
use crate::metrics::Ledger;
use crate::proxy::Proxy;
use crate::quic::{ConnectionKey, Engine, StreamId};
use crate::tls::ServerTls;

/// The surroundings of a connection, lent to it for one event.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) engine: &'a mut Engine,
    pub(super) proxy: &'a mut Proxy,
    pub(super) shared: &'a mut Shared,
}

/// What the connections of one gateway have in common.
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// Index of the listener of each socket, by the socket's number.
    pub(super) socket_listeners: Vec<usize>,
    pub(super) timers: Timers<Owner>,
    pub(super) responses: ResponseBudget,
    /// Room for the pieces of a body that are read together; empty in between.
    pub(super) body: Vec<Bytes>,
    /// Streams whose response queue changed since it was last written.
    pub(super) unwritten: Vec<StreamRef>,
    pub(super) counters: GatewayCounters,
    pub(super) ledger: Ledger,
    pub(super) memory_low: bool,
    /// When everything is ended, in a drain.
    pub(super) drain_end: Option<Instant>,
}

/// The settings that connections run by, replaced as a whole by a reload.
pub(super) struct Settings {
    pub(super) http3: LocalSettings,
    pub(super) tls: ServerTls,
    /// Capacity of each connection's budget of resets.
    pub(super) reset_count_max: u32,
    pub(super) head_timeout: Duration,
}

impl Settings {
    pub(super) fn new(config: &Config, tls: &ServerTls) -> Self {
        let limits = &config.limits;
        Self {
            http3: LocalSettings {
                field_section_len_max: limits.field_section_len_max,
                field_count_max: limits.field_count_max,
            },
            tls: tls.clone(),
            reset_count_max: limits.stream_reset_count_max,
            head_timeout: limits.request_head_timeout,
        }
    }
}

impl Context<'_> {
    /// Asks the client to send no more on a stream. A stream that is gone has nothing more to send.
    pub(super) fn stop_sending(&mut self, key: ConnectionKey, stream: StreamId, code: Code) {
        let _gone = self.engine.stop_sending(key, stream, code.value());
    }

    /// Cuts off our side of a stream. A stream that is gone is cut off already.
    pub(super) fn reset(&mut self, key: ConnectionKey, stream: StreamId, code: Code) {
        let _gone = self.engine.reset(key, stream, code.value());
    }

    /// Ends a connection whose client broke a rule.
    pub(super) fn close(&mut self, key: ConnectionKey, error: ConnectionError) {
        let counters = &mut self.shared.counters.http3;
        match error.code {
            Code::ExcessiveLoad => counters.excessive_load += 1,
            _ => counters.connection_errors += 1,
        }
        self.engine.close(self.now, key, error.code.value(), error.rule.as_bytes());
    }
}
