//! Errors in a peer's bytes, and the error codes that report them.

use super::LocalSettings;
use super::qpack::SectionError;
use crate::message::{Excess, Refusal};

/// Error codes of HTTP/3 and QPACK, as sent in CONNECTION_CLOSE, RESET_STREAM and STOP_SENDING
/// frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Code {
    /// H3_NO_ERROR: no error, but the rest is not needed.
    NoError = 0x0100,
    /// H3_GENERAL_PROTOCOL_ERROR: a violation without a code of its own.
    GeneralProtocolError = 0x0101,
    /// H3_INTERNAL_ERROR: a failure on our side.
    InternalError = 0x0102,
    /// H3_STREAM_CREATION_ERROR: a stream the peer may not create.
    StreamCreationError = 0x0103,
    /// H3_CLOSED_CRITICAL_STREAM: a stream that must last as long as the connection was closed.
    ClosedCriticalStream = 0x0104,
    /// H3_FRAME_UNEXPECTED: a frame in the wrong state or on the wrong stream.
    FrameUnexpected = 0x0105,
    /// H3_FRAME_ERROR: a frame with a wrong layout or length.
    FrameError = 0x0106,
    /// H3_EXCESSIVE_LOAD: the peer generates excessive load.
    ExcessiveLoad = 0x0107,
    /// H3_ID_ERROR: a stream or push id used incorrectly.
    IdError = 0x0108,
    /// H3_SETTINGS_ERROR: an error in a SETTINGS frame.
    SettingsError = 0x0109,
    /// H3_MISSING_SETTINGS: the control stream did not start with SETTINGS.
    MissingSettings = 0x010a,
    /// H3_REQUEST_REJECTED: not processed at all, safe to retry.
    RequestRejected = 0x010b,
    /// H3_REQUEST_CANCELLED: the request or its response is cancelled.
    RequestCancelled = 0x010c,
    /// H3_REQUEST_INCOMPLETE: the stream ended before a complete request.
    RequestIncomplete = 0x010d,
    /// H3_MESSAGE_ERROR: a malformed message.
    MessageError = 0x010e,
    /// H3_CONNECT_ERROR: the connection made for CONNECT was reset or closed.
    ConnectError = 0x010f,
    /// H3_VERSION_FALLBACK: to be retried over HTTP/1.1.
    VersionFallback = 0x0110,
    /// QPACK_DECOMPRESSION_FAILED: a field section that cannot be decoded.
    QpackDecompressionFailed = 0x0200,
    /// QPACK_ENCODER_STREAM_ERROR: a wrong instruction on the encoder stream.
    QpackEncoderStreamError = 0x0201,
    /// QPACK_DECODER_STREAM_ERROR: a wrong instruction on the decoder stream.
    QpackDecoderStreamError = 0x0202,
}

impl Code {
    /// Returns the code on the wire (RFC 9114 8.1, RFC 9204 6).
    pub const fn value(self) -> u64 {
        self as u64
    }
}

/// A broken rule that ends the connection: close it with `code`, and ignore everything else that
/// was received on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionError {
    /// For the CONNECTION_CLOSE frame.
    pub code: Code,
    /// The broken rule, for the frame's reason phrase and for the log.
    pub rule: &'static str,
}

/// Returns the error that ends the connection because of a broken rule.
pub(super) fn refuse<T>(code: Code, rule: &'static str) -> Result<T, ConnectionError> {
    Err(ConnectionError { code, rule })
}

/// The reason for not accepting a request. After such an error a [`super::RequestStream`] drops
/// everything else that is received on its stream.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestError {
    /// The whole connection ends.
    Connection(ConnectionError),
    /// The message is malformed or incomplete: reset the stream with `code` (RFC 9114 4.1.2).
    Stream {
        /// For RESET_STREAM and STOP_SENDING.
        code: Code,
        rule: &'static str,
    },
    /// A field section exceeds our limits (431), or a value in a well-formed section is invalid
    /// (400): respond with the refusal's status and stop reading, which RFC 9114 4.1.2 allows a
    /// server to do instead of a reset. Once the response to the request may have begun, reset
    /// the stream with H3_EXCESSIVE_LOAD (431) or H3_MESSAGE_ERROR (400).
    Refused(Box<Refusal>),
}

impl RequestError {
    pub(super) const fn connection(code: Code, rule: &'static str) -> Self {
        Self::Connection(ConnectionError { code, rule })
    }

    /// Creates the stream error for a malformed message, H3_MESSAGE_ERROR (RFC 9114 4.1.2).
    pub(super) const fn malformed(rule: &'static str) -> Self {
        Self::Stream { code: Code::MessageError, rule }
    }

    /// Creates the refusal of a field section over our limits (431).
    pub(super) fn too_large(excess: Excess, settings: &LocalSettings) -> Self {
        Self::Refused(Box::new(Refusal::too_large(excess, settings)))
    }

    /// Creates the error of a field section that cannot be read.
    pub(super) fn of_section(error: SectionError, settings: &LocalSettings) -> Self {
        match error {
            SectionError::Invalid(rule) => Self::connection(Code::QpackDecompressionFailed, rule),
            SectionError::TooLarge(excess) => Self::too_large(excess, settings),
        }
    }
}

impl From<ConnectionError> for RequestError {
    fn from(error: ConnectionError) -> Self {
        Self::Connection(error)
    }
}
