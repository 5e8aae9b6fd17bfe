//! Head and trailer sections: finds a section's end, however its bytes are split into pieces, and
//! refuses line ends other than CRLF.

use bytes::{Buf as _, Bytes, BytesMut};
use http::{HeaderName, HeaderValue};
use memchr::memchr2;

use super::{Error, broken};
use crate::limits::RESPONSE_FIELD_COUNT_MAX;
use crate::message::Fields;

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
}

impl Section {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Takes bytes from the front of `piece`. Returns the whole section once its empty line has
    /// been received. A section within one piece is a slice of it. One that spans pieces is
    /// copied, so that a head that arrives in small pieces does not pin any of them.
    pub(crate) fn take(
        &mut self,
        piece: &mut BytesMut,
        len_max: usize,
    ) -> Result<Option<Bytes>, Error> {
        let end = self.find_end(piece)?;
        let taken_len = end.unwrap_or(piece.len());
        if self.len + taken_len > len_max {
            return Err(Error::TooLong);
        }
        self.len += taken_len;
        if end.is_some() && self.kept.is_empty() {
            return Ok(Some(piece.split_to(taken_len).freeze()));
        }
        self.kept.extend_from_slice(&piece[..taken_len]);
        piece.advance(taken_len);
        Ok(end.map(|_| std::mem::take(&mut self.kept).freeze()))
    }

    /// Returns the index after the empty line's LF.
    fn find_end(&mut self, piece: &[u8]) -> Result<Option<usize>, Error> {
        let mut at = 0;
        while let Some(first) = piece.get(at) {
            if self.after_cr {
                match (first, self.line_len) {
                    (b'\n', 0) => return Ok(Some(at + 1)),
                    (b'\n', _) => (self.after_cr, self.line_len, at) = (false, 0, at + 1),
                    _ => return Err(broken("the response holds a CR within a line")),
                }
                continue;
            }
            let rest = &piece[at..];
            let line_len = memchr2(b'\r', b'\n', rest).unwrap_or(rest.len());
            match rest.get(line_len) {
                // RFC 9112 2.2 lets a receiver take a bare LF for a line end; we don't.
                Some(b'\n') => return Err(broken("a line of the response ends without CR")),
                found => self.after_cr = found.is_some(),
            }
            self.line_len += line_len;
            at += line_len + 1;
        }
        Ok(None)
    }
}

/// Converts parsed field lines into fields whose values are slices of `section`. Reserves capacity
/// for one more, since the proxy adds `via`.
pub(crate) fn fields_of(section: &Bytes, lines: &[httparse::Header<'_>]) -> Result<Fields, Error> {
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

/// Parses a trailer section, its empty line included.
pub(crate) fn parse_trailers(section: &Bytes) -> Result<Fields, Error> {
    let mut lines = [httparse::EMPTY_HEADER; RESPONSE_FIELD_COUNT_MAX];
    match httparse::parse_headers(section, &mut lines) {
        Ok(httparse::Status::Complete((len, lines))) if len == section.len() => {
            fields_of(section, lines)
        }
        _ => Err(broken("the response's trailer section is malformed")),
    }
}
