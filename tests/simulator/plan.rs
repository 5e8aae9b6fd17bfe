//! A request with the behaviour of its client and of the origin.
//!
//! A request is identified by its id, which is in its path. Bodies are slices of one tape of random
//! bytes, at a position derived from the id: any lost, duplicated, moved or foreign piece makes the
//! body differ.

use std::sync::OnceLock;
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{RngCore as _, SeedableRng as _};
use ringway::testing::internal::limits::RESPONSE_STALL_TIMEOUT;

/// One request of one client.
#[derive(Debug, Clone)]
pub struct Ask {
    /// Unique in its world.
    pub id: usize,
    pub method: &'static str,
    pub body_len: usize,
    /// Value of `content-length`.
    pub declared: Option<usize>,
    /// Whether the request has trailers.
    pub trailers: bool,
    /// Time at which it is opened, counted from the client's start.
    pub after: Duration,
    pub behaviour: Behaviour,
    pub plan: Plan,
}

/// Unusual behaviour of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Plain,
    /// Stops and resets the request after this many response bytes.
    CancelAfter(usize),
    /// Resets the request after this many bytes of its stream.
    AbortAt(usize),
    /// Reads nothing for a while, after this many response bytes.
    PauseReading(usize, Duration),
    /// Sends nothing for a while, after this many bytes of its stream.
    PauseSending(usize, Duration),
    /// Sends nothing more after this many bytes of its stream.
    StallAt(usize),
    /// Breaks a rule of HTTP/3.
    Malformed(Malformed),
}

impl Behaviour {
    /// Returns whether it pauses reading for so long that the gateway gives the response up.
    pub fn is_long_pause(self) -> bool {
        matches!(self, Self::PauseReading(_, length) if length >= RESPONSE_STALL_TIMEOUT)
    }
}

/// The defect of a malformed request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// DATA before HEADERS: H3_FRAME_UNEXPECTED on the connection (RFC 9114 4.1).
    DataFirst,
    /// A field name in upper case: H3_MESSAGE_ERROR on the stream (RFC 9114 4.2).
    UpperCase,
}

/// The framing of the origin's response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked { trailers: bool },
    UntilClose,
}

/// The behaviour of the origin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// 200 with a body of this length, after this many interim responses.
    Whole { framing: Framing, len: usize, interim_count: u8 },
    /// 200 with the request's body.
    Echo,
    /// A status without a body.
    Bare(u16),
    /// Responds once it has the head; then reads on, or closes.
    Early { status: u16, closes: bool },
    /// Sends this many thousandths of a complete response, then ends or resets the connection.
    Cut { framing: Framing, len: usize, permille: usize, resets: bool },
    /// Nothing.
    Never,
    /// The head and half of the body, then nothing.
    Stall { len: usize },
    /// The body in small pieces with pauses.
    Drip { len: usize },
    /// A head that breaks HTTP.
    Lie(usize),
    /// Chunks, one of which is longer than its size says.
    BadChunk { len: usize },
    /// Extra bytes after the response: at once, or once the connection is idle.
    Overlong { len: usize, late: bool },
    /// A complete response, then a close that was not announced.
    Leaves { len: usize },
}

/// Malformed heads, each violating HTTP in its own way (RFC 9112).
pub const LIES: [&str; 9] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "HTTP/1.1 200 OK\nserver: lf\n\n",
    "HTTP/1.1 200 OK\r\nser ver: space\r\n\r\n",
    "HTTP/1.1 1999 What\r\n\r\n",
    "HTTP/1.1 101 Switching\r\n\r\n",
    "\u{0}\u{1}\u{2} no HTTP at all",
];

/// The side that sends a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// The longest body.
pub const BODY_LEN_MAX: usize = 1_200_000;

/// Returns the first `len` bytes of the body of request `id` on one side.
pub fn body(id: usize, side: Side, len: usize) -> Bytes {
    static TAPE: OnceLock<Bytes> = OnceLock::new();
    let tape = TAPE.get_or_init(|| {
        let mut tape = vec![0; BODY_LEN_MAX + PLACES];
        SmallRng::seed_from_u64(1).fill_bytes(&mut tape);
        tape.into()
    });
    let place = (id * 2 + usize::from(side == Side::Response)) * 37 % PLACES;
    tape.slice(place..place + len)
}

/// Number of positions on the tape where bodies begin; a prime, so that ids rarely share one.
const PLACES: usize = 65_521;

impl Ask {
    /// Returns a request without unusual behaviour.
    pub fn plain(id: usize, method: &'static str, body_len: usize, plan: Plan) -> Self {
        Self {
            id,
            method,
            body_len,
            declared: None,
            trailers: false,
            after: Duration::ZERO,
            behaviour: Behaviour::Plain,
            plan,
        }
    }

    pub fn path(&self) -> String {
        format!("/r/{}", self.id)
    }

    /// Returns the body of a complete response; a truncated one is a prefix of it.
    pub fn response_body(&self) -> Bytes {
        let len = match self.plan {
            _ if self.method == "HEAD" => 0,
            Plan::Whole { len, .. }
            | Plan::Cut { len, .. }
            | Plan::Stall { len }
            | Plan::Drip { len }
            | Plan::BadChunk { len }
            | Plan::Overlong { len, .. }
            | Plan::Leaves { len } => len,
            Plan::Echo => return body(self.id, Side::Request, self.body_len),
            _ => 0,
        };
        body(self.id, Side::Response, len)
    }
}

/// Returns the id in a path.
pub fn id_of(path: &str) -> usize {
    let id = path.strip_prefix("/r/").and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("no request has the path {path:?}"))
}
