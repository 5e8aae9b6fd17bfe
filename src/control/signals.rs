//! Signals, with the same meaning as in nginx but for TERM. SIGPIPE is ignored by the Rust runtime
//! already, so a closed pipe is an error of the write.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::Input;

/// Meaning of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Signal {
    /// INT: close all connections and exit.
    Stop,
    /// TERM: finish exchanges in flight, for as long as supervisors usually wait, then exit.
    Terminate,
    /// QUIT: finish exchanges in flight, then exit.
    Drain,
    /// USR1: open log files again.
    Reopen,
    /// HUP: reload the configuration.
    Reload,
    /// A signal whose meaning in nginx is not supported yet.
    Unsupported(&'static str),
}

/// All signals that are caught.
const SIGNALS: [(fn() -> SignalKind, Signal); 6] = [
    (SignalKind::terminate, Signal::Terminate),
    (SignalKind::interrupt, Signal::Stop),
    (SignalKind::quit, Signal::Drain),
    (SignalKind::hangup, Signal::Reload),
    (SignalKind::user_defined1, Signal::Reopen),
    (SignalKind::user_defined2, Signal::Unsupported("SIGUSR2 (upgrade)")),
];

/// Starts to catch all of them, and sends them to `inputs`.
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
