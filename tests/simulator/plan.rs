//! What one request asks, how its client behaves, and what the origin does about it.
//!
//! A request is known by its id, which its path names. Bodies are cuts of one tape of random bytes,
//! at a place that the id decides: a lost, doubled, moved or foreign piece is another body.

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
    /// What `content-length` says.
    pub declared: Option<usize>,
    /// The request has trailers.
    pub trailers: bool,
    /// Opened so long after the client began.
    pub after: Duration,
    pub behaviour: Behaviour,
    pub plan: Plan,
}

/// What a client does that is not simply asking and reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Plain,
    /// Stops and resets the request after so many response bytes.
    CancelAfter(usize),
    /// Resets the request after so many bytes of its stream.
    AbortAt(usize),
    /// Reads nothing for a while, once so many response bytes came.
    PauseReading(usize, Duration),
    /// Sends nothing for a while, after so many bytes of its stream.
    PauseSending(usize, Duration),
    /// Sends no more than so many bytes of its stream.
    StallAt(usize),
    /// Breaks a rule of HTTP/3.
    Malformed(Malformed),
}

impl Behaviour {
    /// Whether it reads nothing for so long that the gateway gives the response up.
    pub fn is_long_pause(self) -> bool {
        matches!(self, Self::PauseReading(_, length) if length >= RESPONSE_STALL_TIMEOUT)
    }
}

/// How a request is malformed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// DATA before HEADERS: H3_FRAME_UNEXPECTED on the connection (RFC 9114 4.1).
    DataFirst,
    /// A field name in upper case: H3_MESSAGE_ERROR on the stream (RFC 9114 4.2).
    UpperCase,
}

/// How the origin frames a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    Length,
    Chunked { trailers: bool },
    UntilClose,
}

/// What the origin does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// 200 with a body of so many bytes, after so many interim responses.
    Whole { framing: Framing, len: usize, interim_count: u8 },
    /// 200 with the request's body.
    Echo,
    /// A status without a body.
    Bare(u16),
    /// Answers when it has the head; then reads on, or closes.
    Early { status: u16, closes: bool },
    /// Sends so many thousandths of a whole response, then ends or resets the connection.
    Cut { framing: Framing, len: usize, permille: usize, resets: bool },
    /// Nothing.
    Never,
    /// The head and half of the body, then nothing.
    Stall { len: usize },
    /// The body in small pieces with pauses.
    Drip { len: usize },
    /// A head that breaks HTTP.
    Lie(usize),
    /// Chunks of which one is longer than it says.
    BadChunk { len: usize },
    /// More bytes than the response has: at once, or once the connection is idle.
    Overlong { len: usize, late: bool },
    /// A whole response, and closes without having said so.
    Leaves { len: usize },
}

/// Heads of which each breaks HTTP in its own way (RFC 9112).
pub const LIES: [&str; 9] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\n",
    "HTTP/1.1 200 OK\r\ncontent-length: +3\r\n\r\n",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n",
    "HTTP/1.1 200 OK\nserver: lf\n\n",
    "HTTP/1.1 200 OK\r\nserver : space\r\n\r\n",
    "HTTP/1.1 999 What\r\n\r\n",
    "HTTP/1.1 101 Switching\r\n\r\n",
    "\u{0}\u{1}\u{2} no HTTP at all",
];

/// Whose body it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Request,
    Response,
}

/// The longest body.
pub const BODY_LEN_MAX: usize = 1_200_000;

/// The first `len` bytes of the body that request `id` has on one side.
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

/// Places on the tape where bodies begin; a prime, so that ids meet late.
const PLACES: usize = 65_521;

impl Ask {
    /// A request without oddities.
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

    /// The body that a whole response has, and of which a cut one is the beginning.
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

/// The id in a path.
pub fn id_of(path: &str) -> usize {
    let id = path.strip_prefix("/r/").and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("nobody asked for {path:?}"))
}
