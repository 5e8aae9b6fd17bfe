//! Responses that belong to no connection: Retry, version negotiation, stateless reset, refusal.
//!
//! They are made while a datagram is handled and sent when the worker has a buffer, so they wait in
//! between. Strangers cause them, so the queue is bounded and what does not fit is lost, as any
//! datagram may be. The buffers are used again.

use std::collections::VecDeque;

use super::Transmit;
use crate::limits::RESPONSE_COUNT_MAX;

/// The queue.
#[derive(Debug, Default)]
pub(super) struct Responses {
    waiting: VecDeque<(Transmit, Vec<u8>)>,
    free: Vec<Vec<u8>>,
}

impl Responses {
    /// An empty buffer to build a response in.
    pub(super) fn buffer(&mut self) -> Vec<u8> {
        self.free.pop().unwrap_or_default()
    }

    /// Takes a buffer back that was not needed.
    pub(super) fn give_back(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        self.free.push(buffer);
    }

    /// Queues a response; tells whether there was room.
    pub(super) fn push(&mut self, transmit: Transmit, bytes: Vec<u8>) -> bool {
        if self.waiting.len() >= RESPONSE_COUNT_MAX {
            self.give_back(bytes);
            return false;
        }
        self.waiting.push_back((transmit, bytes));
        true
    }

    /// Appends the oldest answer to `buffer`.
    pub(super) fn pop(&mut self, buffer: &mut Vec<u8>) -> Option<Transmit> {
        let (transmit, bytes) = self.waiting.pop_front()?;
        buffer.extend_from_slice(&bytes);
        self.give_back(bytes);
        Some(transmit)
    }
}
