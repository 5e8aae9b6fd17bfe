//! One exchange: a request, the way to an upstream, the response.
//!
//! ```text
//!            +---------+     +---------+     +------------+     +--------+
//!  request ->| Arrived |---->| Waiting |---->| Connecting |---->| Active |--+
//!            +---------+     +---------+     +------------+     +--------+  |
//!              |  ^  \___________________________^    |  a second try |     |
//!              v  |                                   v               v     v
//!            +---------+                          (Arrived)     (Arrived)  +----------+
//!            | Holding |------------------------------------------------->| Answered |--> gone
//!            +---------+          own responses come from every stage       +----------+
//! ```
//!
//! Both bodies flow while it is `Active`; the response's bytes that the client's connection has not
//! taken keep it in `Answered`.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::StatusCode;

use crate::base::timers::Timer;
use crate::http1::{CHUNK_END, Framing, last_chunk, size_line};
use crate::limits::{
    REQUEST_PENDING_LEN_MAX, REQUEST_PENDING_PIECES_MAX, REQUEST_ROOM_LEN_MIN,
    UPSTREAM_WRITE_PIECES_MAX,
};
use crate::message::{AccessRecord, Fields, Outcome};
use crate::proxy::api::{Downstream, Request, UpstreamKey};
use crate::proxy::upstream::{Avoid, GroupKey};

/// How far an exchange has come on its way to a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// On no list: new, or between two tries.
    Arrived,
    /// Until the client says whether there is a body.
    Holding,
    /// In its group's queue.
    Waiting { ticket: u64 },
    /// Its connection is being opened.
    Connecting { connection: UpstreamKey },
    /// On its connection.
    Active { connection: UpstreamKey },
    /// Nothing more comes from an upstream.
    Answered,
}

impl Stage {
    /// Row and column in the table of [`Stage::may_become`].
    fn index(self) -> usize {
        match self {
            Self::Arrived => 0,
            Self::Holding => 1,
            Self::Waiting { .. } => 2,
            Self::Connecting { .. } => 3,
            Self::Active { .. } => 4,
            Self::Answered => 5,
        }
    }

    /// Whether `next` may follow.
    pub(crate) fn may_become(self, next: Self) -> bool {
        const YES: bool = true;
        const NO_: bool = false;
        #[rustfmt::skip]
        const TABLE: [[bool; 6]; 6] = [
            //  Arrived Holding Waiting Connect Active  Answered
            [NO_,    YES,    YES,    YES,    YES,    YES], // Arrived
            [YES,    NO_,    NO_,    NO_,    NO_,    YES], // Holding
            [YES,    NO_,    NO_,    NO_,    NO_,    YES], // Waiting
            [YES,    NO_,    NO_,    NO_,    YES,    YES], // Connecting
            [YES,    NO_,    NO_,    NO_,    NO_,    YES], // Active
            [NO_,    NO_,    NO_,    NO_,    NO_,    NO_], // Answered
        ];
        TABLE[self.index()][next.index()]
    }

    /// The connection that the exchange holds.
    pub(crate) fn connection(self) -> Option<UpstreamKey> {
        match self {
            Self::Connecting { connection } | Self::Active { connection } => Some(connection),
            _ => None,
        }
    }
}

/// The limits that an exchange began under.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    pub(crate) request_body_len_max: u64,
    pub(crate) request_body_timeout: Duration,
    pub(crate) response_head_len_max: usize,
}

/// One request and its response.
pub(crate) struct Exchange {
    pub(crate) downstream: Downstream,
    /// `None` where it was refused before there was one.
    pub(crate) request: Option<Request>,
    /// The client may speak for others.
    pub(crate) trusted: bool,
    pub(crate) bounds: Bounds,
    pub(crate) group: Option<GroupKey>,
    pub(crate) framing: Framing,
    /// The head as the upstream is told it, until it is given to a write.
    pub(crate) unsent_head: Option<Bytes>,
    pub(crate) body: RequestBody,
    /// It stands in the queue of those that have something to write.
    pub(crate) is_pump_due: bool,
    pub(crate) response: ResponseProgress,
    pub(crate) avoid: Avoid,
    /// Another try is allowed.
    pub(crate) may_try_again: bool,
    /// Boxed: it goes on alone when the exchange is over.
    pub(crate) record: Box<AccessRecord>,
    pub(crate) upstream_start: Option<Instant>,
    /// Ends a pause of the request's body.
    pub(crate) body_timer: Timer,
    /// Ends the wait for a connection.
    pub(crate) queue_timer: Timer,
    /// Ends a pause in which the client takes nothing of its response.
    pub(crate) response_timer: Timer,
    stage: Stage,
}

/// The request's body on its way.
#[derive(Debug, Default)]
pub(crate) struct RequestBody {
    /// Received and not given to a write.
    pending: VecDeque<Bytes>,
    pending_len: usize,
    /// In the write in flight.
    writing_len: usize,
    /// Received.
    pub(crate) received_len: u64,
    /// Given to writes.
    pub(crate) given_len: u64,
    /// The client has sent all of it.
    pub(crate) ended: bool,
    /// All of it, with its framing, was given to writes.
    pub(crate) given: bool,
    /// What still comes is dropped.
    pub(crate) stopped: bool,
    /// No room was left, and the client's side has not been told otherwise.
    full: bool,
    pub(crate) trailers: Option<Fields>,
}

/// The response on its way.
#[derive(Debug, Default)]
pub(crate) struct ResponseProgress {
    /// Its head was given to the client.
    pub(crate) head_given: bool,
    /// A byte of it came from the upstream of the current try.
    pub(crate) byte_came: bool,
    /// Body bytes given and not taken.
    pub(crate) pending_len: usize,
}

impl Exchange {
    pub(crate) fn new(downstream: Downstream, bounds: Bounds, record: AccessRecord) -> Self {
        Self {
            downstream,
            request: None,
            trusted: false,
            bounds,
            group: None,
            framing: Framing::None,
            unsent_head: None,
            body: RequestBody::default(),
            is_pump_due: false,
            response: ResponseProgress::default(),
            avoid: Avoid::default(),
            may_try_again: true,
            record: Box::new(record),
            upstream_start: None,
            body_timer: Timer::default(),
            queue_timer: Timer::default(),
            response_timer: Timer::default(),
            stage: Stage::Arrived,
        }
    }

    pub(crate) fn stage(&self) -> Stage {
        self.stage
    }

    pub(crate) fn advance(&mut self, next: Stage) {
        assert!(self.stage.may_become(next), "an exchange goes from {:?} to {next:?}", self.stage);
        self.stage = next;
    }

    /// Whether the exchange may be tried on another connection: none of it was sent, or it is
    /// idempotent, nothing of a response came and nothing of its body is gone (RFC 9110 9.2.2).
    pub(crate) fn may_be_tried_again(&self) -> bool {
        let is_idempotent =
            self.request.as_ref().is_some_and(|request| request.head.method.is_idempotent());
        let untouched = match self.stage {
            Stage::Active { .. } => {
                is_idempotent
                    && !self.response.byte_came
                    && self.body.given_len == 0
                    && !self.body.stopped
            }
            _ => true,
        };
        self.may_try_again && untouched && !self.response.head_given
    }

    /// The endpoint is asked from now on.
    pub(crate) fn note_endpoint(&mut self, now: Instant, label: &Arc<str>) {
        self.record.upstream = Some(Arc::clone(label));
        self.upstream_start.get_or_insert(now);
    }

    /// No upstream is asked any more.
    pub(crate) fn note_upstream_end(&mut self, now: Instant) {
        if let Some(start) = self.upstream_start.take() {
            self.record.upstream_duration = Some(now.saturating_duration_since(start));
        }
    }

    /// The record of the exchange, which ends now.
    pub(crate) fn into_record(mut self, now: Instant, outcome: Outcome) -> Box<AccessRecord> {
        self.note_upstream_end(now);
        if let Some(request) = self.request {
            self.record.request = request.head.understood();
        }
        self.record.request_len = self.body.received_len;
        self.record.duration = now.saturating_duration_since(self.record.start);
        self.record.outcome = outcome;
        self.record
    }

    /// Notes the status that the client is told.
    pub(crate) fn note_head(&mut self, status: StatusCode) {
        assert!(!self.response.head_given, "a final response has one head");
        self.response.head_given = true;
        self.record.status = Some(status);
    }
}

impl RequestBody {
    /// Bytes that are taken now.
    pub(crate) fn room(&self) -> usize {
        let free = REQUEST_PENDING_LEN_MAX.saturating_sub(self.pending_len + self.writing_len);
        if self.stopped {
            REQUEST_PENDING_LEN_MAX
        } else if free < REQUEST_ROOM_LEN_MIN || self.pending.len() >= REQUEST_PENDING_PIECES_MAX {
            0
        } else {
            free
        }
    }

    pub(crate) fn push(&mut self, piece: Bytes) {
        self.received_len += piece.len() as u64;
        if !self.stopped && !piece.is_empty() {
            self.pending_len += piece.len();
            self.pending.push_back(piece);
            self.full = self.room() == 0;
        }
    }

    /// Whether there is room again, told once.
    pub(crate) fn has_room_again(&mut self) -> bool {
        let again = self.full && !self.ended && !self.stopped && self.room() > 0;
        self.full &= !again;
        again
    }

    /// Nothing of it is of use any more.
    pub(crate) fn stop(&mut self) {
        self.stopped = true;
        self.pending.clear();
        self.pending_len = 0;
        self.trailers = None;
    }

    /// A second try begins: nothing of it was given to the first one.
    pub(crate) fn rewind(&mut self) {
        assert_eq!(self.given_len, 0, "a body of which a part is gone is not sent again");
        self.given = false;
    }

    /// The write in flight is over.
    pub(crate) fn wrote(&mut self) {
        self.writing_len = 0;
    }

    /// Appends what may be written now to `pieces`, framed.
    pub(crate) fn take_pieces(&mut self, framing: Framing, pieces: &mut Vec<Bytes>) {
        if self.stopped || self.given {
            return;
        }
        let chunked = framing == Framing::Chunked;
        let framing_piece_count = if chunked { 3 } else { 0 };
        let count_max =
            UPSTREAM_WRITE_PIECES_MAX.saturating_sub(pieces.len() + framing_piece_count);
        let count = self.pending.len().min(count_max);
        let len: usize = self.pending.iter().take(count).map(Bytes::len).sum();
        if chunked && len > 0 {
            // One chunk around all pieces of this write.
            pieces.push(size_line(len));
        }
        pieces.extend(self.pending.drain(..count));
        if chunked && len > 0 {
            pieces.push(CHUNK_END);
        }
        self.pending_len -= len;
        self.writing_len += len;
        self.given_len += len as u64;
        // By its length the body is whole to the upstream, even if the client's end is yet to come.
        let is_whole = self.ended || framing == Framing::Length(self.given_len);
        if is_whole && self.pending.is_empty() {
            if chunked {
                // A copy stays for a second try.
                pieces.push(last_chunk(self.trailers.as_ref()));
            }
            self.given = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::slab::SlabKey as _;

    #[test]
    fn the_table_of_stages() {
        let connection = UpstreamKey::from_parts(0, 0);
        let stages = [
            ("arrived", Stage::Arrived),
            ("holding", Stage::Holding),
            ("waiting", Stage::Waiting { ticket: 0 }),
            ("connecting", Stage::Connecting { connection }),
            ("active", Stage::Active { connection }),
            ("answered", Stage::Answered),
        ];
        let mut legal = Vec::new();
        for (from_name, from) in stages {
            for (to_name, to) in stages {
                if from.may_become(to) {
                    legal.push(format!("{from_name} -> {to_name}"));
                }
            }
        }
        let expected = "\
            arrived -> holding, arrived -> waiting, arrived -> connecting, arrived -> active, \
            arrived -> answered, holding -> arrived, holding -> answered, waiting -> arrived, \
            waiting -> answered, connecting -> arrived, connecting -> active, \
            connecting -> answered, active -> arrived, active -> answered";
        assert_eq!(legal.join(", "), expected);
    }

    #[test]
    fn one_chunk_goes_around_the_pieces_of_a_write() {
        let mut body = RequestBody::default();
        let payload = Bytes::from_static(b"0123456789");
        body.push(payload.clone());
        body.push(Bytes::from_static(b"abcdef"));
        body.push(Bytes::from_static(b"!"));
        let mut pieces = Vec::new();
        body.take_pieces(Framing::Chunked, &mut pieces);
        assert_eq!(pieces.concat(), b"11\r\n0123456789abcdef!\r\n");
        assert_eq!(pieces[1].as_ptr(), payload.as_ptr(), "payload is not copied");
        body.ended = true;
        pieces.clear();
        body.take_pieces(Framing::Chunked, &mut pieces);
        assert_eq!(pieces.concat(), b"0\r\n\r\n");
        pieces.clear();
        body.take_pieces(Framing::Chunked, &mut pieces);
        assert!(pieces.is_empty(), "the end is told once");
    }
}
