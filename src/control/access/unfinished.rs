//! The line that a file has taken a part of: a full disk and a signal cut lines in the middle. The
//! rest goes first when the file takes bytes again, so that no two lines run into each other.

/// The end of a line whose beginning is in the file.
#[derive(Debug, Default)]
pub(super) struct UnfinishedLine {
    rest: Vec<u8>,
}

/// Lines by their fate. One that is unfinished is neither.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Lines {
    pub(super) written: u64,
    pub(super) dropped: u64,
}

impl UnfinishedLine {
    /// Returns the bytes to write: the rest of the unfinished line, then `lines`. To be followed by
    /// [`Self::end`].
    pub(super) fn begin(&mut self, lines: Vec<u8>) -> Vec<u8> {
        if self.rest.is_empty() {
            return lines;
        }
        [self.rest.as_slice(), &lines].concat()
    }

    /// Takes in that the file took the first `taken_len` of these bytes and no more. Returns the
    /// lines whose fate is known by that.
    pub(super) fn end(&mut self, bytes: &[u8], taken_len: usize) -> Lines {
        let (taken, left) = bytes.split_at(taken_len);
        let is_inside = match taken.last() {
            Some(last) => *last != b'\n',
            None => !self.rest.is_empty(),
        };
        let end = left.iter().position(|byte| *byte == b'\n').map_or(left.len(), |at| at + 1);
        let (rest, dropped) = left.split_at(if is_inside { end } else { 0 });
        self.rest = rest.to_vec();
        Lines { written: count(taken), dropped: count(dropped) }
    }

    /// Gives the unfinished line up.
    pub(super) fn give_up(&mut self) -> Lines {
        let dropped = u64::from(!std::mem::take(&mut self.rest).is_empty());
        Lines { written: 0, dropped }
    }
}

fn count(bytes: &[u8]) -> u64 {
    bytes.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every way in which a file takes three chunks, none of them or all in part: the file holds
    /// whole lines but for its last one, in order, and the counts are those of the file.
    #[test]
    fn wherever_a_write_is_cut_lines_stay_whole_and_are_counted_once() {
        let chunks = ["a1\nb22\n", "c\n", "d4444\ne5\n"];
        let len_max = chunks.iter().map(|chunk| chunk.len()).sum::<usize>();
        let room = 0..=len_max;
        for first in room.clone() {
            for second in room.clone() {
                let (mut file, mut lines) = (Vec::new(), Lines::default());
                let mut unfinished = UnfinishedLine::default();
                for (chunk, room) in chunks.iter().zip([first, second, len_max]) {
                    let bytes = unfinished.begin(chunk.as_bytes().to_vec());
                    let taken_len = room.min(bytes.len());
                    file.extend_from_slice(&bytes[..taken_len]);
                    let settled = unfinished.end(&bytes, taken_len);
                    lines.written += settled.written;
                    lines.dropped += settled.dropped;
                }
                assert_eq!(unfinished.give_up(), Lines::default(), "the last was written whole");
                let text = String::from_utf8(file).unwrap();
                assert!(text.is_empty() || text.ends_with('\n'), "{text:?}");
                let whole: Vec<&str> = chunks.iter().flat_map(|chunk| chunk.lines()).collect();
                let found: Vec<&str> = text.lines().collect();
                assert!(found.is_sorted() && found.iter().all(|line| whole.contains(line)));
                assert_eq!(lines.written, found.len() as u64, "{first}, {second}: {text:?}");
                assert_eq!(lines.written + lines.dropped, 5, "{first}, {second}");
            }
        }
    }

    #[test]
    fn a_line_that_is_never_finished_is_dropped() {
        let mut unfinished = UnfinishedLine::default();
        let bytes = unfinished.begin(b"one\ntwo\nthree\n".to_vec());
        assert_eq!(unfinished.end(&bytes, 5), Lines { written: 1, dropped: 1 });
        let bytes = unfinished.begin(Vec::new());
        assert_eq!(bytes, b"wo\n");
        assert_eq!(unfinished.end(&bytes, 0), Lines::default());
        assert_eq!(unfinished.give_up(), Lines { written: 0, dropped: 1 });
    }
}
