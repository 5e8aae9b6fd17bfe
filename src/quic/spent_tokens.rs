//! Retry tokens that have been used. A token is good for one handshake (RFC 9000 8.1.4):
//! quinn-proto binds it to the client's address and to 15 seconds, in which one client could
//! otherwise begin any number of handshakes as if validated.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::Instant;

use quinn_proto::ConnectionId;

use super::settings::RETRY_TOKEN_LIFETIME;
use crate::limits::SPENT_TOKEN_COUNT_MAX;

/// The tokens used of late, in two sets: the older one is dropped once all of its tokens have
/// expired. The sets hash with a random key, since clients choose what they hold.
#[derive(Default)]
pub(super) struct SpentTokens {
    recent: HashSet<Token>,
    older: HashSet<Token>,
    recent_began: Option<Instant>,
}

/// The client's address, and the destination id of its first Initial, which the token names.
type Token = (SocketAddr, ConnectionId);

impl SpentTokens {
    /// Records that a token is used. Returns false if it was used before, or if no more can be
    /// remembered.
    pub(super) fn spend(&mut self, now: Instant, token: Token) -> bool {
        let began = *self.recent_began.get_or_insert(now);
        if now.saturating_duration_since(began) > RETRY_TOKEN_LIFETIME {
            self.older = std::mem::take(&mut self.recent);
            self.recent_began = Some(now);
        }
        !self.older.contains(&token)
            && self.recent.len() < SPENT_TOKEN_COUNT_MAX
            && self.recent.insert(token)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_token_is_good_once_while_it_lives() {
        let mut tokens = SpentTokens::default();
        let mut now = crate::testing::epoch();
        let here = SocketAddr::from(([192, 0, 2, 1], 1));
        let there = SocketAddr::from(([192, 0, 2, 1], 2));
        let id = ConnectionId::new(&[1; 8]);
        assert!(tokens.spend(now, (here, id)));
        assert!(tokens.spend(now, (there, id)));
        assert!(tokens.spend(now, (here, ConnectionId::new(&[2; 8]))));
        for _ in 0..150 {
            assert!(!tokens.spend(now, (here, id)));
            now += Duration::from_millis(100);
        }
        // Expired long ago: quinn-proto would refuse it.
        now += Duration::from_secs(40);
        assert!(tokens.spend(now, (there, ConnectionId::new(&[3; 8]))));
        assert!(tokens.recent.len() + tokens.older.len() <= 4);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut tokens = SpentTokens::default();
        let now = crate::testing::epoch();
        let here = SocketAddr::from(([192, 0, 2, 1], 1));
        let spent = (0..SPENT_TOKEN_COUNT_MAX as u64 + 10)
            .filter(|id| tokens.spend(now, (here, ConnectionId::new(&id.to_be_bytes()))));
        assert_eq!(spent.count(), SPENT_TOKEN_COUNT_MAX);
    }
}
