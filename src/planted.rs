//! Bugs that can be planted, so that a test can show that the simulator or the witness of copies
//! finds them.
//!
//! Each stands where its real sister would: one condition at the place that it names. They exist in
//! builds with debug assertions only; in a release [`is_planted`] is `false` to the compiler and
//! nothing of them is left. docs/decisions/planted-bugs.md has the reasons.

/// A bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A slot is ours again while the kernel still reads it. (Not freed: the pool would see the
    /// writes to free memory and abort the process, as it should.)
    EarlySlotRelease,
    /// A response that ends without further bytes is not ended.
    LostFin,
    /// The head of a response with interim responses is sent twice.
    DoubleResponse,
    /// A key finds whoever has its place now.
    StaleKey,
    /// An upstream is read on although the client takes nothing.
    WrongCredit,
    /// Responses of one client, and of all, wait without a bound but each one's own.
    BoundlessResponses,
    /// The last byte of a piece that ends with its connection is dropped.
    DroppedTailByte,
    /// A connection is kept although bytes of its request are still to come.
    PooledDirtyConnection,
    /// A response that breaks off looks whole.
    TruncatedAsCleanEnd,
    /// A client whose body was held back is not told to go on.
    ForgottenBodyRoom,
    /// An exchange in the queue stays when its client leaves.
    LeakedExchange,
    /// An exchange that is cut off is logged twice.
    DoubleRecord,
    /// A request that was cut off is ended cleanly towards the upstream.
    CutRequestLooksWhole,
    /// The body of a request is moved off its slot, and the ledger is not told.
    CopiedBody,
    /// A completion that comes too late finds the operation that has its place now.
    StaleOpKey,
    /// A batch that is sent without a copy is ours again while the device still reads it.
    EarlyBatchReturn,
}

impl Bug {
    /// Those that change what a client or an origin sees, or the books: the simulator's to find.
    pub const SIMULATED: [Self; 13] = [
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
        Self::CutRequestLooksWhole,
    ];

    /// Those in the ring: for its own simulation to find.
    pub const IN_THE_RING: [Self; 2] = [Self::StaleOpKey, Self::EarlyBatchReturn];
}

#[cfg(debug_assertions)]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// Plants `bug` in everything that runs on this thread from now on, or takes it out again.
#[cfg(debug_assertions)]
pub fn plant(bug: Option<Bug>) {
    PLANTED.set(bug);
}

/// Plants on this thread the bug that the environment names: for tests that need a process of the
/// gateway. What cannot be seen from outside of one has no name here.
///
/// # Panics
///
/// If `RINGWAY_PLANT` names no such bug.
#[cfg(debug_assertions)]
pub fn plant_from_environment() {
    match std::env::var("RINGWAY_PLANT").as_deref() {
        Err(std::env::VarError::NotPresent) => {}
        Ok("copied-body") => plant(Some(Bug::CopiedBody)),
        other => panic!("RINGWAY_PLANT names no bug: {other:?}"),
    }
}

/// A release does not look there.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub fn plant_from_environment() {}

/// No bug can be planted in a release.
#[cfg(not(debug_assertions))]
pub fn plant(bug: Option<Bug>) {
    assert_eq!(bug, None, "bugs are planted in builds with debug assertions only");
}

/// Whether `bug` is planted on this thread.
#[cfg(debug_assertions)]
#[inline]
pub(crate) fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Never, in a release.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn is_planted(_: Bug) -> bool {
    false
}
