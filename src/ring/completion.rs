//! What comes out of the ring: typed completions, no kernel numbers.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};

use bytes::BytesMut;

use crate::base::slab::slab_key;

/// One of the UDP sockets that were added to a ring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SocketIndex(pub(super) u16);

impl SocketIndex {
    /// Its place in the order of adding.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

slab_key! {
    /// A stream (TCP or unix) of a ring, valid from [`connect`](super::Ring::connect) until its
    /// [`Completion::Closed`].
    pub StreamKey
}

/// There is no room for the operation now; it was not begun.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring has no room for this operation now")
    }
}

impl std::error::Error for Full {}

/// One or more datagrams of one peer to send: `buffer` is cut into segments of `segment_len`, the
/// last may be shorter.
#[derive(Debug)]
pub struct DatagramSend {
    /// The payload, in a pool slot or on the heap; 1 to 65,507 bytes, at most 64 segments.
    pub buffer: Vec<u8>,
    /// Where to.
    pub destination: SocketAddr,
    /// The address that it leaves from; heeded only when its family is the destination's.
    pub source: Option<IpAddr>,
    /// The two ECN bits.
    pub ecn: u8,
    /// Length of a segment; `None`, or at least the buffer's length, is one datagram.
    pub segment_len: Option<u16>,
}

/// What has happened.
#[derive(Debug)]
pub enum Completion {
    /// Datagrams of one peer have come in: `payload` is one, or several of `segment_len` bytes
    /// each, the last maybe shorter. Never empty.
    Datagrams {
        /// On which socket.
        socket: SocketIndex,
        /// The payload, in a pool slot, nothing in front of it.
        payload: BytesMut,
        /// Who sent it.
        source: SocketAddr,
        /// The address that it was sent to.
        destination: Option<IpAddr>,
        /// The two ECN bits.
        ecn: u8,
        /// Length of a segment, 1 to the payload's length.
        segment_len: usize,
    },
    /// Receiving on a socket failed again and again and was given up.
    ReceiveStopped {
        /// On which socket.
        socket: SocketIndex,
        /// The last failure.
        reason: io::ErrorKind,
    },
    /// A send is over.
    Sent {
        /// On which socket.
        socket: SocketIndex,
        /// Its buffer, cleared, its capacity intact.
        buffer: Vec<u8>,
        /// What became of it.
        outcome: SendOutcome,
    },
    /// A connect is over. After a failure the stream is still to be closed.
    Connected {
        /// The caller's name for the stream.
        tag: u64,
        /// Whether it is connected.
        outcome: Result<(), ConnectError>,
    },
    /// An armed receive is over.
    Received {
        /// The caller's name for the stream.
        tag: u64,
        /// What came.
        outcome: ReceiveOutcome,
    },
    /// A write is over.
    Wrote {
        /// The caller's name for the stream.
        tag: u64,
        /// Bytes that the kernel took, all of them when well.
        len: usize,
        /// Whether all went.
        outcome: Result<(), StreamError>,
    },
    /// The stream is closed; its key and tag name nothing any more.
    Closed {
        /// The caller's name for the stream.
        tag: u64,
    },
    /// The watched eventfd was written.
    Woken,
}

impl Completion {
    /// The stream that it is about, if one.
    pub(super) fn stream_tag(&self) -> Option<u64> {
        match *self {
            Completion::Connected { tag, .. }
            | Completion::Received { tag, .. }
            | Completion::Wrote { tag, .. }
            | Completion::Closed { tag } => Some(tag),
            Completion::Datagrams { .. }
            | Completion::ReceiveStopped { .. }
            | Completion::Sent { .. }
            | Completion::Woken => None,
        }
    }
}

/// What became of a send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// The kernel took all of it.
    Sent,
    /// At least one segment was lost on this host.
    Lost(LossReason),
}

/// Why this host lost a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LossReason {
    /// Longer than the path takes (normal for an MTU probe).
    TooLong,
    /// No route, or the network or host is down.
    Unreachable,
    /// A packet filter or the like refuses.
    Refused,
    /// The kernel stayed without buffers.
    NoBuffers,
    /// The ring was shut down first.
    Cancelled,
    /// Anything else.
    Other,
}

/// What a receive brought.
#[derive(Debug, PartialEq, Eq)]
pub enum ReceiveOutcome {
    /// Bytes, in a pool slot.
    Bytes(BytesMut),
    /// Bytes, in a pool slot, and the next ones of the same receive come with the next completion.
    Part(BytesMut),
    /// The peer has ended its side.
    End,
    /// The connection is broken.
    Failed(StreamError),
}

/// Why a connect failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectError {
    /// Nobody listens there.
    Refused,
    /// No response.
    TimedOut,
    /// No route, or the network or host is down.
    Unreachable,
    /// No such unix socket.
    NotFound,
    /// Not permitted.
    Forbidden,
    /// No local port is free for this address.
    NoLocalPort,
    /// This process has no file descriptor left, or the system none.
    NoDescriptor,
    /// Anything else.
    Other(io::ErrorKind),
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConnectError::Refused => f.write_str("connection refused: nobody listens there"),
            ConnectError::TimedOut => f.write_str("no response"),
            ConnectError::Unreachable => f.write_str("no route to the address"),
            ConnectError::NotFound => f.write_str("no such unix socket"),
            ConnectError::Forbidden => f.write_str("not permitted (socket mode, packet filter)"),
            ConnectError::NoLocalPort => f.write_str(
                "no local port free for this address: widen net.ipv4.ip_local_port_range",
            ),
            ConnectError::NoDescriptor => {
                f.write_str("no file descriptor left: raise LimitNOFILE (`ulimit -n`)")
            }
            ConnectError::Other(kind) => write!(f, "connect failed: {kind}"),
        }
    }
}

impl std::error::Error for ConnectError {}

/// Why a stream broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamError {
    /// The peer reset it.
    Reset,
    /// The peer reads no more.
    BrokenPipe,
    /// The peer's host answers no more.
    TimedOut,
    /// No route any more.
    Unreachable,
    /// Anything else.
    Other(io::ErrorKind),
}

impl fmt::Display for StreamError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StreamError::Reset => f.write_str("the peer reset the connection"),
            StreamError::BrokenPipe => f.write_str("the peer closed the connection"),
            StreamError::TimedOut => f.write_str("the peer's host answers no more"),
            StreamError::Unreachable => f.write_str("no route to the peer any more"),
            StreamError::Other(kind) => write!(f, "the connection broke: {kind}"),
        }
    }
}

impl std::error::Error for StreamError {}

/// How the kernel's word on an operation is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// Try again now.
    Again,
    /// Try again when buffers are back: for a receive, those that we provide.
    NoBuffers,
    /// Try again when the kernel has memory, of which nothing tells.
    NoMemory,
    /// It was cancelled.
    Cancelled,
    /// It failed for good.
    Final(i32),
}

impl Failure {
    /// Reads a negative result.
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

pub(super) fn kind_of(result: i32) -> io::ErrorKind {
    io::Error::from_raw_os_error(-result).kind()
}

impl LossReason {
    pub(super) fn from_errno(errno: i32) -> LossReason {
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
