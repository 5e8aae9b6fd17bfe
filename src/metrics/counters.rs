//! Counters, grouped by the part that counts them. All fields start at zero and do not
//! wrap in practice (2^64 bytes at 100 Gbit/s take 46 years).

use super::{BrokenRules, Outcomes, OwnResponses};

/// Defines an enum of kinds, and the struct with one count for each.
macro_rules! kinds {
    (
        $(#[$kind_doc:meta])* $kind:ident,
        $(#[$counts_doc:meta])* $counts:ident {
            $($(#[$doc:meta])* $variant:ident: $field:ident,)+
        }
    ) => {
        $(#[$kind_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $kind {
            $($(#[$doc])* $variant),+
        }

        $(#[$counts_doc])*
        #[derive(Debug, Clone, Default, PartialEq, Eq)]
        pub struct $counts {
            $($(#[$doc])* pub $field: u64),+
        }

        impl $counts {
            pub fn count(&mut self, kind: $kind, amount: u64) {
                *match kind {
                    $($kind::$variant => &mut self.$field),+
                } += amount;
            }
        }
    };
}

/// All counters of a worker since it started.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    pub quic: QuicCounters,
    /// Connections that ended after their handshake, by cause.
    pub connections_closed: ConnectionsClosed,
    pub tcp: TcpCounters,
    pub http3: Http3Counters,
    /// Messages of clients and upstreams that broke a rule.
    pub broken_rules: BrokenRules,
    pub proxy: ProxyCounters,
    /// Requests that are over, by outcome.
    pub outcomes: Outcomes,
    pub ring: RingCounters,
    pub pool: PoolCounters,
    pub worker: WorkerCounters,
    /// Payload bytes moved, and those that user space copied.
    pub ledger: Ledger,
}

/// Counters of clients' TCP connections.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TcpCounters {
    pub connections_accepted: u64,
    /// Connections closed at once, since the process or the client's address has as many as it may.
    pub connections_refused: u64,
    pub connections_closed: u64,
    pub handshakes_completed: u64,
    pub early_data: super::EarlyDataCounters,
    /// TLS handshakes that failed, by reason.
    pub handshake_failures: HandshakeFailures,
    /// PROXY headers that did not come or are none, by reason.
    pub proxy_header_failures: ProxyHeaderFailures,
}

/// Counters of the QUIC engine: connections and datagrams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct QuicCounters {
    /// Datagrams received (each GRO segment is one).
    pub datagrams_in: u64,
    /// UDP payload bytes received.
    pub bytes_in: u64,
    /// Datagrams handed to the kernel (each GSO segment is one).
    pub datagrams_out: u64,
    /// UDP payload bytes handed to the kernel.
    pub bytes_out: u64,
    /// Datagrams dropped because they were damaged, too short or of unknown connections.
    pub datagrams_dropped: u64,
    /// Datagrams dropped because their connection id belongs to another worker.
    pub datagrams_foreign_id: u64,
    /// Datagrams dropped because their source port is 0, to which no response can be sent.
    pub datagrams_from_port_0: u64,
    /// Datagrams dropped because they were longer than clients are told to send.
    pub datagrams_too_long: u64,
    /// Initials of new connections: offered = started + retries + refused + dropped + replayed.
    pub connection_attempts: u64,
    pub handshakes_started: u64,
    pub handshakes_completed: u64,
    /// Handshakes that failed: the sum of `handshake_failures`.
    pub handshakes_failed: u64,
    pub handshake_failures: HandshakeFailures,
    pub connections_refused: ConnectionsRefused,
    /// Initials dropped because too many handshakes were half open.
    pub initials_dropped: u64,
    /// Initials dropped because their Retry token had been used before.
    pub tokens_replayed: u64,
    /// First packets that were dropped unread, since too many waited.
    pub first_packets_dropped: u64,
    /// Retry packets (RFC 9000 8.1.2).
    pub retries: u64,
    /// Version Negotiation packets (RFC 9000 6).
    pub version_negotiations: u64,
    /// Stateless resets (RFC 9000 10.3).
    pub resets: u64,
    /// CONNECTION_CLOSE packets sent to clients that were refused a connection.
    pub initial_closes: u64,
    /// Responses to datagrams without a connection, dropped because their queue was full or, for
    /// resets, because there were too many.
    pub responses_dropped: u64,
    /// Path probes dropped to stay within the anti-amplification limit.
    pub probes_dropped: u64,
    /// Packets declared lost by loss detection (RFC 9002 6).
    pub packets_lost: u64,
    pub flow_blocked: FlowBlocked,
}

/// Reports of clients that a window of ours holds back what they have to send (RFC 9000 4.1). They
/// are counted by the next timer of their connection.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FlowBlocked {
    /// DATA_BLOCKED: the window of a connection.
    pub connection: u64,
    /// STREAM_DATA_BLOCKED: the window of a request's body.
    pub stream: u64,
}

kinds! {
    /// The reason why a handshake failed.
    HandshakeFailure,
    /// Failed handshakes, by reason.
    HandshakeFailures {
        /// The client offers no application protocol of ours (ALPN).
        NoSharedProtocol: no_shared_protocol,
        /// No certificate is for the name that the client asks for.
        UnknownServerName: unknown_server_name,
        /// The client does not accept our certificate.
        CertificateRejected: certificate_rejected,
        /// The client shows no certificate, and its listener requires one.
        ClientCertificateMissing: client_certificate_missing,
        /// The client's certificate, or an authority between, has expired or is not valid yet.
        ClientCertificateExpired: client_certificate_expired,
        /// The client's certificate is revoked.
        ClientCertificateRevoked: client_certificate_revoked,
        /// No authority of the listener issued it, or no valid revocation list covers it.
        ClientCertificateUntrusted: client_certificate_untrusted,
        /// The client's certificate is not for clients, or cannot be read.
        ClientCertificateInvalid: client_certificate_invalid,
        /// There is no version, cipher suite or group of TLS that both sides have.
        NoSharedParameters: no_shared_parameters,
        /// QUIC's transport parameters are missing or break a rule.
        TransportParameters: transport_parameters,
        /// The client fell silent.
        TimedOut: timed_out,
        /// The client closed the connection, for none of the reasons above.
        Client: client,
        /// Any other violation of QUIC or TLS, or the gateway stopped.
        Other: other,
    }
}

kinds! {
    /// The reason why a proxy's connection was closed before its client was known.
    ProxyHeaderFailure,
    /// Such connections, by reason.
    ProxyHeaderFailures {
        /// The first bytes are no PROXY header, or a malformed one.
        Malformed: malformed,
        /// The connection ended within the header.
        CutOff: cut_off,
        /// The header did not come in time.
        TimedOut: timed_out,
    }
}

kinds! {
    /// The reason why a connection was refused.
    ConnectionRefusal,
    /// Refused connections, by reason.
    ConnectionsRefused {
        /// `max_connections` is reached.
        Limit: limit,
        /// One client address has its share of connections or of handshakes in progress.
        Address: address,
        /// The worker's budget of memory is used up.
        Memory: memory,
        /// The gateway drains.
        Draining: draining,
    }
}

kinds! {
    /// The reason why a request was rejected before it was processed.
    StreamShed,
    /// Rejected requests, by reason.
    StreamsShed {
        /// The gateway drains.
        Draining: draining,
        /// The heap is near its budget.
        Memory: memory,
        /// The worker has more to do than time.
        Load: load,
    }
}

/// Ended connections, by cause.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionsClosed {
    /// Closed by the client.
    pub client: u64,
    /// Closed by the gateway: drain, stop, or an HTTP/3 rule broken by the client.
    pub gateway: u64,
    pub idle: u64,
    /// Stateless reset: the client has lost its state.
    pub reset: u64,
    /// A violation of QUIC.
    pub error: u64,
}

/// Counters of the HTTP/3 layer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Http3Counters {
    pub streams_opened: u64,
    /// Malformed requests (RFC 9114 4.1.2).
    pub requests_malformed: u64,
    /// Connections closed because the client broke RFC 9114 or RFC 9204.
    pub connection_errors: u64,
    /// Connections closed with H3_EXCESSIVE_LOAD.
    pub excessive_load: u64,
    /// Request streams that the client reset or stopped.
    pub streams_cancelled: u64,
    /// Rejected before they were processed.
    pub streams_shed: StreamsShed,
    /// Connections closed because the heap's budget was used up.
    pub connections_evicted: u64,
    /// Request streams that the gateway reset.
    pub streams_reset: u64,
}

/// Counters of the proxy: requests, responses and upstreams.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxyCounters {
    pub requests: u64,
    /// Final responses by status class; index 0 is 1xx (stays zero), 4 is 5xx.
    pub responses: [u64; 5],
    /// Responses made by the gateway itself; they are in `responses` too.
    pub own_responses: OwnResponses,
    /// Exchanges that the client cancelled.
    pub exchanges_aborted: u64,
    /// Responses reset after their head had been sent.
    pub responses_reset: u64,
    pub upstream_connects: u64,
    /// Requests sent over a kept-alive connection.
    pub upstream_reuses: u64,
    pub upstream_retries: u64,
    /// Idle upstream connections discarded because the peer closed them or sent something.
    pub upstream_idle_discarded: u64,
    /// Requests that were given up because a queue stood and they waited too long in it.
    pub queue_sheds: u64,
    pub upstream_failures: UpstreamFailures,
    pub upstream_connect_failures: ConnectFailures,
    pub proxy_fields_dropped: ProxyFieldsDropped,
    /// Body bytes of requests, as clients sent them.
    pub request_body_bytes: u64,
    /// Body bytes of responses, as clients received them.
    pub response_body_bytes: u64,
}

impl ProxyCounters {
    /// Counts one final response with this status code. One of 600 or more counts as 5xx, since a
    /// client treats it as such (RFC 9110 15).
    pub fn count_response(&mut self, status: u16) {
        let class = (status / 100).min(5);
        if let Some(class) = self.responses.get_mut(class.wrapping_sub(1) as usize) {
            *class += 1;
        }
    }
}

kinds! {
    /// Kind of an upstream's failure.
    UpstreamFailure,
    /// Failures of upstreams, by kind.
    UpstreamFailures {
        /// The connection was refused.
        ConnectRefused: connect_refused,
        /// The connection took longer than `timeout.connect`.
        ConnectTimeout: connect_timeout,
        /// The connection failed in another way (unreachable, no such socket).
        ConnectFailed: connect_failed,
        /// No response, or no more of it, within `timeout.response`.
        ResponseTimeout: response_timeout,
        /// The connection ended before the response was complete.
        Terminated: terminated,
        /// The response broke HTTP/1.1.
        Protocol: protocol,
    }
}

kinds! {
    /// The kind of a field that only a trusted proxy may send.
    ProxyField,
    /// Such fields, dropped from requests of others, by kind.
    ProxyFieldsDropped {
        /// `x-forwarded-*`, `forwarded`, `via` and `x-real-ip`.
        Forwarding: forwarding,
        /// Another field for the client's address.
        Address: address,
        /// Another target than the request's.
        Target: target,
        /// Another method than the request's.
        Method: method,
        /// The client's certificate, or the name of a user.
        Identity: identity,
        /// Added by the configuration.
        Added: added,
    }
}

kinds! {
    /// The reason why an upstream connection could not be opened.
    ConnectFailure,
    /// Upstream connections that could not be opened, by reason.
    ConnectFailures {
        /// No process listens there, or the path is no socket.
        Refused: refused,
        /// There is no such unix socket.
        Missing: missing,
        /// This process may not connect to the address.
        Forbidden: forbidden,
        Unreachable: unreachable,
        /// Not in time, and the endpoint did not respond meanwhile.
        TimedOut: timed_out,
        /// Not in time, but the endpoint responded on other connections, or is a unix socket.
        QueueFull: queue_full,
        Reset: reset,
        /// No local port is left toward the address.
        NoPort: no_port,
        NoDescriptor: no_descriptor,
        NoMemory: no_memory,
        /// The worker holds as many upstream connections as it can.
        NoPlace: no_place,
        Other: other,
    }
}

/// Counters of the ring.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingCounters {
    pub enters: u64,
    pub completions: u64,
    /// Multishot receives on UDP sockets armed again after the kernel ended them.
    pub rearms: u64,
    /// Datagram receives that ended because no buffer was provided (ENOBUFS).
    pub no_buffers_datagrams: u64,
    /// Stream receives that had to wait because no buffer was provided.
    pub no_buffers_streams: u64,
    /// Receives, and waits for a wake-up, that failed for lack of kernel memory (ENOMEM) and are
    /// retried after a pause.
    pub no_memory: u64,
    /// Turns that found the completion queue overflowing.
    pub cq_overflows: u64,
    /// Sends repeated segment by segment after the kernel refused to segment.
    pub gso_fallbacks: u64,
    /// Long batches submitted as zero-copy sends.
    pub zero_copy_sends: u64,
    /// Those of them that the kernel reports to have copied; the socket stops using zero-copy.
    pub zero_copy_copied: u64,
    /// Those of them that the kernel refused; they are sent again, and the socket stops using
    /// zero-copy.
    pub zero_copy_refused: u64,
    /// Sends repeated because the kernel had no buffers.
    pub send_retries: u64,
    /// TCP connections of clients.
    pub accepted: u64,
    /// Accepts that failed, by reason.
    pub accept_failures: AcceptFailures,
    /// Closes of TCP connections that the kernel refused.
    pub closes_failed: u64,
    /// Datagram sends that were lost on this host, by reason.
    pub sends_lost: SendsLost,
    /// Received datagrams dropped because the slot or its control data was too short.
    pub truncated: u64,
    /// Received datagrams dropped because they were empty.
    pub empty: u64,
    /// Received datagrams dropped because their control data could not be parsed.
    pub unreadable: u64,
    /// Failures of datagram receives, except for lack of buffers.
    pub receive_failures: u64,
    /// Completions that named no operation in flight.
    pub late: u64,
    /// Calls that named a stream which is closed or closing.
    pub stale_keys: u64,
}

kinds! {
    /// The reason why an accept failed.
    AcceptFailure,
    /// Accepts that failed, by reason.
    AcceptFailures {
        /// The connection ended before it was accepted.
        ClientGone: client_gone,
        /// The host, or this process, has no file left.
        NoFile: no_file,
        /// The kernel had no memory.
        NoMemory: no_memory,
        Other: other,
    }
}

kinds! {
    /// The reason why this host lost a datagram.
    LossReason,
    /// Datagram sends that failed for good, by reason.
    SendsLost {
        /// Longer than the path MTU (normal for an MTU probe).
        TooLong: too_long,
        /// No route, or the network or host is down.
        Unreachable: unreachable,
        /// Refused, by a packet filter or the like.
        Refused: refused,
        /// The kernel had no buffers, even after retries.
        NoBuffers: no_buffers,
        /// The ring was shut down first.
        Cancelled: cancelled,
        Other: other,
    }
}

/// Counters of the pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PoolCounters {
    /// Number of times the pool fell below its low-water mark.
    pub low_water_events: u64,
}

/// Counters of a worker's loop.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct WorkerCounters {
    pub loop_turns: u64,
    pub sleeps: u64,
    pub commands: u64,
    pub restarts: u64,
    /// Access records dropped because the control thread was behind.
    pub access_records_dropped: u64,
    /// Addresses of a name that could not be connected to, so that another one was tried.
    pub connect_fallbacks: u64,
    /// Probes of the worker's own UDP sockets that came back.
    pub probes_returned: u64,
    /// Those that did not.
    pub probes_lost: u64,
}

/// The ledger: payload bytes moved, and those that user space copied.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Client to upstream.
    pub request: Flow,
    /// Upstream to client.
    pub response: Flow,
}

impl Ledger {
    /// Counts bytes read from request streams.
    pub fn request_moved(&mut self, len: usize) {
        self.request.payload_bytes += len as u64;
    }

    /// Counts received bytes that were copied before they were decrypted.
    pub fn request_copied(&mut self, reason: CopyReason, len: usize) {
        self.request.copied_bytes.count(reason, len as u64);
    }

    /// Counts body bytes of responses that were queued.
    pub fn response_moved(&mut self, len: usize) {
        self.response.payload_bytes += len as u64;
    }

    /// Counts bytes of responses that were copied.
    pub fn response_copied(&mut self, reason: CopyReason, len: usize) {
        self.response.copied_bytes.count(reason, len as u64);
    }
}

/// One direction of the ledger.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Flow {
    pub payload_bytes: u64,
    /// Those of them that user space copied, by reason. A byte copied twice counts twice.
    pub copied_bytes: Copied,
}

kinds! {
    /// Reason why user space copied payload bytes.
    CopyReason,
    /// Payload bytes copied, by reason.
    Copied {
        /// quinn-proto gathers stream bytes into a packet before it seals the packet.
        Gather: gather,
        /// A small piece, copied so that it does not pin a slot.
        Small: small,
        /// The flow held its quota of slots.
        Quota: quota,
        /// The pool was below its low-water mark.
        LowWater: low_water,
        /// A datagram of a handshake: a half-open connection may keep it for seconds.
        Handshake: handshake,
        /// TLS over TCP copies into records, and out of them.
        Tls: tls,
    }
}
