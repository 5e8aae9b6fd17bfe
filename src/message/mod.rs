//! HTTP's words, shared by every protocol of a client and by the proxy.
//!
//! A request's head is parsed and judged once, into a [`Head`], by whichever protocol it came
//! over; later code trusts the type. The rules that hold for every protocol (authority, path,
//! content length) live here, the rules of one protocol in its codec.
//!
//! ```text
//!   http3 --+                        +--> gateway --> proxy   routes and forwards what a Head holds
//!           +--> Ok(Head)       -----+
//!           +--> Err(Refusal)   --------> 400, 408, 431       answered and logged with what of the
//!                                                             head was understood
//! ```
#![forbid(unsafe_code)]

mod head;
mod record;
mod refusal;
mod target;

use http::{HeaderName, HeaderValue};

pub use head::{Head, parse_content_length};
pub use record::{AccessRecord, Outcome, ResetReason};
pub use refusal::{Refusal, Understood};
pub use target::{Authority, BrokenRule, Path, Scheme, Target};

/// Fields of one message in the order they came, duplicates kept, names in lower case.
pub type Fields = Vec<(HeaderName, HeaderValue)>;
