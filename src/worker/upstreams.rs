//! Upstream connections: the gateway's names for them, the ring's, and what each says of them.

use std::time::Instant;

use bytes::Bytes;

use super::Worker;
use crate::address::EndpointAddress;
use crate::base::slab::KeyMap;
use crate::proxy::{Resource, TransportFault, UpstreamEvent, UpstreamKey};
use crate::ring::{ConnectError, ReceiveOutcome, StreamError, StreamKey};

/// The ring's key of each upstream connection.
pub(super) type Upstreams = KeyMap<UpstreamKey, StreamKey>;

impl Worker<'_> {
    pub(super) fn connect(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        address: &EndpointAddress,
        congestion: Option<&str>,
    ) {
        match self.ring.connect(key.to_bits(), address, congestion) {
            Ok(stream) => self.upstreams.insert(key, stream),
            Err(_full) => {
                let event =
                    UpstreamEvent::ConnectFailed(TransportFault::Exhausted(Resource::Place));
                self.gateway.handle_upstream(now, key, event);
            }
        }
    }

    pub(super) fn write(&mut self, now: Instant, key: UpstreamKey, pieces: Vec<Bytes>) {
        let Some(&stream) = self.upstreams.get(key) else { return };
        #[cfg(test)]
        self.setup.witness.see(&pieces);
        if self.ring.write(stream, pieces).is_err() {
            // The ring keeps room for one write a stream, and the proxy asks for one at a time.
            let event = UpstreamEvent::WriteFailed(TransportFault::Exhausted(Resource::Place));
            self.gateway.handle_upstream(now, key, event);
        }
    }

    pub(super) fn receive(&mut self, key: UpstreamKey, slot_count_max: usize) {
        if let Some(&stream) = self.upstreams.get(key) {
            self.ring.receive(stream, slot_count_max);
        }
    }

    pub(super) fn close(&mut self, key: UpstreamKey) {
        if let Some(stream) = self.upstreams.remove(key) {
            self.ring.close(stream);
        }
    }
}

pub(super) fn connected(outcome: Result<(), ConnectError>) -> UpstreamEvent {
    let fault = match outcome {
        Ok(()) => return UpstreamEvent::Connected,
        Err(ConnectError::Refused) => TransportFault::Refused,
        Err(ConnectError::NotFound) => TransportFault::Missing,
        Err(ConnectError::Forbidden) => TransportFault::Forbidden,
        Err(ConnectError::TimedOut) => TransportFault::TimedOut,
        Err(ConnectError::Unreachable) => TransportFault::Unreachable,
        Err(ConnectError::NoLocalPort) => TransportFault::Exhausted(Resource::Port),
        Err(ConnectError::NoDescriptor) => TransportFault::Exhausted(Resource::Descriptor),
        Err(ConnectError::NoMemory) => TransportFault::Exhausted(Resource::Memory),
        Err(ConnectError::Other(_)) => TransportFault::Other,
    };
    UpstreamEvent::ConnectFailed(fault)
}

pub(super) fn received(outcome: ReceiveOutcome) -> UpstreamEvent {
    match outcome {
        ReceiveOutcome::Bytes(bytes) => UpstreamEvent::Received(bytes),
        ReceiveOutcome::Part(bytes) => UpstreamEvent::ReceivedPart(bytes),
        ReceiveOutcome::End => UpstreamEvent::End,
        ReceiveOutcome::Failed(error) => UpstreamEvent::Failed(fault(error)),
    }
}

pub(super) fn wrote(outcome: Result<(), StreamError>) -> UpstreamEvent {
    match outcome {
        Ok(()) => UpstreamEvent::Wrote,
        Err(error) => UpstreamEvent::WriteFailed(fault(error)),
    }
}

fn fault(error: StreamError) -> TransportFault {
    match error {
        StreamError::Reset | StreamError::BrokenPipe => TransportFault::Reset,
        StreamError::TimedOut => TransportFault::TimedOut,
        StreamError::Unreachable => TransportFault::Unreachable,
        StreamError::Other(_) => TransportFault::Other,
    }
}
