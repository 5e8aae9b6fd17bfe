//! QUIC v1 (RFC 9000, 9001, 9002) as a sans-IO state machine: datagrams and time in, events and
//! datagrams out.
//!
//! ```text
//!   handle_datagram ---> quinn-proto Endpoint ---> which connection? ---+--> poll_transmit
//!                              |                                        |    (Retry, reset, ...)
//!                              v                                        |
//!   handle_timeout ---> quinn-proto Connection --- settle --------------+--> poll_event
//!   read, write, .. --->       |                                        +--> next_deadline
//!                              +--- dirty, round-robin ---------------------> poll_transmit
//! ```
//!
//! The [`Engine`] owns one quinn-proto `Endpoint` and its connections, and adds what an edge needs
//! and quinn-proto leaves to its user:
//!
//! - **Every input touches one connection.** The connection is *settled* (its events are processed,
//!   its timer is set) and marked *dirty* if it may have something to send. Nothing in a turn walks
//!   all connections.
//! - **Bounds**: half-open handshakes by number and by time, connections by share, windows that
//!   grow out of one budget, a strict anti-amplification limit.
//! - **Steering**: each connection id names its worker, and ids of other workers never cause a
//!   stateless reset.
//! - **Keys with generations**: an operation on a connection that is gone returns `Gone`.
//!
//! A client's protocol violation ends its connection with the code that the standard defines; bytes
//! that belong to no connection are counted and dropped. Neither ends the worker.
#![forbid(unsafe_code)]

mod admission;
mod cid;
mod congestion;
mod connection;
mod credit;
mod demux;
mod engine;
mod failed_handshake;
mod first_packets;
mod held;
mod marks;
mod padding;
mod paths;
mod recent;
mod responses;
mod settings;
mod stream_credit;
mod streams;
mod table;
#[cfg(test)]
mod tests;
mod translation;
mod turns;
mod types;
mod used_tokens;
mod windows;

pub use engine::Engine;
pub(crate) use failed_handshake::FailedHandshake;
pub(crate) use quinn_proto::TimeSource;
pub(crate) use settings::ListenerSettings;
pub(crate) use settings::{EngineChange, EngineError};
pub use settings::{EngineSettings, MTU_MAX_DEFAULT};
pub use streams::WriteError;
#[cfg(test)]
pub(crate) use streams::{Gone, Written};
pub(crate) use streams::{Read, ReadError};
pub use table::ConnectionKey;
#[cfg(test)]
pub(crate) use types::ConnectionCounts;
pub(crate) use types::{CloseReason, transport_error_name};
pub use types::{Datagram, Event, StreamId, Transmit};
