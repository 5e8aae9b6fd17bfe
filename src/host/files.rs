//! Trials of files that the process would open, which leave nothing behind.

use std::ffi::CString;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

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
