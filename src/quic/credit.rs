//! The anti-amplification limit of an address that is not validated yet.
//!
//! Source addresses can be spoofed, so until an address is validated an endpoint sends at most
//! three times the bytes that it received from there (RFC 9000 8.1). quinn-proto sends a whole
//! datagram while any byte of that is left, up to 3.19 times one Initial. So the engine keeps its
//! own account and checks it *before* a datagram is built; a built datagram is never dropped, since
//! quinn-proto counts it as sent.
//!
//! An address is validated by a Retry token, a packet under Handshake keys, or the end of the
//! handshake. When a client moves, its new address gets a new account ([`super::paths`]), which
//! ends with a PATH_RESPONSE.

use crate::base::varint;

/// Bytes that may be sent for each byte received (RFC 9000 8.1).
pub(super) const AMPLIFICATION_MAX: u64 = 3;

/// The account of one address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Credit {
    pub(super) validated: bool,
    /// One datagram may be sent beyond the limit, unless one was sent already. A client that does
    /// not know that it moved (its NAT gave it another port) sends acknowledgements of 40 bytes,
    /// which never add up to the 1,200 of a PATH_CHALLENGE (RFC 9000 8.2.1): the connection would
    /// be lost. Only a client that has completed a handshake can direct this datagram to a third
    /// party.
    pub(super) first_is_free: bool,
    pub(super) received: u64,
    sent: u64,
}

impl Credit {
    pub(super) fn new(validated: bool) -> Self {
        Self { validated, first_is_free: false, received: 0, sent: 0 }
    }

    /// Adds received bytes. All bytes of datagrams attributed to the connection count, including
    /// those of discarded packets (RFC 9000 8.1).
    pub(super) fn received(&mut self, len: usize) {
        self.received += len as u64;
    }

    pub(super) fn sent(&mut self, len: usize) {
        self.sent += len as u64;
    }

    /// Returns how many datagrams of `len` bytes may be sent, at most `count_max`.
    pub(super) fn datagram_count(self, len: usize, count_max: usize) -> usize {
        if self.validated {
            return count_max;
        }
        let left = (self.received * AMPLIFICATION_MAX).saturating_sub(self.sent);
        let earned = usize::try_from(left / len as u64).unwrap_or(usize::MAX);
        let free = usize::from(self.first_is_free && self.sent == 0);
        count_max.min(earned.max(free))
    }
}

const LONG_HEADER: u8 = 0x80;
const INITIAL: u8 = 0;
const HANDSHAKE: u8 = 2;
const VERSION_1: [u8; 4] = [0, 0, 0, 1];

/// Returns whether a datagram begins with a long header; all such datagrams belong to handshakes.
pub(super) fn has_long_header(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & LONG_HEADER != 0)
}

/// Returns whether a datagram can begin a connection, or cause a response without one: it begins
/// with an Initial, or with a packet of another version.
pub(super) fn may_begin_connection(datagram: &[u8]) -> bool {
    let Some((&first, rest)) = datagram.split_first() else { return false };
    let is_initial = first >> 4 & 3 == INITIAL;
    first & LONG_HEADER != 0 && (is_initial || !rest.starts_with(&VERSION_1))
}

/// Returns whether a datagram has a long-header packet and each of them claims to be a Handshake
/// packet. Their keys derive from our response, so if one is authentic, the sender has received
/// that (RFC 9000 8.1). Authenticity is not checked here.
pub(super) fn claims_handshake_only(mut datagram: &[u8]) -> bool {
    let mut found = false;
    while has_long_header(datagram) {
        match handshake_packet(datagram) {
            Some(rest) => datagram = rest,
            None => return false,
        }
        found = true;
    }
    found
}

/// Facts from the header of an Initial (RFC 9000 17.2.2).
pub(super) struct Initial<'a> {
    pub(super) destination: &'a [u8],
    pub(super) has_token: bool,
}

/// Returns the header if a datagram begins with an Initial.
pub(super) fn initial(datagram: &[u8]) -> Option<Initial<'_>> {
    let (&first, rest) = datagram.split_first()?;
    let rest = rest.strip_prefix(&VERSION_1)?;
    if first & LONG_HEADER == 0 || first >> 4 & 3 != INITIAL {
        return None;
    }
    let (&destination_len, rest) = rest.split_first()?;
    let (destination, rest) = rest.split_at_checked(destination_len.into())?;
    let (&source_len, rest) = rest.split_first()?;
    let has_token = rest.get(usize::from(source_len)).is_some_and(|len| *len != 0);
    Some(Initial { destination, has_token })
}

/// Returns what follows a Handshake packet (RFC 9000 17.2.4), or `None` if `packet` does not begin
/// with a complete one.
fn handshake_packet(packet: &[u8]) -> Option<&[u8]> {
    let (&first, rest) = packet.split_first()?;
    let rest = rest.strip_prefix(&VERSION_1)?;
    if first >> 4 & 3 != HANDSHAKE {
        return None;
    }
    let (&destination_len, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(destination_len)..)?;
    let (&source_len, rest) = rest.split_first()?;
    let rest = rest.get(usize::from(source_len)..)?;
    let (payload_len, integer_len) = varint::read(rest)?;
    rest[integer_len..].get(usize::try_from(payload_len).ok()?..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_initial_permits_three_datagrams() {
        let mut credit = Credit::new(false);
        assert_eq!(credit.datagram_count(1200, 64), 0);
        credit.received(1200);
        assert_eq!(credit.datagram_count(1200, 64), 3);
        assert_eq!(credit.datagram_count(1200, 2), 2);
        credit.sent(1201);
        assert_eq!(credit.datagram_count(1200, 64), 1);
        credit.sent(1200);
        assert_eq!(credit.datagram_count(1200, 64), 0);
        credit.received(1);
        assert_eq!(credit.datagram_count(1200, 64), 1, "1,199 were left, and 3 more");
        credit.validated = true;
        assert_eq!(credit.datagram_count(1200, 64), 64);
    }

    #[test]
    fn one_datagram_is_free_for_a_new_address() {
        let mut credit = Credit::new(false);
        credit.first_is_free = true;
        credit.received(40);
        assert_eq!(credit.datagram_count(1200, 64), 1);
        credit.sent(1200);
        assert_eq!(credit.datagram_count(1200, 64), 0);
        credit.received(1160);
        assert_eq!(credit.datagram_count(1200, 64), 2);
    }

    fn long(kind: u8, version: u8, payload_len: u8) -> Vec<u8> {
        let mut packet = vec![0xc0 | kind << 4, 0, 0, 0, version, 2, 1, 1, 1, 7];
        if kind == 0 {
            packet.push(0);
        }
        packet.push(payload_len);
        packet.extend(vec![0; usize::from(payload_len)]);
        packet
    }

    #[test]
    fn the_header_of_an_initial_is_read() {
        let read = |datagram: &[u8]| {
            initial(datagram).map(|header| (header.destination.to_vec(), header.has_token))
        };
        let mut datagram = long(0, 1, 30);
        assert_eq!(read(&datagram), Some((vec![1, 1], false)));
        assert_eq!(read(&long(2, 1, 30)), None, "a Handshake packet");
        assert_eq!(read(&long(0, 2, 30)), None, "another version");
        assert_eq!(read(&[0x40; 30]), None, "a short header");
        for len in 0..9 {
            assert_eq!(read(&datagram[..len]), None, "cut at {len}");
        }
        datagram[10] = 16;
        assert_eq!(read(&datagram), Some((vec![1, 1], true)));
    }

    #[test]
    fn initials_and_other_versions_may_begin_connections() {
        assert!(may_begin_connection(&long(0, 1, 30)));
        assert!(!may_begin_connection(&long(1, 1, 30)), "0-RTT");
        assert!(!may_begin_connection(&long(2, 1, 30)), "Handshake");
        assert!(may_begin_connection(&long(2, 2, 30)), "another version");
        assert!(!may_begin_connection(&[0x40; 30]), "a short header");
        assert!(!may_begin_connection(&[]));
    }

    #[test]
    fn only_whole_handshake_packets_count() {
        let handshake = long(2, 1, 30);
        assert!(claims_handshake_only(&handshake));
        assert!(claims_handshake_only(&[handshake.clone(), handshake.clone()].concat()));
        // A packet with a short header extends to the end of the datagram.
        assert!(claims_handshake_only(&[handshake.clone(), vec![0x40; 30]].concat()));
        assert!(!claims_handshake_only(&[handshake.clone(), long(0, 1, 30)].concat()));
        assert!(!claims_handshake_only(&[long(0, 1, 30), handshake.clone()].concat()));
        assert!(!claims_handshake_only(&long(2, 2, 30)));
        assert!(!claims_handshake_only(&long(3, 1, 30)));
        assert!(!claims_handshake_only(&[0x40; 30]));
        assert!(!claims_handshake_only(&[]));
        for len in 0..handshake.len() {
            assert!(!claims_handshake_only(&handshake[..len]), "cut at {len}");
        }
    }
}
