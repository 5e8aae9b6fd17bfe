//! What may be sent to the address that a client has moved to, until it has answered from there.
//!
//! A client behind a NAT does not know that it moved. An idle one sends 40 bytes now and then, and
//! three times that (RFC 9000 8, 9.3) is less than a PATH_CHALLENGE has: quinn-proto cannot build a
//! shorter one (8.2.1). The gateway gives one away each time that the connection moves there. Where
//! the network loses what may be sent, or the responses, nobody can reach the client any more: its
//! connection times out.

use ringway::testing::internal::quic::MTU_MAX_DEFAULT;

/// A PATH_CHALLENGE and its response are at least so long (RFC 9000 8.2.1, 8.2.2).
const CHALLENGE_LEN: usize = 1_200;

/// Of one address of an established connection.
#[derive(Debug, Default)]
pub struct Account {
    /// Bytes that the gateway has sent there since it last sent more than was earned.
    given_len: usize,
    /// Bytes that came from there since, as they were sent.
    earned_len: usize,
    /// A datagram has come from there that was as long as the response to a challenge.
    has_answered: bool,
}

impl Account {
    /// The gateway sends `len` bytes there.
    pub fn give(&mut self, len: usize) {
        if self.given_len + len > 3 * self.earned_len {
            *self = Self { has_answered: self.has_answered, ..Self::default() };
        }
        self.given_len += len;
    }

    /// A datagram of `len` bytes comes from there `count` times.
    pub fn earn(&mut self, len: usize, count: usize) {
        self.earned_len += len * count;
        self.has_answered |= len >= CHALLENGE_LEN && count > 0;
    }

    /// Whether the gateway has asked for a response, has none, and may not ask again.
    pub fn is_spent(&self) -> bool {
        let next_len = self.given_len + usize::from(MTU_MAX_DEFAULT);
        self.given_len >= CHALLENGE_LEN && !self.has_answered && next_len > 3 * self.earned_len
    }
}

#[test]
fn an_account_is_spent_when_who_may_ask_has_asked_in_vain() {
    let mut account = Account::default();
    account.earn(42, 1);
    assert!(!account.is_spent(), "nobody has asked");
    account.give(1_200);
    assert!(account.is_spent());
    account.earn(1_200, 0);
    account.earn(42, 21);
    assert!(account.is_spent(), "the response was lost, and 882 bytes came besides");
    account.earn(42, 1);
    assert!(!account.is_spent(), "it may ask again");
    account.give(1_200);
    assert!(account.is_spent());
    account.give(1_200);
    account.earn(42, 21);
    assert!(account.is_spent(), "what was not earned begins anew");
    account.earn(1_200, 1);
    assert!(!account.is_spent(), "it was answered");
    account.give(50_000);
    assert!(!account.is_spent(), "so it is known");
}
