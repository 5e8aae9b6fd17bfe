//! One request stream: frames in, the parts of a request out (RFC 9114 4.1).

use std::collections::VecDeque;

use bytes::Bytes;
use http::Method;

use super::error::{Code, RequestError};
use super::frame::{FrameHeader, FrameHeaderReader, Phase, RequestStep, request_step};
use super::{LocalSettings, message, qpack};
use crate::message::{Fields, Head};

/// A part of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum RequestEvent {
    /// The head, first and once.
    Head(Head),
    /// A piece of the body, never empty: a slice of what was handed in.
    Body(Bytes),
    /// The trailers, last and at most once.
    Trailers(Fields),
}

/// The receiving side of one client-initiated bidirectional stream.
///
/// Hand bytes over with [`handle`](Self::handle) in order, take parts with [`poll`](Self::poll)
/// until it has none. A stream whose parts can't be taken now is not polled, and nothing more is
/// handed over: so flow control holds the client back. The end is told by
/// [`handle_end`](Self::handle_end), after all parts were taken.
#[derive(Debug)]
pub struct RequestStream {
    input: Input,
    header: FrameHeaderReader,
    at: At,
    phase: Phase,
    /// What the content length leaves to come; `None` where none was told.
    body_left: Option<u64>,
}

/// Where in the frames the stream stands.
#[derive(Debug)]
enum At {
    Header,
    Data {
        left: u64,
    },
    /// In a HEADERS frame that came in several chunks; `held` is its beginning.
    Section {
        left: usize,
        held: Vec<u8>,
    },
    /// In a frame that means nothing to us.
    Skip {
        left: u64,
    },
    /// The request was refused; nothing more of it matters.
    Refused,
}

impl Default for RequestStream {
    fn default() -> Self {
        Self::new()
    }
}

impl RequestStream {
    /// A stream that nothing has come on.
    pub fn new() -> Self {
        Self {
            input: Input::default(),
            header: FrameHeaderReader::default(),
            at: At::Header,
            phase: Phase::Head,
            body_left: None,
        }
    }

    /// The next bytes of the stream.
    pub fn handle(&mut self, chunk: Bytes) {
        if !matches!(self.at, At::Refused) {
            self.input.push(chunk);
        }
    }

    /// The next part of the request; `None` when more bytes are needed. After an error the stream
    /// drops whatever it is handed and has nothing more to tell.
    pub fn poll(&mut self, settings: &LocalSettings) -> Result<Option<RequestEvent>, RequestError> {
        let outcome = self.advance(settings);
        if outcome.is_err() {
            self.refuse();
        }
        outcome
    }

    /// Whether all that was handed over has been taken: only then may the end be told.
    pub fn is_drained(&self) -> bool {
        self.input.is_empty()
    }

    /// The stream ended (FIN), all parts were taken: whether the request is whole.
    pub fn handle_end(&mut self) -> Result<(), RequestError> {
        if matches!(self.at, At::Refused) {
            return Ok(());
        }
        assert!(self.input.is_empty(), "the end is told after poll has nothing more");
        let outcome = self.check_end();
        if outcome.is_err() {
            self.refuse();
        }
        outcome
    }

    fn refuse(&mut self) {
        self.at = At::Refused;
        self.input = Input::default();
    }

    fn check_end(&self) -> Result<(), RequestError> {
        if !matches!(self.at, At::Header) || self.header.is_inside() {
            // RFC 9114 7.1.
            return Err(RequestError::connection(
                Code::FrameError,
                "a stream that ends in a frame",
            ));
        }
        if self.phase == Phase::Head {
            // RFC 9114 4.1.
            return Err(RequestError::Stream {
                code: Code::RequestIncomplete,
                rule: "a stream that ends before a request",
            });
        }
        self.check_body_complete()
    }

    /// RFC 9114 4.1.2: the DATA frames hold as many bytes as content-length told.
    fn check_body_complete(&self) -> Result<(), RequestError> {
        match self.body_left {
            None | Some(0) => Ok(()),
            Some(_) => Err(RequestError::malformed("a body shorter than content-length")),
        }
    }

    fn advance(&mut self, settings: &LocalSettings) -> Result<Option<RequestEvent>, RequestError> {
        while let Some(chunk) = self.input.current() {
            match &mut self.at {
                At::Header => {
                    if let Some(header) = self.header.read(chunk) {
                        self.at = self.begin(header, settings)?;
                        if let Some(event) = self.finish_empty_section(settings)? {
                            return Ok(Some(event));
                        }
                    }
                }
                At::Data { left } => {
                    let len = (*left).min(chunk.len() as u64);
                    let piece = chunk.split_to(len as usize);
                    *left -= len;
                    if *left == 0 {
                        self.at = At::Header;
                    }
                    return Ok(Some(RequestEvent::Body(piece)));
                }
                At::Section { left, held } => {
                    let len = (*left).min(chunk.len());
                    let piece = chunk.split_to(len);
                    *left -= len;
                    if *left > 0 {
                        held.extend_from_slice(&piece);
                        continue;
                    }
                    // A section that came in one piece is read where it lies.
                    let mut whole = std::mem::take(held);
                    self.at = At::Header;
                    if whole.is_empty() {
                        return self.finish_section(&piece, settings).map(Some);
                    }
                    whole.extend_from_slice(&piece);
                    return self.finish_section(&whole, settings).map(Some);
                }
                At::Skip { left } => {
                    let len = (*left).min(chunk.len() as u64);
                    drop(chunk.split_to(len as usize));
                    *left -= len;
                    if *left == 0 {
                        self.at = At::Header;
                    }
                }
                At::Refused => self.input = Input::default(),
            }
        }
        Ok(None)
    }

    /// Where a frame leads that starts with `header`.
    fn begin(&mut self, header: FrameHeader, settings: &LocalSettings) -> Result<At, RequestError> {
        match request_step(self.phase, header.kind) {
            RequestStep::Refuse(code, rule) => Err(RequestError::connection(code, rule)),
            RequestStep::Skip if header.len == 0 => Ok(At::Header),
            RequestStep::Skip => Ok(At::Skip { left: header.len }),
            RequestStep::ReadData => {
                if let Some(left) = &mut self.body_left {
                    *left = left
                        .checked_sub(header.len)
                        .ok_or(RequestError::malformed("a body longer than content-length"))?;
                }
                Ok(if header.len == 0 { At::Header } else { At::Data { left: header.len } })
            }
            RequestStep::ReadTrailers => {
                self.check_body_complete()?;
                begin_section(header.len, settings)
            }
            RequestStep::ReadHead => begin_section(header.len, settings),
        }
    }

    /// A section without bytes has no chunk to end in.
    fn finish_empty_section(
        &mut self,
        settings: &LocalSettings,
    ) -> Result<Option<RequestEvent>, RequestError> {
        if !matches!(self.at, At::Section { left: 0, .. }) {
            return Ok(None);
        }
        self.at = At::Header;
        self.finish_section(&[], settings).map(Some)
    }

    fn finish_section(
        &mut self,
        section: &[u8],
        settings: &LocalSettings,
    ) -> Result<RequestEvent, RequestError> {
        if self.phase == Phase::Head {
            let head = message::read_head(section, settings)?;
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
}

/// Refuses a section by the length that its frame declares, before any of it is held.
fn begin_section(len: u64, settings: &LocalSettings) -> Result<At, RequestError> {
    if len > qpack::encoded_len_max(settings.field_section_len_max) {
        return Err(RequestError::too_large("a field section longer than is accepted"));
    }
    // Bounded above by a u32 and a few bytes.
    Ok(At::Section { left: len as usize, held: Vec::new() })
}

/// Chunks that came and were not read yet, in order. None of them is empty.
#[derive(Debug, Default)]
struct Input {
    first: Bytes,
    rest: VecDeque<Bytes>,
}

impl Input {
    fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if self.is_empty() {
            self.first = chunk;
        } else {
            self.rest.push_back(chunk);
        }
    }

    /// The chunk to read on; `None` when there is none.
    fn current(&mut self) -> Option<&mut Bytes> {
        if self.first.is_empty() {
            self.first = self.rest.pop_front()?;
        }
        Some(&mut self.first)
    }

    fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }
}
