//! Untrusted text of a request, as a log line shows it.

/// Longest text in bytes; longer ones are cut. Longer paths are attacks or mistakes, and lines of
/// 64 KiB do not help to tell which.
pub(crate) const LOGGED_LEN_MAX: usize = 2048;

/// A copy of some text of a request, cut at [`LOGGED_LEN_MAX`].
///
/// The text itself is a slice of the whole decoded head, which may be much longer. A record of the
/// access log may wait for its writer, and must not keep that memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedText {
    kept: Box<[u8]>,
    cut_len: usize,
}

impl LoggedText {
    pub fn new(text: &[u8]) -> Self {
        let end = kept_len(text);
        Self { kept: text[..end].into(), cut_len: text.len() - end }
    }

    /// Copies the start of a text of which `cut_len` bytes more were not read.
    pub(crate) fn of_start(start: &[u8], cut_len: usize) -> Self {
        let logged = Self::new(start);
        Self { cut_len: logged.cut_len.saturating_add(cut_len), ..logged }
    }

    /// Returns the text up to the cut: raw bytes, to be escaped by the writer of the log.
    pub fn as_bytes(&self) -> &[u8] {
        &self.kept
    }

    /// Returns the number of bytes that were cut off.
    pub fn cut_len(&self) -> usize {
        self.cut_len
    }
}

/// Returns the number of bytes to keep. A UTF-8 character is not divided: its continuation bytes
/// begin with 0b10.
fn kept_len(text: &[u8]) -> usize {
    if text.len() <= LOGGED_LEN_MAX {
        return text.len();
    }
    let begins = |at: &usize| text[*at] & 0b1100_0000 != 0b1000_0000;
    (LOGGED_LEN_MAX - 3..=LOGGED_LEN_MAX).rev().find(begins).unwrap_or(LOGGED_LEN_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        let parts = |text: &str| {
            let logged = LoggedText::new(text.as_bytes());
            (logged.as_bytes().len(), logged.cut_len())
        };
        assert_eq!(parts(""), (0, 0));
        assert_eq!(parts(&"a".repeat(LOGGED_LEN_MAX)), (LOGGED_LEN_MAX, 0));
        assert_eq!(parts(&"a".repeat(65_536)), (LOGGED_LEN_MAX, 65_536 - LOGGED_LEN_MAX));
        // A character of two bytes lies across the cut: it goes as a whole.
        let text = format!("{}\u{e9}{}", "a".repeat(LOGGED_LEN_MAX - 1), "b".repeat(100));
        assert_eq!(parts(&text), (LOGGED_LEN_MAX - 1, 102));
        // Bytes that are no UTF-8 are cut all the same.
        let text = vec![0x80; 2 * LOGGED_LEN_MAX];
        assert_eq!(LoggedText::new(&text).as_bytes().len(), LOGGED_LEN_MAX);
    }
}
