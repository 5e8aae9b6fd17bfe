//! Clients over TCP: accepted connections become the gateway's, and its commands the ring's.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use super::mailbox::{ListeningEdge, Snapshot};
use super::streams::StreamOwner;
use super::{Phase, Worker};
use crate::gateway::TcpCommand;
use crate::host::socket;
use crate::host::socket::ListenerGroup;
use crate::ring::{ListenerIndex, Ring, StreamKey};

/// The listening sockets of one worker, by their index in the ring.
#[derive(Default)]
pub(super) struct Listening {
    places: Vec<Option<Place>>,
}

struct Place {
    index: ListenerIndex,
    /// Keeps the sockets of all workers open.
    group: Arc<ListenerGroup>,
    /// Index of the listener in the configuration.
    listener: usize,
    accepting: Accepting,
}

/// The state of a socket with regard to new clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Accepting {
    Off,
    On,
    /// It has failed, and is tried again at this time.
    Failed(Instant),
}

impl Listening {
    /// Adds this worker's socket of a group to the ring. It accepts nothing yet.
    pub(super) fn open(
        &mut self,
        ring: &mut Ring,
        edge: &ListeningEdge,
        worker: u16,
    ) -> Result<ListenerIndex, String> {
        let ListeningEdge { address, listener, group } = edge;
        let socket = group.sockets[usize::from(worker)].try_clone();
        let socket = socket
            .map_err(|error| format!("{address}: cannot duplicate the TCP socket: {error}"))?;
        let index = ring.add_listener(socket).map_err(|error| error.to_string())?;
        let (group, accepting) = (Arc::clone(group), Accepting::Off);
        let place = Some(Place { index, group, listener: *listener, accepting });
        match self.places.get_mut(index.index()) {
            Some(free) => *free = place,
            None => self.places.push(place),
        }
        Ok(index)
    }

    fn has(&self, edge: &ListeningEdge) -> bool {
        self.places.iter().flatten().any(|place| Arc::ptr_eq(&place.group, &edge.group))
    }
}

impl Worker<'_> {
    /// Hands a connection to the gateway, or closes it if the gateway does not want it.
    pub(super) fn handle_accepted(
        &mut self,
        now: Instant,
        index: ListenerIndex,
        stream: StreamKey,
        client: SocketAddr,
    ) {
        // A connection that the gateway has given up is closed first: the new one may get its key's
        // index.
        self.handle_outputs(now);
        let Some(place) = &self.listening.places[index.index()] else {
            // A reload has removed the listener.
            return self.ring.close(stream);
        };
        let listener = place.listener;
        match self.gateway.accept(now, listener, client) {
            Some(key) => {
                let owner = StreamOwner::Client(key);
                self.ring.set_tag(stream, owner.to_tag());
                self.streams.insert(owner, stream);
            }
            None => self.ring.close(stream),
        }
    }

    pub(super) fn handle_accept_stopped(
        &mut self,
        now: Instant,
        index: ListenerIndex,
        reason: io::ErrorKind,
    ) {
        let socket = index.index();
        tracing::error!(socket, %reason, "the TCP socket has stopped accepting, retrying");
        if let Some(place) = &mut self.listening.places[socket] {
            place.accepting = Accepting::Failed(now + super::turn::RECEIVE_REST);
        }
    }

    pub(super) fn act_tcp(&mut self, now: Instant, command: TcpCommand) {
        match command {
            TcpCommand::Write { key, pieces } => self.write(now, key.into(), pieces),
            TcpCommand::Receive { key, slot_count_max } => self.receive(key.into(), slot_count_max),
            TcpCommand::ShutDown { key } => {
                if let Some(stream) = self.streams.find(key.into()) {
                    self.ring.shut_down_stream(stream);
                }
            }
            TcpCommand::Close { key } => self.close(key.into()),
            TcpCommand::Reset { key } => self.reset(key.into()),
        }
    }

    /// Adds the listening sockets of a snapshot that are new. If one cannot be added, none is.
    pub(super) fn open_listening(
        &mut self,
        snapshot: &Snapshot,
    ) -> Result<Vec<ListenerIndex>, String> {
        let mut added = Vec::new();
        for edge in snapshot.listening.iter() {
            if self.listening.has(edge) {
                continue;
            }
            match self.listening.open(&mut self.ring, edge, self.setup.index) {
                Ok(index) => added.push(index),
                Err(why) => {
                    self.close_listening(&added);
                    return Err(why);
                }
            }
        }
        Ok(added)
    }

    pub(super) fn close_listening(&mut self, sockets: &[ListenerIndex]) {
        for index in sockets {
            self.ring.remove_listener(*index);
            self.listening.places[index.index()] = None;
        }
    }

    /// Takes the listeners of the sockets from a snapshot, and closes the sockets that it has not.
    pub(super) fn settle_listening(&mut self, snapshot: &Snapshot) {
        let mut removed = Vec::new();
        for place in self.listening.places.iter_mut().flatten() {
            let mut edges = snapshot.listening.iter();
            match edges.find(|edge| Arc::ptr_eq(&edge.group, &place.group)) {
                Some(edge) => place.listener = edge.listener,
                None => removed.push(place.index),
            }
        }
        self.close_listening(&removed);
    }

    /// Begins or ends accepting, as the gateway wants it by now.
    pub(super) fn update_accepting(&mut self, now: Instant) {
        for listening in self.listening.places.iter_mut().flatten() {
            let is_serving = self.phase == Phase::Serving;
            let accepts = is_serving && self.gateway.accepts(listening.listener);
            let wanted = match (accepts, listening.accepting) {
                (true, Accepting::Failed(until)) if now < until => continue,
                (true, _) => Accepting::On,
                (false, _) => Accepting::Off,
            };
            if listening.accepting != wanted {
                listening.accepting = wanted;
                self.ring.set_accepting(listening.index, accepts);
            }
        }
    }

    /// Returns when to try again to accept on a socket that failed.
    pub(super) fn accept_retry(&self) -> Option<Instant> {
        let places = self.listening.places.iter().flatten();
        let retries = places.filter_map(|listening| match listening.accepting {
            Accepting::Failed(until) => Some(until),
            Accepting::Off | Accepting::On => None,
        });
        retries.min()
    }

    /// Returns the number of connections that wait to be accepted.
    pub(super) fn waiting_count(&self) -> u64 {
        let counts = self.listening.places.iter().flatten().map(|place| {
            // The kernel knows it of each socket that listens.
            let socket = &place.group.sockets[usize::from(self.setup.index)];
            socket::waiting_count(socket).map_or(0, u64::from)
        });
        counts.sum()
    }
}
