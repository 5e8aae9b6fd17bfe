//! The ring's output: typed completions without the kernel's numbers.

use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use crate::base::slab::slab_key;
use crate::metrics::AcceptFailure;
pub use crate::metrics::LossReason;

/// One of the UDP sockets that were added to a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketIndex(pub(super) u16);

impl SocketIndex {
    /// Returns its index in the order of [`add_socket`](super::Ring::add_socket) calls.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// One of the listening sockets that were added to a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ListenerIndex(pub(super) u16);

impl ListenerIndex {
    /// Returns its index in the order of [`add_listener`](super::Ring::add_listener) calls.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

slab_key! {
    /// A stream (TCP or unix) of a ring, valid from [`connect`](super::Ring::connect) or
    /// [`Completion::Accepted`] until its [`Completion::Closed`].
    pub StreamKey
}

/// The error that there is no room for an operation now; it was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// One or more datagrams of one peer to send: `buffer` is cut into segments of `segment_len`, the
/// last may be shorter.
#[derive(Debug)]
pub struct DatagramSend {
    /// The payload, in a pool slot or on the heap; 1 to 65,507 bytes, at most 64 segments.
    pub buffer: Vec<u8>,
    pub destination: SocketAddr,
    /// The source address; ignored unless its family is the destination's.
    pub source: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// Length of a segment; `None`, or at least the buffer's length, means one datagram.
    pub segment_len: Option<u16>,
}

/// A completed operation, or another event of the ring. A `tag` is the caller's of the stream.
#[derive(Debug)]
pub enum Completion {
    /// Datagrams of one peer: `payload` is one, or several of `segment_len` bytes each, of which
    /// the last may be shorter. Never empty.
    Datagrams {
        socket: SocketIndex,
        /// The payload, in a pool slot, without headers.
        payload: BytesMut,
        source: SocketAddr,
        destination: Option<IpAddr>,
        ecn: u8,
        /// Length of a segment, 1 to the payload's length.
        segment_len: usize,
    },
    /// Receiving on a socket failed repeatedly and was stopped.
    ReceiveStopped { socket: SocketIndex, reason: io::ErrorKind },
    /// A send is complete.
    Sent {
        socket: SocketIndex,
        /// Its buffer, cleared, its capacity intact.
        buffer: Vec<u8>,
        outcome: SendOutcome,
    },
    /// A client has connected. The caller gives the stream a tag
    /// ([`set_tag`](super::Ring::set_tag)) or closes it.
    Accepted { listener: ListenerIndex, stream: StreamKey, client: SocketAddr },
    /// A listening socket no longer accepts, because of a failure that is not for the moment.
    AcceptStopped { listener: ListenerIndex, reason: io::ErrorKind },
    /// A connect is complete. Even after a failure the caller must close the stream.
    Connected { tag: u64, outcome: Result<(), ConnectError> },
    /// A receive is complete, or a part of it.
    Received { tag: u64, outcome: ReceiveOutcome },
    /// A write is complete.
    Wrote {
        tag: u64,
        /// Bytes that the kernel took: all of them after success.
        len: usize,
        outcome: Result<(), StreamError>,
    },
    /// The stream is closed; its key is no longer valid.
    Closed { tag: u64 },
    /// The watched eventfd was written.
    Woken,
}

impl Completion {
    /// Returns the tag of the stream that it belongs to, if any.
    pub(super) fn stream_tag(&self) -> Option<u64> {
        match *self {
            Completion::Connected { tag, .. }
            | Completion::Received { tag, .. }
            | Completion::Wrote { tag, .. }
            | Completion::Closed { tag } => Some(tag),
            Completion::Datagrams { .. }
            | Completion::ReceiveStopped { .. }
            | Completion::Accepted { .. }
            | Completion::AcceptStopped { .. }
            | Completion::Sent { .. }
            | Completion::Woken => None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The kernel took all of it.
    Sent,
    /// At least one segment was lost on this host.
    Lost(LossReason),
}

#[derive(Debug, PartialEq, Eq)]
pub enum ReceiveOutcome {
    /// Bytes, in a pool slot.
    Bytes(BytesMut),
    /// Bytes, in a pool slot; the next completion has more of the same receive.
    Part(BytesMut),
    /// The peer has ended its side.
    End,
    /// The connection is broken.
    Failed(StreamError),
}

/// The reason why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// No socket listens at the address.
    Refused,
    TimedOut,
    /// No route, or the network or host is down.
    Unreachable,
    /// No such unix socket.
    NotFound,
    Forbidden,
    /// No local port is free for this address.
    NoLocalPort,
    /// This process or the system has no file descriptor left.
    NoDescriptor,
    /// The kernel has no memory or buffers left for it.
    NoMemory,
    Other(io::ErrorKind),
}

/// The reason why a stream broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// The peer reset it.
    Reset,
    /// The peer no longer reads.
    BrokenPipe,
    /// The peer's host no longer responds.
    TimedOut,
    /// There is no route any more.
    Unreachable,
    Other(io::ErrorKind),
}

/// The meaning of the kernel's error for an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Retry now.
    Again,
    /// Retry when buffers are available: for a receive, those that we provide.
    NoBuffers,
    /// Retry when the kernel has memory, which nothing signals.
    NoMemory,
    Cancelled,
    /// It failed for good.
    Final(i32),
}

impl Failure {
    pub(super) fn from_result(result: i32) -> Failure {
        debug_assert!(result < 0, "a failure is negative");
        match -result {
            libc::EAGAIN | libc::EINTR => Failure::Again,
            libc::ENOBUFS => Failure::NoBuffers,
            libc::ENOMEM => Failure::NoMemory,
            libc::ECANCELED => Failure::Cancelled,
            errno => Failure::Final(errno),
        }
    }
}

/// Classifies the failure of an accept. `None` is no failure: it was cancelled, or is to be tried
/// again. Linux passes errors of the connection to accept(2) too, which end only that connection.
pub(super) fn accept_failure(result: i32) -> Option<AcceptFailure> {
    match -result {
        libc::EAGAIN | libc::EINTR | libc::ECANCELED => None,
        libc::ECONNABORTED
        | libc::ECONNRESET
        | libc::EPROTO
        | libc::ENETDOWN
        | libc::ENETUNREACH
        | libc::EHOSTDOWN
        | libc::EHOSTUNREACH
        | libc::ETIMEDOUT => Some(AcceptFailure::ClientGone),
        libc::EMFILE | libc::ENFILE => Some(AcceptFailure::NoFile),
        libc::ENOBUFS | libc::ENOMEM => Some(AcceptFailure::NoMemory),
        _ => Some(AcceptFailure::Other),
    }
}

pub(super) fn kind_of(result: i32) -> io::ErrorKind {
    io::Error::from_raw_os_error(-result).kind()
}

/// Classifies the final failure of a send.
pub(super) fn loss_from_errno(errno: i32) -> LossReason {
    match errno {
        libc::EMSGSIZE => LossReason::TooLong,
        libc::ENETUNREACH
        | libc::EHOSTUNREACH
        | libc::ENETDOWN
        | libc::EHOSTDOWN
        | libc::EADDRNOTAVAIL => LossReason::Unreachable,
        libc::EPERM | libc::EACCES | libc::ECONNREFUSED => LossReason::Refused,
        _ => LossReason::Other,
    }
}

impl ConnectError {
    pub(super) fn from_errno(errno: i32) -> ConnectError {
        match errno {
            libc::ECONNREFUSED => ConnectError::Refused,
            libc::ETIMEDOUT => ConnectError::TimedOut,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => {
                ConnectError::Unreachable
            }
            libc::ENOENT | libc::ENOTDIR => ConnectError::NotFound,
            libc::EACCES | libc::EPERM => ConnectError::Forbidden,
            libc::EADDRNOTAVAIL => ConnectError::NoLocalPort,
            libc::EMFILE | libc::ENFILE => ConnectError::NoDescriptor,
            libc::ENOMEM | libc::ENOBUFS => ConnectError::NoMemory,
            errno => ConnectError::Other(kind_of(-errno)),
        }
    }
}

impl StreamError {
    pub(super) fn from_errno(errno: i32) -> StreamError {
        match errno {
            libc::ECONNRESET => StreamError::Reset,
            libc::EPIPE => StreamError::BrokenPipe,
            libc::ETIMEDOUT => StreamError::TimedOut,
            libc::ENETUNREACH | libc::EHOSTUNREACH | libc::ENETDOWN | libc::EHOSTDOWN => {
                StreamError::Unreachable
            }
            errno => StreamError::Other(kind_of(-errno)),
        }
    }
}
