//! Slots in transfer between the program and the kernel. Each value is the slot's only owner;
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
//! While the kernel has a slot, the owning `BytesMut` or `Vec<u8>` is inside the value, where no
//! code can reach it: no reference to its bytes exists, and the kernel works through an address
//! that was taken before. A value that is dropped without its completion leaks its slot (the kernel
//! may still write it): the counts show that, and the slot is never reused.

use std::marker::PhantomData;
use std::mem::{ManuallyDrop, MaybeUninit};

use bytes::BytesMut;

use super::access;
use super::region::Region;
use super::slots::{Event, SlotId};
use crate::limits::SLOT_LEN;
use crate::planted::{Bug, is_planted};

/// The slot of a value, and its region. Not `Send`: only the region's thread may change a slot's
/// state.
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
        let slot = self.region.slot(self.id.index);
        match event {
            Event::Provide | Event::Send => access::forbid(slot, SLOT_LEN),
            Event::TakeBack | Event::Sent => access::permit(slot, SLOT_LEN),
            // Not a transfer between the program and the kernel: the allocator's business.
            Event::Lease | Event::Release => {}
        }
    }
}

/// An empty slot that the program owns. Dropping it frees the slot.
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

    /// Returns the slot as an empty buffer with a capacity of all its [`SLOT_LEN`] bytes. The slot
    /// is freed when the last piece of it is dropped, on any thread.
    pub fn into_bytes_mut(self) -> BytesMut {
        self.buf
    }

    /// Returns the address of the slot's first byte.
    pub fn address(&self) -> *const u8 {
        self.buf.as_ptr()
    }

    /// Fills the first `len` bytes of the slot with zeros.
    pub(crate) fn zero(&mut self, len: usize) {
        self.buf.spare_capacity_mut()[..len].fill(MaybeUninit::new(0));
    }

    /// Hands the slot to the kernel for writing.
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
    /// Returns the address of the slot's first byte; [`SLOT_LEN`] bytes may be written from there.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// Returns the slot's index in its region, which serves as the id in a buffer ring.
    pub fn index(&self) -> u16 {
        self.place.id.index as u16
    }

    /// Takes the slot back with the `filled_len` bytes that the kernel has written.
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

    /// Takes the slot back empty: it was never submitted, or the kernel has released it. Code that
    /// passes [`Self::address`] on must ensure that.
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

    /// Returns the address of the first byte to send.
    pub fn address(&self) -> *const u8 {
        self.bytes.as_ptr()
    }

    #[cfg(test)]
    pub(crate) fn filled_len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the batch back after the kernel has read it for the last time (for a zero-copy send,
    /// after its notification).
    pub fn complete(self) -> Vec<u8> {
        self.place.hand_over(Event::Sent);
        ManuallyDrop::into_inner(self.bytes)
    }
}
