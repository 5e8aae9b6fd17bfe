//! The engine's inputs and outputs.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use quinn_proto::ConnectionError;

/// A datagram that was received: one segment of a GRO bundle.
#[derive(Debug)]
pub struct Datagram {
    /// Number of the receiving socket.
    pub socket: u16,
    pub remote: SocketAddr,
    /// Its destination address, if the kernel reported it.
    pub local_ip: Option<IpAddr>,
    /// The ECN bits of its IP header (RFC 3168).
    pub ecn: u8,
    /// The UDP payload. It is decrypted in place, and stream data stays in it.
    pub payload: BytesMut,
}

/// Datagrams to send; their bytes are in the buffer that was passed to `poll_transmit`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transmit {
    pub socket: u16,
    pub destination: SocketAddr,
    /// The source address, of the destination's family.
    pub source: Option<IpAddr>,
    pub ecn: u8,
    pub len: usize,
    /// Length of each datagram but the last, if there are several.
    pub segment_len: Option<usize>,
}

impl Transmit {
    /// Returns what quinn-proto has built, for `path` and without ECN marks.
    pub(super) fn unmarked(transmit: &quinn_proto::Transmit, path: Path) -> Self {
        let Path { destination, local } = path;
        let same_family = |ip: &IpAddr| ip.is_ipv4() == destination.is_ipv4();
        Self {
            socket: local.socket,
            destination,
            source: local.ip.filter(same_family),
            ecn: 0,
            len: transmit.size,
            segment_len: transmit.segment_size,
        }
    }
}

/// The local end of a path: the socket and the address that a datagram came to, from which its
/// response leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Local {
    pub(super) socket: u16,
    pub(super) ip: Option<IpAddr>,
}

/// Both ends of the path of a datagram that leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Path {
    pub(super) destination: SocketAddr,
    pub(super) local: Local,
}

/// An event of a connection. Each `Connected` is followed by exactly one `Closed` of the same key,
/// which is the last event of that key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The handshake is complete.
    Connected {
        /// The server name that the client sent (SNI).
        server_name: Option<String>,
        /// Number of the socket that received it.
        socket: u16,
        /// The certificate that the client has proved to be its own, in DER.
        client_certificate: Option<Bytes>,
    },
    /// The client opened a stream; it may be readable already.
    StreamOpened(StreamId),
    /// A stream may have data, an end or a reset to read.
    Readable(StreamId),
    /// A stream that was blocked may accept more.
    Writable(StreamId),
    /// All bytes of a finished stream are acknowledged.
    SendFinished(StreamId),
    /// The client has left a finished stream without its last acknowledgement for
    /// [`crate::limits::UNACKNOWLEDGED_TIMEOUT`], while it sends packets. It may come again.
    Unacknowledged,
    /// The client sent STOP_SENDING for a stream, with this code.
    Stopped(StreamId, u64),
    /// The connection is over. Its streams are gone.
    Closed(CloseReason),
}

/// The reason why a connection ended. Codes are the application's, or those of RFC 9000 20.1 where
/// QUIC itself ended it. A client's reason phrase may be any bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CloseReason {
    /// This side closed the connection.
    Local { code: u64 },
    /// The client's application closed it.
    Peer { code: u64, reason: Bytes },
    /// The client's QUIC stack closed it.
    PeerTransport { code: u64, reason: Bytes },
    /// The client broke a rule of QUIC or TLS.
    Violation { code: u64, reason: String },
    /// The client sent a stateless reset: it has forgotten the connection.
    Reset,
    /// Nothing was received for the idle timeout.
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
            // Neither occurs on a connection that a server has accepted.
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
                let name = transport_error_name(*code);
                write!(f, "the client broke a rule ({name}, {code:#x}): {reason}")
            }
            Self::Reset => f.write_str("reset by the client"),
            Self::IdleTimeout => f.write_str("silent for longer than the idle timeout"),
        }
    }
}

/// Returns the name of a transport error (RFC 9000 20.1).
pub(crate) fn transport_error_name(code: u64) -> &'static str {
    match code {
        0x00 => "NO_ERROR",
        0x01 => "INTERNAL_ERROR",
        0x02 => "CONNECTION_REFUSED",
        0x03 => "FLOW_CONTROL_ERROR",
        0x04 => "STREAM_LIMIT_ERROR",
        0x05 => "STREAM_STATE_ERROR",
        0x06 => "FINAL_SIZE_ERROR",
        0x07 => "FRAME_ENCODING_ERROR",
        0x08 => "TRANSPORT_PARAMETER_ERROR",
        0x09 => "CONNECTION_ID_LIMIT_ERROR",
        0x0a => "PROTOCOL_VIOLATION",
        0x0b => "INVALID_TOKEN",
        0x0c => "APPLICATION_ERROR",
        0x0d => "CRYPTO_BUFFER_EXCEEDED",
        0x0e => "KEY_UPDATE_ERROR",
        0x0f => "AEAD_LIMIT_REACHED",
        0x10 => "NO_VIABLE_PATH",
        0x100..=0x1ff => "CRYPTO_ERROR",
        _ => "an unknown error",
    }
}

/// A stream of a connection (RFC 9000 2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(u64);

impl StreamId {
    pub fn is_bidirectional(self) -> bool {
        self.0 & 2 == 0
    }

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

/// The numbers of an engine's connections by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ConnectionCounts {
    /// Between `Connected` and `Closed`.
    pub open: usize,
    /// Not yet `Connected`.
    pub handshaking: usize,
    /// Closed, kept for a while to answer late packets.
    pub closing: usize,
}

#[cfg(test)]
mod tests {
    use quinn_proto::TransportErrorCode as Theirs;

    use super::*;

    /// The oracle is quinn-proto's table.
    #[test]
    fn transport_errors_have_their_names() {
        let codes = [
            Theirs::NO_ERROR,
            Theirs::INTERNAL_ERROR,
            Theirs::CONNECTION_REFUSED,
            Theirs::FLOW_CONTROL_ERROR,
            Theirs::STREAM_LIMIT_ERROR,
            Theirs::STREAM_STATE_ERROR,
            Theirs::FINAL_SIZE_ERROR,
            Theirs::FRAME_ENCODING_ERROR,
            Theirs::TRANSPORT_PARAMETER_ERROR,
            Theirs::CONNECTION_ID_LIMIT_ERROR,
            Theirs::PROTOCOL_VIOLATION,
            Theirs::INVALID_TOKEN,
            Theirs::APPLICATION_ERROR,
            Theirs::CRYPTO_BUFFER_EXCEEDED,
            Theirs::KEY_UPDATE_ERROR,
            Theirs::AEAD_LIMIT_REACHED,
            Theirs::NO_VIABLE_PATH,
        ];
        for code in codes {
            assert_eq!(transport_error_name(code.into()), format!("{code:?}"));
        }
        // RFC 9001 4.8: the alert is the last byte.
        for alert in [0, 10, 255] {
            assert_eq!(transport_error_name(Theirs::crypto(alert).into()), "CRYPTO_ERROR");
        }
        assert_eq!(transport_error_name(0x11), "an unknown error");
    }
}
