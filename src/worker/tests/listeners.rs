//! Listeners that a reload adds and removes, on the real kernel.

use super::super::ProcessKeys;
use super::super::mailbox::Edge;
use super::*;
use crate::config::Config;
use crate::host::socket::SocketGroup;
use crate::tls::fill_random;

/// Binds another address, for the listener with this index.
fn another_edge(listener: usize) -> Edge {
    let address = "127.0.0.1:0".parse().unwrap();
    let mask = ProcessKeys::generate(fill_random).cid_mask;
    let group = SocketGroup::bind(address, 1, mask).unwrap();
    Edge { address: group.address, listener, group: Arc::new(group) }
}

async fn socket_count(running: &Running) -> u64 {
    let offload = running.report().await.gauges.socket_offload;
    offload.gro_on + offload.gro_off
}

fn with_two_listeners(origin: SocketAddr) -> Arc<Config> {
    let mut config = minimal(origin);
    let mut other = config.listeners[0].clone();
    other.name = "other".to_owned();
    config.listeners.insert(0, other);
    Arc::new(config)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_that_is_removed_drains_and_its_socket_closes() {
    let address = origin(Duration::from_millis(20));
    let running = start(address, 64);
    let mut client = running.client().await;
    let mut download = client.begin("/bytes/2000000").await;
    // Another listener, before the one that is there.
    let (other, mut first) = (another_edge(0), running.edge());
    first.listener = 1;
    let bound = other.address;
    running.apply_with(with_two_listeners(address), vec![other.clone(), first]).await;
    let mut newcomer = running.client_of(bound).await.unwrap();
    assert_eq!(newcomer.fetch("/bytes/1000", 0).await, (200, 1000));
    assert_eq!(client.fetch("/bytes/1000", 0).await, (200, 1000), "the old one serves on");
    // The old one is removed during the download.
    let mut alone = minimal(address);
    alone.listeners[0].name = "other".to_owned();
    running.apply_with(Arc::new(alone), vec![Edge { listener: 0, ..other.clone() }]).await;
    assert_eq!(Client::rest(&mut download).await, 2_000_000, "what has begun finishes");
    drop((download, client));
    let report = running.report_when(|report| report.gauges.connections_open == 1).await;
    assert_eq!(report.gauges.connections_open, 1, "it has been told to go");
    assert_eq!(newcomer.fetch("/bytes/1000", 0).await, (200, 1000));
    // The worker has let go of the socket.
    let begun = clock::now();
    while Arc::strong_count(&running.group) > 1 || socket_count(&running).await > 1 {
        assert!(begun.elapsed() < Duration::from_secs(10), "it keeps the socket");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its number is free for another, and it may come back itself.
    let mut edges = vec![other, running.edge()];
    edges[1].listener = 1;
    running.apply_with(with_two_listeners(address), edges).await;
    assert_eq!(running.client().await.fetch("/bytes/1000", 0).await, (200, 1000));
    assert_eq!(newcomer.fetch("/bytes/1000", 0).await, (200, 1000));
    running.stop();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_removed_listener_has_not_finished_ends_at_the_drain_timeout() {
    let address = origin(Duration::from_millis(50));
    let running = start(address, 64);
    let mut client = running.client().await;
    let mut download = client.begin("/bytes/50000000").await;
    let other = another_edge(0);
    let mut config = minimal(address);
    config.listeners[0].name = "other".to_owned();
    config.runtime.drain_timeout = Duration::from_millis(700);
    let begun = clock::now();
    running.apply_with(Arc::new(config), vec![other.clone()]).await;
    assert!(running.client_of(running.address).await.is_err(), "new clients are refused");
    let cut = async { while let Ok(Some(_)) = download.recv_data().await {} };
    tokio::time::timeout(Duration::from_secs(10), cut).await.expect("it is closed");
    assert!(begun.elapsed() >= Duration::from_millis(600), "not at once");
    assert!(running.client_of(other.address).await.is_ok());
    running.stop();
}
