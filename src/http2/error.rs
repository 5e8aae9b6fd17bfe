//! Errors in a client's bytes, and the error codes that report them (RFC 9113 7).

use h2::Reason;

/// Error codes of HTTP/2, as sent in RST_STREAM and GOAWAY frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Code {
    /// NO_ERROR: no error, but the rest is not needed.
    NoError = 0x0,
    /// PROTOCOL_ERROR: a violation without a code of its own, a malformed message included.
    ProtocolError = 0x1,
    /// INTERNAL_ERROR: a failure on our side.
    InternalError = 0x2,
    /// FLOW_CONTROL_ERROR: the peer sent more than its windows allow.
    FlowControlError = 0x3,
    /// SETTINGS_TIMEOUT: settings were not acknowledged in time.
    SettingsTimeout = 0x4,
    /// STREAM_CLOSED: a frame for a stream that is closed.
    StreamClosed = 0x5,
    /// FRAME_SIZE_ERROR: a frame with a wrong length.
    FrameSizeError = 0x6,
    /// REFUSED_STREAM: not processed at all, safe to retry.
    RefusedStream = 0x7,
    /// CANCEL: the stream is not needed any more.
    Cancel = 0x8,
    /// COMPRESSION_ERROR: a field section that cannot be decoded.
    CompressionError = 0x9,
    /// CONNECT_ERROR: the connection made for CONNECT was reset or closed.
    ConnectError = 0xa,
    /// ENHANCE_YOUR_CALM: the peer generates excessive load.
    EnhanceYourCalm = 0xb,
    /// INADEQUATE_SECURITY: the transport does not meet the minimum requirements.
    InadequateSecurity = 0xc,
    /// HTTP_1_1_REQUIRED: to be retried over HTTP/1.1.
    Http11Required = 0xd,
}

impl Code {
    /// Returns the code on the wire.
    pub const fn value(self) -> u32 {
        self as u32
    }

    pub(super) fn reason(self) -> Reason {
        Reason::from(self.value())
    }

    /// Returns our name for a code; all unknown ones are like INTERNAL_ERROR (RFC 9113 7).
    pub(super) fn of(reason: Reason) -> Self {
        const ALL: [Code; 14] = [
            Code::NoError,
            Code::ProtocolError,
            Code::InternalError,
            Code::FlowControlError,
            Code::SettingsTimeout,
            Code::StreamClosed,
            Code::FrameSizeError,
            Code::RefusedStream,
            Code::Cancel,
            Code::CompressionError,
            Code::ConnectError,
            Code::EnhanceYourCalm,
            Code::InadequateSecurity,
            Code::Http11Required,
        ];
        let index = u32::from(reason) as usize;
        ALL.get(index).copied().unwrap_or(Self::InternalError)
    }
}

/// A broken rule that ended the connection with a GOAWAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionError {
    /// The code of the GOAWAY frame.
    pub code: Code,
    /// The broken rule, for the log.
    pub rule: &'static str,
}

/// The end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Closure {
    /// The client broke a rule, or we closed the connection with [`super::Connection::close`].
    Error(ConnectionError),
    /// The client reported an error of ours with a GOAWAY of this code.
    ByClient(u32),
    /// The client closed its side of the transport, or the connection is drained.
    Ended,
}

impl Closure {
    /// Returns the end that `h2` reports. Of several rules that have the same code it names the one
    /// in its GOAWAY only, with which the bytes for the client end.
    pub(super) fn of(error: &h2::Error, output_tail: &[u8]) -> Self {
        let Some(reason) = error.reason() else {
            // Of the transport: its end within a frame.
            return Self::Ended;
        };
        if error.is_go_away() && error.is_remote() {
            return Self::ByClient(reason.into());
        }
        let code = Code::of(reason);
        Self::Error(ConnectionError { code, rule: rule_of(code, output_tail) })
    }
}

/// Returns whether `h2` may end a connection with this code. Clients cancel requests with others.
pub(super) fn ends_connections(code: u32) -> bool {
    let (cancelled, unneeded) = (Code::Cancel.value(), Code::NoError.value());
    code != cancelled && code != unneeded && code != Code::RefusedStream.value()
}

/// Returns the rule whose breach `h2` reports by `code`.
fn rule_of(code: Code, output_tail: &[u8]) -> &'static str {
    match code {
        Code::EnhanceYourCalm => {
            let named = FLOODS.iter().find(|(name, _)| output_tail.ends_with(name.as_bytes()));
            named.map_or("excessive load", |(_, rule)| rule)
        }
        Code::FlowControlError => "a window that is exceeded or overflows",
        Code::FrameSizeError => "a frame longer than is accepted",
        Code::CompressionError => "a field section that cannot be decoded",
        Code::StreamClosed => "a frame for a stream that is closed",
        _ => "a frame that is malformed or not allowed where it was sent",
    }
}

/// Floods by the names that `h2` gives them in its GOAWAY's debug data.
const FLOODS: [(&str, &str); 5] = [
    ("too_many_resets", "too many requests that are cancelled as soon as they are sent"),
    ("too_many_internal_resets", "too many streams that had to be reset for broken frames"),
    ("too_many_continuations", "too many CONTINUATION frames in a field section"),
    ("header_list_way_too_large", "a field section several times as long as is accepted"),
    ("too_many_data_frames", "too many DATA frames that are empty or nearly so"),
];

/// The longest of these names.
pub(super) const FLOOD_NAME_LEN_MAX: usize = 25;

const _: () = {
    let mut index = 0;
    while index < FLOODS.len() {
        assert!(FLOODS[index].0.len() <= FLOOD_NAME_LEN_MAX);
        index += 1;
    }
};

/// Returns the rule whose breach `h2` reports by resetting a stream.
pub(super) fn stream_rule(reason: Reason) -> &'static str {
    match Code::of(reason) {
        Code::FlowControlError => "a stream's window that is exceeded or overflows",
        Code::StreamClosed => "a frame for a stream that is closed",
        _ => "a body whose length differs from content-length, or malformed trailers",
    }
}
