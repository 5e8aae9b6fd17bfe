//! CPU affinity: the cores that this process may use, and pinning a thread to one.

use std::io;
use std::mem;

/// Returns the cores that this process may use, in ascending order (containers and `taskset`
/// restrict them).
pub(crate) fn usable_cores() -> io::Result<Vec<usize>> {
    // SAFETY: cpu_set_t is an array of integers, for which all-zero is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `set` is a live cpu_set_t of the length given; 0 names the calling thread.
    let outcome = unsafe { libc::sched_getaffinity(0, mem::size_of_val(&set), &mut set) };
    if outcome != 0 {
        return Err(io::Error::last_os_error());
    }
    let limit = usize::try_from(libc::CPU_SETSIZE).expect("CPU_SETSIZE is a positive constant");
    Ok((0..limit)
        .filter(|&core| {
            // SAFETY: `core` is below CPU_SETSIZE, the number of bits in `set`.
            unsafe { libc::CPU_ISSET(core, &set) }
        })
        .collect())
}

/// Pins the calling thread to `core`.
pub(crate) fn pin_to(core: usize) -> io::Result<()> {
    if core >= usize::try_from(libc::CPU_SETSIZE).expect("CPU_SETSIZE is a positive constant") {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("core {core} is beyond the kernel's core set"),
        ));
    }
    // SAFETY: cpu_set_t is an array of integers, for which all-zero is a value.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` was checked to be below CPU_SETSIZE, the number of bits in `set`.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: `set` is a live cpu_set_t of the length given; 0 names the calling thread.
    if unsafe { libc::sched_setaffinity(0, mem::size_of_val(&set), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pinned_thread_may_use_its_core_only() {
        std::thread::spawn(|| {
            let core = *usable_cores().unwrap().last().unwrap();
            pin_to(core).unwrap();
            assert_eq!(usable_cores().unwrap(), [core]);
            // SAFETY: takes no argument and cannot fail on Linux.
            let here = unsafe { libc::sched_getcpu() };
            assert_eq!(usize::try_from(here).unwrap(), core);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_core_that_is_not_there_is_refused() {
        assert!(pin_to(1_000_000).is_err());
        std::thread::spawn(|| assert!(pin_to(1023).is_err())).join().unwrap();
    }
}
