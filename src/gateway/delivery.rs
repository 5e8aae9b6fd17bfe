//! The records of responses on their way to the client: from the hand-over to the client's
//! connection until the client has acknowledged the end (QUIC), or the kernel has taken it (TCP).
//!
//! ```text
//!                    handed over whole              acknowledged
//!   exchange over ---------------------> awaited ------------------> log: complete, delivered
//!        |                                  |  the client stopped it, or the connection ended
//!        |  cut, reset                      +-----------------------> log: why, not delivered
//!        +----------------------------------------------------------> log
//! ```
//!
//! Their number is bounded by `listeners.quic.max_streams`: a stream counts as open until its
//! response is acknowledged.

use smallvec::SmallVec;

use super::context::Context;
use crate::message::{AccessRecord, Ending, Handover, Outcome};

/// The records of one connection's responses that are not acknowledged yet.
#[derive(Default)]
pub(super) struct Deliveries {
    awaited: SmallVec<[(u64, Delivery); 1]>,
}

/// The state of one response.
enum Delivery {
    /// Handed over whole, and not acknowledged yet.
    Awaited(Box<AccessRecord>),
    /// Its stream has ended with this cause; its record is about to come.
    Cut(Ending),
}

impl Deliveries {
    /// Takes the record of an exchange that is over.
    pub(super) fn begin(&mut self, id: u64, mut record: Box<AccessRecord>, cx: &mut Context<'_>) {
        match self.take(id) {
            Some(Delivery::Cut(ending)) => {
                record.end(ending);
                cx.log(record);
            }
            Some(Delivery::Awaited(_)) => unreachable!("a stream has one record"),
            None if record.handover == Handover::Whole => {
                self.awaited.push((id, Delivery::Awaited(record)));
            }
            None => cx.log(record),
        }
    }

    /// Takes the record of a response that the client has acknowledged whole.
    pub(super) fn acknowledged(&mut self, id: u64) -> Option<Box<AccessRecord>> {
        match self.take(id)? {
            Delivery::Awaited(record) => Some(record),
            Delivery::Cut(_) => unreachable!("a response that was cut is not finished"),
        }
    }

    /// Notes that the stream of an exchange has ended before its response was finished.
    pub(super) fn cut(&mut self, id: u64, ending: Ending, cx: &mut Context<'_>) {
        match self.take(id) {
            Some(Delivery::Awaited(record)) => log_ended(record, ending, cx),
            Some(Delivery::Cut(_)) => unreachable!("a stream ends once"),
            None => self.awaited.push((id, Delivery::Cut(ending))),
        }
    }

    /// Notes that the client has stopped a response. Returns whether it was finished, and not
    /// acknowledged.
    pub(super) fn stopped(&mut self, id: u64, cx: &mut Context<'_>) -> bool {
        match self.take(id) {
            Some(Delivery::Awaited(record)) => {
                log_ended(record, Outcome::ClientCancelled.into(), cx);
                true
            }
            Some(cut @ Delivery::Cut(_)) => {
                self.awaited.push((id, cut));
                false
            }
            None => false,
        }
    }

    /// Notes that the connection is gone. A client that closes it may have the whole response:
    /// many do not acknowledge what they have got when they leave.
    pub(super) fn end(&mut self, ending: Ending, cx: &mut Context<'_>) {
        let ending = match ending.outcome {
            Outcome::ClientClosed => Outcome::Unconfirmed.into(),
            _ => ending,
        };
        for (_, delivery) in std::mem::take(&mut self.awaited) {
            if let Delivery::Awaited(record) = delivery {
                log_ended(record, ending, cx);
            }
        }
    }

    /// Returns the number of bytes that the records hold.
    pub(super) fn held_len(&self) -> usize {
        let records = self.awaited.iter().map(|(_, delivery)| match delivery {
            Delivery::Awaited(record) => record.held_len(),
            Delivery::Cut(_) => 0,
        });
        records.sum()
    }

    fn take(&mut self, id: u64) -> Option<Delivery> {
        // The newest one is the most likely.
        let index = self.awaited.iter().rposition(|(awaited, _)| *awaited == id)?;
        Some(self.awaited.swap_remove(index).1)
    }
}

fn log_ended(mut record: Box<AccessRecord>, ending: Ending, cx: &mut Context<'_>) {
    record.end(ending);
    cx.log(record);
}
