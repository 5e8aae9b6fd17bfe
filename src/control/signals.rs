//! Signals, in the terms of nginx. SIGPIPE needs nothing here: Rust programs start with it ignored,
//! so that a closed pipe is an error of the write.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Input;

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// TERM, INT: end now.
    Stop,
    /// QUIT: finish what has begun, then end.
    Drain,
    /// A signal that will get a meaning.
    Unsupported(&'static str),
}

/// Every signal that is caught.
const SIGNALS: [(fn() -> SignalKind, Signal); 6] = [
    (SignalKind::terminate, Signal::Stop),
    (SignalKind::interrupt, Signal::Stop),
    (SignalKind::quit, Signal::Drain),
    (SignalKind::hangup, Signal::Unsupported("SIGHUP (reload)")),
    (SignalKind::user_defined1, Signal::Unsupported("SIGUSR1 (reopen logs)")),
    (SignalKind::user_defined2, Signal::Unsupported("SIGUSR2 (upgrade)")),
];

/// Catches all of them from now on; each arrives at `inputs`.
pub(super) fn catch(inputs: &mpsc::UnboundedSender<Input>) -> io::Result<()> {
    for (kind, meaning) in SIGNALS {
        let mut stream = signal(kind())?;
        let inputs = inputs.clone();
        tokio_uring::spawn(async move {
            while stream.recv().await.is_some() {
                if inputs.send(Input::Signal(meaning)).is_err() {
                    return;
                }
            }
        });
    }
    Ok(())
}
