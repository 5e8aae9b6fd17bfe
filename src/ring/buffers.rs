//! Buffer rings: slots that the kernel may fill, a group for datagrams and one for streams.
//!
//! A group is a ring of entries in memory shared with the kernel. We write entries and then advance
//! the tail, once per turn; the kernel takes entries in order and reports a filled one by its id.
//! The ids of the two groups do not overlap, so an id alone identifies the group.

use std::io;
use std::sync::atomic::{AtomicU16, Ordering};

use bytes::BytesMut;
use io_uring::types::BufRingEntry;
use memmap2::MmapMut;

use crate::limits::SLOT_LEN;
use crate::planted::{Bug, is_planted};
#[cfg(test)]
use crate::pool::as_kernel;
use crate::pool::{Pool, Provided};

/// The most slots that a group provides.
pub(super) const PROVIDED_MAX: u16 = 1024;

/// A group and all slots that it has provided to the kernel.
pub(super) struct BufferGroup {
    id: u16,
    first_buffer_id: u16,
    /// Number of slots to keep provided.
    target: u16,
    /// Length of the header before the payload, which the kernel writes only in parts.
    header_len: usize,
    provided: Vec<Option<Provided>>,
    free_ids: Vec<u16>,
    tail: u16,
    is_dirty: bool,
    /// The entries; never moved, and freed only after the kernel's ring.
    memory: MmapMut,
}

impl BufferGroup {
    pub(super) fn new(id: u16, target: u16, header_len: usize) -> io::Result<BufferGroup> {
        let target = target.clamp(1, PROVIDED_MAX);
        let entries = target.next_power_of_two();
        let memory = MmapMut::map_anon(usize::from(entries) * size_of::<BufRingEntry>())?;
        Ok(BufferGroup {
            id,
            first_buffer_id: id * PROVIDED_MAX,
            target,
            header_len,
            provided: (0..entries).map(|_| None).collect(),
            free_ids: (0..entries).rev().collect(),
            tail: 0,
            is_dirty: false,
            memory,
        })
    }

    pub(super) fn id(&self) -> u16 {
        self.id
    }

    pub(super) fn entry_count(&self) -> u16 {
        self.provided.len() as u16
    }

    /// Returns the page-aligned address of the entries, for their registration.
    pub(super) fn address(&self) -> u64 {
        self.memory.as_ptr().expose_provenance() as u64
    }

    pub(super) fn provided_count(&self) -> u16 {
        self.entry_count() - self.free_ids.len() as u16
    }

    /// Provides free slots up to a quarter of the target, whatever the pool's state. The kernel
    /// sees them only after [`publish`](Self::publish).
    pub(super) fn fill_floor(&mut self, pool: &Pool) {
        self.fill_to(self.target.div_ceil(4), pool, |_| true);
    }

    /// Provides slots up to the target while the pool is not low: its last slots are for sends,
    /// which free slots.
    pub(super) fn fill(&mut self, pool: &Pool) {
        self.fill_to(self.target, pool, |pool| !pool.is_low());
    }

    fn fill_to(&mut self, wanted: u16, pool: &Pool, may: impl Fn(&Pool) -> bool) {
        while self.provided_count() < wanted && may(pool) {
            let Some(mut lease) = pool.lease() else { return };
            // The kernel leaves gaps in a header (after the address and the control data). Reading
            // them later yields zeros, never another owner's bytes or uninitialized memory.
            lease.zero(self.header_len);
            let id = self.free_ids.pop().expect("fewer are provided than there are entries");
            let provided = pool.provide(lease);
            self.write_entry(provided.address(), self.first_buffer_id + id);
            self.provided[usize::from(id)] = Some(provided);
        }
    }

    /// Makes the provided slots visible to the kernel with one store.
    pub(super) fn publish(&mut self) {
        if self.is_dirty {
            self.is_dirty = false;
            // SAFETY: `memory` begins with the ring's first entry, whose reserved field is the
            // tail; it is aligned, lives as long as self, and the kernel only reads it.
            let tail = unsafe {
                let first: *mut BufRingEntry = self.memory.as_mut_ptr().cast();
                AtomicU16::from_ptr(BufRingEntry::tail(first).cast_mut())
            };
            tail.store(self.tail, Ordering::Release);
        }
    }

    /// Returns the slot that a completion names by `buffer_id`, if it is of this group.
    pub(super) fn take(&mut self, buffer_id: u16) -> Option<Provided> {
        let id = buffer_id.checked_sub(self.first_buffer_id)?;
        let provided = self.provided.get_mut(usize::from(id))?.take()?;
        self.free_ids.push(id);
        Some(provided)
    }

    /// Takes all slots back.
    ///
    /// # Safety
    ///
    /// The kernel no longer uses them: the caller has unregistered the group, and no operation that
    /// selects from it is in flight.
    pub(super) unsafe fn reclaim_all(&mut self) {
        for (id, provided) in self.provided.iter_mut().enumerate() {
            if let Some(provided) = provided.take() {
                drop(provided.reclaim());
                self.free_ids.push(id as u16);
            }
        }
    }

    #[cfg(test)]
    pub(super) fn first_id(&self) -> u16 {
        self.first_buffer_id
    }

    #[cfg(test)]
    pub(super) fn provided_ids(&self) -> Vec<u16> {
        let ids = self.first_buffer_id..self.first_buffer_id + self.entry_count();
        ids.zip(&self.provided).filter(|(_, slot)| slot.is_some()).map(|(id, _)| id).collect()
    }

    /// Returns the first bytes of a provided slot before the kernel writes there.
    #[cfg(test)]
    pub(super) fn read_slot(&self, buffer_id: u16, len: usize) -> Vec<u8> {
        let place = usize::from(buffer_id - self.first_buffer_id);
        let address = self.provided[place].as_ref().expect("it is provided").address();
        assert!(len <= self.header_len);
        // SAFETY: a header's bytes were written when the slot was provided, and no kernel has it.
        as_kernel(address, || unsafe { std::slice::from_raw_parts(address, len) }.to_vec())
    }

    /// Writes a provided slot, as the kernel does.
    #[cfg(test)]
    pub(super) fn write_slot(&mut self, buffer_id: u16, bytes: &[u8]) {
        let place = usize::from(buffer_id - self.first_buffer_id);
        let address = self.provided[place].as_ref().expect("it is provided").address();
        assert!(bytes.len() <= SLOT_LEN);
        // SAFETY: the slot is provided, so nobody else refers to its bytes, and it is long enough.
        as_kernel(address, || unsafe {
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), address, bytes.len());
        });
    }

    fn write_entry(&mut self, address: *mut u8, buffer_id: u16) {
        let index = usize::from(self.tail & (self.entry_count() - 1));
        let first: *mut BufRingEntry = self.memory.as_mut_ptr().cast();
        // SAFETY: `index` is below the number of entries, for which `memory` was made. The kernel
        // reads an entry only once the tail is beyond it. The setters leave the first entry's
        // reserved field, the tail, alone.
        unsafe {
            let entry = &mut *first.add(index);
            // Exposed: the kernel writes through a pointer that it makes of this number.
            entry.set_addr(address.expose_provenance() as u64);
            entry.set_len(SLOT_LEN as u32);
            entry.set_bid(buffer_id);
        }
        self.tail = self.tail.wrapping_add(1);
        self.is_dirty = true;
    }
}

/// Takes the first `len` bytes of a slot that the kernel has filled and named in a completion.
pub(super) fn filled(provided: Provided, len: usize) -> BytesMut {
    if is_planted(Bug::EarlyRead) {
        // SAFETY: the completion has named the slot, so that nobody writes it. All that this
        // violates is the rule that a slot is taken back first.
        unsafe { provided.address().read_volatile() };
    }
    // SAFETY: the completion said that the slot is filled up to `len` bytes from its beginning;
    // what the kernel left out of a header was written when the slot was provided. A slot that a
    // completion named is no longer in the buffer ring.
    unsafe { provided.complete(len) }
}
