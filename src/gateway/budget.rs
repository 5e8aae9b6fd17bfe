//! How many bytes of responses may wait for clients: the bound of a connection, a share of the
//! worker's budget.
//!
//! A response piece that a connection has not taken yet lies in a slot or on the heap. Each stream
//! has its own bound in the proxy, but a client with a hundred slow streams, or a thousand slow
//! clients, would still hold a hundred or a thousand times that. So a receive from an upstream is
//! paused while the bytes that wait for its client's connection fill the connection's share. The
//! share is limited by what is left of the worker's budget: it shrinks as more bytes wait.
//!
//! Only a response that has bytes waiting of its own is paused. It follows that:
//!
//! - Unread streams block no other stream of their connection, and clients that do not read starve
//!   none that do: each response gets its first piece, however much waits beside it.
//! - No pause lasts for ever. Either the client takes the waiting bytes, and the receive is issued
//!   again, or the response's stall timeout ends the exchange. No list of paused receives is kept.
//!
//! The bytes that wait for a connection are thus bounded by its share plus one receive for each of
//! its streams (`max_streams`). No rule based on waiting bytes does better: a client that requests
//! everything at once has that many receives in flight before the first of them completes.
//! A receive may fill more than one slot only where the same for every stream of the connection
//! fits into the share. Such receives add up to at most one more share, however many streams
//! are opened after them.

use crate::limits::{CONNECTION_RESPONSES_LEN_MAX, RECEIVE_SLOT_COUNT_MAX, SLOT_LEN};
use crate::planted::{Bug, is_planted};

/// The account of response bytes that wait in the whole worker.
#[derive(Debug)]
pub(super) struct ResponseBudget {
    len: usize,
    len_max: usize,
}

impl ResponseBudget {
    pub(super) fn new(len_max: usize) -> Self {
        Self { len: 0, len_max }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Charges `len` more bytes that wait for a client.
    pub(super) fn charge(&mut self, waiting: &mut Waiting, len: usize) {
        waiting.0 += len;
        self.len += len;
    }

    /// Discharges `len` bytes that no longer wait.
    pub(super) fn discharge(&mut self, waiting: &mut Waiting, len: usize) {
        waiting.0 -= len;
        self.len -= len;
    }

    /// Discharges all bytes that wait for a client that is gone.
    pub(super) fn forget(&mut self, waiting: &mut Waiting) {
        self.len -= std::mem::take(&mut waiting.0);
    }

    /// Returns how many slots a receive of a response may fill; 0 pauses it.
    pub(super) fn receive_slot_count(&self, client: &Backlog) -> usize {
        let share = self.len_max.saturating_sub(self.len).min(CONNECTION_RESPONSES_LEN_MAX);
        let room = share.saturating_sub(client.waiting_len);
        if client.stream_count * RECEIVE_SLOT_COUNT_MAX * SLOT_LEN <= room {
            return RECEIVE_SLOT_COUNT_MAX;
        }
        let is_paused = room == 0 && client.body_waiting_len > 0;
        usize::from(!is_paused || is_planted(Bug::BoundlessResponses))
    }
}

/// The account of response bytes that wait for one connection to take them.
#[derive(Debug, Default)]
pub(super) struct Waiting(usize);

impl Waiting {
    pub(super) fn len(&self) -> usize {
        self.0
    }
}

/// The bytes that wait for the client of a response that is to be received.
pub(super) struct Backlog {
    /// Bytes that wait for its connection.
    pub(super) waiting_len: usize,
    /// Request streams of its connection.
    pub(super) stream_count: usize,
    /// Body bytes of this response that the proxy counts as not taken.
    pub(super) body_waiting_len: usize,
}
