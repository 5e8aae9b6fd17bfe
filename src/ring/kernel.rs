//! The kernel's end of a ring: setup, io_uring_enter, registrations.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::time::Duration;

use io_uring::register::Restriction;
use io_uring::types::{CancelBuilder, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, opcode, squeue};

use super::buffers::BufferGroup;
use super::machine::Event;
use super::settings::RingSettings;
use crate::host::probe::{OPERATIONS, RingFeatures, RingRefusal};
use crate::limits::{GATHER_TIME, RING_THREADS_MAX};

// From linux/io_uring.h: a registered ring descriptor saves a look-up at each enter.
const REGISTER_RING_FDS: libc::c_uint = 20;
const UNREGISTER_RING_FDS: libc::c_uint = 21;

/// An operation that the ring uses only if the kernel supports it.
const ZERO_COPY: u8 = opcode::SendMsgZc::CODE;

/// All registrations after the start, from linux/io_uring.h: unregister files, update files,
/// unregister the ring's descriptor, unregister a buffer ring, cancel synchronously.
const REGISTRATIONS: [u8; 5] = [3, 6, UNREGISTER_RING_FDS as u8, 23, 24];

/// Pause of an enter for which the kernel had no memory.
const MEMORY_REST_MS: libc::c_int = 1;

/// The reason why a ring cannot be made, or no longer be used.
#[derive(Debug)]
pub enum RingError {
    /// io_uring is refused.
    Refused(RingRefusal),
    /// The file table is refused.
    Files {
        /// Files that were asked for.
        file_count: u32,
        error: io::Error,
    },
    /// The buffer rings are refused.
    Buffers(io::Error),
    /// A socket could not be put into the file table.
    Socket(io::Error),
    /// io_uring_enter failed.
    Enter(io::Error),
    /// The kernel had no memory to keep completions: its operations are no longer known.
    CompletionsLost,
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingError::Refused(refusal) => refusal.fmt(f),
            RingError::Files { file_count, error } => write!(
                f,
                "no io_uring file table of {file_count} files: {error}; raise the limit of open \
                 files (`ulimit -n`, LimitNOFILE=)"
            ),
            RingError::Buffers(error) => write!(
                f,
                "no io_uring buffer ring: {error}; Linux 6.1 or later is needed, and a few pages \
                 of memory"
            ),
            RingError::Socket(error) => write!(f, "a socket cannot join the ring: {error}"),
            RingError::Enter(error) => write!(f, "io_uring_enter failed: {error}"),
            RingError::CompletionsLost => f.write_str(
                "the kernel ran out of memory for completions and lost some: the ring is unusable",
            ),
        }
    }
}

impl std::error::Error for RingError {}

pub(super) struct Kernel {
    ring: IoUring,
    /// The ring's index among this thread's registered rings.
    registered: Option<u32>,
    enter_flags: EnterFlags,
    /// The kernel can wait a while for completions to gather (Linux 6.12).
    gathers: bool,
    pub(super) features: RingFeatures,
}

/// The kernel's layout of the registration of a ring's descriptor.
#[repr(C)]
struct RingFd {
    offset: u32,
    reserved: u32,
    fd: u64,
}

impl Kernel {
    pub(super) fn new(settings: &RingSettings) -> Result<Kernel, RingError> {
        let mut builder = IoUring::builder();
        builder
            .dontfork()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_submit_all()
            .setup_r_disabled()
            .setup_cqsize(settings.completion_count);
        let ring: IoUring = builder
            .build(settings.submission_count)
            .map_err(|error| RingError::Refused(RingRefusal::from_setup(error)))?;
        let file_count = settings.file_count();
        ring.submitter()
            .register_files_sparse(file_count)
            .map_err(|error| RingError::Files { file_count, error })?;
        // 0 leaves the other bound, of threads that wait for disks, as it is.
        ring.submitter()
            .register_iowq_max_workers(&mut [0, RING_THREADS_MAX])
            .map_err(|error| RingError::Refused(RingRefusal::from_setup(error)))?;
        let mut enter_flags = EnterFlags::GETEVENTS | EnterFlags::EXT_ARG;
        if ring.params().is_feature_no_iowait() {
            enter_flags |= EnterFlags::NO_IOWAIT;
        }
        let features = RingFeatures::of(&ring)
            .map_err(|error| RingError::Refused(RingRefusal::from_setup(error)))?;
        let registered = register_ring(ring.as_raw_fd());
        let gathers = ring.params().is_feature_min_timeout();
        Ok(Kernel { ring, registered, enter_flags, gathers, features })
    }

    /// Ends the setup: from here on the ring is restricted to the operations that it needs. An
    /// attacker in control of the worker cannot open files or sockets through it, which seccomp
    /// would not see.
    pub(super) fn enable(&mut self) -> Result<(), RingError> {
        let flags = squeue::Flags::FIXED_FILE | squeue::Flags::BUFFER_SELECT;
        let mut restrictions: Vec<Restriction> = OPERATIONS
            .map(|(_, code)| Restriction::sqe_op(code))
            .into_iter()
            .chain(self.features.zero_copy_send.then(|| Restriction::sqe_op(ZERO_COPY)))
            .chain(REGISTRATIONS.map(Restriction::register_op))
            .chain([Restriction::sqe_flags_allowed(flags.bits())])
            .collect();
        let submitter = self.ring.submitter();
        submitter
            .register_restrictions(&mut restrictions)
            .and_then(|()| submitter.register_enable_rings())
            .map_err(|error| RingError::Refused(RingRefusal::from_setup(error)))
    }

    pub(super) fn register_group(&mut self, group: &BufferGroup) -> Result<(), RingError> {
        // SAFETY: the address is a page-aligned mapping of as many entries, kept by the ring until
        // this kernel end is dropped.
        unsafe {
            self.ring.submitter().register_buf_ring_with_flags(
                group.address(),
                group.entry_count(),
                group.id(),
                0,
            )
        }
        .map_err(RingError::Buffers)
    }

    /// Unregisters a group: the kernel takes no more slots from it.
    pub(super) fn unregister_group(&mut self, group: &BufferGroup) -> io::Result<()> {
        self.ring.submitter().unregister_buf_ring(group.id())
    }

    /// Enters a file into the file table, which keeps it open.
    pub(super) fn register_file(&mut self, place: u32, file: &OwnedFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(place, &[file.as_raw_fd()]).map(drop)
    }

    /// Takes a file out of the file table, which closes it unless others have it open.
    pub(super) fn clear_file(&mut self, place: u32) -> io::Result<()> {
        self.ring.submitter().register_files_update(place, &[-1]).map(drop)
    }

    /// Closes all files of the table.
    pub(super) fn unregister_files(&mut self) -> io::Result<()> {
        self.ring.submitter().unregister_files()
    }

    /// Moves submissions into the queue while it has room. Returns whether all fit.
    pub(super) fn queue(&mut self, outbox: &mut VecDeque<squeue::Entry>) -> bool {
        let mut queue = self.ring.submission();
        while let Some(entry) = outbox.front() {
            // SAFETY: the op table holds all memory that an entry points to until the completion
            // of the operation, or it is a static, and the ring outlives its operations.
            if unsafe { queue.push(entry) }.is_err() {
                return false;
            }
            outbox.pop_front();
        }
        true
    }

    /// Returns whether the kernel has not taken the queued submissions.
    pub(super) fn queue_is_full(&mut self) -> bool {
        self.ring.submission().is_full()
    }

    /// Submits the queue and waits for `wanted` completions, at most for `timeout`. If several are
    /// wanted, one is enough after [`GATHER_TIME`]; a kernel that cannot gather waits for one.
    pub(super) fn enter(
        &mut self,
        wanted: u32,
        timeout: Option<Duration>,
    ) -> Result<(), RingError> {
        let to_submit = self.ring.submission().len() as u32;
        let timespec = Timespec::from(timeout.unwrap_or_default());
        let mut args = match timeout {
            Some(_) => SubmitArgs::new().timespec(&timespec),
            None => SubmitArgs::new(),
        };
        let wanted = if self.gathers { wanted } else { wanted.min(1) };
        if wanted > 1 {
            args = args.min_wait_usec(GATHER_TIME.as_micros() as u32);
        }
        let (fd, flags) = match self.registered {
            Some(index) => (index.cast_signed(), self.enter_flags | EnterFlags::REGISTERED_RING),
            None => (self.ring.as_raw_fd(), self.enter_flags),
        };
        // SAFETY: `args` has the layout that EXT_ARG asks for and lives, with its timespec, for
        // the call. What the submissions point to is held by the op table.
        let outcome = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                fd,
                to_submit,
                wanted,
                flags.bits(),
                &raw const args,
                size_of_val(&args),
            )
        };
        if outcome >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // The timeout, a signal, or completions that must be taken first: submissions that were
            // not made are still queued.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY) => Ok(()),
            // The kernel is short of memory for now. It did not wait as told, and the next turn
            // would retry at once.
            Some(libc::EAGAIN | libc::ENOMEM) => {
                if !self.has_events() {
                    // SAFETY: no descriptors are passed; the call only lets the time pass.
                    unsafe { libc::poll(std::ptr::null_mut(), 0, MEMORY_REST_MS) };
                }
                Ok(())
            }
            Some(libc::EBADR) => Err(RingError::CompletionsLost),
            _ => Err(RingError::Enter(error)),
        }
    }

    /// Returns whether the kernel keeps completions in a list because the queue is full.
    pub(super) fn overflows(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    pub(super) fn has_events(&mut self) -> bool {
        !self.ring.completion().is_empty()
    }

    pub(super) fn next_event(&mut self) -> Option<Event> {
        let entry = self.ring.completion().next()?;
        Some(Event { user_data: entry.user_data(), result: entry.result(), flags: entry.flags() })
    }

    /// Cancels all operations and waits for that at most for `timeout`.
    pub(super) fn cancel_all(&mut self, timeout: Duration) {
        // Not found, or not done in time: the operation table shows whether any is left.
        let _ = self
            .ring
            .submitter()
            .register_sync_cancel(Some(Timespec::from(timeout)), CancelBuilder::any());
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        if let Some(index) = self.registered {
            let mut update = RingFd { offset: index, reserved: 0, fd: 0 };
            register(self.ring.as_raw_fd(), UNREGISTER_RING_FDS, &mut update);
        }
    }
}

/// Registers the ring's own descriptor with this thread, so that an enter need not look it up.
fn register_ring(fd: RawFd) -> Option<u32> {
    let mut update = RingFd { offset: u32::MAX, reserved: 0, fd: u64::from(fd.cast_unsigned()) };
    (register(fd, REGISTER_RING_FDS, &mut update) == 1).then_some(update.offset)
}

fn register(fd: RawFd, operation: libc::c_uint, update: &mut RingFd) -> libc::c_long {
    // SAFETY: `update` has the layout of io_uring_rsrc_update, and one of it is passed.
    unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, &raw mut *update, 1u32) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::clock;

    #[test]
    fn what_the_ring_is_not_for_is_refused() {
        let settings = RingSettings { streams_max: 8, ..RingSettings::default() };
        let mut kernel = Kernel::new(&settings).unwrap();
        kernel.enable().unwrap();
        assert!(kernel.registered.is_some(), "enters go by the registered ring");
        let socket = opcode::Socket::new(libc::AF_INET, libc::SOCK_STREAM, 0).build().user_data(1);
        let open = opcode::OpenAt::new(io_uring::types::Fd(libc::AT_FDCWD), c"/dev/null".as_ptr());
        let cancel = opcode::AsyncCancel::new(77).build().user_data(3);
        let asked = [socket, open.build().user_data(2), cancel];
        assert!(kernel.queue(&mut VecDeque::from(asked)));
        kernel.enter(3, Some(Duration::from_secs(5))).unwrap();
        let mut results: Vec<(u64, i32)> = std::iter::from_fn(|| kernel.next_event())
            .map(|event| (event.user_data, event.result))
            .collect();
        results.sort_unstable();
        assert_eq!(results, [(1, -libc::EACCES), (2, -libc::EACCES), (3, -libc::ENOENT)]);
        assert!(kernel.ring.submitter().register_files_sparse(4).is_err());
    }

    /// Makes every enter of the calling thread fail with `errno`.
    fn refuse_enters(errno: i32) {
        let step =
            |code: u32, k: u32, jf: u8| libc::sock_filter { code: code as u16, jt: 0, jf, k };
        let refusal = libc::SECCOMP_RET_ERRNO | errno.cast_unsigned();
        // The first word of what the filter sees is the call's number.
        let mut program = [
            step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0),
            step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::SYS_io_uring_enter as u32, 1),
            step(libc::BPF_RET | libc::BPF_K, refusal, 0),
            step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0),
        ];
        let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
        // SAFETY: `filter` points at `program`; both live for the call, which copies them.
        let outcome = unsafe {
            libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
                + libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter)
        };
        assert_eq!(outcome, 0);
    }

    /// A kernel without memory takes no submissions and returns at once, however long the wait.
    #[test]
    fn an_enter_without_memory_rests() {
        for errno in [libc::EAGAIN, libc::ENOMEM] {
            let enters = std::thread::spawn(move || {
                let settings = RingSettings { streams_max: 8, ..RingSettings::default() };
                let mut kernel = Kernel::new(&settings).unwrap();
                kernel.enable().unwrap();
                let cancel = opcode::AsyncCancel::new(77).build().user_data(3);
                assert!(kernel.queue(&mut VecDeque::from([cancel])));
                refuse_enters(errno);
                let start = clock::now();
                for _ in 0..20 {
                    kernel.enter(1, Some(Duration::from_secs(5))).unwrap();
                }
                start.elapsed()
            });
            let time = enters.join().unwrap();
            assert!(time >= Duration::from_millis(20) && time < Duration::from_secs(5), "{time:?}");
        }
    }
}
