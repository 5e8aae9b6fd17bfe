//! The heap beside the slots, whichever it is.

use std::alloc::Layout;

use crate::pool::heap::{alloc, alloc_zeroed, dealloc, realloc};

#[test]
fn blocks_are_aligned_as_asked_and_keep_their_bytes() {
    for len in (1..200).chain([1 << 12, 100_000]) {
        for align in [1, 2, 4, 8, 16, 64, 4096] {
            let layout = Layout::from_size_align(len, align).unwrap();
            // SAFETY: no layout is empty; each block is written and read within its length,
            // resized and freed once, by the layout it has.
            unsafe {
                let block = alloc(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                block.write_bytes(7, len);
                let block = realloc(block, layout, 2 * len + 1);
                let longer = Layout::from_size_align(2 * len + 1, align).unwrap();
                assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                assert!((0..len).all(|at| block.add(at).read() == 7));
                dealloc(block, longer);
                let block = alloc_zeroed(layout);
                assert!(!block.is_null() && block.addr().is_multiple_of(align), "{layout:?}");
                assert!((0..len).all(|at| block.add(at).read() == 0));
                dealloc(block, layout);
            }
        }
    }
}
