//! One request of a client: when it sends and reads, and its outcome.

use std::time::Instant;

use bytes::{Buf as _, Bytes};
use quinn_proto::{Connection, Dir, ReadError, StreamId, VarInt, WriteError};

use crate::frames::{Response, encode_request};
use crate::plan::{Ask, Behaviour};

/// The response as a client received it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Got {
    Whole {
        status: u16,
        body: Vec<u8>,
        trailers: bool,
        interim_count: usize,
    },
    Reset(u64),
    /// The client aborted it.
    Cancelled,
    ConnectionLost {
        established: bool,
        reason: String,
    },
}

impl Got {
    /// Returns the kind of outcome.
    pub fn mark(&self) -> String {
        match self {
            Self::Whole { status, .. } => format!("status {status}"),
            Self::Reset(code) => format!("reset {code:#x}"),
            Self::Cancelled => "cancelled".to_owned(),
            Self::ConnectionLost { .. } => "connection lost".to_owned(),
        }
    }
}

pub struct Request {
    pub ask: Ask,
    is_due: bool,
    stream: Option<StreamId>,
    unsent: Bytes,
    pub sent_len: usize,
    finished: bool,
    response: Response,
    paused_until: Option<Instant>,
    has_paused: bool,
    pub got: Option<Got>,
}

impl Request {
    pub fn new(ask: Ask) -> Self {
        let unsent = encode_request(&ask);
        Self {
            ask,
            is_due: false,
            stream: None,
            unsent,
            sent_len: 0,
            finished: false,
            response: Response::default(),
            paused_until: None,
            has_paused: false,
            got: None,
        }
    }

    /// Returns the number of body bytes of the response that were read.
    pub fn received_len(&self) -> usize {
        self.response.body.len()
    }

    /// Returns the received part of an incomplete response: its status, and its body so far.
    pub fn received(&self) -> (Option<u16>, &[u8]) {
        (self.response.status(), &self.response.body)
    }

    /// Returns when it must be driven even without an event.
    pub fn next_deadline(&self, start: Instant) -> Option<Instant> {
        match (self.got.is_some(), self.stream) {
            (true, _) => None,
            // Once it is due, it waits for stream credit and not for a timer.
            (false, None) => (!self.is_due).then_some(start + self.ask.after),
            (false, Some(_)) => self.paused_until,
        }
    }

    pub fn drive(&mut self, now: Instant, start: Instant, connection: &mut Connection) {
        if self.got.is_some() || now < start + self.ask.after {
            return;
        }
        self.is_due = true;
        if self.stream.is_none() {
            self.stream = connection.streams().open(Dir::Bi);
        }
        let Some(stream) = self.stream else { return };
        if self.paused_until.is_some_and(|until| until <= now) {
            self.paused_until = None;
        }
        self.send(now, connection, stream);
        self.receive(now, connection, stream);
    }

    /// Bytes that may be sent before the client changes its behaviour.
    fn sendable_len(&self) -> usize {
        match self.ask.behaviour {
            Behaviour::AbortAt(at) | Behaviour::StallAt(at) => at,
            Behaviour::PauseSending(at, _) if !self.has_paused || self.paused_until.is_some() => at,
            _ => usize::MAX,
        }
    }

    fn send(&mut self, now: Instant, connection: &mut Connection, stream: StreamId) {
        while !self.unsent.is_empty() {
            let len = self.unsent.len().min(self.sendable_len().saturating_sub(self.sent_len));
            if len == 0 {
                return self.hold(now, connection, stream);
            }
            match connection.send_stream(stream).write(&self.unsent[..len]) {
                Ok(len) => {
                    self.unsent.advance(len);
                    self.sent_len += len;
                }
                Err(WriteError::Blocked) => return,
                Err(WriteError::Stopped(_)) | Err(WriteError::ClosedStream) => {
                    // RFC 9114 4.1: an early response stops the request and is still read whole.
                    self.unsent.clear();
                    self.finished = true;
                }
            }
        }
        if !self.finished {
            self.finished = true;
            // The client may have been asked to stop meanwhile.
            let _stopped = connection.send_stream(stream).finish();
        }
    }

    /// Handles reaching the position at which the client's behaviour changes.
    fn hold(&mut self, now: Instant, connection: &mut Connection, stream: StreamId) {
        match self.ask.behaviour {
            Behaviour::PauseSending(_, length) if !self.has_paused => {
                self.has_paused = true;
                self.paused_until = Some(now + length);
            }
            Behaviour::AbortAt(_) => self.give_up(connection, stream),
            _ => {}
        }
    }

    fn give_up(&mut self, connection: &mut Connection, stream: StreamId) {
        let code = VarInt::from_u32(0x10c);
        let _ended = connection.recv_stream(stream).stop(code);
        let _ended = connection.send_stream(stream).reset(code);
        self.got = Some(Got::Cancelled);
    }

    fn receive(&mut self, now: Instant, connection: &mut Connection, stream: StreamId) {
        if self.got.is_some() {
            return;
        }
        let read_len_max = match self.ask.behaviour {
            Behaviour::PauseReading(at, length) if !self.has_paused => {
                if self.received_len() >= at {
                    self.has_paused = true;
                    self.paused_until = Some(now + length);
                }
                4_096
            }
            _ => usize::MAX,
        };
        if self.paused_until.is_some() && matches!(self.ask.behaviour, Behaviour::PauseReading(..))
        {
            return;
        }
        let mut received = connection.recv_stream(stream);
        let Ok(mut chunks) = received.read(true) else { return };
        let (mut gives_up, mut again) = (false, false);
        let got = loop {
            match chunks.next(read_len_max) {
                Ok(Some(chunk)) => self.response.handle(&chunk.bytes),
                Ok(None) => break Some(finished(&mut self.response)),
                Err(ReadError::Blocked) => break None,
                Err(ReadError::Reset(code)) => break Some(Got::Reset(code.into())),
            }
            match self.ask.behaviour {
                Behaviour::CancelAfter(limit) if self.response.body.len() >= limit => {
                    gives_up = true;
                    break None;
                }
                Behaviour::PauseReading(at, _)
                    if !self.has_paused && self.response.body.len() >= at =>
                {
                    again = true;
                    break None;
                }
                _ => {}
            }
        };
        let _ = chunks.finalize();
        self.got = got;
        if gives_up {
            self.give_up(connection, stream);
        }
        if again {
            self.receive(now, connection, stream);
        }
    }
}

fn finished(response: &mut Response) -> Got {
    let (status, trailers) = response.finish();
    let (body, interim_count) = (std::mem::take(&mut response.body), response.interim_count);
    Got::Whole { status, body, trailers, interim_count }
}
