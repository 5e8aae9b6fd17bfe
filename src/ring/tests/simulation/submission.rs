//! Our memory that the kernel reads, by the layouts of linux/io_uring.h and of its sockets:
//! submissions, message headers, the entries of buffer rings. Also the byte pattern that both sides
//! can compute.

use std::net::SocketAddr;
use std::ptr::{with_exposed_provenance, with_exposed_provenance_mut};
use std::sync::OnceLock;

use io_uring::squeue;

use crate::host::address::SockAddr;
use crate::limits::SLOT_LEN;
use crate::pool::as_kernel;
use crate::ring::buffers::BufferGroup;

const _: () = assert!(size_of::<squeue::Entry>() == 64, "io_uring_sqe");

#[derive(Debug, Clone, Copy)]
pub(super) struct Submission {
    pub(super) opcode: u8,
    pub(super) file: u32,
    pub(super) offset: u64,
    pub(super) address: u64,
    pub(super) len: u32,
    pub(super) user_data: u64,
    /// One more than the place in the file table that the operation fills; 0 is none.
    file_place: u32,
}

impl Submission {
    pub(super) fn read(entry: &squeue::Entry) -> Submission {
        // SAFETY: an entry is the kernel's structure of 64 bytes, each of them initialised.
        let bytes: [u8; 64] = unsafe { std::mem::transmute_copy(entry) };
        let long = |at: usize| u64::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        let word = |at: usize| u32::from_ne_bytes(*bytes[at..].first_chunk().unwrap());
        Submission {
            opcode: bytes[0],
            file: word(4),
            offset: long(8),
            address: long(16),
            len: word(24),
            user_data: long(32),
            file_place: word(44),
        }
    }

    /// Returns the accept that it asks for.
    pub(super) fn accept(&self) -> Accept {
        let place = self.file_place.checked_sub(1).expect("clients go into the file table");
        Accept { listener: self.file, place, address: self.address, address_len: self.offset }
    }

    /// Returns whether the address that it points to is of no family.
    pub(super) fn names_no_address(&self) -> bool {
        // SAFETY: the op table holds the address, or it is a constant, and this is the moment of
        // submission. Every address begins with its family.
        let family = unsafe {
            with_exposed_provenance::<libc::sa_family_t>(self.address as usize).read_unaligned()
        };
        i32::from(family) == libc::AF_UNSPEC
    }

    /// Returns the message header that it points to.
    pub(super) fn message(&self) -> Message {
        // SAFETY: the op table holds the header and all that it points to until the completion,
        // and this is the moment of submission.
        unsafe {
            let header = &*with_exposed_provenance::<libc::msghdr>(self.address as usize);
            let vectors = std::slice::from_raw_parts(header.msg_iov, header.msg_iovlen);
            let control = match header.msg_controllen {
                0 => &[],
                len => std::slice::from_raw_parts(header.msg_control.cast::<u8>(), len),
            };
            Message {
                spans: vectors.iter().map(Span::of).collect(),
                segment_len: segment_len(control),
            }
        }
    }
}

/// An accept: the place to fill, and where the client's address goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Accept {
    pub(super) listener: u32,
    pub(super) place: u32,
    address: u64,
    address_len: u64,
}

impl Accept {
    /// Writes the client's address, as the kernel does.
    pub(super) fn write_client(&self, client: SocketAddr) {
        let client = SockAddr::from(client);
        let address = with_exposed_provenance_mut::<u8>(self.address as usize);
        let len = with_exposed_provenance_mut::<libc::socklen_t>(self.address_len as usize);
        // SAFETY: the op table holds both until the completion, which has not been posted, and
        // nobody else refers to them. The room is checked before it is written.
        unsafe {
            assert!(client.len() <= len.read(), "the address has room");
            address.copy_from_nonoverlapping(client.as_ptr().cast(), client.len() as usize);
            len.write(client.len());
        }
    }
}

/// Returns the segment length in the control data.
fn segment_len(mut control: &[u8]) -> Option<usize> {
    while control.len() >= 16 {
        let len = usize::from_ne_bytes(*control.first_chunk().unwrap());
        let number = |at: usize| i32::from_ne_bytes(*control[at..].first_chunk().unwrap());
        if (number(8), number(12)) == (libc::SOL_UDP, libc::UDP_SEGMENT) {
            return Some(usize::from(u16::from_ne_bytes(*control[16..].first_chunk().unwrap())));
        }
        control = control.get(len.next_multiple_of(8)..).unwrap_or(&[]);
    }
    None
}

/// The contents of a message header.
pub(super) struct Message {
    pub(super) spans: Vec<Span>,
    pub(super) segment_len: Option<usize>,
}

/// A span of our memory, as the kernel knows it: by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) address: u64,
    pub(super) len: usize,
}

impl Span {
    fn of(vector: &libc::iovec) -> Span {
        Span { address: vector.iov_base.expose_provenance() as u64, len: vector.iov_len }
    }

    pub(super) fn first(self, len: usize) -> Span {
        Span { len: self.len.min(len), ..self }
    }

    /// Returns the bytes as they are now.
    pub(super) fn read(self) -> Vec<u8> {
        let at = with_exposed_provenance::<u8>(self.address as usize);
        // SAFETY: spans are in the pool's region or in the table of bytes, both mapped for the life
        // of the process, and no other thread writes them while this one runs.
        as_kernel(at, || unsafe { std::slice::from_raw_parts(at, self.len) }.to_vec())
    }

    /// Writes `bytes` at its beginning.
    pub(super) fn write(self, bytes: &[u8]) {
        assert!(bytes.len() <= self.len, "the kernel writes within a buffer");
        let at = with_exposed_provenance_mut::<u8>(self.address as usize);
        // SAFETY: the slot was given to the kernel, so no reference to its bytes exists.
        as_kernel(at, || unsafe { at.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) });
    }
}

/// The kernel's side of a buffer ring.
#[derive(Debug, Default)]
pub(super) struct BufferView {
    head: u16,
}

impl BufferView {
    /// Returns the number of buffers that the kernel may still take.
    pub(super) fn len(&self, group: &BufferGroup) -> u16 {
        read_at::<u16>(group, 14).wrapping_sub(self.head)
    }

    /// Takes the next buffer. Returns its id and its memory.
    pub(super) fn take(&mut self, group: &BufferGroup) -> Option<(u16, Span)> {
        if self.len(group) == 0 {
            return None;
        }
        let entry = 16 * usize::from(self.head & (group.entry_count() - 1));
        self.head = self.head.wrapping_add(1);
        let len = read_at::<u32>(group, entry + 8) as usize;
        assert_eq!(len, SLOT_LEN, "an entry offers a whole slot");
        let span = Span { address: read_at::<u64>(group, entry), len };
        Some((read_at::<u16>(group, entry + 12), span))
    }
}

/// Reads a number in the shared memory of a group.
fn read_at<T: Copy>(group: &BufferGroup, offset: usize) -> T {
    let at = with_exposed_provenance::<u8>(group.address() as usize).wrapping_add(offset);
    // SAFETY: callers pass offsets of numbers within the entries, aligned for them, and ask for
    // integers.
    unsafe { at.cast::<T>().read() }
}

/// Period after which the bytes repeat.
const PERIOD: usize = 1 << 18;

/// Returns `len` bytes of a pattern that both sides can compute, from `position` on. Pieces at
/// different positions differ; at most five slots' bytes at a time.
pub(super) fn pattern(position: u64, len: usize) -> &'static [u8] {
    static TABLE: OnceLock<Vec<u8>> = OnceLock::new();
    let table = TABLE.get_or_init(|| {
        let mut state = 0x9e37_79b9_7f4a_7c15_u64;
        let mut table: Vec<u8> = (0..PERIOD)
            .map(|_| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                (state >> 32) as u8
            })
            .collect();
        // Long enough that no piece is split at the end of a period.
        table.extend_from_within(..);
        table.extend_from_within(..PERIOD);
        // Its address is given to the kernel.
        let _ = table.as_ptr().expose_provenance();
        table
    });
    &table[(position % PERIOD as u64) as usize..][..len]
}

/// Returns the position at which the bytes of a stream begin.
pub(super) fn origin(tag: u64) -> u64 {
    tag * 4_099
}
