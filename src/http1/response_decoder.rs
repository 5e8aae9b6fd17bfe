//! The decoder of one response and its interim responses, from bytes split at any point.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode};

use super::chunked::{ChunkPart, ChunkedDecoder, SizePadding};
use super::connection_options::ConnectionOptions;
use super::field_section::{Section, faulty_field, parse_head, parse_trailers};
use super::keep_alive::KeepAlive;
use super::{Error, Persistence, Version, broken};
use crate::limits::RESPONSE_INTERIM_COUNT_MAX;
use crate::message::{Fields, parse_content_length};
use crate::planted::{Bug, is_planted};

/// A part of a response.
#[derive(Debug, PartialEq)]
pub enum Part {
    /// The head of an interim response (1xx other than 101).
    Interim(ResponseHead),
    /// The head of the final response.
    Head(ResponseHead),
    /// A piece of its body, not empty.
    Body(Bytes),
    /// Its end, with the trailer fields (may be empty). Not returned when the head ends the
    /// response.
    End(Fields),
}

impl Part {
    /// Returns whether the response ends with this part.
    pub(crate) fn is_last(&self) -> bool {
        matches!(self, Self::End(_) | Self::Head(ResponseHead { ended: true, .. }))
    }
}

/// The head of one response.
#[derive(Debug, PartialEq)]
pub struct ResponseHead {
    pub status: StatusCode,
    /// All fields, with at most one `content-length`.
    pub fields: Fields,
    /// The connection options among the fields.
    pub options: ConnectionOptions,
    pub content_length: Option<u64>,
    /// No body follows.
    pub ended: bool,
}

/// The decoder of the response to one request.
#[derive(Debug)]
pub struct ResponseDecoder {
    state: State,
    /// The request was HEAD: the response has no body, whatever its head says.
    to_head: bool,
    head_len_max: usize,
    interim_count: u32,
    keeps_alive: bool,
    /// How long the upstream says that it keeps the connection.
    keep_alive_timeout: Option<Duration>,
    speaks_http: bool,
    /// The start of the name of the field for which the response was refused.
    faulty_field: Option<Bytes>,
}

#[derive(Debug)]
enum State {
    Head(Section),
    Length { remaining: u64 },
    Chunked(ChunkedDecoder),
    UntilClose,
    Done,
}

impl ResponseDecoder {
    pub fn new(to_head: bool, head_len_max: usize) -> Self {
        Self {
            state: State::Head(Section::default()),
            to_head,
            head_len_max,
            interim_count: 0,
            keeps_alive: false,
            keep_alive_timeout: None,
            speaks_http: false,
            faulty_field: None,
        }
    }

    pub fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns whether any byte of the response has been received.
    pub(crate) fn has_begun(&self) -> bool {
        match &self.state {
            State::Head(section) => self.interim_count > 0 || section.len() > 0,
            _ => true,
        }
    }

    /// Returns whether the final head is still to come.
    pub(crate) fn is_in_head(&self) -> bool {
        matches!(self.state, State::Head(_))
    }

    /// Returns whether the response is complete and lets the connection persist.
    pub fn keeps_alive(&self) -> bool {
        self.is_done() && self.keeps_alive
    }

    /// Returns how long the upstream says that it keeps the connection without a request.
    pub(crate) fn keep_alive_timeout(&self) -> Option<Duration> {
        self.keep_alive_timeout
    }

    /// Returns whether what was received begins as HTTP/1.x does. Otherwise something else than the
    /// expected server is there.
    pub(crate) fn speaks_http(&self) -> bool {
        self.speaks_http
    }

    /// Returns the start of the name of the field for which the response was refused, if it was one
    /// field.
    pub(crate) fn faulty_field(&self) -> Option<&[u8]> {
        self.faulty_field.as_deref()
    }

    /// Returns the next part at the front of `piece`, or `None` when more bytes are needed or the
    /// response is complete. Bytes left in `piece` by a complete response do not belong to it.
    pub fn decode(&mut self, piece: &mut BytesMut) -> Result<Option<Part>, Error> {
        match &mut self.state {
            State::Done => Ok(None),
            State::Length { remaining: 0 } => {
                self.state = State::Done;
                Ok(Some(Part::End(Fields::new())))
            }
            _ if piece.is_empty() => Ok(None),
            State::UntilClose => {
                if is_planted(Bug::DroppedTailByte) && piece.len() > 1 {
                    piece.truncate(piece.len() - 1);
                }
                Ok(Some(Part::Body(piece.split().freeze())))
            }
            State::Head(section) => {
                check_protocol(section, piece)?;
                self.speaks_http |= section.len() + piece.len() >= PROTOCOL.len();
                let Some(head) = section.take(piece, self.head_len_max)? else {
                    return Ok(None);
                };
                self.take_head(&head).map(Some)
            }
            State::Length { remaining } => {
                let len = usize::try_from(*remaining).unwrap_or(usize::MAX).min(piece.len());
                *remaining -= len as u64;
                Ok(Some(Part::Body(piece.split_to(len).freeze())))
            }
            State::Chunked(decoder) => match decoder.decode(piece)? {
                Some(ChunkPart::Payload(payload)) => Ok(Some(Part::Body(payload))),
                Some(ChunkPart::End(section)) => {
                    let trailers = parse_trailers(&section)?;
                    self.state = State::Done;
                    Ok(Some(Part::End(trailers)))
                }
                None => Ok(None),
            },
        }
    }

    /// Returns whether the end of the connection ends the response (RFC 9112 6.3, rule 8) rather
    /// than truncates it.
    pub fn ends_with_connection(&mut self) -> bool {
        let ends = matches!(self.state, State::UntilClose);
        if ends {
            self.state = State::Done;
        }
        ends
    }

    fn take_head(&mut self, section: &Bytes) -> Result<Part, Error> {
        let (status, version, mut fields) =
            parse_head(section).inspect_err(|_| self.faulty_field = faulty_field(section))?;
        let options = ConnectionOptions::read(&fields).ok_or(broken(TOO_MANY_NAMED))?;
        let framing = BodyFraming::of(status, version, self.to_head, &fields)?;
        if status.is_informational() {
            // RFC 9110 15.2.2: 101 accepts an upgrade, and none was requested.
            if status == StatusCode::SWITCHING_PROTOCOLS {
                return Err(broken("the upstream switches protocols without being asked"));
            }
            self.interim_count += 1;
            if self.interim_count > RESPONSE_INTERIM_COUNT_MAX {
                return Err(broken(TOO_MANY_INTERIM));
            }
            self.state = State::Head(Section::default());
            fields.retain(|(name, _)| name != CONTENT_LENGTH);
            let (content_length, ended) = (None, false);
            let head = ResponseHead { status, fields, options, content_length, ended };
            return Ok(Part::Interim(head));
        }
        let KeepAlive { timeout, is_last } = KeepAlive::read(&fields);
        let persists = options.persistence(version) == Persistence::KeepAlive && !is_last;
        self.keep_alive_timeout = timeout;
        self.keeps_alive = persists && framing != BodyFraming::UntilClose;
        self.state = match framing {
            BodyFraming::None | BodyFraming::Length(0) => State::Done,
            BodyFraming::Length(remaining) => State::Length { remaining },
            BodyFraming::Chunked => {
                State::Chunked(ChunkedDecoder::new(SizePadding::Accepted, self.head_len_max))
            }
            BodyFraming::UntilClose => State::UntilClose,
        };
        // RFC 9110 8.6: a 204 has no content-length. One that an origin sends is dropped.
        let may_have_length = status != StatusCode::NO_CONTENT;
        let content_length = content_length(&fields)?.filter(|_| may_have_length);
        normalize_length(&mut fields, content_length);
        let ended = self.is_done();
        Ok(Part::Head(ResponseHead { status, fields, options, content_length, ended }))
    }
}

/// The start of each response.
const TOO_MANY_INTERIM: &str = "the upstream sends more than 8 interim responses, a fixed bound";
const TOO_MANY_NAMED: &str =
    "the response's connection field names more than 32 fields, a fixed bound";

const PROTOCOL: &[u8] = b"HTTP/1.";

/// Refuses a response that is not HTTP/1.x at its first wrong byte, rather than when no line end
/// comes.
fn check_protocol(section: &Section, piece: &[u8]) -> Result<(), Error> {
    let expected = PROTOCOL.iter().skip(section.len());
    if expected.zip(piece).any(|(expected, byte)| expected != byte) {
        return Err(broken("the upstream does not answer in HTTP/1.x"));
    }
    Ok(())
}

/// How a response's body is delimited (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BodyFraming {
    None,
    Length(u64),
    Chunked,
    UntilClose,
}

impl BodyFraming {
    fn of(
        status: StatusCode,
        version: Version,
        to_head: bool,
        fields: &Fields,
    ) -> Result<Self, Error> {
        let length = content_length(fields)?;
        let chunked = is_chunked(fields)?;
        let never_has_body = status.is_informational() || status == StatusCode::NO_CONTENT;
        if chunked {
            // RFC 9112 6.1: faulty framing in each of these cases.
            if version == Version::Http10 {
                return Err(broken("an HTTP/1.0 answer is chunked"));
            }
            if length.is_some() {
                return Err(broken("the response says both content-length and transfer-encoding"));
            }
            if never_has_body {
                return Err(broken("a response that has no body says transfer-encoding"));
            }
        }
        if to_head || never_has_body || status == StatusCode::NOT_MODIFIED {
            return Ok(Self::None);
        }
        Ok(match (chunked, length) {
            (true, _) => Self::Chunked,
            (false, Some(len)) => Self::Length(len),
            (false, None) => Self::UntilClose,
        })
    }
}

/// Returns the one value of all `content-length` lines.
fn content_length(fields: &Fields) -> Result<Option<u64>, Error> {
    let mut length = None;
    for (_, value) in fields.iter().filter(|(name, _)| name == CONTENT_LENGTH) {
        let parsed = parse_content_length(value.as_bytes())
            .map_err(|_| broken("the response's content-length is not a number"))?;
        if length.is_some_and(|earlier| earlier != parsed) {
            return Err(broken("the response says two different content-lengths"));
        }
        length = Some(parsed);
    }
    Ok(length)
}

/// Reduces several equal `content-length` lines to one (RFC 9112 6.3, rule 5), without leading
/// zeros.
fn normalize_length(fields: &mut Fields, length: Option<u64>) {
    let mut is_kept = length.is_none();
    fields.retain(|(name, value)| {
        let has_usual_form = value.len() == 1 || !value.as_bytes().starts_with(b"0");
        name != CONTENT_LENGTH || has_usual_form && !std::mem::replace(&mut is_kept, true)
    });
    if let (Some(len), false) = (length, is_kept) {
        fields.push((CONTENT_LENGTH, HeaderValue::from(len)));
    }
}

/// Returns whether the body is chunked. Refuses any other coding: the request's TE offered none.
fn is_chunked(fields: &Fields) -> Result<bool, Error> {
    let mut codings = fields.iter().filter(|(name, _)| name == TRANSFER_ENCODING);
    match (codings.next(), codings.next()) {
        (None, _) => Ok(false),
        (Some((_, value)), None) if value.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(true),
        _ => Err(broken("the response's transfer-encoding is not chunked alone")),
    }
}
