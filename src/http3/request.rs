//! One request stream: frames in, the parts of a request out (RFC 9114 4.1).

use bytes::Bytes;
use http::Method;

use super::error::{Code, RequestError};
use super::frame::{FrameHeader, Phase, RequestStep, request_step};
use super::frame_reader::{FrameReader, Keep, Part};
use super::{LocalSettings, message, qpack};
use crate::base::chunk_queue::ChunkQueue;
use crate::message::{Excess, RequestEvent, Understood};

/// The receiving side of one client-initiated bidirectional stream.
///
/// The caller hands bytes over in order with [`handle`](Self::handle), and takes parts with
/// [`poll`](Self::poll) until there are none. While it cannot take parts, it stops polling and
/// hands nothing over, so that flow control slows the client down. It reports the end with
/// [`handle_end`](Self::handle_end), after it has taken all parts.
#[derive(Debug, Default)]
pub struct RequestStream {
    input: ChunkQueue,
    frames: FrameReader,
    message: Message,
    /// The request was refused; the rest of it is dropped.
    is_refused: bool,
}

/// The length of a head's section, against what is accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum HeadLength {
    #[default]
    Accepted,
    /// Only its start is read, for the log.
    TooLong,
}

/// The progress of the message.
#[derive(Debug, Default)]
struct Message {
    phase: Phase,
    /// Body bytes still to come by content-length; `None` if the head had none.
    body_left: Option<u64>,
    head_length: HeadLength,
    /// The parts that were read of a head that was not accepted.
    understood: Option<Box<Understood>>,
}

impl RequestStream {
    pub fn handle(&mut self, chunk: Bytes) {
        if !self.is_refused {
            self.input.push(chunk);
        }
    }

    /// Returns the number of bytes that are held: those of an incomplete head, or not taken yet.
    pub fn held_len(&self) -> usize {
        self.input.len() + self.frames.held_len()
    }

    /// Returns the next part of the request; `None` when more bytes are needed. After an error the
    /// stream drops all bytes and returns no more parts.
    pub fn poll(&mut self, settings: &LocalSettings) -> Result<Option<RequestEvent>, RequestError> {
        let outcome = self.advance(settings);
        if outcome.is_err() {
            self.refuse();
        }
        outcome
    }

    /// Handles the end of the stream (FIN), after all parts were taken. Returns an error if the
    /// request is not complete.
    pub fn handle_end(&mut self) -> Result<(), RequestError> {
        if self.is_refused {
            return Ok(());
        }
        assert!(self.input.is_empty(), "the end is reported after poll has nothing more");
        let outcome = self.check_end();
        if outcome.is_err() {
            self.refuse();
        }
        outcome
    }

    /// Takes the parts that were read of a head that was not accepted.
    pub fn take_understood(&mut self) -> Understood {
        self.message.understood.take().map_or_else(Understood::default, |understood| *understood)
    }

    fn refuse(&mut self) {
        self.is_refused = true;
        self.input = ChunkQueue::default();
    }

    fn check_end(&self) -> Result<(), RequestError> {
        if !self.frames.is_between_frames() {
            // RFC 9114 7.1.
            let rule = "a stream that ends in a frame";
            return Err(RequestError::connection(Code::FrameError, rule));
        }
        if self.message.phase == Phase::Head {
            // RFC 9114 4.1.
            return Err(RequestError::Stream {
                code: Code::RequestIncomplete,
                rule: "a stream that ends before a request",
            });
        }
        self.message.check_body_complete()
    }

    fn advance(&mut self, settings: &LocalSettings) -> Result<Option<RequestEvent>, RequestError> {
        let Self { input, frames, message, .. } = self;
        while let Some(chunk) = input.current() {
            match frames.read(chunk, |header| message.begin(header, settings))? {
                Some(Part::Piece(piece)) => return Ok(Some(RequestEvent::Body(piece))),
                Some(Part::Payload(_, section)) => {
                    return message.finish_section(&section, settings).map(Some);
                }
                None => {}
            }
        }
        Ok(None)
    }
}

impl Message {
    /// Checks a frame by its header and decides how much of it to keep.
    fn begin(
        &mut self,
        header: FrameHeader,
        settings: &LocalSettings,
    ) -> Result<Keep, RequestError> {
        match request_step(self.phase, header.kind) {
            RequestStep::Refuse(code, rule) => Err(RequestError::connection(code, rule)),
            RequestStep::Skip => Ok(Keep::Skip),
            RequestStep::ReadData => {
                if let Some(left) = &mut self.body_left {
                    *left = left
                        .checked_sub(header.len)
                        .ok_or(RequestError::malformed("a body longer than content-length"))?;
                }
                Ok(Keep::Stream)
            }
            RequestStep::ReadTrailers => {
                self.check_body_complete()?;
                if is_too_long(header.len, settings) {
                    return Err(RequestError::too_large(Excess::Length, settings));
                }
                Ok(Keep::Collect)
            }
            RequestStep::ReadHead if is_too_long(header.len, settings) => {
                self.head_length = HeadLength::TooLong;
                Ok(Keep::Start(REFUSED_HEAD_READ_LEN))
            }
            RequestStep::ReadHead => Ok(Keep::Collect),
        }
    }

    fn finish_section(
        &mut self,
        section: &[u8],
        settings: &LocalSettings,
    ) -> Result<RequestEvent, RequestError> {
        if self.head_length == HeadLength::TooLong {
            self.understood = Some(Box::new(message::understand(section, settings)));
            return Err(RequestError::too_large(Excess::Length, settings));
        }
        if self.phase == Phase::Head {
            let mut understood = Understood::default();
            let head =
                message::read_head(section, settings, &mut understood).inspect_err(|_| {
                    self.understood = Some(Box::new(understood));
                })?;
            let is_connect = head.method == Method::CONNECT;
            self.phase = if is_connect { Phase::Tunnel } else { Phase::Body };
            self.body_left = head.content_length;
            Ok(RequestEvent::Head(head))
        } else {
            let trailers = message::read_trailers(section, settings)?;
            self.phase = Phase::Done;
            Ok(RequestEvent::Trailers(trailers))
        }
    }

    /// Checks that the DATA frames hold as many bytes as content-length announces (RFC 9114 4.1.2).
    fn check_body_complete(&self) -> Result<(), RequestError> {
        match self.body_left {
            None | Some(0) => Ok(()),
            Some(_) => Err(RequestError::malformed("a body shorter than content-length")),
        }
    }
}

/// Returns whether a section is over the limit by the length that its frame declares, before it is
/// held.
fn is_too_long(len: u64, settings: &LocalSettings) -> bool {
    len > qpack::encoded_len_max(settings.field_section_len_max)
}

/// Bytes that are read of a head that is longer than accepted, if they come with its length. With
/// them its log line has a method, a host and a path: pseudo-header fields come first.
const REFUSED_HEAD_READ_LEN: usize = 1024;
