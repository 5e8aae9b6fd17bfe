//! The sockets of one address: of UDP, of TCP or of both, with the same port.

use std::net::SocketAddr;

use super::{BindError, ListenerGroup, SocketGroup};
use crate::cid::CidMask;

/// How often a port that the kernel chose for one transport is asked for with the other.
const PORT_TRIES: u32 = 16;

/// The transports of an address; at least one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transports {
    pub udp: bool,
    pub tcp: bool,
}

/// All workers' sockets for one address.
#[derive(Debug)]
pub struct EdgeGroup {
    /// The address, with the port that the kernel chose where 0 was asked for.
    pub address: SocketAddr,
    pub udp: Option<SocketGroup>,
    pub tcp: Option<ListenerGroup>,
}

impl EdgeGroup {
    /// Binds `workers` sockets of each transport to `address`. Port 0 is the same free port for
    /// both.
    pub fn bind(
        address: SocketAddr,
        transports: Transports,
        workers: u16,
        mask: CidMask,
    ) -> Result<EdgeGroup, BindError> {
        let mut tries_left = if address.port() == 0 { PORT_TRIES } else { 1 };
        loop {
            tries_left -= 1;
            match Self::try_bind(address, transports, workers, mask) {
                Err(refusal) if refusal.is_in_use() && tries_left > 0 => {}
                outcome => return outcome,
            }
        }
    }

    fn try_bind(
        address: SocketAddr,
        transports: Transports,
        workers: u16,
        mask: CidMask,
    ) -> Result<EdgeGroup, BindError> {
        // TCP first: it finds a port that is taken at once, and holds it then.
        let mut group = EdgeGroup { address, udp: None, tcp: None };
        if transports.tcp {
            let tcp = ListenerGroup::bind(group.address, workers)?;
            group.address = tcp.address;
            group.tcp = Some(tcp);
        }
        if transports.udp {
            let udp = SocketGroup::bind(group.address, workers, mask)?;
            group.address = udp.address;
            group.udp = Some(udp);
        }
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use std::net::UdpSocket;

    use super::*;

    const MASK: CidMask = CidMask { k1: 1, k2: 2, k3: 3 };
    const BOTH: Transports = Transports { udp: true, tcp: true };

    fn bind(address: &str, transports: Transports) -> Result<EdgeGroup, BindError> {
        EdgeGroup::bind(address.parse().unwrap(), transports, 2, MASK)
    }

    #[test]
    fn both_transports_have_the_same_port() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let EdgeGroup { address, udp, tcp } = bind(address, BOTH).unwrap();
            let (udp, tcp) = (udp.unwrap(), tcp.unwrap());
            assert_ne!(address.port(), 0);
            assert_eq!((udp.address, tcp.address), (address, address));
            assert_eq!((udp.sockets.len(), tcp.sockets.len()), (2, 2));
        }
    }

    #[test]
    fn a_transport_that_is_not_asked_for_is_not_bound() {
        let group = bind("127.0.0.1:0", Transports { udp: false, tcp: true }).unwrap();
        assert!(group.udp.is_none() && group.tcp.is_some());
        let group = bind("127.0.0.1:0", Transports { udp: true, tcp: false }).unwrap();
        assert!(group.udp.is_some() && group.tcp.is_none());
    }

    /// A port that was named is not given up for another one.
    #[test]
    fn a_port_that_one_transport_has_is_refused_for_both() {
        let holder = UdpSocket::bind("127.0.0.1:0").unwrap();
        let refusal = bind(&holder.local_addr().unwrap().to_string(), BOTH).unwrap_err();
        assert!(refusal.to_string().contains("cannot bind udp"), "{refusal}");
    }
}
