//! HTTP messages, as every client protocol and the proxy share them.
//!
//! A request's head is parsed and validated once, into a [`Head`], by the codec of the protocol it
//! came over; later code trusts the type. The rules that hold for every protocol (authority, path,
//! content length) live here, the rules of one protocol in its codec.
//!
//! ```text
//!   http3 --+                      +--> gateway --> proxy   routes and forwards the Head
//!           +--> Ok(Head)     -----+
//!           +--> Err(Refusal) --------> 400, 408, 431       responded to and logged with the parts
//!                                                           of the head that were parsed
//! ```
#![forbid(unsafe_code)]

mod field_limits;
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

pub use field_limits::{Excess, FieldLimits};
pub(crate) use field_limits::{FieldCount, LINE_OVERHEAD_LEN};
pub use head::Head;
pub(crate) use head::{
    belongs_to_head, check_field_name, check_method_case, is_connection_specific, is_safe,
    parse_content_length,
};
pub(crate) use incident::{EndpointName, Incident};
#[cfg(test)]
pub(crate) use logged::LOGGED_LEN_MAX;
pub(crate) use logged::LoggedText;
pub use outcome::Outcome;
pub use protocol::Protocol;
pub use record::{AccessRecord, Handover};
pub(crate) use record::{Bound, Ending};
pub(crate) use refusal::{Provenance, Refusal, Understood};
pub use request_event::RequestEvent;
pub use sender::Sender;
pub(crate) use target::BrokenRule;
pub use target::{Authority, Path, Scheme, Target};

/// Fields of one message in the order received, with duplicates kept and names in lower case.
pub type Fields = Vec<(HeaderName, HeaderValue)>;
