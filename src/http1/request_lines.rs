//! The parser of a request's head and trailers from their lines (RFC 9112 3, 5, 6).
//!
//! Everything that two readers could understand differently is refused here, and so is everything
//! that the standard lets a server repair: a second `host` or `content-length`, even an equal one,
//! a length beside a transfer coding, a folded line, white space before a colon.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, StatusCode};
use httparse::Header;
use memchr::{memchr_iter, memmem};

use super::connection_options::ConnectionOptions;
use super::{Persistence, Version};
use crate::message::{
    Authority, BrokenRule, Excess, FieldCount, FieldLimits, Fields, Head, LINE_OVERHEAD_LEN,
    Refusal, Scheme, Target, Understood, belongs_to_head, check_expectation, check_field_name,
    check_method_case, is_connection_specific, parse_content_length,
};

/// A request's head, with the facts that concern its connection.
#[derive(Debug)]
pub(super) struct ReadHead {
    pub(super) head: Head,
    pub(super) version: Version,
    pub(super) framing: BodyFraming,
    pub(super) persistence: Persistence,
    /// The request asks to continue as a WebSocket (RFC 6455 4.1).
    pub(super) asks_for_websocket: bool,
}

/// How a request's body is delimited (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// By its length; 0 where there is no body.
    Length(u64),
    Chunked,
}

/// Parses and validates a complete head, its empty line included. `scheme` is that of the
/// connection, for targets that name none.
pub(super) fn read_head(
    section: &Bytes,
    scheme: Scheme,
    limits: &FieldLimits,
) -> Result<ReadHead, Box<Refusal>> {
    let line_count = field_line_count(section, limits)?;
    let mut usual = [const { MaybeUninit::uninit() }; USUAL_LINE_COUNT];
    let mut more = Vec::new();
    let lines = if line_count <= USUAL_LINE_COUNT {
        &mut usual[..]
    } else {
        more.resize(line_count, MaybeUninit::uninit());
        &mut more[..]
    };
    let mut request = httparse::Request::new(&mut []);
    match request.parse_with_uninit_headers(section, lines) {
        Ok(httparse::Status::Complete(len)) if len == section.len() => {}
        Ok(_) => return Err(bad("the head is malformed")),
        Err(error) => return Err(head_refusal(error, section)),
    }
    let (Some(method), Some(target), Some(version)) =
        (request.method, request.path, request.version)
    else {
        return Err(bad("the head is malformed"));
    };
    let version = if version == 0 { Version::Http10 } else { Version::Http11 };
    let target = section.slice_ref(target.as_bytes());
    let mut left = SectionLength::new(limits);
    left.charge(":method".len() + method.len())?;
    left.charge(":scheme".len() + scheme.as_str().len())?;
    left.charge(":path".len() + target.len())?;
    let method =
        Method::from_bytes(method.as_bytes()).map_err(|_| bad("the method is no token"))?;
    check_method_case(&method)?;
    let mut fields = HeadFields::with_capacity(request.headers.len());
    fields.read(section, request.headers, version, limits, &mut left)?;
    fields.finish(method, target, version, scheme)
}

/// Parses the trailer section of a chunked body, its empty line included.
pub(super) fn read_trailers(section: &Bytes, limits: &FieldLimits) -> Result<Fields, Box<Refusal>> {
    let line_count = field_line_count(section, limits)?;
    let mut lines = vec![httparse::EMPTY_HEADER; line_count];
    let lines = match httparse::parse_headers(section, &mut lines) {
        Ok(httparse::Status::Complete((len, lines))) if len == section.len() => lines,
        Ok(_) | Err(_) => return Err(bad(faulty_line(section))),
    };
    let mut left = SectionLength::new(limits);
    let mut count = FieldCount::new(limits);
    let mut fields = Fields::with_capacity(lines.len());
    for line in lines {
        let (name, value) = field(section, line)?;
        left.charge(name.as_str().len() + value.len())?;
        count.add(&name).map_err(|excess| too_large(excess, limits))?;
        if is_connection_specific(&name) {
            return Err(bad("a connection-specific field in trailers"));
        }
        check_field_name(&name)?;
        if belongs_to_head(&name) {
            return Err(bad("a field in trailers that belongs to the head"));
        }
        fields.push((name, value));
    }
    Ok(fields)
}

/// Returns the parts of a refused head that a log line can show, of its first lines.
pub(super) fn understand(lines: &[u8]) -> Understood {
    let mut lines = lines.split(|byte| *byte == b'\n').map(without_cr);
    let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ');
    let method = words.next().and_then(|method| Method::from_bytes(method).ok());
    let target = words.next().filter(|_| method.is_some());
    let host = lines.find_map(|line| {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':')?);
        name.eq_ignore_ascii_case(b"host").then(|| value[1..].trim_ascii())
    });
    Understood::new(method, host, target)
}

/// Field lines that are parsed without an allocation; browsers send about 20.
const USUAL_LINE_COUNT: usize = 64;

impl From<BrokenRule> for Box<Refusal> {
    fn from(BrokenRule(rule): BrokenRule) -> Self {
        bad(rule)
    }
}

pub(super) fn bad(rule: &'static str) -> Box<Refusal> {
    refusal(StatusCode::BAD_REQUEST, rule)
}

pub(super) fn refusal(status: StatusCode, rule: &'static str) -> Box<Refusal> {
    Box::new(Refusal::new(status, rule))
}

pub(super) fn too_large(excess: Excess, limits: &FieldLimits) -> Box<Refusal> {
    Box::new(Refusal::too_large(excess, limits))
}

/// Returns the number of lines in a section, without its empty line. Refuses more than can be
/// within the limit of its length, before memory is taken for them.
fn field_line_count(section: &[u8], limits: &FieldLimits) -> Result<usize, Box<Refusal>> {
    let count = memchr_iter(b'\n', section).count().saturating_sub(1);
    if count as u64 * LINE_OVERHEAD_LEN > limits.field_section_len_max.into() {
        return Err(too_large(Excess::Length, limits));
    }
    Ok(count)
}

/// The length that a section may still have, counted as in HTTP/3: the request line as `:method`,
/// `:scheme` and `:path`, and `host` as `:authority`.
struct SectionLength<'a> {
    left: u64,
    limits: &'a FieldLimits,
}

impl<'a> SectionLength<'a> {
    fn new(limits: &'a FieldLimits) -> Self {
        Self { left: limits.field_section_len_max.into(), limits }
    }

    /// Counts a line whose name and value have this length together.
    fn charge(&mut self, len: usize) -> Result<(), Box<Refusal>> {
        let left = self.left.checked_sub(LINE_OVERHEAD_LEN + len as u64);
        self.left = left.ok_or_else(|| too_large(Excess::Length, self.limits))?;
        Ok(())
    }
}

/// Converts a parsed line into a field whose value is a slice of `section`.
fn field(section: &Bytes, line: &Header<'_>) -> Result<(HeaderName, HeaderValue), Box<Refusal>> {
    let name = HeaderName::from_bytes(line.name.as_bytes())
        .map_err(|_| bad("a field name that is no token"))?;
    if line.value.is_empty() {
        return Ok((name, HeaderValue::from_static("")));
    }
    let value = HeaderValue::from_maybe_shared(section.slice_ref(line.value))
        .map_err(|_| bad("a field value with a control character"))?;
    Ok((name, value))
}

/// A request's fields, sorted by what they concern.
struct HeadFields {
    fields: Fields,
    host: Option<Bytes>,
    content_length: Option<u64>,
    /// The values of `transfer-encoding`.
    codings: Vec<HeaderValue>,
}

impl HeadFields {
    fn with_capacity(count: usize) -> Self {
        let fields = Fields::with_capacity(count);
        Self { fields, host: None, content_length: None, codings: Vec::new() }
    }

    fn read(
        &mut self,
        section: &Bytes,
        lines: &[Header<'_>],
        version: Version,
        limits: &FieldLimits,
        left: &mut SectionLength<'_>,
    ) -> Result<(), Box<Refusal>> {
        let mut count = FieldCount::new(limits);
        for line in lines {
            let (name, value) = field(section, line)?;
            if name == header::HOST {
                left.charge(":authority".len() + value.len())?;
            } else {
                left.charge(name.as_str().len() + value.len())?;
                count.add(&name).map_err(|excess| too_large(excess, limits))?;
            }
            check_field_name(&name)?;
            if name == header::HOST {
                let host = section.slice_ref(line.value);
                if self.host.replace(host).is_some() {
                    return Err(bad("host occurs twice"));
                }
            } else if name == header::CONTENT_LENGTH {
                let len = parse_content_length(value.as_bytes())?;
                if self.content_length.replace(len).is_some() {
                    return Err(bad("content-length occurs twice"));
                }
            } else if name == header::TRANSFER_ENCODING {
                self.codings.push(value);
            } else if name == header::EXPECT {
                check_expectation(&value)?;
                // RFC 9110 10.1.1: in an HTTP/1.0 request, 100-continue is ignored.
                if version == Version::Http11 {
                    self.fields.push((name, value));
                }
            } else {
                self.fields.push((name, value));
            }
        }
        Ok(())
    }

    /// Validates the fields together, and with the request line.
    fn finish(
        self,
        method: Method,
        target: Bytes,
        version: Version,
        scheme: Scheme,
    ) -> Result<ReadHead, Box<Refusal>> {
        let framing = self.framing(version)?;
        let has_content = self.content_length.is_some() || framing == BodyFraming::Chunked;
        // RFC 9110 9.3.6.
        if method == Method::CONNECT && has_content {
            return Err(bad("a body with CONNECT"));
        }
        let options = ConnectionOptions::read(&self.fields)
            .ok_or(bad("the connection field names too many fields"))?;
        // After the head of a CONNECT come bytes for the tunnel, and never a request.
        let persistence = match method {
            Method::CONNECT => Persistence::Close,
            _ => options.persistence(version),
        };
        let asks_for_websocket = version == Version::Http11
            && options.nominates("upgrade")
            && names_websocket(&self.fields);
        // RFC 9112 3.2.
        if version == Version::Http11 && self.host.is_none() {
            return Err(bad("no host field"));
        }
        let target = read_target(&method, target, self.host, scheme)?;
        let Self { fields, content_length, .. } = self;
        let head = Head { method, target, fields, content_length };
        Ok(ReadHead { head, version, framing, persistence, asks_for_websocket })
    }

    /// Returns the framing of the body. Refuses two framings at once, and any that leaves the
    /// body's end open (RFC 9112 6.1, 6.3).
    fn framing(&self, version: Version) -> Result<BodyFraming, Box<Refusal>> {
        if self.codings.is_empty() {
            return Ok(BodyFraming::Length(self.content_length.unwrap_or(0)));
        }
        if version == Version::Http10 {
            return Err(bad("transfer-encoding in an HTTP/1.0 request"));
        }
        if self.content_length.is_some() {
            return Err(bad("both content-length and transfer-encoding"));
        }
        let lists = self.codings.iter().map(HeaderValue::as_bytes);
        let codings =
            lists.flat_map(|list| list.split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
        if !codings.clone().next_back().is_some_and(is_chunked) {
            return Err(bad("transfer-encoding does not end with chunked"));
        }
        if codings.clone().count() == 1 {
            return Ok(BodyFraming::Chunked);
        }
        if codings.clone().any(<[u8]>::is_empty) || codings.filter(|c| is_chunked(c)).count() > 1 {
            return Err(bad("transfer-encoding is no list that ends with its only chunked"));
        }
        let rule = "a transfer coding other than chunked is not implemented";
        Err(refusal(StatusCode::NOT_IMPLEMENTED, rule))
    }
}

/// Returns whether `upgrade` lists the protocol `websocket`, in any version (RFC 9110 7.8).
fn names_websocket(fields: &Fields) -> bool {
    let lists = fields.iter().filter(|(name, _)| *name == header::UPGRADE);
    let mut protocols = lists.flat_map(|(_, list)| list.as_bytes().split(|byte| *byte == b','));
    protocols.any(|protocol| {
        let name = protocol.split(|byte| *byte == b'/').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"websocket")
    })
}

/// Parses a request target in one of its four forms (RFC 9112 3.2).
fn read_target(
    method: &Method,
    text: Bytes,
    host: Option<Bytes>,
    scheme: Scheme,
) -> Result<Target, Box<Refusal>> {
    if *method == Method::CONNECT {
        let authority = read_authority(Some(text), host)?;
        if authority.port().is_none() {
            return Err(bad("CONNECT without a port"));
        }
        return Ok(Target::Connect { authority });
    }
    let for_options = *method == Method::OPTIONS;
    if text.starts_with(b"/") || &text[..] == b"*" {
        let authority = read_authority(None, host)?;
        return Ok(Target::parse(scheme, authority, text, for_options)?);
    }
    let Some(scheme_len) = memmem::find(&text, b"://") else {
        return Err(bad("the request target is neither a path nor an absolute URI"));
    };
    let scheme = Scheme::parse(&text[..scheme_len])?;
    let rest = text.slice(scheme_len + b"://".len()..);
    let is_end = |byte: &u8| matches!(byte, b'/' | b'?' | b'#');
    let authority_len = rest.iter().position(is_end).unwrap_or(rest.len());
    let authority = read_authority(Some(rest.slice(..authority_len)), host)?;
    let path = match rest.slice(authority_len..) {
        // RFC 9112 3.2.4: the server as a whole.
        empty if empty.is_empty() && for_options => Bytes::from_static(b"*"),
        // RFC 9112 3.2.1.
        empty if empty.is_empty() => Bytes::from_static(b"/"),
        path => path,
    };
    Ok(Target::parse(scheme, authority, path, for_options)?)
}

/// Returns the authority of the target or of `host`; both must be equal if both are present, as in
/// HTTP/3.
fn read_authority(target: Option<Bytes>, host: Option<Bytes>) -> Result<Authority, Box<Refusal>> {
    let text = match (target, host) {
        (None, None) => return Err(bad("no host field")),
        (Some(target), Some(host)) if target != host => {
            return Err(bad("the request target and host differ"));
        }
        (Some(text), _) | (None, Some(text)) => text,
    };
    if text.is_empty() {
        return Err(bad("an empty authority"));
    }
    Ok(Authority::parse(text)?)
}

/// Returns the refusal of a head that httparse does not accept.
fn head_refusal(error: httparse::Error, section: &[u8]) -> Box<Refusal> {
    let line_len = section.iter().position(|byte| *byte == b'\n').unwrap_or(section.len());
    let (line, fields) = section.split_at(line_len);
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            bad(faulty_line(fields.get(1..).unwrap_or_default()))
        }
        httparse::Error::Version => version_refusal(without_cr(line)),
        _ => bad("the request line is malformed"),
    }
}

/// Returns the refusal of a request line with another version than 1.0 or 1.1.
fn version_refusal(line: &[u8]) -> Box<Refusal> {
    // RFC 9113 3.4: this line exists so that servers without HTTP/2 refuse it.
    if line == b"PRI * HTTP/2.0" {
        let rule = "an HTTP/2 connection preface, where HTTP/1.1 is spoken";
        return refusal(StatusCode::HTTP_VERSION_NOT_SUPPORTED, rule);
    }
    let mut words = line.split(|byte| *byte == b' ').skip(2);
    let version = words.next().filter(|_| words.next().is_none()).unwrap_or_default();
    match version.strip_prefix(b"HTTP/") {
        Some([major, b'.', minor]) if major.is_ascii_digit() && minor.is_ascii_digit() => {
            let rule = "a version of HTTP other than 1.0 and 1.1";
            refusal(StatusCode::HTTP_VERSION_NOT_SUPPORTED, rule)
        }
        _ => bad("the request line does not end with a version"),
    }
}

/// Returns the rule that the first malformed field line breaks.
fn faulty_line(lines: &[u8]) -> &'static str {
    let lines = lines.split(|byte| *byte == b'\n').map(without_cr);
    lines.map_while(|line| (!line.is_empty()).then(|| fault_of(line))).flatten().next().unwrap_or(
        // httparse refuses nothing else.
        "a field line is malformed",
    )
}

fn fault_of(line: &[u8]) -> Option<&'static str> {
    let is_blank = |byte: Option<&u8>| matches!(byte, Some(b' ' | b'\t'));
    if is_blank(line.first()) {
        return Some("a folded field line");
    }
    let Some(colon) = line.iter().position(|byte| *byte == b':') else {
        return Some("a field line without a colon");
    };
    let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
    if is_blank(name.last()) {
        return Some("white space before the colon of a field");
    }
    if HeaderName::from_bytes(name).is_err() || name.contains(&b'"') {
        return Some("a field name that is no token");
    }
    HeaderValue::from_bytes(value).is_err().then_some("a field value with a control character")
}

fn without_cr(line: &[u8]) -> &[u8] {
    line.strip_suffix(b"\r").unwrap_or(line)
}
