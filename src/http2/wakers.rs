//! Wakers that note which streams have something to do, and whether the connection has.
//!
//! `h2` calls a stream's waker when bytes, a reset or send window came for it. So a turn looks at
//! the streams at which something happened, and never at all of them.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Wake, Waker};

/// The wakers' side of one connection.
#[derive(Debug)]
pub(super) struct Wakers {
    woken: Arc<Woken>,
    connection: Waker,
}

#[derive(Debug, Default)]
struct Woken {
    /// The connection itself has something to do: frames to write.
    connection: AtomicBool,
    /// Numbers of streams, each once. A waker has to be `Sync`, so this has a lock, which one
    /// thread takes and nobody waits for.
    streams: Mutex<VecDeque<u32>>,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.connection.store(true, Ordering::Relaxed);
    }
}

impl Wakers {
    pub(super) fn new() -> Self {
        let woken = Arc::new(Woken::default());
        Self { connection: Waker::from(Arc::clone(&woken)), woken }
    }

    /// Returns the waker of the connection.
    pub(super) fn connection(&self) -> Waker {
        self.connection.clone()
    }

    pub(super) fn is_connection_woken(&self) -> bool {
        self.woken.connection.load(Ordering::Relaxed)
    }

    pub(super) fn set_connection_woken(&self, is_woken: bool) {
        self.woken.connection.store(is_woken, Ordering::Relaxed);
    }

    /// Creates the waker of a stream.
    pub(super) fn of_stream(&self, stream: u32) -> StreamWaker {
        let note =
            Arc::new(StreamNote { stream, is_noted: AtomicBool::new(false), woken: self.woken() });
        StreamWaker { waker: Waker::from(Arc::clone(&note)), note }
    }

    /// Takes the number of a stream that was woken, in their order.
    pub(super) fn take_stream(&self) -> Option<u32> {
        self.woken.streams.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
    }

    fn woken(&self) -> Arc<Woken> {
        Arc::clone(&self.woken)
    }
}

/// The waker of one stream.
#[derive(Debug)]
pub(super) struct StreamWaker {
    pub(super) waker: Waker,
    note: Arc<StreamNote>,
}

impl StreamWaker {
    /// Forgets that the stream was woken. Called before it is looked at, so that what happens
    /// meanwhile is noted again.
    pub(super) fn rearm(&self) {
        self.note.is_noted.store(false, Ordering::Relaxed);
    }
}

#[derive(Debug)]
struct StreamNote {
    stream: u32,
    is_noted: AtomicBool,
    woken: Arc<Woken>,
}

impl Wake for StreamNote {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.is_noted.swap(true, Ordering::Relaxed) {
            let mut streams = self.woken.streams.lock().unwrap_or_else(PoisonError::into_inner);
            streams.push_back(self.stream);
        }
    }
}
