//! The complete log: each line is either written in full or dropped, and all are counted.

use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use super::*;
use crate::config::{AccessLog, AccessTarget};
use crate::message::{AccessRecord, Understood};
use crate::testing::clocks;

/// Returns a record whose path is its number.
fn record(number: usize) -> AccessRecord {
    AccessRecord {
        request: Understood::new(
            Some(http::Method::GET),
            None,
            Some(format!("/{number}").as_bytes()),
        ),
        status: Some(http::StatusCode::OK),
        ..AccessRecord::new(clocks().0, crate::testing::sender("192.0.2.1:1".parse().unwrap()))
    }
}

/// Returns the numbers in the text's paths. Every line must be a complete JSON object.
fn numbers(text: &[u8]) -> Vec<usize> {
    assert!(text.is_empty() || text.ends_with(b"\n"), "the last line is complete");
    let lines = std::str::from_utf8(text).unwrap().lines();
    let number = |line: &str| {
        let read: serde_json::Value = serde_json::from_str(line).expect(line);
        read["path"].as_str().unwrap()[1..].parse().unwrap()
    };
    lines.map(number).collect()
}

/// Runs the log over these batches to its end, and returns what it counted.
fn run_over(log: &AccessLog, batches: Vec<AccessBatch>) -> (u64, u64) {
    tokio_uring::start(async {
        let (handle, lines) = start(log);
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio_uring::spawn(lines.run(receiver, clocks));
        for batch in batches {
            sender.send(batch).await.unwrap();
        }
        drop(sender);
        task.await.unwrap();
        handle.counts.get()
    })
}

fn start(log: &AccessLog) -> (LogHandle, Lines) {
    LogHandle::start(Some(open(log, None).unwrap())).unwrap()
}

fn file_log(path: &Path) -> AccessLog {
    AccessLog { target: AccessTarget::File(path.to_owned()), format: AccessFormat::Json }
}

#[test]
fn a_file_is_appended_to() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let batches = |range: std::ops::Range<usize>| -> Vec<AccessBatch> {
        range.map(|batch| (0..50).map(|number| record(batch * 50 + number)).collect()).collect()
    };
    assert_eq!(run_over(&file_log(&path), batches(0..60)), (3000, 0));
    assert_eq!(run_over(&file_log(&path), batches(60..61)), (50, 0));
    let written = std::fs::read(&path).unwrap();
    assert!(written.len() > 4 * FLUSH_LEN, "several chunks: {}", written.len());
    assert_eq!(numbers(&written), (0..3050).collect::<Vec<_>>());
    let mode = std::fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o027, 0, "not for everyone: {mode:o}");
}

#[test]
fn a_line_is_written_without_waiting_for_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    tokio_uring::start(async {
        let (_handle, lines) = start(&file_log(&path));
        let (sender, receiver) = mpsc::channel(1);
        tokio_uring::spawn(lines.run(receiver, clocks));
        sender.send(vec![record(1)]).await.unwrap();
        let begun = clocks().0;
        while std::fs::read(&path).unwrap().is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(10), "the line never came");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        drop(sender);
    });
}

#[test]
fn a_full_disk_is_counted() {
    let batches = (0..10).map(|number| vec![record(number)]).collect();
    assert_eq!(run_over(&file_log(Path::new("/dev/full")), batches), (0, 10));
}

#[test]
fn a_log_that_cannot_be_opened_is_refused_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo");
    let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
    assert!(made.success());
    for (path, part) in [
        (Path::new("/nonexistent/access.log"), "No such file"),
        (folder.path(), "Is a directory"),
        (&fifo, "it is a FIFO"),
    ] {
        let error = open(&file_log(path), None).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(part) && error.contains("log.access.path"), "{error}");
        let checked = check(&file_log(path)).unwrap_err().to_string();
        assert_eq!(checked, error, "a check finds what the start would");
    }
}

/// A pipe that accepts nothing until it is unblocked.
#[derive(Clone, Default)]
struct Gate(Arc<(Mutex<GateState>, Condvar)>);

#[derive(Default)]
struct GateState {
    open: bool,
    waits: bool,
    written: Vec<u8>,
}

impl Write for Gate {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (state, changed) = &*self.0;
        let mut state = state.lock().unwrap();
        state.waits = true;
        let mut state = changed.wait_while(state, |state| !state.open).unwrap();
        // In small pieces, as a pipe accepts them.
        let len = bytes.len().min(777);
        state.written.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_blocked_pipe_loses_lines_and_nothing_else() {
    const BATCHES: usize = 400;
    const LINES: usize = 50;
    let gate = Gate::default();
    let (state, changed) = &*gate.0;
    let (written, dropped) = tokio_uring::start(async {
        let counts = Arc::default();
        let sink = Sink::with_thread(AccessFormat::Json, gate.clone(), &counts).unwrap();
        let (_handle, lines) = LogHandle::with(Some(sink), Arc::clone(&counts));
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio_uring::spawn(lines.run(receiver, clocks));
        for batch in 0..BATCHES {
            let records = (0..LINES).map(|number| record(batch * LINES + number));
            // Sending never waits longer than formatting takes: the log puts no backpressure on its
            // senders.
            let sent = sender.send(records.collect());
            tokio::time::timeout(Duration::from_secs(10), sent).await.unwrap().unwrap();
        }
        // Its thread may not have run yet.
        while !state.lock().unwrap().waits {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        assert_eq!(counts.get().0, 0);
        state.lock().unwrap().open = true;
        changed.notify_all();
        drop(sender);
        task.await.unwrap();
        counts.get()
    });
    assert_eq!(written + dropped, (BATCHES * LINES) as u64, "every line is accounted for");
    assert!(written > 0 && dropped > 0, "{written} written, {dropped} dropped");
    let state = state.lock().unwrap();
    assert!(state.written.len() < GATHERED_LEN_MAX + 4 * FLUSH_LEN, "{}", state.written.len());
    let numbers = numbers(&state.written);
    assert_eq!(numbers.len() as u64, written);
    assert!(numbers.is_sorted(), "in order");
}

/// A file that takes only so many bytes, and more later.
#[derive(Clone, Default)]
struct SmallDisk(Arc<Mutex<(usize, Vec<u8>)>>);

impl Write for SmallDisk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let (room, file) = &mut *self.0.lock().unwrap();
        let len = bytes.len().min(*room);
        if len == 0 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        *room -= len;
        file.extend_from_slice(&bytes[..len]);
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_cuts_no_line_and_the_counts_are_those_of_the_file() {
    let disk = SmallDisk::default();
    let (written, dropped) = tokio_uring::start(async {
        let counts = Arc::default();
        let mut sink = Sink::with_thread(AccessFormat::Json, disk.clone(), &counts).unwrap();
        for chunk in 0..100 {
            // Room for a line and a half, then for none, in turns that never meet the lines' ends.
            disk.0.lock().unwrap().0 += [333, 0, 7, 1111][chunk % 4];
            let mut lines = Chunk::default();
            let records = (0..3).map(|number| record(3 * chunk + number)).collect();
            gather(&mut lines, records, AccessFormat::Json, clocks(), &counts);
            while lines.line_count > 0 {
                sink.offer(&mut lines);
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        disk.0.lock().unwrap().0 = 1 << 20;
        sink.finish(Chunk::default()).await;
        counts.get()
    });
    assert_eq!(written + dropped, 300);
    let file = &disk.0.lock().unwrap().1;
    assert_eq!(numbers(file).len() as u64, written, "as many as the file has");
    assert!(numbers(file).is_sorted() && written > 20 && dropped > 20, "{written}, {dropped}");
}

#[test]
fn a_file_that_was_moved_away_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    tokio_uring::start(async {
        let (handle, lines) = start(&file_log(&path));
        let counts = handle.counts();
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio_uring::spawn(lines.run(receiver, clocks));
        sender.send(vec![record(1)]).await.unwrap();
        wait_for_lines(&counts, 1).await;
        std::fs::rename(&path, &moved).unwrap();
        handle.reopen();
        // Without a line to write too.
        while !path.exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        sender.send(vec![record(2)]).await.unwrap();
        drop(sender);
        task.await.unwrap();
        assert_eq!(counts.get(), (2, 0));
    });
    assert_eq!(numbers(&std::fs::read(&moved).unwrap()), [1]);
    assert_eq!(numbers(&std::fs::read(&path).unwrap()), [2]);
}

#[test]
fn a_file_that_cannot_be_opened_again_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    tokio_uring::start(async {
        let (handle, lines) = start(&file_log(&path));
        let counts = handle.counts();
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio_uring::spawn(lines.run(receiver, clocks));
        std::fs::rename(&path, &moved).unwrap();
        std::fs::create_dir(&path).unwrap();
        handle.reopen();
        sender.send(vec![record(1)]).await.unwrap();
        wait_for_lines(&counts, 1).await;
        std::fs::remove_dir(&path).unwrap();
        handle.reopen();
        sender.send(vec![record(2)]).await.unwrap();
        drop(sender);
        task.await.unwrap();
        assert_eq!(counts.get(), (2, 0));
    });
    assert_eq!(numbers(&std::fs::read(&moved).unwrap()), [1]);
    assert_eq!(numbers(&std::fs::read(&path).unwrap()), [2]);
}

async fn wait_for_lines(counts: &LogCounts, written: u64) {
    while counts.get().0 < written {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_line_that_an_earlier_process_did_not_finish_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    std::fs::write(&path, "whole\n{\"path\":").unwrap();
    assert_eq!(run_over(&file_log(&path), vec![vec![record(1)]]), (1, 0));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[..2], ["whole", "{\"path\":"]);
    assert_eq!(numbers(format!("{}\n", lines[2]).as_bytes()), [1]);
    assert_eq!(lines.len(), 3);
}

#[test]
fn without_a_sink_records_are_discarded() {
    tokio_uring::start(async {
        let (sender, receiver) = mpsc::channel(1);
        let (_handle, lines) = LogHandle::start(None).unwrap();
        let task = tokio_uring::spawn(lines.run(receiver, clocks));
        for _ in 0..10 {
            sender.send(vec![record(1)]).await.unwrap();
        }
        drop(sender);
        task.await.unwrap();
    });
}

/// Each line is in the log of its time, in its format, and none is lost.
#[test]
fn a_log_that_is_replaced_ends_with_its_last_line() {
    let folder = tempfile::tempdir().unwrap();
    let paths: Vec<_> = (0..4).map(|log| folder.path().join(log.to_string())).collect();
    tokio_uring::start(async {
        let (handle, lines) = start(&file_log(&paths[0]));
        let (sender, receiver) = mpsc::channel(1);
        let task = tokio_uring::spawn(lines.run(receiver, clocks));
        for (log, path) in paths.iter().enumerate() {
            if log > 0 {
                handle.replace(Some(open(&file_log(path), None).unwrap())).unwrap();
            }
            sender.send((0..100).map(|line| record(log * 100 + line)).collect()).await.unwrap();
            // The channel of batches has one place, so that this one has been taken by then.
            sender.send(Vec::new()).await.unwrap();
            sender.send(Vec::new()).await.unwrap();
        }
        handle.replace(None).unwrap();
        sender.send(Vec::new()).await.unwrap();
        sender.send(Vec::new()).await.unwrap();
        sender.send(vec![record(9999)]).await.unwrap();
        drop(sender);
        task.await.unwrap();
        assert_eq!(handle.counts.get(), (400, 0), "the last one is not logged");
    });
    for (log, path) in paths.iter().enumerate() {
        let expected: Vec<usize> = (log * 100..(log + 1) * 100).collect();
        assert_eq!(numbers(&std::fs::read(path).unwrap()), expected);
    }
}
