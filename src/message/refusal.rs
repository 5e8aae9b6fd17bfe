//! Refusals of requests whose head could not be accepted.

use http::header::{HeaderName, REFERER, USER_AGENT};
use http::{Method, StatusCode};

use super::logged::LOGGED_LEN_MAX;
use super::{Bound, Ending, Excess, FieldLimits, Fields, LoggedText, Outcome};

/// The refusal of a request whose head was not accepted, with the parts of the head that the
/// response and the log need.
#[derive(Debug, Clone, PartialEq)]
pub struct Refusal {
    /// Status of the response: 400, 408, 417 or 431; over HTTP/1.1 also 414, 501 or 505.
    pub status: StatusCode,
    /// The broken rule, for the response, the log and a counter.
    pub rule: &'static str,
    /// The bound that was exceeded, for a 414 or 431.
    pub bound: Option<Bound>,
    /// The parts of the head that were parsed.
    pub understood: Understood,
}

/// The parts of a request's head that were parsed, as a log line shows them. The response depends
/// on the method: one to HEAD has no content (RFC 9110 9.3.2).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Understood {
    /// The method; `None` if it could not be read, so that it may be HEAD.
    pub method: Option<Method>,
    /// The authority, as received.
    pub authority: Option<LoggedText>,
    /// Path with query, as received.
    pub path: Option<LoggedText>,
    /// The fields `referer` and `user-agent`, where the log has a place for them.
    pub provenance: Option<Box<Provenance>>,
}

/// Fields that show where a request came from, as a log line shows them.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Provenance {
    pub referer: Option<LoggedText>,
    pub user_agent: Option<LoggedText>,
}

impl Provenance {
    /// Copies the fields of a request.
    pub(crate) fn of(fields: &Fields) -> Box<Self> {
        let value = |wanted: HeaderName| {
            let found = fields.iter().find(|(name, _)| *name == wanted);
            found.map(|(_, value)| LoggedText::new(value.as_bytes()))
        };
        Box::new(Self { referer: value(REFERER), user_agent: value(USER_AGENT) })
    }
}

impl Understood {
    /// Copies the parts that a log line shows, so that the head's memory is not kept.
    pub(crate) fn new(
        method: Option<Method>,
        authority: Option<&[u8]>,
        path: Option<&[u8]>,
    ) -> Self {
        Self {
            method: method.map(shortened),
            authority: authority.map(LoggedText::new),
            path: path.map(LoggedText::new),
            provenance: None,
        }
    }

    /// Returns the number of bytes that its texts hold.
    pub(crate) fn held_len(&self) -> usize {
        let provenance = self.provenance.iter();
        let fields = provenance.flat_map(|fields| [&fields.referer, &fields.user_agent]);
        let texts = [&self.authority, &self.path].into_iter().chain(fields);
        texts.flatten().map(|text| text.as_bytes().len()).sum()
    }
}

/// Cuts a method that is longer than the log shows; it is none that has a meaning here.
fn shortened(method: Method) -> Method {
    let text = method.as_str();
    if text.len() <= LOGGED_LEN_MAX {
        return method;
    }
    let kept = format!("{}...", &text[..LOGGED_LEN_MAX]);
    Method::from_bytes(kept.as_bytes()).expect("a part of a token is a token")
}

impl Refusal {
    /// Creates a refusal of which only the status and the broken rule are known.
    pub fn new(status: StatusCode, rule: &'static str) -> Self {
        Self { status, rule, bound: None, understood: Understood::default() }
    }

    /// Creates the refusal of a field section over our limits (431).
    pub(crate) fn too_large(excess: Excess, limits: &FieldLimits) -> Self {
        let (rule, key, max) = match excess {
            Excess::Length => (
                "a field section longer than is accepted",
                "limits.max_header_size",
                limits.field_section_len_max,
            ),
            Excess::Count => {
                ("more fields than are accepted", "limits.max_header_count", limits.field_count_max)
            }
        };
        let refusal = Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, rule);
        Self { bound: Some(Bound { key, max: max.into() }), ..refusal }
    }

    /// Returns the end of the refused request, for its record.
    pub(crate) fn ending(&self) -> Ending {
        let outcome = match self.status {
            StatusCode::REQUEST_TIMEOUT => Outcome::HeadTimeout,
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE | StatusCode::URI_TOO_LONG => {
                Outcome::FieldsTooLarge
            }
            StatusCode::NOT_IMPLEMENTED => Outcome::NotImplemented,
            _ => Outcome::RequestMalformed,
        };
        Ending { outcome, rule: Some(self.rule), bound: self.bound }
    }
}
