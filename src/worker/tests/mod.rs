//! A worker on the real kernel: its thread, its ring and its memory, a client of another stack
//! (quinn and h3) and an origin over loopback.

mod clients;
mod fixture;
mod listeners;
mod probes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::oneshot;

use super::Worker;
use super::mailbox::{Command, WorkerEvent, WorkerOutcome};
use crate::address::{EndpointAddress, NamedAddresses};
use crate::config::testing::minimal;
use crate::host::clock;
use crate::host::socket::offload;
use crate::metrics::{Copied, SendsLost};
use crate::pool::Pool;
use crate::ring::{Completion, Wait};

use fixture::*;

pub(super) use fixture::Witness;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_upload_is_forwarded_from_the_slots_it_arrived_in() {
    const LEN: usize = 48 << 20;
    // Even if each datagram arrives in a slot of its own, as on a busy machine, the bytes that a
    // client may have in flight are within a flow's quota of this pool.
    let mut config = minimal(origin(Duration::ZERO));
    config.listeners[0].quic.stream_receive_window = 256 * 1024;
    let running = start_in(region(1800), config);
    let mut client = running.client().await;
    assert_eq!(client.fetch("/upload", LEN).await, (200, 0));
    let in_region = running.witness.in_region.load(Ordering::Relaxed);
    let elsewhere = running.witness.elsewhere.load(Ordering::Relaxed);
    assert!(in_region > LEN as u64 * 9 / 10, "{in_region} bytes of bulk were seen");
    let ledger = running.report().await.counters.ledger;
    assert!(ledger.request.payload_bytes >= LEN as u64);
    let copied = ledger.request.copied_bytes;
    assert!((1..16_384).contains(&copied.handshake), "{copied:?}");
    // On a busy machine, the client's last handshake packet shares its datagram with the body's
    // first bytes, and is repeated so.
    assert!(elsewhere <= copied.handshake, "every other bulk piece is in the region: {elsewhere}");
    let bulk = Copied { handshake: 0, ..copied };
    assert_eq!(bulk, Copied::default(), "nothing else was copied");
    drop(client);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bulk_download_is_gathered_once() {
    const LEN: u64 = 48 << 20;
    let running = start(origin(Duration::ZERO), 963);
    let mut client = running.client().await;
    assert_eq!(client.fetch(&format!("/bytes/{LEN}"), 0).await, (200, LEN));
    let response = running.report().await.counters.ledger.response;
    assert_eq!(response.payload_bytes, LEN);
    let gathered = response.copied_bytes.gather;
    assert!((LEN..LEN + LEN / 100).contains(&gathered), "{gathered} of {LEN} gathered");
    assert!(response.copied_bytes.small < LEN / 10, "{:?}", response.copied_bytes);
    drop(client);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_small_pool_serves_many_and_gets_all_slots_back() {
    let running = start(origin(Duration::ZERO), 64);
    let mut tasks = Vec::new();
    for _ in 0..8 {
        let mut client = running.client().await;
        tasks.push(tokio::spawn(async move {
            for _ in 0..4 {
                assert_eq!(client.fetch("/bytes/1000000", 0).await, (200, 1_000_000));
                assert_eq!(client.fetch("/upload", 1_000_000).await, (200, 0));
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    let report = running.report_when(|report| report.gauges.exchanges_active == 0).await;
    let slots = &report.gauges.pool_slots;
    assert_eq!(slots.free + slots.owned + slots.provided + slots.in_kernel, 64);
    running.report_when(|report| report.gauges.pool_slots.owned <= 1).await;
    running.stop();
}

/// Returns an endpoint with two addresses at which nobody listens, and then `last`.
fn with_dead_addresses(last: SocketAddr) -> EndpointAddress {
    let dead = |text: &str| {
        // A port that was free a moment ago: the kernel gives out others first.
        let listener = std::net::TcpListener::bind(text).unwrap();
        listener.local_addr().unwrap()
    };
    EndpointAddress::Named(NamedAddresses {
        label: "localhost:80".into(),
        addresses: [dead("[::1]:0"), dead("127.0.0.1:0"), last].into(),
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_address_of_a_name_is_tried_and_the_one_that_works_is_remembered() {
    let address = origin(Duration::from_millis(20));
    let mut config = minimal(address);
    config.upstreams[0].endpoints[0].address = with_dead_addresses(address);
    let running = start_in(region(256), config);
    let mut client = running.client().await;
    // Three connections: two of the downloads are slow, and none is reused meanwhile.
    let first = client.begin("/bytes/1000000").await;
    assert_eq!(running.report().await.counters.worker.connect_fallbacks, 2);
    let second = client.begin("/bytes/1000000").await;
    assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000));
    let report = running.report().await;
    assert_eq!(report.counters.worker.connect_fallbacks, 2, "the address that worked is first");
    assert_eq!(report.counters.proxy.upstream_connects, 3);
    assert_eq!(report.endpoints[0].ejection_count, 0);
    drop((first, second, client));
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_of_which_no_address_works_has_failed_once() {
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut config = minimal(nobody);
    config.upstreams[0].endpoints[0].address = with_dead_addresses(nobody);
    let running = start_in(region(256), config);
    let mut client = running.client().await;
    assert_eq!(client.fetch("/bytes/1000", 0).await.0, 502);
    let report = running.report().await;
    assert_eq!(report.counters.worker.connect_fallbacks, 2);
    assert_eq!(report.endpoints[0].ejection_count, 1);
    assert_eq!(report.gauges.upstream_connections_open, 0);
    drop(client);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_serves_without_the_kernels_offloads_and_reports_it() {
    const LEN: u64 = 5_000_000;
    let process = Process::new(minimal(origin(Duration::ZERO)), 1);
    offload::hinder(&process.group.sockets[0]);
    let running = start_worker(region(256), &process, 0);
    let mut client = running.client().await;
    assert_eq!(client.fetch(&format!("/bytes/{LEN}"), 0).await, (200, LEN));
    assert_eq!(client.fetch("/upload", LEN as usize).await, (200, 0));
    let report = running.report().await;
    let offload = &report.gauges.socket_offload;
    assert_eq!((offload.gro_on, offload.gro_off), (0, 1));
    assert_eq!((offload.gso_on, offload.gso_off), (0, 1));
    // Each batch of the first turn is refused.
    let fallbacks = report.counters.ring.gso_fallbacks;
    assert!((1..=32).contains(&fallbacks), "{fallbacks}");
    assert_eq!(report.counters.ring.sends_lost, SendsLost::default());
    drop(client);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_ends_connections_and_the_worker_restarts() {
    let mut running = start(origin(Duration::from_millis(2)), 256);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { worker: 0 })));
    let mut client = running.client().await;
    assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000));
    // One download is in full flight when the worker panics.
    let download = tokio::spawn(async move { client.fetch("/bytes/30000000", 0).await });
    running.report_when(|report| report.counters.ledger.response.payload_bytes > 1_000_000).await;
    running.tell(Command::Panic);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { worker: 0 })));
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { worker: 0 })));
    let report = running.report().await;
    assert_eq!(report.counters.worker.restarts, 1);
    let slots = &report.gauges.pool_slots;
    assert_eq!(slots.free + slots.provided + slots.owned + slots.in_kernel, 256);
    assert!(slots.owned <= 1, "the old worker's slots came back: {slots:?}");
    let mut client = running.client().await;
    assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000));
    download.abort();
    running.stop();
}

/// Its memory may still be written to, so nothing else may use it, but the other workers and the
/// end of the process go on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_buffers_the_kernel_keeps_ends_alone() {
    for last in [Command::Panic, Command::Stop] {
        let mut running = start(origin(Duration::ZERO), 256);
        assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
        running.tell(Command::KeepBuffers);
        running.tell(last);
        let end = tokio::task::spawn_blocking(|| running.thread.join().unwrap()).await.unwrap();
        let WorkerOutcome::Failed(why) = end else { panic!("{end:?}") };
        assert!(why.contains("does not release its buffers"), "{why}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn panics_under_load_leak_no_slot() {
    let mut running = start(origin(Duration::ZERO), 256);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
    for restarts in 1..=5 {
        let mut transfers = Vec::new();
        for path in ["/bytes/300000000", "/upload"] {
            let mut client = running.client().await;
            let body_len = if path == "/upload" { 300_000_000 } else { 0 };
            transfers.push(tokio::spawn(async move { client.fetch(path, body_len).await }));
        }
        let bulk = 2_000_000 * restarts;
        running
            .report_when(|report| {
                let ledger = &report.counters.ledger;
                ledger.response.payload_bytes.min(ledger.request.payload_bytes) > bulk
            })
            .await;
        running.tell(Command::Panic);
        assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { .. })));
        assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
        transfers.iter().for_each(tokio::task::JoinHandle::abort);
        assert_eq!(running.report().await.counters.worker.restarts, restarts);
        // Until the clients are gone, their packets are responded to with stateless resets, each of
        // which takes a slot for a moment. One stays with the worker for its next batch.
        running
            .report_when(|report| {
                report.gauges.pool_slots.owned + report.gauges.pool_slots.in_kernel <= 1
            })
            .await;
    }
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_finishes_exchanges_in_flight() {
    let running = start(origin(Duration::from_millis(1)), 256);
    let mut client = running.client().await;
    let download = tokio::spawn(async move { client.fetch("/bytes/20000000", 0).await });
    running.report_when(|report| report.counters.ledger.response.payload_bytes > 1_000_000).await;
    running.tell(Command::Drain { deadline: clock::now() + Duration::from_secs(60) });
    assert_eq!(download.await.unwrap(), (200, 20_000_000));
    let end = tokio::task::spawn_blocking(|| running.thread.join().unwrap()).await.unwrap();
    assert!(matches!(end, WorkerOutcome::Finished), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closing_worker_sleeps_until_its_sends_complete_or_time_out() {
    let running = start(origin(Duration::ZERO), 64);
    let mut client = running.client().await;
    assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000));
    running.tell(Command::LoseSend);
    running.tell(Command::Stop);
    let report = running.report().await;
    assert_eq!(report.gauges.socket_offload.zero_copy_on, 0, "a device may keep a batch for long");
    let before = report.counters.worker.loop_turns;
    tokio::time::sleep(Duration::from_millis(300)).await;
    // A drain while closing has no effect.
    running.tell(Command::Drain { deadline: clock::now() + Duration::from_secs(60) });
    let turns = running.report().await.counters.worker.loop_turns - before;
    assert!(turns < 50, "{turns} turns without work");
    let end = tokio::task::spawn_blocking(|| running.thread.join().unwrap()).await.unwrap();
    assert!(matches!(end, WorkerOutcome::Finished), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_a_burst_is_carried_out() {
    let running = start(origin(Duration::ZERO), 64);
    let mut responses = Vec::new();
    for _ in 0..1000 {
        let (sender, receiver) = oneshot::channel();
        running.tell(Command::Report(sender));
        responses.push(receiver);
    }
    for response in responses {
        response.await.unwrap();
    }
    let before = running.report().await.counters.worker;
    assert!(before.commands > 1000);
    // All wake-ups have been consumed: no further turns follow.
    tokio::time::sleep(Duration::from_millis(200)).await;
    let turns = running.report().await.counters.worker.loop_turns - before.loop_turns;
    assert!(turns < 20, "{turns} turns of an idle worker");
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_worker_keeps_the_last_snapshot() {
    let mut running = start(origin(Duration::ZERO), 64);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
    let nobody = "127.0.0.1:1".parse().unwrap();
    let config = Arc::new(minimal(nobody));
    running.apply(config).await;
    assert_eq!(running.client().await.fetch("/bytes/1000", 0).await.0, 502);
    running.tell(Command::Panic);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { .. })));
    assert_eq!(running.client().await.fetch("/bytes/1000", 0).await.0, 502);
    running.stop();
}

#[test]
fn a_panic_during_the_start_is_a_failure() {
    let region = region(64);
    // Simulates a bug: the region already has an owner.
    let _owner = Pool::attach(region.clone());
    let running = start_in(region, minimal(origin(Duration::ZERO)));
    let end = running.thread.join().expect("the thread itself does not panic");
    assert!(matches!(end, WorkerOutcome::Failed(_)), "{end:?}");
}

/// Panics until the next restart has to wait for almost half a second.
async fn panic_until_it_pauses(running: &mut Running) {
    for _ in 0..4 {
        assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
        running.tell(Command::Panic);
        assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { .. })));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_cannot_restart_is_retried_until_it_can() {
    let memory = region(64);
    let mut running = start_in(memory.clone(), minimal(origin(Duration::ZERO)));
    panic_until_it_pauses(&mut running).await;
    // Another thread owns the region for a while.
    let (taken, release) = (std::sync::mpsc::channel(), std::sync::mpsc::channel::<()>());
    let owner = std::thread::spawn(move || {
        let _owner = Pool::attach(memory);
        taken.0.send(()).unwrap();
        release.1.recv().unwrap();
    });
    taken.1.recv().unwrap();
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { .. })));
    release.0.send(()).unwrap();
    owner.join().unwrap();
    loop {
        match running.events.recv().await {
            Some(WorkerEvent::Restarting { .. }) => {}
            Some(WorkerEvent::Accepting { .. }) => break,
            _ => panic!("it gave up"),
        }
    }
    assert!(running.report().await.counters.worker.restarts >= 5);
    assert_eq!(running.client().await.fetch("/bytes/1000", 0).await, (200, 1000));
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_waiting_to_restart_obeys_commands() {
    let mut running = start(origin(Duration::ZERO), 64);
    panic_until_it_pauses(&mut running).await;
    let (sender, receiver) = oneshot::channel();
    running.tell(Command::Report(sender));
    let config = Arc::new(minimal("127.0.0.1:1".parse().unwrap()));
    running.apply(config).await;
    assert!(receiver.await.is_err(), "no worker is running that could report");
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
    assert_eq!(
        running.client().await.fetch("/bytes/1000", 0).await.0,
        502,
        "the applied snapshot is used"
    );
    running.tell(Command::Panic);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { .. })));
    running.tell(Command::Drain { deadline: clock::now() + Duration::from_secs(60) });
    let end = tokio::task::spawn_blocking(|| running.thread.join().unwrap()).await.unwrap();
    assert!(matches!(end, WorkerOutcome::Finished), "{end:?}");
}

#[test]
fn a_worker_sleeps_until_its_next_deadline_or_retry() {
    let (setup, _mailbox, _events) =
        setup_in(region(64), &Process::new(minimal(origin(Duration::ZERO)), 1), 0);
    let mut worker = Worker::new(&setup, 0).unwrap();
    let now = clock::now();
    let deadline = worker.carry_out(now);
    assert_eq!(worker.sleep(now, deadline), Wait::Forever);

    // A socket whose receive has failed is armed again after a pause.
    let (socket, reason) = (worker.edges.get(0).unwrap(), std::io::ErrorKind::Other);
    worker.handle_completion(now, Completion::ReceiveStopped { socket, reason });
    let Wait::Until(again) = worker.sleep(now, None) else { panic!("it is retried") };
    assert!(again >= now + Duration::from_millis(100), "{:?}", again - now);
    worker.receive_again(now);
    assert_eq!(worker.sleep(now, None), Wait::Until(again));
    worker.receive_again(again);
    assert_eq!(worker.sleep(again, None), Wait::Forever);

    // There is no slot to send from, and no send in flight that will return one.
    drop(worker.transmit.buffer.take());
    let held: Vec<_> = std::iter::from_fn(|| worker.pool.lease()).collect();
    worker.carry_out(now);
    let Wait::Until(again) = worker.sleep(now, None) else { panic!("a slot is requested again") };
    assert!(again <= now + Duration::from_millis(10), "{:?}", again - now);
    drop(held);
    worker.carry_out(now);
    assert_eq!(worker.sleep(now, None), Wait::Forever);
    assert!(worker.tear_down().is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_do_not_read_leave_slots_to_the_others() {
    const STALLED_LEN: u64 = 4_000_000;
    let running = start(origin(Duration::ZERO), 64);
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut client = running.client().await;
        let stream = client.begin(&format!("/bytes/{STALLED_LEN}")).await;
        stalled.push((client, stream));
    }
    // Their responses fill what may wait for clients, in slots until the pool is low.
    running.report_when(|report| report.counters.pool.low_water_events > 0).await;
    let mut client = running.client().await;
    for _ in 0..3 {
        assert_eq!(client.fetch("/bytes/3000000", 0).await, (200, 3_000_000));
        assert_eq!(client.fetch("/upload", 3_000_000).await, (200, 0));
        let slots = running.report().await.gauges.pool_slots;
        assert_eq!(slots.free + slots.owned + slots.provided + slots.in_kernel, 64);
    }
    for (client, mut stream) in stalled {
        assert_eq!(Client::rest(&mut stream).await, STALLED_LEN);
        drop(client);
    }
    running.report_when(|report| report.gauges.pool_slots.owned <= 1).await;
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_does_not_affect_other_workers_connections() {
    let process = Process::new(minimal(origin(Duration::ZERO)), 2);
    let mut doomed = start_worker(region(64), &process, 0);
    let other = start_worker(region(64), &process, 1);
    // The kernel's hash spreads clients: connect until each worker has some.
    let mut clients = Vec::new();
    let open = async |worker: &Running| worker.report().await.gauges.connections_open as usize;
    while open(&doomed).await < 3 || open(&other).await < 3 {
        assert!(clients.len() < 200, "one worker gets no clients");
        let mut client = doomed.client().await;
        assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000));
        clients.push(client);
    }
    let untouched_count = open(&other).await;
    assert!(matches!(doomed.events.recv().await, Some(WorkerEvent::Accepting { worker: 0 })));
    doomed.tell(Command::Panic);
    assert!(matches!(doomed.events.recv().await, Some(WorkerEvent::Restarting { worker: 0 })));
    assert!(matches!(doomed.events.recv().await, Some(WorkerEvent::Accepting { worker: 0 })));
    // Clients of the dead worker fail (their tasks panic), those of the other one do not.
    let fetches = clients
        .into_iter()
        .map(|mut client| tokio::spawn(async move { client.fetch("/bytes/100000", 0).await }));
    let mut served_count = 0;
    for fetch in fetches.collect::<Vec<_>>() {
        served_count += usize::from(matches!(fetch.await, Ok((200, 100_000))));
    }
    assert_eq!(served_count, untouched_count);
    assert_eq!(other.report().await.counters.worker.restarts, 0);
    assert_eq!(other.report().await.counters.quic.datagrams_foreign_id, 0);
    let mut client = doomed.client().await;
    assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000));
    drop(client);
    doomed.stop();
    other.stop();
}
