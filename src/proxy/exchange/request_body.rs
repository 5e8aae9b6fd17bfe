//! The body of a request, between its client and an upstream.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::http1::{CHUNK_END, Framing, last_chunk, size_line};
use crate::limits::{
    BODY_PIECE_COST_LEN, REQUEST_PENDING_LEN_MAX, REQUEST_PENDING_PIECES_MAX, REQUEST_ROOM_LEN_MIN,
    UPSTREAM_WRITE_PIECES_MAX,
};
use crate::message::Fields;
use crate::proxy::upstream::RequestState;

/// The body of one request.
#[derive(Debug)]
pub(crate) struct RequestBody {
    /// Pieces received and not written yet.
    pending: VecDeque<Bytes>,
    pending_len: usize,
    /// Bytes in the write in flight.
    writing_len: usize,
    /// Pieces of the body in the write in flight.
    writing_count: usize,
    pub(super) received_len: u64,
    /// Bytes passed to writes, those in flight included.
    given_len: u64,
    trailers: Option<Fields>,
    intake: Intake,
    sending: Sending,
}

/// The state of the client's side of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Intake {
    Open,
    /// There was no room left, and no room has been announced to the client's side since.
    Full,
    /// The client has sent all of it.
    Ended,
    /// It has, and there was no room left. No room has been announced since.
    EndedFull,
}

/// The state of the upstream's side of the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    Open,
    /// All of the body, with its framing, was passed to writes.
    Complete,
    /// The body is dropped, and so is the rest of it.
    Stopped,
}

impl RequestBody {
    /// Returns an empty body; `ended` when nothing follows.
    pub(crate) fn new(ended: bool) -> Self {
        Self {
            pending: VecDeque::new(),
            pending_len: 0,
            writing_len: 0,
            writing_count: 0,
            received_len: 0,
            given_len: 0,
            trailers: None,
            intake: if ended { Intake::Ended } else { Intake::Open },
            sending: Sending::Open,
        }
    }

    /// Returns the number of bytes that are accepted now.
    pub(crate) fn room(&self) -> usize {
        let free = REQUEST_PENDING_LEN_MAX.saturating_sub(self.pending_len + self.writing_len);
        if self.is_stopped() {
            REQUEST_PENDING_LEN_MAX
        } else if free < REQUEST_ROOM_LEN_MIN || self.pending.len() >= REQUEST_PENDING_PIECES_MAX {
            0
        } else {
            free
        }
    }

    /// Returns the number of bytes that are held.
    pub(super) fn held_len(&self) -> usize {
        let piece_count = self.pending.len() + self.writing_count;
        self.pending_len + self.writing_len + piece_count * BODY_PIECE_COST_LEN
    }

    /// Queues a piece from the client.
    pub(super) fn push(&mut self, piece: Bytes) {
        self.received_len += piece.len() as u64;
        if self.is_stopped() || piece.is_empty() {
            return;
        }
        self.pending_len += piece.len();
        self.pending.push_back(piece);
        if !self.is_ended() {
            self.intake = if self.room() == 0 { Intake::Full } else { Intake::Open };
        }
    }

    /// Notes that the client has sent the whole body.
    pub(super) fn end(&mut self) {
        self.intake = match self.intake {
            Intake::Open | Intake::Ended => Intake::Ended,
            Intake::Full | Intake::EndedFull => Intake::EndedFull,
        };
    }

    /// Sets the trailer fields, which are not empty.
    pub(super) fn set_trailers(&mut self, trailers: Option<Fields>) {
        self.trailers = trailers;
    }

    /// Returns whether the client has sent the whole body.
    pub(super) fn is_ended(&self) -> bool {
        matches!(self.intake, Intake::Ended | Intake::EndedFull)
    }

    /// Returns whether the whole body was passed to writes.
    pub(super) fn is_complete(&self) -> bool {
        self.sending == Sending::Complete
    }

    /// Returns whether the body is dropped.
    pub(super) fn is_stopped(&self) -> bool {
        self.sending == Sending::Stopped
    }

    /// Returns whether the body can be sent again: none of it was written or dropped.
    pub(super) fn is_repeatable(&self) -> bool {
        self.given_len == 0 && !self.is_stopped()
    }

    /// Returns whether the upstream still waits for some of the body.
    pub(super) fn request_state(&self) -> RequestState {
        if self.sending == Sending::Open { RequestState::Unfinished } else { RequestState::Out }
    }

    /// Returns true once when there is room again after there was none, unless the rest of the body
    /// is not wanted.
    pub(super) fn has_room_again(&mut self) -> bool {
        let next = match self.intake {
            Intake::Full => Intake::Open,
            Intake::EndedFull => Intake::Ended,
            Intake::Open | Intake::Ended => return false,
        };
        let is_wanted = !self.is_stopped() || self.is_ended();
        let has_room = is_wanted && self.room() > 0;
        if has_room {
            self.intake = next;
        }
        has_room
    }

    /// Drops the body, and the rest of it as it arrives.
    pub(super) fn stop(&mut self) {
        self.sending = Sending::Stopped;
        self.pending.clear();
        self.pending_len = 0;
        self.trailers = None;
    }

    /// Rewinds the body for a second attempt.
    pub(super) fn rewind(&mut self) {
        assert_eq!(self.given_len, 0, "a body of which a part is gone is not sent again");
        self.sending = Sending::Open;
    }

    /// Notes that the write in flight is complete.
    pub(super) fn wrote(&mut self) {
        (self.writing_len, self.writing_count) = (0, 0);
    }

    /// Returns how many of the pending pieces may be written: all, or all but the last one, if that
    /// completes a body of known length before the client's end has come. More of a body may
    /// follow, or bad trailers. The request is malformed then (RFC 9114 4.1.2), and must not have
    /// reached an upstream as a whole.
    fn writable_count(&self, framing: Framing) -> usize {
        if self.is_ended() || framing != Framing::Length(self.received_len) {
            return self.pending.len();
        }
        self.pending.len().checked_sub(1).expect("the piece that completes the body was kept")
    }

    /// Appends the pieces that may be written now to `pieces`, framed.
    pub(super) fn take_pieces(&mut self, framing: Framing, pieces: &mut Vec<Bytes>) {
        if self.sending != Sending::Open {
            return;
        }
        let chunked = framing == Framing::Chunked;
        let framing_piece_count = if chunked { 3 } else { 0 };
        let count_max =
            UPSTREAM_WRITE_PIECES_MAX.saturating_sub(pieces.len() + framing_piece_count);
        let count = self.writable_count(framing).min(count_max);
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
        self.writing_count += count;
        self.given_len += len as u64;
        if self.is_ended() && self.pending.is_empty() {
            if chunked {
                // The trailers are kept for a second attempt.
                pieces.push(last_chunk(self.trailers.as_ref()));
            }
            self.sending = Sending::Complete;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_chunk_goes_around_the_pieces_of_a_write() {
        let mut body = RequestBody::new(false);
        let payload = Bytes::from_static(b"0123456789");
        body.push(payload.clone());
        body.push(Bytes::from_static(b"abcdef"));
        body.push(Bytes::from_static(b"!"));
        let mut pieces = Vec::new();
        body.take_pieces(Framing::Chunked, &mut pieces);
        assert_eq!(pieces.concat(), b"11\r\n0123456789abcdef!\r\n");
        assert_eq!(pieces[1].as_ptr(), payload.as_ptr(), "payload is not copied");
        body.end();
        pieces.clear();
        body.take_pieces(Framing::Chunked, &mut pieces);
        assert_eq!(pieces.concat(), b"0\r\n\r\n");
        pieces.clear();
        body.take_pieces(Framing::Chunked, &mut pieces);
        assert!(pieces.is_empty(), "the end is told once");
    }

    /// The client's side may hold credit that room gives back, also once the body is complete.
    #[test]
    fn room_is_announced_once_after_there_was_none() {
        let full = || Bytes::from(vec![b'x'; REQUEST_PENDING_LEN_MAX]);
        for ends in [false, true] {
            let mut body = RequestBody::new(false);
            body.push(full());
            if ends {
                body.end();
            }
            assert!(body.room() == 0 && !body.has_room_again());
            body.take_pieces(Framing::Chunked, &mut Vec::new());
            assert!(!body.has_room_again(), "the write is in flight");
            body.wrote();
            assert!(body.has_room_again() && !body.has_room_again(), "once, ended: {ends}");

            let mut body = RequestBody::new(false);
            body.push(full());
            if ends {
                body.end();
            }
            body.stop();
            assert_eq!(body.has_room_again(), ends, "what is not wanted is not read on");
            assert!(!body.has_room_again());
        }
    }
}
