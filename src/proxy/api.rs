//! The words in which the gateway speaks to the proxy and hears from it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use crate::base::slab::slab_key;
use crate::config::EndpointAddress;
use crate::message::{AccessRecord, Fields, Head, ResetReason};
use crate::metrics::ProxyCounters;

/// Where a request came from and its response goes to. Opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Downstream {
    /// The client's connection.
    pub connection: u64,
    /// The stream in it.
    pub stream: u64,
}

slab_key! {
    /// One exchange, from its request to the end of its response. A call with a dead key does
    /// nothing.
    pub ExchangeKey
}

slab_key! {
    /// One upstream connection. Each [`UpstreamCommand::Connect`] is followed by exactly one
    /// [`UpstreamCommand::Close`], also after `ConnectFailed`. From then on the key is dead, and
    /// later events are ignored, so the worker need not filter them.
    pub UpstreamKey
}

/// A request and the client that it came from.
#[derive(Debug, Clone)]
pub struct Request {
    /// The request's head.
    pub head: Head,
    /// The client's address.
    pub client: SocketAddr,
    /// The name that the client's TLS handshake asked for.
    pub server_name: Option<Arc<str>>,
    /// Index into the configuration's listeners.
    pub listener: usize,
    /// The connection was made for another authority (RFC 9110 15.5.20).
    pub misdirected: bool,
}

/// An event on an upstream connection.
#[derive(Debug)]
pub enum UpstreamEvent {
    /// The connection stands.
    Connected,
    /// It could not be made.
    ConnectFailed(TransportFault),
    /// The bytes that one [`UpstreamCommand::Receive`] asked for; at least one.
    Received(BytesMut),
    /// A part of the bytes that one [`UpstreamCommand::Receive`] asked for. The others follow at
    /// once, the last of them as `Received`.
    ReceivedPart(BytesMut),
    /// The peer sends no more (takes the place of `Received`).
    End,
    /// The connection broke while it was read or waited on.
    Failed(TransportFault),
    /// The whole of the last [`UpstreamCommand::Write`] was taken by the kernel.
    Wrote,
    /// The last [`UpstreamCommand::Write`] failed. What the peer sent before may still be read.
    WriteFailed(TransportFault),
}

/// Why a transport gave up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportFault {
    /// Nobody listens there.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// No way to the host or its network.
    Unreachable,
    /// The kernel's own patience ended.
    TimedOut,
    /// This process lacks a descriptor, a port or memory.
    Exhausted,
    /// Something else.
    Other,
}

/// An action or a record for the owner of the proxy; to be carried out in order.
#[derive(Debug)]
pub enum Output {
    /// Act on an upstream connection.
    Upstream(UpstreamCommand),
    /// Act on a client's request stream.
    Downstream {
        /// Which request stream.
        to: Downstream,
        /// The exchange.
        exchange: ExchangeKey,
        /// The action.
        command: DownstreamCommand,
    },
    /// An exchange is over.
    Access(Box<AccessRecord>),
}

/// An action on an upstream connection.
#[derive(Debug)]
pub enum UpstreamCommand {
    /// Open a connection. Report `Connected` or `ConnectFailed`.
    Connect {
        /// The new connection.
        key: UpstreamKey,
        /// Where to.
        address: EndpointAddress,
        /// The TCP congestion control to use; `None` is the system's.
        congestion: Option<Arc<str>>,
    },
    /// Write all of `pieces` in order, then report `Wrote`. Never two at once on one connection.
    Write {
        /// The connection.
        key: UpstreamKey,
        /// At most [`crate::limits::UPSTREAM_WRITE_PIECES_MAX`], none empty.
        pieces: Vec<Bytes>,
    },
    /// Receive once. Never two at once on one connection.
    Receive {
        /// The connection.
        key: UpstreamKey,
        /// The recipient of the response that is read, if there is one. While it takes too
        /// little, the receive may be refused by [`super::Proxy::pause_receive`].
        downstream: Option<Downstream>,
        /// Slots that the receive may fill: 1, unless the owner of the proxy grants more.
        slot_count_max: usize,
    },
    /// Close the connection, whatever its state. The key is dead.
    Close {
        /// The connection.
        key: UpstreamKey,
    },
}

/// An action on a client's request stream.
#[derive(Debug)]
pub enum DownstreamCommand {
    /// Send an interim response (1xx).
    Interim {
        /// 100, 102, 103...
        status: StatusCode,
        /// Fields, ready to send.
        fields: Fields,
    },
    /// Send the response's head.
    Head {
        /// Status, 200..=599.
        status: StatusCode,
        /// Fields, ready to send, `content-length` among them where there is one.
        fields: Fields,
        /// The value of `content-length`.
        content_length: Option<u64>,
        /// Nothing follows: no `Body`, no `End`.
        ended: bool,
    },
    /// Send a piece of the response's body, not empty; report it by `handle_response_taken`.
    Body(Bytes),
    /// End the response, with trailer fields where there are any (then not empty).
    End(Option<Fields>),
    /// Cut the response off and stop reading the request. The exchange is over.
    Reset(ResetReason),
    /// Stop reading the request's body. The response goes on or is complete.
    StopRequest,
    /// Read on: `body_room` was 0 and is not any more.
    BodyRoom,
}

/// How much there is of everything, for metrics and drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Gauges {
    /// Exchanges that are not over.
    pub exchanges: usize,
    /// Upstream connections, those being opened included.
    pub connections: usize,
    /// Of these, the idle ones.
    pub idle: usize,
    /// Exchanges that wait for a connection.
    pub waiting: usize,
}

/// The counts since the start.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// The exported counters, except those that are counted from access records.
    pub exported: ProxyCounters,
    /// Connects that failed or timed out. For tests.
    pub connect_failures: u64,
    /// Receives that were paused because a client took too little. For tests.
    pub receives_paused: u64,
}
