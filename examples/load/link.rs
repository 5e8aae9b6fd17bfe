//! One connection, with as much HTTP/3 as a load needs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    Connection, ConnectionError, Dir, Event, ReadError, StreamEvent, StreamId, VarInt, WriteError,
};
use ringway::testing::http3::{CONTROL_PREFACE, ResponseReader, put_data_header, put_headers};

use crate::work::Work;
use crate::{Arguments, Failure};

const BODY_PIECE_LEN: usize = 256 * 1024;

/// The bytes of every request.
pub struct Request {
    /// HEADERS, and the header of the one DATA frame of an upload.
    head: Bytes,
    body_len: u64,
    body_piece: Bytes,
}

impl Request {
    pub fn new(arguments: &Arguments) -> Arc<Self> {
        let mut head = BytesMut::new();
        let body_len = arguments.upload.to_string();
        let mut lines = vec![
            (":method", if arguments.upload > 0 { "POST" } else { "GET" }),
            (":scheme", "https"),
            (":authority", &arguments.host),
            (":path", &arguments.path),
        ];
        if arguments.upload > 0 {
            lines.push(("content-length", &body_len));
        }
        put_headers(lines, &mut head);
        if arguments.upload > 0 {
            put_data_header(arguments.upload, &mut head);
        }
        let body_piece = Bytes::from(vec![0x75; BODY_PIECE_LEN]);
        Arc::new(Self { head: head.freeze(), body_len: arguments.upload, body_piece })
    }
}

/// A connection and its requests.
pub struct Link {
    pub connection: Connection,
    /// Its deadline, as recorded in the client's timer queue.
    pub timer: Option<Instant>,
    is_connected: bool,
    is_lost: bool,
    request: Arc<Request>,
    exchanges: HashMap<StreamId, Exchange>,
    streams_max: usize,
    /// Number of requests that it may still begin.
    requests_left: u64,
    /// When its first request was due, if that was before the handshake.
    due: Option<Instant>,
}

struct Exchange {
    due: Instant,
    /// The parts of head and body not yet written.
    head: Bytes,
    body_left: u64,
    response: ResponseReader,
}

impl Link {
    pub fn new(
        connection: Connection,
        request: Arc<Request>,
        streams_max: usize,
        requests_left: u64,
        due: Option<Instant>,
    ) -> Self {
        Self {
            connection,
            timer: None,
            is_connected: false,
            is_lost: false,
            request,
            exchanges: HashMap::new(),
            streams_max,
            requests_left,
            due,
        }
    }

    /// Returns whether all its requests are answered.
    pub fn is_used_up(&self) -> bool {
        self.requests_left == 0 && self.exchanges.is_empty()
    }

    /// Returns whether its handshake is in progress.
    pub fn is_opening(&self) -> bool {
        !self.is_connected && !self.is_lost
    }

    pub fn in_flight(&self) -> usize {
        self.exchanges.len()
    }

    pub fn has_room(&self) -> bool {
        self.is_connected && self.requests_left > 0 && self.exchanges.len() < self.streams_max
    }

    /// Returns whether its first request was due before the handshake.
    pub fn is_due(&self) -> bool {
        self.due.is_some()
    }

    /// Begins one request if it has room and one is due. Returns whether it did.
    pub fn begin_request(&mut self, now: Instant, work: &mut Work) -> Result<bool, Failure> {
        let is_due = self.is_due() || work.next_due(now).is_some_and(|due| due <= now);
        if !self.has_room() || !is_due {
            return Ok(false);
        }
        // Without credit it waits for the server's next MAX_STREAMS.
        let Some(id) = self.connection.streams().open(Dir::Bi) else { return Ok(false) };
        let Some(due) = self.due.take().or_else(|| work.begin(now)) else { return Ok(false) };
        self.requests_left -= 1;
        let exchange = Exchange {
            due,
            head: self.request.head.clone(),
            body_left: self.request.body_len,
            response: ResponseReader::default(),
        };
        self.exchanges.insert(id, exchange);
        self.write(id)?;
        Ok(true)
    }

    /// Handles the connection's events.
    pub fn handle_events(&mut self, now: Instant, work: &mut Work) -> Result<(), Failure> {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => {
                    self.is_connected = true;
                    let control = self.connection.streams().open(Dir::Uni);
                    let control = control.ok_or("the server allows no control stream")?;
                    self.connection.send_stream(control).write(&CONTROL_PREFACE)?;
                }
                Event::ConnectionLost { reason } => self.handle_loss(now, &reason, work)?,
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                        self.read(id, now, work)?;
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    self.read(id, now, work)?;
                }
                Event::Stream(StreamEvent::Writable { id }) => self.write(id)?,
                // The response's end says why.
                Event::Stream(StreamEvent::Stopped { .. }) if work.counts_failures() => {}
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    return Err(format!("{id} was stopped with {error_code}").into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Fails all that the lost connection had begun.
    fn handle_loss(
        &mut self,
        now: Instant,
        reason: &ConnectionError,
        work: &mut Work,
    ) -> Result<(), Failure> {
        if !work.counts_failures() {
            return Err(reason.clone().into());
        }
        let reason = match reason {
            ConnectionError::ConnectionClosed(close) => format!("closed {}", close.error_code),
            ConnectionError::ApplicationClosed(close) => format!("closed {}", close.error_code),
            other => other.to_string(),
        };
        (self.is_lost, self.requests_left) = (true, 0);
        let begun = self.exchanges.drain().map(|(_, exchange)| exchange.due);
        for due in begun.chain(self.due.take()) {
            work.failed(now, due, reason.clone())?;
        }
        Ok(())
    }

    /// Closes the connection with H3_NO_ERROR.
    pub fn close(&mut self, now: Instant) {
        self.connection.close(now, VarInt::from_u32(0x100), Bytes::new());
    }

    fn write(&mut self, id: StreamId) -> Result<(), Failure> {
        let Some(exchange) = self.exchanges.get_mut(&id) else { return Ok(()) };
        let mut stream = self.connection.send_stream(id);
        while !exchange.head.is_empty() || exchange.body_left > 0 {
            let piece = &self.request.body_piece;
            let len = exchange.body_left.min(piece.len() as u64) as usize;
            let mut chunks = [exchange.head.clone(), piece.slice(..len)];
            match stream.write_chunks(&mut chunks) {
                Ok(written) => {
                    let of_head = written.bytes.min(exchange.head.len());
                    let _written = exchange.head.split_to(of_head);
                    exchange.body_left -= (written.bytes - of_head) as u64;
                }
                Err(WriteError::Blocked) => return Ok(()),
                // The response's end says why.
                Err(WriteError::Stopped(_)) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        // A second call, when the stream is writable again, has nothing left to write.
        let _finished = stream.finish();
        Ok(())
    }

    /// Reads everything available.
    fn read(&mut self, id: StreamId, now: Instant, work: &mut Work) -> Result<(), Failure> {
        let mut exchange = self.exchanges.get_mut(&id);
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(()) };
        let mut reset = None;
        let is_over = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    if let Some(exchange) = &mut exchange {
                        work.response_len += exchange.response.handle(&chunk.bytes)?;
                    }
                }
                Ok(None) => break true,
                Err(ReadError::Blocked) => break false,
                Err(ReadError::Reset(code)) => {
                    reset = Some(code.into_inner());
                    break true;
                }
            }
        };
        let _transmits = chunks.finalize();
        if !is_over {
            return Ok(());
        }
        let Some(Exchange { due, response, .. }) = self.exchanges.remove(&id) else {
            return Ok(());
        };
        let reason = match (reset, response.status()) {
            (Some(code), _) => format!("reset {code:#x}"),
            (None, Some(200)) if response.is_whole() => return work.answered(now, due),
            (None, Some(200)) => "ended within a frame".to_owned(),
            (None, Some(status)) => format!("status {status}"),
            (None, None) => "ended without a response".to_owned(),
        };
        work.failed(now, due, reason)
    }
}
