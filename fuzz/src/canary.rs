//! The upstream's bytes as in `http1_response`, with a bug planted in the decoder: the last byte of
//! each piece of a body that ends with its connection is lost. A fuzzer that does not find this
//! finds nothing.

use ringway::testing::internal::planted::{Bug, plant};

use super::http1_response;

/// # Panics
///
/// Once the input shows the bug.
pub fn run(input: &[u8]) {
    // The bug is removed after a panic too, for the caller's next target.
    struct Planted;
    impl Drop for Planted {
        fn drop(&mut self) {
            plant(None);
        }
    }
    plant(Some(Bug::DroppedTailByte));
    let _planted = Planted;
    http1_response::run(input);
}
