//! Look-ups in the system's databases of users and groups, which need not be files (nsswitch.conf).

use std::ffi::{CString, c_char, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::ptr;

use crate::account::UserIds;

/// Length of the first buffer for an entry's strings; most entries have less than 100 bytes.
const BUFFER_LEN_START: usize = 1024;
/// Longest buffer: a group's entry lists its members, and a megabyte holds 50,000 of them.
const BUFFER_LEN_MAX: usize = 1024 * 1024;

/// Finds a user by name, or by number if no user has that name.
pub(crate) fn find_user(text: &str) -> io::Result<Option<UserIds>> {
    let Ok(name) = CString::new(text) else { return Ok(None) };
    let read = |entry: &libc::passwd| UserIds { uid: entry.pw_uid, gid: entry.pw_gid };
    let named = look_up(
        // SAFETY: the name ends in a zero, the pointers are live for the call, and the length is
        // that of the buffer.
        |entry, buffer, len, found| unsafe {
            libc::getpwnam_r(name.as_ptr(), entry, buffer, len, found)
        },
        read,
    )?;
    match (named, text.parse()) {
        (None, Ok(uid)) => look_up(
            // SAFETY: the pointers are live for the call, and the length is that of the buffer.
            |entry, buffer, len, found| unsafe { libc::getpwuid_r(uid, entry, buffer, len, found) },
            read,
        ),
        (named, _) => Ok(named),
    }
}

/// Finds the id of a group by its name.
pub(crate) fn find_group(text: &str) -> io::Result<Option<u32>> {
    let Ok(name) = CString::new(text) else { return Ok(None) };
    look_up(
        // SAFETY: the name ends in a zero, the pointers are live for the call, and the length is
        // that of the buffer.
        |entry, buffer, len, found| unsafe {
            libc::getgrnam_r(name.as_ptr(), entry, buffer, len, found)
        },
        |entry: &libc::group| entry.gr_gid,
    )
}

/// Calls a reentrant look-up with buffers of growing length, and returns what `read` takes from the
/// entry that it finds. `call` gets room for the entry and for its strings, the length of the
/// latter, and a place for the pointer to the entry, which stays null if there is none.
fn look_up<E, T>(
    call: impl Fn(*mut E, *mut c_char, usize, *mut *mut E) -> c_int,
    read: impl Fn(&E) -> T,
) -> io::Result<Option<T>> {
    let mut entry = MaybeUninit::<E>::uninit();
    let mut buffer: Vec<c_char> = vec![0; BUFFER_LEN_START];
    loop {
        let mut found = ptr::null_mut();
        let errno = call(entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &raw mut found);
        match errno {
            // SAFETY: a pointer that is not null points to `entry`, which the call has filled.
            0 => return Ok(unsafe { found.as_ref() }.map(read)),
            // "Not found", in the words of some databases (getpwnam(3)).
            libc::ENOENT | libc::ESRCH | libc::EBADF | libc::EPERM => return Ok(None),
            libc::ERANGE if buffer.len() < BUFFER_LEN_MAX => {
                let longer = buffer.len() * 2;
                buffer.resize(longer, 0);
            }
            libc::EINTR => {}
            _ => return Err(io::Error::from_raw_os_error(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the first three fields of each line of a database file: name, password, number.
    fn entries(path: &str) -> Vec<(String, u32, Option<u32>)> {
        let text = std::fs::read_to_string(path).unwrap();
        let lines = text.lines().map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            (fields[0].to_owned(), fields[2].parse().unwrap(), fields[3].parse().ok())
        });
        lines.collect()
    }

    #[test]
    fn users_and_groups_of_the_files_are_found() {
        let users = entries("/etc/passwd");
        assert!(users.len() > 2, "{users:?}");
        for (name, uid, gid) in users {
            let ids = find_user(&name).unwrap().unwrap();
            assert_eq!((ids.uid, Some(ids.gid)), (uid, gid), "{name}");
            assert_eq!(find_user(&uid.to_string()).unwrap().unwrap().uid, uid, "{name}");
        }
        for (name, gid, _) in entries("/etc/group") {
            assert_eq!(find_group(&name).unwrap(), Some(gid), "{name}");
        }
    }

    #[test]
    fn nothing_is_found_for_other_names() {
        for text in ["", "no-such-user", "a\0b", "-1", "4294967295"] {
            assert_eq!(find_user(text).unwrap(), None, "{text:?}");
            assert_eq!(find_group(text).unwrap(), None, "{text:?}");
        }
    }

    #[test]
    fn a_buffer_grows_until_the_entry_fits() {
        let call = |entry: *mut u32, _: *mut c_char, len: usize, found: *mut *mut u32| {
            if len < 9000 {
                return libc::ERANGE;
            }
            // SAFETY: `look_up` passes room for an entry and for the pointer to it.
            unsafe {
                *entry = len as u32;
                *found = entry;
            }
            0
        };
        assert_eq!(look_up(call, |len| *len).unwrap(), Some(16 * 1024));
        let endless = |_: *mut u32, _: *mut c_char, _: usize, _: *mut *mut u32| libc::ERANGE;
        let error = look_up(endless, |len| *len).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ERANGE));
    }
}
