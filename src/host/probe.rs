//! The abilities of this host, and its refusals with the command that fixes each.

use std::fmt;
use std::fs;
use std::io;

use io_uring::{IoUring, Probe, opcode};

/// The oldest kernel with everything that the ring needs.
pub const KERNEL_MIN: (u32, u32) = (6, 1);

#[derive(Debug)]
pub struct HostFacts {
    pub kernel: KernelRelease,
    /// The features of io_uring, or the reason why it cannot be used.
    pub io_uring: Result<RingFeatures, RingRefusal>,
}

impl HostFacts {
    pub fn gather() -> HostFacts {
        HostFacts { kernel: KernelRelease::running(), io_uring: probe_ring() }
    }
}

/// A kernel release such as `6.18.44-generic`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelRelease {
    pub text: String,
    /// Its first two numbers; zeros when the text does not begin with numbers.
    pub version: (u32, u32),
}

impl KernelRelease {
    /// Returns the running kernel's.
    pub fn running() -> KernelRelease {
        let text = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        KernelRelease::parse(text.trim())
    }

    fn parse(text: &str) -> KernelRelease {
        let mut numbers = text
            .split(|character: char| !character.is_ascii_digit())
            .map(|digits| digits.parse().unwrap_or(0));
        let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        KernelRelease { text: text.to_owned(), version }
    }

    /// Returns whether it has all that the ring needs.
    #[cfg(test)]
    fn is_enough(&self) -> bool {
        self.version >= KERNEL_MIN
    }
}

/// A soft and a hard resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The limit in effect; `u64::MAX` is no limit.
    pub soft: u64,
    /// The highest value that the process may raise it to.
    pub hard: u64,
}

impl Limit {
    pub(super) fn of(resource: libc::__rlimit_resource_t) -> Limit {
        let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limit` is live for the call. A known resource cannot be refused.
        unsafe { libc::getrlimit(resource, &mut limit) };
        Limit { soft: limit.rlim_cur, hard: limit.rlim_max }
    }
}

pub fn nofile() -> Limit {
    Limit::of(libc::RLIMIT_NOFILE)
}

/// Raises the soft limit of open files to the hard limit. Returns the limit then in effect.
pub fn raise_nofile() -> Limit {
    let before = Limit::of(libc::RLIMIT_NOFILE);
    let wanted = libc::rlimit { rlim_cur: before.hard, rlim_max: before.hard };
    // SAFETY: `wanted` is live for the call. Where it is refused, the soft limit stays and is told.
    unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &wanted) };
    Limit::of(libc::RLIMIT_NOFILE)
}

/// Raises the limit of locked memory as far as the process may. The kernel charges the rings and
/// zero-copy sends of all processes of a user without CAP_IPC_LOCK to it.
pub(crate) fn raise_memlock() {
    let hard = Limit::of(libc::RLIMIT_MEMLOCK).hard;
    for most in [libc::RLIM_INFINITY, hard] {
        let wanted = libc::rlimit { rlim_cur: most, rlim_max: most };
        // SAFETY: `wanted` is live for the call. Only root may raise the hard limit.
        if unsafe { libc::setrlimit(libc::RLIMIT_MEMLOCK, &wanted) } == 0 {
            return;
        }
    }
}

/// Optional features of io_uring on this host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RingFeatures {
    /// Zero-copy sends of messages (Linux 6.1).
    pub zero_copy_send: bool,
}

impl RingFeatures {
    /// Queries a ring that is not restricted yet.
    pub fn of(ring: &IoUring) -> io::Result<RingFeatures> {
        let mut probe = Probe::new();
        ring.submitter().register_probe(&mut probe)?;
        Ok(RingFeatures::read(&probe))
    }

    fn read(probe: &Probe) -> RingFeatures {
        RingFeatures { zero_copy_send: probe.is_supported(opcode::SendMsgZc::CODE) }
    }
}

/// The reason why io_uring cannot be used.
#[derive(Debug)]
pub enum RingRefusal {
    /// `kernel.io_uring_disabled` is set: 1 permits it to one group only, 2 to none.
    Disabled {
        setting: u32,
    },
    /// A seccomp filter (a container's, a unit's) refuses the call.
    Seccomp,
    /// A security module (SELinux or similar) refuses it; no seccomp filter is in place.
    SecurityModule,
    /// The kernel was built without io_uring.
    Absent,
    /// The kernel has no memory for the ring, or charges it to the memlock limit.
    Memory {
        memlock: Limit,
    },
    /// The kernel lacks what the ring needs.
    TooOld {
        kernel: String,
        /// The names of what is missing.
        missing: Vec<&'static str>,
    },
    Other(io::Error),
}

impl RingRefusal {
    /// Classifies the refusal of a ring's setup, with facts of the host that distinguish the
    /// causes.
    pub fn from_setup(error: io::Error) -> RingRefusal {
        let number = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
        let setting = number("/proc/sys/kernel/io_uring_disabled").unwrap_or(0);
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        Self::classify(error, setting, is_filtered(&status))
    }

    fn classify(error: io::Error, setting: u32, filtered: bool) -> RingRefusal {
        match error.raw_os_error() {
            Some(libc::EPERM) if setting != 0 => RingRefusal::Disabled { setting },
            Some(libc::EPERM | libc::ENOSYS | libc::EACCES) if filtered => RingRefusal::Seccomp,
            Some(libc::EPERM | libc::EACCES) => RingRefusal::SecurityModule,
            Some(libc::ENOSYS) => RingRefusal::Absent,
            Some(libc::ENOMEM) => RingRefusal::Memory { memlock: Limit::of(libc::RLIMIT_MEMLOCK) },
            Some(libc::EINVAL) => RingRefusal::TooOld {
                kernel: KernelRelease::running().text,
                missing: vec!["deferred task work"],
            },
            _ => RingRefusal::Other(error),
        }
    }
}

impl fmt::Display for RingRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RingRefusal::Disabled { setting: 1 } => write!(
                f,
                "io_uring is restricted to one group (kernel.io_uring_disabled = 1): \
                 `sysctl -w kernel.io_uring_disabled=0`, or run as the group that \
                 kernel.io_uring_group names (runtime.user = \"USER:GROUP\")"
            ),
            RingRefusal::Disabled { setting } => write!(
                f,
                "io_uring is off on this host (kernel.io_uring_disabled = {setting}): \
                 `sysctl -w kernel.io_uring_disabled=0`"
            ),
            RingRefusal::Seccomp => write!(
                f,
                "a seccomp filter refuses io_uring: allow io_uring_setup, io_uring_enter and \
                 io_uring_register in the container's profile (docker: `--security-opt \
                 seccomp=seccomp.json` with the file of ringway's configs; systemd: \
                 `SystemCallFilter=@system-service` plus the three)"
            ),
            RingRefusal::SecurityModule => write!(
                f,
                "a security module refuses io_uring: its log (`ausearch -m avc`, `dmesg`) names \
                 the rule"
            ),
            RingRefusal::Absent => write!(
                f,
                "this kernel was built without io_uring (CONFIG_IO_URING): Linux {}.{} or later \
                 with it is needed",
                KERNEL_MIN.0, KERNEL_MIN.1
            ),
            RingRefusal::Memory { memlock } => write!(
                f,
                "no memory for io_uring: the memlock limit is {} bytes; `ulimit -l unlimited` or \
                 LimitMEMLOCK=infinity, or fewer workers",
                memlock.soft
            ),
            RingRefusal::TooOld { kernel, missing } => write!(
                f,
                "kernel {kernel} lacks what the ring needs ({}): Linux {}.{} or later is needed",
                missing.join(", "),
                KERNEL_MIN.0,
                KERNEL_MIN.1
            ),
            RingRefusal::Other(error) => write!(f, "io_uring cannot be set up: {error}"),
        }
    }
}

impl std::error::Error for RingRefusal {}

/// Returns whether `/proc/self/status` reports a seccomp filter (mode 2).
fn is_filtered(status: &str) -> bool {
    status
        .lines()
        .find_map(|line| line.strip_prefix("Seccomp:"))
        .is_some_and(|mode| mode.trim() == "2")
}

/// All operations that the ring needs, by name. The ring is restricted to these.
pub const OPERATIONS: [(&str, u8); 11] = [
    ("recvmsg", opcode::RecvMsg::CODE),
    ("sendmsg", opcode::SendMsg::CODE),
    ("recv", opcode::Recv::CODE),
    ("send", opcode::Send::CODE),
    ("timeout", opcode::Timeout::CODE),
    ("connect", opcode::Connect::CODE),
    ("accept", opcode::Accept::CODE),
    ("shutdown", opcode::Shutdown::CODE),
    ("close", opcode::Close::CODE),
    ("async cancel", opcode::AsyncCancel::CODE),
    ("poll", opcode::PollAdd::CODE),
];

/// Sets up a small ring as a worker does, and queries its features.
fn probe_ring() -> Result<RingFeatures, RingRefusal> {
    let mut builder = IoUring::builder();
    builder.setup_single_issuer().setup_defer_taskrun().setup_submit_all();
    let ring: IoUring = builder.build(8).map_err(RingRefusal::from_setup)?;
    let mut probe = Probe::new();
    ring.submitter().register_probe(&mut probe).map_err(RingRefusal::from_setup)?;
    let mut missing: Vec<&'static str> = OPERATIONS
        .into_iter()
        .filter(|&(_, code)| !probe.is_supported(code))
        .map(|(name, _)| name)
        .collect();
    if ring.submitter().register_files_sparse(1).is_err() {
        missing.push("direct descriptors");
    }
    if !ring.params().is_feature_ext_arg() {
        missing.push("waits with a deadline");
    }
    if !ring.params().is_feature_nodrop() {
        missing.push("completions that are never dropped");
    }
    let kernel = KernelRelease::running();
    if !missing.is_empty() {
        return Err(RingRefusal::TooOld { kernel: kernel.text, missing });
    }
    Ok(RingFeatures::read(&probe))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_facts_of_this_host_are_plausible() {
        let facts = HostFacts::gather();
        assert!(facts.kernel.is_enough(), "{:?}", facts.kernel);
        assert!(facts.io_uring.is_ok(), "{:?}", facts.io_uring);
        let nofile = nofile();
        assert!(nofile.soft > 0 && nofile.soft <= nofile.hard);
    }

    #[test]
    fn releases_are_read() {
        assert_eq!(KernelRelease::parse("6.1.0-18-amd64").version, (6, 1));
        assert_eq!(KernelRelease::parse("5.15.167.4-microsoft").version, (5, 15));
        assert!(!KernelRelease::parse("5.19.0").is_enough());
        assert!(KernelRelease::parse("10.0-rc1").is_enough());
        assert!(!KernelRelease::parse("").is_enough());
    }

    #[test]
    fn each_refusal_names_its_cause_and_remedy() {
        let told = |errno: i32, setting: u32, filtered: bool| {
            let error = io::Error::from_raw_os_error(errno);
            RingRefusal::classify(error, setting, filtered).to_string()
        };
        assert!(told(libc::EPERM, 2, true).contains("kernel.io_uring_disabled=0"));
        assert!(told(libc::EPERM, 1, false).contains("kernel.io_uring_group"));
        assert!(told(libc::EPERM, 0, true).contains("seccomp"));
        assert!(told(libc::ENOSYS, 0, true).contains("seccomp"));
        assert!(told(libc::ENOSYS, 0, false).contains("CONFIG_IO_URING"));
        assert!(told(libc::EACCES, 0, false).contains("security module"));
        assert!(told(libc::ENOMEM, 0, false).contains("LimitMEMLOCK"));
        assert!(told(libc::EINVAL, 0, false).contains("6.1"));
        assert!(told(libc::EMFILE, 0, false).contains("cannot be set up"));
    }

    #[test]
    fn a_filter_is_seen_in_the_status() {
        assert!(is_filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!is_filtered("Name:\tx\nSeccomp:\t0\n"));
        assert!(!is_filtered(""));
    }
}
