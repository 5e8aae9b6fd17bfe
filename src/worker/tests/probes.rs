//! Probes of a worker's own sockets, on the real kernel.

use std::net::UdpSocket;

use super::super::mailbox::Edge;
use super::*;
use crate::config::{Config, Protocols};
use crate::host::socket::SocketGroup;
use crate::metrics::WorkerReport;

/// Returns a configuration whose listener offers HTTP/3 over TCP.
fn offering(origin: SocketAddr) -> Config {
    let mut config = minimal(origin);
    config.listeners[0].protocols = Protocols { h3: true, h2: true, http1: true };
    config
}

fn has_probed(report: &WorkerReport) -> bool {
    report.counters.worker.probes_returned > 0
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_probe_comes_back_to_the_worker_that_sent_it() {
    let origin = origin(Duration::ZERO);
    let process = Process::new(offering(origin), 2);
    let workers: Vec<Running> =
        (0..2).map(|index| start_worker(region(64), &process, index)).collect();
    for worker in &workers {
        let report = worker.report_when(has_probed).await;
        assert_eq!(report.counters.worker.probes_lost, 0);
        assert_eq!(report.gauges.http3_withheld, 0);
        assert_eq!(report.counters.quic.datagrams_in, 0, "the engine does not see probes");
    }
    // A reload probes at once.
    let worker = &workers[0];
    let before = worker.report().await.counters.worker.probes_returned;
    worker.apply(Arc::new(offering(origin))).await;
    worker.report_when(|report| report.counters.worker.probes_returned > before).await;
    workers.into_iter().for_each(Running::stop);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_datagram_of_the_same_length_is_not_a_probe() {
    let running = start_in(region(64), offering(origin(Duration::ZERO)));
    let returned = running.report_when(has_probed).await.counters.worker.probes_returned;
    let stranger = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut packet = [7; 21];
    packet[0] = 0x40;
    stranger.send_to(&packet, running.address).unwrap();
    let report = running.report_when(|report| report.counters.quic.datagrams_in > 0).await;
    assert_eq!(report.counters.quic.datagrams_in, 1);
    assert_eq!(report.counters.worker.probes_returned, returned);
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http3_is_withheld_while_probes_do_not_come_back() {
    let origin = origin(Duration::ZERO);
    let running = start_in(region(64), offering(origin));
    running.report_when(has_probed).await;
    // A socket whose address leads elsewhere.
    let deaf = UdpSocket::bind("127.0.0.1:0").unwrap();
    let socket = running.group.sockets[0].try_clone().unwrap();
    let group = SocketGroup {
        address: deaf.local_addr().unwrap(),
        sockets: vec![socket],
        granted: running.group.granted,
        filter_refusal: None,
        offload: running.group.offload,
    };
    let edge = Edge { address: group.address, listener: 0, group: Arc::new(group) };
    running.apply_with(Arc::new(offering(origin)), vec![edge]).await;
    let report = running.report_when(|report| report.gauges.http3_withheld > 0).await;
    assert!((3..=4).contains(&report.counters.worker.probes_lost), "{report:?}");
    running.apply(Arc::new(offering(origin))).await;
    running.report_when(|report| report.gauges.http3_withheld == 0).await;
    running.stop();
}
