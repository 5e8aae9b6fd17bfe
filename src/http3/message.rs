//! The parser of request heads and trailers from field sections (RFC 9114 4.1.2, 4.2, 4.3). The
//! lines are judged by the grammar that HTTP/2 shares, in [`crate::message`].

use http::header::{HeaderName, HeaderValue};

use super::LocalSettings;
use super::error::RequestError;
use super::qpack::static_table::EntryName;
use super::qpack::{self, Name, SectionReader, Value, ValueStart};
use crate::message::{
    Fields, Head, HeadLines, LOGGED_LEN_MAX, LoggedText, Pseudo, TrailerLines, Understood,
    check_blanks, check_token,
};

/// Reads the section of a request's head. If it cannot be accepted, the parts of it that were read
/// go to `understood`.
pub(super) fn read_head(
    section: &[u8],
    settings: &LocalSettings,
    understood: &mut Understood,
) -> Result<Head, RequestError> {
    let mut lines = HeadLines::new(settings);
    let head = read_lines(&mut lines, section, settings).and_then(|()| Ok(lines.finish()?));
    head.inspect_err(|_| *understood = lines.understood())
}

/// Returns the parts of a head that a log line can show, of the start of its section.
pub(super) fn understand(section_start: &[u8], settings: &LocalSettings) -> Understood {
    let mut lines = HeadLines::new(settings);
    // Where the start ends, it ends inside a line.
    let _cut = read_lines(&mut lines, section_start, settings);
    lines.understood()
}

/// Reads the section of a request's trailers.
pub(super) fn read_trailers(
    section: &[u8],
    settings: &LocalSettings,
) -> Result<Fields, RequestError> {
    let error = |error| RequestError::of_section(error, settings);
    let mut reader = SectionReader::new(section, settings.field_section_len_max).map_err(error)?;
    let mut lines = TrailerLines::new(settings);
    while let Some(line) = reader.next_line().map_err(error)? {
        let EntryName::Field(name) = entry_name(line.name)? else {
            // RFC 9114 4.3.
            return Err(RequestError::malformed("a pseudo-header field in trailers"));
        };
        lines.take_field(name, field_value(line.value, line.never_indexed)?)?;
    }
    Ok(lines.finish())
}

/// Parses the name of a line: a pseudo-header field, or a token without upper-case letters
/// (RFC 9110 5.1, RFC 9114 4.2).
fn entry_name(name: Name<'_>) -> Result<EntryName, RequestError> {
    match name {
        Name::Static(entry) => Ok(entry.name.clone()),
        Name::Literal(name) if name.first() == Some(&b':') => Pseudo::from_name(name)
            .map(EntryName::Pseudo)
            .ok_or(RequestError::malformed("an unknown pseudo-header field")),
        Name::Literal(name) => {
            let field = HeaderName::from_lowercase(name)
                .map_err(|_| RequestError::malformed("a field name that is no lower-case token"))?;
            check_token(&field)?;
            Ok(EntryName::Field(field))
        }
    }
}

/// Parses a field value: no control character except an inner tab, no surrounding whitespace
/// (RFC 9110 5.5, RFC 9114 10.3).
fn field_value(value: Value, never_indexed: bool) -> Result<HeaderValue, RequestError> {
    let mut value = match value {
        Value::Static(value) => value.clone(),
        Value::Literal(bytes) => {
            check_blanks(&bytes)?;
            HeaderValue::from_maybe_shared(bytes)
                .map_err(|_| RequestError::malformed("a field value with a control character"))?
        }
    };
    value.set_sensitive(never_indexed);
    Ok(value)
}

/// Reads lines into a head, as far as they can be read.
fn read_lines(
    lines: &mut HeadLines,
    section: &[u8],
    settings: &LocalSettings,
) -> Result<(), RequestError> {
    let error = |error| RequestError::of_section(error, settings);
    let mut reader = SectionReader::new(section, settings.field_section_len_max).map_err(error)?;
    loop {
        let rest = reader.rest();
        let line = reader.next_line().map_err(|cause| {
            if let Some(ValueStart { pseudo, start, cut_len }) =
                qpack::read_value_start(rest, LOGGED_LEN_MAX)
            {
                lines.note_cut(pseudo, LoggedText::of_start(&start, cut_len));
            }
            error(cause)
        })?;
        let Some(line) = line else { return Ok(()) };
        match entry_name(line.name)? {
            EntryName::Pseudo(pseudo) => lines.take_pseudo(pseudo, line.value.into_bytes())?,
            EntryName::Field(name) => {
                lines.take_field(name, field_value(line.value, line.never_indexed)?)?;
            }
        }
    }
}
