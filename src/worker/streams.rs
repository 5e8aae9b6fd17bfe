//! Streams of the ring that belong to the gateway: connections to upstreams, and of clients.
//!
//! The gateway has a key for each, the ring has another. A completion carries the gateway's key as
//! the stream's tag:
//!
//! ```text
//!  tag:  | generation (32) | client (1) | index (31) |
//! ```

use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Worker;
use crate::base::slab::KeyMap;
use crate::gateway::{TcpEvent, TcpKey};
use crate::limits::TCP_COPY_LEN_MAX;
use crate::proxy::{Resource, TransportFault, UpstreamEvent, UpstreamKey};
use crate::ring::{ReceiveOutcome, StreamError, StreamKey};

/// The bit of a tag that tells a client's key from an upstream's: no slab has 2^31 entries.
const CLIENT: u64 = 1 << 31;

/// The gateway's key of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum StreamOwner {
    Upstream(UpstreamKey),
    Client(TcpKey),
}

impl StreamOwner {
    pub(super) fn to_tag(self) -> u64 {
        let (bits, kind) = match self {
            Self::Upstream(key) => (key.to_bits(), 0),
            Self::Client(key) => (key.to_bits(), CLIENT),
        };
        assert_eq!(bits & CLIENT, 0, "an index has 31 bits");
        bits | kind
    }

    pub(super) fn from_tag(tag: u64) -> StreamOwner {
        match tag & CLIENT {
            0 => Self::Upstream(UpstreamKey::from_bits(tag)),
            _ => Self::Client(TcpKey::from_bits(tag & !CLIENT)),
        }
    }
}

impl From<UpstreamKey> for StreamOwner {
    fn from(key: UpstreamKey) -> Self {
        Self::Upstream(key)
    }
}

impl From<TcpKey> for StreamOwner {
    fn from(key: TcpKey) -> Self {
        Self::Client(key)
    }
}

/// The ring's key of each stream.
#[derive(Default)]
pub(super) struct Streams {
    upstreams: KeyMap<UpstreamKey, StreamKey>,
    clients: KeyMap<TcpKey, StreamKey>,
}

impl Streams {
    pub(super) fn insert(&mut self, owner: StreamOwner, stream: StreamKey) {
        match owner {
            StreamOwner::Upstream(key) => self.upstreams.insert(key, stream),
            StreamOwner::Client(key) => self.clients.insert(key, stream),
        }
    }

    /// Returns the stream, or `None` if the gateway has closed it.
    pub(super) fn find(&self, owner: StreamOwner) -> Option<StreamKey> {
        match owner {
            StreamOwner::Upstream(key) => self.upstreams.get(key).copied(),
            StreamOwner::Client(key) => self.clients.get(key).copied(),
        }
    }

    fn remove(&mut self, owner: StreamOwner) -> Option<StreamKey> {
        match owner {
            StreamOwner::Upstream(key) => self.upstreams.remove(key),
            StreamOwner::Client(key) => self.clients.remove(key),
        }
    }
}

/// Makes events of a kind of stream from completions.
macro_rules! stream_events {
    ($($event:ident),+) => {$(
        impl From<ReceiveOutcome> for $event {
            fn from(outcome: ReceiveOutcome) -> Self {
                match outcome {
                    ReceiveOutcome::Bytes(bytes) => Self::Received(bytes),
                    ReceiveOutcome::Part(bytes) => Self::ReceivedPart(bytes),
                    ReceiveOutcome::End => Self::End,
                    ReceiveOutcome::Failed(error) => Self::Failed(fault(error)),
                }
            }
        }

        impl From<Result<(), TransportFault>> for $event {
            /// Returns the event of a write that is over.
            fn from(outcome: Result<(), TransportFault>) -> Self {
                match outcome {
                    Ok(()) => Self::Wrote,
                    Err(fault) => Self::WriteFailed(fault),
                }
            }
        }
    )+};
}

stream_events!(UpstreamEvent, TcpEvent);

fn fault(error: StreamError) -> TransportFault {
    match error {
        StreamError::Reset | StreamError::BrokenPipe => TransportFault::Reset,
        StreamError::TimedOut => TransportFault::TimedOut,
        StreamError::Unreachable => TransportFault::Unreachable,
        StreamError::Other(_) => TransportFault::Other,
    }
}

impl Worker<'_> {
    pub(super) fn handle_received(&mut self, now: Instant, tag: u64, outcome: ReceiveOutcome) {
        match StreamOwner::from_tag(tag) {
            StreamOwner::Upstream(key) => self.gateway.handle_upstream(now, key, outcome.into()),
            StreamOwner::Client(key) => {
                let outcome = match outcome {
                    ReceiveOutcome::Bytes(bytes) => ReceiveOutcome::Bytes(self.keep(key, bytes)),
                    ReceiveOutcome::Part(bytes) => ReceiveOutcome::Part(self.keep(key, bytes)),
                    other => other,
                };
                self.gateway.handle_tcp(now, key, outcome.into());
            }
        }
    }

    /// Returns bytes of a client in their slot, or copied if its address has too many slots. Few
    /// bytes are the gateway's to copy.
    fn keep(&mut self, key: TcpKey, bytes: BytesMut) -> BytesMut {
        match self.gateway.tcp_client_address(key) {
            Some(client) if bytes.len() > TCP_COPY_LEN_MAX => {
                let ledger = self.gateway.ledger_mut();
                self.slot_policy.keep(&self.pool, ledger, client, bytes)
            }
            _ => bytes,
        }
    }

    pub(super) fn handle_wrote(
        &mut self,
        now: Instant,
        tag: u64,
        outcome: Result<(), StreamError>,
    ) {
        self.report_write(now, StreamOwner::from_tag(tag), outcome.map_err(fault));
    }

    fn report_write(
        &mut self,
        now: Instant,
        owner: StreamOwner,
        outcome: Result<(), TransportFault>,
    ) {
        match owner {
            StreamOwner::Upstream(key) => self.gateway.handle_upstream(now, key, outcome.into()),
            StreamOwner::Client(key) => self.gateway.handle_tcp(now, key, outcome.into()),
        }
    }

    pub(super) fn write(&mut self, now: Instant, owner: StreamOwner, pieces: Vec<Bytes>) {
        let Some(stream) = self.streams.find(owner) else { return };
        #[cfg(test)]
        self.setup.witness.see(owner, &pieces);
        if self.ring.write(stream, pieces).is_err() {
            // The ring keeps room for one write a stream, and the gateway asks for one at a time.
            self.report_write(now, owner, Err(TransportFault::Exhausted(Resource::Place)));
        }
    }

    pub(super) fn receive(&mut self, owner: StreamOwner, slot_count_max: usize) {
        if let Some(stream) = self.streams.find(owner) {
            self.ring.receive(stream, slot_count_max);
        }
    }

    pub(super) fn close(&mut self, owner: StreamOwner) {
        if let Some(stream) = self.streams.remove(owner) {
            self.ring.close(stream);
        }
    }

    pub(super) fn reset(&mut self, owner: StreamOwner) {
        if let Some(stream) = self.streams.remove(owner) {
            self.ring.reset(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::SlabKey as _;

    #[test]
    fn a_tag_names_its_owner() {
        for (index, generation) in [(0, 0), (7, 9), (0x7fff_ffff, u32::MAX)] {
            let upstream = StreamOwner::Upstream(UpstreamKey::from_parts(index, generation));
            let client = StreamOwner::Client(TcpKey::from_parts(index, generation));
            assert_ne!(upstream.to_tag(), client.to_tag());
            for owner in [upstream, client] {
                assert_eq!(StreamOwner::from_tag(owner.to_tag()), owner);
            }
        }
    }

    #[test]
    #[should_panic(expected = "an index has 31 bits")]
    fn an_index_of_32_bits_is_a_bug() {
        StreamOwner::Upstream(UpstreamKey::from_parts(1 << 31, 0)).to_tag();
    }
}
