//! The turns of one connection's streams at the room that its windows have.
//!
//! Bytes that are written take room in the send window, and the client's credit for the
//! connection, whether or not they have been sent. When room frees, quinn-proto wakes all streams
//! that wait, the last one first, and the first to write takes all of it: of three, the one in the
//! middle would wait until another one has ended. So the order is ours:
//!
//! ```text
//!           less than a turn written |  more, the longest wait first
//!   woken <--   small     small      |  large   large   large   <-- refused after a turn,
//!                                    |                              or the turn is over
//! ```
//!
//! While others are woken too, a turn is [`TURN_LEN`] bytes. A stream that is alone takes all there
//! is. See docs/decisions/streams-take-turns.md.

use smallvec::SmallVec;

use super::types::StreamId;
use crate::limits::RESPONSE_PIECE_LEN_MIN;

/// Bytes of one turn. They become a piece of their own, and quinn-proto looks through all pieces of
/// a stream for each packet.
const TURN_LEN: usize = RESPONSE_PIECE_LEN_MIN;

/// The streams of one connection that were refused for lack of room, in the order of their turns.
#[derive(Debug, Default)]
pub(super) struct Turns {
    waiting: SmallVec<[Waiting; 2]>,
}

#[derive(Debug)]
struct Waiting {
    id: StreamId,
    is_large: bool,
    /// Bytes of its turn that are left. It keeps its place until the turn is over.
    left: usize,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// There is no room for it.
    Refused,
    /// There is room, and the application has not been told.
    Woken,
    /// The application has been told that the stream may write.
    Told,
}

impl Turns {
    /// Returns how many bytes a stream may write now.
    pub(super) fn len_of(&self, id: StreamId) -> usize {
        let is_shared = self.waiting.iter().any(|other| other.id != id && other.state.is_woken());
        if !is_shared {
            return usize::MAX;
        }
        self.waiting.iter().find(|own| own.id == id).map_or(TURN_LEN, |own| own.left)
    }

    /// Notes that a stream, which has written so many bytes, found no room. It keeps its place if
    /// it waits already.
    pub(super) fn refused(&mut self, id: StreamId, written_len: u64) {
        if let Some(waiting) = self.find(id) {
            waiting.state = State::Refused;
            return;
        }
        let is_large = written_len >= TURN_LEN as u64;
        let first_large = self.waiting.iter().position(|waiting| waiting.is_large);
        let place = first_large.filter(|_| !is_large).unwrap_or(self.waiting.len());
        let waiting = Waiting { id, is_large, left: TURN_LEN, state: State::Refused };
        self.waiting.insert(place, waiting);
    }

    /// Notes that a stream has written `len` bytes, and has more.
    pub(super) fn wrote(&mut self, id: StreamId, len: usize) {
        let Some(waiting) = self.find(id) else { return };
        waiting.left = waiting.left.saturating_sub(len);
        if waiting.left == 0 {
            self.yield_turn(id);
        }
    }

    /// Moves a stream behind all others. It may write when they have had their turns.
    pub(super) fn yield_turn(&mut self, id: StreamId) {
        self.leave(id);
        self.waiting.push(Waiting { id, is_large: true, left: TURN_LEN, state: State::Told });
    }

    /// Notes that a stream has nothing to write, for now or for ever.
    pub(super) fn leave(&mut self, id: StreamId) {
        if let Some(place) = self.waiting.iter().position(|waiting| waiting.id == id) {
            self.waiting.remove(place);
        }
    }

    /// Notes that there is room for a stream.
    pub(super) fn wake(&mut self, id: StreamId) {
        match self.find(id) {
            Some(waiting) => waiting.state = State::Woken,
            // It has got room since it was refused, and may have more to write.
            None => self.waiting.push(Waiting {
                id,
                is_large: true,
                left: TURN_LEN,
                state: State::Woken,
            }),
        }
    }

    /// Passes the streams to `tell` that there is room for since the last call, in the order of
    /// their turns.
    pub(super) fn tell(&mut self, mut tell: impl FnMut(StreamId)) {
        for waiting in &mut self.waiting {
            if waiting.state == State::Woken {
                waiting.state = State::Told;
                tell(waiting.id);
            }
        }
    }

    fn find(&mut self, id: StreamId) -> Option<&mut Waiting> {
        self.waiting.iter_mut().find(|waiting| waiting.id == id)
    }
}

impl State {
    fn is_woken(self) -> bool {
        self != Self::Refused
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(turns: &mut Turns, woken: &[u64]) -> Vec<u64> {
        woken.iter().for_each(|id| turns.wake(StreamId::from(*id)));
        let mut told = Vec::new();
        turns.tell(|id| told.push(id.into()));
        told
    }

    #[test]
    fn small_responses_come_first_and_whoever_had_its_turn_comes_last() {
        let mut turns = Turns::default();
        let turn_len = TURN_LEN as u64;
        for (id, written_len) in [(0, turn_len), (4, u64::MAX), (8, 0), (12, turn_len - 1)] {
            turns.refused(id.into(), written_len);
        }
        assert_eq!(told(&mut turns, &[12, 8, 4, 0]), [8, 12, 0, 4]);
        assert_eq!(told(&mut turns, &[]), [0; 0], "once");
        // The first two have their turns, the third a part of it; then there is no more room.
        turns.wrote(8.into(), TURN_LEN);
        turns.leave(12.into());
        turns.wrote(0.into(), TURN_LEN - 1);
        for id in [0, 4, 8] {
            turns.refused(id.into(), turn_len);
        }
        assert_eq!(told(&mut turns, &[8, 4, 0]), [0, 4, 8]);
        assert_eq!(turns.len_of(0.into()), 1);
    }

    #[test]
    fn a_turn_is_bounded_only_while_there_is_room_for_another_stream() {
        let (one, other) = (StreamId::from(0), StreamId::from(4));
        let mut turns = Turns::default();
        turns.refused(one, u64::MAX);
        turns.refused(other, u64::MAX);
        assert_eq!(turns.len_of(one), usize::MAX);
        assert_eq!(told(&mut turns, &[4, 0]), [0, 4]);
        assert_eq!(turns.len_of(one), TURN_LEN);
        turns.yield_turn(one);
        assert_eq!(turns.len_of(other), TURN_LEN);
        turns.leave(other);
        assert_eq!(turns.len_of(one), usize::MAX);
        turns.leave(one);
        assert!(turns.waiting.is_empty());
    }
}
