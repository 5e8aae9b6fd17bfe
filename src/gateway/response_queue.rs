//! The queue of one response's bytes: framing, small pieces gathered, large ones as slices.
//!
//! quinn-proto holds written pieces until the client acknowledges them and scans them from the
//! front. So it is given few and large pieces, and none that pins a slot for less than
//! [`RESPONSE_PIECE_LEN_MIN`] bytes:
//!
//! ```text
//! head, DATA headers, small pieces -> open (one heap buffer) --seal--> pieces --write--> stream
//! pieces of 16 KiB and more ------------------------------------------^  (slices of a slot)
//! ```

use bytes::{Bytes, BytesMut};
use smallvec::SmallVec;

use crate::http3;
use crate::limits::RESPONSE_PIECE_LEN_MIN;
use crate::message::Fields;
use crate::metrics::{CopyReason, Ledger};
use crate::planted::{Bug, is_planted};
use crate::proxy::DownstreamCommand;

/// The division of the body into DATA frames (RFC 9114 7.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum BodyFraming {
    /// Length known: one DATA frame, whose header follows the head.
    Whole,
    /// Length unknown: one DATA frame per piece.
    #[default]
    EachPiece,
}

/// The part of a response that the connection has not taken yet.
#[derive(Debug, Default)]
pub(super) struct ResponseQueue {
    /// A small response is a single piece, which needs no heap allocation.
    pieces: SmallVec<[Bytes; 1]>,
    open: BytesMut,
    /// Bytes in `pieces` and `open`, framing included.
    pending_len: usize,
    /// Body bytes queued and not yet reported to the proxy as taken.
    body_untold_len: usize,
    framing: BodyFraming,
    ended: bool,
}

impl ResponseQueue {
    /// Queues a part of the response. With `memory_low`, large pieces are copied out of their slots
    /// too.
    pub(super) fn push(&mut self, part: DownstreamCommand, memory_low: bool, ledger: &mut Ledger) {
        match part {
            DownstreamCommand::Interim { status, fields } => {
                self.frame(|out| http3::encode_response_head(status, &fields, out));
                if is_planted(Bug::DoubleResponse) {
                    self.push_head(http::StatusCode::OK, &fields, None);
                }
            }
            DownstreamCommand::Head { status, fields, content_length, ended, .. } => {
                self.push_head(status, &fields, content_length.filter(|_| !ended));
                self.ended = ended;
            }
            DownstreamCommand::Body(piece) => self.push_body(piece, memory_low, ledger),
            DownstreamCommand::End(trailers) => {
                if let Some(fields) = trailers {
                    self.frame(|out| http3::encode_trailers(&fields, out));
                }
                self.ended = true;
            }
            DownstreamCommand::Reset(_)
            | DownstreamCommand::StopRequest
            | DownstreamCommand::BodyRoom => unreachable!("the stream carries these out itself"),
        }
    }

    /// Queues the final head; `body_len` is the body's length where it is known in advance.
    fn push_head(&mut self, status: http::StatusCode, fields: &Fields, body_len: Option<u64>) {
        // A small body is gathered behind the head; a large one comes in pieces of its own.
        let body_here = body_len.filter(|len| *len < RESPONSE_PIECE_LEN_MIN as u64).unwrap_or(0);
        self.open.reserve(HEAD_LEN_USUAL + body_here as usize);
        self.frame(|out| http3::encode_response_head(status, fields, out));
        if let Some(len) = body_len {
            self.framing = BodyFraming::Whole;
            if len > 0 {
                self.frame(|out| http3::encode_data_header(len, out));
            }
        }
    }

    /// Queues a piece of the body.
    fn push_body(&mut self, piece: Bytes, memory_low: bool, ledger: &mut Ledger) {
        if piece.is_empty() {
            return;
        }
        if self.framing == BodyFraming::EachPiece {
            self.frame(|out| http3::encode_data_header(piece.len() as u64, out));
        }
        ledger.response_moved(piece.len());
        self.body_untold_len += piece.len();
        self.pending_len += piece.len();
        let reason = match piece.len() {
            len if len < RESPONSE_PIECE_LEN_MIN => CopyReason::Small,
            _ if memory_low => CopyReason::LowWater,
            _ => {
                self.seal();
                self.pieces.push(piece);
                return;
            }
        };
        ledger.response_copied(reason, piece.len());
        self.open.extend_from_slice(&piece);
    }

    /// Returns the pieces that wait, in order.
    pub(super) fn pieces(&mut self) -> &mut [Bytes] {
        self.seal();
        &mut self.pieces
    }

    /// Removes the `len` bytes that the connection took, among them the first `piece_count` pieces
    /// in full. Returns the number of body bytes to report as taken.
    pub(super) fn taken(&mut self, len: usize, piece_count: usize) -> usize {
        self.pieces.drain(..piece_count);
        self.pending_len -= len;
        // Framing precedes the bytes it frames, so the bytes that still wait are at most body.
        let body_waiting = self.body_untold_len.min(self.pending_len);
        let body_taken = self.body_untold_len - body_waiting;
        self.body_untold_len = body_waiting;
        body_taken
    }

    pub(super) fn pending_len(&self) -> usize {
        self.pending_len
    }

    /// Returns the number of body bytes that the proxy counts as not taken.
    pub(super) fn body_waiting_len(&self) -> usize {
        self.body_untold_len
    }

    /// Returns whether the stream can be finished: the end is known and nothing waits.
    pub(super) fn is_complete(&self) -> bool {
        self.ended && self.pending_len == 0
    }

    fn frame(&mut self, encode: impl FnOnce(&mut BytesMut)) {
        let before = self.open.len();
        encode(&mut self.open);
        self.pending_len += self.open.len() - before;
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            self.pieces.push(std::mem::take(&mut self.open).freeze());
        }
    }
}

/// Initial capacity for a response head, in bytes; longer heads grow the buffer.
const HEAD_LEN_USUAL: usize = 256;
