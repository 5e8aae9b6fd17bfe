//! Sessions that the process remembers, for listeners with early data.
//!
//! rustls accepts early data only of a session that it takes out of a store, so that what was sent
//! in it cannot be accepted a second time (RFC 8446 8.1). All workers share this store: a copy of a
//! client's first bytes finds nothing, whichever worker it comes to
//! ([early-data](../../docs/decisions/early-data.md)).

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustls::server::StoresServerSessions;
use rustls::time_provider::{DefaultTimeProvider, TimeProvider};

use crate::limits::{TICKET_LIFETIME, TLS_SESSION_COUNT_MAX, TLS_SESSIONS_LEN_MAX};

/// Bytes that an entry holds beside its session and its two names, roughly.
const ENTRY_LEN: usize = 128;

/// A bounded number of sessions. A new one takes the place of the oldest.
pub(super) struct Sessions {
    state: Mutex<State>,
    clock: Arc<dyn TimeProvider>,
}

#[derive(Default)]
struct State {
    sessions: BTreeMap<Vec<u8>, Session>,
    /// The names of the sessions, in the order in which they came.
    names: BTreeMap<u64, Vec<u8>>,
    next_number: u64,
    held_len: usize,
}

struct Session {
    number: u64,
    /// When it was stored, in seconds since 1970.
    since: u64,
    content: Vec<u8>,
}

impl Sessions {
    pub(super) fn new() -> Self {
        Self { state: Mutex::default(), clock: Arc::new(DefaultTimeProvider) }
    }

    /// Returns the state. No panic leaves it half changed.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_live(&self, session: &Session) -> bool {
        let now = self.clock.current_time().map(|now| now.as_secs());
        now.is_some_and(|now| now.abs_diff(session.since) <= TICKET_LIFETIME.as_secs())
    }
}

impl StoresServerSessions for Sessions {
    fn put(&self, name: Vec<u8>, content: Vec<u8>) -> bool {
        let Some(now) = self.clock.current_time() else { return false };
        let mut state = self.state();
        state.remove(&name);
        let len = held_len(&name, &content);
        while state.sessions.len() >= TLS_SESSION_COUNT_MAX
            || state.held_len + len > TLS_SESSIONS_LEN_MAX
        {
            if state.remove_oldest().is_none() {
                return false;
            }
        }
        state.insert(name, content, now.as_secs());
        true
    }

    fn get(&self, name: &[u8]) -> Option<Vec<u8>> {
        let state = self.state();
        let session = state.sessions.get(name).filter(|session| self.is_live(session))?;
        Some(session.content.clone())
    }

    fn take(&self, name: &[u8]) -> Option<Vec<u8>> {
        let session = self.state().remove(name)?;
        self.is_live(&session).then_some(session.content)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl State {
    fn insert(&mut self, name: Vec<u8>, content: Vec<u8>, since: u64) {
        let number = self.next_number;
        self.next_number += 1;
        self.held_len += held_len(&name, &content);
        self.names.insert(number, name.clone());
        self.sessions.insert(name, Session { number, since, content });
    }

    fn remove(&mut self, name: &[u8]) -> Option<Session> {
        let session = self.sessions.remove(name)?;
        self.names.remove(&session.number);
        self.held_len -= held_len(name, &session.content);
        Some(session)
    }

    fn remove_oldest(&mut self) -> Option<Session> {
        let name = self.names.first_key_value()?.1.clone();
        self.remove(&name)
    }
}

/// Returns the number of bytes that an entry holds.
fn held_len(name: &[u8], content: &[u8]) -> usize {
    ENTRY_LEN + 2 * name.len() + content.len()
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("count", &self.state().sessions.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tls::tests::Clock;

    fn name(number: usize) -> Vec<u8> {
        number.to_be_bytes().to_vec()
    }

    /// Counts the bytes of all entries anew.
    fn assert_bounded(sessions: &Sessions) {
        let state = sessions.state();
        assert_eq!(state.sessions.len(), state.names.len());
        let entries = state.sessions.iter();
        let counted: usize = entries.map(|(name, session)| held_len(name, &session.content)).sum();
        assert_eq!(state.held_len, counted);
        assert!(counted <= TLS_SESSIONS_LEN_MAX);
    }

    #[test]
    fn a_session_is_taken_once() {
        let sessions = Sessions::new();
        assert!(sessions.put(name(1), b"one".to_vec()) && sessions.put(name(2), b"two".to_vec()));
        assert_eq!(sessions.get(&name(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!(sessions.take(&name(1)).as_deref(), Some(&b"one"[..]));
        assert_eq!((sessions.take(&name(1)), sessions.get(&name(1))), (None, None));
        assert!(sessions.put(name(2), b"again".to_vec()));
        assert_eq!(sessions.take(&name(2)).as_deref(), Some(&b"again"[..]));
        assert_bounded(&sessions);
    }

    #[test]
    fn of_many_threads_one_gets_the_session() {
        let sessions = Sessions::new();
        for round in 0..100 {
            sessions.put(name(round), b"content".to_vec());
            let taken = std::thread::scope(|scope| {
                let take = || usize::from(sessions.take(&name(round)).is_some());
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).sum::<usize>()
            });
            assert_eq!(taken, 1);
        }
    }

    #[test]
    fn the_oldest_make_room_for_new_ones() {
        let sessions = Sessions::new();
        for number in 0..=TLS_SESSION_COUNT_MAX {
            assert!(sessions.put(name(number), b"content".to_vec()));
        }
        assert_eq!(sessions.get(&name(0)), None);
        assert!(sessions.get(&name(1)).is_some());
        assert_eq!(sessions.state().sessions.len(), TLS_SESSION_COUNT_MAX);
        assert_bounded(&sessions);

        // Long ones are bounded by their bytes.
        for number in 0..20 {
            assert!(sessions.put(name(number), vec![0; TLS_SESSIONS_LEN_MAX / 10]));
            assert_bounded(&sessions);
        }
        assert_eq!(sessions.state().sessions.len(), 9);
        assert!(!sessions.put(name(99), vec![0; TLS_SESSIONS_LEN_MAX]));
        assert_bounded(&sessions);
    }

    #[test]
    fn a_session_ends_after_its_lifetime() {
        let clock = Arc::new(Clock::at(1_800_000_000));
        let sessions = Sessions { state: Mutex::default(), clock: Arc::clone(&clock) as _ };
        sessions.put(name(1), b"content".to_vec());
        clock.pass(TICKET_LIFETIME.as_secs());
        assert!(sessions.get(&name(1)).is_some());
        clock.pass(1);
        assert_eq!((sessions.get(&name(1)), sessions.take(&name(1))), (None, None));
    }
}
