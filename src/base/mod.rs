//! Data structures without knowledge of the program: generational slabs, a timer queue, shares, a
//! token bucket, a queue of received chunks, QUIC's variable-length integers.
#![forbid(unsafe_code)]

pub(crate) mod chunk_queue;
pub(crate) mod pressure;
pub(crate) mod shares;
pub(crate) mod slab;
pub(crate) mod stream_share;
pub(crate) mod timers;
pub(crate) mod token_bucket;
pub(crate) mod varint;
