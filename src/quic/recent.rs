//! A memory for things seen of late: Retry tokens that have been used, and first Initials that came
//! from a second address.
//!
//! A token is good for one handshake (RFC 9000 8.1.4): quinn-proto binds it to the client's address
//! and to 15 seconds, in which one client could otherwise begin any number of handshakes as if
//! validated. An Initial that was repeated from another address would begin a handshake for each
//! copy, since its connection is given up with the first one.

use std::collections::HashSet;
use std::hash::Hash;
use std::time::Instant;

use super::settings::RETRY_TOKEN_LIFETIME;
use crate::limits::RECENT_COUNT_MAX;

/// Items seen within the lifetime of a Retry token, in two sets: the older one is dropped once all
/// of its items are older than that. The sets hash with a random key, since clients choose what
/// they hold.
pub(super) struct Recent<T> {
    newer: HashSet<T>,
    older: HashSet<T>,
    began: Option<Instant>,
}

impl<T> Default for Recent<T> {
    fn default() -> Self {
        Self { newer: HashSet::new(), older: HashSet::new(), began: None }
    }
}

impl<T: Hash + Eq> Recent<T> {
    /// Remembers an item. Returns false if it is remembered already, or if there is no room.
    pub(super) fn insert(&mut self, now: Instant, item: T) -> bool {
        let began = *self.began.get_or_insert(now);
        if now.saturating_duration_since(began) > RETRY_TOKEN_LIFETIME {
            self.older = std::mem::take(&mut self.newer);
            self.began = Some(now);
        }
        !self.contains(&item) && self.newer.len() < RECENT_COUNT_MAX && self.newer.insert(item)
    }

    pub(super) fn contains(&self, item: &T) -> bool {
        self.newer.contains(item) || self.older.contains(item)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_item_is_remembered_for_its_time_and_then_forgotten() {
        let mut recent = Recent::default();
        let mut now = crate::testing::epoch();
        assert!(recent.insert(now, 1));
        assert!(recent.insert(now, 2));
        for _ in 0..150 {
            assert!(!recent.insert(now, 1));
            now += Duration::from_millis(100);
        }
        for item in 3..6 {
            now += Duration::from_secs(16);
            assert!(recent.insert(now, item));
        }
        assert!(!recent.contains(&1) && recent.contains(&5));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut recent = Recent::default();
        let now = crate::testing::epoch();
        let count = (0..RECENT_COUNT_MAX + 10).filter(|item| recent.insert(now, *item)).count();
        assert_eq!(count, RECENT_COUNT_MAX);
    }
}
