//! A log that never waits: a line is written if the file takes it at once, and dropped otherwise. A
//! worker that logs must not stand still because nobody reads the log.

use std::io::Write;
use std::os::fd::AsRawFd;

/// Longest line, in bytes. A pipe that is ready takes this much without blocking (POSIX PIPE_BUF).
const LINE_LEN_MAX: usize = 4096;

/// Lines written to `file`, to which nobody else in the process writes.
pub(crate) struct LogWriter<F> {
    file: F,
    /// Lines dropped since the last one that was written.
    dropped: u64,
}

impl<F: Write + AsRawFd> LogWriter<F> {
    pub(crate) fn new(file: F) -> Self {
        Self { file, dropped: 0 }
    }

    /// Writes one line, cut to 4,096 bytes, if the file takes it now. The first line after dropped
    /// ones says how many they were.
    pub(crate) fn write_line(&mut self, line: &[u8]) {
        if self.dropped > 0 && self.is_ready() {
            let dropped = std::mem::take(&mut self.dropped);
            self.write(
                format!("{dropped} lines of the log were dropped: nobody read it\n").as_bytes(),
            );
        }
        if self.dropped > 0 || !self.is_ready() {
            self.dropped += 1;
            return;
        }
        match line.get(..LINE_LEN_MAX - 1) {
            Some(cut) => self.write(&[cut, b"\n"].concat()),
            None => self.write(line),
        }
    }

    fn write(&mut self, bytes: &[u8]) {
        // A log that cannot be written has nobody to be told of it.
        let _ = self.file.write_all(bytes);
    }

    /// Returns true if a write does not block now. One to a pipe that is closed fails at once.
    fn is_ready(&self) -> bool {
        let (fd, events) = (self.file.as_raw_fd(), libc::POLLOUT);
        let mut descriptor = libc::pollfd { fd, events, revents: 0 };
        // SAFETY: the kernel writes to one pollfd, which outlives the call.
        unsafe { libc::poll(&raw mut descriptor, 1, 0) == 1 }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_log_that_nobody_reads_drops_lines_and_then_says_how_many() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        let mut log = LogWriter::new(writer);
        // More than a pipe holds: a write that blocks would never return.
        for number in 0..10_000 {
            log.write_line(format!("line {number} of a test that writes a lot\n").as_bytes());
        }
        let dropped = log.dropped;
        assert!((1..10_000).contains(&dropped), "{dropped}");
        let mut read = vec![0; 1 << 20];
        let len = reader.read(&mut read).unwrap();
        let whole = read[..len].iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(whole + dropped, 10_000);
        log.write_line(b"the next\n");
        drop(log);
        let mut rest = String::new();
        reader.read_to_string(&mut rest).unwrap();
        assert!(rest.ends_with(&format!(
            "{dropped} lines of the log were dropped: nobody read it\nthe next\n"
        )));
    }

    #[test]
    fn a_long_line_is_cut() {
        let (mut reader, writer) = std::io::pipe().unwrap();
        LogWriter::new(writer).write_line(&[b'x'; 10_000]);
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!((read.len(), read.last()), (LINE_LEN_MAX, Some(&b'\n')));
    }
}
