//! Fixtures that several test suites share: a test's epoch and clocks, certificates, TLS clients,
//! engine settings, forged packets, a minimal HTTP/3 client codec, an HTTP/1.1 origin, and child
//! processes for tests that end theirs.
//!
//! Unit tests, `tests/`, `benches/` and `examples/` use them. Product code never does, which
//! `tests/architecture` checks, so the linker leaves nothing of them in the program.
//!
//! What a test uses to judge the gateway is not here. A suite that checks a codec writes its own
//! encoder and decoder, and a suite that checks copies or bodies keeps its own books.

mod certificate;
mod child;
mod client_tls;
mod engine;
pub mod forger;
pub mod http3;
pub mod internal;
pub mod origin;
mod sender;
mod snapshot;
mod time;

pub use certificate::TestCertificate;
pub use child::in_child;
pub use client_tls::{ClientTls, quic_client};
pub use engine::{CID_MASK, engine_settings};
pub use sender::sender;
pub use snapshot::snapshot;
pub use time::{FrozenClock, clocks, epoch, sleep};
