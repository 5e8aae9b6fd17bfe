//! The surroundings of a connection, lent to it while it handles an event.

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderValue;

use super::admission::Admission;
use super::alt_svc::{Reception, Remembered};
use super::budget::ResponseBudget;
use super::counters::GatewayCounters;
use super::tcp::TcpShared;
use super::{Owner, StreamRef};
use crate::base::pressure::Pressure;
use crate::base::timers::Timers;
use crate::config::{self, Config, Listener};
use crate::http2;
use crate::http3::{Code, ConnectionError, LocalSettings};
use crate::limits::{HTTP2_CONNECTION_WINDOW, HTTP2_STREAM_WINDOW, TCP_HANDSHAKES_MAX};
use crate::message::{AccessRecord, FieldLimits, Incident};
use crate::metrics::{Ledger, StreamShed};
use crate::proxy::Proxy;
use crate::quic::{ConnectionKey, Engine, StreamId};
use crate::tls::{ALPN_H2, ALPN_HTTP1, ServerTls, TcpServerTls};

/// The surroundings of a connection, lent to it for one event.
pub(super) struct Context<'a> {
    pub(super) now: Instant,
    pub(super) engine: &'a mut Engine,
    pub(super) proxy: &'a mut Proxy,
    pub(super) shared: &'a mut Shared,
}

/// State that all connections of one gateway share.
pub(super) struct Shared {
    pub(super) settings: Settings,
    /// The sockets, by number. One that has been removed keeps its place until another takes it.
    pub(super) sockets: Vec<Edge>,
    /// Listeners whose clients may remember HTTP/3.
    pub(super) remembered: Remembered,
    pub(super) timers: Timers<Owner>,
    pub(super) responses: ResponseBudget,
    /// Scratch space for body pieces that are read together; empty between events.
    pub(super) body: Vec<Bytes>,
    /// Streams whose response queue changed since it was last written.
    pub(super) unwritten: Vec<StreamRef>,
    pub(super) counters: GatewayCounters,
    /// Records of requests that are over, for the access log.
    pub(super) records: VecDeque<Box<AccessRecord>>,
    /// Events for the process log.
    pub(super) incidents: VecDeque<Box<Incident>>,
    pub(super) tcp: TcpShared,
    pub(super) ledger: Ledger,
    /// The pool is low.
    pub(super) memory_low: bool,
    /// How near the heap is to its budget.
    pub(super) pressure: Pressure,
    pub(super) admission: Admission,
    /// The end of the drain, when everything left is closed; `None` while not draining.
    pub(super) drain_end: Option<Instant>,
}

/// A socket of the gateway.
pub(super) struct Edge {
    pub(super) listener: Arc<Listener>,
    /// When the last connections of a removed listener are closed; `None` while it accepts.
    pub(super) drain_end: Option<Instant>,
    /// Whether datagrams arrive at it; `None` before its first probe is over.
    pub(super) reception: Option<Reception>,
    /// The offer of HTTP/3 on it.
    pub(super) alt_svc: Option<HeaderValue>,
}

impl Edge {
    pub(super) fn new(listener: &Arc<Listener>) -> Self {
        let listener = Arc::clone(listener);
        Self { listener, drain_end: None, reception: None, alt_svc: None }
    }
}

/// The settings of connections, replaced as a whole by a reload.
pub(super) struct Settings {
    pub(super) http3: LocalSettings,
    pub(super) tls: ServerTls,
    /// Capacity of each connection's budget of resets.
    pub(super) reset_count_max: u32,
    pub(super) head_timeout: Duration,
    /// The settings of TCP connections, by listener.
    pub(super) tcp: Vec<Arc<TcpSettings>>,
}

/// The settings of a listener's TCP connections. A connection keeps those that it was opened with.
pub(super) struct TcpSettings {
    pub(super) listener: Arc<Listener>,
    /// TLS with the listener's protocols; `None` for plain bytes.
    pub(super) tls: Option<TcpServerTls>,
    /// Connections that this worker may have.
    pub(super) connections_max: usize,
    /// Those of them that one client address may have.
    pub(super) connections_per_address: usize,
    /// Handshakes of this worker that one client address may have.
    pub(super) half_open_per_address: usize,
    pub(super) http2: http2::LocalSettings,
}

impl Settings {
    pub(super) fn new(
        config: &Config,
        listeners: &[Arc<Listener>],
        tls: &ServerTls,
        worker_count: u16,
    ) -> Self {
        let limits = &config.limits;
        let tcp = listeners
            .iter()
            .map(|listener| Arc::new(TcpSettings::new(listener, limits, tls, worker_count)));
        Self {
            http3: LocalSettings {
                field_section_len_max: limits.field_section_len_max,
                field_count_max: limits.field_count_max,
            },
            tls: tls.clone(),
            reset_count_max: limits.stream_reset_count_max,
            head_timeout: limits.request_head_timeout,
            tcp: tcp.collect(),
        }
    }
}

impl TcpSettings {
    fn new(
        listener: &Arc<Listener>,
        limits: &config::Limits,
        tls: &ServerTls,
        worker_count: u16,
    ) -> Self {
        let config::Tcp { max_connections, max_streams, .. } = listener.tcp;
        let connections_max = max_connections.div_ceil(worker_count.max(1).into()) as usize;
        let share = |percent: u8, of: usize| (of * usize::from(percent)).div_ceil(100);
        let mut alpn = Vec::new();
        if listener.protocols.h2 {
            alpn.push(ALPN_H2);
        }
        if listener.protocols.http1 {
            alpn.push(ALPN_HTTP1);
        }
        Self {
            listener: Arc::clone(listener),
            tls: tls.config_tcp_of(listener, &alpn),
            connections_max,
            connections_per_address: share(listener.tcp.connections_per_address, connections_max),
            half_open_per_address: share(listener.tcp.half_open_per_address, TCP_HANDSHAKES_MAX),
            http2: http2::LocalSettings {
                fields: FieldLimits {
                    field_section_len_max: limits.field_section_len_max,
                    field_count_max: limits.field_count_max,
                },
                stream_count_max: max_streams,
                stream_window: HTTP2_STREAM_WINDOW,
                connection_window: HTTP2_CONNECTION_WINDOW,
            },
        }
    }

    /// Returns whether connections of this peer begin with a PROXY header.
    pub(super) fn is_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        self.listener.proxy_protocol.iter().any(|network| network.contains(&peer))
    }
}

impl Shared {
    /// Writes a record to the access log.
    pub(super) fn log(&mut self, record: Box<AccessRecord>) {
        self.counters.count_end(&record);
        self.records.push_back(record);
    }
}

impl Context<'_> {
    /// Writes a record to the access log.
    pub(super) fn log(&mut self, record: Box<AccessRecord>) {
        self.shared.log(record);
    }

    /// Returns why a new request is not processed, if the worker is short of memory or time.
    pub(super) fn shed_reason(&self) -> Option<StreamShed> {
        if self.shared.pressure != Pressure::None {
            return Some(StreamShed::Memory);
        }
        self.shared.admission.is_shedding().then_some(StreamShed::Load)
    }

    /// Sends STOP_SENDING on a stream. Does nothing if the stream is gone.
    pub(super) fn stop_sending(&mut self, key: ConnectionKey, stream: StreamId, code: Code) {
        let _gone = self.engine.stop_sending(key, stream, code.value());
    }

    /// Resets our side of a stream. Does nothing if the stream is gone.
    pub(super) fn reset(&mut self, key: ConnectionKey, stream: StreamId, code: Code) {
        let _gone = self.engine.reset(key, stream, code.value());
    }

    /// Closes a connection whose client broke a rule.
    pub(super) fn close(&mut self, key: ConnectionKey, error: ConnectionError) {
        let counters = &mut self.shared.counters.http3;
        match error.code {
            Code::ExcessiveLoad => counters.excessive_load += 1,
            _ => counters.connection_errors += 1,
        }
        self.engine.close(self.now, key, error.code.value(), error.rule.as_bytes());
    }
}
