//! Changes of folders, as the kernel reports them (inotify(7)).
//!
//! A file is replaced in many ways: written in place, renamed over, or reached through a link that
//! is changed to point elsewhere. All of them change a folder on the way to the file, so folders
//! are watched, and what changed in them is left to be found out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::OsString;
use std::io;
use std::path::{Component, Path, PathBuf};

use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use tokio::io::unix::AsyncFd;

/// Links that one path may go through, as in the kernel (path_resolution(7)).
const LINK_COUNT_MAX: usize = 40;

/// A watch of folders, on a tokio runtime.
#[derive(Debug)]
pub(crate) struct FolderWatch {
    inotify: AsyncFd<Inotify>,
    watches: BTreeMap<PathBuf, WatchDescriptor>,
}

/// Events by which a file's content or mode, or the way to it, changes.
fn mask() -> WatchMask {
    WatchMask::CREATE
        | WatchMask::CLOSE_WRITE
        | WatchMask::ATTRIB
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::DELETE_SELF
        | WatchMask::MOVE_SELF
        | WatchMask::ONLYDIR
}

impl FolderWatch {
    pub(crate) fn new() -> io::Result<Self> {
        // SAFETY: an `Inotify` holds one descriptor from `init` until it is dropped, and its
        // `as_raw_fd` returns that one each time. It is not moved out of the `AsyncFd`.
        let inotify = unsafe { AsyncFd::register(Inotify::init()?)? };
        Ok(Self { inotify, watches: BTreeMap::new() })
    }

    /// Watches these folders from now on, and no others. Returns those that cannot be watched.
    ///
    /// A folder that is watched already is watched anew, since another one may have its path now.
    pub(crate) fn watch(&mut self, folders: &BTreeSet<PathBuf>) -> Vec<(PathBuf, io::Error)> {
        let mut refused = Vec::new();
        let mut watches = BTreeMap::new();
        for folder in folders {
            match self.inotify.get_ref().watches().add(folder, mask()) {
                Ok(watch) => {
                    watches.insert(folder.clone(), watch);
                }
                Err(error) => refused.push((folder.clone(), error)),
            }
        }
        let kept: BTreeSet<i32> =
            watches.values().map(WatchDescriptor::get_watch_descriptor_id).collect();
        for (_, watch) in std::mem::replace(&mut self.watches, watches) {
            if !kept.contains(&watch.get_watch_descriptor_id()) {
                // Fails if the folder is gone, and its watch with it.
                let _ = self.inotify.get_ref().watches().remove(watch);
            }
        }
        refused
    }

    /// Waits until a watched folder changes.
    pub(crate) async fn changed(&mut self) -> io::Result<()> {
        loop {
            let mut ready = self.inotify.readable_mut().await?;
            // Before the events are taken: what comes later makes it ready again.
            ready.clear_ready();
            if self.take()? {
                return Ok(());
            }
        }
    }

    /// Takes all events that have arrived. Returns true if there was one of a folder.
    fn take(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 4096];
        let mut has_changed = false;
        loop {
            match self.inotify.get_mut().read_events(&mut buffer) {
                // A watch that was removed has a last event.
                Ok(mut events) => {
                    has_changed |= events.any(|event| event.mask != EventMask::IGNORED);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(has_changed),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Returns the folders in which a change may lead `path` to another file: those that hold a link on
/// the way, and the one that holds the file. If the way ends early, that is the last one there is.
pub(crate) fn folders_on_the_way(path: &Path) -> BTreeSet<PathBuf> {
    let mut folders = BTreeSet::new();
    let Ok(path) = std::path::absolute(path) else { return folders };
    let mut rest: VecDeque<OsString> = names(&path);
    let (mut at, mut link_count) = (PathBuf::from("/"), 0);
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            at.pop();
            continue;
        }
        let full = at.join(&name);
        match std::fs::read_link(&full) {
            Ok(target) if link_count < LINK_COUNT_MAX => {
                link_count += 1;
                folders.insert(at.clone());
                for name in names(&target).into_iter().rev() {
                    rest.push_front(name);
                }
                if target.is_absolute() {
                    at = PathBuf::from("/");
                }
            }
            _ if rest.is_empty() || !full.is_dir() => {
                folders.insert(at);
                break;
            }
            _ => at = full,
        }
    }
    folders
}

/// Returns the names in a path, with "..", and without the root and ".".
fn names(path: &Path) -> VecDeque<OsString> {
    let parts = path
        .components()
        .filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    parts.map(|part| part.as_os_str().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        (folder, path)
    }

    #[test]
    fn every_folder_with_a_link_is_on_the_way() {
        let (_folder, root) = folder();
        for made in ["live", "archive/site", "kubernetes/..1"] {
            fs::create_dir_all(root.join(made)).unwrap();
        }
        // As certbot does it: two links, of which one is relative and goes up.
        fs::write(root.join("archive/site/chain1.pem"), "1").unwrap();
        symlink("../archive/site", root.join("live/site")).unwrap();
        symlink("chain1.pem", root.join("archive/site/chain.pem")).unwrap();
        let expected = ["live", "archive/site"].map(|name| root.join(name));
        assert_eq!(folders_on_the_way(&root.join("live/site/chain.pem")), expected.into());
        // As Kubernetes does it.
        fs::write(root.join("kubernetes/..1/tls.crt"), "1").unwrap();
        symlink("..1", root.join("kubernetes/..data")).unwrap();
        symlink("..data/tls.crt", root.join("kubernetes/tls.crt")).unwrap();
        let expected = ["kubernetes", "kubernetes/..1"].map(|name| root.join(name));
        assert_eq!(folders_on_the_way(&root.join("kubernetes/tls.crt")), expected.into());
        // Absolute links, files that are missing, circles.
        symlink(root.join("archive"), root.join("live/all")).unwrap();
        let expected = ["live", "archive/site"].map(|name| root.join(name));
        assert_eq!(folders_on_the_way(&root.join("live/all/site/none.pem")), expected.into());
        let expected = [root.join("archive")];
        assert_eq!(folders_on_the_way(&root.join("archive/none/none.pem")), expected.into());
        symlink("circle", root.join("circle")).unwrap();
        assert_eq!(folders_on_the_way(&root.join("circle")), [root.clone()].into());
    }

    #[tokio::test]
    async fn changes_in_watched_folders_are_reported() {
        let (_folder, root) = folder();
        let (one, two) = (root.join("one"), root.join("two"));
        fs::create_dir(&one).unwrap();
        fs::create_dir(&two).unwrap();
        let mut watch = FolderWatch::new().unwrap();
        let missing = root.join("missing");
        let refused = watch.watch(&[one.clone(), missing.clone()].into());
        assert_eq!(refused.len(), 1);
        assert_eq!((&refused[0].0, refused[0].1.kind()), (&missing, io::ErrorKind::NotFound));
        assert!(!watch.take().unwrap());
        fs::write(one.join("a"), "1").unwrap();
        assert!(watch.take().unwrap() && !watch.take().unwrap());
        fs::write(two.join("a"), "1").unwrap();
        assert!(!watch.take().unwrap());
        // What is not watched any more is not reported, nor is the end of its watch.
        assert!(watch.watch(&[two.clone()].into()).is_empty());
        fs::write(one.join("b"), "1").unwrap();
        assert!(!watch.take().unwrap());
        symlink("a", two.join("new")).unwrap();
        fs::rename(two.join("new"), two.join("link")).unwrap();
        assert!(watch.take().unwrap());
        // Another folder of the same name.
        fs::rename(&two, root.join("old")).unwrap();
        fs::create_dir(&two).unwrap();
        assert!(watch.take().unwrap());
        assert!(watch.watch(&[two.clone()].into()).is_empty());
        fs::write(two.join("c"), "1").unwrap();
        watch.changed().await.unwrap();
        assert!(!watch.take().unwrap());
    }
}
