//! A client that writes frames by hand (RFC 9113 4, 6), and reads what comes back.

use std::collections::VecDeque;

use bytes::Bytes;
use http::StatusCode;

use super::super::{Closure, Connection, ConnectionError, Event, LocalSettings};
use crate::message::Fields;

pub(super) const DATA: u8 = 0x0;
pub(super) const HEADERS: u8 = 0x1;
pub(super) const RST_STREAM: u8 = 0x3;
pub(super) const SETTINGS: u8 = 0x4;
pub(super) const PING: u8 = 0x6;
pub(super) const GOAWAY: u8 = 0x7;
pub(super) const WINDOW_UPDATE: u8 = 0x8;
pub(super) const CONTINUATION: u8 = 0x9;

pub(super) const END_STREAM: u8 = 0x1;
pub(super) const ACK: u8 = 0x1;
pub(super) const END_HEADERS: u8 = 0x4;

pub(super) const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The lines of a request with a path.
pub(super) const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];
pub(super) const POST: [(&str, &str); 4] =
    [(":method", "POST"), (":scheme", "https"), (":authority", "a.example"), (":path", "/")];

/// A frame on the wire.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let header = [&len[1..], &[kind, flags], &stream.to_be_bytes()].concat();
    [&header, payload].concat()
}

/// A field section of literals that are not indexed (RFC 7541 6.2.2).
pub(super) fn section(lines: &[(&str, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    for (name, value) in lines {
        out.push(0);
        for text in [name, value] {
            put_integer(text.len(), &mut out);
            out.extend_from_slice(text.as_bytes());
        }
    }
    out
}

/// An integer with a prefix of seven bits (RFC 7541 5.1).
fn put_integer(value: usize, out: &mut Vec<u8>) {
    if value < 127 {
        out.push(value as u8);
        return;
    }
    out.push(127);
    let mut rest = value - 127;
    while rest >= 128 {
        out.push((rest % 128) as u8 | 128);
        rest /= 128;
    }
    out.push(rest as u8);
}

pub(super) fn request(stream: u32, lines: &[(&str, &str)], flags: u8) -> Vec<u8> {
    frame(HEADERS, END_HEADERS | flags, stream, &section(lines))
}

pub(super) fn window_update(stream: u32, len: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &len.to_be_bytes())
}

/// A frame that was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Returns the number in a payload, at a place.
    pub(super) fn number(&self, place: usize) -> u32 {
        u32::from_be_bytes(self.payload[place..place + 4].try_into().unwrap())
    }
}

/// A connection and its client.
pub(super) struct Client {
    pub(super) connection: Connection,
    received: Vec<u8>,
}

impl Client {
    /// Creates a client whose handshake is over.
    pub(super) fn new(settings: &LocalSettings) -> Self {
        let mut client = Self::unready(settings);
        client.send(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat());
        let frames = client.frames();
        // Ours and the acknowledgement of the client's; a larger window may follow.
        assert_eq!((frames[0].kind, frames[1].kind), (SETTINGS, SETTINGS));
        client.send(&frame(SETTINGS, ACK, 0, &[]));
        assert_eq!(client.events(), []);
        client
    }

    /// Creates a client that has sent nothing.
    pub(super) fn unready(settings: &LocalSettings) -> Self {
        Self { connection: Connection::new(settings), received: Vec::new() }
    }

    pub(super) fn send(&mut self, bytes: &[u8]) {
        self.connection.handle(Bytes::copy_from_slice(bytes));
    }

    pub(super) fn events(&mut self) -> Vec<Event> {
        std::iter::from_fn(|| self.connection.poll()).collect()
    }

    /// Sends bytes and returns the events that follow, while it reads what it gets.
    pub(super) fn exchange(&mut self, bytes: &[u8]) -> Vec<Event> {
        self.send(bytes);
        let mut events = self.events();
        while self.receive() > 0 {
            events.extend(self.events());
        }
        events
    }

    /// Receives what there is. Returns the number of bytes.
    pub(super) fn receive(&mut self) -> usize {
        let mut out = Vec::new();
        let len = self.connection.take_output(&mut out, 1 << 20);
        assert_eq!(len, out.iter().map(Bytes::len).sum::<usize>());
        self.received.extend(out.concat());
        len
    }

    /// Receives all there is, and returns the whole frames of it.
    pub(super) fn frames(&mut self) -> Vec<Frame> {
        while self.receive() > 0 {}
        let (mut frames, mut rest) = (Vec::new(), &self.received[..]);
        while let [len_2, len_1, len_0, kind, flags, after @ ..] = rest {
            let len = u32::from_be_bytes([0, *len_2, *len_1, *len_0]) as usize;
            let Some((stream, after)) = after.split_first_chunk() else { break };
            let Some((payload, after)) = after.split_at_checked(len) else { break };
            let stream = u32::from_be_bytes(*stream);
            frames.push(Frame { kind: *kind, flags: *flags, stream, payload: payload.to_vec() });
            rest = after;
        }
        self.received = rest.to_vec();
        frames
    }

    pub(super) fn frames_of(&mut self, kind: u8) -> Vec<Frame> {
        self.frames().into_iter().filter(|frame| frame.kind == kind).collect()
    }

    /// Opens a stream by a request whose body may follow.
    pub(super) fn post(&mut self, stream: u32) {
        let events = self.exchange(&request(stream, &POST, 0));
        assert!(matches!(events[..], [Event::Request { ended: false, .. }]), "{events:?}");
    }

    pub(super) fn respond(&mut self, stream: u32, body: &[Bytes]) -> VecDeque<Bytes> {
        self.connection.respond(stream, StatusCode::OK, Fields::new(), false);
        let mut pieces: VecDeque<Bytes> = body.iter().cloned().collect();
        self.connection.write(stream, &mut pieces);
        pieces
    }
}

/// Returns the error that ended the connection, which has to be the last event.
pub(super) fn closure(events: &[Event]) -> ConnectionError {
    match events.last() {
        Some(Event::Closed(Closure::Error(error))) => *error,
        other => panic!("no closure by an error: {other:?}"),
    }
}
