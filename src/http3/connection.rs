//! Connection-level state: the bytes of our control stream, and the peer's unidirectional streams
//! (RFC 9114 6.2, RFC 9204 4.2).
//!
//! On our side only the control stream is opened. QPACK's encoder and decoder streams are omitted,
//! as RFC 9204 4.2 allows for an endpoint that neither uses the dynamic table nor lets the peer
//! use it.

use bytes::{Bytes, BytesMut};

use super::LocalSettings;
use super::error::{Code, ConnectionError, refuse};
use super::frame::{ControlStep, FrameHeader, FrameKind, HeaderReader, control_step};
use super::frame_reader::{FrameReader, Keep, Part};
use super::settings;
use crate::base::varint;
use crate::limits;

/// The action to take on a unidirectional stream after its bytes were handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniVerdict {
    /// Continue to hand over the stream's bytes, and its end.
    Continue,
    /// The stream's type is unknown: send STOP_SENDING with this code and hand over nothing more
    /// of it, neither bytes nor its end (RFC 9114 6.2).
    StopSending(Code),
}

/// The state of one HTTP/3 connection outside of its requests.
#[derive(Debug)]
pub struct Connection {
    local: LocalSettings,
    /// The peer's unidirectional streams that are open.
    streams: Vec<(u64, UniStream)>,
    /// By type: the critical streams that the peer has opened. It may open each only once.
    came: [bool; 4],
    /// The last GOAWAY that we sent.
    goaway: Option<u64>,
}

#[derive(Debug)]
enum UniStream {
    /// Its type has not been fully received.
    Untyped(HeaderReader),
    Control(ControlStream),
    Encoder,
    Decoder(DecoderStream),
}

impl Connection {
    pub fn new(settings: &LocalSettings) -> Self {
        Self { local: *settings, streams: Vec::with_capacity(3), came: [false; 4], goaway: None }
    }

    /// Returns the first bytes of our control stream: its type and SETTINGS.
    pub fn control_preface(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        varint::write(STREAM_CONTROL, &mut out);
        settings::encode(&self.local, &mut out);
        out.freeze()
    }

    /// Returns a GOAWAY frame for our control stream: requests on `stream_id` and above are not
    /// processed. Identifiers never increase (RFC 9114 5.2): a second call with a larger one
    /// repeats the first.
    pub fn goaway(&mut self, stream_id: u64) -> Bytes {
        assert!(
            stream_id.is_multiple_of(4) && stream_id <= varint::MAX,
            "GOAWAY names a request stream, not {stream_id}"
        );
        let stream_id = self.goaway.map_or(stream_id, |sent| sent.min(stream_id));
        self.goaway = Some(stream_id);
        let mut payload = BytesMut::with_capacity(8);
        varint::write(stream_id, &mut payload);
        let mut out = BytesMut::with_capacity(16);
        varint::write(FRAME_GOAWAY, &mut out);
        varint::write(payload.len() as u64, &mut out);
        out.extend_from_slice(&payload);
        out.freeze()
    }

    /// Handles the next bytes of the peer's unidirectional stream `stream_id`, in order.
    pub fn handle_uni(
        &mut self,
        stream_id: u64,
        mut chunk: Bytes,
    ) -> Result<UniVerdict, ConnectionError> {
        let index = self.index_of_uni(stream_id)?;
        if let UniStream::Untyped(reader) = &mut self.streams[index].1 {
            let Some(stream_type) = reader.read(&mut chunk, varint::read) else {
                return Ok(UniVerdict::Continue);
            };
            match self.admit(stream_type)? {
                Some(stream) => self.streams[index].1 = stream,
                None => {
                    self.streams.swap_remove(index);
                    // RFC 9114 6.2: reading is aborted, with this code or a reserved one.
                    return Ok(UniVerdict::StopSending(Code::StreamCreationError));
                }
            }
        }
        match &mut self.streams[index].1 {
            UniStream::Untyped(_) => unreachable!("a stream is typed above"),
            UniStream::Encoder => read_encoder_instructions(&chunk)?,
            UniStream::Decoder(stream) => stream.read(&chunk)?,
            UniStream::Control(stream) => stream.read(chunk)?,
        }
        Ok(UniVerdict::Continue)
    }

    /// Handles the end (FIN) or reset of the peer's unidirectional stream `stream_id`.
    pub fn handle_uni_end(&mut self, stream_id: u64) -> Result<(), ConnectionError> {
        let Some(index) = self.streams.iter().position(|(id, _)| *id == stream_id) else {
            // RFC 9114 6.2: a stream may end before its first byte.
            return Ok(());
        };
        let rule = match self.streams.swap_remove(index).1 {
            // RFC 9114 6.2: a stream may end before its type.
            UniStream::Untyped(_) => return Ok(()),
            UniStream::Control(_) => "the control stream ended",
            UniStream::Encoder => "the QPACK encoder stream ended",
            UniStream::Decoder(_) => "the QPACK decoder stream ended",
        };
        // RFC 9114 6.2.1, RFC 9204 4.2.
        refuse(Code::ClosedCriticalStream, rule)
    }

    fn index_of_uni(&mut self, stream_id: u64) -> Result<usize, ConnectionError> {
        if let Some(index) = self.streams.iter().position(|(id, _)| *id == stream_id) {
            return Ok(index);
        }
        if self.streams.len() == limits::UNI_STREAM_HELD_COUNT_MAX {
            let rule = "more than 16 unidirectional streams at once, a fixed bound";
            return refuse(Code::ExcessiveLoad, rule);
        }
        self.streams.push((stream_id, UniStream::Untyped(HeaderReader::default())));
        Ok(self.streams.len() - 1)
    }

    /// Returns the state for a stream of this type; `None` for an unknown type.
    fn admit(&mut self, stream_type: u64) -> Result<Option<UniStream>, ConnectionError> {
        let (stream, rule) = match stream_type {
            STREAM_CONTROL => {
                (UniStream::Control(ControlStream::default()), "a second control stream")
            }
            STREAM_ENCODER => (UniStream::Encoder, "a second QPACK encoder stream"),
            STREAM_DECODER => {
                (UniStream::Decoder(DecoderStream::default()), "a second QPACK decoder stream")
            }
            // RFC 9114 6.2.2: only servers push.
            STREAM_PUSH => return refuse(Code::StreamCreationError, "a push stream from a client"),
            _ => return Ok(None),
        };
        if std::mem::replace(&mut self.came[stream_type as usize], true) {
            return refuse(Code::StreamCreationError, rule);
        }
        Ok(Some(stream))
    }
}

const STREAM_CONTROL: u64 = 0x00;
const STREAM_PUSH: u64 = 0x01;
const STREAM_ENCODER: u64 = 0x02;
const STREAM_DECODER: u64 = 0x03;
const FRAME_GOAWAY: u64 = 0x07;

/// The peer's control stream. A server uses few of its frames.
#[derive(Debug, Default)]
struct ControlStream {
    frames: FrameReader,
    settings_came: bool,
    goaway: Option<u64>,
    push_id_max: Option<u64>,
}

impl ControlStream {
    fn read(&mut self, mut chunk: Bytes) -> Result<(), ConnectionError> {
        loop {
            let Self { frames, settings_came, .. } = self;
            match frames.read(&mut chunk, |header| begin_control_frame(settings_came, header))? {
                Some(Part::Payload(kind, payload)) => self.finish_frame(kind, &payload)?,
                Some(Part::Piece(_)) => unreachable!("no frame of a control stream is streamed"),
                None => return Ok(()),
            }
        }
    }

    fn finish_frame(&mut self, kind: FrameKind, payload: &[u8]) -> Result<(), ConnectionError> {
        let id = || match varint::read(payload) {
            Some((id, len)) if len == payload.len() => Ok(id),
            _ => refuse(Code::FrameError, ONE_ID),
        };
        match kind {
            // None of the peer's settings changes what we send.
            FrameKind::Settings => settings::check(payload)?,
            // A client's GOAWAY holds a push id, which never increases (RFC 9114 5.2).
            FrameKind::Goaway => {
                let id = id()?;
                if self.goaway.is_some_and(|before| id > before) {
                    return refuse(Code::IdError, "a GOAWAY identifier that rises");
                }
                self.goaway = Some(id);
            }
            // RFC 9114 7.2.7: MAX_PUSH_ID never decreases.
            FrameKind::MaxPushId => {
                let id = id()?;
                if self.push_id_max.is_some_and(|before| id < before) {
                    return refuse(Code::IdError, "a MAX_PUSH_ID that shrinks");
                }
                self.push_id_max = Some(id);
            }
            _ => unreachable!("only these three are read as a payload"),
        }
        Ok(())
    }
}

fn begin_control_frame(
    settings_came: &mut bool,
    header: FrameHeader,
) -> Result<Keep, ConnectionError> {
    let step = control_step(*settings_came, header.kind);
    *settings_came = true;
    let (len_max, code, rule) = match step {
        ControlStep::Refuse(code, rule) => return refuse(code, rule),
        ControlStep::Skip => return Ok(Keep::Skip),
        // RFC 9114 7.2.3: no PUSH_PROMISE has named this push id, since we never send one.
        ControlStep::ReadCancelPush => {
            return refuse(Code::IdError, "CANCEL_PUSH for a push that was never promised");
        }
        ControlStep::ReadSettings => {
            let rule = "a SETTINGS frame of more than 1024 bytes, a fixed bound";
            (limits::SETTINGS_LEN_MAX, Code::ExcessiveLoad, rule)
        }
        ControlStep::ReadGoaway | ControlStep::ReadMaxPushId => (8, Code::FrameError, ONE_ID),
    };
    if header.len > len_max as u64 { refuse(code, rule) } else { Ok(Keep::Collect) }
}

/// The rule that a frame's payload is exactly its fields (RFC 9114 7.1).
const ONE_ID: &str = "a frame that holds more or less than one identifier";

/// Checks the instructions of the encoder stream. With a capacity of 0 the only valid one sets the
/// capacity to 0 (RFC 9204 4.3). It is one byte long, so this stream needs no state.
fn read_encoder_instructions(chunk: &[u8]) -> Result<(), ConnectionError> {
    const SET_CAPACITY_0: u8 = 0b0010_0000;
    for &byte in chunk {
        let rule = match byte {
            SET_CAPACITY_0 => continue,
            0b0010_0001..=0b0011_1111 => "a dynamic table capacity over the advertised 0",
            0b0100_0000..=0b1111_1111 => "an insert into a dynamic table without capacity",
            0b0000_0000..=0b0001_1111 => "a duplicate in a dynamic table without capacity",
        };
        return refuse(Code::QpackEncoderStreamError, rule);
    }
    Ok(())
}

/// The peer's QPACK decoder stream (RFC 9204 4.4). As our sections never refer to the dynamic
/// table, stream cancellation is its only valid instruction.
#[derive(Debug, Default)]
struct DecoderStream {
    /// Number of continuation bytes read of a cancellation's stream id; `None` between
    /// instructions.
    inside: Option<u8>,
}

impl DecoderStream {
    /// Most bytes after the prefix that an integer of 62 bits needs (RFC 9204 4.1.1).
    const CONTINUATION_LEN_MAX: u8 = 9;

    fn read(&mut self, chunk: &[u8]) -> Result<(), ConnectionError> {
        const ERROR: Code = Code::QpackDecoderStreamError;
        for &byte in chunk {
            if let Some(count) = self.inside {
                if count == Self::CONTINUATION_LEN_MAX {
                    return refuse(ERROR, "an integer over 62 bits");
                }
                self.inside = (byte & 0x80 != 0).then_some(count + 1);
                continue;
            }
            match byte {
                // Stream Cancellation, RFC 9204 4.4.2: we hold no state that it affects.
                0b0100_0000..=0b0111_1110 => {}
                0b0111_1111 => self.inside = Some(0),
                0b1000_0000..=0b1111_1111 => {
                    return refuse(ERROR, "an acknowledged section without need");
                }
                0b0000_0000..=0b0011_1111 => {
                    return refuse(ERROR, "an insert count never sent");
                }
            }
        }
        Ok(())
    }
}
