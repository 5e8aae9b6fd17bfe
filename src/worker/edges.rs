//! The worker's sockets: those of the running configuration, and those of removed listeners, whose
//! connections drain.
//!
//! ```text
//!   apply: added --> receiving --- removed by a reload ---> leaving --- nothing left ---> gone
//!                        ^                                     |
//!                        +---------- added again --------------+
//! ```
//!
//! The number of a socket is its index in the ring, in the engine and in the gateway. It becomes
//! free when the socket is gone.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Worker;
use super::mailbox::{Edge, Snapshot};
use crate::host::socket::SocketGroup;
use crate::ring::{Ring, SocketIndex};

/// Pause between two looks at what is left on the sockets of removed listeners.
const LEAVING_PAUSE: Duration = Duration::from_millis(100);

/// The sockets of one worker, by number.
#[derive(Default)]
pub(super) struct Edges {
    places: Vec<Option<Place>>,
    /// When to look at those that leave.
    look: Option<Instant>,
}

struct Place {
    socket: SocketIndex,
    /// Keeps the sockets of all workers open, since closing one renumbers the others.
    group: Arc<SocketGroup>,
    is_leaving: bool,
}

impl Edges {
    /// Adds this worker's socket of a group to the ring.
    pub(super) fn open(
        &mut self,
        ring: &mut Ring,
        group: &Arc<SocketGroup>,
        worker: u16,
    ) -> Result<SocketIndex, String> {
        let socket = group.sockets[usize::from(worker)].try_clone();
        let socket = socket
            .map_err(|error| format!("{}: cannot duplicate the socket: {error}", group.address))?;
        let socket = ring.add_socket(socket).map_err(|error| error.to_string())?;
        let place = Place { socket, group: Arc::clone(group), is_leaving: false };
        match self.places.get_mut(socket.index()) {
            Some(free) => *free = Some(place),
            None => self.places.push(Some(place)),
        }
        Ok(socket)
    }

    /// Returns the socket with this number, unless it is gone.
    pub(super) fn get(&self, number: u16) -> Option<SocketIndex> {
        self.places.get(usize::from(number))?.as_ref().map(|place| place.socket)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = SocketIndex> {
        self.places.iter().flatten().map(|place| place.socket)
    }

    /// Returns when to look at those that leave.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.look
    }

    fn has(&self, edge: &Edge) -> bool {
        self.places.iter().flatten().any(|place| Arc::ptr_eq(&place.group, &edge.group))
    }

    /// Returns the sockets of a snapshot's listeners, with the addresses that they are bound to and
    /// the indices of their listeners.
    pub(super) fn bound(
        &self,
        snapshot: &Snapshot,
    ) -> impl Iterator<Item = (SocketIndex, SocketAddr, usize)> {
        let places = self.places.iter().zip(self.listeners(snapshot));
        places.filter_map(|(place, listener)| {
            let Place { socket, group, .. } = place.as_ref()?;
            Some((*socket, group.address, listener?))
        })
    }

    /// Returns the index of each socket's listener, by number.
    fn listeners(&self, snapshot: &Snapshot) -> Vec<Option<usize>> {
        let listener = |place: &Option<Place>| {
            let group = &place.as_ref()?.group;
            let edge = snapshot.edges.iter().find(|edge| Arc::ptr_eq(&edge.group, group));
            edge.map(|edge| edge.listener)
        };
        self.places.iter().map(listener).collect()
    }
}

impl Worker<'_> {
    /// Uses another snapshot for new exchanges and connections. Returns why it cannot be used; then
    /// nothing has changed.
    pub(super) fn apply(&mut self, now: Instant, snapshot: Arc<Snapshot>) -> Result<(), String> {
        let mut added = Vec::new();
        let listening = self.open_listening(&snapshot)?;
        let outcome = self.open_edges(&snapshot, &mut added).and_then(|()| {
            let config = Arc::clone(&snapshot.config);
            let listeners = self.edges.listeners(&snapshot);
            self.gateway
                .apply(now, config, &snapshot.tls, &listeners)
                .map(|()| listeners)
                .map_err(|error| error.to_string())
        });
        let listeners = match outcome {
            Ok(listeners) => listeners,
            Err(why) => {
                added.into_iter().for_each(|socket| self.close_edge(socket));
                self.close_listening(&listening);
                return Err(why);
            }
        };
        added.into_iter().for_each(|socket| self.ring.receive_datagrams(socket));
        for (place, listener) in self.edges.places.iter_mut().zip(listeners) {
            if let Some(place) = place {
                place.is_leaving = listener.is_none();
            }
        }
        self.edges.look = Some(now);
        self.settle_listening(&snapshot);
        *self.setup.snapshot.borrow_mut() = Arc::clone(&snapshot);
        self.snapshot = snapshot;
        self.watch_sockets(now);
        Ok(())
    }

    fn open_edges(
        &mut self,
        snapshot: &Snapshot,
        added: &mut Vec<SocketIndex>,
    ) -> Result<(), String> {
        for edge in &snapshot.edges {
            if !self.edges.has(edge) {
                added.push(self.edges.open(&mut self.ring, &edge.group, self.setup.index)?);
            }
        }
        Ok(())
    }

    /// Closes the sockets of removed listeners on which nothing is left.
    pub(super) fn close_left_edges(&mut self, now: Instant) {
        if self.edges.look.is_none_or(|at| at > now) {
            return;
        }
        let leaving = self.edges.places.iter().flatten().filter(|place| place.is_leaving);
        let leaving: Vec<SocketIndex> = leaving.map(|place| place.socket).collect();
        let mut is_left = false;
        for socket in leaving {
            match self.gateway.has_left(now, socket.index() as u16) {
                true => self.close_edge(socket),
                false => is_left = true,
            }
        }
        self.edges.look = is_left.then(|| now + LEAVING_PAUSE);
    }

    fn close_edge(&mut self, socket: SocketIndex) {
        self.forget_unsent(socket);
        self.ring.remove_socket(socket);
        self.edges.places[socket.index()] = None;
    }
}
