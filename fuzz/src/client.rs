//! A client made of quinn-proto, whose streams and datagrams are in the hands of the input.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, StreamId, VarInt,
};

use super::world::{GATEWAY, tls};

/// Streams that an input can name.
const STREAMS_MAX: usize = 16;

pub struct Client {
    pub address: SocketAddr,
    endpoint: Endpoint,
    handle: ConnectionHandle,
    connection: Connection,
    /// The streams that were opened last, both kinds.
    streams: VecDeque<StreamId>,
    /// Datagrams that have not been delivered.
    pub outgoing: VecDeque<Vec<u8>>,
}

impl Client {
    pub fn new(now: Instant, address: SocketAddr) -> Self {
        let mut endpoint =
            Endpoint::new(Arc::new(EndpointConfig::default()), None, true, Some([7; 32]));
        let connected = endpoint.connect(now, tls().client.clone(), GATEWAY, "localhost");
        let (handle, connection) = connected.expect("a valid client");
        let (streams, outgoing) = Default::default();
        Self { address, endpoint, handle, connection, streams, outgoing }
    }

    /// Handles its timers, and collects the datagrams that it sends.
    pub fn drive(&mut self, now: Instant) {
        if self.connection.poll_timeout().is_some_and(|at| at <= now) {
            self.connection.handle_timeout(now);
        }
        while let Some(event) = self.connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(self.handle, event) {
                self.connection.handle_event(event);
            }
        }
        while self.connection.poll().is_some() {}
        let mut batch = Vec::new();
        while let Some(transmit) = self.connection.poll_transmit(now, 8, &mut batch) {
            let segment_len = transmit.segment_size.unwrap_or(transmit.size).max(1);
            self.outgoing.extend(batch[..transmit.size].chunks(segment_len).map(<[u8]>::to_vec));
            batch.clear();
        }
    }

    /// Handles a datagram from the gateway.
    pub fn take(&mut self, now: Instant, datagram: &[u8]) {
        let mut response = Vec::new();
        let payload = BytesMut::from(datagram);
        let event = self.endpoint.handle(now, GATEWAY, None, None, payload, &mut response);
        if let Some(DatagramEvent::ConnectionEvent(_, event)) = event {
            self.connection.handle_event(event);
        }
    }

    /// Opens a stream, if it may, and writes to it as [`Self::write`] does.
    pub fn open(&mut self, direction: Dir, bytes: &[u8], is_whole: bool) {
        let Some(stream) = self.connection.streams().open(direction) else { return };
        self.streams.push_front(stream);
        self.streams.truncate(STREAMS_MAX);
        self.write(0, bytes, is_whole);
    }

    /// Writes as many of `bytes` as there is room for. Streams that are over take none.
    pub fn write(&mut self, index: u8, bytes: &[u8], is_whole: bool) {
        let Some(stream) = self.stream(index) else { return };
        let mut sending = self.connection.send_stream(stream);
        let _blocked_or_over = sending.write(bytes);
        if is_whole {
            let _over = sending.finish();
        }
    }

    pub fn reset(&mut self, index: u8, code: u8) {
        let Some(stream) = self.stream(index) else { return };
        let _over = self.connection.send_stream(stream).reset(VarInt::from(code));
    }

    pub fn stop(&mut self, index: u8, code: u8) {
        if let Some(stream) = self.stream(index).filter(|stream| stream.dir() == Dir::Bi) {
            let _over = self.connection.recv_stream(stream).stop(VarInt::from(code));
        }
    }

    /// Reads what has come of a response.
    pub fn read(&mut self, index: u8) {
        let Some(stream) = self.stream(index).filter(|stream| stream.dir() == Dir::Bi) else {
            return;
        };
        let mut receiving = self.connection.recv_stream(stream);
        let Ok(mut chunks) = receiving.read(true) else { return };
        while let Ok(Some(_)) = chunks.next(usize::MAX) {}
        let _credit = chunks.finalize();
    }

    pub fn close(&mut self, now: Instant, code: u8) {
        if !self.connection.is_closed() {
            self.connection.close(now, VarInt::from(code), Bytes::new());
        }
    }

    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    fn stream(&self, index: u8) -> Option<StreamId> {
        let count = self.streams.len();
        self.streams.get(usize::from(index).checked_rem(count)?).copied()
    }
}
