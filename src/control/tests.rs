//! The control thread, with workers that are threads which only read their mailbox.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;

use super::*;
use crate::metrics::WorkerReport;
use crate::testing::{clocks, snapshot};
use crate::worker::mailbox::{Mailbox, WorkerOutcome, mailbox};

fn settings(admin: Option<AdminAddress>) -> ControlSettings {
    ControlSettings {
        admin,
        admin_required: true,
        access: None,
        log_owner: None,
        shutdown: ShutdownSettings {
            lame_duck: Duration::ZERO,
            drain_timeout: Duration::from_secs(20),
            stop_timeout: Duration::from_secs(8),
        },
        invitation: None,
        version: "0.0.1",
        clock: clocks,
    }
}

fn free_port() -> Option<AdminAddress> {
    Some(AdminAddress::Tcp("127.0.0.1:0".parse().unwrap()))
}

/// The behaviour of a test's worker.
#[derive(Clone, Copy, PartialEq)]
enum Habit {
    /// Carries out every command.
    Good,
    /// Does not end when told to drain.
    Stays,
    /// Accepts commands and does nothing.
    Hangs,
    /// Fails when it is told to report.
    Fails,
    /// Refuses each configuration.
    Refuses,
}

/// Starts a worker's thread, which accepts connections once `accept` receives.
fn worker(
    index: u16,
    habit: Habit,
    mailbox: Mailbox,
    events: mpsc::UnboundedSender<WorkerEvent>,
    accept: std_mpsc::Receiver<()>,
) {
    let (mut drains, mut generation, mut replies) = (0, 1, Vec::new());
    let mut outcome = WorkerOutcome::Finished;
    std::thread::spawn(move || {
        if accept.recv().is_ok() {
            let _ = events.send(WorkerEvent::Accepting { worker: index });
        }
        for command in &mailbox.commands {
            match (command, habit) {
                (Command::Report(_), Habit::Fails) => {
                    outcome = WorkerOutcome::Failed("told to".to_owned());
                    break;
                }
                // Keeps the sender, so that the response never comes.
                (Command::Report(reply), Habit::Hangs) => replies.push(reply),
                (_, Habit::Hangs) => {}
                (Command::Report(reply), _) => {
                    let mut report = WorkerReport { worker: index, ..WorkerReport::default() };
                    report.counters.worker.loop_turns = 7 + u64::from(index);
                    report.counters.worker.commands = drains;
                    report.generation = generation;
                    let _ = reply.send(Box::new(report));
                }
                (Command::Drain { .. }, Habit::Stays) => drains += 1,
                (Command::Drain { .. } | Command::Stop, _) => break,
                (Command::Apply { done, .. }, Habit::Refuses) => {
                    let _ = done.send(Err("told to".to_owned()));
                }
                (Command::Apply { snapshot, done }, _) => {
                    generation = snapshot.generation;
                    let _ = done.send(Ok(()));
                }
                (Command::Panic | Command::LoseSend | Command::KeepBuffers, _) => {}
            }
        }
        let _ = events.send(WorkerEvent::Ended { worker: index, outcome });
    });
}

/// A running control thread with its workers.
struct Bench {
    admin: Option<AdminAddress>,
    inputs: mpsc::UnboundedSender<Input>,
    events: mpsc::UnboundedSender<WorkerEvent>,
    accepts: Vec<std_mpsc::Sender<()>>,
    access: mpsc::Sender<AccessBatch>,
    thread: JoinHandle<ExitReason>,
}

impl Bench {
    fn start(settings: ControlSettings, habits: &[Habit]) -> Bench {
        Bench::with_source(settings, habits, None)
    }

    fn with_source(
        settings: ControlSettings,
        habits: &[Habit],
        source: Option<Box<dyn Source>>,
    ) -> Bench {
        let (access, access_receiver) = mpsc::channel(ACCESS_BATCH_COUNT_MAX);
        let (events, event_receiver) = mpsc::unbounded_channel();
        let mut mailboxes = Vec::new();
        let mut accepts = Vec::new();
        for (index, habit) in (0..).zip(habits) {
            let (sender, theirs) = test_mailbox(&access);
            let (accept, accepted) = std_mpsc::channel();
            worker(index, *habit, theirs, events.clone(), accepted);
            mailboxes.push(sender);
            accepts.push(accept);
        }
        let (tell, told) = std_mpsc::channel();
        let thread = std::thread::spawn(move || {
            let control = Control::prepare(settings).unwrap();
            tell.send((control.admin_address(), control.sender.clone())).unwrap();
            let links = Links {
                workers: mailboxes,
                access: access_receiver,
                events: event_receiver,
                running: snapshot(),
                source,
            };
            control.run(links).unwrap()
        });
        let (admin, inputs) = told.recv().unwrap();
        Bench { admin, inputs, events, accepts, access, thread }
    }

    fn started(habits: &[Habit]) -> Bench {
        let bench = Bench::start(settings(free_port()), habits);
        bench.accepts.iter().for_each(|accept| accept.send(()).unwrap());
        bench.wait_for("/readyz", "HTTP/1.1 200");
        bench
    }

    fn signal(&self, signal: Signal) {
        self.inputs.send(Input::Signal(signal)).unwrap();
    }

    fn end(self) -> ExitReason {
        drop((self.access, self.events));
        self.thread.join().unwrap()
    }

    fn tcp(&self) -> SocketAddr {
        let Some(AdminAddress::Tcp(address)) = self.admin else { panic!("no TCP address") };
        address
    }

    /// Returns the complete response to a request that closes its connection.
    fn ask(&self, method: &str, path: &str) -> String {
        let stream = TcpStream::connect(self.tcp()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        ask_by(stream, method, path)
    }

    fn wait_for(&self, path: &str, start: &str) {
        let begun = clocks().0;
        while !self.ask("GET", path).starts_with(start) {
            assert!(begun.elapsed() < Duration::from_secs(10), "{path} never returned {start}");
        }
    }
}

fn test_mailbox(access: &mpsc::Sender<AccessBatch>) -> (MailboxSender, Mailbox) {
    let wake = File::options().write(true).open("/dev/null").unwrap();
    mailbox(wake, access.clone())
}

fn ask_by(mut stream: impl Read + Write, method: &str, path: &str) -> String {
    let request = format!("{method} {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

#[test]
fn the_process_is_ready_when_all_workers_accept_and_not_while_draining() {
    let bench = Bench::start(settings(free_port()), &[Habit::Good, Habit::Stays]);
    assert!(bench.ask("GET", "/healthz").starts_with("HTTP/1.1 200"));
    let response = bench.ask("GET", "/readyz");
    assert!(response.starts_with("HTTP/1.1 503") && response.ends_with("not accept: 0, 1\n"));
    bench.accepts[0].send(()).unwrap();
    bench.accepts[1].send(()).unwrap();
    bench.wait_for("/readyz", "HTTP/1.1 200");
    bench.signal(Signal::Drain);
    bench.wait_for("/readyz", "HTTP/1.1 503");
    assert!(bench.ask("GET", "/readyz").ends_with("draining\n"));
    assert!(bench.ask("GET", "/healthz").starts_with("HTTP/1.1 200"), "still alive");
    // A second QUIT changes nothing; TERM cuts the drain short.
    bench.signal(Signal::Drain);
    assert!(bench.ask("GET", "/metrics").contains("ringway_draining 1\n"));
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn a_scraper_that_asks_for_plain_text_gets_it() {
    let bench = Bench::started(&[Habit::Good]);
    // The path ends the request line, so that a field follows.
    let response = bench.ask("GET", "/metrics HTTP/1.1\r\naccept: text/plain\r\nx:");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: text/plain; version=0.0.4;"), "{head}");
    assert!(body.contains("# TYPE ringway_worker_loop_turns_total counter\n"), "{body}");
    assert!(!body.contains("# EOF"), "{body}");
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn metrics_come_from_every_worker() {
    let bench = Bench::started(&[Habit::Good, Habit::Good]);
    let response = bench.ask("GET", "/metrics");
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    assert!(head.contains("content-type: application/openmetrics-text; version=1.0.0;"), "{head}");
    for line in [
        "ringway_worker_loop_turns_total{worker=\"0\"} 7\n",
        "ringway_worker_loop_turns_total{worker=\"1\"} 8\n",
        "ringway_worker_up{worker=\"0\"} 1\n",
        "ringway_build_info{version=\"0.0.1\"} 1\n",
        "ringway_draining 0\n",
    ] {
        assert!(body.contains(line), "{line}");
    }
    assert!(body.ends_with("# EOF\n"));
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn a_worker_that_hangs_is_reported_as_down_and_does_not_delay_the_others() {
    let bench = Bench::started(&[Habit::Hangs, Habit::Good]);
    let begun = clocks().0;
    let response = bench.ask("GET", "/metrics");
    let waited = begun.elapsed();
    assert!((1..5).contains(&waited.as_secs()), "{waited:?}");
    assert!(response.contains("ringway_worker_up{worker=\"0\"} 0\n"), "{response}");
    assert!(response.contains("ringway_worker_up{worker=\"1\"} 1\n"), "{response}");
    assert!(response.contains("ringway_worker_loop_turns_total{worker=\"1\"} 8\n"));
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::WorkersHang);
}

#[test]
fn a_worker_that_is_lost_drains_the_others_and_ends_the_process() {
    let bench = Bench::started(&[Habit::Fails, Habit::Stays]);
    assert!(bench.ask("GET", "/metrics").contains("ringway_worker_up{worker=\"0\"} 0\n"));
    bench.wait_for("/readyz", "HTTP/1.1 503");
    assert!(bench.ask("GET", "/readyz").ends_with("draining\n"));
    // The other worker has time to finish: it was told once to drain, and not to stop.
    let drains = "ringway_worker_commands_total{worker=\"1\"} 1\n";
    assert!(bench.ask("GET", "/metrics").contains(drains));
    bench.signal(Signal::Drain);
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
    let bench = Bench::started(&[Habit::Good, Habit::Fails]);
    bench.ask("GET", "/metrics");
    assert_eq!(bench.end(), ExitReason::WorkerLost);
}

#[test]
fn a_worker_that_fails_in_a_drain_changes_nothing() {
    let bench = Bench::started(&[Habit::Stays, Habit::Stays]);
    bench.signal(Signal::Drain);
    bench.wait_for("/readyz", "HTTP/1.1 503");
    let outcome = WorkerOutcome::Failed("told to".to_owned());
    bench.events.send(WorkerEvent::Ended { worker: 0, outcome }).unwrap();
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn a_worker_that_restarts_is_not_ready_until_it_accepts() {
    let bench = Bench::started(&[Habit::Good, Habit::Good]);
    bench.wait_for("/readyz", "HTTP/1.1 200");
    bench.events.send(WorkerEvent::Restarting { worker: 1 }).unwrap();
    bench.wait_for("/readyz", "HTTP/1.1 503");
    bench.events.send(WorkerEvent::Accepting { worker: 1 }).unwrap();
    bench.wait_for("/readyz", "HTTP/1.1 200");
    bench.signal(Signal::Drain);
    assert_eq!(bench.end(), ExitReason::Drained);
}

#[test]
fn the_process_ends_when_no_worker_is_left() {
    let bench = Bench::started(&[Habit::Fails]);
    bench.ask("GET", "/metrics");
    assert_eq!(bench.end(), ExitReason::WorkersGone);
    // The same if a thread vanishes without an event.
    let (access, receiver) = mpsc::channel(1);
    let (events, event_receiver) = mpsc::unbounded_channel();
    let (sender, _theirs) = test_mailbox(&access);
    drop((events, access));
    let control = Control::prepare(settings(None)).unwrap();
    let links = Links {
        workers: vec![sender],
        access: receiver,
        events: event_receiver,
        running: snapshot(),
        source: None,
    };
    let reason = control.run(links).unwrap();
    assert_eq!(reason, ExitReason::WorkersGone);
}

#[test]
fn a_drain_ends_at_its_deadline() {
    let mut quick = settings(free_port());
    quick.shutdown.drain_timeout = Duration::ZERO;
    let bench = Bench::start(quick, &[Habit::Stays, Habit::Good]);
    bench.accepts.iter().for_each(|accept| accept.send(()).unwrap());
    bench.signal(Signal::Drain);
    assert_eq!(bench.end(), ExitReason::Drained);
}

#[test]
fn a_lame_duck_is_not_ready_and_its_workers_go_on() {
    let mut patient = settings(free_port());
    patient.shutdown.lame_duck = Duration::from_millis(600);
    let bench = Bench::start(patient, &[Habit::Good]);
    bench.accepts[0].send(()).unwrap();
    bench.wait_for("/readyz", "HTTP/1.1 200");
    bench.signal(Signal::Drain);
    bench.wait_for("/readyz", "HTTP/1.1 503");
    // A worker that had been told to drain would have ended, and could not report.
    assert!(bench.ask("GET", "/metrics").contains("ringway_worker_up{worker=\"0\"} 1"));
    assert!(bench.ask("GET", "/healthz").starts_with("HTTP/1.1 200"));
    assert_eq!(bench.end(), ExitReason::Drained);
}

#[test]
fn a_second_stop_ends_the_process_at_once() {
    let bench = Bench::started(&[Habit::Hangs]);
    let begun = clocks().0;
    bench.signal(Signal::Unsupported("SIGUSR2 (upgrade)"));
    bench.signal(Signal::Stop);
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::WorkersHang);
    assert!(begun.elapsed() < shutdown::STOP_TIMEOUT);
}

#[test]
fn the_admin_endpoint_refuses_other_paths_and_methods() {
    let bench = Bench::started(&[Habit::Good]);
    assert!(bench.ask("GET", "/").starts_with("HTTP/1.1 404"));
    let response = bench.ask("POST", "/metrics");
    assert!(response.starts_with("HTTP/1.1 405") && response.contains("allow: GET, HEAD\r\n"));
    let response = bench.ask("HEAD", "/healthz");
    assert!(response.starts_with("HTTP/1.1 200") && response.ends_with("\r\n\r\n"), "{response}");
    let response = bench.ask("GET", &format!("/{}", "a".repeat(10_000)));
    assert!(response.starts_with("HTTP/1.1 4"), "{response}");
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn silent_connections_do_not_block_probes() {
    let bench = Bench::started(&[Habit::Good]);
    let silent: Vec<_> = (0..40).map(|_| TcpStream::connect(bench.tcp()).unwrap()).collect();
    assert!(bench.ask("GET", "/healthz").starts_with("HTTP/1.1 200"));
    drop(silent);
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn a_unix_socket_is_private_and_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("admin.sock");
    let address = AdminAddress::Unix(path.clone());
    // A socket left behind by a killed process is replaced.
    drop(UnixListener::bind(&path).unwrap());
    let bench = Bench::start(settings(Some(address.clone())), &[Habit::Good]);
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let response = ask_by(UnixStream::connect(&path).unwrap(), "GET", "/healthz");
    assert!(response.starts_with("HTTP/1.1 200"), "{response}");
    // A socket in use is an error.
    let error = Control::prepare(settings(Some(address))).map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("admin.sock") && error.contains("another process"), "{error}");
    bench.accepts[0].send(()).unwrap();
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn an_admin_address_in_use_is_an_error_unless_it_is_optional() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = AdminAddress::Tcp(taken.local_addr().unwrap());
    let error = Control::prepare(settings(Some(address.clone()))).map(|_| ()).unwrap_err();
    assert!(matches!(error, ControlError::Admin(..)));
    assert!(error.to_string().contains("choose another admin.listen"), "{error}");
    let demo = ControlSettings { admin_required: false, ..settings(Some(address)) };
    assert_eq!(Control::prepare(demo).unwrap().admin_address(), None);
    let folder = tempfile::tempdir().unwrap();
    let plain = folder.path().join("file");
    std::fs::write(&plain, "precious").unwrap();
    let error = Control::prepare(settings(Some(AdminAddress::Unix(plain.clone()))));
    assert!(error.map(|_| ()).unwrap_err().to_string().contains("not a socket"));
    assert_eq!(std::fs::read_to_string(&plain).unwrap(), "precious");
}

#[test]
fn the_last_access_lines_are_written_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = AccessLog {
        target: crate::config::AccessTarget::File(path.clone()),
        format: crate::config::AccessFormat::Json,
    };
    let settings = ControlSettings { access: Some(log), ..settings(free_port()) };
    let bench = Bench::start(settings, &[Habit::Good]);
    bench.accepts[0].send(()).unwrap();
    bench.access.blocking_send(vec![record(), record()]).unwrap();
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
    assert_eq!(line_count(&path), 2);
}

mod reloads;

fn line_count(path: &Path) -> usize {
    std::fs::read_to_string(path).unwrap().lines().count()
}

fn record() -> crate::message::AccessRecord {
    crate::message::AccessRecord::new(
        clocks().0,
        crate::testing::sender("192.0.2.1:1".parse().unwrap()),
    )
}
