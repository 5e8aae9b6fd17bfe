//! The application's operations on connections and streams.
//!
//! Each may come too late: the connection may have closed, or its index may belong to another by
//! now. Then it returns `Gone`, and the application does what it does on the end of a connection.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use quinn_proto::{Dir, FinishError, VarInt};

use super::connection::{Connection, Phase};
use super::engine::Engine;
use super::table::ConnectionKey;
#[cfg(test)]
use super::types::Local;
use super::types::{CloseReason, Event, StreamId};
use crate::base::shares::ClientAddress;
use crate::limits::{CLOSING_TIMEOUT, READ_CHUNK_COUNT_MAX};

/// The connection or the stream is no longer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// The state of a stream after a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Read {
    /// All the bytes asked for were read; there may be more.
    Full,
    /// No more for now; a [`Event::Readable`] follows.
    Blocked,
    /// The client finished the stream, and all of it is read.
    End,
}

/// The reason why nothing more can be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadError {
    /// The client reset the stream with this code.
    Reset(u64),
    /// The connection or the stream is no longer there, or reading was stopped.
    Gone,
}

/// The amount that a write accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Bytes accepted.
    pub bytes: usize,
    /// Pieces accepted as a whole; a prefix of the next one may be accepted too.
    pub pieces: usize,
    /// Other streams of the connection come first now; a [`Event::Writable`] follows.
    pub is_turn_over: bool,
}

/// The reason why a write accepted nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteError {
    /// No room now; a [`Event::Writable`] follows.
    Blocked,
    /// The client sent STOP_SENDING with this code.
    Stopped(u64),
    /// The connection or the stream is no longer there, or is finished or reset.
    Gone,
}

impl Engine {
    /// Passes the next chunks of a stream to `take`, at most `len_max` bytes and
    /// [`READ_CHUNK_COUNT_MAX`] chunks. Flow control credit is computed once for all of them.
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
        let has_credit = chunks.finalize().should_transmit();
        connection.windows.read(len_max - room);
        connection.unread.read(len_max - room, READ_CHUNK_COUNT_MAX - count_left);
        if stream.is_bidirectional() && matches!(read, Ok(Read::End) | Err(ReadError::Reset(_))) {
            connection.unread.over();
        }
        // Reading frees flow control credit, which must be sent to the client.
        if has_credit {
            self.table.mark_dirty(key);
        }
        read
    }

    /// Writes as much of `pieces` to a stream as it accepts, and cuts the accepted bytes off their
    /// fronts. They are held until the client has acknowledged them.
    pub fn write(
        &mut self,
        key: ConnectionKey,
        stream: StreamId,
        pieces: &mut [Bytes],
    ) -> Result<Written, WriteError> {
        let id = sends(stream).ok_or(WriteError::Gone)?;
        let connection = self.open_mut(key).ok_or(WriteError::Gone)?;
        let len = pieces.iter().map(Bytes::len).sum();
        if !connection.unacknowledged.may_write(stream, len) {
            connection.turns.leave(stream);
            return Err(WriteError::Blocked);
        }
        let turn_len = connection.turns.len_of(stream);
        let mut send = connection.proto.send_stream(id);
        let written = if len <= turn_len {
            send.write_chunks(pieces)
        } else {
            write_turn(turn_len, pieces, &mut send)
        };
        let written = match written {
            Ok(quinn_proto::Written { bytes, chunks: pieces }) => {
                connection.unacknowledged.wrote(stream, bytes, len);
                let is_turn_over = bytes == turn_len && bytes < len;
                if is_turn_over {
                    connection.turns.yield_turn(stream);
                    self.push_event(key, Event::Writable(stream));
                } else if bytes < len {
                    connection.turns.wrote(stream, bytes);
                } else {
                    connection.turns.leave(stream);
                }
                Ok(Written { bytes, pieces, is_turn_over })
            }
            Err(quinn_proto::WriteError::Blocked) => {
                let written_len = connection.unacknowledged.written_len(stream);
                connection.turns.refused(stream, written_len);
                Err(WriteError::Blocked)
            }
            Err(error) => {
                connection.turns.leave(stream);
                Err(match error {
                    quinn_proto::WriteError::Stopped(code) => WriteError::Stopped(code.into()),
                    _ => WriteError::Gone,
                })
            }
        };
        // A refused write may cause a DATA_BLOCKED or STREAM_DATA_BLOCKED frame.
        self.table.mark_dirty(key);
        written
    }

    /// Sends a PING, which the client acknowledges: its connection is then not idle. Does nothing
    /// if the connection is gone.
    pub fn ping(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.open_mut(key) {
            connection.proto.ping();
            self.table.mark_dirty(key);
        }
    }

    /// Ends a stream after the bytes written so far. [`Event::SendFinished`] follows when all of
    /// them are acknowledged.
    pub fn finish(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        stream: StreamId,
    ) -> Result<(), WriteError> {
        let id = sends(stream).ok_or(WriteError::Gone)?;
        let connection = self.open_mut(key).ok_or(WriteError::Gone)?;
        let finished = connection.proto.send_stream(id).finish();
        connection.unacknowledged.finished(now, stream);
        self.table.mark_dirty(key);
        finished.map_err(|error| match error {
            FinishError::Stopped(code) => WriteError::Stopped(code.into()),
            FinishError::ClosedStream => WriteError::Gone,
        })
    }

    /// Resets a stream (RESET_STREAM). Written bytes may never arrive.
    pub fn reset(&mut self, key: ConnectionKey, stream: StreamId, code: u64) -> Result<(), Gone> {
        let id = sends(stream).ok_or(Gone)?;
        let connection = self.open_mut(key).ok_or(Gone)?;
        let reset = connection.proto.send_stream(id).reset(error_code(code));
        connection.unacknowledged.over(stream);
        connection.turns.leave(stream);
        self.table.mark_dirty(key);
        reset.map_err(|_| Gone)
    }

    /// Asks the client to send no more on a stream (STOP_SENDING) and discards unread bytes.
    pub fn stop_sending(
        &mut self,
        key: ConnectionKey,
        stream: StreamId,
        code: u64,
    ) -> Result<(), Gone> {
        let id = receives(stream).ok_or(Gone)?;
        let connection = self.open_mut(key).ok_or(Gone)?;
        let stopped = connection.proto.recv_stream(id).stop(error_code(code));
        if stopped.is_ok() && stream.is_bidirectional() {
            connection.unread.over();
        }
        self.table.mark_dirty(key);
        stopped.map_err(|_| Gone)
    }

    /// Opens a unidirectional stream. Returns `None` if the client allows no more, or is gone.
    pub fn open_uni(&mut self, key: ConnectionKey) -> Option<StreamId> {
        let id = self.open_mut(key)?.proto.streams().open(Dir::Uni)?;
        Some(id.into())
    }

    /// Closes a connection with an application error code and discards unsent bytes. Queues its
    /// `Closed` event.
    pub fn close(&mut self, now: Instant, key: ConnectionKey, code: u64, reason: &[u8]) {
        self.close_for(now, key, code, reason, CLOSING_TIMEOUT);
    }

    /// Closes a connection as [`Engine::close`] does, and frees all of its memory as soon as the
    /// close has left. Late packets of the client are answered by stateless resets.
    pub fn evict(&mut self, now: Instant, key: ConnectionKey, code: u64, reason: &[u8]) {
        self.close_for(now, key, code, reason, Duration::ZERO);
    }

    fn close_for(
        &mut self,
        now: Instant,
        key: ConnectionKey,
        code: u64,
        reason: &[u8],
        kept: Duration,
    ) {
        let Some(connection) = self.open_mut(key) else { return };
        connection.proto.close(now, error_code(code), Bytes::copy_from_slice(reason));
        connection.phase = Phase::Closed { deadline: now + kept };
        self.open -= 1;
        self.push_event(key, Event::Closed(CloseReason::Local { code }));
        self.table.mark_dirty(key);
        self.settle(now, key);
    }

    /// Closes all connections, including half-open ones.
    pub fn close_all(&mut self, now: Instant, code: u64, reason: &[u8]) {
        for key in self.table.keys() {
            match self.table.get(key).map(|connection| connection.phase) {
                Some(Phase::Open) => self.close(now, key, code, reason),
                Some(Phase::Handshaking { .. }) => self.close_handshaking(now, key, code),
                Some(Phase::Failed | Phase::Closed { .. }) | None => {}
            }
        }
    }

    /// Closes every connection that sends from this socket, or is about to be open on it.
    pub fn close_on_socket(&mut self, now: Instant, socket: u16, code: u64) {
        for key in self.table.keys() {
            let connection = self.table.get(key).filter(|one| one.local.socket == socket);
            match connection.map(|connection| connection.phase) {
                Some(Phase::Open) => self.close(now, key, code, b""),
                Some(Phase::Handshaking { .. }) => self.close_handshaking(now, key, code),
                Some(Phase::Failed | Phase::Closed { .. }) | None => {}
            }
        }
    }

    /// Returns the client's last validated address. After a move, that is the old one until path
    /// validation of the new one succeeds (RFC 9000 8.2).
    pub fn client_address(&self, key: ConnectionKey) -> Option<SocketAddr> {
        Some(self.table.get(key)?.client)
    }

    /// Notes that a request was refused for lack of room: its connection gets fewer streams for a
    /// while.
    pub fn note_refused(&mut self, now: Instant, key: ConnectionKey) {
        if let Some(connection) = self.open_mut(key) {
            connection.stream_credit.refused(now);
        }
    }

    /// Returns the address that is charged for a connection: the one that began it.
    pub(crate) fn charged_address(&self, key: ConnectionKey) -> Option<ClientAddress> {
        Some(self.table.get(key)?.address)
    }

    /// Returns an upper bound of the bytes that the engine holds for a connection.
    pub fn held_len(&self, key: ConnectionKey) -> u64 {
        self.table.get(key).map_or(0, Connection::held_len)
    }

    /// Returns the smoothed round-trip time (RFC 9002 5.3).
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

/// Writes the first `turn_len` bytes of `pieces`, which have more, as far as the stream accepts
/// them.
fn write_turn(
    turn_len: usize,
    pieces: &mut [Bytes],
    send: &mut quinn_proto::SendStream<'_>,
) -> Result<quinn_proto::Written, quinn_proto::WriteError> {
    let (mut whole_count, mut rest_len) = (0, turn_len);
    while pieces[whole_count].len() <= rest_len {
        rest_len -= pieces[whole_count].len();
        whole_count += 1;
    }
    let (whole, others) = pieces.split_at_mut(whole_count);
    let whole_len = turn_len - rest_len;
    let mut written = quinn_proto::Written::default();
    if whole_len > 0 {
        written = send.write_chunks(whole)?;
    }
    if written.bytes == whole_len && rest_len > 0 {
        match send.write_chunks(&mut [others[0].slice(..rest_len)]) {
            Ok(part) => {
                others[0].advance(part.bytes);
                written.bytes += part.bytes;
            }
            Err(error) if whole_len == 0 => return Err(error),
            // There was room for the whole ones; the next write finds out.
            Err(_) => {}
        }
    }
    Ok(written)
}

/// Returns the id if we may receive on that stream.
fn receives(stream: StreamId) -> Option<quinn_proto::StreamId> {
    stream.proto().filter(|_| stream.is_bidirectional() || stream.is_from_client())
}

/// Returns the id if we may send on that stream.
fn sends(stream: StreamId) -> Option<quinn_proto::StreamId> {
    stream.proto().filter(|_| stream.is_bidirectional() || !stream.is_from_client())
}

fn error_code(code: u64) -> VarInt {
    VarInt::from_u64(code).expect("our error codes are below 2^62 (RFC 9000 20.2)")
}
