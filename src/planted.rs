//! Bugs that can be planted, so that tests can show that the simulator or the copy witness finds
//! them.
//!
//! Each is one condition where the real bug would be. They exist in builds with debug assertions
//! only: in a release [`is_planted`] is a constant `false`, and the compiler removes them. The
//! reasons are in docs/decisions/planted-bugs.md.

/// A bug that can be planted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A slot is reused while the kernel still reads it. (It is not freed: the pool would detect
    /// writes to free memory and abort the process, as it should.)
    EarlySlotRelease,
    /// A response that ends without further bytes is not finished.
    LostFin,
    /// The head of a response with interim responses is sent twice.
    DoubleResponse,
    /// A stale key finds the value that has its index now.
    StaleKey,
    /// An upstream is read although the client accepts nothing: no backpressure.
    WrongCredit,
    /// Only each response is bounded, not the responses of one client or of all.
    BoundlessResponses,
    /// The last byte of a piece that ends with its connection is dropped.
    DroppedTailByte,
    /// An upstream connection is kept for reuse although its request is not completely sent.
    PooledDirtyConnection,
    /// A truncated response looks complete.
    TruncatedAsCleanEnd,
    /// A request body that was paused is never resumed.
    ForgottenBodyRoom,
    /// A queued exchange stays when its client is gone.
    LeakedExchange,
    /// An exchange that is cut off is logged twice.
    DoubleRecord,
    /// A request that its client cancelled is logged and not counted.
    UncountedEnd,
    /// A request that was cut off is ended cleanly towards the upstream.
    CutRequestLooksWhole,
    /// A request body is copied off its slot without an entry in the ledger.
    CopiedBody,
    /// A late completion finds the operation that has its index now.
    StaleOpKey,
    /// The buffer of a zero-copy send is returned while the device still reads it.
    EarlyBatchReturn,
    /// A worker panics when its first request has ended.
    WorkerPanic,
    /// A received slot is read before it is taken back from the kernel. Only AddressSanitizer
    /// notices.
    EarlyRead,
}

impl Bug {
    /// The bugs that clients, origins or the books can notice, for the simulator to find.
    pub const SIMULATED: [Self; 14] = [
        Self::EarlySlotRelease,
        Self::LostFin,
        Self::DoubleResponse,
        Self::StaleKey,
        Self::WrongCredit,
        Self::BoundlessResponses,
        Self::DroppedTailByte,
        Self::PooledDirtyConnection,
        Self::TruncatedAsCleanEnd,
        Self::ForgottenBodyRoom,
        Self::LeakedExchange,
        Self::DoubleRecord,
        Self::UncountedEnd,
        Self::CutRequestLooksWhole,
    ];

    /// The bugs in the ring, for its own simulation to find.
    pub const IN_THE_RING: [Self; 2] = [Self::StaleOpKey, Self::EarlyBatchReturn];
}

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in all code that runs on this thread from now on, or removes the planted one.
#[cfg(debug_assertions)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Plants on this thread the bug that the environment names, for tests that run the gateway as a
/// process. Bugs that cannot be noticed from outside have no name here.
///
/// # Panics
///
/// If `RINGWAY_PLANT` names no such bug.
#[cfg(debug_assertions)]
pub(crate) fn plant_from_environment() {
    match std::env::var("RINGWAY_PLANT").as_deref() {
        Err(std::env::VarError::NotPresent) => {}
        Ok("copied-body") => plant(Some(Bug::CopiedBody)),
        Ok("worker-panic") => plant(Some(Bug::WorkerPanic)),
        other => panic!("RINGWAY_PLANT names no bug: {other:?}"),
    }
}

/// Does nothing in a release.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn plant_from_environment() {}

/// Panics in a release if `bug` is one.
#[cfg(not(debug_assertions))]
pub fn plant(bug: Option<Bug>) {
    assert_eq!(bug, None, "bugs are planted in builds with debug assertions only");
}

/// Returns whether `bug` is planted on this thread.
#[cfg(debug_assertions)]
#[inline]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Returns `false` in a release.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn is_planted(_: Bug) -> bool {
    false
}
