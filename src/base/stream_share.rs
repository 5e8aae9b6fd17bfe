//! The part of its request streams that each client may have open at once.

/// A part of the configured number of streams. All of it by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct StreamShare(u32);

/// All streams.
const WHOLE: u32 = 1 << 10;

impl Default for StreamShare {
    fn default() -> Self {
        Self(WHOLE)
    }
}

impl StreamShare {
    /// Returns this part of `count` streams, but one at least.
    pub(crate) fn of(self, count: u32) -> u32 {
        let part = u64::from(count) * u64::from(self.0) / u64::from(WHOLE);
        // Not more than `count`.
        (part as u32).max(1)
    }

    /// Returns half of it.
    pub(crate) fn halved(self) -> Self {
        Self((self.0 / 2).max(1))
    }

    /// Returns an eighth more of it.
    pub(crate) fn raised(self) -> Self {
        Self((self.0 + self.0.div_ceil(8)).min(WHOLE))
    }

    pub(crate) fn is_whole(self) -> bool {
        self.0 == WHOLE
    }

    /// Returns whether it can't be halved.
    pub(crate) fn is_least(self) -> bool {
        self.0 == 1
    }
}
