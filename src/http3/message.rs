//! What a field section means: request heads and trailers, malformed ones refused (RFC 9114 4.1.2,
//! 4.2, 4.3; RFC 9110 5).
//!
//! Two kinds of refusal. What RFC 9114 calls malformed is a stream error, H3_MESSAGE_ERROR. What
//! HTTP itself refuses (a port of 99999, a path with a fragment, `content-length: +5`) is a
//! request to be answered with 400.

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::method::Method;

use super::error::{Code, RequestError};
use super::qpack::static_table::{EntryName, Pseudo};
use super::qpack::{Line, Name, SectionError, SectionReader, Value};
use super::target::{self, AsciiText, Scheme};
use super::{Fields, LocalSettings};

/// The head of a request.
///
/// It says each thing once. `host` is not among the fields: [`authority`](Self::authority) holds
/// it, whichever of `:authority` and `host` the client sent. Neither is `content-length`:
/// [`content_length`](Self::content_length) holds it, and the body was or will be held against it.
#[derive(Debug, Clone, PartialEq)]
pub struct RequestHead {
    /// `:method`
    pub method: Method,
    /// `:scheme`; `None` for CONNECT only.
    pub scheme: Option<Scheme>,
    /// Host and perhaps port, in the case it came.
    pub authority: AsciiText,
    /// Path and query, byte for byte: starts with `/`, or is `*` for OPTIONS. `None` for CONNECT
    /// only.
    pub path: Option<AsciiText>,
    /// The other fields, in order, `cookie` lines as they came. None is connection-specific;
    /// `te`, where it is present, is `trailers`.
    pub fields: Fields,
    /// Length of the body, where the client told it.
    pub content_length: Option<u64>,
}

/// Reads the section of a request's head.
pub(super) fn read_head(
    section: &[u8],
    settings: &LocalSettings,
) -> Result<RequestHead, RequestError> {
    let mut reader =
        SectionReader::new(section, settings.field_section_len_max, settings.field_count_max)?;
    let mut head = Head::default();
    while let Some(line) = reader.next_line()? {
        match classify(line)? {
            Classified::Pseudo(pseudo, value) => head.take_pseudo(pseudo, value)?,
            Classified::Field(name, value) => head.take_field(name, value)?,
        }
    }
    head.finish()
}

/// Reads the section of a request's trailers.
pub(super) fn read_trailers(
    section: &[u8],
    settings: &LocalSettings,
) -> Result<Fields, RequestError> {
    let mut reader =
        SectionReader::new(section, settings.field_section_len_max, settings.field_count_max)?;
    let mut fields = Fields::new();
    while let Some(line) = reader.next_line()? {
        let (name, value) = match classify(line)? {
            // RFC 9114 4.3.
            Classified::Pseudo(..) => {
                return Err(RequestError::malformed("a pseudo-header field in trailers"));
            }
            Classified::Field(name, value) => (name, value),
        };
        check_connection_specific(&name, &value)?;
        // RFC 9110 6.5.1: fields of framing and routing cannot come after what they govern.
        if [header::CONTENT_LENGTH, header::HOST, header::TE].contains(&name) {
            return Err(RequestError::malformed("a field in trailers that belongs to the head"));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

/// RFC 9114 4.2: fields of one hop of HTTP/1.1, which have no place here.
pub(super) fn is_connection_specific(name: &HeaderName) -> bool {
    // Standard names are compared by number; the two others by bytes.
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::UPGRADE
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

enum Classified {
    Pseudo(Pseudo, Bytes),
    Field(HeaderName, HeaderValue),
}

/// Sorts a line by its name and holds name and value against the syntax of RFC 9110 5.1, 5.5.
fn classify(line: Line<'_>) -> Result<Classified, RequestError> {
    let name = match line.name {
        Name::Static(entry) => match &entry.name {
            EntryName::Pseudo(pseudo) => {
                return Ok(Classified::Pseudo(*pseudo, line.value.into_bytes()));
            }
            EntryName::Field(name) => name.clone(),
        },
        Name::Literal(name) if name.first() == Some(&b':') => {
            let pseudo = pseudo_from_bytes(name)
                .ok_or(RequestError::malformed("an unknown pseudo-header field"))?;
            return Ok(Classified::Pseudo(pseudo, line.value.into_bytes()));
        }
        Name::Literal(name) => field_name(name)?,
    };
    let mut value = match line.value {
        Value::Static(value) => value.clone(),
        Value::Literal(bytes) => field_value(bytes)?,
    };
    value.set_sensitive(line.never_indexed);
    Ok(Classified::Field(name, value))
}

fn pseudo_from_bytes(name: &[u8]) -> Option<Pseudo> {
    [Pseudo::Authority, Pseudo::Method, Pseudo::Path, Pseudo::Scheme, Pseudo::Status]
        .into_iter()
        .find(|pseudo| pseudo.as_str().as_bytes() == name)
}

/// RFC 9110 5.1, RFC 9114 4.2: a token without upper-case letters. `from_lowercase` lets '"'
/// pass, which no token holds.
fn field_name(name: &[u8]) -> Result<HeaderName, RequestError> {
    match HeaderName::from_lowercase(name) {
        Ok(field) if !name.contains(&b'"') => Ok(field),
        _ => Err(RequestError::malformed("a field name that is no lower-case token")),
    }
}

/// RFC 9110 5.5, RFC 9114 10.3: no control character but a tab inside, no whitespace around.
fn field_value(bytes: Bytes) -> Result<HeaderValue, RequestError> {
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if is_blank(bytes.first()) || is_blank(bytes.last()) {
        return Err(RequestError::malformed("a field value with whitespace around it"));
    }
    HeaderValue::from_maybe_shared(bytes)
        .map_err(|_| RequestError::malformed("a field value with a control character"))
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

/// A request's head while its lines come in.
#[derive(Default)]
struct Head {
    method: Option<Bytes>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    host: Option<HeaderValue>,
    content_length: Option<u64>,
    /// Whether a line that is no pseudo-header field has come.
    fields_began: bool,
    fields: Fields,
}

impl Head {
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
        if name == header::HOST {
            if self.host.is_some() {
                return Err(RequestError::BadRequest { rule: "host occurs twice" });
            }
            self.host = Some(value);
        } else if name == header::CONTENT_LENGTH {
            let len = content_length(value.as_bytes())?;
            // RFC 9110 8.6: the same length said again is no conflict.
            if self.content_length.is_some_and(|before| before != len) {
                return Err(RequestError::malformed("two values of content-length"));
            }
            self.content_length = Some(len);
        } else {
            self.fields.push((name, value));
        }
        Ok(())
    }

    fn finish(mut self) -> Result<RequestHead, RequestError> {
        let method = self.method.take().ok_or(RequestError::malformed("no :method"))?;
        let method = Method::from_bytes(&method)
            .map_err(|_| RequestError::malformed(":method is no token"))?;
        let authority = self.authority()?;
        if method == Method::CONNECT {
            return self.finish_connect(method, authority);
        }
        let scheme = self.scheme.ok_or(RequestError::malformed("no :scheme"))?;
        let scheme = Scheme::from_bytes(&scheme)
            .ok_or(RequestError::BadRequest { rule: ":scheme is neither https nor http" })?;
        let path = self.path.ok_or(RequestError::malformed("no :path"))?;
        // RFC 9114 4.3.1: '*' stands for the server as a whole, for OPTIONS only.
        let path = match &path[..] {
            b"" => return Err(RequestError::malformed(":path is empty")),
            b"*" if method == Method::OPTIONS => AsciiText::from_bytes(path).map_err(|_| "'*'"),
            _ => target::path(path),
        };
        Ok(RequestHead {
            method,
            scheme: Some(scheme),
            authority: authority.text,
            path: Some(path.map_err(|rule| RequestError::BadRequest { rule })?),
            fields: self.fields,
            content_length: self.content_length,
        })
    }

    /// RFC 9114 4.4.
    fn finish_connect(
        self,
        method: Method,
        authority: target::Authority,
    ) -> Result<RequestHead, RequestError> {
        if self.scheme.is_some() || self.path.is_some() {
            return Err(RequestError::malformed(":scheme or :path with CONNECT"));
        }
        if self.authority.is_none() {
            return Err(RequestError::malformed("CONNECT without :authority"));
        }
        // RFC 9110 9.3.6: host and port; a request without content.
        if !authority.has_port {
            return Err(RequestError::BadRequest { rule: "CONNECT without a port" });
        }
        if self.content_length.is_some() {
            return Err(RequestError::BadRequest { rule: "content-length with CONNECT" });
        }
        Ok(RequestHead {
            method,
            scheme: None,
            authority: authority.text,
            path: None,
            fields: self.fields,
            content_length: None,
        })
    }

    /// RFC 9114 4.3.1: `:authority` or `host`, and where both are present, one value.
    fn authority(&self) -> Result<target::Authority, RequestError> {
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
        target::authority(bytes).map_err(|rule| RequestError::BadRequest { rule })
    }
}

/// RFC 9110 8.6: digits, nothing else. A list of equal values is refused rather than repaired.
fn content_length(value: &[u8]) -> Result<u64, RequestError> {
    let digits = std::str::from_utf8(value)
        .ok()
        .filter(|text| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()));
    digits
        .and_then(|digits| digits.parse().ok())
        .ok_or(RequestError::BadRequest { rule: "content-length is no number of 64 bits" })
}

impl From<SectionError> for RequestError {
    fn from(error: SectionError) -> Self {
        match error {
            SectionError::Invalid(rule) => Self::connection(Code::QpackDecompressionFailed, rule),
            SectionError::TooLarge(rule) => Self::TooLarge { rule },
        }
    }
}
