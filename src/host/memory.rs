//! Memory from the kernel: one reserved address range, and regions made usable inside it.
//!
//! ```text
//!   reserve: PROT_NONE, costs address space only       map: one region of it becomes memory
//!   +--------------------------------------------+     hugetlb -> transparent -> plain pages
//!   | region 0 | hole | region 1 | hole | ...    |     populated, locked, kept out of cores
//!   +--------------------------------------------+     and of forked children
//! ```
//!
//! The range is never unmapped, not even for an instant: pages without hugetlb are made usable by
//! `mprotect`, and hugetlb pages replace a part of the range only after a trial mapping elsewhere
//! has shown that there are enough. So no other mapping of the process ever gets an address inside
//! it, and an address alone identifies memory as ours.

use std::ffi::c_int;
use std::fmt;
use std::io;
use std::path::Path;
use std::ptr::NonNull;

use memmap2::MmapOptions;

use super::probe::Limit;
use crate::hugepages::Hugepages;

/// Length of a huge page.
pub(crate) const HUGEPAGE_LEN: usize = 2 << 20;

const HUGEPAGE_COUNTERS: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB";

/// The kind of pages that back memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backing {
    /// Reserved 2 MiB pages.
    Hugetlb,
    /// 2 MiB pages that the kernel assembled for at least half of it, and may split again.
    Transparent,
    /// 4 KiB pages.
    Plain,
}

impl fmt::Display for Backing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Hugetlb => "reserved huge pages",
            Self::Transparent => "transparent huge pages",
            Self::Plain => "plain pages",
        })
    }
}

/// The result of [`map`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    pub backing: Backing,
    /// They can't be swapped out (hugetlb pages never are).
    pub locked: bool,
    /// For the log: what could be better, and the command that fixes it.
    pub advice: Option<String>,
}

/// The reason why a region could not be mapped.
#[derive(Debug)]
pub enum MapError {
    /// [`Hugepages::Require`], and there are not enough huge pages; the text says how to get them.
    HugepagesRequired(String),
    /// A system call failed that has no fallback.
    Refused {
        action: &'static str,
        /// Its length in bytes.
        len: usize,
        source: io::Error,
    },
}

impl fmt::Display for MapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HugepagesRequired(advice) => {
                write!(f, "pool.hugepages is \"require\", but {advice}")
            }
            Self::Refused { action, len, source } => {
                write!(f, "the kernel refused to {action} ({}): {source}", Mib(*len))
            }
        }
    }
}

impl std::error::Error for MapError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::HugepagesRequired(_) => None,
            Self::Refused { source, .. } => Some(source),
        }
    }
}

/// Reserves `len` bytes of address space that start at a huge page boundary. They can't be accessed
/// before [`map`] and are never unmapped.
pub(crate) fn reserve(len: usize) -> Result<NonNull<u8>, MapError> {
    // The kernel aligns to small pages: one huge page more leaves room to align ourselves.
    let spare_len = len + HUGEPAGE_LEN;
    // Not by memmap2, which maps writable memory: the kernel counts that as data (RLIMIT_DATA), and
    // as committed memory if it does not overcommit (vm.overcommit_memory=2).
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: without an address and without MAP_FIXED no existing mapping is touched.
    let start =
        unsafe { libc::mmap(std::ptr::null_mut(), spare_len, libc::PROT_NONE, flags, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(refused("reserve address space for the pools (see `ulimit -v`)", spare_len));
    }
    let start = start.cast::<u8>();
    let aligned = start.wrapping_add(start.align_offset(HUGEPAGE_LEN));
    Ok(NonNull::new(aligned).expect("mmap without MAP_FIXED never answers with the null page"))
}

/// Makes `len` bytes at `at` usable, populated and zero. `wanted_len` is the number of bytes that
/// the process is still going to map, these included; the advice is computed from it.
///
/// # Safety
///
/// `at` and `len` are whole huge pages inside a range from [`reserve`], not mapped before, and no
/// other thread maps the same part.
pub(crate) unsafe fn map(
    at: NonNull<u8>,
    len: usize,
    hugepages: Hugepages,
    wanted_len: usize,
) -> Result<Mapping, MapError> {
    assert!(at.addr().get().is_multiple_of(HUGEPAGE_LEN) && len.is_multiple_of(HUGEPAGE_LEN));
    let mut advice = None;
    if hugepages != Hugepages::Off {
        // SAFETY: as promised by the caller.
        match unsafe { map_hugetlb(at, len) }? {
            None => {
                // SAFETY: the part was mapped by the call before.
                unsafe { keep_private(at, len) }?;
                return Ok(Mapping { backing: Backing::Hugetlb, locked: true, advice: None });
            }
            Some(reason) => {
                let wanted = wanted_len.div_ceil(HUGEPAGE_LEN);
                advice = Some(hugepage_advice(&reason, wanted, hugepage_counts()));
            }
        }
    }
    if let (Hugepages::Require, Some(advice)) = (hugepages, &advice) {
        return Err(MapError::HugepagesRequired(advice.clone()));
    }
    // SAFETY: as promised by the caller; a refused map_hugetlb leaves the range as it was.
    let backing = unsafe { map_small(at, len, hugepages != Hugepages::Off) }?;
    // SAFETY: the part was mapped by the call before.
    unsafe { keep_private(at, len) }?;
    let advice = advice.map(|advice| format!("{advice}; until then it lies in {backing}"));
    // SAFETY: locking changes no content and no address.
    let locked = unsafe { libc::mlock(at.as_ptr().cast(), len) } == 0;
    let lock_advice = (!locked).then(|| lock_advice(len, Limit::of(libc::RLIMIT_MEMLOCK).soft));
    let advice = match (advice, lock_advice) {
        (Some(first), Some(second)) => Some(format!("{first}. Also, {second}")),
        (first, second) => first.or(second),
    };
    Ok(Mapping { backing, locked, advice })
}

/// Maps reserved huge pages. Returns `Some(reason)` if there are not enough; then nothing has
/// changed.
///
/// # Safety
///
/// As for [`map`].
unsafe fn map_hugetlb(at: NonNull<u8>, len: usize) -> Result<Option<io::Error>, MapError> {
    // The kernel reserves the pages when it maps, and a MAP_FIXED that fails for lack of them may
    // have unmapped a part of the range already. So a trial mapping is made elsewhere first, and
    // removed.
    let trial = MmapOptions::new().len(len).huge(Some(HUGEPAGE_LEN.ilog2() as u8)).map_anon();
    if let Err(reason) = trial {
        return Ok(Some(reason));
    }
    drop(trial);
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_HUGETLB | libc::MAP_HUGE_2MB;
    let access = libc::PROT_READ | libc::PROT_WRITE;
    let address = at.as_ptr().cast();
    // SAFETY: the caller promises that this part of the range is unused.
    let placed = unsafe { libc::mmap(address, len, access, flags | libc::MAP_FIXED, -1, 0) };
    if placed == libc::MAP_FAILED {
        // Another process was faster. The range may have a hole now and must not be used.
        return Err(refused("place huge pages that were free a moment ago; start again", len));
    }
    // Populating may still fail if a control group limits huge pages. That is an error here, while
    // MAP_POPULATE would ignore it and the first access would cause a SIGBUS.
    // SAFETY: the part was mapped above; populating changes no content.
    if unsafe { libc::madvise(address, len, libc::MADV_POPULATE_WRITE) } == 0 {
        return Ok(None);
    }
    let reason = io::Error::last_os_error();
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE | libc::MAP_FIXED;
    // SAFETY: replaces the pages mapped above, which nobody has used.
    let restored = unsafe { libc::mmap(address, len, libc::PROT_NONE, flags, -1, 0) };
    if restored == libc::MAP_FAILED {
        return Err(refused("take huge pages back that it does not let us fill", len));
    }
    Ok(Some(reason))
}

/// Maps 4 KiB pages, merged by the kernel into huge ones if `transparent` is set and it can.
///
/// # Safety
///
/// As for [`map`].
unsafe fn map_small(at: NonNull<u8>, len: usize, transparent: bool) -> Result<Backing, MapError> {
    let address = at.as_ptr().cast();
    // SAFETY: the part belongs to the reserved range and nobody uses it yet.
    if unsafe { libc::mprotect(address, len, libc::PROT_READ | libc::PROT_WRITE) } != 0 {
        return Err(refused("give memory to a pool", len));
    }
    let wish = if transparent { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
    // A kernel without transparent huge pages refuses this; the result is read below.
    // SAFETY: a wish about page sizes changes no content.
    unsafe { libc::madvise(address, len, wish) };
    // SAFETY: populating changes no content.
    if unsafe { libc::madvise(address, len, libc::MADV_POPULATE_WRITE) } != 0 {
        return Err(refused("fill a pool with memory", len));
    }
    let huge_len = anonymous_huge_len(at.addr().get(), len);
    Ok(if huge_len * 2 >= len { Backing::Transparent } else { Backing::Plain })
}

/// Keeps payload out of core files and of forked children.
///
/// # Safety
///
/// The part is mapped and belongs to us.
unsafe fn keep_private(at: NonNull<u8>, len: usize) -> Result<(), MapError> {
    let advise = |advice: c_int, action| {
        // SAFETY: both advices concern dumps and forks only; the caller vouches for the part.
        match unsafe { libc::madvise(at.as_ptr().cast(), len, advice) } {
            0 => Ok(()),
            _ => Err(refused(action, len)),
        }
    };
    advise(libc::MADV_DONTFORK, "keep a pool out of forked children")?;
    advise(libc::MADV_DONTDUMP, "keep a pool out of core files")
}

/// Returns the bytes between `start` and `start + len` that the kernel counts as transparent huge
/// pages.
fn anonymous_huge_len(start: usize, len: usize) -> usize {
    let text = std::fs::read_to_string("/proc/self/smaps").unwrap_or_default();
    let mut inside = false;
    let mut huge_len = 0;
    for line in text.lines() {
        if let Some((from, to)) = mapped_range(line) {
            inside = from >= start && to <= start + len;
        } else if inside && let Some(rest) = line.strip_prefix("AnonHugePages:") {
            let kib = rest.trim().trim_end_matches(" kB").parse::<usize>().unwrap_or(0);
            huge_len += kib * 1024;
        }
    }
    huge_len
}

/// Parses `7f0000000000-7f0000200000 rw-p ...`, the first line of each mapping in smaps.
fn mapped_range(line: &str) -> Option<(usize, usize)> {
    let (from, to) = line.split_once(' ')?.0.split_once('-')?;
    Some((usize::from_str_radix(from, 16).ok()?, usize::from_str_radix(to, 16).ok()?))
}

/// The kernel's counters of reserved huge pages.
#[derive(Debug, Clone, Copy)]
struct HugepageCounts {
    reserved: usize,
    available: usize,
}

fn hugepage_counts() -> Option<HugepageCounts> {
    let read = |name| {
        let text = std::fs::read_to_string(Path::new(HUGEPAGE_COUNTERS).join(name)).ok()?;
        text.trim().parse::<usize>().ok()
    };
    // resv_hugepages are still counted as free, but reserved for another mapping.
    let available = read("free_hugepages")?.saturating_sub(read("resv_hugepages")?);
    Some(HugepageCounts { reserved: read("nr_hugepages")?, available })
}

fn hugepage_advice(reason: &io::Error, wanted: usize, counts: Option<HugepageCounts>) -> String {
    match counts {
        None => format!("this kernel has no huge pages of 2 MiB ({reason})"),
        Some(HugepageCounts { available, .. }) if available >= wanted => format!(
            "the kernel keeps huge pages back though {available} are free ({reason}): see the \
             control group's hugetlb.2MB.max"
        ),
        Some(HugepageCounts { reserved, available }) => format!(
            "the pools want {wanted} more huge pages of 2 MiB and {available} are free ({reason}): \
             reserve them with `sysctl -w vm.nr_hugepages={}`",
            reserved + wanted - available
        ),
    }
}

fn lock_advice(len: usize, limit_len: u64) -> String {
    format!(
        "a pool of {} is not locked and may be swapped out (the limit is {} KiB): allow it with \
         `ulimit -l unlimited`, or LimitMEMLOCK=infinity in the service's unit",
        Mib(len),
        limit_len / 1024
    )
}

fn refused(action: &'static str, len: usize) -> MapError {
    MapError::Refused { action, len, source: io::Error::last_os_error() }
}

/// Displays bytes in MiB.
struct Mib(usize);

impl fmt::Display for Mib {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} MiB", self.0 as f64 / (1 << 20) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEN: usize = 2 * HUGEPAGE_LEN;

    fn mapped(hugepages: Hugepages) -> (NonNull<u8>, Result<Mapping, MapError>) {
        let at = reserve(4 * HUGEPAGE_LEN).unwrap();
        // SAFETY: the range was reserved in the line before, and no other thread knows it.
        (at, unsafe { map(at, LEN, hugepages, LEN) })
    }

    /// `VmFlags` of the mapping that starts at `at`.
    fn vm_flags(at: NonNull<u8>) -> Vec<String> {
        let smaps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let mut lines = smaps.lines();
        lines.find(|line| mapped_range(line).is_some_and(|(from, _)| from == at.addr().get()));
        let flags = lines.find(|line| line.starts_with("VmFlags:")).unwrap();
        flags.split_whitespace().skip(1).map(str::to_owned).collect()
    }

    fn write_and_read_both_ends(at: NonNull<u8>) {
        for offset in [0, LEN - 1] {
            // SAFETY: LEN bytes at `at` are mapped for reading and writing, by this test only.
            unsafe {
                let byte = at.as_ptr().add(offset);
                assert_eq!(byte.read(), 0, "new memory is zero");
                byte.write(7);
                assert_eq!(byte.read(), 7);
            }
        }
    }

    #[test]
    fn without_enough_hugepages_the_next_best_is_taken_and_the_command_is_told() {
        let (at, mapping) = mapped(Hugepages::Try);
        let mapping = mapping.unwrap();
        write_and_read_both_ends(at);
        let advice = mapping.advice.unwrap_or_default();
        match mapping.backing {
            Backing::Hugetlb => assert_eq!(advice, "", "nothing to mend"),
            _ => assert!(
                advice.contains("nr_hugepages=") || advice.contains("huge pages"),
                "{advice}"
            ),
        }
    }

    #[test]
    fn required_hugepages_are_had_or_refused_with_the_command() {
        let (at, mapping) = mapped(Hugepages::Require);
        match mapping {
            Ok(mapping) => {
                assert_eq!(mapping.backing, Backing::Hugetlb);
                write_and_read_both_ends(at);
            }
            Err(error @ MapError::HugepagesRequired(_)) => {
                assert!(error.to_string().contains("\"require\""), "{error}");
                // The range is as it was: still ours, still mappable.
                // SAFETY: as in `mapped`; the refused call left nothing behind.
                unsafe { map(at, LEN, Hugepages::Off, LEN) }.unwrap();
                write_and_read_both_ends(at);
            }
            Err(other) => panic!("{other}"),
        }
    }

    #[test]
    fn plain_pages_on_request() {
        let (at, mapping) = mapped(Hugepages::Off);
        let mapping = mapping.unwrap();
        write_and_read_both_ends(at);
        assert_eq!(mapping.backing, Backing::Plain);
        assert!(!mapping.advice.unwrap_or_default().contains("huge"), "nobody asked for them");
    }

    #[test]
    fn payload_stays_out_of_cores_and_children() {
        for hugepages in [Hugepages::Try, Hugepages::Off] {
            let (at, mapping) = mapped(hugepages);
            let mapping = mapping.unwrap();
            let flags = vm_flags(at);
            assert!(flags.iter().any(|flag| flag == "dc"), "forked children get it: {flags:?}");
            assert!(flags.iter().any(|flag| flag == "dd"), "cores get it: {flags:?}");
            let is_locked = flags.iter().any(|flag| flag == "lo" || flag == "ht");
            assert_eq!(is_locked, mapping.locked, "{flags:?}");
        }
    }

    #[test]
    fn what_lies_behind_a_region_can_not_be_touched() {
        let (at, mapping) = mapped(Hugepages::Try);
        mapping.unwrap();
        // SAFETY: only the address is used, and it lies in the reserved range.
        let behind = unsafe { at.add(LEN) };
        assert!(!vm_flags(behind).iter().any(|flag| flag == "rd" || flag == "wr"));
    }

    #[test]
    fn the_kernel_accounts_transparent_pages_where_it_makes_them() {
        let (at, mapping) = mapped(Hugepages::Try);
        let huge_len = anonymous_huge_len(at.addr().get(), LEN);
        match mapping.unwrap().backing {
            Backing::Transparent => assert!(huge_len >= LEN / 2),
            Backing::Hugetlb => assert_eq!(huge_len, 0, "accounted elsewhere"),
            Backing::Plain => assert!(huge_len < LEN / 2),
        }
    }

    #[test]
    fn the_advice_computes_the_number_of_pages() {
        let reason = io::Error::from_raw_os_error(libc::ENOMEM);
        let some = Some(HugepageCounts { reserved: 10, available: 3 });
        let advice = hugepage_advice(&reason, 64, some);
        assert!(advice.contains("sysctl -w vm.nr_hugepages=71`"), "{advice}");
        let enough = Some(HugepageCounts { reserved: 99, available: 80 });
        assert!(hugepage_advice(&reason, 64, enough).contains("hugetlb.2MB.max"));
        assert!(hugepage_advice(&reason, 64, None).contains("this kernel has no huge pages"));
    }

    #[test]
    fn the_lock_advice_names_length_and_limit() {
        let advice = lock_advice(64 << 20, 8 << 20);
        assert!(advice.contains("64 MiB") && advice.contains("8192 KiB"), "{advice}");
        assert!(advice.contains("ulimit -l unlimited"), "{advice}");
    }

    /// Runs itself again in a child process, since the limit applies to the process.
    #[test]
    fn reserving_counts_as_no_data() {
        const CHILD: &str = "RINGWAY_TEST_RESERVES_IN_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let limit = libc::rlimit { rlim_cur: 1 << 30, rlim_max: 1 << 30 };
            // SAFETY: setrlimit reads one rlimit, and `limit` is one.
            assert_eq!(unsafe { libc::setrlimit(libc::RLIMIT_DATA, &raw const limit) }, 0);
            reserve(8 << 30).unwrap();
            return;
        }
        let program = std::env::current_exe().unwrap();
        let test = "host::memory::tests::reserving_counts_as_no_data";
        let child =
            std::process::Command::new(program).args(["--exact", test]).env(CHILD, "1").output();
        let child = child.unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
    }

    #[test]
    fn address_space_that_nobody_has_is_refused_with_its_length() {
        let error = reserve(1 << 60).unwrap_err();
        assert!(error.to_string().contains("reserve address space"), "{error}");
    }
}
