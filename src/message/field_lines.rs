//! The grammar of request heads and trailers as lists of field lines, which HTTP/2 and HTTP/3 share
//! (RFC 9113 8.2, 8.3; RFC 9114 4.2, 4.3; RFC 9110 5).
//!
//! A codec decodes lines and hands them over one by one. There are two kinds of refusal: a message
//! that is malformed by those RFCs is a stream error, whose code the codec adds. A value that is
//! invalid in HTTP itself (a port of 99999, a path with a fragment, `content-length: +5`) gets a
//! 400 response, and too many fields a 431.

use bytes::Bytes;
use http::StatusCode;
use http::header::{self, HeaderName, HeaderValue};
use http::method::Method;

use super::head::{
    belongs_to_head, check_expectation, check_field_name, check_method_case,
    is_connection_specific, parse_content_length,
};
use super::{
    Authority, BrokenRule, FieldCount, FieldLimits, Fields, Head, LoggedText, Refusal, Scheme,
    Target, Understood,
};

/// A pseudo-header field (RFC 9113 8.3, RFC 9114 4.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pseudo {
    Authority,
    Method,
    Path,
    Scheme,
    Status,
}

impl Pseudo {
    /// Returns the field with this name on the wire.
    pub const fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b":authority" => Self::Authority,
            b":method" => Self::Method,
            b":path" => Self::Path,
            b":scheme" => Self::Scheme,
            b":status" => Self::Status,
            _ => return None,
        })
    }
}

/// The reason for not accepting a head or trailers.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum FieldError {
    /// The message is malformed: a stream error (RFC 9113 8.1.1, RFC 9114 4.1.2).
    Malformed(&'static str),
    /// The section is well-formed, but over a limit (431), invalid in HTTP (400), or has an
    /// expectation that is not met (417).
    Refused(Box<Refusal>),
}

impl From<BrokenRule> for FieldError {
    fn from(BrokenRule(rule): BrokenRule) -> Self {
        Self::Refused(Box::new(Refusal::new(StatusCode::BAD_REQUEST, rule)))
    }
}

const fn malformed<T>(rule: &'static str) -> Result<T, FieldError> {
    Err(FieldError::Malformed(rule))
}

/// Refuses a name that `HeaderName::from_lowercase` accepts although it is no token (RFC 9110 5.1).
pub(crate) fn check_token(name: &HeaderName) -> Result<(), FieldError> {
    if name.as_str().contains('"') {
        return malformed("a field name that is no lower-case token");
    }
    Ok(())
}

/// Refuses a field value with whitespace around it (RFC 9113 8.2.1, RFC 9114 10.3).
pub(crate) fn check_blanks(value: &[u8]) -> Result<(), FieldError> {
    let is_blank = |b: Option<&u8>| matches!(b, Some(b' ' | b'\t'));
    if is_blank(value.first()) || is_blank(value.last()) {
        return malformed("a field value with whitespace around it");
    }
    Ok(())
}

fn check_connection_specific(name: &HeaderName, value: &HeaderValue) -> Result<(), FieldError> {
    if is_connection_specific(name) {
        return malformed("a connection-specific field");
    }
    if *name == header::TE && value != "trailers" {
        return malformed("te with something other than trailers");
    }
    Ok(())
}

/// Counts the fields of a section against its limits.
#[derive(Debug)]
struct Counted {
    limits: FieldLimits,
    count: FieldCount,
}

impl Counted {
    fn new(limits: &FieldLimits) -> Self {
        Self { limits: *limits, count: FieldCount::new(limits) }
    }

    fn add(&mut self, name: &HeaderName) -> Result<(), FieldError> {
        let too_many = |excess| Refusal::too_large(excess, &self.limits);
        self.count.add(name).map_err(|excess| FieldError::Refused(Box::new(too_many(excess))))
    }
}

/// A request's trailers while their lines are read.
#[derive(Debug)]
pub(crate) struct TrailerLines {
    count: Counted,
    fields: Fields,
}

impl TrailerLines {
    pub(crate) fn new(limits: &FieldLimits) -> Self {
        Self { count: Counted::new(limits), fields: Fields::new() }
    }

    pub(crate) fn take_field(
        &mut self,
        name: HeaderName,
        value: HeaderValue,
    ) -> Result<(), FieldError> {
        self.count.add(&name)?;
        check_connection_specific(&name, &value)?;
        check_field_name(&name)?;
        // RFC 9110 6.5.1: fields for framing and routing are not allowed in trailers.
        if belongs_to_head(&name) {
            return malformed("a field in trailers that belongs to the head");
        }
        self.fields.push((name, value));
        Ok(())
    }

    pub(crate) fn finish(self) -> Fields {
        self.fields
    }
}

/// A request's head while its lines are read.
#[derive(Debug)]
pub(crate) struct HeadLines {
    count: Counted,
    method: Option<Method>,
    scheme: Option<Bytes>,
    authority: Option<Bytes>,
    path: Option<Bytes>,
    host: Option<HeaderValue>,
    content_length: Option<u64>,
    /// The start of the value at which the reading ended, for the log.
    cut: Option<(Pseudo, LoggedText)>,
    /// A regular field has been read, so no pseudo-header field may follow.
    fields_began: bool,
    fields: Fields,
}

impl HeadLines {
    pub(crate) fn new(limits: &FieldLimits) -> Self {
        Self {
            count: Counted::new(limits),
            method: None,
            scheme: None,
            authority: None,
            path: None,
            host: None,
            content_length: None,
            cut: None,
            fields_began: false,
            fields: Fields::new(),
        }
    }

    pub(crate) fn take_pseudo(&mut self, pseudo: Pseudo, value: Bytes) -> Result<(), FieldError> {
        if self.fields_began {
            return malformed("a pseudo-header field behind other fields");
        }
        let place = match pseudo {
            Pseudo::Method => {
                return match Method::from_bytes(&value) {
                    Ok(method) => self.take_method(method),
                    Err(_) => malformed(":method is no token"),
                };
            }
            Pseudo::Scheme => &mut self.scheme,
            Pseudo::Authority => &mut self.authority,
            Pseudo::Path => &mut self.path,
            Pseudo::Status => return malformed(":status in a request"),
        };
        if place.is_some() {
            return malformed(TWICE);
        }
        *place = Some(value);
        Ok(())
    }

    /// Takes the method, from a codec that has parsed it.
    pub(crate) fn take_method(&mut self, method: Method) -> Result<(), FieldError> {
        if self.method.is_some() {
            return malformed(TWICE);
        }
        self.method = Some(method);
        Ok(())
    }

    pub(crate) fn take_field(
        &mut self,
        name: HeaderName,
        value: HeaderValue,
    ) -> Result<(), FieldError> {
        self.count.add(&name)?;
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
                return malformed("two values of content-length");
            }
            self.content_length = Some(len);
        } else {
            if name == header::EXPECT {
                check_expectation(&value).map_err(FieldError::Refused)?;
            }
            self.fields.push((name, value));
        }
        Ok(())
    }

    /// Validates the lines together. Once they are a head, they have been taken.
    pub(crate) fn finish(&mut self) -> Result<Head, FieldError> {
        let (method, target) = self.target()?;
        let fields = std::mem::take(&mut self.fields);
        Ok(Head { method, target, fields, content_length: self.content_length })
    }

    /// Notes the start of a value that could not be read whole.
    pub(crate) fn note_cut(&mut self, pseudo: Pseudo, start: LoggedText) {
        self.cut = Some((pseudo, start));
    }

    /// Returns the parts of a refused head that a log line can show.
    pub(crate) fn understood(self) -> Understood {
        let host = self.host.as_ref().map(HeaderValue::as_bytes);
        let authority = self.authority.as_deref().or(host);
        let mut understood = Understood::new(self.method, authority, self.path.as_deref());
        match self.cut {
            Some((Pseudo::Authority, start)) => _ = understood.authority.get_or_insert(start),
            Some((Pseudo::Path, start)) => _ = understood.path.get_or_insert(start),
            // A part of a method is another method.
            Some((Pseudo::Method | Pseudo::Scheme | Pseudo::Status, _)) | None => {}
        }
        understood
    }

    fn target(&self) -> Result<(Method, Target), FieldError> {
        let Some(method) = self.method.clone() else { return malformed("no :method") };
        check_method_case(&method)?;
        let authority = self.authority()?;
        if method == Method::CONNECT {
            return Ok((method, self.connect_target(authority)?));
        }
        let Some(scheme) = &self.scheme else { return malformed("no :scheme") };
        let scheme = Scheme::parse(scheme)?;
        let Some(path) = &self.path else { return malformed("no :path") };
        if path.is_empty() {
            // RFC 9113 8.3.1, RFC 9114 4.3.1.
            return malformed(":path is empty");
        }
        let for_options = method == Method::OPTIONS;
        let target = Target::parse(scheme, authority, path.clone(), for_options)?;
        Ok((method, target))
    }

    /// Returns the target of a CONNECT (RFC 9113 8.5, RFC 9114 4.4).
    fn connect_target(&self, authority: Authority) -> Result<Target, FieldError> {
        if self.scheme.is_some() || self.path.is_some() {
            return malformed(":scheme or :path with CONNECT");
        }
        if self.authority.is_none() {
            return malformed("CONNECT without :authority");
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
    /// (RFC 9113 8.3.1, RFC 9114 4.3.1).
    fn authority(&self) -> Result<Authority, FieldError> {
        let host = self.host.as_ref().map(HeaderValue::as_bytes);
        let bytes = match (&self.authority, host) {
            (None, None) => return malformed("neither :authority nor host"),
            (Some(authority), Some(host)) if authority != host => {
                return malformed(":authority and host differ");
            }
            (Some(authority), _) => authority.clone(),
            (None, Some(host)) => Bytes::copy_from_slice(host),
        };
        if bytes.is_empty() {
            return malformed("an empty authority");
        }
        Ok(Authority::parse(bytes)?)
    }
}

const TWICE: &str = "a pseudo-header field that occurs twice";
