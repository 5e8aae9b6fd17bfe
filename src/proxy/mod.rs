//! The proxy: routes, upstreams and exchanges as one sans-IO machine.
//!
//! The gateway hands it requests and pieces of them, the worker hands it what happened to upstream
//! connections, and [`Proxy::poll`] gives out what is to be done. It knows neither HTTP/3 nor a
//! socket: [`Downstream`] and [`UpstreamKey`] are all it sees of either.
//!
//! ```text
//!   handle_request, handle_body, handle_end            handle_upstream
//!            |                                                ^
//!            v                                                | Connected, Received, Wrote
//!       +----------+    +--------+    +-----------+    +------------+
//!       | exchange |--->| routes |--->| group,    |--->| connection |
//!       |          |    +--------+    | balance,  |    |  HTTP/1.1  |
//!       +----------+                  | queue     |    +------------+
//!            |                        +-----------+           |
//!            v                                                v
//!       DownstreamCommand                               UpstreamCommand
//! ```
//!
//! Payload passes through as [`bytes::Bytes`]: it is cut, framed and counted here, never copied.
//!
//! What holds an exchange back:
//!
//! - the client: [`Proxy::body_room`] is 0 while too much of its body waits for the upstream;
//! - the upstream: `Receive` is not asked for while too much of its response waits for the client, or
//!   is refused by [`Proxy::pause_receive`] while too much of all of that client's responses does.
#![forbid(unsafe_code)]

mod api;
mod connections;
mod downstream;
mod exchange;
mod faults;
mod fields;
mod machine;
mod placement;
mod routes;
mod upstream;

#[cfg(test)]
mod tests;

pub use api::{
    Counts, Downstream, DownstreamCommand, ExchangeKey, Output, Request, Tally, TransportFault,
    UpstreamCommand, UpstreamEvent, UpstreamKey,
};
pub use machine::Proxy;
