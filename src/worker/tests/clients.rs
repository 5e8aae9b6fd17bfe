//! Clients over TCP, as far as the worker decides: accepting them, and when not to.

use std::io::Read as _;
use std::net::TcpStream;

use super::*;

fn connect(running: &Running) -> TcpStream {
    let client = TcpStream::connect(running.address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_over_tcp_is_taken_from_the_kernel() {
    let running = start(origin(Duration::ZERO), 64);
    let _clients: Vec<TcpStream> = (0..40).map(|_| connect(&running)).collect();
    let report = running.report_when(|report| report.counters.ring.accepted == 40).await;
    assert_eq!(report.gauges.tcp_connections_waiting, 0);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_gateway_does_not_want_is_closed_at_once() {
    let mut config = minimal(origin(Duration::ZERO));
    config.listeners[0].tcp.connections_per_address = 0;
    let running = start_in(region(64), config);
    let mut client = connect(&running);
    assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(running.report().await.counters.ring.accepted, 1);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_come_during_a_drain_wait_in_the_kernel() {
    let running = start(origin(Duration::from_millis(1)), 256);
    let mut client = running.client().await;
    let download = tokio::spawn(async move { client.fetch("/bytes/200000000", 0).await });
    running.report_when(|report| report.counters.ledger.response.payload_bytes > 1_000_000).await;
    running.tell(Command::Drain { deadline: clock::now() + Duration::from_secs(60) });
    // A response to this report comes after the turn that began the drain.
    running.report().await;
    let _late = connect(&running);
    let report = running.report_when(|report| report.gauges.tcp_connections_waiting == 1).await;
    assert_eq!(report.counters.ring.accepted, 0);
    download.abort();
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_worker_accepts_on_the_same_sockets() {
    let mut running = start(origin(Duration::ZERO), 64);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
    running.tell(Command::Panic);
    let _client = connect(&running);
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Restarting { .. })));
    assert!(matches!(running.events.recv().await, Some(WorkerEvent::Accepting { .. })));
    let _other = connect(&running);
    // The first may have been the dead worker's, and closed with it.
    running.report_when(|report| (1..=2).contains(&report.counters.ring.accepted)).await;
    running.stop();
}
