//! HTTP messages, as every client protocol and the proxy share them.
//!
//! A request's head is parsed and validated once, into a [`Head`], by the codec of the protocol it
//! came over; later code trusts the type. The rules that hold for every protocol (authority, path,
//! content length), and those of field lines, which HTTP/2 and HTTP/3 share, live here; the rules
//! of one protocol live in its codec.
//!
//! ```text
//!   http3 --+                      +--> gateway --> proxy   routes and forwards the Head
//!           +--> Ok(Head)     -----+
//!           +--> Err(Refusal) --------> 400, 408, 431       responded to and logged with the parts
//!                                                           of the head that were parsed
//! ```
#![forbid(unsafe_code)]

mod client_certificate;
mod field_limits;
mod field_lines;
mod head;
mod incident;
mod logged;
mod outcome;
mod protocol;
mod record;
mod refusal;
mod request_event;
mod sender;
mod target;

use http::{HeaderName, HeaderValue};

pub(crate) use client_certificate::ClientCertificate;
pub use field_limits::FieldLimits;
pub(crate) use field_limits::{Excess, FieldCount, LINE_OVERHEAD_LEN};
pub use field_lines::Pseudo;
pub(crate) use field_lines::{FieldError, HeadLines, TrailerLines, check_blanks, check_token};
pub use head::Head;
pub(crate) use head::{
    belongs_to_head, check_expectation, check_field_name, check_method_case,
    is_connection_specific, is_safe, parse_content_length,
};
pub(crate) use incident::{EndpointName, Incident};
pub(crate) use logged::{LOGGED_LEN_MAX, LoggedText};
pub use outcome::Outcome;
pub use protocol::Protocol;
pub use record::{AccessRecord, Handover};
pub(crate) use record::{Bound, Ending};
pub use refusal::Refusal;
pub(crate) use refusal::{Provenance, Understood};
pub use request_event::RequestEvent;
pub use sender::Sender;
pub(crate) use target::BrokenRule;
pub use target::{Authority, Path, Scheme, Target};

/// Fields of one message in the order received, with duplicates kept and names in lower case.
pub type Fields = Vec<(HeaderName, HeaderValue)>;

/// Returns a copy of a field's value in memory of its own. One that was received may lie in a slot
/// of the pool, which it would pin for as long as it is kept.
pub(crate) fn owned_value(value: &HeaderValue) -> HeaderValue {
    let mut owned = HeaderValue::from_bytes(value.as_bytes()).expect("it is the value of a field");
    owned.set_sensitive(value.is_sensitive());
    owned
}
