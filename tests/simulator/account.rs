//! The anti-amplification account of the address that a client has moved to, until it is validated.
//!
//! A client behind a NAT does not know that it moved. An idle one sends 40 bytes now and then, and
//! three times that (RFC 9000 8, 9.3) is less than the length of a PATH_CHALLENGE datagram:
//! quinn-proto cannot build a shorter one (8.2.1). The gateway sends one unearned challenge each
//! time that the connection moves there. If the network loses every permitted challenge or its
//! responses, the client is unreachable and its connection times out.

use ringway::testing::internal::quic::MTU_MAX_DEFAULT;

/// Minimum length of a datagram with a PATH_CHALLENGE or its response (RFC 9000 8.2.1, 8.2.2).
const CHALLENGE_LEN: usize = 1_200;

/// The account of one address of an established connection.
#[derive(Debug, Default)]
pub struct Account {
    /// Bytes that the gateway has sent there since it last sent more than was earned.
    given_len: usize,
    /// Bytes that the client has sent from there since.
    earned_len: usize,
    /// Whether a datagram as long as the response to a challenge has come from there.
    has_answered: bool,
}

impl Account {
    /// Records that the gateway sends `len` bytes there.
    pub fn give(&mut self, len: usize) {
        if self.given_len + len > 3 * self.earned_len {
            *self = Self { has_answered: self.has_answered, ..Self::default() };
        }
        self.given_len += len;
    }

    /// Records that a datagram of `len` bytes comes from there `count` times.
    pub fn earn(&mut self, len: usize, count: usize) {
        self.earned_len += len * count;
        self.has_answered |= len >= CHALLENGE_LEN && count > 0;
    }

    /// Returns whether the gateway has sent a challenge without a response and may not send
    /// another.
    pub fn is_spent(&self) -> bool {
        let next_len = self.given_len + usize::from(MTU_MAX_DEFAULT);
        self.given_len >= CHALLENGE_LEN && !self.has_answered && next_len > 3 * self.earned_len
    }
}

#[test]
fn an_account_is_spent_when_the_challenge_went_unanswered_and_no_other_may_be_sent() {
    let mut account = Account::default();
    account.earn(42, 1);
    assert!(!account.is_spent(), "no challenge was sent");
    account.give(1_200);
    assert!(account.is_spent());
    account.earn(1_200, 0);
    account.earn(42, 21);
    assert!(account.is_spent(), "the response was lost, and only 882 other bytes came");
    account.earn(42, 1);
    assert!(!account.is_spent(), "another challenge is permitted");
    account.give(1_200);
    assert!(account.is_spent());
    account.give(1_200);
    account.earn(42, 21);
    assert!(account.is_spent(), "an unearned challenge starts a new account");
    account.earn(1_200, 1);
    assert!(!account.is_spent(), "the challenge was answered");
    account.give(50_000);
    assert!(!account.is_spent(), "the address is validated");
}
