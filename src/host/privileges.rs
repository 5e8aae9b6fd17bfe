//! Privileges that only the start needs, and how they are given up.
//!
//! The kernel keeps capabilities and `no_new_privs` per thread, and a new thread inherits them. So
//! they are given up once everything is bound and before the first thread starts:
//!
//! ```text
//!   root: bind, map, lock, open --> give_up --> threads: control, workers, restarted workers
//! ```
//!
//! Open file descriptors keep what they allow.

use std::ffi::{c_int, c_long, c_ulong};
use std::fmt;
use std::io;

use crate::account::Account;

/// From linux/capability.h.
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
/// Capabilities that two words can hold. The kernel has 41.
const CAPABILITY_COUNT_MAX: c_ulong = 64;

/// The refusal to give up privileges.
#[derive(Debug)]
pub(crate) enum PrivilegeError {
    /// The process may not become this user.
    User(Account, io::Error),
    /// A call failed that needs no privileges.
    Refused(&'static str, io::Error),
}

impl fmt::Display for PrivilegeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::User(account, error) => write!(
                f,
                "runtime.user: the process may not become {:?} (user {}, group {}): {error}; start \
                 it as root (in a container: with the capabilities SETUID and SETGID), or start it \
                 as that user and leave runtime.user out",
                account.name, account.uid, account.gid
            ),
            Self::Refused(action, error) => write!(f, "the kernel refused to {action}: {error}"),
        }
    }
}

impl std::error::Error for PrivilegeError {}

/// Returns true if the process runs as root.
pub(crate) fn is_root() -> bool {
    // SAFETY: returns a number and cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Becomes `account`, with its group and no others, unless it is `None`, and gives up all
/// capabilities, the gain of new ones by programs that are started, core dumps and debuggers of the
/// same user. Must be called before the first thread is started: new threads inherit the rest.
pub(crate) fn give_up(account: Option<&Account>) -> Result<(), PrivilegeError> {
    bound_capabilities()?;
    if let Some(account) = account {
        become_user(account).map_err(|error| PrivilegeError::User(account.clone(), error))?;
    }
    let clear_all = libc::PR_CAP_AMBIENT_CLEAR_ALL as c_ulong;
    prctl(libc::PR_CAP_AMBIENT, clear_all)
        .map_err(|error| PrivilegeError::Refused("clear ambient capabilities", error))?;
    drop_capabilities()
        .map_err(|error| PrivilegeError::Refused("take capabilities away", error))?;
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1)
        .map_err(|error| PrivilegeError::Refused("set no_new_privs", error))?;
    set_dumpable(false)
}

/// Permits core dumps, and debuggers of the same user, again.
pub(crate) fn allow_core_dumps() -> Result<(), PrivilegeError> {
    set_dumpable(true)
}

fn set_dumpable(dumpable: bool) -> Result<(), PrivilegeError> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into())
        .map_err(|error| PrivilegeError::Refused("change whether memory may be dumped", error))
}

/// Changes the user and group ids of all threads, and leaves all other groups.
fn become_user(account: &Account) -> io::Result<()> {
    if is_already(account) {
        return Ok(());
    }
    // SAFETY: an empty list is not read.
    check(unsafe { libc::setgroups(0, std::ptr::null()).into() })?;
    // SAFETY: takes integers only.
    check(unsafe { libc::setresgid(account.gid, account.gid, account.gid).into() })?;
    // SAFETY: takes integers only.
    check(unsafe { libc::setresuid(account.uid, account.uid, account.uid).into() })
}

/// Returns true if the process has no other user and group ids than those of `account`. It was
/// started as that user, and may not change its other groups.
fn is_already(account: &Account) -> bool {
    let (mut uids, mut gids) = ([0; 3], [0; 3]);
    let [real, effective, saved] = &mut uids;
    // SAFETY: the three numbers are live for the call.
    unsafe { libc::getresuid(real, effective, saved) };
    let [real, effective, saved] = &mut gids;
    // SAFETY: the three numbers are live for the call.
    unsafe { libc::getresgid(real, effective, saved) };
    uids == [account.uid; 3] && gids == [account.gid; 3]
}

/// Empties the bounding set, so that no program that is started can gain a capability. A process
/// that may not do this has none to lose that matters: `no_new_privs` keeps the same promise.
fn bound_capabilities() -> Result<(), PrivilegeError> {
    for capability in 0..CAPABILITY_COUNT_MAX {
        let Err(error) = prctl(libc::PR_CAPBSET_DROP, capability) else { continue };
        return match error.raw_os_error() {
            // Beyond the kernel's last capability, or not permitted.
            Some(libc::EINVAL | libc::EPERM) => Ok(()),
            _ => Err(PrivilegeError::Refused("bound capabilities", error)),
        };
    }
    Ok(())
}

/// Takes all capabilities from the calling thread: effective, permitted and inheritable ones.
fn drop_capabilities() -> io::Result<()> {
    #[repr(C)]
    struct Header {
        version: u32,
        pid: c_int,
    }
    #[derive(Clone, Copy, Default)]
    #[repr(C)]
    struct Sets {
        _effective: u32,
        _permitted: u32,
        _inheritable: u32,
    }
    // 0 is the calling thread.
    let mut header = Header { version: CAPABILITY_VERSION_3, pid: 0 };
    let none = [Sets::default(); 2];
    // SAFETY: both have the kernel's layout, two sets for this version, and live for the call. The
    // kernel writes to the header only, and only if it does not know the version.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, &raw const none) })
}

fn prctl(option: c_int, argument: c_ulong) -> io::Result<()> {
    const UNUSED: c_ulong = 0;
    // SAFETY: the options that this module uses take integers, and nothing but 0 where unused.
    check(unsafe { libc::prctl(option, argument, UNUSED, UNUSED, UNUSED) }.into())
}

fn check(outcome: c_long) -> io::Result<()> {
    if outcome == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a line of the calling thread's status.
    fn status(name: &str) -> String {
        let text = std::fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().to_owned()
    }

    /// Capabilities are those of a thread, so the other tests of this process keep theirs.
    #[test]
    fn a_thread_gives_up_all_capabilities_and_cannot_gain_new_ones() {
        let own = status("CapEff");
        let may_bound = own.ends_with("ffffffff");
        let thread = std::thread::spawn(move || {
            give_up(None).unwrap();
            for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
                assert_eq!(status(set), "0000000000000000", "{set}");
            }
            if may_bound {
                assert_eq!(status("CapBnd"), "0000000000000000");
            }
            assert_eq!(status("NoNewPrivs"), "1");
            // A second time nothing is left to give up.
            give_up(None).unwrap();
        });
        thread.join().unwrap();
        assert_eq!(status("CapEff"), own);
    }

    #[test]
    fn a_refused_user_is_named_with_the_remedy() {
        let account = Account { name: "ringway:rings".to_owned(), uid: 991, gid: 77 };
        let error = io::Error::from_raw_os_error(libc::EPERM);
        let text = PrivilegeError::User(account, error).to_string();
        for part in ["runtime.user", "\"ringway:rings\"", "user 991", "group 77", "as root"] {
            assert!(text.contains(part), "{text:?} lacks {part:?}");
        }
    }
}
