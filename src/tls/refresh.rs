//! The files of certificates and of ticket keys while the process runs: their states, by which a
//! change is noticed, and the step from what is in use to what the files hold.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::CryptoProvider;

use super::certificate::Entry;
use super::client_authorities::ClientAuthorities;
use super::selection::Certificates;
use super::{ServerTls, Shared, TlsError, provider};
use crate::config::{self, CertificateSource};

/// The state of the file at the end of all links, as the file system tells it. A file that is
/// replaced or written has another one afterwards, and so has one whose mode changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    device: u64,
    inode: u64,
    mode: u32,
    len: u64,
    /// Last change of the content and of the inode, in seconds and nanoseconds.
    modified: (i64, i64),
    changed: (i64, i64),
}

impl State {
    fn of(path: &Path) -> Option<Self> {
        let file = fs::metadata(path).ok()?;
        Some(Self {
            device: file.dev(),
            inode: file.ino(),
            mode: file.mode(),
            len: file.len(),
            modified: (file.mtime(), file.mtime_nsec()),
            changed: (file.ctime(), file.ctime_nsec()),
        })
    }
}

/// The files of all certificates, of clients' authorities and of the ticket keys, each with its
/// state at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct CertificateFiles {
    states: Vec<(PathBuf, Option<State>)>,
}

impl CertificateFiles {
    /// Looks at all files that `certificates` and `tls` name.
    pub(crate) fn of(certificates: &[config::Certificate], tls: &config::Tls) -> Self {
        let mut paths: BTreeSet<PathBuf> = tls.ticket_keys.iter().cloned().collect();
        for certificate in certificates {
            if let CertificateSource::Files { cert, key, ocsp } = &certificate.source {
                paths.extend([Some(cert), Some(key), ocsp.as_ref()].into_iter().flatten().cloned());
            }
        }
        let states = paths.into_iter().map(|path| {
            let state = State::of(&path);
            (path, state)
        });
        Self { states: states.collect() }
    }

    /// Looks at these files too.
    pub(super) fn and(mut self, paths: impl Iterator<Item = PathBuf>) -> Self {
        for path in paths {
            if self.states.iter().all(|(known, _)| *known != path) {
                let state = State::of(&path);
                self.states.push((path, state));
            }
        }
        self
    }

    /// Looks at the same files again.
    pub(crate) fn look_again(&self) -> Self {
        let again = self.paths().map(|path| (path.to_owned(), State::of(path)));
        Self { states: again.collect() }
    }

    /// Returns the files that this process cannot open, each with the error.
    pub(crate) fn unreadable(&self) -> Vec<(&Path, io::Error)> {
        let opened = self.paths().map(|path| (path, fs::File::open(path)));
        opened.filter_map(|(path, opened)| Some((path, opened.err()?))).collect()
    }

    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        self.states.iter().map(|(path, _)| path.as_path())
    }
}

/// The outcome of reading the files again.
pub(crate) struct Refreshed {
    /// Everything in its newest form that is valid.
    pub(crate) tls: ServerTls,
    /// Summaries of what is new.
    pub(crate) renewed: Vec<String>,
    /// Those that stay as they were, although their files have changed.
    pub(crate) refused: Vec<Refusal>,
    /// A summary of the ticket keys if they are new, or why those before them stay.
    pub(crate) ticket_keys: Result<Option<String>, TlsError>,
}

/// A certificate, or the authorities of clients, whose files are not valid.
pub(crate) struct Refusal {
    /// The path of the chain, or of the authorities.
    pub(crate) certificate: String,
    pub(crate) error: TlsError,
}

impl ServerTls {
    /// Returns the files of all certificates and of the ticket keys, in the state in which they
    /// were read.
    pub(crate) fn files(&self) -> &CertificateFiles {
        &self.shared.files
    }

    /// Reads the files of `certificates` and of the ticket keys again, which are those that this
    /// was loaded from. Each certificate is replaced by itself: one whose files are not valid stays
    /// as it was, and the others are renewed. New ticket keys are in use at once, in all settings.
    pub(crate) fn refresh(
        &self,
        certificates: &[config::Certificate],
        tls: &config::Tls,
    ) -> Refreshed {
        // Before the files are read: what changes meanwhile is noticed the next time.
        let authorities = self.shared.client_authorities.iter();
        let paths = authorities.flat_map(|one| one.paths().map(Path::to_owned));
        let files = CertificateFiles::of(certificates, tls).and(paths);
        let before = &self.shared.certificates;
        assert_eq!(before.entries.len(), certificates.len(), "the configuration is the same");
        let provider = provider();
        let mut refreshed = Refreshed {
            tls: self.clone(),
            renewed: vec![],
            refused: vec![],
            ticket_keys: self.shared.resumption.tickets.refresh(tls.ticket_keys.as_deref()),
        };
        let mut entries = Vec::with_capacity(certificates.len());
        for (certificate, old) in certificates.iter().zip(&before.entries) {
            let is_file = matches!(certificate.source, CertificateSource::Files { .. });
            let loaded = is_file.then(|| Entry::load(certificate, &provider)).transpose();
            let entry = loaded.unwrap_or_else(|error| {
                refreshed.refused.push(Refusal { certificate: old.origin(), error });
                None
            });
            let entry = entry.filter(|new| !new.serves_the_same(old));
            entries.push(entry.map_or_else(
                || Arc::clone(old),
                |new| {
                    refreshed.renewed.push(format!("new certificate: {}", new.summary()));
                    Arc::new(new)
                },
            ));
        }
        let certificates = match Certificates::new(entries, before.unknown) {
            Ok(certificates) => Arc::new(certificates),
            // The kinds of two keys are the same now.
            Err(error) => {
                refreshed.renewed.clear();
                let certificate = error.file().unwrap_or(Path::new("")).display().to_string();
                refreshed.refused.push(Refusal { certificate, error });
                Arc::clone(before)
            }
        };
        let client_authorities = self.refresh_authorities(&Arc::new(provider), &mut refreshed);
        let shared =
            Shared { certificates, client_authorities, files, ..Shared::clone(&self.shared) };
        refreshed.tls = Self { shared: Arc::new(shared) };
        refreshed
    }

    /// Reads the authorities of clients again. Those of a listener stay as they were if one of its
    /// files is not valid.
    fn refresh_authorities(
        &self,
        provider: &Arc<CryptoProvider>,
        refreshed: &mut Refreshed,
    ) -> Vec<Arc<ClientAuthorities>> {
        let refresh = |old: &Arc<ClientAuthorities>| match old.reload(provider) {
            Ok(new) if new.accepts_the_same(old) => Arc::clone(old),
            Ok(new) => {
                refreshed.renewed.push(format!("read again: {}", new.summary()));
                Arc::new(new)
            }
            Err(error) => {
                let certificate = old.settings.ca.display().to_string();
                refreshed.refused.push(Refusal { certificate, error });
                Arc::clone(old)
            }
        };
        self.shared.client_authorities.iter().map(refresh).collect()
    }
}
