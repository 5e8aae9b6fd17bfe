//! Clients over TCP.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::Gateway;
use crate::base::slab::slab_key;
use crate::proxy::TransportFault;

slab_key! {
    /// One client's TCP connection, from its acceptance to [`TcpCommand::Close`]. From then on the
    /// key is dead, and later events are ignored, so the worker need not filter them.
    pub TcpKey
}

/// An event on a client's TCP connection.
#[derive(Debug)]
pub enum TcpEvent {
    /// The bytes that one [`TcpCommand::Receive`] asked for; at least one.
    Received(BytesMut),
    /// A part of the bytes that one [`TcpCommand::Receive`] asked for. The other parts follow
    /// immediately, the last of them as `Received`.
    ReceivedPart(BytesMut),
    /// The client has closed its side (in place of `Received`).
    End,
    /// The connection broke.
    Failed(TransportFault),
    /// The kernel has taken all of the last [`TcpCommand::Write`].
    Wrote,
    /// The last [`TcpCommand::Write`] failed.
    WriteFailed(TransportFault),
}

/// An action on a client's TCP connection, for the owner of the gateway; to be carried out in
/// order.
#[derive(Debug)]
pub enum TcpCommand {
    /// Write all of `pieces` in order, then report `Wrote`. Never two at once on one connection.
    Write {
        key: TcpKey,
        /// At most [`crate::limits::UPSTREAM_WRITE_PIECES_MAX`], none empty.
        pieces: Vec<Bytes>,
    },
    /// Receive once, into `slot_count_max` slots at most. Never two at once on one connection.
    Receive { key: TcpKey, slot_count_max: usize },
    /// Close our side once the writes before it are done, so that the client gets the end.
    ShutDown { key: TcpKey },
    /// Close the connection, whatever its state. The key is dead from then on.
    Close { key: TcpKey },
}

impl Gateway {
    /// Takes a connection that a client has opened to a TCP socket of the listener with this index.
    /// Returns `None` if it is to be closed at once.
    pub fn accept(&mut self, now: Instant, listener: usize, client: SocketAddr) -> Option<TcpKey> {
        let _ = (now, listener, client);
        None
    }

    /// Handles an event on a connection. An event for a dead key is ignored.
    pub fn handle_tcp(&mut self, now: Instant, key: TcpKey, event: TcpEvent) {
        let _ = (now, key, event);
    }

    /// Returns whether the worker should accept connections at the sockets of this listener: it may
    /// have more, and is not draining. Otherwise they wait in the kernel.
    pub fn accepts(&self, listener: usize) -> bool {
        let _ = listener;
        true
    }
}
