//! The words in which the gateway speaks to the proxy and hears from it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use crate::base::slab::slab_key;
use crate::config::EndpointAddress;
use crate::message::{AccessRecord, Fields, Head, ResetReason};

/// Where a request came from and its response goes to. Opaque here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Downstream {
    /// A request stream of an HTTP/3 connection.
    Stream {
        /// The connection.
        connection: u64,
        /// The stream in it.
        stream: u64,
    },
    /// A request of the TCP front door.
    Front(u64),
}

slab_key! {
    /// One exchange, from its request to the end of its response. Dead afterwards: a call with a dead
    /// key does nothing.
    pub ExchangeKey
}

slab_key! {
    /// One upstream connection. Each [`Output::Connect`] is followed by exactly one
    /// [`Output::Close`], also after `ConnectFailed`; from then on the key is dead, and events that
    /// come later are ignored, so the worker need not filter them.
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

/// What happened to an upstream connection.
#[derive(Debug)]
pub enum UpstreamEvent {
    /// The connection stands.
    Connected,
    /// It could not be made.
    ConnectFailed(TransportFault),
    /// The bytes that one [`Output::Receive`] asked for; at least one.
    Received(BytesMut),
    /// A part of the bytes that one [`Output::Receive`] asked for; the others follow at once, the
    /// last of them as `Received`.
    ReceivedPart(BytesMut),
    /// The peer sends no more (takes the place of `Received`).
    End,
    /// The connection broke while it was read or waited on.
    Failed(TransportFault),
    /// The whole of the last [`Output::Write`] was taken by the kernel.
    Wrote,
    /// The last [`Output::Write`] failed. What the peer sent before may still be read.
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

/// What the proxy wants done, in order.
#[derive(Debug)]
pub enum Output {
    /// Open a connection. Answer with `Connected` or `ConnectFailed`.
    Connect {
        /// The new connection.
        key: UpstreamKey,
        /// Where to.
        address: EndpointAddress,
        /// With which congestion control of TCP; `None` is the system's.
        congestion: Option<Arc<str>>,
    },
    /// Write all of `pieces` in order, then tell `Wrote`. Never two at once for one connection.
    Write {
        /// The connection.
        key: UpstreamKey,
        /// At most [`crate::limits::UPSTREAM_WRITE_PIECES_MAX`], none empty.
        pieces: Vec<Bytes>,
    },
    /// Read one piece (up to a slot). Never two at once for one connection.
    Receive {
        /// The connection.
        key: UpstreamKey,
        /// Whose response it is, if anybody's: while that client takes too little, the receive may be
        /// refused by [`super::Proxy::hold`].
        downstream: Option<Downstream>,
    },
    /// Close the connection, whatever is in flight on it or became of it. The key is dead.
    Close {
        /// The connection.
        key: UpstreamKey,
    },
    /// Send an interim (1xx) answer.
    Interim {
        /// To whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
        /// 100, 102, 103...
        status: StatusCode,
        /// Fields, ready to send.
        fields: Fields,
    },
    /// Send the response's head.
    ResponseHead {
        /// To whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
        /// Status, 200..=599.
        status: StatusCode,
        /// Fields, ready to send, `content-length` among them where there is one.
        fields: Fields,
        /// What `content-length` says, for information.
        content_length: Option<u64>,
        /// Nothing follows: no `ResponseBody`, no `ResponseEnd`.
        ended: bool,
    },
    /// Send a piece of the response's body; account for it by `handle_response_taken`.
    ResponseBody {
        /// To whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
        /// Not empty.
        piece: Bytes,
    },
    /// The response is whole.
    ResponseEnd {
        /// To whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
        /// Trailer fields, ready to send, not empty.
        trailers: Option<Fields>,
    },
    /// Cut the response off and stop reading the request. The exchange is over.
    ResponseReset {
        /// To whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
        /// Why.
        reason: ResetReason,
    },
    /// No more of the request's body is wanted; the response goes on or is whole.
    StopRequest {
        /// From whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
    },
    /// `body_room` was 0 and is not any more.
    BodyRoom {
        /// From whom.
        downstream: Downstream,
        /// Whose.
        exchange: ExchangeKey,
    },
    /// An exchange is over.
    Access(Box<AccessRecord>),
}

/// How much there is of everything, for metrics and drain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Exchanges that are not over.
    pub exchanges: usize,
    /// Upstream connections, those being opened included.
    pub connections: usize,
    /// Of these, kept without a request.
    pub idle: usize,
    /// Exchanges that wait for a connection.
    pub waiting: usize,
}

/// What has happened since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tally {
    /// Exchanges begun, refusals included.
    pub exchanges: u64,
    /// Connections asked for.
    pub connects: u64,
    /// Of these, failed or timed out.
    pub connect_failures: u64,
    /// Requests that went over a kept connection.
    pub reused: u64,
    /// Receives that were held back because a client took too little.
    pub held: u64,
    /// Requests that were tried a second time.
    pub retries: u64,
    /// Kept connections that were thrown away because the peer ended or sent something.
    pub idle_discarded: u64,
    /// Endpoints that were set aside because they failed, failed trials included.
    pub set_asides: u64,
}
