//! Head and trailer sections: finds a section's end, however its bytes are split into pieces, and
//! refuses line ends other than CRLF. Field lines have one grammar in both.

use std::mem::MaybeUninit;

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, StatusCode};
use memchr::memchr2;

use super::{Error, Version, broken};
use crate::limits::RESPONSE_FIELD_COUNT_MAX;
use crate::message::Fields;

pub(super) const TOO_MANY_FIELDS: Error =
    Error::Malformed("a section of the response has more than 128 fields, a fixed bound");

/// A section that is being received, up to and including its empty line.
#[derive(Debug, Default)]
pub(crate) struct Section {
    /// Bytes from earlier pieces.
    kept: BytesMut,
    /// The last byte seen was CR.
    after_cr: bool,
    /// Bytes of the current line, without its end.
    line_len: usize,
    /// Bytes seen.
    len: usize,
    /// Bytes of the lines that are complete.
    lines_len: usize,
}

impl Section {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes bytes from the front of `piece`, which is `Bytes` or `BytesMut`. Returns the whole
    /// section once its empty line has been received. A section within one piece is a slice of it.
    /// One that spans pieces is copied, so that a head that arrives in small pieces does not pin
    /// any of them.
    pub(crate) fn take(
        &mut self,
        piece: &mut impl Buf,
        len_max: usize,
    ) -> Result<Option<Bytes>, Error> {
        let room_len = len_max.saturating_sub(self.len);
        // Faults after the bound do not count, so that the verdict does not depend on the pieces.
        let bounded = &piece.chunk()[..room_len.min(piece.remaining())];
        let end = self.find_end(bounded)?;
        if end.is_none() && piece.remaining() > room_len {
            return Err(Error::TooLong);
        }
        let taken_len = end.unwrap_or(piece.remaining());
        self.len += taken_len;
        if end.is_some() && self.kept.is_empty() {
            return Ok(Some(piece.copy_to_bytes(taken_len)));
        }
        self.kept.extend_from_slice(&piece.chunk()[..taken_len]);
        piece.advance(taken_len);
        Ok(end.map(|_| std::mem::take(&mut self.kept).freeze()))
    }

    /// Returns the lines that are complete, of a section that was refused at a byte of `piece`.
    pub(crate) fn whole_lines(&self, piece: &[u8]) -> Vec<u8> {
        self.start(piece, self.lines_len)
    }

    /// Returns the first bytes of a section that was refused at a byte of `piece`.
    pub(crate) fn start(&self, piece: &[u8], len: usize) -> Vec<u8> {
        self.kept.iter().chain(piece).take(len).copied().collect()
    }

    /// Returns the index after the empty line's LF.
    fn find_end(&mut self, piece: &[u8]) -> Result<Option<usize>, Error> {
        let mut at = 0;
        while let Some(first) = piece.get(at) {
            if self.after_cr {
                match (first, self.line_len) {
                    (b'\n', 0) => return Ok(Some(at + 1)),
                    (b'\n', _) => {
                        (self.after_cr, self.line_len, at) = (false, 0, at + 1);
                        self.lines_len = self.len + at;
                    }
                    _ => return Err(broken("a CR within a line")),
                }
                continue;
            }
            let rest = &piece[at..];
            let line_len = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            match rest.get(line_len) {
                // RFC 9112 2.2 lets a receiver take a bare LF for a line end; we don't.
                Some(b'\n') => return Err(broken("a line that ends without CR")),
                found => self.after_cr = found.is_some(),
            }
            self.line_len += line_len;
            at += line_len + 1;
        }
        Ok(None)
    }
}

/// Returns status, version and fields of a complete head.
pub(crate) fn parse_head(section: &Bytes) -> Result<(StatusCode, Version, Fields), Error> {
    let mut lines = [const { MaybeUninit::uninit() }; RESPONSE_FIELD_COUNT_MAX];
    let mut response = httparse::Response::new(&mut []);
    let mut config = httparse::ParserConfig::default();
    // RFC 9112 5.1: a proxy removes white space before the colon from a response.
    config.allow_spaces_after_header_name_in_responses(true);
    match config.parse_response_with_uninit_headers(&mut response, section, &mut lines) {
        Ok(httparse::Status::Complete(len)) if len == section.len() => {}
        Err(httparse::Error::TooManyHeaders) => {
            return Err(TOO_MANY_FIELDS);
        }
        Err(httparse::Error::HeaderName) => {
            return Err(broken("a field line of the response has no good name, or is folded"));
        }
        Err(httparse::Error::HeaderValue) => {
            return Err(broken("a field value of the response is malformed"));
        }
        Ok(_) | Err(_) => return Err(broken("the response's head is malformed")),
    }
    let (Some(code), Some(version)) = (response.code, response.version) else {
        return Err(broken("the response's head is malformed"));
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    // RFC 9110 15: a status has three digits and is 100 at least. One over 599 is invalid, but a
    // client knows what to do with it: it takes it for a 5xx.
    let status = StatusCode::from_u16(code);
    let status = status.map_err(|_| broken("the response's status is below 100"))?;
    Ok((status, version, fields_of(section, response.headers)?))
}

/// Parses a trailer section, its empty line included. Trailers are few and rare, so they are copied
/// behind a status line: then the parser is the one of heads.
pub(crate) fn parse_trailers(section: &Bytes) -> Result<Fields, Error> {
    let head = Bytes::from([b"HTTP/1.1 200\r\n", &section[..]].concat());
    match parse_head(&head) {
        Ok((_, _, fields)) => Ok(fields),
        Err(error) if error == TOO_MANY_FIELDS => Err(error),
        Err(_) => Err(broken("the response's trailer section is malformed")),
    }
}

/// Returns the start of the name of the first malformed field line in a head, or of the line if it
/// has no colon.
pub(crate) fn faulty_field(section: &[u8]) -> Option<Bytes> {
    let lines = section.split(|byte| *byte == b'\n').skip(1);
    let mut lines = lines.map(|line| line.strip_suffix(b"\r").unwrap_or(line)).peekable();
    while let Some(line) = lines.next().filter(|line| !line.is_empty()) {
        let (name, value) = match line.iter().position(|byte| *byte == b':') {
            Some(colon) => (line[..colon].trim_ascii_end(), Some(line[colon + 1..].trim_ascii())),
            None => (line, None),
        };
        let next = lines.peek().and_then(|next| next.first());
        let is_folded = matches!(next, Some(b' ' | b'\t'));
        let is_good = HeaderName::from_bytes(name).is_ok()
            && value.is_some_and(|value| HeaderValue::from_bytes(value).is_ok());
        if !is_good || is_folded {
            return Some(Bytes::copy_from_slice(&name[..name.len().min(FAULTY_NAME_LEN_MAX)]));
        }
    }
    None
}

/// Bytes of a faulty field's name that are logged: names are shorter, and a line without a colon
/// may be anything.
const FAULTY_NAME_LEN_MAX: usize = 64;

/// Converts parsed field lines into fields whose values are slices of `section`. Reserves capacity
/// for one more, since the proxy adds `via`.
fn fields_of(section: &Bytes, lines: &[httparse::Header<'_>]) -> Result<Fields, Error> {
    let mut fields = Fields::with_capacity(lines.len() + 1);
    for line in lines {
        let name = HeaderName::from_bytes(line.name.as_bytes())
            .map_err(|_| broken("a field name of the response is malformed"))?;
        let value = if line.value.is_empty() {
            HeaderValue::from_static("")
        } else {
            HeaderValue::from_maybe_shared(section.slice_ref(line.value))
                .map_err(|_| broken("a field value of the response is malformed"))?
        };
        fields.push((name, value));
    }
    Ok(fields)
}
