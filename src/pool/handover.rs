//! Slots on their way between the program and the kernel. Each value is the slot's one owner;
//! moving it into the next is the hand-over.
//!
//! ```text
//!   Pool::lease --> Lease --into_bytes_mut--> BytesMut --drop--> free
//!                     | provide      ^   ^
//!                     v      reclaim |   | complete(filled_len)
//!                   Provided --------+---+                          the kernel writes
//!
//!   Pool::lease_vec --> Vec<u8> --send--> InKernel --complete--> Vec<u8> --drop--> free
//! ```
//!
//! While the kernel has a slot, the owning `BytesMut` or `Vec<u8>` lies inside the value, where
//! nobody can reach it: no reference to its bytes exists, and the kernel works through an address
//! that was taken before. A value that is dropped without its completion keeps its slot for good
//! (the kernel may still write it): a leak that the counts show, never a reuse.

use std::marker::PhantomData;
use std::mem::ManuallyDrop;

use bytes::BytesMut;

use super::region::Region;
use super::slots::{Event, SlotId};
use crate::limits::SLOT_LEN;
use crate::planted::{Bug, is_planted};

/// Which slot, of which region. Not `Send`: only the region's thread may change a slot's state.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) region: &'static Region,
    pub(super) id: SlotId,
    here: PhantomData<*const ()>,
}

impl Place {
    pub(super) fn new(region: &'static Region, id: SlotId) -> Self {
        Self { region, id, here: PhantomData }
    }

    fn hand_over(&self, event: Event) {
        let mut slots = self.region.slots().expect(
            "a slot changes hands on the thread of its pool, while that exists, and never while \
             another one does",
        );
        if let Err(refused) = slots.hand_over(self.id, event) {
            panic!("a slot is handed over in its turn: {refused:?}");
        }
    }
}

/// A slot of ours, empty. Dropped, it is free again.
#[derive(Debug)]
#[must_use]
pub struct Lease {
    buf: BytesMut,
    place: Place,
}

impl Lease {
    pub(super) fn new(buf: BytesMut, place: Place) -> Self {
        Self { buf, place }
    }

    /// The slot as a buffer: empty, with all of its [`SLOT_LEN`] bytes as capacity. The slot is
    /// free again when the last piece of it is dropped, on whichever thread.
    pub fn into_bytes_mut(self) -> BytesMut {
        self.buf
    }

    /// The slot's first byte.
    pub fn address(&self) -> *const u8 {
        self.buf.as_ptr()
    }

    /// Lets the kernel have the slot, to write it.
    pub(super) fn provide(mut self) -> Provided {
        let address = self.buf.spare_capacity_mut().as_mut_ptr().cast();
        self.place.hand_over(Event::Provide);
        Provided { buf: ManuallyDrop::new(self.buf), address, place: self.place }
    }
}

/// A slot that the kernel may write at any time.
#[derive(Debug)]
#[must_use = "dropped, its slot is lost: it ends by `complete` or `reclaim`"]
pub struct Provided {
    buf: ManuallyDrop<BytesMut>,
    address: *mut u8,
    place: Place,
}

impl Provided {
    /// The slot's first byte; [`SLOT_LEN`] may be written from there.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// The slot's place in its region: a buffer ring can name it by that.
    pub fn index(&self) -> u16 {
        self.place.id.index as u16
    }

    /// The kernel has written `filled_len` bytes: they are ours to read.
    ///
    /// # Safety
    ///
    /// The kernel has written the first `filled_len` bytes from [`Self::address`], and it writes no
    /// more to the slot.
    pub unsafe fn complete(self, filled_len: usize) -> BytesMut {
        assert!(filled_len <= SLOT_LEN, "the kernel fills no more than a slot");
        let mut buf = self.reclaim().into_bytes_mut();
        // SAFETY: within the capacity, and the caller vouches that these bytes are written.
        unsafe { buf.set_len(filled_len) };
        buf
    }

    /// Takes the slot back with nothing in it: it was never given away after all, or the kernel has
    /// been told to let go of it and has. Whoever passed [`Self::address`] on keeps that promise.
    pub fn reclaim(self) -> Lease {
        self.place.hand_over(Event::TakeBack);
        Lease { buf: ManuallyDrop::into_inner(self.buf), place: self.place }
    }
}

/// A slot whose bytes the kernel reads.
#[derive(Debug)]
#[must_use = "dropped, its slot is lost: it ends by `complete`"]
pub struct InKernel {
    bytes: ManuallyDrop<Vec<u8>>,
    place: Place,
}

impl InKernel {
    pub(super) fn new(bytes: Vec<u8>, place: Place) -> Self {
        place.hand_over(Event::Send);
        if is_planted(Bug::EarlySlotRelease) {
            place.hand_over(Event::Sent);
        }
        Self { bytes: ManuallyDrop::new(bytes), place }
    }

    /// The first byte to send.
    pub fn address(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    /// Returns the number of bytes to send.
    #[cfg(test)]
    pub(crate) fn filled_len(&self) -> usize {
        self.bytes.len()
    }

    /// The kernel has read it for the last time (a zero-copy send: it has notified so): the batch
    /// is ours again, to be dropped, sent once more, or filled anew.
    pub fn complete(self) -> Vec<u8> {
        self.place.hand_over(Event::Sent);
        ManuallyDrop::into_inner(self.bytes)
    }
}
