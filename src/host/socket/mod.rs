//! The edge's sockets: UDP and TCP, one of each per worker and address.
//!
//! Sockets stay in blocking mode: the ring waits in the kernel, and operations on a non-blocking
//! socket would complete with "would block" at once.

mod binding;
mod edge;
mod filter;
mod listeners;
pub mod offload;
mod options;
mod steering;

use std::net::{SocketAddr, UdpSocket};

use crate::cid::CidMask;

pub use binding::{BindError, Transport};
pub use edge::{EdgeGroup, Transports};
pub use listeners::{ListenerGroup, waiting_count};
pub use options::{GrantedBuffers, OptionError};

use binding::{await_free, bind, open};
use offload::Offload;
use options::{set_buffers, set_options};

/// All workers' UDP sockets for one address, with the options that the engine relies on. The owner
/// keeps it for the process's life: closing one socket renumbers the others, and the steering
/// program names them by number.
#[derive(Debug)]
pub struct SocketGroup {
    /// The address, with the port that the kernel chose where 0 was asked for.
    pub address: SocketAddr,
    /// One socket per worker, in worker order.
    pub sockets: Vec<UdpSocket>,
    /// The buffer lengths that the kernel granted (the least of all sockets).
    pub granted: GrantedBuffers,
    /// The reason why the kernel does not drop datagrams that are too short. They are harmless, but
    /// cost more then.
    pub filter_refusal: Option<OptionError>,
    /// The offloads of all sockets.
    pub offload: Offload,
}

impl SocketGroup {
    /// Binds `workers` sockets to `address` in worker order, with the steering program attached
    /// before the first can receive.
    pub fn bind(
        address: SocketAddr,
        workers: u16,
        mask: CidMask,
    ) -> Result<SocketGroup, BindError> {
        let refused = |source| BindError { transport: Transport::Udp, address, source };
        await_free(Transport::Udp, address).map_err(refused)?;
        let program = steering::program(mask, workers);
        let mut group = SocketGroup {
            address,
            sockets: Vec::with_capacity(usize::from(workers)),
            granted: GrantedBuffers { receive_len: usize::MAX, send_len: usize::MAX },
            filter_refusal: None,
            offload: Offload { is_coalescing: true, is_segmenting: true },
        };
        for index in 0..workers {
            let socket = open(Transport::Udp, address).map_err(refused)?;
            let socket = UdpSocket::from(socket);
            set_options(&socket, address).map_err(refused)?;
            group.filter_refusal = filter::drop_short(&socket).err().or(group.filter_refusal);
            let granted = set_buffers(&socket).map_err(refused)?;
            group.offload = group.offload.and(Offload::ask(&socket));
            if index == 0 {
                // The first socket begins the group and takes its program into it.
                steering::attach(&socket, &program).map_err(refused)?;
            }
            bind(&socket, group.address).map_err(refused)?;
            if index == 0 {
                group.address = socket
                    .local_addr()
                    .map_err(|e| refused(OptionError::from_io("getsockname", e)))?;
            }
            group.granted.receive_len = group.granted.receive_len.min(granted.receive_len);
            group.granted.send_len = group.granted.send_len.min(granted.send_len);
            group.sockets.push(socket);
        }
        Ok(group)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::mem;
    use std::os::fd::AsRawFd as _;

    use super::*;

    const MASK: CidMask = CidMask { k1: 1, k2: 2, k3: 3 };

    fn group(address: &str, workers: u16) -> Result<SocketGroup, BindError> {
        SocketGroup::bind(address.parse().unwrap(), workers, MASK)
    }

    fn option(socket: &UdpSocket, level: i32, option: i32) -> i32 {
        let (mut value, mut len) = (0i32, mem::size_of::<i32>() as libc::socklen_t);
        // SAFETY: `value` and `len` are live, and `len` is the length of `value`.
        let outcome = unsafe {
            libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut value).cast(), &mut len)
        };
        assert_eq!(outcome, 0);
        value
    }

    #[test]
    fn all_workers_share_one_address() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let group = group(address, 3).unwrap();
            assert_eq!(group.sockets.len(), 3);
            assert_ne!(group.address.port(), 0);
            for socket in &group.sockets {
                assert_eq!(socket.local_addr().unwrap(), group.address);
            }
            assert!(group.granted.receive_len >= 64 << 10, "{:?}", group.granted);
            assert!(group.filter_refusal.is_none(), "{:?}", group.filter_refusal);
        }
    }

    #[test]
    fn options_are_set() {
        let four = &group("127.0.0.1:0", 1).unwrap().sockets[0];
        let ip = libc::IPPROTO_IP;
        assert_eq!(option(four, ip, libc::IP_MTU_DISCOVER), libc::IP_PMTUDISC_PROBE);
        assert_eq!(option(four, ip, libc::IP_PKTINFO), 1);
        assert_eq!(option(four, ip, libc::IP_RECVTOS), 1);
        assert_eq!(option(four, libc::SOL_UDP, libc::UDP_GRO), 1);
        let six = &group("[::1]:0", 1).unwrap().sockets[0];
        let ip = libc::IPPROTO_IPV6;
        assert_eq!(option(six, ip, libc::IPV6_V6ONLY), 1);
        assert_eq!(option(six, ip, libc::IPV6_MTU_DISCOVER), libc::IPV6_PMTUDISC_PROBE);
        assert_eq!(option(six, ip, libc::IPV6_RECVPKTINFO), 1);
        assert_eq!(option(six, ip, libc::IPV6_RECVTCLASS), 1);
    }

    /// For example under a container's seccomp filter.
    #[test]
    fn an_address_is_bound_without_coalescing_where_that_is_refused() {
        let group = std::thread::spawn(|| {
            refuse_option(libc::SOL_UDP, libc::UDP_GRO);
            group("127.0.0.1:0", 2).unwrap()
        });
        let group = group.join().unwrap();
        let without = Offload { is_coalescing: false, is_segmenting: true };
        assert_eq!((group.sockets.len(), group.offload), (2, without));
        assert!(group.offload.advice().is_some());
    }

    /// Makes the kernel refuse a socket option to the calling thread from now on.
    fn refuse_option(level: i32, option: i32) {
        // From linux/filter.h, linux/seccomp.h: the call's number lies at 0, its arguments from 16
        // on, in eight bytes each.
        let step = |code: u32, jt, jf, k: u32| libc::sock_filter { code: code as u16, jt, jf, k };
        let load = |at| step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, at);
        let unless =
            |value: u32, skip| step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, skip, value);
        let response = |verdict| step(libc::BPF_RET | libc::BPF_K, 0, 0, verdict);
        let mut filter = [
            load(0),
            unless(libc::SYS_setsockopt as u32, 5),
            load(16 + 8),
            unless(level.cast_unsigned(), 3),
            load(16 + 16),
            unless(option.cast_unsigned(), 1),
            response(libc::SECCOMP_RET_ERRNO | libc::ENOPROTOOPT.cast_unsigned()),
            response(libc::SECCOMP_RET_ALLOW),
        ];
        let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
        let (on, off): (libc::c_ulong, libc::c_ulong) = (1, 0);
        // SAFETY: the program and its filter are live for the calls, and its length is given.
        let outcomes = unsafe {
            [
                libc::prctl(libc::PR_SET_NO_NEW_PRIVS, on, off, off, off),
                libc::prctl(
                    libc::PR_SET_SECCOMP,
                    libc::c_ulong::from(libc::SECCOMP_MODE_FILTER),
                    &raw const program,
                ),
            ]
        };
        assert_eq!(outcomes, [0, 0], "{}", io::Error::last_os_error());
    }

    /// Another test may be given a port that is free for a moment: five tries are enough.
    fn at_last(mut succeeds: impl FnMut() -> bool) {
        assert!((0..5).any(|_| succeeds()));
    }

    #[test]
    fn both_families_take_the_same_port() {
        at_last(|| {
            let six = group("[::]:0", 2).unwrap();
            let port = six.address.port();
            group(&format!("0.0.0.0:{port}"), 2).is_ok_and(|four| four.address.port() == port)
        });
    }

    #[test]
    fn a_port_that_another_group_holds_is_refused_with_its_name() {
        let first = group("127.0.0.1:0", 1).unwrap();
        let refusal = group(&first.address.to_string(), 1).unwrap_err().to_string();
        assert!(refusal.contains(&first.address.to_string()), "{refusal}");
        assert!(refusal.contains("ss -lunp"), "{refusal}");
    }

    #[test]
    fn a_port_that_is_about_to_be_free_is_waited_for() {
        at_last(|| {
            let first = group("127.0.0.1:0", 1).unwrap();
            let address = first.address;
            let closer = std::thread::spawn(move || {
                std::thread::park_timeout(std::time::Duration::from_millis(80));
                drop(first);
            });
            let second = group(&address.to_string(), 2);
            closer.join().unwrap();
            second.is_ok_and(|second| second.address == address)
        });
    }
    #[test]
    fn an_address_of_no_interface_is_refused_with_the_remedy() {
        assert!(group("192.0.2.1:0", 1).unwrap_err().to_string().contains("ip address"));
    }
}
