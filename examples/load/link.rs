//! One connection: HTTP/3 as far as a load needs it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut as _, Bytes, BytesMut};
use quinn_proto::coding::Codec as _;
use quinn_proto::{Connection, Dir, Event, ReadError, StreamEvent, StreamId, VarInt, WriteError};

use crate::work::Work;
use crate::{Arguments, Failure};

/// RFC 9114 7.2.1 and 7.2.2.
const DATA: u64 = 0;
const HEADERS: u64 = 1;
/// A section without dynamic table whose first field is `:status: 200` (RFC 9204 B, index 25).
const STATUS_200: [u8; 3] = [0x00, 0x00, 0xd9];
/// Stream type, SETTINGS of no length (RFC 9114 6.2.1, 7.2.4).
const CONTROL_PREFACE: &[u8] = &[0x00, 0x04, 0x00];
const BODY_PIECE_LEN: usize = 256 * 1024;

/// What every request consists of.
pub struct Request {
    /// HEADERS, and the header of the one DATA frame of an upload.
    head: Bytes,
    body_len: u64,
    body_piece: Bytes,
}

impl Request {
    pub fn new(arguments: &Arguments) -> Arc<Self> {
        let mut section = BytesMut::from(&[0x00, 0x00][..]);
        let method = if arguments.upload > 0 { 20 } else { 17 };
        // RFC 9204 4.5.2: indexed, static: the method, `:scheme: https`.
        section.put_slice(&[0xc0 | method, 0xc0 | 23]);
        put_literal(&mut section, 0, arguments.host.as_bytes());
        put_literal(&mut section, 1, arguments.path.as_bytes());
        if arguments.upload > 0 {
            put_literal(&mut section, 4, arguments.upload.to_string().as_bytes());
        }
        let mut head = BytesMut::new();
        put_frame_header(&mut head, HEADERS, section.len() as u64);
        head.extend_from_slice(&section);
        if arguments.upload > 0 {
            put_frame_header(&mut head, DATA, arguments.upload);
        }
        let body_piece = Bytes::from(vec![0x75; BODY_PIECE_LEN]);
        Arc::new(Self { head: head.freeze(), body_len: arguments.upload, body_piece })
    }
}

/// RFC 9204 4.5.4: a literal value for the static table's name of this index, below 15.
fn put_literal(section: &mut BytesMut, name: u8, value: &[u8]) {
    section.put_u8(0x50 | name);
    // RFC 9204 4.1.1: an integer with a prefix of 7 bits.
    match value.len() {
        len @ 0..127 => section.put_u8(len as u8),
        len => {
            section.put_u8(127);
            let mut rest = len - 127;
            while rest >= 128 {
                section.put_u8(rest as u8 | 0x80);
                rest >>= 7;
            }
            section.put_u8(rest as u8);
        }
    }
    section.put_slice(value);
}

fn put_frame_header(out: &mut BytesMut, kind: u64, len: u64) {
    for value in [kind, len] {
        VarInt::from_u64(value).expect("lengths are below 2^62").encode(out);
    }
}

/// A connection and its requests.
pub struct Link {
    pub connection: Connection,
    /// When it is to be looked at next, as the client's queue of timers has it.
    pub timer: Option<Instant>,
    pub is_connected: bool,
    request: Arc<Request>,
    exchanges: HashMap<StreamId, Exchange>,
    streams_max: usize,
    /// Requests that it may still begin.
    requests_left: u64,
}

struct Exchange {
    due: Instant,
    /// What of head and body is not written.
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
    ) -> Self {
        Self {
            connection,
            timer: None,
            is_connected: false,
            request,
            exchanges: HashMap::new(),
            streams_max,
            requests_left,
        }
    }

    /// Whether all is answered that it may ask.
    pub fn is_used_up(&self) -> bool {
        self.requests_left == 0 && self.exchanges.is_empty()
    }

    pub fn in_flight(&self) -> usize {
        self.exchanges.len()
    }

    pub fn has_room(&self) -> bool {
        self.is_connected && self.requests_left > 0 && self.exchanges.len() < self.streams_max
    }

    /// Begins one request where it has room and one is due; tells whether it did.
    pub fn begin_request(&mut self, now: Instant, work: &mut Work) -> Result<bool, Failure> {
        if !self.has_room() || work.next_due(now).is_none_or(|due| due > now) {
            return Ok(false);
        }
        // Without credit the server's next MAX_STREAMS is waited for.
        let Some(id) = self.connection.streams().open(Dir::Bi) else { return Ok(false) };
        let Some(due) = work.begin(now) else { return Ok(false) };
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

    /// Works off what has happened.
    pub fn handle_events(&mut self, now: Instant, work: &mut Work) -> Result<(), Failure> {
        while let Some(event) = self.connection.poll() {
            match event {
                Event::Connected => {
                    self.is_connected = true;
                    let control = self.connection.streams().open(Dir::Uni);
                    let control = control.ok_or("the server allows no control stream")?;
                    self.connection.send_stream(control).write(CONTROL_PREFACE)?;
                }
                Event::ConnectionLost { reason } => return Err(reason.into()),
                Event::Stream(StreamEvent::Opened { dir: Dir::Uni }) => {
                    while let Some(id) = self.connection.streams().accept(Dir::Uni) {
                        self.read(id, now, work)?;
                    }
                }
                Event::Stream(StreamEvent::Readable { id }) => {
                    self.read(id, now, work)?;
                }
                Event::Stream(StreamEvent::Writable { id }) => self.write(id)?,
                Event::Stream(StreamEvent::Stopped { id, error_code }) => {
                    return Err(format!("{id} was stopped with {error_code}").into());
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Says goodbye (H3_NO_ERROR).
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
                Err(error) => return Err(error.into()),
            }
        }
        // A second call, when the stream is writable once more, has nothing to add.
        let _finished = stream.finish();
        Ok(())
    }

    /// Reads all there is.
    fn read(&mut self, id: StreamId, now: Instant, work: &mut Work) -> Result<(), Failure> {
        let mut exchange = self.exchanges.get_mut(&id);
        let mut stream = self.connection.recv_stream(id);
        let Ok(mut chunks) = stream.read(true) else { return Ok(()) };
        let is_over = loop {
            match chunks.next(usize::MAX) {
                Ok(Some(chunk)) => {
                    if let Some(exchange) = &mut exchange {
                        work.response_len += exchange.response.take(&chunk.bytes)?;
                    }
                }
                Ok(None) => break true,
                Err(ReadError::Blocked) => break false,
                Err(ReadError::Reset(code)) => return Err(format!("{id} was reset: {code}").into()),
            }
        };
        let _transmits = chunks.finalize();
        if !is_over {
            return Ok(());
        }
        match self.exchanges.remove(&id) {
            Some(exchange) if exchange.response.is_whole() => work.answered(now, exchange.due),
            Some(_) => Err("a response ended within a frame".into()),
            None => Ok(()),
        }
    }
}

/// Reads of a response its status and how long its body is.
#[derive(Default)]
struct ResponseReader {
    header: Vec<u8>,
    /// The frame that is being read, and what is left of it.
    frame: Option<(u64, u64)>,
    /// The begin of the first HEADERS frame.
    section: Vec<u8>,
}

impl ResponseReader {
    /// Takes bytes; tells how many of them are body.
    fn take(&mut self, mut bytes: &[u8]) -> Result<u64, Failure> {
        let mut body_len = 0;
        while !bytes.is_empty() {
            let Some((kind, left)) = &mut self.frame else {
                self.header.push(bytes[0]);
                bytes = &bytes[1..];
                self.frame = frame_header(&self.header);
                if self.frame.is_some() {
                    self.header.clear();
                }
                continue;
            };
            let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
            match *kind {
                DATA => body_len += here as u64,
                HEADERS if self.section.len() < STATUS_200.len() => {
                    self.section.extend_from_slice(&bytes[..here]);
                    let len = self.section.len().min(STATUS_200.len());
                    if self.section[..len] != STATUS_200[..len] {
                        return Err(format!("not answered 200: {:02x?}", self.section).into());
                    }
                }
                _ => {}
            }
            *left -= here as u64;
            bytes = &bytes[here..];
            if *left == 0 {
                self.frame = None;
            }
        }
        Ok(body_len)
    }

    fn is_whole(&self) -> bool {
        self.frame.is_none() && self.header.is_empty() && !self.section.is_empty()
    }
}

/// Type and length of a frame (RFC 9114 7.1), once they are there.
fn frame_header(mut bytes: &[u8]) -> Option<(u64, u64)> {
    let kind = VarInt::decode(&mut bytes).ok()?;
    let len = VarInt::decode(&mut bytes).ok()?;
    Some((kind.into_inner(), len.into_inner()))
}
