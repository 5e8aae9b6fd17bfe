//! Reloads, with a source that does as the test says.

use super::*;
use crate::config::AccessTarget;

/// The next results of the source, in order.
type Script = std_mpsc::Receiver<Result<Vec<&'static str>, Refusal>>;

struct Scripted(Script);

impl Source for Scripted {
    fn read(&mut self, running: &Snapshot) -> Result<Candidate, Refusal> {
        let changes = self.0.recv().expect("the test is not over")?;
        let mut config = (*running.config).clone();
        if let Some(path) = changes.iter().find_map(|change| change.strip_prefix("log ")) {
            config.log.access = Some(AccessLog {
                target: AccessTarget::File(path.into()),
                format: crate::config::AccessFormat::Json,
            });
        }
        Ok(Candidate {
            snapshot: Snapshot {
                generation: running.generation + 1,
                config: Arc::new(config),
                tls: running.tls.clone(),
                edges: running.edges.clone(),
                listening: running.listening.clone(),
            },
            changes: changes.into_iter().map(str::to_owned).collect(),
            warnings: vec!["mind this".to_owned()],
        })
    }

    fn applied(&mut self, _: &Snapshot) {}
}

type Next = std_mpsc::Sender<Result<Vec<&'static str>, Refusal>>;

fn start(habits: &[Habit]) -> (Bench, Next) {
    let (next, script) = std_mpsc::channel();
    let bench = Bench::with_source(settings(free_port()), habits, Some(Box::new(Scripted(script))));
    bench.accepts.iter().for_each(|accept| accept.send(()).unwrap());
    bench.wait_for("/readyz", "HTTP/1.1 200");
    (bench, next)
}

impl Bench {
    fn reload(&self) -> (u16, ReloadReport) {
        let response = self.ask("POST", "/reload");
        let (head, body) = response.split_once("\r\n\r\n").unwrap();
        (head[9..12].parse().unwrap(), serde_json::from_str(body).expect(&response))
    }

    fn has_metric(&self, line: &str) {
        let metrics = self.ask("GET", "/metrics");
        assert!(metrics.contains(&format!("\n{line}\n")), "{line} in {metrics}");
    }
}

#[test]
fn a_reload_is_applied_by_every_worker_and_says_what_changed() {
    let (bench, next) = start(&[Habit::Good, Habit::Good]);
    next.send(Ok(vec!["limits.x: 1 -> 2"])).unwrap();
    let (status, report) = bench.reload();
    assert_eq!((status, report.result, report.generation), (200, ReloadResult::Applied, 2));
    assert_eq!(report.changes, ["limits.x: 1 -> 2"]);
    assert_eq!((report.warnings, report.errors), (vec!["mind this".to_owned()], vec![]));
    bench.has_metric("ringway_worker_config_generation{worker=\"1\"} 2");
    // Nothing changed: a success that says so, and no other generation.
    next.send(Ok(vec![])).unwrap();
    let (status, report) = bench.reload();
    assert_eq!((status, report.result, report.generation), (200, ReloadResult::Unchanged, 2));
    // The verbs of the command line get the same.
    next.send(Ok(vec!["another"])).unwrap();
    let address = bench.admin.clone().unwrap();
    assert_eq!(client::reload(&address).unwrap().changes, ["another"]);
    let config = client::running_config(&address).unwrap();
    assert!(config.contains("[[listeners]]"), "{config}");
    // So does the signal.
    next.send(Ok(vec!["by signal"])).unwrap();
    bench.signal(Signal::Reload);
    bench.wait_for("/metrics", "HTTP/1.1 200");
    let begun = clocks().0;
    while !bench.ask("GET", "/metrics").contains("\nringway_config_generation 4\n") {
        assert!(begun.elapsed() < Duration::from_secs(10), "the signal does nothing");
    }
    bench.has_metric("ringway_reloads_total{result=\"success\"} 4");
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn a_refused_reload_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let missing: &'static str =
        Box::leak(format!("log {}/none/a.log", folder.path().display()).into_boxed_str());
    let (bench, next) = start(&[Habit::Good]);
    let two = vec!["a.toml:3: is wrong".to_owned(), "a.toml:7: too".to_owned()];
    next.send(Err(Refusal::of_configuration(two.clone()))).unwrap();
    let (status, report) = bench.reload();
    assert_eq!((status, report.result), (422, ReloadResult::ConfigurationRefused));
    assert_eq!((report.generation, report.errors), (1, two));
    // The access log is opened before anything is swapped.
    next.send(Ok(vec![missing])).unwrap();
    let (status, report) = bench.reload();
    assert_eq!((status, report.result), (422, ReloadResult::HostRefused));
    assert!(report.errors[0].contains("none/a.log"), "{:?}", report.errors);
    bench.has_metric("ringway_worker_config_generation{worker=\"0\"} 1");
    bench.has_metric("ringway_config_generation 1");
    bench.has_metric("ringway_reloads_total{result=\"failure\"} 2");
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn a_worker_that_does_not_apply_is_named_and_gets_another_chance() {
    let (bench, next) = start(&[Habit::Good, Habit::Refuses]);
    next.send(Ok(vec!["a change"])).unwrap();
    let (status, report) = bench.reload();
    assert_eq!((status, report.result), (500, ReloadResult::Incomplete));
    assert!(report.errors[0].contains("worker 1 did not apply generation 2: told to"));
    // The file is the same, but not all workers have it.
    next.send(Ok(vec![])).unwrap();
    let (status, report) = bench.reload();
    assert_eq!((status, report.generation), (500, 3));
    bench.has_metric("ringway_reloads_total{result=\"failure\"} 2");
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}

#[test]
fn the_access_log_of_a_reload_gets_the_next_lines() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let (bench, next) = start(&[Habit::Good]);
    let change: &'static str = Box::leak(format!("log {}", path.display()).into_boxed_str());
    next.send(Ok(vec![change])).unwrap();
    assert_eq!(bench.reload().0, 200);
    bench.access.blocking_send(vec![record(), record()]).unwrap();
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
    assert_eq!(line_count(&path), 2);
}

#[test]
fn reloads_are_refused_where_they_make_no_sense() {
    let (bench, next) = start(&[Habit::Stays]);
    assert!(bench.ask("GET", "/reload").starts_with("HTTP/1.1 405"));
    let by_page = bench.ask("POST", "/reload HTTP/1.1\r\norigin: https://a.example\r\nx:");
    assert!(by_page.starts_with("HTTP/1.1 403"), "{by_page}");
    bench.signal(Signal::Drain);
    bench.wait_for("/readyz", "HTTP/1.1 503");
    let (status, report) = bench.reload();
    assert_eq!((status, report.result), (422, ReloadResult::HostRefused));
    drop(next);
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
    // The demonstration has no file.
    let bench = Bench::started(&[Habit::Good]);
    let response = bench.ask("POST", "/reload");
    assert!(response.starts_with("HTTP/1.1 503") && response.contains("no file"), "{response}");
    bench.signal(Signal::Reload);
    bench.signal(Signal::Stop);
    assert_eq!(bench.end(), ExitReason::Stopped);
}
