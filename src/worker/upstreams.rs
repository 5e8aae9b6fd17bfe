//! Connects to upstreams.
//!
//! The gateway opens a connection to an endpoint. If that has several addresses, they are tried
//! here one after the other, within the gateway's time for the connect, and the one that worked is
//! the first to be tried for the next connection.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::Worker;
use super::streams::StreamOwner;
use crate::address::EndpointAddress;
use crate::base::slab::KeyMap;
use crate::proxy::{Resource, TransportFault, UpstreamEvent, UpstreamKey};
use crate::ring::ConnectError;

/// The connects of a worker to endpoints with several addresses.
#[derive(Default)]
pub(super) struct Connects {
    /// Connections that are being opened to an endpoint with several addresses.
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
        let current = self.connects.working.get(&addresses).copied().unwrap_or(0);
        let (address, left) = (EndpointAddress::Tcp(addresses[current]), addresses.len() - 1);
        let attempt = Attempt { addresses, congestion: congestion.clone(), current, left };
        self.connects.attempts.insert(key, attempt);
        self.open(now, key, &address, congestion.as_deref());
    }

    fn open(
        &mut self,
        now: Instant,
        key: UpstreamKey,
        address: &EndpointAddress,
        congestion: Option<&str>,
    ) {
        let owner = StreamOwner::Upstream(key);
        match self.ring.connect(owner.to_tag(), address, congestion) {
            Ok(stream) => self.streams.insert(owner, stream),
            Err(_full) => {
                self.connects.attempts.remove(key);
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
        tag: u64,
        outcome: Result<(), ConnectError>,
    ) {
        let owner = StreamOwner::from_tag(tag);
        let StreamOwner::Upstream(key) = owner else {
            unreachable!("only connections to upstreams are connected");
        };
        if self.streams.find(owner).is_none() {
            // The gateway has closed it meanwhile.
            return;
        }
        let attempt = self.connects.attempts.remove(key);
        if let Err(error) = outcome {
            self.close(owner);
            if let Some(next) = attempt.and_then(|attempt| attempt.after(error)) {
                self.counters.connect_fallbacks += 1;
                let address = EndpointAddress::Tcp(next.addresses[next.current]);
                let congestion = next.congestion.clone();
                self.connects.attempts.insert(key, next);
                return self.open(now, key, &address, congestion.as_deref());
            }
        } else if let Some(Attempt { addresses, current, .. }) = attempt {
            match current {
                0 => self.connects.working.remove(&addresses),
                _ => self.connects.working.insert(addresses, current),
            };
        }
        self.gateway.handle_upstream(now, key, connected(outcome));
    }

    pub(super) fn close_upstream(&mut self, key: UpstreamKey) {
        self.connects.attempts.remove(key);
        self.close(key.into());
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
