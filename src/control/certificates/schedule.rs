//! The time to read files that have changed.
//!
//! ```text
//!  Settled --change--> Changed --quiet for half a second--> read --valid---> Settled
//!     ^                  |  ^                                 |
//!     |                  +--+ change                          refused
//!     |                     ^                                 v
//!     |                     +-----------change------------- Again --3 s later--> read
//!     +---------------------------------------------------------------------------+
//! ```
//!
//! A chain and its key are written one after the other, so that a pair may not match for a moment.

use std::time::{Duration, Instant};

use crate::tls::CertificateFiles;

/// The time without a change after which files are read.
const QUIET: Duration = Duration::from_millis(500);
/// The longest time that changes may hold up the reading.
const QUIET_MAX: Duration = Duration::from_secs(5);
/// The time after which files that were refused are read once more.
const AGAIN: Duration = Duration::from_secs(3);

pub(super) struct Schedule {
    /// The files as they were when last looked at.
    files: CertificateFiles,
    phase: Phase,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Settled,
    Changed { first: Instant, at: Instant },
    Again { at: Instant },
}

/// The step that follows when files were read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They may be incomplete, and are read again soon.
    Wait,
    /// They stay as they are.
    Report,
}

impl Schedule {
    pub(super) fn new(files: CertificateFiles) -> Self {
        Self { files, phase: Phase::Settled }
    }

    pub(super) fn files(&self) -> &CertificateFiles {
        &self.files
    }

    /// Takes in how the files are now.
    pub(super) fn look(&mut self, now: Instant, files: CertificateFiles) {
        if files == self.files {
            return;
        }
        self.files = files;
        let first = match self.phase {
            Phase::Changed { first, .. } => first,
            Phase::Settled | Phase::Again { .. } => now,
        };
        self.phase = Phase::Changed { first, at: (now + QUIET).min(first + QUIET_MAX) };
    }

    /// Returns when to read the files, unless they change before.
    pub(super) fn next(&self) -> Option<Instant> {
        match self.phase {
            Phase::Settled => None,
            Phase::Changed { at, .. } | Phase::Again { at } => Some(at),
        }
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|at| at <= now)
    }

    /// Takes in the outcome of reading the files, which were due.
    pub(super) fn handle_outcome(&mut self, now: Instant, is_valid: bool) -> Verdict {
        let (phase, verdict) = match self.phase {
            Phase::Changed { .. } if !is_valid => (Phase::Again { at: now + AGAIN }, Verdict::Wait),
            _ => (Phase::Settled, Verdict::Report),
        };
        self.phase = phase;
        verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Certificate, CertificateSource, Tls};
    use crate::tls::CertificateFiles;

    struct Bench {
        folder: tempfile::TempDir,
        schedule: Schedule,
        start: Instant,
    }

    impl Bench {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let source = CertificateSource::Files {
                cert: folder.path().join("chain.pem"),
                key: folder.path().join("key.pem"),
                ocsp: None,
            };
            let certificate = Certificate { hosts: vec![], addresses: vec![], source };
            let schedule = Schedule::new(CertificateFiles::of(&[certificate], &Tls::default()));
            let (start, _) = crate::testing::clocks();
            Self { folder, schedule, start }
        }

        fn at(&self, millis: u64) -> Instant {
            self.start + Duration::from_millis(millis)
        }

        fn look(&mut self, millis: u64) {
            let files = self.schedule.files().look_again();
            self.schedule.look(self.at(millis), files);
        }

        fn write(&mut self, name: &str, millis: u64) {
            // Another length each time: the clock of a file system may be coarse.
            std::fs::write(self.folder.path().join(name), "x".repeat(1 + millis as usize)).unwrap();
            self.look(millis);
        }

        fn next(&self) -> Option<u64> {
            let next = self.schedule.next()?;
            Some((next - self.start).as_millis() as u64)
        }
    }

    #[test]
    fn files_are_read_once_they_are_quiet() {
        let mut bench = Bench::new();
        bench.look(0);
        assert_eq!(bench.next(), None);
        bench.write("chain.pem", 1000);
        assert_eq!(bench.next(), Some(1500));
        bench.write("key.pem", 1400);
        bench.look(1600);
        assert_eq!(bench.next(), Some(1900));
        assert!(!bench.schedule.is_due(bench.at(1899)) && bench.schedule.is_due(bench.at(1900)));
        assert_eq!(bench.schedule.handle_outcome(bench.at(1950), true), Verdict::Report);
        bench.look(2000);
        assert_eq!(bench.next(), None);
    }

    #[test]
    fn changes_without_end_do_not_hold_up_the_reading() {
        let mut bench = Bench::new();
        for millis in (1000..6000).step_by(400) {
            bench.write("chain.pem", millis);
        }
        assert_eq!(bench.next(), Some(6000));
    }

    #[test]
    fn refused_files_are_read_once_more_before_they_are_reported() {
        let mut bench = Bench::new();
        bench.write("chain.pem", 1000);
        assert_eq!(bench.schedule.handle_outcome(bench.at(1500), false), Verdict::Wait);
        assert_eq!(bench.next(), Some(4500));
        assert_eq!(bench.schedule.handle_outcome(bench.at(4500), false), Verdict::Report);
        assert_eq!(bench.next(), None);
        // The second file of a pair comes while the first is waited with.
        bench.write("chain.pem", 5000);
        assert_eq!(bench.schedule.handle_outcome(bench.at(5500), false), Verdict::Wait);
        bench.write("key.pem", 6000);
        assert_eq!(bench.next(), Some(6500));
        assert_eq!(bench.schedule.handle_outcome(bench.at(6500), true), Verdict::Report);
        assert_eq!(bench.next(), None);
    }

    #[test]
    fn a_file_that_is_removed_or_changes_its_mode_has_changed() {
        use std::os::unix::fs::PermissionsExt as _;
        let mut bench = Bench::new();
        bench.write("chain.pem", 1000);
        bench.schedule.handle_outcome(bench.at(1500), true);
        let path = bench.folder.path().join("chain.pem");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        bench.look(2000);
        assert_eq!(bench.next(), Some(2500));
        bench.schedule.handle_outcome(bench.at(2500), true);
        std::fs::remove_file(&path).unwrap();
        bench.look(3000);
        assert_eq!(bench.next(), Some(3500));
    }
}
