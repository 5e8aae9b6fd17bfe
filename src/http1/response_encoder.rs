//! The encoder of responses to clients (RFC 9112 4, 6, 7).

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, StatusCode, header};

use super::chunked::{CHUNK_END, last_chunk, size_line};
use super::request_head::put_field;
use super::{Persistence, Version};
use crate::message::{Fields, is_connection_specific};

/// The encoder of the response to one request, and of the interim responses before it.
///
/// Payload is never copied: heads and the lines of chunks are small pieces of their own around the
/// caller's pieces.
///
/// A response that breaks off must not look complete, so the caller does not [`end`](Self::end) it
/// and closes the connection: the client then misses bytes or the last chunk (RFC 9112 8). One that
/// [is delimited by the close](Self::ends_with_connection) needs a reset instead.
#[derive(Debug)]
pub struct ResponseEncoder {
    version: Version,
    /// The request was HEAD: the response has no content, whatever its head says.
    to_head: bool,
    state: State,
}

/// The progress of the response, by how its content is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// The final head is still to come.
    Head,
    /// There is no content; pieces of it are dropped.
    NoContent,
    Length {
        remaining: u64,
    },
    Chunked,
    UntilClose,
    Done,
}

impl ResponseEncoder {
    /// Creates the encoder of the response to a request with this version and method.
    pub fn new(version: Version, method: &Method) -> Self {
        Self { version, to_head: *method == Method::HEAD, state: State::Head }
    }

    /// Appends an interim response (1xx other than 101). HTTP/1.0 has none, so a client of that
    /// version is sent nothing (RFC 9110 15.2).
    pub fn interim(&self, status: StatusCode, fields: &Fields, out: &mut Vec<Bytes>) {
        assert_eq!(self.state, State::Head, "interim responses precede the final one");
        assert!(status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS);
        if self.version == Version::Http11 {
            let mut head = head_of(status, fields);
            head.put_slice(b"\r\n");
            out.push(head.freeze());
        }
    }

    /// Appends the head of the final response. The caller has removed connection-specific fields;
    /// the one `content-length` that is sent is written from the argument. Returns whether the
    /// connection persists. It does not if only its close can delimit the content, for a client of
    /// HTTP/1.0.
    pub fn begin(
        &mut self,
        status: StatusCode,
        fields: &Fields,
        content_length: Option<u64>,
        persistence: Persistence,
        out: &mut Vec<Bytes>,
    ) -> Persistence {
        assert_eq!(self.state, State::Head, "a response has one head");
        assert!(!status.is_informational(), "an interim response is none");
        self.state = self.framing(status, content_length);
        let persistence = match self.state {
            State::UntilClose => Persistence::Close,
            _ => persistence,
        };
        let mut head = head_of(status, fields);
        // RFC 9110 8.6: a 204 has no content-length. In responses to HEAD, and in a 304, it is that
        // of the content that is left out.
        if let Some(len) = content_length.filter(|_| status != StatusCode::NO_CONTENT) {
            put_field(&mut head, "content-length", len.to_string().as_bytes());
        }
        if self.state == State::Chunked {
            put_field(&mut head, "transfer-encoding", b"chunked");
        }
        match (persistence, self.version) {
            (Persistence::Close, _) => put_field(&mut head, "connection", b"close"),
            (Persistence::KeepAlive, Version::Http10) => {
                put_field(&mut head, "connection", b"keep-alive");
            }
            (Persistence::KeepAlive, Version::Http11) => {}
        }
        head.put_slice(b"\r\n");
        out.push(head.freeze());
        persistence
    }

    /// Appends a piece of the content, not empty. Pieces of a response that has none (to HEAD, 204,
    /// 304) are dropped.
    ///
    /// # Panics
    ///
    /// If the content becomes longer than its content-length.
    pub fn body(&mut self, piece: Bytes, out: &mut Vec<Bytes>) {
        match &mut self.state {
            State::NoContent => {}
            State::Length { remaining } => {
                let left = remaining.checked_sub(piece.len() as u64);
                *remaining = left.expect("content is not longer than its content-length");
                out.push(piece);
            }
            State::Chunked => out.extend([size_line(piece.len()), piece, CHUNK_END]),
            State::UntilClose => out.push(piece),
            State::Head | State::Done => panic!("content outside of a response"),
        }
    }

    /// Appends the end of the response. Trailers are left out where the content is not chunked:
    /// there is no place for them (RFC 9112 7.1.2).
    ///
    /// # Panics
    ///
    /// If the content is shorter than its content-length.
    pub fn end(&mut self, trailers: Option<&Fields>, out: &mut Vec<Bytes>) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::NoContent | State::UntilClose => {}
            State::Length { remaining } => {
                assert_eq!(remaining, 0, "a response that breaks off is not ended");
            }
            State::Chunked => out.push(last_chunk(trailers)),
            State::Head | State::Done => panic!("the end of no response"),
        }
    }

    /// Returns whether the response is complete.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Returns whether the close of the connection would make the response look complete. If it
    /// breaks off, the connection has to be reset.
    pub fn ends_with_connection(&self) -> bool {
        self.state == State::UntilClose
    }

    /// Returns whether a final response with this status has content, which may be empty. Without,
    /// a content-length would be that of the content that is left out (RFC 9110 8.6).
    pub fn has_content(&self, status: StatusCode) -> bool {
        !self.to_head && !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
    }

    /// Returns how the content is delimited (RFC 9112 6.3).
    fn framing(&self, status: StatusCode, content_length: Option<u64>) -> State {
        match (content_length, self.version) {
            _ if !self.has_content(status) => State::NoContent,
            (Some(remaining), _) => State::Length { remaining },
            (None, Version::Http11) => State::Chunked,
            (None, Version::Http10) => State::UntilClose,
        }
    }
}

/// Returns status line and fields, without `content-length` and the empty line.
fn head_of(status: StatusCode, fields: &Fields) -> BytesMut {
    let line_len = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        name.as_str().len() + value.len() + b": \r\n".len()
    };
    let fields_len: usize = fields.iter().map(line_len).sum();
    let mut out = BytesMut::with_capacity(fields_len + OWN_LINES_LEN);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(status.as_str().as_bytes());
    // RFC 9112 4: the space stays, even without a reason phrase.
    out.put_u8(b' ');
    out.put_slice(status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    for (name, value) in fields {
        debug_assert!(
            !is_connection_specific(name),
            "{name} is connection-specific and was to be removed"
        );
        if name != header::CONTENT_LENGTH {
            put_field(&mut out, name.as_str(), value.as_bytes());
        }
    }
    out
}

/// Room for status line, framing, `connection` and the empty line.
const OWN_LINES_LEN: usize = 160;
