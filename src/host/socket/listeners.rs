//! TCP sockets that clients connect to.
//!
//! The kernel distributes connections over the sockets of a group by a hash of addresses and ports,
//! and keeps each in its socket's queue until a worker takes it. A connection is a worker's for its
//! whole life, so nothing has to be steered.
//!
//! Accepted sockets inherit the options that are set here. Three that are not set:
//!
//! - **TCP_DEFER_ACCEPT** would show connections only when their first bytes have come. It would
//!   save one event of each, but those that send nothing would be neither counted nor closed by any
//!   timeout of ours, and a client that connects ahead of its request would find the connection
//!   dropped.
//! - **TCP_FASTOPEN** permits replays of a request, and few clients use it.
//! - **SO_KEEPALIVE** probes after two hours. `tcp.idle_timeout` and the timeouts of requests and
//!   responses end a connection before that.

use std::io;
use std::mem;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsRawFd as _, OwnedFd};

use super::binding::{BindError, Transport, await_free, bind, open};
use super::options::{OptionError, set_listener_options};

/// Connections that may wait to be accepted: as many as `net.core.somaxconn` permits, to which the
/// kernel reduces it.
const BACKLOG: libc::c_int = libc::c_int::MAX;

/// All workers' TCP sockets for one address. The owner keeps it for the process's life, so that
/// connections wait while a worker is started again.
#[derive(Debug)]
pub struct ListenerGroup {
    /// The address, with the port that the kernel chose where 0 was asked for.
    pub address: SocketAddr,
    /// One socket per worker, in worker order.
    pub sockets: Vec<TcpListener>,
}

impl ListenerGroup {
    /// Binds `workers` sockets to `address`, then listens on all of them.
    pub fn bind(address: SocketAddr, workers: u16) -> Result<ListenerGroup, BindError> {
        let refused = |source| BindError { transport: Transport::Tcp, address, source };
        await_free(Transport::Tcp, address).map_err(refused)?;
        let mut group =
            ListenerGroup { address, sockets: Vec::with_capacity(usize::from(workers)) };
        for index in 0..workers {
            let socket = bound(group.address).map_err(refused)?;
            if index == 0 {
                group.address = socket
                    .local_addr()
                    .map_err(|error| refused(OptionError::from_io("getsockname", error)))?;
            }
            group.sockets.push(socket);
        }
        for socket in &group.sockets {
            listen(socket).map_err(refused)?;
        }
        Ok(group)
    }
}

fn bound(address: SocketAddr) -> Result<TcpListener, OptionError> {
    let socket: OwnedFd = open(Transport::Tcp, address)?;
    set_listener_options(&socket, address)?;
    bind(&socket, address)?;
    Ok(TcpListener::from(socket))
}

fn listen(socket: &TcpListener) -> Result<(), OptionError> {
    // SAFETY: takes two integers and touches no memory of ours.
    let outcome = unsafe { libc::listen(socket.as_raw_fd(), BACKLOG) };
    if outcome == 0 { Ok(()) } else { Err(OptionError::last("listen")) }
}

/// Returns the number of connections that wait to be accepted.
pub fn waiting_count(socket: &TcpListener) -> io::Result<u32> {
    // SAFETY: integers only, for which zeros are values.
    let mut info: libc::tcp_info = unsafe { mem::zeroed() };
    let mut len = mem::size_of_val(&info) as libc::socklen_t;
    let (fd, at) = (socket.as_raw_fd(), (&raw mut info).cast());
    // SAFETY: `info` and `len` are live for the call, and `len` is the length of `info`.
    let outcome =
        unsafe { libc::getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, at, &raw mut len) };
    // While a socket listens, this field is the length of its queue.
    if outcome == 0 { Ok(info.tcpi_unacked) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::TcpStream;

    use super::super::options::read;
    use super::*;

    fn group(address: &str, workers: u16) -> Result<ListenerGroup, BindError> {
        ListenerGroup::bind(address.parse().unwrap(), workers)
    }

    #[test]
    fn all_workers_share_one_address_and_get_clients() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let group = group(address, 2).unwrap();
            assert_ne!(group.address.port(), 0);
            let clients: Vec<_> =
                (0..64).map(|_| TcpStream::connect(group.address).unwrap()).collect();
            let waiting: Vec<u32> =
                group.sockets.iter().map(|socket| waiting_count(socket).unwrap()).collect();
            assert_eq!(waiting.iter().sum::<u32>() as usize, clients.len());
            assert!(waiting.iter().all(|&count| count > 0), "{waiting:?}");
            for socket in &group.sockets {
                assert_eq!(socket.local_addr().unwrap(), group.address);
            }
        }
    }

    #[test]
    fn accepted_sockets_inherit_options() {
        let group = group("[::1]:0", 1).unwrap();
        let option = |socket: &OwnedFd, level, option| read(socket, level, option, "").unwrap();
        let listener: OwnedFd = group.sockets[0].try_clone().unwrap().into();
        assert_eq!(option(&listener, libc::IPPROTO_IPV6, libc::IPV6_V6ONLY), 1);
        assert_eq!(option(&listener, libc::SOL_SOCKET, libc::SO_REUSEPORT), 1);
        let _client = TcpStream::connect(group.address).unwrap();
        let (accepted, _) = group.sockets[0].accept().unwrap();
        let accepted: OwnedFd = accepted.into();
        assert_eq!(option(&accepted, libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
        assert_eq!(option(&accepted, libc::SOL_SOCKET, libc::SO_KEEPALIVE), 0);
    }

    #[test]
    fn a_port_that_another_process_listens_on_is_refused_with_its_name() {
        let first = group("127.0.0.1:0", 1).unwrap();
        let refusal = group(&first.address.to_string(), 1).unwrap_err();
        assert!(refusal.is_in_use());
        let refusal = refusal.to_string();
        assert!(refusal.contains(&format!("cannot bind tcp {}", first.address)), "{refusal}");
        assert!(refusal.contains("ss -ltnp"), "{refusal}");
    }

    /// After a restart the kernel still has connections of the process before.
    #[test]
    fn a_port_with_connections_that_end_is_free() {
        let first = group("127.0.0.1:0", 1).unwrap();
        let mut client = TcpStream::connect(first.address).unwrap();
        let (mut ours, _) = first.sockets[0].accept().unwrap();
        ours.write_all(b"the last").unwrap();
        let address = first.address;
        // We close first, so that the connection waits here (TIME_WAIT).
        drop((ours, first));
        let mut bytes = Vec::new();
        client.read_to_end(&mut bytes).unwrap();
        drop(client);
        assert_eq!(group(&address.to_string(), 2).unwrap().address, address);
    }
}
