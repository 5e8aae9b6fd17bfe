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
    pub listeners_max: u16,
    pub sends_max: u32,
    /// The most streams, those of clients among them.
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
            listeners_max: limits::RING_LISTENERS_MAX,
            sends_max: limits::RING_SENDS_MAX,
            streams_max: limits::RING_STREAMS_MAX,
        }
    }
}

impl RingSettings {
    /// Returns the settings with as many streams as a file table may have that is not longer than
    /// the limit of open files.
    pub fn within(self, files_max: u64) -> RingSettings {
        // Half of a small table is left to streams.
        let quarter = u16::try_from(files_max / 4).unwrap_or(u16::MAX).max(1);
        let sockets_max = self.sockets_max.min(quarter);
        let listeners_max = self.listeners_max.min(quarter);
        let sockets = u64::from(sockets_max) + u64::from(listeners_max);
        let room = files_max.saturating_sub(sockets).max(1);
        let streams_max = u32::try_from(room).unwrap_or(u32::MAX).min(self.streams_max);
        RingSettings { sockets_max, listeners_max, streams_max, ..self }
    }

    /// Returns the most streams that clients may have, armed accepts included. As many are left for
    /// upstreams.
    pub fn clients_max(&self) -> u32 {
        self.streams_max / limits::RING_CLIENTS_SHARE
    }

    /// Returns the length of the file table: UDP sockets, streams, listening sockets.
    pub(super) fn file_count(&self) -> u32 {
        u32::from(self.sockets_max) + self.streams_max + u32::from(self.listeners_max)
    }

    /// Returns the most operations in flight at once: one receive per socket, one pause per
    /// listening socket, the batches, two per stream (receive and write, or receive and shutdown,
    /// or accept, or connect, or reset, or close), the wake-up.
    pub(super) fn operation_count(&self) -> usize {
        let per_socket = usize::from(self.sockets_max) + usize::from(self.listeners_max);
        let per_stream = 2 * self.streams_max as usize;
        per_socket + self.sends_max as usize + per_stream + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_fit_the_limit_of_open_files() {
        let all = RingSettings::default();
        assert_eq!(all.within(u64::MAX), all);
        for (files_max, streams_max) in [(20_000, 20_000 - 128), (96, 48), (10, 6), (0, 1)] {
            assert_eq!(all.within(files_max).streams_max, streams_max);
        }
        assert_eq!(all.within(1024).file_count(), 1024);
    }

    #[test]
    fn clients_leave_as_many_streams_to_upstreams() {
        for streams_max in [1, 2, 3, 1000, limits::RING_STREAMS_MAX] {
            let settings = RingSettings { streams_max, ..RingSettings::default() };
            assert!(settings.clients_max() <= streams_max - settings.clients_max());
        }
    }
}
