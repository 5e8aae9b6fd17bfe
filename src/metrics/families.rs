//! The table of metrics: name, help, labels and the field of the value. prometheus-client adds the
//! prefix `ringway_`, the unit and, for counters, `_total`.

use super::{Histogram, WorkerReport};

/// One time series of a worker.
pub(super) struct Series {
    /// Label names and values, besides the worker's.
    pub(super) labels: &'static [(&'static str, &'static str)],
    pub(super) value: fn(&WorkerReport) -> u64,
}

/// A metric family: one name, and one or more time series per worker.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    /// The unit is bytes; otherwise there is none.
    pub(super) bytes: bool,
    pub(super) series: &'static [Series],
}

/// Shorthand for a family. `bytes` before the name gives it that unit.
macro_rules! family {
    (bytes $name:literal, $help:literal, $($series:tt)+) => {
        Family { name: $name, help: $help, bytes: true, series: series!($($series)+) }
    };
    ($name:literal, $help:literal, $($series:tt)+) => {
        Family { name: $name, help: $help, bytes: false, series: series!($($series)+) }
    };
}

/// `{label = "value"} path.to.the.number`, separated by commas.
macro_rules! series {
    ($({$($key:ident = $value:literal),*} $($path:ident).+ $([$index:literal])?),+) => {
        &[$(Series {
            labels: &[$((stringify!($key), $value)),*],
            value: |report| report.$($path).+$([$index])?,
        }),+]
    };
}

#[rustfmt::skip]
pub(super) const COUNTERS: &[Family] = &[
    family!("connections_accepted", "Connections started", {} counters.quic.handshakes_started),
    family!("connection_attempts", "First packets of new connections",
        {} counters.quic.connection_attempts),
    family!("connections_refused", "Connections refused, by reason",
        {reason = "limit"} counters.quic.connections_refused.limit,
        {reason = "address"} counters.quic.connections_refused.address,
        {reason = "memory"} counters.quic.connections_refused.memory,
        {reason = "draining"} counters.quic.connections_refused.draining),
    family!("handshakes", "TLS handshakes ended, by outcome",
        {outcome = "completed"} counters.quic.handshakes_completed,
        {outcome = "failed"} counters.quic.handshakes_failed),
    family!("handshake_failures", "Handshakes that failed, by reason",
        {reason = "no_shared_protocol"} counters.quic.handshake_failures.no_shared_protocol,
        {reason = "unknown_server_name"} counters.quic.handshake_failures.unknown_server_name,
        {reason = "certificate_rejected"} counters.quic.handshake_failures.certificate_rejected,
        {reason = "no_shared_parameters"} counters.quic.handshake_failures.no_shared_parameters,
        {reason = "transport_parameters"} counters.quic.handshake_failures.transport_parameters,
        {reason = "timed_out"} counters.quic.handshake_failures.timed_out,
        {reason = "client"} counters.quic.handshake_failures.client,
        {reason = "other"} counters.quic.handshake_failures.other),
    family!("connections_closed", "Connections ended, by cause",
        {by = "client"} counters.connections_closed.client,
        {by = "gateway"} counters.connections_closed.gateway,
        {by = "idle"} counters.connections_closed.idle,
        {by = "reset"} counters.connections_closed.reset,
        {by = "error"} counters.connections_closed.error),
    family!("datagrams", "UDP datagrams, by direction",
        {direction = "in"} counters.quic.datagrams_in,
        {direction = "out"} counters.quic.datagrams_out),
    family!(bytes "datagram", "UDP payload bytes, by direction",
        {direction = "in"} counters.quic.bytes_in,
        {direction = "out"} counters.quic.bytes_out),
    family!("datagrams_dropped", "Received datagrams dropped, by reason",
        {reason = "undecodable"} counters.quic.datagrams_dropped,
        {reason = "foreign_id"} counters.quic.datagrams_foreign_id,
        {reason = "port_0"} counters.quic.datagrams_from_port_0,
        {reason = "too_long"} counters.quic.datagrams_too_long,
        {reason = "half_open"} counters.quic.initials_dropped,
        {reason = "token_replayed"} counters.quic.tokens_replayed,
        {reason = "first_packets"} counters.quic.first_packets_dropped,
        {reason = "truncated"} counters.ring.truncated,
        {reason = "empty"} counters.ring.empty,
        {reason = "unreadable"} counters.ring.unreadable),
    family!("stateless_responses", "Responses to datagrams without a connection, by kind",
        {kind = "retry"} counters.quic.retries,
        {kind = "version_negotiation"} counters.quic.version_negotiations,
        {kind = "reset"} counters.quic.resets,
        {kind = "close"} counters.quic.initial_closes,
        {kind = "dropped"} counters.quic.responses_dropped),
    family!("path_probes_dropped",
        "Path probes dropped to stay within the anti-amplification limit",
        {} counters.quic.probes_dropped),
    family!("packets_lost", "QUIC packets declared lost", {} counters.quic.packets_lost),
    family!("uploads_blocked",
        "Reports of clients that a flow control window holds back an upload, by window",
        {window = "connection"} counters.quic.flow_blocked.connection,
        {window = "stream"} counters.quic.flow_blocked.stream),

    family!("http3_streams_opened", "Request streams opened by clients",
        {} counters.http3.streams_opened),
    family!("http3_streams_shed", "Request streams rejected before they were processed, by reason",
        {reason = "draining"} counters.http3.streams_shed.draining,
        {reason = "memory"} counters.http3.streams_shed.memory,
        {reason = "load"} counters.http3.streams_shed.load),
    family!("connections_evicted", "Connections closed because memory was used up",
        {} counters.http3.connections_evicted),
    family!("http3_streams_ended_early", "Request streams reset, by side",
        {by = "client"} counters.http3.streams_cancelled,
        {by = "gateway"} counters.http3.streams_reset),
    family!("http3_requests_malformed", "Malformed requests", {} counters.http3.requests_malformed),
    family!("http3_connection_errors",
        "Connections closed because the client broke HTTP/3, by reason",
        {reason = "rule"} counters.http3.connection_errors,
        {reason = "excessive_load"} counters.http3.excessive_load),

    family!("requests", "Requests started", {} counters.proxy.requests),
    family!("responses_own", "Responses made by the gateway itself, by status",
        {status = "400"} counters.proxy.own_responses.bad_request,
        {status = "404"} counters.proxy.own_responses.no_route,
        {status = "408"} counters.proxy.own_responses.request_timeout,
        {status = "413"} counters.proxy.own_responses.body_too_large,
        {status = "421"} counters.proxy.own_responses.misdirected,
        {status = "429"} counters.proxy.own_responses.too_many_requests,
        {status = "431"} counters.proxy.own_responses.fields_too_large,
        {status = "501"} counters.proxy.own_responses.not_implemented,
        {status = "502"} counters.proxy.own_responses.bad_gateway,
        {status = "503"} counters.proxy.own_responses.overloaded,
        {status = "504"} counters.proxy.own_responses.gateway_timeout),
    family!("exchanges_cut", "Exchanges that ended abnormally, by side",
        {side = "downstream"} counters.proxy.exchanges_aborted,
        {side = "upstream"} counters.proxy.responses_reset),
    family!("upstream_connects", "Attempts to open an upstream connection",
        {} counters.proxy.upstream_connects),
    family!("upstream_reuses", "Requests sent over a kept-alive upstream connection",
        {} counters.proxy.upstream_reuses),
    family!("upstream_retries", "Requests retried", {} counters.proxy.upstream_retries),
    family!("upstream_queue_sheds", "Requests given up in a queue that stands",
        {} counters.proxy.queue_sheds),
    family!("upstream_idle_discarded", "Idle upstream connections discarded",
        {} counters.proxy.upstream_idle_discarded),
    family!("upstream_failures", "Failures of upstreams, by kind",
        {kind = "connect_refused"} counters.proxy.upstream_failures.connect_refused,
        {kind = "connect_timeout"} counters.proxy.upstream_failures.connect_timeout,
        {kind = "connect_failed"} counters.proxy.upstream_failures.connect_failed,
        {kind = "response_timeout"} counters.proxy.upstream_failures.response_timeout,
        {kind = "terminated"} counters.proxy.upstream_failures.terminated,
        {kind = "protocol"} counters.proxy.upstream_failures.protocol),
    family!("upstream_connect_failures", "Upstream connections that could not be opened, by reason",
        {reason = "refused"} counters.proxy.upstream_connect_failures.refused,
        {reason = "missing"} counters.proxy.upstream_connect_failures.missing,
        {reason = "forbidden"} counters.proxy.upstream_connect_failures.forbidden,
        {reason = "unreachable"} counters.proxy.upstream_connect_failures.unreachable,
        {reason = "timed_out"} counters.proxy.upstream_connect_failures.timed_out,
        {reason = "queue_full"} counters.proxy.upstream_connect_failures.queue_full,
        {reason = "reset"} counters.proxy.upstream_connect_failures.reset,
        {reason = "no_port"} counters.proxy.upstream_connect_failures.no_port,
        {reason = "no_descriptor"} counters.proxy.upstream_connect_failures.no_descriptor,
        {reason = "no_memory"} counters.proxy.upstream_connect_failures.no_memory,
        {reason = "no_place"} counters.proxy.upstream_connect_failures.no_place,
        {reason = "other"} counters.proxy.upstream_connect_failures.other),
    family!("proxy_fields_dropped",
        "Fields that only trusted proxies may send, dropped from requests of others, by kind",
        {kind = "forwarding"} counters.proxy.proxy_fields_dropped.forwarding,
        {kind = "address"} counters.proxy.proxy_fields_dropped.address,
        {kind = "target"} counters.proxy.proxy_fields_dropped.target,
        {kind = "method"} counters.proxy.proxy_fields_dropped.method,
        {kind = "identity"} counters.proxy.proxy_fields_dropped.identity,
        {kind = "added"} counters.proxy.proxy_fields_dropped.added),
    family!(bytes "body", "Body bytes of requests and responses",
        {direction = "request"} counters.proxy.request_body_bytes,
        {direction = "response"} counters.proxy.response_body_bytes),

    family!(bytes "payload", "Payload bytes moved through user space",
        {direction = "request"} counters.ledger.request.payload_bytes,
        {direction = "response"} counters.ledger.response.payload_bytes),
    family!(bytes "payload_copied", "Payload bytes that user space copied, by reason",
        {direction = "request", reason = "gather"} counters.ledger.request.copied_bytes.gather,
        {direction = "request", reason = "small"} counters.ledger.request.copied_bytes.small,
        {direction = "request", reason = "quota"} counters.ledger.request.copied_bytes.quota,
        {direction = "request", reason = "low_water"}
            counters.ledger.request.copied_bytes.low_water,
        {direction = "request", reason = "handshake"}
            counters.ledger.request.copied_bytes.handshake,
        {direction = "response", reason = "gather"} counters.ledger.response.copied_bytes.gather,
        {direction = "response", reason = "small"} counters.ledger.response.copied_bytes.small,
        {direction = "response", reason = "quota"} counters.ledger.response.copied_bytes.quota,
        {direction = "response", reason = "low_water"}
            counters.ledger.response.copied_bytes.low_water,
        {direction = "response", reason = "handshake"}
            counters.ledger.response.copied_bytes.handshake),

    family!("ring_enters", "io_uring_enter calls", {} counters.ring.enters),
    family!("ring_completions", "Completions taken from the kernel",
        {} counters.ring.completions),
    family!("ring_no_buffers", "Receives that found no buffer provided, by kind",
        {kind = "datagrams"} counters.ring.no_buffers_datagrams,
        {kind = "streams"} counters.ring.no_buffers_streams),
    family!("ring_no_memory", "Receives and waits that failed for lack of kernel memory",
        {} counters.ring.no_memory),
    family!("ring_rearms", "Datagram receives armed again", {} counters.ring.rearms),
    family!("ring_receive_failures", "Failures of datagram receives, except for lack of buffers",
        {} counters.ring.receive_failures),
    family!("ring_cq_overflows", "Completion queue overflows", {} counters.ring.cq_overflows),
    family!("ring_gso_fallbacks", "Sends repeated without segmentation by the kernel",
        {} counters.ring.gso_fallbacks),
    family!("ring_zero_copy", "Zero-copy sends of long batches, by outcome",
        {outcome = "asked"} counters.ring.zero_copy_sends,
        {outcome = "copied"} counters.ring.zero_copy_copied,
        {outcome = "refused"} counters.ring.zero_copy_refused),
    family!("ring_send_retries", "Sends repeated because the kernel had no buffers",
        {} counters.ring.send_retries),
    family!("ring_close_failures", "Closes of upstream connections that the kernel refused",
        {} counters.ring.closes_failed),
    family!("ring_strays", "Late completions, and calls on closed streams, by kind",
        {kind = "completion"} counters.ring.late,
        {kind = "call"} counters.ring.stale_keys),
    family!("sends_lost", "Datagram sends that failed on this host, by reason",
        {reason = "too_long"} counters.ring.sends_lost.too_long,
        {reason = "unreachable"} counters.ring.sends_lost.unreachable,
        {reason = "refused"} counters.ring.sends_lost.refused,
        {reason = "no_buffers"} counters.ring.sends_lost.no_buffers,
        {reason = "cancelled"} counters.ring.sends_lost.cancelled,
        {reason = "other"} counters.ring.sends_lost.other),
    family!("pool_low_water_events", "Number of times the pool fell below its low-water mark",
        {} counters.pool.low_water_events),

    family!("worker_loop_turns", "Turns of the worker's loop", {} counters.worker.loop_turns),
    family!("worker_sleeps", "Turns of the worker's loop that slept", {} counters.worker.sleeps),
    family!("worker_commands", "Commands taken from the mailbox", {} counters.worker.commands),
    family!("worker_restarts", "Restarts of the worker after a death",
        {} counters.worker.restarts),
    family!("access_records_dropped",
        "Access records dropped because the control thread was behind",
        {} counters.worker.access_records_dropped),
    family!("upstream_address_fallbacks",
        "Addresses of a name that refused a connection, so that its next one was tried",
        {} counters.worker.connect_fallbacks),

    family!("responses", "Final responses, by status class",
        {class = "1xx"} counters.proxy.responses[0],
        {class = "2xx"} counters.proxy.responses[1],
        {class = "3xx"} counters.proxy.responses[2],
        {class = "4xx"} counters.proxy.responses[3],
        {class = "5xx"} counters.proxy.responses[4]),
];

#[rustfmt::skip]
pub(super) const GAUGES: &[Family] = &[
    family!("connections_open", "Open connections, including handshakes",
        {} gauges.connections_open),
    family!("connections_handshaking", "Connections whose handshake is not complete",
        {} gauges.connections_handshaking),
    family!("exchanges_active", "Exchanges in progress", {} gauges.exchanges_active),
    family!("requests_waiting", "Requests waiting for an upstream connection",
        {} gauges.requests_waiting),
    family!("upstream_connections_open", "Open upstream connections",
        {} gauges.upstream_connections_open),
    family!("upstream_connections_idle", "Idle upstream connections",
        {} gauges.upstream_connections_idle),
    family!("responses_waiting_bytes", "Response bytes queued for clients",
        {} gauges.responses_waiting_bytes),
    family!("pool_slots", "Slots of the pool, by state",
        {state = "free"} gauges.pool_slots.free,
        {state = "owned"} gauges.pool_slots.owned,
        {state = "provided"} gauges.pool_slots.provided,
        {state = "in_kernel"} gauges.pool_slots.in_kernel),
    family!("ring_operations", "Operations in flight in the kernel", {} gauges.ring_operations),
    family!("socket_offload", "UDP sockets, by offload and whether it is in use",
        {offload = "gro", state = "on"} gauges.socket_offload.gro_on,
        {offload = "gro", state = "off"} gauges.socket_offload.gro_off,
        {offload = "gso", state = "on"} gauges.socket_offload.gso_on,
        {offload = "gso", state = "off"} gauges.socket_offload.gso_off,
        {offload = "zero_copy", state = "on"} gauges.socket_offload.zero_copy_on,
        {offload = "zero_copy", state = "off"} gauges.socket_offload.zero_copy_off),
];

pub(super) struct HistogramFamily {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) value: fn(&WorkerReport) -> &Histogram,
}

/// Latencies, in seconds.
pub(super) const HISTOGRAMS: &[HistogramFamily] = &[
    HistogramFamily {
        name: "request_duration",
        help: "Time from a request's head until its response was handed to the client's connection",
        value: |report| &report.request_duration,
    },
    HistogramFamily {
        name: "upstream_duration",
        help: "Time from a request's hand-over upstream to the end of its response",
        value: |report| &report.upstream_duration,
    },
    HistogramFamily {
        name: "delivery_duration",
        help: "Time from a request's head until the client has acknowledged its whole response",
        value: |report| &report.delivery_duration,
    },
];
