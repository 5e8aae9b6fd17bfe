//! Trials of files that the process would open, which leave nothing behind.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::inotify::folders_on_the_way;
use crate::account::UserIds;

/// Returns an error if this process could not open the file to append to it, or make it if it does
/// not exist. Neither happens: the file keeps its content, and none is made.
pub(crate) fn try_append(path: &Path) -> io::Result<()> {
    // Opening a FIFO would wait for its reader.
    let opened = OpenOptions::new().append(true).custom_flags(libc::O_NONBLOCK).open(path);
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
            may_make_files_in(folder.unwrap_or(Path::new(".")))
        }
        outcome => outcome.map(drop),
    }
}

/// Returns the folder or file that keeps a user from reading the file at `path`, or from watching
/// the folders of links on the way; `None` if nothing does. Only modes are looked at: lists of
/// access rules may permit what these do not.
pub(crate) fn obstacle(path: &Path, user: UserIds) -> Option<PathBuf> {
    let folders = folders_on_the_way(path);
    for folder in &folders {
        let mut above: Vec<&Path> = folder.ancestors().skip(1).collect();
        above.reverse();
        let closed = above.into_iter().find(|above| !permits(above, user, 0o1));
        let closed = closed.or_else(|| (!permits(folder, user, 0o5)).then_some(folder.as_path()));
        if let Some(closed) = closed {
            return Some(closed.to_owned());
        }
    }
    (!permits(path, user, 0o4)).then(|| path.to_owned())
}

/// Returns whether the mode of a file gives a user these bits of `rwx`.
fn permits(path: &Path, user: UserIds, wanted: u32) -> bool {
    let Ok(file) = std::fs::metadata(path) else { return true };
    let shift = match file {
        _ if file.uid() == user.uid => 6,
        _ if file.gid() == user.gid => 3,
        _ => 0,
    };
    (file.mode() >> shift) & wanted == wanted
}

/// Returns an error if this process may not make files in the folder, or if it is on a file system
/// that is mounted read-only.
fn may_make_files_in(folder: &Path) -> io::Result<()> {
    if !std::fs::metadata(folder)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let folder = CString::new(folder.as_os_str().as_bytes())?;
    let mode = libc::W_OK | libc::X_OK;
    // SAFETY: the path ends in a zero and is live for the call.
    match unsafe { libc::faccessat(libc::AT_FDCWD, folder.as_ptr(), mode, libc::AT_EACCESS) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trial_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.log");
        try_append(&path).unwrap();
        assert!(!path.exists());
        std::fs::write(&path, "line\n").unwrap();
        try_append(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "line\n");
    }

    #[test]
    fn the_first_obstacle_is_named() {
        use std::fs::{Permissions, create_dir, set_permissions, write};
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().canonicalize().unwrap();
        let (closed, key) = (root.join("archive"), root.join("archive/key.pem"));
        create_dir(&closed).unwrap();
        write(&key, "").unwrap();
        std::os::unix::fs::symlink(&key, root.join("link.pem")).unwrap();
        let set = |path: &Path, mode| set_permissions(path, Permissions::from_mode(mode)).unwrap();
        let (own, gid) = std::fs::metadata(&key).map(|file| (file.uid(), file.gid())).unwrap();
        let user = |uid, gid| UserIds { uid, gid };
        let (member, stranger) = (user(own + 1, gid), user(own + 1, gid + 1));
        for (root_mode, folder_mode, key_mode, user, expected) in [
            (0o755, 0o755, 0o644, stranger, None),
            (0o755, 0o755, 0o640, stranger, Some(&key)),
            (0o755, 0o755, 0o640, member, None),
            (0o755, 0o750, 0o640, stranger, Some(&closed)),
            (0o755, 0o750, 0o640, member, None),
            (0o755, 0o710, 0o640, member, Some(&closed)),
            (0o700, 0o750, 0o640, member, Some(&root)),
            (0o750, 0o750, 0o640, member, None),
            (0o700, 0o700, 0o600, user(own, gid + 1), None),
        ] {
            set(&root, root_mode);
            set(&closed, folder_mode);
            set(&key, key_mode);
            for path in [&key, &root.join("link.pem")] {
                let found = obstacle(path, user);
                // A link is not a file of its own.
                let expected = expected.map(|at| if *at == key { path } else { at });
                assert_eq!(found.as_ref(), expected, "{root_mode:o} {folder_mode:o} {key_mode:o}");
            }
        }
    }

    #[test]
    fn what_cannot_be_opened_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        std::fs::write(&file, "").unwrap();
        for (path, kind) in [
            (folder.path().join("none/a.log"), io::ErrorKind::NotFound),
            (folder.path().to_owned(), io::ErrorKind::IsADirectory),
            (file.join("a.log"), io::ErrorKind::NotADirectory),
        ] {
            assert_eq!(try_append(&path).unwrap_err().kind(), kind, "{}", path.display());
        }
    }
}
