//! The cores and the memory that this process may use: the least of the host's and of what control
//! groups allow.

use std::fmt;
use std::io;
use std::path::Path;

use super::cgroup::{GroupLimits, Limit};
use super::cpu;

const MEMORY_FACTS: &str = "/proc/meminfo";

/// The share of the host that is open to this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// The cores that it may run on.
    pub(crate) cores: Vec<usize>,
    /// The CPU time that it may use, in thousandths of a core; `None` is all of them.
    pub(crate) cpu_millis: Option<Limit>,
    /// The bytes of memory that it may use; `None` is not known.
    pub(crate) memory_len: Option<Limit>,
    /// The bytes that it may have in reserved huge pages; `None` is as many as there are.
    pub(crate) hugepage_len: Option<Limit>,
}

impl Capacity {
    pub(crate) fn read() -> io::Result<Capacity> {
        let GroupLimits { cpu_millis, memory_len, hugepage_len } =
            GroupLimits::read(Path::new("/"));
        let text = std::fs::read_to_string(MEMORY_FACTS).unwrap_or_default();
        let host = total_len(&text).map(|value| Limit { value, file: MEMORY_FACTS.into() });
        let memory_len = memory_len.into_iter().chain(host).min_by_key(|limit| limit.value);
        Ok(Capacity { cores: cpu::usable_cores()?, cpu_millis, memory_len, hugepage_len })
    }

    /// Returns the number of cores that the quota amounts to, if it is less than the cores.
    pub(crate) fn quota_core_count(&self) -> Option<usize> {
        let quota = self.cpu_millis.as_ref()?.value.div_ceil(1000);
        usize::try_from(quota).ok().filter(|quota| *quota < self.cores.len())
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.cores.len();
        write!(f, "{count} core{}", if count == 1 { "" } else { "s" })?;
        if let Some(Limit { value, file }) = &self.cpu_millis {
            let (cores, millis) = (value / 1000, value % 1000);
            write!(f, ", CPU time of {cores}.{millis:03} cores ({})", file.display())?;
        }
        if let Some(Limit { value, file }) = &self.memory_len {
            write!(f, ", memory {} MiB ({})", value >> 20, file.display())?;
        }
        if let Some(Limit { value, file }) = &self.hugepage_len {
            write!(f, ", huge pages {} MiB ({})", value >> 20, file.display())?;
        }
        Ok(())
    }
}

/// Returns the host's memory from the text of `/proc/meminfo`.
fn total_len(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_host_has_cores_and_memory() {
        let capacity = Capacity::read().unwrap();
        assert!(!capacity.cores.is_empty());
        assert!(capacity.memory_len.unwrap().value > 64 << 20);
    }

    #[test]
    fn a_quota_counts_as_whole_cores_where_it_is_less_than_the_cores() {
        let with = |millis| Capacity {
            cores: (0..4).collect(),
            cpu_millis: Some(Limit { value: millis, file: "/cpu.max".into() }),
            memory_len: None,
            hugepage_len: None,
        };
        for (millis, expected) in
            [(1, Some(1)), (1000, Some(1)), (1001, Some(2)), (3000, Some(3)), (3001, None)]
        {
            assert_eq!(with(millis).quota_core_count(), expected, "{millis}");
        }
        assert_eq!(with(1500).to_string(), "4 cores, CPU time of 1.500 cores (/cpu.max)");
    }

    #[test]
    fn the_memory_of_the_host_is_read() {
        assert_eq!(total_len("MemTotal:       2048 kB\nMemFree: 1 kB\n"), Some(2 << 20));
        assert_eq!(total_len("MemFree: 1 kB\n"), None);
    }
}
