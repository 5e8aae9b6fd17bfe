//! Socket options, and the error that names the option that the kernel refused.

use std::fmt;
use std::io;
use std::mem;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;

/// Length of each buffer to request, in bytes of payload and the kernel's own overhead.
const BUFFER_LEN_WANTED: i32 = 4 << 20;

/// Buffer lengths that the kernel granted; without privilege it grants no more than
/// `net.core.rmem_max` and `net.core.wmem_max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantedBuffers {
    pub receive_len: usize,
    pub send_len: usize,
}

/// The refusal of a system call or socket option.
#[derive(Debug)]
pub struct OptionError {
    /// The call or the socket option, as the kernel names it.
    pub what: &'static str,
    pub error: io::Error,
}

impl OptionError {
    pub(super) fn last(what: &'static str) -> Self {
        Self { what, error: io::Error::last_os_error() }
    }

    pub(super) fn from_io(what: &'static str, error: io::Error) -> Self {
        Self { what, error }
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.error)
    }
}

impl std::error::Error for OptionError {}

/// Restricts an IPv6 socket to IPv6, so that an IPv4 socket can have the same port.
pub(super) fn only_own_family(
    socket: &impl AsRawFd,
    address: SocketAddr,
) -> Result<(), OptionError> {
    if address.is_ipv6() {
        set(socket, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1, "IPV6_V6ONLY")?;
    }
    Ok(())
}

/// Lets a TCP socket have a port on which connections of an earlier socket are still ending.
pub(super) fn reuse_address(socket: &impl AsRawFd) -> Result<(), OptionError> {
    set(socket, libc::SOL_SOCKET, libc::SO_REUSEADDR, 1, "SO_REUSEADDR")
}

/// Sets the options of a TCP socket that clients connect to; accepted sockets inherit them.
pub(super) fn set_listener_options(
    socket: &impl AsRawFd,
    address: SocketAddr,
) -> Result<(), OptionError> {
    only_own_family(socket, address)?;
    reuse_address(socket)?;
    set(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1, "SO_REUSEPORT")?;
    // Responses are written in whole pieces: waiting for more to send would only delay the last.
    set(socket, libc::IPPROTO_TCP, libc::TCP_NODELAY, 1, "TCP_NODELAY")
}

/// Sets the options that the engine relies on.
pub(super) fn set_options(socket: &UdpSocket, address: SocketAddr) -> Result<(), OptionError> {
    only_own_family(socket, address)?;
    set(socket, libc::SOL_SOCKET, libc::SO_REUSEPORT, 1, "SO_REUSEPORT")?;
    // RFC 9000 14: QUIC datagrams must not be fragmented. With PROBE the kernel sets DF and ignores
    // path MTU messages, which can be forged.
    if address.is_ipv6() {
        let level = libc::IPPROTO_IPV6;
        let probe = libc::IPV6_PMTUDISC_PROBE;
        set(socket, level, libc::IPV6_MTU_DISCOVER, probe, "IPV6_MTU_DISCOVER")?;
        set(socket, level, libc::IPV6_RECVPKTINFO, 1, "IPV6_RECVPKTINFO")?;
        set(socket, level, libc::IPV6_RECVTCLASS, 1, "IPV6_RECVTCLASS")
    } else {
        let level = libc::IPPROTO_IP;
        let probe = libc::IP_PMTUDISC_PROBE;
        set(socket, level, libc::IP_MTU_DISCOVER, probe, "IP_MTU_DISCOVER")?;
        set(socket, level, libc::IP_PKTINFO, 1, "IP_PKTINFO")?;
        set(socket, level, libc::IP_RECVTOS, 1, "IP_RECVTOS")
    }
}

/// Sets the buffer lengths and returns those that the kernel granted.
pub(super) fn set_buffers(socket: &UdpSocket) -> Result<GrantedBuffers, OptionError> {
    let receive = (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF);
    let send = (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF);
    Ok(GrantedBuffers {
        receive_len: grant(socket, receive, "SO_RCVBUF")?,
        send_len: grant(socket, send, "SO_SNDBUF")?,
    })
}

/// Requests [`BUFFER_LEN_WANTED`] with the privileged option, then with the ordinary one. Returns
/// the granted length without the kernel's own overhead, for which it doubles the figure.
fn grant(
    socket: &UdpSocket,
    (forced, ordinary): (i32, i32),
    what: &'static str,
) -> Result<usize, OptionError> {
    if set(socket, libc::SOL_SOCKET, forced, BUFFER_LEN_WANTED, what).is_err() {
        set(socket, libc::SOL_SOCKET, ordinary, BUFFER_LEN_WANTED, what)?;
    }
    let granted = read(socket, libc::SOL_SOCKET, ordinary, what)?;
    Ok(usize::try_from(granted).unwrap_or(0) / 2)
}

/// Returns the value of an integer option.
pub(super) fn read(
    socket: &impl AsRawFd,
    level: i32,
    option: i32,
    what: &'static str,
) -> Result<i32, OptionError> {
    let (mut value, mut len) = (0i32, mem::size_of::<i32>() as libc::socklen_t);
    let (fd, at) = (socket.as_raw_fd(), (&raw mut value).cast());
    // SAFETY: `value` and `len` are live for the call, and `len` is the length of `value`.
    let outcome = unsafe { libc::getsockopt(fd, level, option, at, &raw mut len) };
    if outcome == 0 { Ok(value) } else { Err(OptionError::last(what)) }
}

/// Sets an integer option.
pub(super) fn set(
    socket: &impl AsRawFd,
    level: i32,
    option: i32,
    value: i32,
    what: &'static str,
) -> Result<(), OptionError> {
    // SAFETY: an integer points to nothing.
    unsafe { set_raw(socket, level, option, &value, what) }
}

/// Attaches a classic BPF program through `option`.
pub(super) fn set_program(
    socket: &UdpSocket,
    option: i32,
    program: &[libc::sock_filter],
    what: &'static str,
) -> Result<(), OptionError> {
    let fprog = libc::sock_fprog {
        len: u16::try_from(program.len()).expect("our programs have some thirty instructions"),
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `fprog` points at `program`, which outlives the call; the kernel copies and only
    // reads it.
    unsafe { set_raw(socket, libc::SOL_SOCKET, option, &fprog, what) }
}

/// # Safety
///
/// If `value` holds a pointer, the memory that it points to must outlive the call, and the option
/// must be one for which the kernel only reads it.
unsafe fn set_raw<T>(
    socket: &impl AsRawFd,
    level: i32,
    option: i32,
    value: &T,
    what: &'static str,
) -> Result<(), OptionError> {
    let (at, len) = (std::ptr::from_ref(value).cast(), mem::size_of::<T>() as libc::socklen_t);
    // SAFETY: `value` outlives the call, and its length is given; the caller vouches for pointers.
    let outcome = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, at, len) };
    if outcome == 0 { Ok(()) } else { Err(OptionError::last(what)) }
}
