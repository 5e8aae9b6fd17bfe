//! A socket filter that drops datagrams too short for a QUIC packet.
//!
//! An empty datagram ends a multishot receive, so a flood of them would cost the worker a turn
//! each. A classic BPF program on the socket makes the kernel drop them. It is independent of the
//! program that selects the socket ([`steering`](super::steering)).

use std::net::UdpSocket;

use super::options::{OptionError, set_program};

/// The shortest datagram with a QUIC packet: one with a short header of fewer bytes is never valid
/// (RFC 9000 10.3), and one with a long header is longer.
pub(super) const DATAGRAM_LEN_MIN: u32 = 21;

/// Length of the UDP header, which the program sees too.
const UDP_HEADER_LEN: u32 = 8;

/// Makes the kernel drop datagrams shorter than [`DATAGRAM_LEN_MIN`]. For a bundle of several
/// (GRO), the length of the whole counts.
pub(super) fn drop_short(socket: &UdpSocket) -> Result<(), OptionError> {
    let step = |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let program = [
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_LEN, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, UDP_HEADER_LEN + DATAGRAM_LEN_MIN, 1),
        // The number of bytes to keep.
        step(libc::BPF_RET | libc::BPF_K, u32::MAX, 0),
        step(libc::BPF_RET | libc::BPF_K, 0, 0),
    ];
    set_program(socket, libc::SO_ATTACH_FILTER, &program, "SO_ATTACH_FILTER")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsRawFd as _;
    use std::time::Duration;

    use super::*;

    #[test]
    fn datagrams_shorter_than_a_packet_do_not_arrive() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let (socket, client) =
                (UdpSocket::bind(address).unwrap(), UdpSocket::bind(address).unwrap());
            drop_short(&socket).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
            let to = socket.local_addr().unwrap();
            let lens = [0, 20, 21, 1, 1200, 19, 65_507, 0, 22];
            for len in lens {
                client.send_to(&vec![7; len], to).unwrap();
            }
            let mut buffer = vec![0; 65_536];
            for len in lens.into_iter().filter(|&len| len >= 21) {
                assert_eq!(socket.recv(&mut buffer).unwrap(), len);
            }
            socket.set_nonblocking(true).unwrap();
            assert!(socket.recv(&mut buffer).is_err(), "nothing else is there");
        }
    }

    #[test]
    fn a_refusal_names_the_option() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        drop_short(&socket).unwrap();
        let on: i32 = 1;
        // SAFETY: `on` is live for the call and its length is given.
        let outcome = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_SOCKET,
                libc::SO_LOCK_FILTER,
                (&raw const on).cast(),
                size_of::<i32>() as libc::socklen_t,
            )
        };
        assert_eq!(outcome, 0);
        let refusal = drop_short(&socket).unwrap_err();
        assert!(refusal.to_string().starts_with("SO_ATTACH_FILTER: "), "{refusal}");
    }
}
