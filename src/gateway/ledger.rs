//! The ledger: every payload byte moved, and every one that user space copied, by reason.

use crate::metrics;

/// Why a payload byte was copied in user space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CopyReason {
    /// quinn-proto gathers stream bytes into the packet before it seals it.
    Gather,
    /// A small piece, moved so that it does not pin a slot.
    Small,
    /// The flow held its quota of slots.
    Quota,
    /// The pool was below its low-water mark.
    LowWater,
    /// A datagram of a handshake, moved because a half-open connection may keep it for seconds.
    Handshake,
}

/// Writes the metrics' ledger.
#[derive(Debug, Default)]
pub struct Ledger {
    counts: metrics::Ledger,
}

impl Ledger {
    /// The counts so far.
    pub fn counts(&self) -> &metrics::Ledger {
        &self.counts
    }

    /// `len` bytes of request streams were read.
    pub fn request_moved(&mut self, len: usize) {
        self.counts.request.payload_bytes += len as u64;
    }

    /// `len` received bytes were copied before they were decrypted.
    pub fn request_copied(&mut self, reason: CopyReason, len: usize) {
        *copied(&mut self.counts.request, reason) += len as u64;
    }

    /// `len` body bytes of responses were queued.
    pub fn response_moved(&mut self, len: usize) {
        self.counts.response.payload_bytes += len as u64;
    }

    /// `len` bytes of responses were copied.
    pub fn response_copied(&mut self, reason: CopyReason, len: usize) {
        *copied(&mut self.counts.response, reason) += len as u64;
    }
}

fn copied(flow: &mut metrics::Flow, reason: CopyReason) -> &mut u64 {
    match reason {
        CopyReason::Gather => &mut flow.copied_bytes.gather,
        CopyReason::Small => &mut flow.copied_bytes.small,
        CopyReason::Quota => &mut flow.copied_bytes.quota,
        CopyReason::LowWater => &mut flow.copied_bytes.low_water,
        CopyReason::Handshake => &mut flow.copied_bytes.handshake,
    }
}
