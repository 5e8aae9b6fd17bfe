//! Upstream connections: the gateway's names for them, the ring's, and what each says of them.
//!
//! The gateway opens a connection to an endpoint. If that has several addresses, they are tried
//! here one after the other, within the gateway's time for the connect, and the one that worked is
//! the first to be tried for the next connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use super::Worker;
use crate::address::EndpointAddress;
use crate::base::slab::KeyMap;
use crate::proxy::{Resource, TransportFault, UpstreamEvent, UpstreamKey};
use crate::ring::{ConnectError, ReceiveOutcome, StreamError, StreamKey};

/// The upstream connections of a worker.
#[derive(Default)]
pub(super) struct Upstreams {
    /// The ring's key of each.
    streams: KeyMap<UpstreamKey, StreamKey>,
    /// Those that are being opened to an endpoint with several addresses.
    attempts: KeyMap<UpstreamKey, Attempt>,
    /// The address that worked last, by the addresses of its endpoint, if it is not the first. At
    /// most one entry for each endpoint of a configuration.
    working: BTreeMap<Arc<[SocketAddr]>, usize>,
}

/// A connect to an endpoint with several addresses.
struct Attempt {
    addresses: Arc<[SocketAddr]>,
    congestion: Option<Arc<str>>,
    /// The index of the address that is being tried.
    current: usize,
    /// The number of addresses that have not been tried.
    left: usize,
}

impl Worker<'_> {
    pub(super) fn connect(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        address: &EndpointAddress,
        congestion: Option<Arc<str>>,
    ) {
        let EndpointAddress::Named(named) = address else {
            return self.open(now, key, address, congestion.as_deref());
        };
        let addresses = Arc::clone(&named.addresses);
        let current = self.upstreams.working.get(&addresses).copied().unwrap_or(0);
        let (address, left) = (EndpointAddress::Tcp(addresses[current]), addresses.len() - 1);
        let attempt = Attempt { addresses, congestion: congestion.clone(), current, left };
        self.upstreams.attempts.insert(key, attempt);
        self.open(now, key, &address, congestion.as_deref());
    }

    fn open(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        address: &EndpointAddress,
        congestion: Option<&str>,
    ) {
        match self.ring.connect(key.to_bits(), address, congestion) {
            Ok(stream) => self.upstreams.streams.insert(key, stream),
            Err(_full) => {
                self.upstreams.attempts.remove(key);
                let event =
                    UpstreamEvent::ConnectFailed(TransportFault::Exhausted(Resource::Place));
                self.gateway.handle_upstream(now, key, event);
            }
        }
    }

    /// Handles the end of a connect: reports it, or tries the next address.
    pub(super) fn handle_connected(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        outcome: Result<(), ConnectError>,
    ) {
        if self.upstreams.streams.get(key).is_none() {
            // The gateway has closed it meanwhile.
            return;
        }
        let attempt = self.upstreams.attempts.remove(key);
        if let Err(error) = outcome {
            self.close(key);
            if let Some(next) = attempt.and_then(|attempt| attempt.after(error)) {
                self.counters.connect_fallbacks += 1;
                let address = EndpointAddress::Tcp(next.addresses[next.current]);
                let congestion = next.congestion.clone();
                self.upstreams.attempts.insert(key, next);
                return self.open(now, key, &address, congestion.as_deref());
            }
        } else if let Some(Attempt { addresses, current, .. }) = attempt {
            match current {
                0 => self.upstreams.working.remove(&addresses),
                _ => self.upstreams.working.insert(addresses, current),
            };
        }
        self.gateway.handle_upstream(now, key, connected(outcome));
    }

    pub(super) fn write(&mut self, now: Instant, key: UpstreamKey, pieces: Vec<Bytes>) {
        let Some(&stream) = self.upstreams.streams.get(key) else { return };
        #[cfg(test)]
        self.setup.witness.see(&pieces);
        if self.ring.write(stream, pieces).is_err() {
            // The ring keeps room for one write a stream, and the proxy asks for one at a time.
            let event = UpstreamEvent::WriteFailed(TransportFault::Exhausted(Resource::Place));
            self.gateway.handle_upstream(now, key, event);
        }
    }

    pub(super) fn receive(&mut self, key: UpstreamKey, slot_count_max: usize) {
        if let Some(&stream) = self.upstreams.streams.get(key) {
            self.ring.receive(stream, slot_count_max);
        }
    }

    pub(super) fn close(&mut self, key: UpstreamKey) {
        self.upstreams.attempts.remove(key);
        if let Some(stream) = self.upstreams.streams.remove(key) {
            self.ring.close(stream);
        }
    }
}

impl Attempt {
    /// Returns the attempt at the next address, if there is one and it may do better: a process
    /// that has no descriptor, or no memory, has none for another address either.
    fn after(self, error: ConnectError) -> Option<Attempt> {
        let left = self.left.checked_sub(1)?;
        let current = (self.current + 1) % self.addresses.len();
        let is_ours = matches!(error, ConnectError::NoDescriptor | ConnectError::NoMemory);
        (!is_ours).then_some(Attempt { current, left, ..self })
    }
}

fn connected(outcome: Result<(), ConnectError>) -> UpstreamEvent {
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
