//! Request heads and trailers, from `h2`'s types to ours.
//!
//! `h2` has parsed pseudo-header fields into a URI. Four things of the bytes are lost there: a
//! fragment of `:path`, which it cuts off; the scheme of a request without `:authority`, which is
//! taken for `https`; the order of fields of different names; and that a field is never to be
//! indexed.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use super::LocalSettings;
use crate::message::{
    Excess, FieldError, FieldLimits, Fields, Head, HeadLines, LINE_OVERHEAD_LEN, Pseudo, Refusal,
    TrailerLines, Understood, check_blanks, check_token, owned_value,
};

/// Reads a request's head. An error has the parts of it that a log line can show.
pub(super) fn read_head(
    parts: Parts,
    settings: &LocalSettings,
) -> Result<Head, Box<(FieldError, Understood)>> {
    let mut lines = HeadLines::new(&settings.fields);
    let head = read_lines(parts, &mut lines, settings).and_then(|()| lines.finish());
    head.map_err(|error| Box::new((error, lines.understood())))
}

fn read_lines(
    parts: Parts,
    lines: &mut HeadLines,
    settings: &LocalSettings,
) -> Result<(), FieldError> {
    let mut section = SectionLength::new(&settings.fields);
    let uri = parts.uri.into_parts();
    section.add(":method", parts.method.as_str())?;
    // `h2` has required a scheme of every request but CONNECT.
    if parts.method != Method::CONNECT {
        let scheme = uri.scheme.as_ref().map_or("https", http::uri::Scheme::as_str);
        section.add(":scheme", scheme)?;
        lines.take_pseudo(Pseudo::Scheme, Bytes::copy_from_slice(scheme.as_bytes()))?;
    }
    lines.take_method(parts.method)?;
    if let Some(authority) = &uri.authority {
        section.add(":authority", authority.as_str())?;
        let authority = Bytes::copy_from_slice(authority.as_str().as_bytes());
        lines.take_pseudo(Pseudo::Authority, authority)?;
    }
    if let Some(path) = &uri.path_and_query {
        section.add(":path", path.as_str())?;
        lines.take_pseudo(Pseudo::Path, Bytes::copy_from_slice(path.as_str().as_bytes()))?;
    }
    for_each_field(parts.headers, &mut section, |name, value| lines.take_field(name, value))
}

/// Reads a request's trailers.
pub(super) fn read_trailers(
    fields: HeaderMap,
    settings: &LocalSettings,
) -> Result<Fields, FieldError> {
    let mut lines = TrailerLines::new(&settings.fields);
    let mut section = SectionLength::new(&settings.fields);
    for_each_field(fields, &mut section, |name, value| lines.take_field(name, value))?;
    Ok(lines.finish())
}

/// Returns the fields of a response, or `None` if there are more than `h2` can take.
///
/// Values are copied: `h2` keeps them in its compression table (RFC 7541 2.3.2) for as long as the
/// connection is open, and one that lies in a slot of the pool would pin the slot.
pub(super) fn field_map(fields: Fields) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        debug_assert!(
            !crate::message::is_connection_specific(&name),
            "{name} is connection-specific and was to be removed"
        );
        map.try_append(name, owned_value(&value)).ok()?;
    }
    Some(map)
}

fn for_each_field(
    fields: HeaderMap,
    section: &mut SectionLength,
    mut take: impl FnMut(HeaderName, HeaderValue) -> Result<(), FieldError>,
) -> Result<(), FieldError> {
    // The map names a field once, with the first of its values.
    let mut last_name = None;
    for (name, value) in fields {
        last_name = name.or(last_name);
        let name = last_name.clone().expect("the first field has a name");
        section.add(name.as_str(), &value)?;
        check_token(&name)?;
        check_blanks(value.as_bytes())?;
        take(name, value)?;
    }
    Ok(())
}

/// The length of a section, which has a limit.
struct SectionLength<'a> {
    limits: &'a FieldLimits,
    left: u64,
}

impl<'a> SectionLength<'a> {
    fn new(limits: &'a FieldLimits) -> Self {
        Self { limits, left: limits.field_section_len_max.into() }
    }

    fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), FieldError> {
        let len = (name.len() + value.as_ref().len()) as u64 + LINE_OVERHEAD_LEN;
        let left = self.left.checked_sub(len);
        let too_long = || Refusal::too_large(Excess::Length, self.limits);
        self.left = left.ok_or_else(|| FieldError::Refused(Box::new(too_long())))?;
        Ok(())
    }
}
