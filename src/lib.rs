//! ringway: an HTTP/3 edge gateway for Linux on io_uring.
//!
//! One worker per core owns everything it touches. The kernel side holds memory and file
//! descriptors, the protocol side holds state machines without clock, randomness or files, and
//! they meet in `worker` only:
//!
//! ```text
//!            NIC                                                        origin
//!             |  datagrams                                      TCP bytes ^ |
//!  kernel     v                                                           | v
//!  side    +------+   +------+      slots handed over, never copied    +------+
//!          | ring |<->| pool |<--------------------------------------->| ring |
//!          +------+   +------+                                         +------+
//!             |                          worker                           ^
//!  - - - - - -|- - - - - - - - - - - - - - - - - - - - - - - - - - - - - -|- - - -
//!  protocol   v                                                           |
//!  side    +------+      +-------+        gateway        +-------+        |
//!          | quic |----->| http3 |---------------------->| proxy |--------+
//!          +------+      +-------+                       +-------+
//! ```
#![deny(unreachable_pub)]

// Leaves: they name no other module but these.
mod account;
mod address;
mod base;
mod cid;
mod config;
mod hugepages;
mod limits;
mod message;
mod metrics;
mod planted;
mod tls;

// The kernel side: all unsafe code lives here.
mod host;
mod pool;
mod ring;

// The protocol side: sans-IO, no unsafe.
mod gateway;
mod http1;
mod http2;
mod http3;
mod proxy;
mod proxy_protocol;
mod quic;

// Where both sides meet, the control thread, the command line, the demonstration, and the process.
mod cli;
mod control;
mod demo;
mod process;
mod worker;

// Fixtures that test suites share, and their way to the modules; product code never names them.
#[doc(hidden)]
pub mod testing;

pub use pool::PoolAllocator;
pub use process::run;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: pool::PoolAllocator = pool::PoolAllocator;
