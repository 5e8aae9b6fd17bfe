//! Segmentation offload of UDP sockets (GRO and GSO). Both save a pass through the network stack
//! per datagram. Neither is required: sandboxes (gVisor), seccomp filters and BPF programs of
//! cgroups may refuse them.

use std::os::fd::AsRawFd;

use super::options::{read, set};

/// Segmentation offload of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offload {
    /// One receive brings many datagrams of one peer (UDP_GRO).
    pub is_coalescing: bool,
    /// One send carries many datagrams to one peer (UDP_SEGMENT).
    pub is_segmenting: bool,
}

impl Offload {
    /// Requests both. Returns what is granted.
    pub fn ask(socket: &impl AsRawFd) -> Offload {
        // The result is read back below.
        let _ = set(socket, libc::SOL_UDP, libc::UDP_GRO, 1, "UDP_GRO");
        Self::of(socket)
    }

    /// Returns the offloads of a socket. The device may still refuse to segment a send.
    pub fn of(socket: &impl AsRawFd) -> Offload {
        let value = |option, what| read(socket, libc::SOL_UDP, option, what);
        Offload {
            is_coalescing: value(libc::UDP_GRO, "UDP_GRO").is_ok_and(|value| value != 0),
            // An unset segment length is 0; the option is still known.
            is_segmenting: value(libc::UDP_SEGMENT, "UDP_SEGMENT").is_ok(),
        }
    }

    /// Returns the offloads that both sockets have.
    pub fn and(self, other: Offload) -> Offload {
        Offload {
            is_coalescing: self.is_coalescing && other.is_coalescing,
            is_segmenting: self.is_segmenting && other.is_segmenting,
        }
    }

    /// Returns what is missing, its cost and the remedy; `None` if nothing is.
    pub fn advice(self) -> Option<String> {
        let missing = match (self.is_coalescing, self.is_segmenting) {
            (true, true) => return None,
            (false, true) => "received datagrams are not coalesced (UDP_GRO)",
            (true, false) => "sent datagrams are not segmented (UDP_SEGMENT)",
            (false, false) => {
                "datagrams are neither coalesced nor segmented (UDP_GRO, UDP_SEGMENT)"
            }
        };
        Some(format!(
            "{missing}: each one costs a pass through the network stack of its own. Linux has both \
             since 5.0; a sandbox (gVisor), a seccomp filter or a cgroup's program refuses them \
             here: allow setsockopt and getsockopt of level 17 (UDP), options 103 and 104"
        ))
    }
}

/// Disables both offloads of a socket: it has no GRO, and no checksums, without which the kernel
/// refuses to segment.
#[cfg(test)]
pub(crate) fn hinder(socket: &impl AsRawFd) {
    set(socket, libc::SOL_UDP, libc::UDP_GRO, 0, "UDP_GRO").expect("it may be turned off");
    set(socket, libc::SOL_SOCKET, libc::SO_NO_CHECK, 1, "SO_NO_CHECK").expect("it may be set");
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn granted_offloads_are_read_back() {
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let nothing_asked = Offload { is_coalescing: false, is_segmenting: true };
        assert_eq!(Offload::of(&socket), nothing_asked);
        let all = Offload { is_coalescing: true, is_segmenting: true };
        assert_eq!(Offload::ask(&socket), all);
        // A socket that knows neither option.
        let stream = TcpListener::bind("127.0.0.1:0").unwrap();
        let none = Offload { is_coalescing: false, is_segmenting: false };
        assert_eq!(Offload::ask(&stream), none);
        assert_eq!(all.and(none), none);
    }

    #[test]
    fn the_advice_names_what_is_missing() {
        let told = |is_coalescing, is_segmenting| {
            Offload { is_coalescing, is_segmenting }.advice().unwrap_or_default()
        };
        assert_eq!(told(true, true), "");
        for (text, gro, gso) in [
            (told(false, true), true, false),
            (told(true, false), false, true),
            (told(false, false), true, true),
        ] {
            assert_eq!((text.contains("UDP_GRO"), text.contains("UDP_SEGMENT")), (gro, gso));
            assert!(text.contains("seccomp") && text.contains("setsockopt"), "{text}");
        }
    }
}
