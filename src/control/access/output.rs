//! The places where the access log goes: opening them at the start, again after a rotation, and for
//! a check.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, fchown};
use std::path::{Path, PathBuf};

use crate::account::UserIds;
use crate::config::{AccessFormat, AccessLog, AccessTarget};
use crate::host::files;

use super::super::ControlError;

/// An opened log whose writer has not started.
pub(in crate::control) struct Output {
    pub(super) format: AccessFormat,
    pub(super) target: Target,
}

pub(super) enum Target {
    Stdout,
    Stderr,
    File(PathBuf, File),
}

/// Opens the log. A file that did not exist is made for `owner`, the account that the process is
/// about to become, which has to open it again after a rotation.
pub(in crate::control) fn open(
    log: &AccessLog,
    owner: Option<UserIds>,
) -> Result<Output, ControlError> {
    let target = match &log.target {
        AccessTarget::Stdout => Target::Stdout,
        AccessTarget::Stderr => Target::Stderr,
        AccessTarget::File(path) => {
            let file = refuse_fifo(path).and_then(|()| open_file(path, owner));
            let file = file.map_err(|error| ControlError::AccessLog(path.clone(), error))?;
            Target::File(path.clone(), file)
        }
    };
    Ok(Output { format: log.format, target })
}

/// Returns the error that [`open`] would return. Leaves the file as it is.
pub(in crate::control) fn check(log: &AccessLog) -> Result<(), ControlError> {
    let AccessTarget::File(path) = &log.target else { return Ok(()) };
    let tried = refuse_fifo(path).and_then(|()| files::try_append(path));
    tried.map_err(|error| ControlError::AccessLog(path.clone(), error))
}

/// Opens the file by its path again.
pub(super) fn open_again(path: &Path) -> io::Result<File> {
    refuse_fifo(path)?;
    open_file(path, None)
}

/// Opening a FIFO blocks until it has a reader.
fn refuse_fifo(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo()) {
        let message = "it is a FIFO; set log.access.path to \"stdout\" and redirect that";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
    }
    Ok(())
}

fn open_file(path: &Path, owner: Option<UserIds>) -> io::Result<File> {
    // The addresses of clients are not for every user of this host.
    let mut options = OpenOptions::new();
    options.append(true).mode(0o640);
    let mut file = match options.create_new(true).open(path) {
        Ok(file) => {
            if let Some(UserIds { uid, gid }) = owner {
                fchown(&file, Some(uid), Some(gid))?;
            }
            return Ok(file);
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            options.create_new(false).create(true).open(path)?
        }
        Err(error) => return Err(error),
    };
    if ends_inside_a_line(path) {
        // If the disk is full, so is the next write, which counts its lines.
        let _ = file.write_all(b"\n");
    }
    Ok(file)
}

/// Returns whether the file's last line has no end: its writer was killed, or the disk was full. A
/// file that cannot be read is taken for whole.
fn ends_inside_a_line(path: &Path) -> bool {
    let is_file = std::fs::metadata(path).is_ok_and(|found| found.is_file());
    let last = || -> io::Result<u8> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::End(-1))?;
        let mut last = [0];
        file.read_exact(&mut last)?;
        Ok(last[0])
    };
    is_file && last().is_ok_and(|last| last != b'\n')
}
