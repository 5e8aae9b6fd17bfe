//! What a ring is made by.

use crate::limits;

/// Bounds of a ring. Each is a promise: below it, an operation is not refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSettings {
    /// Length of the submission queue, a power of two. What does not fit goes with a further
    /// enter in the same turn.
    pub submission_count: u32,
    /// Length of the completion queue, a power of two.
    pub completion_count: u32,
    /// Slots to be kept with the kernel for datagrams.
    pub datagram_buffers: u16,
    /// Slots to be kept with the kernel for streams.
    pub stream_buffers: u16,
    /// Most UDP sockets.
    pub sockets_max: u16,
    /// Most batches of datagrams in flight.
    pub sends_max: u32,
    /// Most streams; fewer where the process may not have so many files.
    pub streams_max: u32,
}

impl Default for RingSettings {
    fn default() -> Self {
        Self {
            submission_count: limits::SUBMISSION_QUEUE_LEN,
            completion_count: limits::COMPLETION_QUEUE_LEN,
            datagram_buffers: 64,
            stream_buffers: 32,
            sockets_max: limits::RING_SOCKETS_MAX,
            sends_max: limits::RING_SENDS_MAX,
            streams_max: limits::RING_STREAMS_MAX,
        }
    }
}

impl RingSettings {
    /// Operations that may be in flight at once: one receive per socket, the batches, two per
    /// stream (receive and write, or connect, or close), the wake-up.
    pub(super) fn operation_count(&self) -> usize {
        let per_stream = 2 * self.streams_max as usize;
        usize::from(self.sockets_max) + self.sends_max as usize + per_stream + 1
    }
}
