//! Clients over TCP: accepted connections become the gateway's, and its commands the ring's.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use super::streams::StreamOwner;
use super::{Phase, Worker};
use crate::gateway::TcpCommand;
use crate::host::socket;
use crate::ring::{ListenerIndex, StreamKey};

/// A listening socket of a worker.
pub(super) struct EdgeListening {
    index: ListenerIndex,
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

impl EdgeListening {
    pub(super) fn new(index: ListenerIndex, listener: usize) -> EdgeListening {
        EdgeListening { index, listener, accepting: Accepting::Off }
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
        let listener = self.listeners[index.index()].listener;
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
        self.listeners[socket].accepting = Accepting::Failed(now + super::turn::RECEIVE_REST);
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
        }
    }

    /// Begins or ends accepting, as the gateway wants it by now.
    pub(super) fn update_accepting(&mut self, now: Instant) {
        for listening in &mut self.listeners {
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
        let retries = self.listeners.iter().filter_map(|listening| match listening.accepting {
            Accepting::Failed(until) => Some(until),
            Accepting::Off | Accepting::On => None,
        });
        retries.min()
    }

    /// Returns the number of connections that wait to be accepted.
    pub(super) fn waiting_count(&self) -> u64 {
        let counts = self.setup.listeners.iter().map(|edge| {
            // The kernel knows it of each socket that listens.
            socket::waiting_count(&edge.socket).map_or(0, u64::from)
        });
        counts.sum()
    }
}
