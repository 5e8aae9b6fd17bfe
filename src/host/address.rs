//! Socket addresses in the kernel's layout.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// A socket address in the kernel's layout.
#[derive(Clone, Copy)]
pub(crate) struct SockAddr {
    storage: Storage,
    len: libc::socklen_t,
}

#[derive(Clone, Copy)]
#[repr(C)]
union Storage {
    v4: libc::sockaddr_in,
    v6: libc::sockaddr_in6,
    unix: libc::sockaddr_un,
}

impl SockAddr {
    /// Returns the address of the unix socket at `path`.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let bytes = path.as_os_str().as_bytes();
        let mut unix = libc::sockaddr_un {
            sun_family: libc::AF_UNIX as libc::sa_family_t,
            sun_path: [0; 108],
        };
        // One byte stays for the terminating zero.
        if bytes.is_empty() || bytes.len() >= unix.sun_path.len() || bytes.contains(&0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("a unix socket's path has 1 to 107 bytes: {}", path.display()),
            ));
        }
        for (to, from) in unix.sun_path.iter_mut().zip(bytes) {
            *to = from.cast_signed();
        }
        let len = mem::offset_of!(libc::sockaddr_un, sun_path) + bytes.len() + 1;
        Ok(Self { storage: Storage { unix }, len: len as libc::socklen_t })
    }

    /// Returns a pointer to the address, valid while it is neither moved nor dropped.
    pub(crate) fn as_ptr(&self) -> *const libc::sockaddr {
        (&raw const self.storage).cast()
    }

    #[allow(clippy::len_without_is_empty, reason = "the kernel's word; an address is never empty")]
    pub(crate) fn len(&self) -> libc::socklen_t {
        self.len
    }

    /// Parses an IPv4 or IPv6 address from bytes that the kernel has written.
    pub(crate) fn parse(bytes: &[u8]) -> Option<SocketAddr> {
        let family = u16::from_ne_bytes(*bytes.first_chunk()?);
        let port = u16::from_be_bytes(*bytes.get(2..)?.first_chunk()?);
        match i32::from(family) {
            libc::AF_INET => {
                let ip: [u8; 4] = *bytes.get(4..)?.first_chunk()?;
                Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
            }
            libc::AF_INET6 => {
                let flow = u32::from_be_bytes(*bytes.get(4..)?.first_chunk()?);
                let ip: [u8; 16] = *bytes.get(8..)?.first_chunk()?;
                let scope = u32::from_ne_bytes(*bytes.get(24..)?.first_chunk()?);
                Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, flow, scope).into())
            }
            _ => None,
        }
    }
}

impl From<SocketAddr> for SockAddr {
    fn from(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => {
                let v4 = libc::sockaddr_in {
                    sin_family: libc::AF_INET as libc::sa_family_t,
                    sin_port: address.port().to_be(),
                    sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(address.ip().octets()) },
                    sin_zero: [0; 8],
                };
                Self { storage: Storage { v4 }, len: mem::size_of_val(&v4) as libc::socklen_t }
            }
            SocketAddr::V6(address) => {
                let v6 = libc::sockaddr_in6 {
                    sin6_family: libc::AF_INET6 as libc::sa_family_t,
                    sin6_port: address.port().to_be(),
                    sin6_flowinfo: address.flowinfo().to_be(),
                    sin6_addr: libc::in6_addr { s6_addr: address.ip().octets() },
                    sin6_scope_id: address.scope_id(),
                };
                Self { storage: Storage { v6 }, len: mem::size_of_val(&v6) as libc::socklen_t }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(address: &SockAddr) -> &[u8] {
        // SAFETY: `len` bytes of the address were written by its constructor.
        unsafe { std::slice::from_raw_parts(address.as_ptr().cast(), address.len() as usize) }
    }

    #[test]
    fn addresses_survive_the_kernels_layout() {
        for text in ["127.0.0.1:443", "255.255.255.255:65535", "[::1]:1", "[fe80::1%7]:4433"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(SockAddr::parse(bytes(&SockAddr::from(address))), Some(address));
        }
    }

    #[test]
    fn short_or_foreign_bytes_are_no_address() {
        let six = SockAddr::from("[2001:db8::1]:443".parse::<SocketAddr>().unwrap());
        for len in 0..bytes(&six).len() {
            assert_eq!(SockAddr::parse(&bytes(&six)[..len]), None, "{len} bytes");
        }
        let unix = SockAddr::unix(Path::new("/run/a.sock")).unwrap();
        assert_eq!(SockAddr::parse(bytes(&unix)), None);
    }

    #[test]
    fn a_unix_path_must_fit() {
        assert_eq!(SockAddr::unix(Path::new("/a")).unwrap().len(), 2 + 2 + 1);
        assert!(SockAddr::unix(Path::new(&"x".repeat(107))).is_ok());
        for bad in [String::new(), "x".repeat(108), "a\0b".to_owned()] {
            assert!(SockAddr::unix(Path::new(&bad)).is_err());
        }
    }
}
