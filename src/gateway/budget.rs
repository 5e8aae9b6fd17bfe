//! How many bytes of responses may wait for clients: the bound of a connection, a share of the
//! worker's budget.
//!
//! A response piece that a connection has not taken yet lies in a slot or on the heap. Each stream
//! has its own bound in the proxy; a client with a hundred slow streams, or a thousand slow clients,
//! would still hold a hundred or a thousand times that. So a receive from an upstream is held back
//! while its client's connection has its share waiting. The share follows what is left of the
//! worker's budget, as slots of received bytes do: it shrinks as more waits.
//!
//! Only a response of which something waits itself is held back. So
//!
//! - streams that are not read stop no other stream of their connection, and clients that do not
//!   read starve none that do: each response gets its first piece, whatever waits beside it;
//! - nothing is held for ever: what waits is taken, and the receive is asked for anew, or it is not,
//!   and the response's stall timeout ends it. Nobody keeps a list of what is held.
//!
//! What a connection has waiting is thus bounded by its share and one receive for each of its
//! streams (`max_streams`). No rule that looks at what waits does better: a client that asks for
//! everything at once has as many receives under way before the first of them brings anything.
//! A receive fills more than one slot only where as much for every stream of the connection fits
//! into the share: those are no more than another share, however many streams come after them.

use super::connection::{Client, Connection};
use crate::limits::{CONNECTION_RESPONSES_LEN_MAX, RECEIVE_SLOT_COUNT_MAX, SLOT_LEN};
use crate::planted::{Bug, is_planted};
use crate::quic::StreamId;

/// Bytes of responses that wait in the whole worker.
#[derive(Debug)]
pub(super) struct ResponseBudget {
    len: usize,
    len_max: usize,
}

impl ResponseBudget {
    pub(super) fn new(len_max: usize) -> Self {
        Self { len: 0, len_max }
    }

    /// Bytes that wait in the whole worker.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Charges `len` more bytes that wait for the client.
    pub(super) fn charge(&mut self, client: &mut Client, len: usize) {
        client.waiting_len += len;
        self.len += len;
    }

    /// Takes off `len` bytes that wait no more.
    pub(super) fn discharge(&mut self, client: &mut Client, len: usize) {
        client.waiting_len -= len;
        self.len -= len;
    }

    /// Takes off all that waits for a client that is gone.
    pub(super) fn forget(&mut self, client: &Client) {
        self.len -= client.waiting_len;
    }

    /// Room that is left of the share of a client of which `waiting_len` bytes wait.
    fn room(&self, waiting_len: usize) -> usize {
        let share = self.len_max.saturating_sub(self.len).min(CONNECTION_RESPONSES_LEN_MAX);
        share.saturating_sub(waiting_len)
    }

    /// Returns how many slots a receive of the stream's response may fill; 0 pauses it.
    pub(super) fn receive_slot_count(&self, connection: &Connection, stream: StreamId) -> usize {
        let Some((stream, stream_count)) = connection.stream(stream) else { return 1 };
        let room = self.room(connection.client.waiting_len);
        if stream_count * RECEIVE_SLOT_COUNT_MAX * SLOT_LEN <= room {
            return RECEIVE_SLOT_COUNT_MAX;
        }
        let is_paused = room == 0 && stream.body_waiting_len() > 0;
        usize::from(!is_paused || is_planted(Bug::BoundlessResponses))
    }
}
