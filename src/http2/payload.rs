//! A piece of a response's body while `h2` holds it.

use bytes::{Buf, Bytes};

use super::wire::SharedWire;

/// The payload of DATA frames. It names itself to the wire when its memory is about to be written,
/// and counts the bytes that wait.
#[derive(Debug)]
pub(super) struct Payload {
    bytes: Bytes,
    wire: SharedWire,
}

impl Payload {
    pub(super) fn new(bytes: Bytes, wire: &SharedWire) -> Self {
        wire.borrow_mut().add_queued(bytes.len());
        Self { bytes, wire: SharedWire::clone(wire) }
    }
}

impl Buf for Payload {
    fn remaining(&self) -> usize {
        self.bytes.len()
    }

    fn chunk(&self) -> &[u8] {
        self.wire.borrow_mut().offer(&self.bytes);
        &self.bytes
    }

    fn advance(&mut self, len: usize) {
        self.bytes.advance(len);
        self.wire.borrow_mut().remove_queued(len);
    }
}

impl Drop for Payload {
    fn drop(&mut self) {
        // A reset drops what was not written.
        self.wire.borrow_mut().remove_queued(self.bytes.len());
    }
}
