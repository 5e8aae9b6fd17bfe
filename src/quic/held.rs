//! The bytes that a connection makes the gateway hold, as far as the engine can tell.
//!
//! quinn-proto does not report what it holds, so both parts are upper bounds: what was written
//! and may not be acknowledged, and what was received and may not be read, each up to its window.

use std::time::Instant;

use smallvec::SmallVec;

use super::types::StreamId;
use crate::limits::{RESPONSE_PIECE_LEN_MIN, UNACKNOWLEDGED_TIMEOUT};

/// The streams of one connection that hold bytes which are not acknowledged.
///
/// quinn-proto keeps written pieces as they are until they are acknowledged, and looks through them
/// for each packet that it builds. A response that comes in crumbs would become thousands. So a
/// stream may write one small piece between two datagrams of its connection; what comes meanwhile
/// waits, and gathers. The number of pieces is then bounded by that of packets.
#[derive(Debug, Default)]
pub(super) struct Unacknowledged {
    streams: SmallVec<[Stream; 2]>,
    /// Sum of all streams' lengths.
    len: u64,
    /// A stream has written a small piece since the last datagram.
    has_small: bool,
    /// When the first of the streams was finished that are not acknowledged to their end.
    first_finish: Option<Instant>,
}

#[derive(Debug)]
struct Stream {
    id: StreamId,
    /// Bytes written.
    len: u64,
    small: Small,
    finish: Option<Instant>,
}

/// Small pieces of a stream since the last datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Small {
    None,
    Written,
    /// One was written, and more wait.
    Waiting,
}

impl Unacknowledged {
    /// Returns whether a stream may write `len` bytes now. If not, it may after
    /// [`Unacknowledged::handle_datagram`].
    pub(super) fn may_write(&mut self, id: StreamId, len: usize) -> bool {
        if len >= RESPONSE_PIECE_LEN_MIN || !self.has_small {
            return true;
        }
        let Some(stream) = self.find(id) else { return true };
        if stream.small == Small::None {
            return true;
        }
        stream.small = Small::Waiting;
        false
    }

    /// Notes that a stream offered `len` bytes, of which `written` were accepted.
    pub(super) fn wrote(&mut self, id: StreamId, written: usize, len: usize) {
        let small = if len < RESPONSE_PIECE_LEN_MIN { Small::Written } else { Small::None };
        self.has_small |= small == Small::Written;
        let written = written as u64;
        self.len += written;
        match self.find(id) {
            Some(stream) => {
                stream.len += written;
                stream.small = small;
            }
            None => self.streams.push(Stream { id, len: written, small, finish: None }),
        }
    }

    /// Returns the number of bytes that were written to a stream.
    pub(super) fn written_len(&mut self, id: StreamId) -> u64 {
        self.find(id).map_or(0, |stream| stream.len)
    }

    /// Notes that a stream has no more to write.
    pub(super) fn finished(&mut self, now: Instant, id: StreamId) {
        if let Some(stream) = self.find(id) {
            stream.finish = Some(now);
            self.first_finish.get_or_insert(now);
        }
    }

    /// Notes that nothing of a stream is held any more: it is acknowledged to its end, or reset.
    pub(super) fn over(&mut self, id: StreamId) {
        let Some(index) = self.streams.iter().position(|stream| stream.id == id) else { return };
        let stream = self.streams.swap_remove(index);
        self.len -= stream.len;
        if stream.finish.is_some() && stream.finish == self.first_finish {
            self.first_finish = self.streams.iter().filter_map(|stream| stream.finish).min();
        }
    }

    /// Passes the streams that may write again to `take`, after a datagram was built.
    pub(super) fn handle_datagram(&mut self, mut take: impl FnMut(StreamId)) {
        if !std::mem::take(&mut self.has_small) {
            return;
        }
        for stream in &mut self.streams {
            if std::mem::replace(&mut stream.small, Small::None) == Small::Waiting {
                take(stream.id);
            }
        }
    }

    /// Returns the most bytes that can be held within this send window.
    pub(super) fn held_len(&self, send_window: u64) -> u64 {
        self.len.min(send_window)
    }

    /// Returns whether a stream has waited too long to be acknowledged to its end.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        let since = self.first_finish.map(|at| now.saturating_duration_since(at));
        since.is_some_and(|since| since >= UNACKNOWLEDGED_TIMEOUT)
    }

    fn find(&mut self, id: StreamId) -> Option<&mut Stream> {
        // The newest one is the most likely to write.
        self.streams.iter_mut().rev().find(|stream| stream.id == id)
    }
}

/// The bytes of requests that one connection holds unread.
#[derive(Debug, Default)]
pub(super) struct Unread {
    /// Request streams whose end has not been read.
    stream_count: u32,
    /// Bytes of datagrams less those that were read of them.
    len: u64,
}

/// Bytes that a datagram costs beside its own: its allocation's header and its place in a list.
const DATAGRAM_COST_LEN: u64 = 128;
/// Bytes of a datagram that are not read: headers and the tag of its packet.
const DATAGRAM_HEADERS_LEN: u64 = 40;

impl Unread {
    pub(super) fn opened(&mut self) {
        self.stream_count += 1;
    }

    /// Notes that nothing more of a stream is read, or held.
    pub(super) fn over(&mut self) {
        self.stream_count = self.stream_count.saturating_sub(1);
    }

    /// Notes a datagram of `len` bytes.
    pub(super) fn received(&mut self, len: usize) {
        self.len += len as u64 + DATAGRAM_COST_LEN;
    }

    /// Notes that `len` bytes were read in `count` chunks, each of one datagram.
    pub(super) fn read(&mut self, len: usize, count: usize) {
        let costs = count as u64 * (DATAGRAM_COST_LEN + DATAGRAM_HEADERS_LEN);
        self.len = self.len.saturating_sub(len as u64 + costs);
    }

    /// Forgets what has come once no stream is left that could hold it, after the events of all
    /// datagrams were handled.
    pub(super) fn settle(&mut self) {
        if self.stream_count == 0 {
            self.len = 0;
        }
    }

    /// Returns the most bytes that can be held within this receive window.
    pub(super) fn held_len(&self, receive_window: u64) -> u64 {
        // A window's bytes come in datagrams, each with its cost.
        self.len.min(receive_window + receive_window / 8)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::epoch;

    #[test]
    fn one_small_piece_of_a_stream_leaves_with_each_datagram() {
        let (one, other) = (StreamId::from(0), StreamId::from(4));
        let mut sent = Unacknowledged::default();
        let waiting = |sent: &mut Unacknowledged| {
            let mut waiting = Vec::new();
            sent.handle_datagram(|id| waiting.push(id));
            waiting
        };
        assert!(sent.may_write(one, 1));
        sent.wrote(one, 1, 1);
        assert!(!sent.may_write(one, 1) && !sent.may_write(one, RESPONSE_PIECE_LEN_MIN - 1));
        assert!(sent.may_write(one, RESPONSE_PIECE_LEN_MIN), "a large piece costs one look");
        assert!(sent.may_write(other, 1), "each stream has one");
        sent.wrote(other, 1, 1);
        assert_eq!(waiting(&mut sent), [one]);
        assert!(sent.may_write(one, 1));
        assert_eq!(waiting(&mut sent), []);
    }

    #[test]
    fn a_stream_is_held_until_it_is_acknowledged_to_its_end() {
        let (one, other) = (StreamId::from(0), StreamId::from(4));
        let now = epoch();
        let mut sent = Unacknowledged::default();
        sent.wrote(one, 1000, 1000);
        sent.wrote(other, 10, 10);
        sent.wrote(one, 100, 100);
        assert_eq!((sent.held_len(5000), sent.held_len(500)), (1110, 500));
        sent.finished(now, one);
        sent.finished(now + UNACKNOWLEDGED_TIMEOUT / 2, other);
        assert!(!sent.is_overdue(now + UNACKNOWLEDGED_TIMEOUT - Duration::from_millis(1)));
        assert!(sent.is_overdue(now + UNACKNOWLEDGED_TIMEOUT));
        sent.over(one);
        assert_eq!(sent.held_len(5000), 10);
        assert!(!sent.is_overdue(now + UNACKNOWLEDGED_TIMEOUT));
        assert!(sent.is_overdue(now + UNACKNOWLEDGED_TIMEOUT * 3 / 2));
        sent.over(other);
        sent.over(other);
        assert_eq!(sent.held_len(5000), 0);
        assert!(!sent.is_overdue(now + UNACKNOWLEDGED_TIMEOUT * 3));
    }

    #[test]
    fn what_is_received_counts_while_a_request_is_open_until_it_is_read() {
        let mut unread = Unread::default();
        unread.received(100);
        unread.settle();
        assert_eq!(unread.held_len(8000), 0);
        unread.received(1200);
        unread.opened();
        unread.settle();
        unread.received(1200);
        assert_eq!((unread.held_len(8000), unread.held_len(800)), (2656, 900));
        unread.read(1160, 1);
        assert_eq!(unread.held_len(8000), 1328);
        unread.opened();
        unread.over();
        unread.settle();
        assert_eq!(unread.held_len(8000), 1328);
        unread.over();
        unread.settle();
        assert_eq!(unread.held_len(8000), 0);
        unread.read(1, 1);
    }
}
