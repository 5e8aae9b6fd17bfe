//! Re-exports of private modules for integration tests, micro-benchmarks and the load client. Items
//! named here are visible outside of the crate. All others are `pub(crate)`, so that the compiler
//! reports dead code.

pub mod address {
    pub use crate::address::EndpointAddress;
}

pub mod cid {
    pub use crate::cid::CidMask;
}

pub mod base {
    pub use crate::base::pressure::HeapUse;
}

pub mod config {
    pub use crate::config::{
        Accounts, Certificate, CertificateSource, Config, ConfigErrors, Congestion, Endpoint,
        EndpointAddress, HostPattern, Retry, RetryOn, Route, Surroundings, Tls, parse,
    };
}

pub mod control {
    pub use crate::control::{
        ACCESS_BATCH_COUNT_MAX, Candidate, Control, ControlSettings, ExitReason, Links, Refusal,
        ReloadResult, ShutdownSettings, Source,
    };
}

pub mod demo {
    pub use crate::demo::config;
}

pub mod gateway {
    pub use crate::gateway::{Gateway, GatewaySettings, Output, TcpCommand, TcpEvent, TcpKey};
}

pub mod host {
    pub use crate::host::{clock, eventfd, probe, socket};
}

pub mod http1 {
    pub use crate::http1::{
        ConnectionOptions, Error, Part, Persistence, RequestDecoder, ResponseDecoder,
        ResponseEncoder, ResponseHead, Version,
    };
}

pub mod http2 {
    pub use crate::http2::{Closure, Code, Connection, ConnectionError, Event, LocalSettings};
}

pub mod http3 {
    pub use crate::http3::{
        Code, Connection, ConnectionError, LocalSettings, RequestError, RequestEvent,
        RequestStream, UniVerdict, encode_data_header, encode_response_head, encode_trailers,
        qpack,
    };
}

pub mod limits {
    pub use crate::limits::{
        CONNECTION_RESPONSES_LEN_MAX, DATAGRAM_LEN_MAX, GATHER_COUNT_MIN, RECEIVE_SLOT_COUNT_MAX,
        REQUEST_PENDING_LEN_MAX, RESPONSE_PENDING_LEN_MAX, RESPONSE_PIECE_LEN_MIN,
        RESPONSE_STALL_TIMEOUT, RING_THREADS_MAX, SLOT_COUNT_MIN, SLOT_LEN,
        UPSTREAM_WRITE_PIECES_MAX,
    };
}

pub mod message {
    pub use crate::message::{
        AccessRecord, Authority, FieldLimits, Fields, Handover, Head, Outcome, Path, Protocol,
        Pseudo, Refusal, RequestEvent, Scheme, Sender, Target,
    };
}

pub mod planted {
    pub use crate::planted::{Bug, plant};
}

pub mod pool {
    pub use crate::pool::{Hugepages, InKernel, Lease, Pool, PoolAllocator, PoolPlan, Regions};
}

pub mod proxy {
    pub use crate::proxy::{
        Downstream, Output, Proxy, Request, Resource, TransportFault, UpstreamCommand,
        UpstreamEvent, UpstreamKey,
    };
}

pub mod proxy_protocol {
    pub use crate::proxy_protocol::{Announced, HeaderReader, Malformed};
}

pub mod quic {
    pub use crate::quic::{
        ConnectionKey, Datagram, Engine, EngineSettings, Event, MTU_MAX_DEFAULT, StreamId,
        Transmit, WriteError,
    };
}

pub mod ring {
    pub use crate::ring::{
        Completion, ConnectError, DatagramSend, Full, ListenerIndex, LossReason, ReceiveOutcome,
        Ring, RingSettings, SendOutcome, SocketIndex, StreamError, StreamKey, Wait,
    };
}

pub mod tls {
    pub use crate::tls::ServerTls;
}

pub mod worker {
    pub use crate::worker::mailbox;
}
