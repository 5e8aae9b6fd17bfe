//! Request heads and trailers, from `h2`'s types to ours.
//!
//! `h2` has parsed pseudo-header fields into a URI. Four things of the bytes are lost there: a
//! fragment of `:path`, which it cuts off; the scheme of a request without `:authority`, which is
//! taken for `https`; the order of fields of different names; and that a field is never to be
//! indexed.

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Method};

use super::LocalSettings;
use crate::message::{
    FieldError, Fields, Head, HeadLines, Pseudo, Refusal, TrailerLines, Understood, check_blanks,
    check_token,
};

/// Reads a request's head. An error has the parts of it that a log line can show.
pub(super) fn read_head(
    parts: Parts,
    settings: &LocalSettings,
) -> Result<Head, Box<(FieldError, Understood)>> {
    let mut lines = HeadLines::new(settings.field_count_max);
    let head = read_lines(parts, &mut lines, settings).and_then(|()| lines.finish());
    head.map_err(|error| Box::new((error, lines.understood())))
}

fn read_lines(
    parts: Parts,
    lines: &mut HeadLines,
    settings: &LocalSettings,
) -> Result<(), FieldError> {
    let mut section = SectionLength::new(settings);
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
    let mut lines = TrailerLines::new(settings.field_count_max);
    let mut section = SectionLength::new(settings);
    for_each_field(fields, &mut section, |name, value| lines.take_field(name, value))?;
    Ok(lines.finish())
}

/// Returns the fields of a response, or `None` if there are more than `h2` can take.
pub(super) fn field_map(fields: Fields) -> Option<HeaderMap> {
    let mut map = HeaderMap::with_capacity(fields.len());
    for (name, value) in fields {
        debug_assert!(
            !crate::message::is_connection_specific(&name),
            "{name} is connection-specific and was to be removed"
        );
        map.try_append(name, value).ok()?;
    }
    Some(map)
}

fn for_each_field(
    fields: HeaderMap,
    section: &mut SectionLength,
    mut take: impl FnMut(http::HeaderName, http::HeaderValue) -> Result<(), FieldError>,
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
struct SectionLength {
    max: u32,
    left: usize,
}

impl SectionLength {
    fn new(settings: &LocalSettings) -> Self {
        let max = settings.field_section_len_max;
        Self { max, left: max as usize }
    }

    fn add(&mut self, name: &str, value: impl AsRef<[u8]>) -> Result<(), FieldError> {
        // RFC 9113 6.5.2.
        const LINE_OVERHEAD_LEN: usize = 32;
        let len = name.len() + value.as_ref().len() + LINE_OVERHEAD_LEN;
        let left = self.left.checked_sub(len);
        let too_long = || FieldError::Refused(Box::new(Refusal::fields_too_long(self.max)));
        self.left = left.ok_or_else(too_long)?;
        Ok(())
    }
}
