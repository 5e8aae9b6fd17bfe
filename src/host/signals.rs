//! Signals during the start, until the control thread catches them.
//!
//! The kernel spares the first process of a PID namespace the default actions, so a TERM that comes
//! before a handler is installed is lost there (pid_namespaces(7)). The start may take long: a name
//! server is silent, pools are filled. These handlers are therefore the first act of `main`:
//!
//! | signal | until the control thread catches it |
//! |---|---|
//! | TERM, INT, QUIT | ends the process as TERM or INT do by default; QUIT without a core dump |
//! | USR1 | is remembered: [`take_reopen_wish`] |
//! | HUP, USR2 | ignored |

use std::ffi::c_int;
use std::io;
use std::mem;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

/// The control thread catches signals. Its handlers call these here too: they are chained, since
/// there must be no moment without one.
static START_IS_OVER: AtomicBool = AtomicBool::new(false);
/// USR1 has come.
static REOPEN_WISH: AtomicBool = AtomicBool::new(false);

/// Exit code of a process that a signal ended, as shells write it.
const KILLED: c_int = 128;

/// Installs the handlers, and unblocks the signals in case that the parent process blocked them.
pub(crate) fn catch_during_start() -> io::Result<()> {
    let end = end as *const () as libc::sighandler_t;
    let remember = remember as *const () as libc::sighandler_t;
    for (signal, action) in [
        (libc::SIGTERM, end),
        (libc::SIGINT, end),
        (libc::SIGQUIT, end),
        (libc::SIGUSR1, remember),
        (libc::SIGHUP, libc::SIG_IGN),
        (libc::SIGUSR2, libc::SIG_IGN),
    ] {
        install(signal, action)?;
    }
    Ok(())
}

/// Leaves signals to the handlers that have been installed meanwhile.
pub(crate) fn end_of_start() {
    START_IS_OVER.store(true, Ordering::Relaxed);
}

/// Returns whether USR1 came during the start, once.
pub(crate) fn take_reopen_wish() -> bool {
    REOPEN_WISH.swap(false, Ordering::Relaxed)
}

fn install(signal: c_int, action: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: sigaction is made of integers, pointers that may be null and a set: all may be zero.
    let mut wanted: libc::sigaction = unsafe { mem::zeroed() };
    wanted.sa_sigaction = action;
    // The handler raises its own signal, which would otherwise wait until it returned.
    wanted.sa_flags = libc::SA_NODEFER | libc::SA_RESTART;
    // SAFETY: `wanted` is live for the call. The handlers are functions that only make calls which
    // are safe in a handler (signal-safety(7)), and live as long as the program.
    if unsafe { libc::sigaction(signal, &raw const wanted, ptr::null_mut()) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: a set of signals is an array of integers. It is filled before it is used, and the
    // signals are known ones, so that no call can fail.
    unsafe {
        let mut set: libc::sigset_t = mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, ptr::null_mut());
    }
    Ok(())
}

/// Ends the process as if there were no handler, except that QUIT leaves no core dump: memory holds
/// private keys by then.
extern "C" fn end(signal: c_int) {
    if START_IS_OVER.load(Ordering::Relaxed) {
        return;
    }
    let ending = if signal == libc::SIGQUIT { libc::SIGTERM } else { signal };
    // SAFETY: all of them are safe in a handler (signal-safety(7)). `_exit` is reached only by the
    // first process of a namespace, which survives its own signal.
    unsafe {
        libc::signal(ending, libc::SIG_DFL);
        libc::raise(ending);
        libc::_exit(KILLED + ending);
    }
}

extern "C" fn remember(_signal: c_int) {
    REOPEN_WISH.store(true, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
    use std::process::Command;

    use super::*;

    /// Set in the child process of a test.
    const IN_CHILD: &str = "RINGWAY_TEST_SIGNAL";

    /// Runs `action` in a process of its own: signals are the business of a whole process.
    fn in_child(name: &str, action: impl FnOnce()) -> Option<std::process::ExitStatus> {
        if std::env::var_os(IN_CHILD).is_some() {
            action();
            return None;
        }
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name]).env(IN_CHILD, "1");
        // SAFETY: the closure makes one system call, which is safe between fork and exec.
        unsafe {
            child.pre_exec(|| {
                let mut set: libc::sigset_t = mem::zeroed();
                libc::sigfillset(&raw mut set);
                libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut());
                Ok(())
            });
        }
        Some(child.status().unwrap())
    }

    fn raise(signal: c_int) {
        // SAFETY: raising a known signal cannot fail; what it does is the test's subject.
        unsafe { libc::raise(signal) };
    }

    #[test]
    fn quit_ends_the_process_as_term_does_even_if_the_parent_blocked_it() {
        let name = "host::signals::tests::\
                    quit_ends_the_process_as_term_does_even_if_the_parent_blocked_it";
        let ended = in_child(name, || {
            catch_during_start().unwrap();
            raise(libc::SIGQUIT);
            unreachable!("the signal has ended the process");
        });
        if let Some(status) = ended {
            assert_eq!((status.signal(), status.core_dumped()), (Some(libc::SIGTERM), false));
        }
    }

    #[test]
    fn other_signals_are_not_fatal_and_usr1_is_remembered() {
        let name = "host::signals::tests::other_signals_are_not_fatal_and_usr1_is_remembered";
        let ended = in_child(name, || {
            catch_during_start().unwrap();
            raise(libc::SIGHUP);
            raise(libc::SIGUSR2);
            assert!(!take_reopen_wish());
            raise(libc::SIGUSR1);
            assert!(take_reopen_wish() && !take_reopen_wish());
            end_of_start();
            raise(libc::SIGTERM);
        });
        if let Some(status) = ended {
            assert!(status.success(), "{status}");
        }
    }
}
