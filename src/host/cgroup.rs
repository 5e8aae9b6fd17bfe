//! The limits of this process's control groups (cgroups(7)): CPU time, memory and huge pages.
//!
//! Limits are nested: those of every ancestor hold too, and the least one decides. Both versions
//! may be mounted at once, each with some of the controllers:
//!
//! ```text
//!   /proc/self/cgroup      4:memory:/pod/app  or  0::/pod/app     the group in each hierarchy
//!   /proc/self/mountinfo   root and mount point of each hierarchy
//!        |
//!        v
//!   POINT/pod/app/memory.max, POINT/pod/memory.max, POINT/memory.max  -> the least
//! ```
//!
//! A limit that cannot be read is none: a process without `/proc` or with hidden groups starts as
//! on a host of its own.

use std::fs;
use std::path::{Component, Path, PathBuf};

/// A limit and the file that sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limit {
    pub(crate) value: u64,
    pub(crate) file: PathBuf,
}

/// The limits of all groups of this process; `None` is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct GroupLimits {
    /// CPU time, in thousandths of a core, rounded up.
    pub(crate) cpu_millis: Option<Limit>,
    /// Bytes of memory. Huge pages are not charged to it.
    pub(crate) memory_len: Option<Limit>,
    /// Bytes in reserved huge pages of 2 MiB.
    pub(crate) hugepage_len: Option<Limit>,
}

/// A control group hierarchy's place in the file system.
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    point: PathBuf,
    is_unified: bool,
    /// The controllers, among other options.
    options: Vec<String>,
}

/// Limits of version 1 have a number for "none": the largest multiple of a page that fits.
const UNLIMITED_MIN: u64 = 1 << 62;

impl GroupLimits {
    /// Reads the limits below `root`, which is `/` but for tests.
    pub(crate) fn read(root: &Path) -> Self {
        let text = |path| fs::read_to_string(root.join(path)).unwrap_or_default();
        let (groups, mounts) = (text("proc/self/cgroup"), text("proc/self/mountinfo"));
        let mounts: Vec<Mount> = mounts.lines().filter_map(Mount::parse).collect();
        let mut limits = Self::default();
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(controllers), Some(group)) = (fields.next(), fields.next()) else { continue };
            for mount in mounts.iter().filter(|mount| mount.has(controllers)) {
                for folder in mount.folders(Path::new(group)) {
                    limits.add(root, &folder, mount.is_unified);
                }
            }
        }
        limits
    }

    /// Takes in the limits of one group. Files of controllers that are not there set none.
    fn add(&mut self, root: &Path, folder: &Path, is_unified: bool) {
        let beneath = folder.strip_prefix("/").unwrap_or(folder);
        let read = |name: &str| fs::read_to_string(root.join(beneath).join(name)).ok();
        let note = |limit: &mut Option<Limit>, name: &str, value: Option<u64>| {
            let Some(value) = value.filter(|value| *value < UNLIMITED_MIN) else { return };
            if limit.as_ref().is_none_or(|least| value < least.value) {
                *limit = Some(Limit { value, file: folder.join(name) });
            }
        };
        let number = |name: &str| read(name).and_then(|text| text.trim().parse().ok());
        if is_unified {
            let cpu = read("cpu.max").and_then(|text| millis_of(&text));
            note(&mut self.cpu_millis, "cpu.max", cpu);
            // From `memory.high` on the kernel slows the process down rather than to end it.
            for name in ["memory.max", "memory.high"] {
                note(&mut self.memory_len, name, number(name));
            }
            note(&mut self.hugepage_len, "hugetlb.2MB.max", number("hugetlb.2MB.max"));
            return;
        }
        let quota = read("cpu.cfs_quota_us").zip(read("cpu.cfs_period_us"));
        let cpu = quota.and_then(|(quota, period)| millis_of(&format!("{quota} {period}")));
        note(&mut self.cpu_millis, "cpu.cfs_quota_us", cpu);
        let name = "memory.limit_in_bytes";
        note(&mut self.memory_len, name, number(name));
        // The least limit of all ancestors, also of those that a container does not see.
        let above = read("memory.stat").and_then(|text| {
            let value = |line: &str| line.strip_prefix("hierarchical_memory_limit ")?.parse().ok();
            text.lines().find_map(value)
        });
        note(&mut self.memory_len, "memory.stat", above);
        let name = "hugetlb.2MB.limit_in_bytes";
        note(&mut self.hugepage_len, name, number(name));
    }
}

impl Mount {
    /// Parses a line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)). Returns `None` if it is not
    /// of a control group hierarchy.
    fn parse(line: &str) -> Option<Mount> {
        let (place, kind) = line.split_once(" - ")?;
        let mut kind = kind.split(' ');
        let is_unified = match kind.next()? {
            "cgroup" => false,
            "cgroup2" => true,
            _ => return None,
        };
        let options = kind.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
        let mut place = place.split(' ').skip(3).map(unescaped);
        Some(Mount { root: place.next()?, point: place.next()?, is_unified, options })
    }

    /// Returns whether it has these controllers, as `/proc/self/cgroup` writes them: none stands
    /// for version 2.
    fn has(&self, controllers: &str) -> bool {
        if controllers.is_empty() {
            return self.is_unified;
        }
        !self.is_unified
            && controllers.split(',').all(|one| self.options.iter().any(|option| option == one))
    }

    /// Returns the folders of `group` and of its ancestors, as far as they are mounted.
    fn folders(&self, group: &Path) -> Vec<PathBuf> {
        let below = group.strip_prefix(&self.root).ok();
        // A group outside of what is mounted, or of the namespace: only the mounted one is known.
        let is_plain = |path: &&Path| path.components().all(|part| part != Component::ParentDir);
        let leaf = self.point.join(below.filter(is_plain).unwrap_or(Path::new("")));
        let seen = leaf.ancestors().take_while(|folder| folder.starts_with(&self.point));
        seen.map(Path::to_owned).collect()
    }
}

/// Returns a quota and its period, two numbers of microseconds, as thousandths of a core, rounded
/// up. "max" or -1 is no quota.
fn millis_of(text: &str) -> Option<u64> {
    let mut numbers = text.split_whitespace();
    let quota: u64 = numbers.next()?.parse().ok()?;
    let period: u64 = numbers.next()?.parse().ok()?;
    (period > 0).then(|| quota.saturating_mul(1000).div_ceil(period).max(1))
}

/// Replaces the octal escapes that mountinfo has for blanks and backslashes.
fn unescaped(text: &str) -> PathBuf {
    let [blank, tab, backslash] = [("\\040", " "), ("\\011", "\t"), ("\\134", "\\")];
    let text = [blank, tab, backslash]
        .iter()
        .fold(text.to_owned(), |text, (from, to)| text.replace(from, to));
    PathBuf::from(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A root folder with these files.
    fn fake(files: &[(&str, &str)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        root
    }

    fn limit(value: u64, file: &str) -> Option<Limit> {
        Some(Limit { value, file: PathBuf::from(file) })
    }

    const UNIFIED: &str = concat!(
        "24 1 0:22 / /proc rw - proc proc rw\n",
        "30 1 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n",
    );

    fn unified(group: &str, files: &[(&str, &str)]) -> GroupLimits {
        let line = format!("0::{group}\n");
        let mut all = vec![("proc/self/cgroup", line.as_str()), ("proc/self/mountinfo", UNIFIED)];
        all.extend(files);
        GroupLimits::read(fake(&all).path())
    }

    #[test]
    fn the_least_limit_of_all_ancestors_counts() {
        let found = unified(
            "/pod/app",
            &[
                ("sys/fs/cgroup/pod/app/cpu.max", "max 100000\n"),
                ("sys/fs/cgroup/pod/cpu.max", "150000 100000\n"),
                ("sys/fs/cgroup/cpu.max", "400000 100000\n"),
                ("sys/fs/cgroup/pod/app/memory.max", "536870912\n"),
                ("sys/fs/cgroup/pod/app/memory.high", "max\n"),
                ("sys/fs/cgroup/pod/memory.max", "max\n"),
                ("sys/fs/cgroup/pod/memory.high", "314572800\n"),
                ("sys/fs/cgroup/pod/app/hugetlb.2MB.max", "0\n"),
            ],
        );
        assert_eq!(found.cpu_millis, limit(1500, "/sys/fs/cgroup/pod/cpu.max"));
        assert_eq!(found.memory_len, limit(300 << 20, "/sys/fs/cgroup/pod/memory.high"));
        assert_eq!(found.hugepage_len, limit(0, "/sys/fs/cgroup/pod/app/hugetlb.2MB.max"));
    }

    #[test]
    fn no_limit_is_none_and_so_is_what_cannot_be_read() {
        let files = [
            ("sys/fs/cgroup/cpu.max", "max 100000\n"),
            ("sys/fs/cgroup/memory.max", "max\n"),
            ("sys/fs/cgroup/hugetlb.2MB.max", "not a number\n"),
        ];
        assert_eq!(unified("/", &files), GroupLimits::default());
        assert_eq!(unified("/gone", &[]), GroupLimits::default());
        assert_eq!(GroupLimits::read(Path::new("/nonexistent")), GroupLimits::default());
        let broken = [("proc/self/cgroup", "::\n0:\nx\n"), ("proc/self/mountinfo", "1 2 - \n - x")];
        assert_eq!(GroupLimits::read(fake(&broken).path()), GroupLimits::default());
    }

    #[test]
    fn a_namespace_shows_its_own_root_only() {
        let files = [("sys/fs/cgroup/cpu.max", "20000 100000"), ("sys/fs/x/cpu.max", "1 100000")];
        let expected = limit(200, "/sys/fs/cgroup/cpu.max");
        for group in ["/", "/../../x", "/../other"] {
            assert_eq!(unified(group, &files).cpu_millis, expected, "{group}");
        }
    }

    /// As docker mounts the first version: a bind of the container's own group.
    #[test]
    fn the_first_version_has_a_hierarchy_for_each_controller() {
        let groups = "5:cpu,cpuacct:/docker/4f\n4:memory:/docker/4f\n2:hugetlb:/docker/4f\n0::/\n";
        let mounts = "40 1 0:30 /docker/4f /sys/fs/cgroup/cpu,cpuacct ro master:1 - cgroup cgroup \
                      rw,cpu,cpuacct\n\
                      41 1 0:31 /docker/4f /sys/fs/cgroup/mem\\040ory ro - cgroup cgroup \
                      rw,memory\n\
                      42 1 0:32 / /sys/fs/cgroup/hugetlb ro - cgroup cgroup rw,hugetlb\n";
        let root = fake(&[
            ("proc/self/cgroup", groups),
            ("proc/self/mountinfo", mounts),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "100000\n"),
            ("sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/mem ory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/mem ory/memory.stat", "cache 0\nhierarchical_memory_limit 268435456\n"),
            ("sys/fs/cgroup/hugetlb/docker/hugetlb.2MB.limit_in_bytes", "4194304\n"),
        ]);
        let found = GroupLimits::read(root.path());
        assert_eq!(found.cpu_millis, limit(1000, "/sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us"));
        assert_eq!(found.memory_len, limit(256 << 20, "/sys/fs/cgroup/mem ory/memory.stat"));
        let file = "/sys/fs/cgroup/hugetlb/docker/hugetlb.2MB.limit_in_bytes";
        assert_eq!(found.hugepage_len, limit(4 << 20, file));
    }

    #[test]
    fn a_quota_of_minus_one_is_none() {
        let root = fake(&[
            ("proc/self/cgroup", "1:cpu:/a/b\n"),
            ("proc/self/mountinfo", "33 1 0:3 / /cpu rw - cgroup cgroup rw,cpu\n"),
            ("cpu/a/b/cpu.cfs_quota_us", "-1\n"),
            ("cpu/a/b/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(GroupLimits::read(root.path()), GroupLimits::default());
        fs::write(root.path().join("cpu/a/cpu.cfs_quota_us"), "250001\n").unwrap();
        fs::write(root.path().join("cpu/a/cpu.cfs_period_us"), "100000\n").unwrap();
        let found = GroupLimits::read(root.path());
        assert_eq!(found.cpu_millis, limit(2501, "/cpu/a/cpu.cfs_quota_us"), "rounded up");
    }
}
