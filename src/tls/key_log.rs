//! The key log: secrets of connections, in the format of NSS that Wireshark and others read. It is
//! for debugging, so a write may block a worker.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, Once, PoisonError};

/// A file that each worker appends to, a line at a time.
#[derive(Debug)]
pub(super) struct KeyLog {
    file: Mutex<File>,
    failure: Once,
}

impl KeyLog {
    /// Opens the file to append to it. A new one is for its owner only.
    pub(super) fn open(path: &Path) -> io::Result<KeyLog> {
        let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path)?;
        Ok(KeyLog { file: Mutex::new(file), failure: Once::new() })
    }
}

impl rustls::KeyLog for KeyLog {
    fn log(&self, label: &str, client_random: &[u8], secret: &[u8]) {
        let line = format!("{label} {} {}\n", hex(client_random), hex(secret));
        // A line is written at once, or a panic in between has ended the worker that wrote it.
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(line.as_bytes()) {
            self.failure.call_once(|| tracing::error!("the key log cannot be written: {error}"));
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use rustls::KeyLog as _;

    use super::*;

    #[test]
    fn lines_are_appended_to_a_file_of_the_owner() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.log");
        for secret in [[0x0a, 0xff], [1, 2]] {
            let log = KeyLog::open(&path).unwrap();
            log.log("CLIENT_TRAFFIC_SECRET_0", &[0, 0x10], &secret);
        }
        let text = std::fs::read_to_string(&path).unwrap();
        let expected = "CLIENT_TRAFFIC_SECRET_0 0010 0aff\nCLIENT_TRAFFIC_SECRET_0 0010 0102\n";
        assert_eq!(text, expected);
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
