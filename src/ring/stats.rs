//! The ring's counters.

use super::completion::LossReason;

/// What the ring has counted since it was made. All but `operations_in_flight` only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RingStats {
    /// Enters into the kernel.
    pub enters: u64,
    /// Completions taken from the kernel.
    pub completions: u64,
    /// Receives on UDP sockets armed again after the kernel ended them.
    pub rearms: u64,
    /// Datagram receives that ended because no buffer was provided.
    pub no_buffers_datagrams: u64,
    /// Stream receives that had to wait because no buffer was provided.
    pub no_buffers_streams: u64,
    /// Turns that found the completion queue overflowing (the kernel kept the rest).
    pub cq_overflows: u64,
    /// Sends that were repeated segment by segment after the kernel refused to segment.
    pub gso_fallbacks: u64,
    /// Sends that were repeated because the kernel had no buffers.
    pub send_retries: u64,
    /// Datagrams lost on this host: longer than the path takes.
    pub lost_too_long: u64,
    /// Datagrams (or batches) lost on this host: no route.
    pub lost_unreachable: u64,
    /// Datagrams (or batches) lost on this host: refused by a filter.
    pub lost_refused: u64,
    /// Datagrams (or batches) lost on this host: the kernel stayed without buffers.
    pub lost_no_buffers: u64,
    /// Datagrams (or batches) lost on this host: the ring was shut down.
    pub lost_cancelled: u64,
    /// Datagrams (or batches) lost on this host: anything else.
    pub lost_other: u64,
    /// Received datagrams dropped because the slot or its control data was too short.
    pub truncated: u64,
    /// Received datagrams dropped because they were empty.
    pub empty: u64,
    /// Received datagrams dropped because their header could not be read.
    pub unreadable: u64,
    /// Failures of datagram receives other than for want of buffers.
    pub receive_failures: u64,
    /// Completions that named no operation in flight.
    pub late: u64,
    /// Calls that named a stream which is closed or closing.
    pub stale_keys: u64,
    /// Operations that the kernel held when the last turn began.
    pub operations_in_flight: u64,
}

impl RingStats {
    pub(super) fn count_loss(&mut self, reason: LossReason) {
        *match reason {
            LossReason::TooLong => &mut self.lost_too_long,
            LossReason::Unreachable => &mut self.lost_unreachable,
            LossReason::Refused => &mut self.lost_refused,
            LossReason::NoBuffers => &mut self.lost_no_buffers,
            LossReason::Cancelled => &mut self.lost_cancelled,
            LossReason::Other => &mut self.lost_other,
        } += 1;
    }
}
