//! The interface between the gateway and the proxy: inputs, outputs, keys and counters.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use crate::base::slab::slab_key;
use crate::config::{EndpointAddress, Listener};
use crate::message::{AccessRecord, Fields, Head, Incident, Outcome, Sender};
use crate::metrics::ProxyCounters;

/// The source of a request, to which its response is sent. Opaque to the proxy.
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
    pub head: Head,
    pub sender: Sender,
    /// The listener of the client's connection, as configured when that was opened.
    pub listener: Arc<Listener>,
    /// The connection's certificate does not cover the authority (RFC 9110 15.5.20).
    pub misdirected: bool,
}

/// An event on an upstream connection.
#[derive(Debug)]
pub enum UpstreamEvent {
    Connected,
    /// The connection could not be opened.
    ConnectFailed(TransportFault),
    /// The bytes that one [`UpstreamCommand::Receive`] asked for; at least one.
    Received(BytesMut),
    /// A part of the bytes that one [`UpstreamCommand::Receive`] asked for. The other parts follow
    /// immediately, the last of them as `Received`.
    ReceivedPart(BytesMut),
    /// The peer has closed its side (in place of `Received`).
    End,
    /// The connection broke during a receive or while idle.
    Failed(TransportFault),
    /// The kernel has taken all of the last [`UpstreamCommand::Write`].
    Wrote,
    /// The last [`UpstreamCommand::Write`] failed. Bytes that the peer sent before may still be
    /// read.
    WriteFailed(TransportFault),
}

/// The reason for the failure of a transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TransportFault {
    /// The host refused the connection: no process listens there.
    Refused,
    /// There is no such unix socket.
    Missing,
    /// This process may not connect to the address.
    Forbidden,
    /// The peer reset the connection.
    Reset,
    /// No route to the host or its network.
    Unreachable,
    /// The kernel's own timeout expired.
    TimedOut,
    /// This process lacks something.
    Exhausted(Resource),
    Other,
}

/// A resource that this process lacks for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    /// A local port toward this address.
    Port,
    Descriptor,
    Memory,
    /// A place among the connections that a worker can hold.
    Place,
}

/// An action or a record for the owner of the proxy; to be carried out in order.
#[derive(Debug)]
pub enum Output {
    /// Act on an upstream connection.
    Upstream(UpstreamCommand),
    /// Act on a client's request stream.
    Downstream { to: Downstream, exchange: ExchangeKey, command: DownstreamCommand },
    /// The exchange of this request stream is over.
    Access { to: Downstream, record: Box<AccessRecord> },
    /// An endpoint was ejected or restored, because of this exchange.
    Incident { exchange: Option<ExchangeKey>, incident: Box<Incident> },
}

#[derive(Debug)]
pub enum UpstreamCommand {
    /// Open a connection. Report `Connected` or `ConnectFailed`.
    Connect {
        key: UpstreamKey,
        address: EndpointAddress,
        /// The TCP congestion control to use; `None` is the system's.
        congestion: Option<Arc<str>>,
    },
    /// Write all of `pieces` in order, then report `Wrote`. Never two at once on one connection.
    Write {
        key: UpstreamKey,
        /// At most [`crate::limits::UPSTREAM_WRITE_PIECES_MAX`], none empty.
        pieces: Vec<Bytes>,
    },
    /// Receive once. Never two at once on one connection.
    Receive {
        key: UpstreamKey,
        /// The recipient of the response that is read, if there is one. While it takes too
        /// little, the owner may pause the receive with [`super::Proxy::pause_receive`].
        downstream: Option<Downstream>,
        /// Slots that the receive may fill: 1, unless the owner of the proxy grants more.
        slot_count_max: usize,
    },
    /// Close the connection, whatever its state. The key is dead from then on.
    Close { key: UpstreamKey },
}

#[derive(Debug)]
pub enum DownstreamCommand {
    /// Send an interim response (1xx other than 101). Its fields are ready to send.
    Interim { status: StatusCode, fields: Fields },
    /// Send the response's head, with a status of 200..=999. Its fields are ready to send.
    Head {
        status: StatusCode,
        fields: Fields,
        /// The value of `content-length`, which is among the fields.
        content_length: Option<u64>,
        /// Nothing follows: no `Body`, no `End`.
        ended: bool,
        source: ResponseSource,
    },
    /// Send a piece of the response's body, not empty; report it by `handle_response_taken`.
    Body(Bytes),
    /// End the response, with trailer fields where there are any (then not empty).
    End(Option<Fields>),
    /// Reset the response and stop reading the request. The exchange is over.
    Reset(Outcome),
    /// Stop reading the request's body. The response continues or is complete.
    StopRequest,
    /// Resume reading the request: `body_room` was 0 and no longer is. A request that has ended may
    /// still hold flow control credit for its body.
    BodyRoom,
}

/// A part of a final response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponsePart {
    Head,
    Rest,
}

impl DownstreamCommand {
    /// Returns the part of a final response that the command sends, if it sends one.
    pub(crate) fn part(&self) -> Option<ResponsePart> {
        match self {
            Self::Head { .. } => Some(ResponsePart::Head),
            Self::Body(_) | Self::End(_) => Some(ResponsePart::Rest),
            Self::Interim { .. } | Self::Reset(_) | Self::StopRequest | Self::BodyRoom => None,
        }
    }
}

/// The source of a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResponseSource {
    Upstream,
    /// The gateway itself.
    Gateway,
    /// The gateway, since it has no room for the request: the client should send fewer at once.
    NoRoom,
}

/// The current numbers of exchanges and upstream connections, for metrics and drain.
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

/// The counters since the start.
#[derive(Debug, Clone, Default)]
pub struct Counters {
    /// The exported counters, except those that are counted from access records.
    pub exported: ProxyCounters,
    /// Connects that failed or timed out, for tests.
    pub connect_failures: u64,
    /// Receives that were paused because a client took too little, for tests.
    pub receives_paused: u64,
}
