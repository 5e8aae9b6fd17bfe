//! The decoder of a client connection's requests, one after the other, from bytes split at any
//! point.

use bytes::Bytes;
use http::StatusCode;

use super::chunked::{ChunkPart, ChunkedDecoder, SizePadding};
use super::field_section::Section;
use super::request_lines::{
    BodyFraming, ReadHead, bad, read_head, read_trailers, refusal, too_large, understand,
};
use super::{Error, Persistence, Version};
use crate::base::chunk_queue::ChunkQueue;
use crate::message::{Bound, Excess, FieldLimits, Refusal, RequestEvent, Scheme, Understood};

/// The receiving side of one client connection.
///
/// The caller hands bytes over in order with [`handle`](Self::handle), and takes the parts of a
/// request with [`poll`](Self::poll) until there are none. When [`is_done`](Self::is_done), the
/// request is over. Bytes that follow it (pipelining) are kept and not read before
/// [`start_next`](Self::start_next), so that no request is begun while the response to another is
/// still to be sent; the caller stops receiving meanwhile, which bounds them.
///
/// After a refusal the rest of the connection is dropped: where its next request would begin is not
/// known. The caller sends the response with `connection: close`.
#[derive(Debug)]
pub struct RequestDecoder {
    /// The scheme of the connection, for targets that name none.
    scheme: Scheme,
    input: ChunkQueue,
    state: State,
    version: Version,
    persistence: Persistence,
    asks_for_websocket: bool,
    /// The parts that were read of a head that was not accepted.
    understood: Option<Box<Understood>>,
}

#[derive(Debug)]
enum State {
    Head(HeadSection),
    /// In a body of which so much is still to come, not 0.
    Length {
        remaining: u64,
    },
    Chunked(ChunkedDecoder),
    /// The request is complete.
    Done,
    /// A request was refused; all bytes are dropped.
    Refused,
}

/// A head that is being received.
#[derive(Debug, Default)]
struct HeadSection {
    section: Section,
    /// An empty line came before it (RFC 9112 2.2).
    follows_empty_line: bool,
}

impl RequestDecoder {
    pub fn new(scheme: Scheme) -> Self {
        Self {
            scheme,
            input: ChunkQueue::default(),
            state: State::Head(HeadSection::default()),
            version: Version::Http11,
            persistence: Persistence::Close,
            asks_for_websocket: false,
            understood: None,
        }
    }

    pub fn handle(&mut self, chunk: Bytes) {
        if !matches!(self.state, State::Refused) {
            self.input.push(chunk);
        }
    }

    /// Returns the number of bytes that are held: those of an incomplete head or trailer section,
    /// or not taken yet.
    pub fn held_len(&self) -> usize {
        let section_len = match &self.state {
            State::Head(head) => head.section.len(),
            State::Chunked(decoder) => decoder.held_len(),
            State::Length { .. } | State::Done | State::Refused => 0,
        };
        self.input.len() + section_len
    }

    /// Returns the next part of the request; `None` when more bytes are needed or the request is
    /// over. After a refusal all bytes are dropped and no more parts returned.
    pub fn poll(&mut self, limits: &FieldLimits) -> Result<Option<RequestEvent>, Box<Refusal>> {
        self.advance(limits).map_err(|mut refusal| {
            self.understood = Some(Box::new(std::mem::take(&mut refusal.understood)));
            self.refuse();
            refusal
        })
    }

    /// Handles the end of the connection, after all parts were taken. Returns an error if it ends
    /// within a request.
    pub fn handle_end(&mut self) -> Result<(), Box<Refusal>> {
        match &self.state {
            State::Done | State::Refused => return Ok(()),
            State::Head(_) if !self.has_begun() => return Ok(()),
            State::Head(_) | State::Length { .. } | State::Chunked(_) => {}
        }
        assert!(self.input.is_empty(), "the end is reported after poll has nothing more");
        self.refuse();
        Err(bad("a connection that ends within a request"))
    }

    /// Returns whether the current request is complete. Nothing is read then until
    /// [`start_next`](Self::start_next).
    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns whether a byte of the current request has been read. If not, the connection is idle.
    pub fn has_begun(&self) -> bool {
        match &self.state {
            State::Head(head) => head.section.len() > 0,
            State::Length { .. } | State::Chunked(_) | State::Done | State::Refused => true,
        }
    }

    /// Starts to read the next request.
    ///
    /// # Panics
    ///
    /// If the current request is not complete, or the last one of its connection.
    pub fn start_next(&mut self) {
        assert!(self.is_done(), "requests are read one after the other");
        assert_eq!(self.persistence, Persistence::KeepAlive, "no request follows the last one");
        self.state = State::Head(HeadSection::default());
        self.version = Version::Http11;
        self.persistence = Persistence::Close;
        self.asks_for_websocket = false;
    }

    /// Returns the version of the current request, once its head has been returned.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Returns whether the connection may persist after the current request, once its head has been
    /// returned. It does not persist after a refusal.
    pub fn persistence(&self) -> Persistence {
        self.persistence
    }

    /// Returns whether the current request asks to continue as a WebSocket (RFC 6455 4.1), once its
    /// head has been returned. Other protocols that `upgrade` lists are ignored (RFC 9110 7.8).
    pub fn asks_for_websocket(&self) -> bool {
        self.asks_for_websocket
    }

    /// Takes the parts that were read of a head that was not accepted.
    pub fn take_understood(&mut self) -> Understood {
        self.understood.take().map_or_else(Understood::default, |understood| *understood)
    }

    fn refuse(&mut self) {
        self.state = State::Refused;
        self.persistence = Persistence::Close;
        self.input = ChunkQueue::default();
    }

    fn advance(&mut self, limits: &FieldLimits) -> Result<Option<RequestEvent>, Box<Refusal>> {
        loop {
            if matches!(self.state, State::Done | State::Refused) {
                return Ok(None);
            }
            let Some(chunk) = self.input.current() else { return Ok(None) };
            match &mut self.state {
                State::Done | State::Refused => unreachable!("returned above"),
                State::Head(head) => {
                    if let Some(section) = head.take(chunk, limits)? {
                        return self.take_head(&section, limits).map(Some);
                    }
                }
                State::Length { remaining } => {
                    let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(chunk.len());
                    *remaining -= len as u64;
                    let piece = chunk.split_to(len);
                    if *remaining == 0 {
                        self.state = State::Done;
                    }
                    return Ok(Some(RequestEvent::Body(piece)));
                }
                State::Chunked(decoder) => match decoder.decode(chunk) {
                    Ok(Some(ChunkPart::Payload(piece))) => {
                        return Ok(Some(RequestEvent::Body(piece)));
                    }
                    Ok(Some(ChunkPart::End(section))) => {
                        let trailers = read_trailers(&section, limits)?;
                        self.state = State::Done;
                        let event = RequestEvent::Trailers(trailers);
                        return Ok((section.len() > EMPTY_LINE.len()).then_some(event));
                    }
                    Ok(None) => {}
                    Err(Error::Malformed(rule)) => return Err(bad(rule)),
                    Err(Error::TooLong) => return Err(too_large(Excess::Length, limits)),
                },
            }
        }
    }

    fn take_head(
        &mut self,
        section: &Bytes,
        limits: &FieldLimits,
    ) -> Result<RequestEvent, Box<Refusal>> {
        let ReadHead { head, version, framing, persistence, asks_for_websocket } =
            read_head(section, self.scheme, limits)
                .map_err(|refusal| with_lines(refusal, section))?;
        self.version = version;
        self.persistence = persistence;
        self.asks_for_websocket = asks_for_websocket;
        let trailers_len_max = limits.field_section_len_max as usize;
        self.state = match framing {
            BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(remaining) => State::Length { remaining },
            BodyFraming::Chunked => {
                State::Chunked(ChunkedDecoder::new(SizePadding::Refused, trailers_len_max))
            }
        };
        Ok(RequestEvent::Head(head))
    }
}

impl HeadSection {
    /// Takes bytes from the front of `chunk`. Returns the whole head once its empty line has been
    /// received.
    fn take(
        &mut self,
        chunk: &mut Bytes,
        limits: &FieldLimits,
    ) -> Result<Option<Bytes>, Box<Refusal>> {
        // What is no HTTP, as a TLS handshake, is refused at once and not when no line end comes.
        let is_start = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b'\r' | b'\n');
        if self.section.len() == 0 && !chunk.first().is_none_or(is_start) {
            return Err(bad("the request does not begin with a method"));
        }
        let len_max = limits.field_section_len_max as usize;
        match self.section.take(chunk, len_max) {
            // RFC 9112 2.2: a server should ignore at least one empty line before a request.
            Ok(Some(section)) if section == EMPTY_LINE => {
                if std::mem::replace(&mut self.follows_empty_line, true) {
                    return Err(bad("more than one empty line before a request"));
                }
                self.section = Section::default();
                Ok(None)
            }
            Ok(section) => Ok(section),
            Err(Error::Malformed(rule)) => {
                Err(with_lines(bad(rule), &self.section.whole_lines(chunk)))
            }
            Err(Error::TooLong) => {
                let lines = self.section.whole_lines(chunk);
                if lines.is_empty() {
                    let start = self.section.start(chunk, len_max.min(REFUSED_LINE_READ_LEN));
                    return Err(with_lines(target_too_long(limits), &start));
                }
                Err(with_lines(too_large(Excess::Length, limits), &lines))
            }
        }
    }
}

/// Adds the parts of a refused head that its first lines show.
fn with_lines(mut refusal: Box<Refusal>, lines: &[u8]) -> Box<Refusal> {
    refusal.understood = understand(lines);
    refusal
}

/// Returns the refusal of a request line that alone is longer than a head may be (RFC 9112 3).
fn target_too_long(limits: &FieldLimits) -> Box<Refusal> {
    let mut refusal = refusal(StatusCode::URI_TOO_LONG, "a request line longer than is accepted");
    let max = limits.field_section_len_max.into();
    refusal.bound = Some(Bound { key: "limits.max_header_size", max });
    refusal
}

const EMPTY_LINE: &[u8] = b"\r\n";

/// Bytes that are read of a request line that is longer than accepted, for the log.
const REFUSED_LINE_READ_LEN: usize = 1024;
