//! The ends of streams in the frames of the output (RFC 9113 4.1).
//!
//! `h2` does not report when a frame has been written. So the headers of the frames are read as
//! they pass by; payloads are skipped by their length.

use std::collections::VecDeque;

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const CONTINUATION: u8 = 0x9;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;
const HEADER_LEN: usize = 9;

/// A reader of frames that notes where streams end.
#[derive(Debug, Default)]
pub(super) struct StreamEnds {
    /// The header of the current frame, as far as it has been read.
    header: [u8; HEADER_LEN],
    header_len: usize,
    /// Bytes of its payload that have not been read.
    payload_left: usize,
    /// A field section ends its stream, and has not been read whole.
    ends_with_section: bool,
    /// Bytes read so far.
    position: u64,
    /// Streams that have ended, each with the position behind its last byte.
    ends: VecDeque<(u64, u32)>,
}

impl StreamEnds {
    /// Reads the next bytes of the output.
    pub(super) fn read(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let is_header = self.header_len < HEADER_LEN;
            let left = if is_header { HEADER_LEN - self.header_len } else { self.payload_left };
            let (part, rest) = bytes.split_at(left.min(bytes.len()));
            bytes = rest;
            self.position += part.len() as u64;
            if is_header {
                self.header[self.header_len..][..part.len()].copy_from_slice(part);
                self.header_len += part.len();
                let [high, middle, low, ..] = self.header;
                self.payload_left = u32::from_be_bytes([0, high, middle, low]) as usize;
            } else {
                self.payload_left -= part.len();
            }
            if self.header_len == HEADER_LEN && self.payload_left == 0 {
                self.end_frame();
            }
        }
    }

    /// Takes the streams that have ended within the first `len` bytes.
    pub(super) fn take_until(&mut self, len: u64) -> Vec<u32> {
        let count = self.ends.partition_point(|(position, _)| *position <= len);
        self.ends.drain(..count).map(|(_, stream)| stream).collect()
    }

    fn end_frame(&mut self) {
        self.header_len = 0;
        let [_, _, _, kind, flags, high, .., low] = self.header;
        let stream = u32::from_be_bytes([high & 0x7f, self.header[6], self.header[7], low]);
        let ends_stream = match kind {
            DATA => flags & END_STREAM != 0,
            HEADERS => {
                self.ends_with_section = flags & END_STREAM != 0;
                self.ends_with_section && flags & END_HEADERS != 0
            }
            CONTINUATION => self.ends_with_section && flags & END_HEADERS != 0,
            _ => false,
        };
        if ends_stream {
            self.ends.push_back((self.position, stream));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, stream: u32, len: usize) -> Vec<u8> {
        let length = u32::try_from(len).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags], &stream.to_be_bytes(), &vec![0xff; len]].concat()
    }

    /// Each frame with the stream that it ends, if it ends one.
    fn frames() -> Vec<(Vec<u8>, Option<u32>)> {
        vec![
            (frame(4, 0, 0, 36), None),
            (frame(HEADERS, END_HEADERS, 1, 20), None),
            (frame(DATA, 0, 1, 300), None),
            // Padding and priority are other flags.
            (frame(HEADERS, END_HEADERS | END_STREAM | 0x28, 3, 7), Some(3)),
            (frame(DATA, END_STREAM, 1, 0), Some(1)),
            (frame(HEADERS, END_STREAM, 5, 10), None),
            (frame(CONTINUATION, 0, 5, 1), None),
            (frame(CONTINUATION, END_HEADERS, 5, 0), Some(5)),
            (frame(HEADERS, 0, 7, 10), None),
            (frame(CONTINUATION, END_HEADERS, 7, 5), None),
            // The flag has another meaning here.
            (frame(6, 1, 0, 8), None),
            (frame(DATA, END_STREAM, 0x7fff_ffff, 70_000), Some(0x7fff_ffff)),
        ]
    }

    #[test]
    fn an_end_is_found_behind_the_last_byte_of_its_frame() {
        let (mut bytes, mut expected) = (Vec::new(), Vec::new());
        for (frame, end) in frames() {
            bytes.extend(frame);
            expected.extend(end.map(|stream| (bytes.len() as u64, stream)));
        }
        for piece_len in [1, 2, 8, 9, 10, 1000, bytes.len()] {
            let mut ends = StreamEnds::default();
            bytes.chunks(piece_len).for_each(|piece| ends.read(piece));
            for (position, stream) in &expected {
                assert_eq!(ends.take_until(position - 1), [0_u32; 0], "pieces of {piece_len}");
                assert_eq!(ends.take_until(*position), [*stream], "pieces of {piece_len}");
            }
            assert_eq!(ends.take_until(u64::MAX), [0_u32; 0]);
        }
    }
}
