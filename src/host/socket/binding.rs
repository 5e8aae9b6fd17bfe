//! The binding of an address, and the error that names the remedy.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd as _, OwnedFd};

use super::options::{OptionError, only_own_family, reuse_address};
use crate::host::address::SockAddr;

/// The transport protocol of a socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    Udp,
    Tcp,
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        })
    }
}

/// The reason why an address could not be bound, displayed with its remedy.
#[derive(Debug)]
pub struct BindError {
    pub transport: Transport,
    pub address: SocketAddr,
    /// The step that the kernel refused.
    pub source: OptionError,
}

impl BindError {
    /// Returns whether another socket has the port.
    pub(super) fn is_in_use(&self) -> bool {
        self.source.error.kind() == io::ErrorKind::AddrInUse
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { transport, address, source } = self;
        write!(f, "cannot bind {transport} {address}: {source}")?;
        match self.source.error.raw_os_error() {
            Some(libc::EADDRINUSE) => {
                let listing = match transport {
                    Transport::Udp => "ss -lunp",
                    Transport::Tcp => "ss -ltnp",
                };
                write!(
                    f,
                    "; another process holds the port: `{listing} 'sport = :{}'` names it",
                    address.port()
                )
            }
            Some(libc::EACCES | libc::EPERM) if address.port() < 1024 => write!(
                f,
                "; ports below 1024 need a privilege: `setcap cap_net_bind_service=+ep ringway` \
                 or `sysctl -w net.ipv4.ip_unprivileged_port_start={}`",
                address.port()
            ),
            Some(libc::EADDRNOTAVAIL) => {
                write!(f, "; no interface has this address: `ip address` lists those that exist")
            }
            Some(libc::EAFNOSUPPORT) if address.is_ipv6() => {
                write!(f, "; IPv6 is off on this host: remove the address or enable IPv6")
            }
            Some(libc::EMFILE) => {
                write!(f, "; too many open files: raise the limit (`ulimit -n`, LimitNOFILE=)")
            }
            _ => Ok(()),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// Opens a socket of the address's family.
pub(super) fn open(transport: Transport, address: SocketAddr) -> Result<OwnedFd, OptionError> {
    let family = if address.is_ipv6() { libc::AF_INET6 } else { libc::AF_INET };
    let kind = match transport {
        Transport::Udp => libc::SOCK_DGRAM,
        Transport::Tcp => libc::SOCK_STREAM,
    };
    // SAFETY: takes three integers and touches no memory of ours.
    let fd = unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, 0) };
    if fd < 0 {
        return Err(OptionError::last("socket"));
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Waits until the address is free, unless its port is 0. A process that has just ended may hold it
/// for some 50 ms longer: the kernel tears rings down in the background.
///
/// A socket that shares its port would join a group that another process holds, and the two would
/// take each other's clients. So this asks without sharing.
pub(super) fn await_free(transport: Transport, address: SocketAddr) -> Result<(), OptionError> {
    const TRIES: u32 = 20;
    const PAUSE_MS: i32 = 25;
    if address.port() == 0 {
        return Ok(());
    }
    let probe = open(transport, address)?;
    only_own_family(&probe, address)?;
    if transport == Transport::Tcp {
        reuse_address(&probe)?;
    }
    let mut outcome = bind(&probe, address);
    for _ in 1..TRIES {
        match &outcome {
            Err(refusal) if refusal.error.kind() == io::ErrorKind::AddrInUse => {
                // SAFETY: no descriptors are passed; the call only lets the time pass.
                unsafe { libc::poll(std::ptr::null_mut(), 0, PAUSE_MS) };
                outcome = bind(&probe, address);
            }
            _ => break,
        }
    }
    outcome
}

pub(super) fn bind(socket: &impl AsRawFd, address: SocketAddr) -> Result<(), OptionError> {
    let address = SockAddr::from(address);
    // SAFETY: the pointer and length describe `address`, which is live for the call.
    let outcome = unsafe { libc::bind(socket.as_raw_fd(), address.as_ptr(), address.len()) };
    if outcome == 0 { Ok(()) } else { Err(OptionError::last("bind")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_name_the_remedy() {
        let told = |transport, address: &str, errno: i32| {
            let source = OptionError { what: "bind", error: io::Error::from_raw_os_error(errno) };
            BindError { transport, address: address.parse().unwrap(), source }.to_string()
        };
        let udp = |address, errno| told(Transport::Udp, address, errno);
        let refusal = udp("0.0.0.0:443", libc::EACCES);
        assert!(refusal.contains("setcap") && refusal.contains("unprivileged_port_start=443"));
        assert!(udp("192.0.2.1:443", libc::EADDRNOTAVAIL).contains("ip address"));
        assert!(udp("[::]:443", libc::EAFNOSUPPORT).contains("IPv6"));
        assert!(udp("0.0.0.0:4433", libc::EMFILE).contains("ulimit"));
        let in_use = udp("0.0.0.0:443", libc::EADDRINUSE);
        assert!(in_use.contains("cannot bind udp 0.0.0.0:443") && in_use.contains("ss -lunp"));
        let in_use = told(Transport::Tcp, "0.0.0.0:443", libc::EADDRINUSE);
        assert!(in_use.contains("cannot bind tcp 0.0.0.0:443"), "{in_use}");
        assert!(in_use.contains("`ss -ltnp 'sport = :443'` names it"), "{in_use}");
    }
}
