//! The parser of request heads and trailers from field sections (RFC 9114 4.1.2, 4.2, 4.3; RFC
//! 9110 5).
//!
//! There are two kinds of refusal. A message that is malformed by RFC 9114 is a stream error,
//! H3_MESSAGE_ERROR. A value that is invalid in HTTP itself (a port of 99999, a path with a
//! fragment, `content-length: +5`) gets a 400 response.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use http::method::Method;

use super::LocalSettings;
use super::error::RequestError;
use super::qpack::static_table::{EntryName, Pseudo};
use super::qpack::{Name, SectionReader, Value};
use crate::message::{
    Authority, BrokenRule, FieldCount, Fields, Head, Refusal, Scheme, Target, Understood,
    belongs_to_head, check_field_name, check_method_case, is_connection_specific,
    parse_content_length,
};

/// Reads the section of a request's head. If it cannot be accepted, the parts of it that were read
/// go to `understood`.
pub(super) fn read_head(
    section: &[u8],
    settings: &LocalSettings,
    understood: &mut Understood,
) -> Result<Head, RequestError> {
    let mut lines = HeadLines::default();
    match lines.read(section, settings).and_then(|()| lines.take_target()) {
        Ok((method, target)) => {
            let HeadLines { fields, content_length, .. } = lines;
            Ok(Head { method, target, fields, content_length })
        }
        Err(error) => {
            *understood = lines.understood();
            Err(error)
        }
    }
}

/// Returns the parts of a head that a log line can show, of the start of its section.
pub(super) fn understand(section_start: &[u8], settings: &LocalSettings) -> Understood {
    let mut lines = HeadLines::default();
    // Where the start ends, it ends inside a line.
    let _cut = lines.read(section_start, settings);
    lines.understood()
}

/// Reads the section of a request's trailers.
pub(super) fn read_trailers(
    section: &[u8],
    settings: &LocalSettings,
) -> Result<Fields, RequestError> {
    let error = |error| RequestError::of_section(error, settings);
    let mut reader = SectionReader::new(section, settings.field_section_len_max).map_err(error)?;
    let mut count = FieldCount::new(settings);
    let mut fields = Fields::new();
    while let Some(line) = reader.next_line().map_err(error)? {
        let EntryName::Field(name) = entry_name(line.name)? else {
            // RFC 9114 4.3.
            return Err(RequestError::malformed("a pseudo-header field in trailers"));
        };
        let value = field_value(line.value, line.never_indexed)?;
        count.add(&name).map_err(|excess| RequestError::too_large(excess, settings))?;
        check_connection_specific(&name, &value)?;
        check_field_name(&name)?;
        if belongs_to_head(&name) {
            return Err(RequestError::malformed("a field in trailers that belongs to the head"));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

/// Parses the name of a line: a pseudo-header field, or a token without upper-case letters
/// (RFC 9110 5.1, RFC 9114 4.2).
fn entry_name(name: Name<'_>) -> Result<EntryName, RequestError> {
    match name {
        Name::Static(entry) => Ok(entry.name.clone()),
        Name::Literal(name) if name.first() == Some(&b':') => Pseudo::from_name(name)
            .map(EntryName::Pseudo)
            .ok_or(RequestError::malformed("an unknown pseudo-header field")),
        // `from_lowercase` accepts '"', which a token cannot contain.
        Name::Literal(name) => match HeaderName::from_lowercase(name) {
            Ok(field) if !name.contains(&b'"') => Ok(EntryName::Field(field)),
            _ => Err(RequestError::malformed("a field name that is no lower-case token")),
        },
    }
}

/// Parses a field value: no control character except an inner tab, no surrounding whitespace
/// (RFC 9110 5.5, RFC 9114 10.3).
fn field_value(value: Value, never_indexed: bool) -> Result<HeaderValue, RequestError> {
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    let mut value = match value {
        Value::Static(value) => value.clone(),
        Value::Literal(bytes) if is_blank(bytes.first()) || is_blank(bytes.last()) => {
            return Err(RequestError::malformed("a field value with whitespace around it"));
        }
        Value::Literal(bytes) => HeaderValue::from_maybe_shared(bytes)
            .map_err(|_| RequestError::malformed("a field value with a control character"))?,
    };
    value.set_sensitive(never_indexed);
    Ok(value)
}

fn check_connection_specific(name: &HeaderName, value: &HeaderValue) -> Result<(), RequestError> {
    if is_connection_specific(name) {
        return Err(RequestError::malformed("a connection-specific field"));
    }
    if *name == header::TE && value != "trailers" {
        return Err(RequestError::malformed("te with something other than trailers"));
    }
    Ok(())
}

/// A request's head while its lines are read.
#[derive(Default)]
struct HeadLines {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    host: Option<HeaderValue>,
    content_length: Option<u64>,
    /// A regular field has been read, so no pseudo-header field may follow.
    fields_began: bool,
    fields: Fields,
}

impl HeadLines {
    fn read(&mut self, section: &[u8], settings: &LocalSettings) -> Result<(), RequestError> {
        let error = |error| RequestError::of_section(error, settings);
        let mut reader =
            SectionReader::new(section, settings.field_section_len_max).map_err(error)?;
        let mut count = FieldCount::new(settings);
        while let Some(line) = reader.next_line().map_err(error)? {
            match entry_name(line.name)? {
                EntryName::Pseudo(pseudo) => self.take_pseudo(pseudo, line.value.into_bytes())?,
                EntryName::Field(name) => {
                    count.add(&name).map_err(|excess| RequestError::too_large(excess, settings))?;
                    self.take_field(name, field_value(line.value, line.never_indexed)?)?;
                }
            }
        }
        Ok(())
    }

    fn take_pseudo(&mut self, pseudo: Pseudo, value: Bytes) -> Result<(), RequestError> {
        if self.fields_began {
            return Err(RequestError::malformed("a pseudo-header field behind other fields"));
        }
        let place = match pseudo {
            Pseudo::Method => &mut self.method,
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Path => &mut self.path,
            Pseudo::Status => return Err(RequestError::malformed(":status in a request")),
        };
        if place.is_some() {
            return Err(RequestError::malformed("a pseudo-header field that occurs twice"));
        }
        *place = Some(value);
        Ok(())
    }

    fn take_field(&mut self, name: HeaderName, value: HeaderValue) -> Result<(), RequestError> {
        if !self.fields_began {
            self.fields_began = true;
            self.fields.reserve(16);
        }
        check_connection_specific(&name, &value)?;
        check_field_name(&name)?;
        if name == header::HOST {
            if self.host.is_some() {
                return Err(BrokenRule("host occurs twice").into());
            }
            self.host = Some(value);
        } else if name == header::CONTENT_LENGTH {
            let len = parse_content_length(value.as_bytes())?;
            // RFC 9110 8.6: repeating the same length is not a conflict.
            if self.content_length.is_some_and(|before| before != len) {
                return Err(RequestError::malformed("two values of content-length"));
            }
            self.content_length = Some(len);
        } else {
            self.fields.push((name, value));
        }
        Ok(())
    }

    /// Validates the lines together, and returns method and target.
    fn take_target(&self) -> Result<(Method, Target), RequestError> {
        let method = self.method.as_ref().ok_or(RequestError::malformed("no :method"))?;
        let method = Method::from_bytes(method)
            .map_err(|_| RequestError::malformed(":method is no token"))?;
        check_method_case(&method)?;
        let authority = self.authority()?;
        if method == Method::CONNECT {
            return Ok((method, self.connect_target(authority)?));
        }
        let scheme = self.scheme.as_ref().ok_or(RequestError::malformed("no :scheme"))?;
        let scheme = Scheme::parse(scheme)?;
        let path = self.path.as_ref().ok_or(RequestError::malformed("no :path"))?;
        if path.is_empty() {
            // RFC 9114 4.3.1.
            return Err(RequestError::malformed(":path is empty"));
        }
        let for_options = method == Method::OPTIONS;
        let target = Target::parse(scheme, authority, path.clone(), for_options)?;
        Ok((method, target))
    }

    /// Returns the target of a CONNECT (RFC 9114 4.4).
    fn connect_target(&self, authority: Authority) -> Result<Target, RequestError> {
        if self.scheme.is_some() || self.path.is_some() {
            return Err(RequestError::malformed(":scheme or :path with CONNECT"));
        }
        if self.authority.is_none() {
            return Err(RequestError::malformed("CONNECT without :authority"));
        }
        // RFC 9110 9.3.6: the target has a host and a port; the request has no content.
        if authority.port().is_none() {
            return Err(BrokenRule("CONNECT without a port").into());
        }
        if self.content_length.is_some() {
            return Err(BrokenRule("content-length with CONNECT").into());
        }
        Ok(Target::Connect { authority })
    }

    /// Returns the authority from `:authority` or `host`; both must be equal if both are present
    /// (RFC 9114 4.3.1).
    fn authority(&self) -> Result<Authority, RequestError> {
        let host = self.host.as_ref().map(HeaderValue::as_bytes);
        let bytes = match (&self.authority, host) {
            (None, None) => return Err(RequestError::malformed("neither :authority nor host")),
            (Some(authority), Some(host)) if authority != host => {
                return Err(RequestError::malformed(":authority and host differ"));
            }
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => Bytes::copy_from_slice(host),
        };
        if bytes.is_empty() {
            return Err(RequestError::malformed("an empty authority"));
        }
        Ok(Authority::parse(bytes)?)
    }

    /// Returns the parts of a refused head that a log line can show.
    fn understood(self) -> Understood {
        let host = self.host.as_ref().map(HeaderValue::as_bytes);
        Understood::new(
            self.method.and_then(|method| Method::from_bytes(&method).ok()),
            self.authority.as_deref().or(host),
            self.path.as_deref(),
        )
    }
}

impl From<BrokenRule> for RequestError {
    fn from(BrokenRule(rule): BrokenRule) -> Self {
        Self::Refused(Box::new(Refusal::new(StatusCode::BAD_REQUEST, rule)))
    }
}
