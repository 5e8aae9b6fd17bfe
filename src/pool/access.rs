//! The program's access to slots under AddressSanitizer (`scripts/asan`): it may touch a slot only
//! while it owns it. A slot that is free or in the kernel is forbidden, and so is the rest of a
//! region. The kernel's own accesses are not checked.
//!
//! In all other builds these functions do nothing.

#[cfg(ringway_asan)]
use std::ffi::{c_int, c_void};

#[cfg(ringway_asan)]
unsafe extern "C" {
    fn __asan_poison_memory_region(start: *const c_void, len: usize);
    fn __asan_unpoison_memory_region(start: *const c_void, len: usize);
    fn __asan_address_is_poisoned(address: *const c_void) -> c_int;
}

/// Makes every access to these bytes an error that ends the process.
#[inline(always)]
pub(super) fn forbid(start: *mut u8, len: usize) {
    #[cfg(ringway_asan)]
    // SAFETY: the sanitizer only marks the bytes, in memory of its own. They are whole slots or a
    // whole region, so no other allocation shares the granules of eight bytes that it marks.
    unsafe {
        __asan_poison_memory_region(start.cast(), len);
    }
    let _ = (start, len);
}

/// Reverses [`forbid`].
#[inline(always)]
pub(super) fn permit(start: *mut u8, len: usize) {
    #[cfg(ringway_asan)]
    // SAFETY: as in `forbid`.
    unsafe {
        __asan_unpoison_memory_region(start.cast(), len);
    }
    let _ = (start, len);
}

/// Runs `access`, in which a test's kernel accesses the slot at `address`, or a test looks into a
/// slot that is forbidden to the program.
#[cfg(test)]
pub(crate) fn as_kernel<T>(address: *const u8, access: impl FnOnce() -> T) -> T {
    let slot = super::region::locate(address.addr());
    let slot = slot.map(|(region, index)| region.slot(index)).filter(|slot| is_forbidden(*slot));
    if let Some(slot) = slot {
        permit(slot, crate::limits::SLOT_LEN);
    }
    let accessed = access();
    if let Some(slot) = slot {
        forbid(slot, crate::limits::SLOT_LEN);
    }
    accessed
}

#[cfg(test)]
fn is_forbidden(slot: *mut u8) -> bool {
    #[cfg(ringway_asan)]
    // SAFETY: the sanitizer only looks the address up.
    return unsafe { __asan_address_is_poisoned(slot.cast()) != 0 };
    #[cfg(not(ringway_asan))]
    {
        let _ = slot;
        false
    }
}
