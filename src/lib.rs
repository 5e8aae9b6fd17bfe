//! ringway: an HTTP/3 edge gateway for Linux on io_uring.
//!
//! One worker per core owns everything it touches. The kernel side holds memory and file
//! descriptors, the protocol side holds state machines without clock, randomness or files, and
//! they meet in [`worker`] only:
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

// Leaves: they name no other module but these.
pub mod address;
mod base;
pub mod cid;
pub mod config;
pub mod hugepages;
pub mod limits;
pub mod message;
pub mod metrics;
#[doc(hidden)]
pub mod planted;
pub mod tls;

// The kernel side: all unsafe code lives here.
pub mod host;
pub mod pool;
pub mod ring;

// The protocol side: sans-IO, no unsafe.
pub mod gateway;
mod http1;
pub mod http3;
pub mod proxy;
pub mod quic;

// Where both sides meet, the control thread, the command line, and the demonstration.
pub mod cli;
pub mod control;
pub mod demo;
pub mod worker;

// Fixtures that test suites share; product code never names them.
#[doc(hidden)]
pub mod testing;

#[cfg(test)]
#[global_allocator]
static ALLOCATOR: pool::PoolAllocator = pool::PoolAllocator;
