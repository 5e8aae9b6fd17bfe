//! What the application does with connections and streams.
//!
//! Everything here may come late: the connection may have closed, or its place may be another's by
//! now. Then the response is `Gone`, and the application does what it would do anyway when it learns
//! of the end.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use quinn_proto::{Dir, FinishError, VarInt};

use super::connection::{Connection, Phase};
use super::engine::Engine;
use super::table::ConnectionKey;
#[cfg(test)]
use super::types::Local;
use super::types::{CloseReason, Event, StreamId};
use crate::limits::READ_CHUNK_COUNT_MAX;

/// The connection or the stream is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// What follows the bytes that a read found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// As much as was asked for came; there may be more.
    Full,
    /// Nothing yet; a [`Event::Readable`] will tell.
    Blocked,
    /// The client finished the stream, and all of it has been read.
    End,
}

/// Why there is nothing more to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The client reset the stream, for this reason.
    Reset(u64),
    /// The connection or the stream is no longer there, or reading was stopped.
    Gone,
}

/// What a write took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes.
    pub bytes: usize,
    /// Pieces taken as a whole; of the next one the front may be taken.
    pub pieces: usize,
}

/// Why a write took nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// No room now; a [`Event::Writable`] will tell.
    Blocked,
    /// The client wants no more of the stream, for this reason.
    Stopped(u64),
    /// The connection or the stream is no longer there, or is finished or reset.
    Gone,
}

impl Engine {
    /// Gives `take` the chunks that follow what was read before, `len_max` bytes at most and
    /// [`READ_CHUNK_COUNT_MAX`] chunks: the client's credit is reckoned once for all of them.
    pub fn read(
        &mut self,
        key: ConnectionKey,
        stream: StreamId,
        len_max: usize,
        mut take: impl FnMut(Bytes),
    ) -> Result<Read, ReadError> {
        let id = receives(stream).ok_or(ReadError::Gone)?;
        let connection = self.open_mut(key).ok_or(ReadError::Gone)?;
        let mut receive = connection.proto.recv_stream(id);
        let mut chunks = receive.read(true).map_err(|_| ReadError::Gone)?;
        let (mut room, mut count_left) = (len_max, READ_CHUNK_COUNT_MAX);
        let read = loop {
            if room == 0 || count_left == 0 {
                break Ok(Read::Full);
            }
            match chunks.next(room) {
                Ok(Some(chunk)) => {
                    room -= chunk.bytes.len();
                    count_left -= 1;
                    take(chunk.bytes);
                }
                Ok(None) => break Ok(Read::End),
                Err(quinn_proto::ReadError::Blocked) => break Ok(Read::Blocked),
                Err(quinn_proto::ReadError::Reset(code)) => {
                    break Err(ReadError::Reset(code.into()));
                }
            }
        };
        // Reading earns the client flow control credit, which has to be told.
        if chunks.finalize().should_transmit() {
            self.table.mark_dirty(key);
        }
        read
    }

    /// Gives `pieces` to a stream, as much as it takes; what was taken is cut off their fronts.
    /// They are held until the client has acknowledged them.
    pub fn write(
        &mut self,
        key: ConnectionKey,
        stream: StreamId,
        pieces: &mut [Bytes],
    ) -> Result<Written, WriteError> {
        let id = sends(stream).ok_or(WriteError::Gone)?;
        let connection = self.open_mut(key).ok_or(WriteError::Gone)?;
        let written = connection.proto.send_stream(id).write_chunks(pieces);
        // A refused write may have to tell the client that it blocks us.
        self.table.mark_dirty(key);
        match written {
            Ok(written) => Ok(Written { bytes: written.bytes, pieces: written.chunks }),
            Err(quinn_proto::WriteError::Blocked) => Err(WriteError::Blocked),
            Err(quinn_proto::WriteError::Stopped(code)) => Err(WriteError::Stopped(code.into())),
            Err(quinn_proto::WriteError::ClosedStream) => Err(WriteError::Gone),
        }
    }

    /// Ends a stream after what was written. [`Event::SendFinished`] tells when all has arrived.
    pub fn finish(&mut self, key: ConnectionKey, stream: StreamId) -> Result<(), WriteError> {
        let id = sends(stream).ok_or(WriteError::Gone)?;
        let connection = self.open_mut(key).ok_or(WriteError::Gone)?;
        let finished = connection.proto.send_stream(id).finish();
        self.table.mark_dirty(key);
        finished.map_err(|error| match error {
            FinishError::Stopped(code) => WriteError::Stopped(code.into()),
            FinishError::ClosedStream => WriteError::Gone,
        })
    }

    /// Abandons sending on a stream (RESET_STREAM). What was written may never arrive.
    pub fn reset(&mut self, key: ConnectionKey, stream: StreamId, code: u64) -> Result<(), Gone> {
        let id = sends(stream).ok_or(Gone)?;
        let connection = self.open_mut(key).ok_or(Gone)?;
        let reset = connection.proto.send_stream(id).reset(error_code(code));
        self.table.mark_dirty(key);
        reset.map_err(|_| Gone)
    }

    /// Asks the client to send no more on a stream (STOP_SENDING); what is unread is thrown away.
    pub fn stop_sending(
        &mut self,
        key: ConnectionKey,
        stream: StreamId,
        code: u64,
    ) -> Result<(), Gone> {
        let id = receives(stream).ok_or(Gone)?;
        let connection = self.open_mut(key).ok_or(Gone)?;
        let stopped = connection.proto.recv_stream(id).stop(error_code(code));
        self.table.mark_dirty(key);
        stopped.map_err(|_| Gone)
    }

    /// Opens a stream on which only we send; `None` where the client allows no more, or is gone.
    pub fn open_uni(&mut self, key: ConnectionKey) -> Option<StreamId> {
        let id = self.open_mut(key)?.proto.streams().open(Dir::Uni)?;
        Some(id.into())
    }

    /// Closes a connection with an application error code; what is unsent is thrown away. A
    /// `Closed` event follows at once.
    pub fn close(&mut self, now: Instant, key: ConnectionKey, code: u64, reason: &[u8]) {
        let Some(connection) = self.open_mut(key) else { return };
        connection.proto.close(now, error_code(code), Bytes::copy_from_slice(reason));
        connection.phase = Phase::Closed;
        self.open -= 1;
        self.push_event(key, Event::Closed(CloseReason::Local { code }));
        self.table.mark_dirty(key);
        self.settle(key);
    }

    /// Closes all connections, half-open ones too.
    pub fn close_all(&mut self, now: Instant, code: u64, reason: &[u8]) {
        for key in self.table.keys() {
            match self.table.get(key).map(|connection| connection.phase) {
                Some(Phase::Open) => self.close(now, key, code, reason),
                Some(Phase::Handshaking { .. }) => self.close_handshaking(now, key, code),
                Some(Phase::Closed) | None => {}
            }
        }
    }

    /// Who the client is: the last address that it has proved to be its own. When it moves, that
    /// is the old one until the new one is proven (RFC 9000 8.2).
    pub fn client_address(&self, key: ConnectionKey) -> Option<SocketAddr> {
        Some(self.table.get(key)?.client)
    }

    /// Smoothed round-trip time (RFC 9002 5.3).
    pub fn rtt(&self, key: ConnectionKey) -> Option<Duration> {
        Some(self.table.get(key)?.proto.rtt())
    }

    fn open_mut(&mut self, key: ConnectionKey) -> Option<&mut Connection> {
        self.table.get_mut(key).filter(|connection| connection.is_open())
    }
}

#[cfg(test)]
impl Engine {
    /// Returns the address that packets go to, which changes with the first packet from elsewhere.
    pub(super) fn remote_address(&self, key: ConnectionKey) -> Option<SocketAddr> {
        Some(self.table.get(key)?.proto.remote_address())
    }

    /// Returns the socket and the address of ours that the connection was last heard at.
    pub(super) fn local(&self, key: ConnectionKey) -> Option<Local> {
        Some(self.table.get(key)?.local)
    }

    /// Returns whether the application may still use the connection.
    pub(super) fn is_open(&self, key: ConnectionKey) -> bool {
        self.table.get(key).is_some_and(Connection::is_open)
    }
}

/// The id where we may receive on that stream.
fn receives(stream: StreamId) -> Option<quinn_proto::StreamId> {
    stream.proto().filter(|_| stream.is_bidirectional() || stream.is_from_client())
}

/// The id where we may send on that stream.
fn sends(stream: StreamId) -> Option<quinn_proto::StreamId> {
    stream.proto().filter(|_| stream.is_bidirectional() || !stream.is_from_client())
}

fn error_code(code: u64) -> VarInt {
    VarInt::from_u64(code).expect("our error codes are below 2^62, as RFC 9000 20.2 has them")
}
