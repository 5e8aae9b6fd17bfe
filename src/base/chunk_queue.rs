//! Received chunks of a byte stream that wait to be read.

use std::collections::VecDeque;

use bytes::Bytes;

/// Received chunks that were not read yet, in order. None of them is empty.
#[derive(Debug, Default)]
pub(crate) struct ChunkQueue {
    first: Bytes,
    rest: VecDeque<Bytes>,
}

impl ChunkQueue {
    pub(crate) fn push(&mut self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        if self.is_empty() {
            self.first = chunk;
        } else {
            self.rest.push_back(chunk);
        }
    }

    /// Returns the chunk to read next, whose reader advances it; `None` when there is none.
    pub(crate) fn current(&mut self) -> Option<&mut Bytes> {
        if self.first.is_empty() {
            self.first = self.rest.pop_front()?;
        }
        Some(&mut self.first)
    }

    pub(crate) fn len(&self) -> usize {
        self.first.len() + self.rest.iter().map(Bytes::len).sum::<usize>()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_empty() && self.rest.is_empty()
    }
}
