//! Settings of a ring.

use crate::limits;

/// Bounds of a ring. Below each bound, an operation is never refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingSettings {
    /// Length of the submission queue, a power of two. Further submissions are made by
    /// another enter in the same turn.
    pub submission_count: u32,
    /// Length of the completion queue, a power of two.
    pub completion_count: u32,
    pub datagram_buffers: u16,
    pub stream_buffers: u16,
    pub sockets_max: u16,
    pub sends_max: u32,
    /// The most streams; reduced to the process's limit of open files.
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
    /// Returns the most operations in flight at once: one receive per socket, the batches, two per
    /// stream (receive and write, or connect, or close), the wake-up.
    pub(super) fn operation_count(&self) -> usize {
        let per_stream = 2 * self.streams_max as usize;
        usize::from(self.sockets_max) + self.sends_max as usize + per_stream + 1
    }
}
