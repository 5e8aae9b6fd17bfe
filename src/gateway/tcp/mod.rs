//! Clients over TCP: TLS or plain bytes, HTTP/2 or HTTP/1.1.
//!
//! ```text
//!   mod.rs         all connections: acceptance, limits, drain
//!   connection.rs  one connection: bytes, timeouts, close
//!   session.rs     its protocol: http1.rs or http2.rs
//!   request.rs     one request on its way to the proxy
//!   client.rs      what all requests of a connection share
//!   places.rs      who has how many connections and handshakes
//! ```
//!
//! The proxy behind them is the one of HTTP/3: routes, limits, upstreams and records are the same.

mod client;
mod connection;
mod http1;
mod http2;
mod places;
mod request;
mod session;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::budget::Backlog;
use super::context::Context;
use super::{Gateway, TcpStreamRef};
use crate::base::pressure::Pressure;
use crate::base::shares::ClientAddress;
use crate::base::slab::{Slab, slab_key};
use crate::message::{AccessRecord, Ending, Outcome};
use crate::proxy::{DownstreamCommand, Proxy, TransportFault};
use crate::proxy_protocol::HeaderReader;
use crate::tls::ByteStream;
use client::Client;
use connection::{Connection, Opening, Progress};
use places::Places;

slab_key! {
    /// One client's TCP connection, from its acceptance to [`TcpCommand::Close`] or
    /// [`TcpCommand::Reset`]. From then on the key is dead, and later events are ignored, so the
    /// worker need not filter them.
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
    /// Close the connection, whatever its state. The client still gets what was written. The key is
    /// dead from then on.
    Close { key: TcpKey },
    /// Break the connection off, whatever its state, so that the client gets a reset: what it has
    /// got is not all. The key is dead from then on.
    Reset { key: TcpKey },
}

/// The state that all connections share with the gateway.
#[derive(Default)]
pub(super) struct TcpShared {
    pub(super) commands: VecDeque<TcpCommand>,
    /// Connections that something happened to since they were last advanced.
    pub(super) unsettled: Vec<TcpKey>,
    places: Places,
}

/// The connections of one gateway.
pub(super) struct TcpClients {
    connections: Slab<TcpKey, Box<Connection>>,
}

impl TcpClients {
    pub(super) fn new() -> Self {
        Self { connections: Slab::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.connections.len()
    }

    /// Takes a connection, unless its client has as many as it may. That of a proxy is judged when
    /// it has announced its client.
    fn accept(
        &mut self,
        listener: usize,
        peer: SocketAddr,
        cx: &mut Context<'_>,
    ) -> Option<TcpKey> {
        let settings = Arc::clone(&cx.shared.settings.tcp[listener]);
        let header = settings.is_proxy(peer.ip()).then(HeaderReader::default);
        let address = peer.ip().into();
        let places = &cx.shared.tcp.places;
        let is_refused = cx.shared.drain_end.is_some()
            || cx.shared.pressure != Pressure::None
            || places.are_taken(&settings)
            || header.is_none() && places.are_at_share(&settings, address);
        if is_refused {
            cx.shared.counters.tcp.connections_refused += 1;
            return None;
        }
        let stream = match &settings.tls {
            None => ByteStream::plain(),
            Some(tls) => ByteStream::Tls(Box::new(tls.accept().ok()?)),
        };
        cx.shared.tcp.places.take(&settings, address);
        cx.shared.counters.tcp.connections_accepted += 1;
        let key = self.connections.insert_with(|key| {
            let client = Client::new(key, peer, settings);
            Box::new(Connection::new(client, Opening { stream, header }, cx))
        });
        cx.shared.tcp.unsettled.push(key);
        Some(key)
    }

    /// Calls `act` on a connection that is still there, and has it advanced.
    fn on(
        &mut self,
        key: TcpKey,
        cx: &mut Context<'_>,
        act: impl FnOnce(&mut Connection, &mut Context<'_>),
    ) {
        if let Some(connection) = self.connections.get_mut(key) {
            act(connection, cx);
            if cx.shared.tcp.unsettled.last() != Some(&key) {
                cx.shared.tcp.unsettled.push(key);
            }
        }
    }

    pub(super) fn handle_timer(&mut self, key: TcpKey, cx: &mut Context<'_>) {
        self.on(key, cx, Connection::handle_timer);
    }

    pub(super) fn handle_command(
        &mut self,
        to: TcpStreamRef,
        command: DownstreamCommand,
        cx: &mut Context<'_>,
    ) {
        self.on(to.connection, cx, |connection, cx| {
            connection.handle_command(to.stream, command, cx);
        });
    }

    /// Takes the record of an exchange that is over.
    pub(super) fn take_record(
        &mut self,
        of: TcpStreamRef,
        mut record: Box<AccessRecord>,
        cx: &mut Context<'_>,
    ) {
        match self.connections.get_mut(of.connection) {
            Some(connection) => connection.take_record(of.stream, record, cx),
            None => {
                // The connection ended in the same turn as the exchange.
                record.end(Outcome::Unconfirmed.into());
                cx.log(record);
            }
        }
    }

    /// Returns what waits for the client of a response, if it is still there.
    pub(super) fn backlog(&self, of: TcpStreamRef) -> Option<Backlog> {
        Some(self.connections.get(of.connection)?.backlog(of.stream))
    }

    /// Advances a connection, and removes it if it is over.
    pub(super) fn settle(&mut self, key: TcpKey, cx: &mut Context<'_>) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.advance(cx) == Progress::Over {
            self.remove(key, cx);
        }
    }

    fn remove(&mut self, key: TcpKey, cx: &mut Context<'_>) {
        let connection = self.connections.remove(key).expect("the caller has just seen it");
        cx.shared.counters.tcp.connections_closed += 1;
        connection.remove(cx);
    }

    /// Closes a connection because memory is used up.
    pub(super) fn evict(&mut self, key: TcpKey, cx: &mut Context<'_>) {
        self.on(key, cx, |connection, cx| connection.close(Outcome::Evicted.into(), cx));
        self.settle(key, cx);
    }

    /// Returns what is charged to each connection, and to which address.
    pub(super) fn accounts(
        &self,
        proxy: &Proxy,
    ) -> impl Iterator<Item = (TcpKey, ClientAddress, u64)> {
        self.connections.iter().map(|(key, connection)| {
            let address = connection.address().ip().into();
            (key, address, connection.held_len(proxy) as u64)
        })
    }

    /// Returns the address of a client, as far as it is known.
    fn client_address(&self, key: TcpKey) -> Option<IpAddr> {
        Some(self.connections.get(key)?.address().ip())
    }

    /// Lets the connections of listeners that have no TCP any more end once their requests are
    /// served, or at `end`.
    pub(super) fn drain_removed(&mut self, end: Instant, cx: &mut Context<'_>) {
        for key in self.connections.keys() {
            let Some(connection) = self.connections.get(key) else { continue };
            let name = connection.listener_name();
            let is_kept = cx.shared.settings.tcp.iter().any(|settings| {
                settings.listener.name == name && settings.listener.protocols.use_tcp()
            });
            if !is_kept {
                self.on(key, cx, |connection, cx| connection.drain(Some(end), cx.now));
            }
        }
    }

    /// Lets all connections end once their requests are served.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) {
        for key in self.connections.keys() {
            self.on(key, cx, |connection, cx| connection.drain(None, cx.now));
        }
    }

    /// Closes all connections at once.
    pub(super) fn close(&mut self, cx: &mut Context<'_>) {
        for key in self.connections.keys() {
            let ending = Ending::from(Outcome::GatewayClosed);
            self.on(key, cx, |connection, cx| connection.close(ending, cx));
            self.settle(key, cx);
        }
    }
}

impl Gateway {
    /// Takes a connection that a client has opened to a TCP socket of the listener with this index.
    /// Returns `None` if it is to be closed at once.
    pub fn accept(&mut self, now: Instant, listener: usize, peer: SocketAddr) -> Option<TcpKey> {
        let (clients, mut cx) = self.lend_tcp(now);
        clients.accept(listener, peer, &mut cx)
    }

    /// Handles an event on a connection. An event for a dead key is ignored.
    pub fn handle_tcp(&mut self, now: Instant, key: TcpKey, event: TcpEvent) {
        let (clients, mut cx) = self.lend_tcp(now);
        clients.on(key, &mut cx, |connection, cx| connection.handle(event, cx));
    }

    /// Returns the address that a connection is charged to; `None` for a dead key.
    pub(crate) fn tcp_client_address(&self, key: TcpKey) -> Option<IpAddr> {
        self.tcp.client_address(key)
    }

    /// Returns whether the worker should accept connections at the sockets of this listener: it may
    /// have more, and is not draining. Otherwise they wait in the kernel.
    pub fn accepts(&self, listener: usize) -> bool {
        let settings = &self.shared.settings.tcp[listener];
        self.shared.drain_end.is_none()
            && self.shared.pressure == Pressure::None
            && self.shared.tcp.places.are_left(settings)
    }
}
