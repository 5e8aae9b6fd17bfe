//! What goes into an engine and what comes out.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use quinn_proto::ConnectionError;

/// A datagram that was received: one segment of a GRO bundle.
#[derive(Debug)]
pub struct Datagram {
    /// Number of the socket it came to.
    pub socket: u16,
    /// Who sent it.
    pub remote: SocketAddr,
    /// Which of our addresses it was sent to, where the kernel told.
    pub local_ip: Option<IpAddr>,
    /// The ECN bits of its IP header (RFC 3168).
    pub ecn: u8,
    /// The UDP payload. It is decrypted where it lies, and stream data stays in it.
    pub payload: BytesMut,
}

/// Datagrams to send; their bytes are in the buffer that was passed to `poll_transmit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    /// Number of the socket to send from.
    pub socket: u16,
    /// Whom to send to.
    pub destination: SocketAddr,
    /// Which of our addresses to send from; of the destination's family.
    pub source: Option<IpAddr>,
    /// The ECN bits to set.
    pub ecn: u8,
    /// Bytes in the buffer.
    pub len: usize,
    /// Length of each datagram but the last, where there are several.
    pub segment_len: Option<usize>,
}

impl Transmit {
    pub(super) fn new(transmit: &quinn_proto::Transmit, path: Path) -> Self {
        let Path { destination, local } = path;
        let same_family = |ip: &IpAddr| ip.is_ipv4() == destination.is_ipv4();
        Self {
            socket: local.socket,
            destination,
            source: local.ip.filter(same_family),
            ecn: transmit.ecn.map_or(0, |codepoint| codepoint as u8),
            len: transmit.size,
            segment_len: transmit.segment_size,
        }
    }
}

/// The socket and the address of ours that a datagram came to, so that the response leaves from
/// there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) socket: u16,
    pub(super) ip: Option<IpAddr>,
}

/// Both ends of the path that a datagram takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) destination: SocketAddr,
    pub(super) local: Local,
}

/// What happened to a connection. Each `Connected` is followed by exactly one `Closed` of the same
/// key, and nothing of that key comes after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete.
    Connected {
        /// The name the client asked for (SNI).
        server_name: Option<String>,
        /// Number of the socket it came to.
        socket: u16,
    },
    /// The client opened a stream; it may be readable already.
    StreamOpened(StreamId),
    /// A stream may have data, an end or a reset to read.
    Readable(StreamId),
    /// A stream that took no more may take more.
    Writable(StreamId),
    /// All that was written to a finished stream has been acknowledged.
    SendFinished(StreamId),
    /// The client wants no more of a stream (STOP_SENDING), for this reason.
    Stopped(StreamId, u64),
    /// The connection is over. Its streams are gone.
    Closed(CloseReason),
}

/// Why a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// We closed it.
    Local {
        /// The application's error code.
        code: u64,
    },
    /// The client's application closed it.
    Peer {
        /// The application's error code.
        code: u64,
        /// What the client says about it: any bytes.
        reason: Bytes,
    },
    /// The client's QUIC stack closed it.
    PeerTransport {
        /// RFC 9000 20.1.
        code: u64,
        /// What the client says about it: any bytes.
        reason: Bytes,
    },
    /// The client broke a rule of QUIC or TLS.
    Violation {
        /// RFC 9000 20.1.
        code: u64,
        /// Which rule.
        reason: String,
    },
    /// The client sent a stateless reset: it has forgotten the connection.
    Reset,
    /// Nothing was heard for the idle timeout.
    IdleTimeout,
}

impl CloseReason {
    pub(super) fn of(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                Self::Peer { code: close.error_code.into(), reason: close.reason }
            }
            ConnectionError::ConnectionClosed(close) => {
                Self::PeerTransport { code: close.error_code.into(), reason: close.reason }
            }
            ConnectionError::TransportError(error) => {
                Self::Violation { code: error.code.into(), reason: error.reason }
            }
            ConnectionError::Reset => Self::Reset,
            ConnectionError::TimedOut => Self::IdleTimeout,
            ConnectionError::LocallyClosed => Self::Local { code: 0 },
            // Neither is said of a connection that a server has accepted.
            error @ (ConnectionError::VersionMismatch | ConnectionError::CidsExhausted) => {
                Self::Violation { code: 0, reason: error.to_string() }
            }
        }
    }
}

impl fmt::Display for CloseReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Local { code } => write!(f, "closed by us with code {code:#x}"),
            Self::Peer { code, reason } => write!(
                f,
                "closed by the client with application code {code:#x} {:?}",
                String::from_utf8_lossy(reason)
            ),
            Self::PeerTransport { code, reason } => write!(
                f,
                "closed by the client with transport code {code:#x} {:?}",
                String::from_utf8_lossy(reason)
            ),
            Self::Violation { code, reason } => {
                write!(f, "the client broke a rule (transport code {code:#x}): {reason}")
            }
            Self::Reset => f.write_str("reset by the client"),
            Self::IdleTimeout => f.write_str("silent for longer than the idle timeout"),
        }
    }
}

/// A stream of a connection (RFC 9000 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    /// Whether both sides may send.
    pub fn is_bidirectional(self) -> bool {
        self.0 & 2 == 0
    }

    /// Whether the client opened it.
    pub fn is_from_client(self) -> bool {
        self.0 & 1 == 0
    }

    pub(super) fn proto(self) -> Option<quinn_proto::StreamId> {
        quinn_proto::VarInt::from_u64(self.0).ok().map(Into::into)
    }
}

impl From<u64> for StreamId {
    fn from(id: u64) -> Self {
        Self(id)
    }
}

impl From<StreamId> for u64 {
    fn from(id: StreamId) -> Self {
        id.0
    }
}

impl From<quinn_proto::StreamId> for StreamId {
    fn from(id: quinn_proto::StreamId) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Connections of an engine now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Between `Connected` and `Closed`.
    pub open: usize,
    /// Not yet `Connected`.
    pub handshaking: usize,
    /// Closed, kept a little longer to response late packets.
    pub closing: usize,
}
