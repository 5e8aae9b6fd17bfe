//! Responses that belong to no connection: Retry, version negotiation, stateless reset, refusal.
//!
//! They are built while a datagram is handled and sent when the worker has a buffer, so they are
//! queued in between. Unauthenticated peers cause them, so the queue is bounded; what does not fit
//! is dropped, as any datagram may be. The buffers are reused.

use std::collections::VecDeque;

use super::Transmit;
use crate::limits::RESPONSE_COUNT_MAX;

/// The queue of responses.
#[derive(Debug, Default)]
pub(super) struct Responses {
    waiting: VecDeque<(Transmit, Vec<u8>)>,
    free: Vec<Vec<u8>>,
}

impl Responses {
    /// Returns an empty buffer to build a response in.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    /// Takes back an unused buffer.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.free.push(buffer);
    }

    /// Queues a response. Returns whether there was room.
    pub(super) fn push(&mut self, transmit: Transmit, bytes: Vec<u8>) -> bool {
        if self.waiting.len() >= RESPONSE_COUNT_MAX {
            self.give_back(bytes);
            return false;
        }
        self.waiting.push_back((transmit, bytes));
        true
    }

    /// Appends the oldest response to `buffer`.
    pub(super) fn pop(&mut self, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = self.waiting.pop_front()?;
        buffer.extend_from_slice(&bytes);
        self.give_back(bytes);
        Some(transmit)
    }
}
