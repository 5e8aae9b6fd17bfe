//! A scripted HTTP/1.1 origin in memory. It reads requests with a parser of its own, compares every
//! body byte with what the client sends, and follows each request's plan.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes, BytesMut};

use crate::plan::{Ask, Framing, LIES, Plan, Side, body, id_of};

/// Bytes that the origin sends, with the earliest instant.
pub struct Sending {
    pub ready: Instant,
    pub bytes: Bytes,
    /// A position at which no piece may end: the bytes after it are left over only if they arrive
    /// together.
    pub glue: Option<usize>,
    /// Whether it is sent only while no further request has been written to the connection.
    pub only_idle: bool,
}

/// The way the origin ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    Close,
    Reset,
}

/// The origin's position within a request.
#[derive(Debug)]
enum Reading {
    Head,
    Length { left: usize },
    ChunkLine,
    Chunk { left: usize },
    Trailers,
}

/// One connection to the origin.
pub struct Conversation {
    asks: Rc<Vec<Ask>>,
    input: BytesMut,
    reading: Reading,
    id: usize,
    body_len: usize,
    answered: bool,
    /// Whether it has stopped reading.
    deaf: bool,
    pub sendings: VecDeque<Sending>,
    pub ending: Option<Ending>,
    /// Ids of requests whose heads were received, for the world to take.
    pub heads: Vec<usize>,
}

impl Conversation {
    pub fn new(asks: Rc<Vec<Ask>>) -> Self {
        Self {
            asks,
            input: BytesMut::new(),
            reading: Reading::Head,
            id: usize::MAX,
            body_len: 0,
            answered: false,
            deaf: false,
            sendings: VecDeque::new(),
            ending: None,
            heads: Vec::new(),
        }
    }

    /// Returns the request being read or read last, and the number of body bytes received.
    pub fn request(&self) -> (usize, usize) {
        (self.id, self.body_len)
    }

    /// Takes request bytes and queues the responses that the plans prescribe.
    pub fn handle(&mut self, now: Instant, piece: &[u8]) {
        if self.deaf {
            return;
        }
        self.input.extend_from_slice(piece);
        while !self.deaf && self.step(now) {}
    }

    /// Reads one element. Returns false when it is not complete yet.
    fn step(&mut self, now: Instant) -> bool {
        match self.reading {
            Reading::Head => {
                let Some(head) = self.take_until(b"\r\n\r\n") else { return false };
                self.begin(now, std::str::from_utf8(&head).expect("a head is ASCII"));
            }
            Reading::Length { left: 0 } => self.end(now),
            Reading::Length { left } => {
                let len = self.take_body(left);
                self.reading = Reading::Length { left: left - len };
                return len > 0;
            }
            Reading::ChunkLine => {
                let Some(line) = self.take_until(b"\r\n") else { return false };
                let digits = std::str::from_utf8(&line).expect("hex digits").trim_end();
                let left = usize::from_str_radix(digits, 16).expect("a chunk size");
                self.reading = if left == 0 { Reading::Trailers } else { Reading::Chunk { left } };
            }
            Reading::Chunk { left: 0 } => {
                let Some(end) = self.take_until(b"\r\n") else { return false };
                assert_eq!(end.len(), 2, "a chunk must end where its size says");
                self.reading = Reading::ChunkLine;
            }
            Reading::Chunk { left } => {
                let len = self.take_body(left);
                self.reading = Reading::Chunk { left: left - len };
                return len > 0;
            }
            Reading::Trailers => {
                let Some(line) = self.take_until(b"\r\n") else { return false };
                if line.len() == 2 {
                    let ask = &self.asks[self.id];
                    assert_eq!(
                        self.body_len, ask.body_len,
                        "a truncated request looks complete: {ask:?}"
                    );
                    self.end(now);
                }
            }
        }
        true
    }

    fn take_until(&mut self, end: &[u8]) -> Option<BytesMut> {
        let at = self.input.windows(end.len()).position(|window| window == end)?;
        Some(self.input.split_to(at + end.len()))
    }

    /// Takes body bytes and compares them with the tape.
    fn take_body(&mut self, left: usize) -> usize {
        let ask = &self.asks[self.id];
        let len = left.min(self.input.len());
        assert!(self.body_len + len <= ask.body_len, "the request's body is too long: {ask:?}");
        let expected = body(self.id, Side::Request, self.body_len + len);
        assert!(self.input[..len] == expected[self.body_len..], "the body differs: {ask:?}");
        self.input.advance(len);
        self.body_len += len;
        len
    }

    fn begin(&mut self, now: Instant, head: &str) {
        let mut start = head.split(' ');
        let (method, path) = (start.next().unwrap(), start.next().expect("a request line"));
        self.id = id_of(path);
        (self.body_len, self.answered) = (0, false);
        self.heads.push(self.id);
        let ask = &self.asks[self.id];
        assert_eq!(method, ask.method, "the method is forwarded unchanged");
        let field = |name: &str| {
            head.split("\r\n").skip(1).find_map(|line| {
                let (field, value) = line.split_once(':')?;
                field.eq_ignore_ascii_case(name).then(|| value.trim())
            })
        };
        self.reading = match (field("transfer-encoding"), field("content-length")) {
            (Some("chunked"), None) => Reading::ChunkLine,
            (None, Some(len)) => Reading::Length { left: len.parse().expect("a length") },
            (None, None) => Reading::Length { left: 0 },
            both => panic!("a request has exactly one framing, not {both:?}"),
        };
        if let Plan::Early { closes, .. } = ask.plan {
            self.deaf = closes;
            self.response(now);
        }
    }

    /// Handles the end of a request.
    fn end(&mut self, now: Instant) {
        self.reading = Reading::Head;
        if !self.answered {
            self.response(now);
        }
    }

    fn response(&mut self, now: Instant) {
        self.answered = true;
        let asks = Rc::clone(&self.asks);
        let ask = &asks[self.id];
        match ask.plan {
            Plan::Whole { framing, len, interim_count } => {
                for _ in 0..interim_count {
                    self.send(now, "HTTP/1.1 103 Early Hints\r\nlink: </s>\r\n\r\n".into());
                }
                self.send(now, whole(ask, framing, len));
                self.end_after(framing == Framing::UntilClose);
            }
            Plan::Echo => self.send(now, whole(ask, Framing::Length, ask.body_len)),
            Plan::Bare(status) => {
                self.send(now, format!("HTTP/1.1 {status} Bare\r\n\r\n").into());
            }
            Plan::Early { status, closes } => {
                let close = if closes { "connection: close\r\n" } else { "" };
                let head = format!("HTTP/1.1 {status} Early\r\n{close}content-length: 0\r\n\r\n");
                self.send(now, head.into());
                self.end_after(closes);
            }
            Plan::Cut { framing, len, permille, resets } => {
                let mut bytes = whole(ask, framing, len);
                bytes.truncate(bytes.len() * permille / 1000);
                self.send(now, bytes);
                self.deaf = true;
                self.ending = Some(if resets { Ending::Reset } else { Ending::Close });
            }
            Plan::Never => {}
            Plan::Stall { len } => {
                let mut bytes = whole(ask, Framing::Length, len);
                bytes.truncate(bytes.len() - len / 2);
                self.send(now, bytes);
            }
            Plan::Drip { len } => self.drip(now, whole(ask, Framing::Length, len)),
            Plan::Lie(index) => self.send(now, LIES[index % LIES.len()].into()),
            Plan::BadChunk { len } => {
                let mut bytes = whole(ask, Framing::Chunked { trailers: false }, len);
                bytes.truncate(bytes.len() - 7);
                self.send(now, [&bytes[..], b"!!!!"].concat().into());
            }
            Plan::Overlong { len, late } => self.send_overlong(now, ask, len, late),
            Plan::Leaves { len } => {
                self.send(now, whole(ask, Framing::Length, len));
                self.end_after(true);
            }
        }
    }

    fn send(&mut self, ready: Instant, bytes: Bytes) {
        if !bytes.is_empty() {
            self.sendings.push_back(Sending { ready, bytes, glue: None, only_idle: false });
        }
    }

    fn end_after(&mut self, ends: bool) {
        if ends {
            self.deaf = true;
            self.ending = Some(Ending::Close);
        }
    }

    fn drip(&mut self, now: Instant, mut bytes: Bytes) {
        let step = bytes.len() / 8 + 1;
        let mut ready = now;
        while !bytes.is_empty() {
            let len = step.min(bytes.len());
            self.send(ready, bytes.split_to(len));
            ready += DRIP_PAUSE;
        }
    }

    fn send_overlong(&mut self, now: Instant, ask: &Ask, len: usize, late: bool) {
        let response = whole(ask, Framing::Length, len);
        let extra = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\npoison";
        if late {
            self.send(now, response);
            let bytes = Bytes::from_static(extra);
            let ready = now + LATE;
            self.sendings.push_back(Sending { ready, bytes, glue: None, only_idle: true });
        } else {
            let glue = Some(response.len());
            let bytes = [&response[..], extra].concat().into();
            self.sendings.push_back(Sending { ready: now, bytes, glue, only_idle: false });
            // Further bytes would be no response to any request.
            self.deaf = true;
        }
    }
}

/// Returns a complete response with status 200.
pub fn whole(ask: &Ask, framing: Framing, len: usize) -> Bytes {
    let payload = if ask.plan == Plan::Echo {
        body(ask.id, Side::Request, len)
    } else {
        body(ask.id, Side::Response, len)
    };
    let field = match framing {
        Framing::Length => format!("content-length: {len}"),
        Framing::Chunked { .. } => "transfer-encoding: chunked".to_owned(),
        Framing::UntilClose => "connection: close".to_owned(),
    };
    let mut out = format!("HTTP/1.1 200 OK\r\n{field}\r\n\r\n").into_bytes();
    match framing {
        _ if ask.method == "HEAD" => {}
        Framing::Chunked { trailers } => {
            for chunk in payload.chunks(7_001) {
                out.extend_from_slice(format!("{:x};x=y\r\n", chunk.len()).as_bytes());
                out.extend_from_slice(chunk);
                out.extend_from_slice(b"\r\n");
            }
            let trailers = if trailers { "x-sum: 1\r\n" } else { "" };
            out.extend_from_slice(format!("0\r\n{trailers}\r\n").as_bytes());
        }
        Framing::Length | Framing::UntilClose => out.extend_from_slice(&payload),
    }
    out.into()
}

/// Pause between two pieces of a dripping response: the whole takes longer than any single timeout
/// of the gateway.
const DRIP_PAUSE: Duration = Duration::from_millis(400);
/// Delay between a response and the extra bytes after it.
const LATE: Duration = Duration::from_millis(30);
