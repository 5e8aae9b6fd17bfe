//! Shares of a limited resource: how much of it each client address holds.
//!
//! Without them one client could hold all of what every client needs: connections, requests,
//! upstream connections. An address is an IPv4 address or the /64 of an IPv6 one, which is what a
//! single host or household has at hand (RFC 6177, RFC 8981).

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::IpAddr;

/// A client's address, as far as it distinguishes clients: an IPv4 address, or the first 64 bits of
/// an IPv6 address. An IPv4 address that is mapped into IPv6 is an IPv4 address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ClientAddress {
    V4(u32),
    V6Prefix(u64),
}

impl From<IpAddr> for ClientAddress {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self::V4(address.to_bits()),
            IpAddr::V6(address) => Self::V6Prefix((address.to_bits() >> 64) as u64),
        }
    }
}

/// The number of units of one resource that each client address holds. Ordered and not hashed: no
/// choice of addresses makes a look-up slow.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    held: BTreeMap<ClientAddress, u32>,
    total: usize,
}

impl Shares {
    /// Takes one unit. The caller has checked that the address may.
    pub(crate) fn take(&mut self, address: ClientAddress) {
        *self.held.entry(address).or_insert(0) += 1;
        self.total += 1;
    }

    /// Gives back one unit that was taken.
    pub(crate) fn give_back(&mut self, address: ClientAddress) {
        let Entry::Occupied(mut held) = self.held.entry(address) else {
            unreachable!("what is given back was taken");
        };
        *held.get_mut() -= 1;
        if *held.get() == 0 {
            held.remove();
        }
        self.total -= 1;
    }

    /// Returns whether the address holds `max` units or more.
    pub(crate) fn is_at(&self, max: usize, address: ClientAddress) -> bool {
        // As long as all of them together hold less, nobody is looked up.
        self.total >= max && self.held_by(address) >= max
    }

    /// Returns the number of units that the address holds.
    pub(crate) fn held_by(&self, address: ClientAddress) -> usize {
        self.held.get(&address).map_or(0, |held| *held as usize)
    }

    /// Returns the number of units that all addresses hold.
    pub(crate) fn total(&self) -> usize {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> ClientAddress {
        text.parse::<IpAddr>().unwrap().into()
    }

    #[test]
    fn an_ipv6_host_has_one_address_however_many_it_uses() {
        assert_eq!(address("2001:db8:1:2::1"), address("2001:db8:1:2:ffff:ffff:ffff:ffff"));
        assert_ne!(address("2001:db8:1:2::1"), address("2001:db8:1:3::1"));
        assert_ne!(address("192.0.2.1"), address("192.0.2.2"));
        assert_eq!(address("::ffff:192.0.2.1"), address("192.0.2.1"));
    }

    #[test]
    fn what_is_given_back_leaves_no_trace() {
        let (one, other) = (address("192.0.2.1"), address("192.0.2.2"));
        let mut shares = Shares::default();
        shares.take(one);
        shares.take(one);
        shares.take(other);
        assert_eq!((shares.held_by(one), shares.held_by(other), shares.total()), (2, 1, 3));
        assert!(shares.is_at(2, one) && !shares.is_at(3, one) && !shares.is_at(2, other));
        shares.give_back(one);
        shares.give_back(other);
        assert_eq!((shares.held_by(one), shares.held_by(other), shares.total()), (1, 0, 1));
        shares.give_back(one);
        assert!(shares.held.is_empty());
    }
}
