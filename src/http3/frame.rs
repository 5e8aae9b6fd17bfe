//! Frame headers, and the tables of the frames allowed on each kind of stream (RFC 9114 7).

use bytes::Bytes;

use super::error::Code;
use crate::base::varint;

/// The type of a frame, with those grouped that are treated alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FrameKind {
    Data,
    Headers,
    CancelPush,
    Settings,
    PushPromise,
    Goaway,
    MaxPushId,
    /// Types of HTTP/2 frames that have no counterpart (RFC 9114 7.2.8): PRIORITY, PING,
    /// WINDOW_UPDATE, CONTINUATION.
    ReservedHttp2,
    /// Every other type, those reserved for greasing among them (RFC 9114 9).
    Unknown,
}

impl FrameKind {
    pub(super) const fn from_type(frame_type: u64) -> Self {
        match frame_type {
            0x00 => Self::Data,
            0x01 => Self::Headers,
            0x03 => Self::CancelPush,
            0x04 => Self::Settings,
            0x05 => Self::PushPromise,
            0x07 => Self::Goaway,
            0x0d => Self::MaxPushId,
            0x02 | 0x06 | 0x08 | 0x09 => Self::ReservedHttp2,
            _ => Self::Unknown,
        }
    }
}

/// The phase of a message on a request stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Phase {
    /// Before the head.
    #[default]
    Head,
    /// After the head: body or trailers may follow.
    Body,
    /// After the head of a CONNECT: only DATA may follow (RFC 9114 4.4).
    Tunnel,
    /// After the trailers: only unknown frames may follow.
    Done,
}

/// The action for a frame on a request stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RequestStep {
    ReadHead,
    ReadData,
    ReadTrailers,
    Skip,
    Refuse(Code, &'static str),
}

/// Returns the action for a frame on a request stream, for a server (RFC 9114 4.1, 7.2).
pub(super) const fn request_step(phase: Phase, kind: FrameKind) -> RequestStep {
    use RequestStep::{ReadData, ReadHead, ReadTrailers, Refuse, Skip};
    const UNEXPECTED: Code = Code::FrameUnexpected;
    match (phase, kind) {
        (_, FrameKind::Unknown) => Skip,
        (Phase::Head, FrameKind::Headers) => ReadHead,
        (Phase::Head, FrameKind::Data) => Refuse(UNEXPECTED, "DATA before HEADERS"),
        (Phase::Body | Phase::Tunnel, FrameKind::Data) => ReadData,
        (Phase::Body, FrameKind::Headers) => ReadTrailers,
        (Phase::Tunnel, FrameKind::Headers) => Refuse(UNEXPECTED, "HEADERS after CONNECT"),
        (Phase::Done, FrameKind::Data) => Refuse(UNEXPECTED, "DATA after trailers"),
        (Phase::Done, FrameKind::Headers) => Refuse(UNEXPECTED, "HEADERS after trailers"),
        (_, FrameKind::CancelPush) => Refuse(UNEXPECTED, "CANCEL_PUSH on a request stream"),
        (_, FrameKind::Settings) => Refuse(UNEXPECTED, "SETTINGS on a request stream"),
        (_, FrameKind::PushPromise) => Refuse(UNEXPECTED, "PUSH_PROMISE from a client"),
        (_, FrameKind::Goaway) => Refuse(UNEXPECTED, "GOAWAY on a request stream"),
        (_, FrameKind::MaxPushId) => Refuse(UNEXPECTED, "MAX_PUSH_ID on a request stream"),
        (_, FrameKind::ReservedHttp2) => Refuse(UNEXPECTED, "a frame type reserved from HTTP/2"),
    }
}

/// The action for a frame on the peer's control stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ControlStep {
    ReadSettings,
    ReadGoaway,
    ReadMaxPushId,
    ReadCancelPush,
    Skip,
    Refuse(Code, &'static str),
}

/// Returns the action for a frame on the peer's control stream, for a server (RFC 9114 6.2.1, 7.2).
pub(super) const fn control_step(settings_came: bool, kind: FrameKind) -> ControlStep {
    use ControlStep::{ReadCancelPush, ReadGoaway, ReadMaxPushId, ReadSettings, Refuse, Skip};
    const UNEXPECTED: Code = Code::FrameUnexpected;
    match (settings_came, kind) {
        (false, FrameKind::Settings) => ReadSettings,
        // RFC 9114 6.2.1: any other first frame, unknown types included.
        (false, _) => Refuse(Code::MissingSettings, "the control stream starts with SETTINGS"),
        (true, FrameKind::Settings) => Refuse(UNEXPECTED, "a second SETTINGS frame"),
        (true, FrameKind::Goaway) => ReadGoaway,
        (true, FrameKind::MaxPushId) => ReadMaxPushId,
        (true, FrameKind::CancelPush) => ReadCancelPush,
        (true, FrameKind::Unknown) => Skip,
        (true, FrameKind::Data) => Refuse(UNEXPECTED, "DATA on the control stream"),
        (true, FrameKind::Headers) => Refuse(UNEXPECTED, "HEADERS on the control stream"),
        (true, FrameKind::PushPromise) => Refuse(UNEXPECTED, "PUSH_PROMISE on the control stream"),
        (true, FrameKind::ReservedHttp2) => Refuse(UNEXPECTED, "a frame type reserved from HTTP/2"),
    }
}

/// Type and payload length of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameHeader {
    pub(super) kind: FrameKind,
    pub(super) len: u64,
}

/// The reader of frame headers and stream types, which may be split at any byte.
#[derive(Debug, Default)]
pub(super) struct HeaderReader {
    /// Bytes of a header that is not complete yet: at most two varints of eight bytes.
    held: [u8; 16],
    held_len: u8,
}

impl HeaderReader {
    /// Takes a header off the start of `chunk`; `None` when all of `chunk` was taken and more is
    /// needed. `parse` returns a header and its length.
    pub(super) fn read<H>(
        &mut self,
        chunk: &mut Bytes,
        parse: impl Fn(&[u8]) -> Option<(H, usize)>,
    ) -> Option<H> {
        if self.held_len == 0
            && let Some((header, len)) = parse(chunk)
        {
            drop(chunk.split_to(len));
            return Some(header);
        }
        while !chunk.is_empty() {
            self.held[usize::from(self.held_len)] = chunk.split_to(1)[0];
            self.held_len += 1;
            if let Some((header, _)) = parse(&self.held[..usize::from(self.held_len)]) {
                self.held_len = 0;
                return Some(header);
            }
        }
        None
    }

    /// Returns whether a header has begun and is not complete.
    pub(super) fn is_inside(&self) -> bool {
        self.held_len > 0
    }
}

/// Returns the frame header at the start of `bytes` and its length.
pub(super) fn parse_header(bytes: &[u8]) -> Option<(FrameHeader, usize)> {
    let (frame_type, type_len) = varint::read(bytes)?;
    let (len, len_len) = varint::read(&bytes[type_len..])?;
    Some((FrameHeader { kind: FrameKind::from_type(frame_type), len }, type_len + len_len))
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;

    const KINDS: [FrameKind; 9] = [
        FrameKind::Data,
        FrameKind::Headers,
        FrameKind::CancelPush,
        FrameKind::Settings,
        FrameKind::PushPromise,
        FrameKind::Goaway,
        FrameKind::MaxPushId,
        FrameKind::ReservedHttp2,
        FrameKind::Unknown,
    ];

    /// Every transition of both tables. The expected values are from RFC 9114 7, table 1, for a
    /// server, with 4.1, 4.4, 6.2.1, 7.2.8 and 9.
    #[test]
    fn transitions() {
        let mut table = String::new();
        for kind in KINDS {
            write!(table, "\n{:13}", format!("{kind:?}")).unwrap();
            for phase in [Phase::Head, Phase::Body, Phase::Tunnel, Phase::Done] {
                let cell = match request_step(phase, kind) {
                    RequestStep::Refuse(code, _) => {
                        assert_eq!(code, Code::FrameUnexpected);
                        "-".to_owned()
                    }
                    step => format!("{step:?}"),
                };
                write!(table, " {cell:12}").unwrap();
            }
            for settings_came in [false, true] {
                let cell = match control_step(settings_came, kind) {
                    ControlStep::Refuse(code, _) => {
                        crate::testing::http3::code_name(code)[3..].to_owned()
                    }
                    step => format!("{step:?}"),
                };
                write!(table, " {cell:16}").unwrap();
            }
            table.truncate(table.trim_end().len());
        }
        #[rustfmt::skip]
        let expected = "
              Head         Body         Tunnel       Done         first control    later control
Data          -            ReadData     ReadData     -            MISSING_SETTINGS FRAME_UNEXPECTED
Headers       ReadHead     ReadTrailers -            -            MISSING_SETTINGS FRAME_UNEXPECTED
CancelPush    -            -            -            -            MISSING_SETTINGS ReadCancelPush
Settings      -            -            -            -            ReadSettings     FRAME_UNEXPECTED
PushPromise   -            -            -            -            MISSING_SETTINGS FRAME_UNEXPECTED
Goaway        -            -            -            -            MISSING_SETTINGS ReadGoaway
MaxPushId     -            -            -            -            MISSING_SETTINGS ReadMaxPushId
ReservedHttp2 -            -            -            -            MISSING_SETTINGS FRAME_UNEXPECTED
Unknown       Skip         Skip         Skip         Skip         MISSING_SETTINGS Skip";
        let (_, rows) = expected[1..].split_once('\n').unwrap();
        assert_eq!(&table[1..], rows);
    }

    #[test]
    fn a_header_split_at_any_byte_is_read_and_the_payload_is_left() {
        // Type 0x21 in two bytes, length 2^62 - 1, then two bytes of payload.
        let bytes = [&[0x40, 0x21][..], &[0xff; 8], b"xy"].concat();
        let header_len = bytes.len() - 2;
        for cut in 0..=bytes.len() {
            let mut reader = HeaderReader::default();
            let mut first = Bytes::copy_from_slice(&bytes[..cut]);
            let mut second = Bytes::copy_from_slice(&bytes[cut..]);
            let header = match reader.read(&mut first, parse_header) {
                Some(header) => header,
                None => {
                    assert!(first.is_empty());
                    assert_eq!(reader.is_inside(), cut > 0);
                    reader.read(&mut second, parse_header).unwrap()
                }
            };
            assert_eq!(header, FrameHeader { kind: FrameKind::Unknown, len: varint::MAX });
            assert!(!reader.is_inside());
            assert_eq!(first.len() + second.len(), bytes.len() - header_len, "cut at {cut}");
        }
    }

    #[test]
    fn reserved_types_of_http2_are_known_and_grease_is_unknown() {
        for frame_type in [0x02, 0x06, 0x08, 0x09] {
            assert_eq!(FrameKind::from_type(frame_type), FrameKind::ReservedHttp2);
        }
        for n in [0, 1, 1000, (varint::MAX - 0x21) / 0x1f] {
            assert_eq!(FrameKind::from_type(0x1f * n + 0x21), FrameKind::Unknown);
        }
    }
}
