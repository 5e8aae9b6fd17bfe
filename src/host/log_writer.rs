//! A log that never waits: a line is written if the file takes it at once, and dropped otherwise. A
//! worker that logs must not stand still because nobody reads the log.

use std::io::{self, Write};
use std::os::fd::AsRawFd;

/// Longest line, in bytes. A pipe that is ready takes this much without blocking (POSIX PIPE_BUF).
const LINE_LEN_MAX: usize = 4096;

/// Writes lines to `file`: each call of `write` is given one.
pub(crate) struct LogWriter<F> {
    file: F,
    /// Lines dropped since the last one that was written.
    dropped: u64,
}

impl<F: Write + AsRawFd> LogWriter<F> {
    pub(crate) fn new(file: F) -> Self {
        Self { file, dropped: 0 }
    }

    /// Returns true if a write does not block now. One to a pipe that is closed fails at once.
    fn is_ready(&self) -> bool {
        let (fd, events) = (self.file.as_raw_fd(), libc::POLLOUT);
        let mut descriptor = libc::pollfd { fd, events, revents: 0 };
        // SAFETY: the kernel writes to one pollfd, which outlives the call.
        unsafe { libc::poll(&raw mut descriptor, 1, 0) == 1 }
    }
}

impl<F: Write + AsRawFd> Write for LogWriter<F> {
    /// Writes one line, cut to 4,096 bytes, if the file takes it now. The first line after dropped
    /// ones says how many they were.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.dropped > 0 && self.is_ready() {
            let dropped = std::mem::take(&mut self.dropped);
            writeln!(self.file, "{dropped} lines of the log were dropped: nobody read it")?;
        }
        if self.dropped > 0 || !self.is_ready() {
            self.dropped += 1;
            return Ok(line.len());
        }
        match line.get(..LINE_LEN_MAX - 1) {
            Some(cut) => self.file.write_all(&[cut, b"\n"].concat())?,
            None => self.file.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
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
            log.write_all(format!("line {number} of a test that writes a lot\n").as_bytes())
                .unwrap();
        }
        let dropped = log.dropped;
        assert!((1..10_000).contains(&dropped), "{dropped}");
        let mut read = vec![0; 1 << 20];
        let len = reader.read(&mut read).unwrap();
        let whole = read[..len].iter().filter(|&&byte| byte == b'\n').count() as u64;
        assert_eq!(whole + dropped, 10_000);
        log.write_all(b"the next\n").unwrap();
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
        LogWriter::new(writer).write_all(&[b'x'; 10_000]).unwrap();
        let mut read = Vec::new();
        reader.read_to_end(&mut read).unwrap();
        assert_eq!((read.len(), read.last()), (LINE_LEN_MAX, Some(&b'\n')));
    }
}
