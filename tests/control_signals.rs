//! Sends real signals to this process; alone in its file because signals affect every thread.

#![allow(clippy::unwrap_used, reason = "a test says by a panic that something is wrong")]

use std::fs::File;
use std::process::Command as Program;
use std::time::Duration;

use ringway::testing::internal::control::{
    ACCESS_BATCH_COUNT_MAX, Control, ControlSettings, ExitReason, Links, ShutdownSettings,
};
use ringway::testing::internal::worker::mailbox::{Command, WorkerEvent, WorkerOutcome, mailbox};
use ringway::testing::{clocks, snapshot};
use tokio::sync::mpsc;

fn kill(signal: &str) {
    let own = std::process::id().to_string();
    let status = Program::new("kill").args(["-s", signal, &own]).status().unwrap();
    assert!(status.success());
}

/// Waits until this process has a handler for the last of the signals.
fn wait_until_caught() {
    const USR2: u32 = 12;
    let is_caught = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap();
        u64::from_str_radix(caught.trim(), 16).unwrap() >> (USR2 - 1) & 1 == 1
    };
    for _ in 0..1000 {
        if is_caught() {
            return;
        }
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("signals are not caught");
}

#[test]
fn quit_starts_a_drain_and_other_signals_are_not_fatal() {
    let settings = ControlSettings {
        admin: None,
        admin_required: true,
        access: None,
        log_owner: None,
        shutdown: ShutdownSettings {
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(10),
            stop_timeout: Duration::from_secs(8),
        },
        invitation: None,
        version: "0.0.1",
        clock: clocks,
    };
    let control = Control::prepare(settings).unwrap();
    let (access, access_receiver) = mpsc::channel(ACCESS_BATCH_COUNT_MAX);
    let (events, event_receiver) = mpsc::unbounded_channel();
    let wake = File::options().write(true).open("/dev/null").unwrap();
    let (sender, theirs) = mailbox(wake, access);
    let worker = std::thread::spawn(move || {
        events.send(WorkerEvent::Accepting { worker: 0 }).unwrap();
        wait_until_caught();
        // Signals without a meaning yet are caught and not fatal. The Rust runtime ignores PIPE.
        for signal in ["HUP", "USR1", "USR2", "PIPE"] {
            kill(signal);
        }
        kill("QUIT");
        let command = theirs.commands.recv().unwrap();
        let Command::Drain { deadline } = command else { panic!("expected a drain") };
        let left = deadline - clocks().0;
        assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(10), "{left:?}");
        let outcome = WorkerOutcome::Finished;
        events.send(WorkerEvent::Ended { worker: 0, outcome }).unwrap();
    });
    let links = Links {
        workers: vec![sender],
        access: access_receiver,
        events: event_receiver,
        running: snapshot(),
        source: None,
    };
    let reason = control.run(links).unwrap();
    worker.join().unwrap();
    assert_eq!(reason, ExitReason::Drained);
}
