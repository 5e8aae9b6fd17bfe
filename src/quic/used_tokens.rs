//! The NEW_TOKEN tokens (RFC 9000 8.1.3) that clients have used: each is good once for each worker.
//!
//! A client that comes again with such a token has proved its address before, so it is not sent a
//! Retry. Whoever could use one token many times could begin handshakes at any rate.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use quinn_proto::{TokenLog, TokenReuseError};

use crate::limits::USED_TOKEN_COUNT_MAX;

/// The used tokens of one engine. quinn-proto shares it between settings, so it needs a lock, which
/// nobody ever waits for.
#[derive(Default)]
pub(super) struct UsedTokens(Mutex<Used>);

#[derive(Default)]
struct Used {
    /// By the time at which they were issued.
    tokens: BTreeSet<(SystemTime, u128)>,
    /// Tokens issued until then are not accepted: those that were used are forgotten.
    forgotten: Option<SystemTime>,
}

impl TokenLog for UsedTokens {
    fn check_and_insert(
        &self,
        nonce: u128,
        issued: SystemTime,
        _: Duration,
    ) -> Result<(), TokenReuseError> {
        let mut used = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if used.forgotten.is_some_and(|until| issued <= until) {
            return Err(TokenReuseError);
        }
        if !used.tokens.insert((issued, nonce)) {
            return Err(TokenReuseError);
        }
        if used.tokens.len() > USED_TOKEN_COUNT_MAX
            && let Some((oldest, _)) = used.tokens.pop_first()
        {
            used.forgotten = Some(oldest);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_good_once_however_many_are_used() {
        let tokens = UsedTokens::default();
        let lifetime = Duration::from_secs(1);
        let take = |nonce: u128, second: u64| {
            let issued = SystemTime::UNIX_EPOCH + Duration::from_secs(second);
            tokens.check_and_insert(nonce, issued, lifetime).is_ok()
        };
        for number in 0..2 * USED_TOKEN_COUNT_MAX as u64 {
            assert!(take(number.into(), number));
            assert!(!take(number.into(), number));
        }
        assert!(!take(0, 0) && !take(7, 100), "forgotten, so all of that age are refused");
        let newest = 2 * USED_TOKEN_COUNT_MAX as u64;
        assert!(take(7, newest) && !take(7, newest));
    }
}
