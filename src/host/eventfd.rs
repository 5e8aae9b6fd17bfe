//! The wake-up: an eventfd that another thread writes and a worker's ring watches.

use std::fs::File;
use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Returns an eventfd in non-blocking mode. A write of eight bytes adds to its counter; a read
/// returns the counter and resets it to zero.
pub fn eventfd() -> io::Result<File> {
    // SAFETY: takes two integers and touches no memory of ours.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us; nobody else owns it.
    Ok(File::from(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use std::io::{ErrorKind, Read, Write};

    use super::*;

    #[test]
    fn writes_add_up_and_an_empty_one_would_block() {
        let wake = eventfd().unwrap();
        let mut counter = [0u8; 8];
        assert_eq!((&wake).read(&mut counter).unwrap_err().kind(), ErrorKind::WouldBlock);
        (&wake).write_all(&1u64.to_ne_bytes()).unwrap();
        (&wake).write_all(&2u64.to_ne_bytes()).unwrap();
        assert_eq!((&wake).read(&mut counter).unwrap(), 8);
        assert_eq!(u64::from_ne_bytes(counter), 3);
    }
}
