//! The paths of one connection, and the anti-amplification limit of each.
//!
//! ```text
//!   handshake        the client moves (RFC 9000 9)              it answers a PATH_CHALLENGE
//!  current: A  --->  current: B, one free datagram, then 3x --->  current: B, proven
//!  account            proven: A                             \
//!                                                            +--> no response: back to A
//! ```
//!
//! quinn-proto decides which path is current; the state here follows it. quinn-proto sends a whole
//! datagram to a new address while any byte of its own limit is left, and MTU probes regardless of
//! it. The account kept here is the one that is enforced.
//!
//! A client does not notice that its NAT has rebound. If its response to the challenge is lost,
//! quinn-proto returns to A, where the client no longer is, and the client may repeat only probing
//! packets (RFC 9000 9.1), which do not move the connection: each side would wait for the other. So
//! while a client is heard from another address, and not because it probes a path, datagrams for A
//! go to that address, on its account. The client's response then moves the connection there.
//!
//! Free datagrams are few, and time alone brings new ones: a client could otherwise name one
//! address after the other and have a datagram sent to each. None is sent before the handshake is
//! done. And all datagrams to unvalidated addresses, free or not, add up to three times at most
//! what the client has sent in all, from wherever.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::credit::{AMPLIFICATION_MAX, Credit};
use super::types::{Local, Path};
use crate::base::token_bucket::TokenBucket;
use crate::limits::FREE_DATAGRAM_COUNT_MAX;

/// The current, the previous and the probed path of a connection.
#[derive(Debug)]
pub(super) struct Paths {
    remote: SocketAddr,
    credit: Credit,
    /// The last validated address before `remote`.
    proven: Option<SocketAddr>,
    /// Another address that the client has sent from, to probe a path (RFC 9000 9.1). Only one is
    /// kept: no client may expect responses to probes of several at a time.
    probed: Option<Probed>,
    /// The client was last heard from there, and not because it probes a path.
    is_elsewhere: bool,
    /// Free datagrams; `None` until the handshake is done.
    free: Option<TokenBucket>,
    /// Bytes received from all addresses.
    received: u64,
    /// Bytes sent to addresses that were not validated.
    sent_unproven: u64,
}

#[derive(Debug, Clone, Copy)]
struct Probed {
    remote: SocketAddr,
    local: Local,
    credit: Credit,
}

impl Paths {
    pub(super) fn new(remote: SocketAddr, credit: Credit) -> Self {
        Self {
            remote,
            credit,
            proven: None,
            probed: None,
            is_elsewhere: false,
            free: None,
            received: credit.received,
            sent_unproven: 0,
        }
    }

    pub(super) fn is_proven(&self) -> bool {
        self.credit.validated
    }

    /// Returns whether `from` is the current address and the client was not heard from another
    /// since.
    pub(super) fn is_at(&self, from: SocketAddr) -> bool {
        from == self.remote && !self.is_elsewhere
    }

    pub(super) fn prove(&mut self) {
        self.credit.validated = true;
    }

    /// Permits free datagrams, now that the handshake is done.
    pub(super) fn permit_free(&mut self) {
        self.free = Some(TokenBucket::default());
    }

    /// Follows the connection to `remote`. Returns whether it moved.
    pub(super) fn follow(&mut self, now: Instant, remote: SocketAddr) -> bool {
        if remote == self.remote {
            return false;
        }
        let known = self.proven == Some(remote);
        if self.credit.validated {
            self.proven = Some(self.remote);
        }
        self.credit = if known { Credit::new(true) } else { Credit::new(false) };
        if !known && self.takes_free(now) {
            self.credit.first_is_free = true;
        }
        self.remote = remote;
        self.is_elsewhere = false;
        true
    }

    /// Records that a datagram passed to [`Self::received`] was authentic. `probes` is set if it
    /// has a PATH_CHALLENGE.
    pub(super) fn heard(&mut self, now: Instant, from: SocketAddr, probes: bool) {
        // A datagram from the previous address is only late.
        let is_late = self.proven == Some(from);
        self.is_elsewhere = from != self.remote && !is_late && !probes;
        if let Some(mut probed) = self.probed.filter(|_| self.is_elsewhere)
            && !probed.credit.first_is_free
            && self.takes_free(now)
        {
            probed.credit.first_is_free = true;
            self.probed = Some(probed);
        }
    }

    fn takes_free(&mut self, now: Instant) -> bool {
        self.free
            .as_mut()
            .is_some_and(|free| free.take(now, FREE_DATAGRAM_COUNT_MAX, FREE_FILL_TIME))
    }

    /// Returns how many of `count_max` datagrams of `len` bytes the client's bytes from all
    /// addresses allow to unvalidated ones.
    fn unproven_count(&self, len: usize, count_max: usize) -> usize {
        let left = (self.received * AMPLIFICATION_MAX).saturating_sub(self.sent_unproven);
        usize::try_from(left / len as u64).unwrap_or(usize::MAX).min(count_max)
    }

    /// Credits `len` received bytes to the account of `from`.
    pub(super) fn received(&mut self, from: SocketAddr, local: Local, len: usize) {
        self.received += len as u64;
        if from == self.remote {
            return self.credit.received(len);
        }
        let known = self.probed.filter(|probed| probed.remote == from);
        let mut probed =
            known.unwrap_or(Probed { remote: from, local, credit: Credit::new(false) });
        probed.local = local;
        probed.credit.received(len);
        self.probed = Some(probed);
    }

    /// Returns how many datagrams of `len` bytes may be built for the current address.
    pub(super) fn datagram_count(&self, len: usize, count_max: usize) -> usize {
        // One at a time while datagrams may be redirected to another address.
        let count_max = if self.is_elsewhere { count_max.min(1) } else { count_max };
        if self.credit.validated {
            return count_max;
        }
        self.credit.datagram_count(len, self.unproven_count(len, count_max))
    }

    /// Returns the path of a built datagram, or `None` if it must not leave. `usual` is the local
    /// end that the connection was last heard at. A datagram to the current address was checked by
    /// [`Self::datagram_count`]. One to another address probes a path: it may leave for the last
    /// validated address, and for others within their limit, since a client can name a victim's
    /// address there.
    pub(super) fn send(
        &mut self,
        destination: SocketAddr,
        len: usize,
        usual: Local,
    ) -> Option<Path> {
        let usual = Path { destination, local: usual };
        if destination == self.remote {
            if let Some(path) = self.is_elsewhere.then(|| self.send_probed(len)).flatten() {
                return Some(path);
            }
            self.credit.sent(len);
            if !self.credit.validated {
                self.sent_unproven += len as u64;
            }
            return Some(usual);
        }
        if self.proven == Some(destination) {
            return Some(usual);
        }
        self.probed.filter(|probed| probed.remote == destination)?;
        self.send_probed(len)
    }

    /// Charges a datagram to the account of the probed address.
    fn send_probed(&mut self, len: usize) -> Option<Path> {
        let count_max = self.unproven_count(len, 1);
        let probed = self.probed.as_mut()?;
        if probed.credit.datagram_count(len, count_max) == 0 {
            return None;
        }
        probed.credit.sent(len);
        self.sent_unproven += len as u64;
        Some(Path { destination: probed.remote, local: probed.local })
    }
}

/// Time in which a connection regains all of its free datagrams, four a second: as often as the
/// worst NAT rebinds. What the client sends bounds them too.
const FREE_FILL_TIME: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::epoch;

    const HERE: Local = Local { socket: 0, ip: None };
    const THERE: Local = Local { socket: 1, ip: None };

    fn address(host: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, host], 4433))
    }

    fn path(host: u8, local: Local) -> Option<Path> {
        Some(Path { destination: address(host), local })
    }

    fn proven_at(host: u8) -> Paths {
        let mut credit = Credit::new(true);
        credit.received(100 * 1200);
        let mut paths = Paths::new(address(host), credit);
        paths.permit_free();
        paths
    }

    #[test]
    fn a_probe_of_another_path_gets_a_response_of_three_times_its_length_at_most() {
        let mut paths = proven_at(1);
        assert_eq!(paths.send(address(2), 1200, HERE), None, "nothing came from there");
        paths.received(address(2), THERE, 40);
        assert_eq!(paths.send(address(2), 1200, HERE), None);
        paths.received(address(2), THERE, 1200);
        for _ in 0..3 {
            assert_eq!(paths.send(address(2), 1200, HERE), path(2, THERE));
        }
        assert_eq!(paths.send(address(2), 1200, HERE), None);
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE));
        // A third address replaces the second.
        paths.received(address(3), HERE, 1200);
        assert_eq!(paths.send(address(2), 1, HERE), None);
    }

    #[test]
    fn a_new_address_must_be_validated_and_the_previous_one_need_not() {
        let mut paths = proven_at(1);
        assert!(!paths.follow(epoch(), address(1)));
        assert!(paths.follow(epoch(), address(2)));
        assert!(!paths.is_proven());
        assert_eq!(paths.datagram_count(1200, 64), 1);
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE), "the old path is asked too");
        assert_eq!(paths.datagram_count(1200, 64), 1, "and does not count");
        paths.send(address(2), 1200, HERE);
        assert_eq!(paths.datagram_count(1200, 64), 0);
        // It moves on before its response: the validated address stays the first.
        assert!(paths.follow(epoch(), address(3)));
        assert!(paths.follow(epoch(), address(1)));
        assert!(paths.is_proven());
        assert!(paths.follow(epoch(), address(2)));
        paths.prove();
        assert!(paths.follow(epoch(), address(1)));
        assert!(paths.is_proven(), "the address before the last was left proven");
        assert!(paths.follow(epoch(), address(2)));
        assert!(paths.is_proven());
    }

    /// Packets that an attacker repeats from two spoofed addresses in turn, and its own address,
    /// which it can validate.
    #[test]
    fn free_datagrams_come_with_time_and_not_with_proofs() {
        let mut paths = proven_at(1);
        let mut now = epoch();
        for seconds in 0..3 {
            let mut sent = 0;
            for turn in 0..100 {
                let stranger = address(2 + turn % 2);
                paths.follow(now, stranger);
                paths.received(stranger, HERE, 42);
                while paths.datagram_count(1200, 64) > 0 {
                    paths.send(stranger, 1200, HERE);
                    sent += 1;
                }
                if turn % 10 == 9 {
                    paths.follow(now, address(9));
                    paths.prove();
                    paths.follow(now, address(1));
                    paths.prove();
                }
            }
            let expected = if seconds == 0 { FREE_DATAGRAM_COUNT_MAX } else { 4 };
            assert_eq!(sent, expected, "after {seconds} s");
            now += FREE_FILL_TIME / 2;
        }
    }

    #[test]
    fn a_handshake_earns_no_free_datagram() {
        let mut credit = Credit::new(true);
        credit.received(1200);
        let mut paths = Paths::new(address(1), credit);
        paths.received(address(2), THERE, 52);
        paths.heard(epoch(), address(2), false);
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE));
        paths.follow(epoch(), address(3));
        assert_eq!(paths.datagram_count(1200, 64), 0);
    }

    #[test]
    fn all_unvalidated_addresses_together_are_sent_three_times_what_was_received() {
        let mut credit = Credit::new(true);
        credit.received(1200);
        let mut paths = Paths::new(address(1), credit);
        paths.permit_free();
        let mut now = epoch();
        let mut sent = 0;
        for turn in 0..100 {
            now += Duration::from_secs(10);
            paths.follow(now, address(2 + turn % 2));
            while paths.datagram_count(1200, 64) > 0 {
                paths.send(address(2 + turn % 2), 1200, HERE);
                sent += 1200;
            }
        }
        assert_eq!(sent, 3 * 1200);
    }

    #[test]
    fn a_client_heard_elsewhere_is_sent_one_free_datagram_there_then_three_times_its_bytes() {
        let mut paths = proven_at(1);
        paths.received(address(2), THERE, 60);
        paths.heard(epoch(), address(2), false);
        assert_eq!(paths.datagram_count(1200, 64), 1, "one at a time");
        assert_eq!(paths.send(address(1), 1200, HERE), path(2, THERE));
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE), "no more is earned");
        paths.received(address(2), THERE, 740);
        paths.heard(epoch(), address(2), false);
        assert_eq!(paths.send(address(1), 1200, HERE), path(2, THERE), "3 x 800 - 1,200");
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE));
        // The client is heard from the old address again.
        paths.received(address(2), THERE, 1200);
        paths.heard(epoch(), address(1), false);
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE));
        assert_eq!(paths.datagram_count(1200, 64), 64);
    }

    #[test]
    fn a_client_that_probes_a_path_has_not_moved() {
        let mut paths = proven_at(1);
        paths.received(address(2), THERE, 1200);
        paths.heard(epoch(), address(2), true);
        assert_eq!(paths.datagram_count(1200, 64), 64);
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE));
        assert_eq!(paths.send(address(2), 1200, HERE), path(2, THERE), "the probe is answered");
        // The client moves there.
        paths.heard(epoch(), address(2), false);
        paths.follow(epoch(), address(2));
        assert_eq!(paths.send(address(1), 1200, HERE), path(1, HERE), "the old path is asked too");
    }
}
