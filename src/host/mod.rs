//! Access to the kernel outside of the ring: the clock, cores, memory, UDP sockets and their
//! options, wake-ups, accounts and privileges, the process log, the limits of control groups,
//! signals during the start, trials of files, and
//! facts about this host, with a remedy for each refusal.

pub(crate) mod accounts;
pub(crate) mod address;
pub(crate) mod capacity;
pub(crate) mod cgroup;
pub mod clock;
pub(crate) mod cpu;
pub mod eventfd;
pub(crate) mod files;
pub(crate) mod inotify;
pub(crate) mod log_writer;
pub(crate) mod memory;
pub(crate) mod privileges;
pub mod probe;
pub(crate) mod signals;
pub mod socket;
