//! The smallest pool under ten times its capacity: everything completes, nothing spins, every slot
//! is returned.

use crate::client::{self, connect, connect_with};
use crate::gateway::{Gateway, Settings};
use crate::{length, now, origin, pause, run};

const MIB: u64 = 1 << 20;

/// Returns settings with the smallest pool that the configuration allows: 92 slots.
fn smallest() -> Settings {
    Settings { pool: "6MiB", ..Settings::default() }
}

/// Runs one round on a laptop, ten seconds of rounds with CI set, and as many as `scripts/soak`
/// asks for.
#[test]
fn bodies_of_ten_times_the_pool_are_served_in_both_directions() {
    run(async {
        let (address, seen) = origin::start();
        // quinn cannot send its close while the congestion window is full, and a full socket buffer
        // may lose it. Then the idle timeout ends the connection, in half the time allowed to
        // settle.
        let settings = Settings { idle_timeout: "10s", ..smallest() };
        let gateway = Gateway::start(settings, address).await;
        let slots = gateway.metric("pool_slots", "");
        let until = now() + length(0, 10);
        loop {
            let tasks = (0..40).map(|_| async {
                let mut client = connect(&gateway).await;
                client.upload_checked(MIB).await;
                client.download(MIB).await;
                client.upload_checked(MIB / 2).await;
            });
            futures_of(tasks).await;
            gateway.settle(20).await;
            assert_eq!(gateway.metric("pool_slots", ""), slots);
            if now() >= until {
                break;
            }
        }
        assert!(gateway.metric("pool_low_water_events_total", "") > 0, "the pool was never low");
        // The kernel found no slot for a datagram, which ends a receive. Each time it was rearmed,
        // and everything above continued.
        let ended = gateway.metric("ring_no_buffers_total", "kind=\"datagrams\"");
        let armed = gateway.metric("ring_rearms_total", "");
        eprintln!("{ended} receives found no slot, {armed} were armed again");
        assert!(ended > 0, "the kernel never ran out of slots");
        assert!(armed >= ended, "{ended} receives ended for lack of a slot, {armed} were rearmed");
        seen.assert_right();
        gateway.assert_at_rest("after the load").await;
        gateway.stop();
    });
}

#[test]
fn uploads_that_the_origin_does_not_read_do_not_block_other_requests() {
    run(async {
        let (address, seen) = origin::start();
        let gateway = Gateway::start(smallest(), address).await;
        let mut stalled = Vec::new();
        for _ in 0..8 {
            let mut client = connect(&gateway).await;
            let path = format!("/stall/{}", client.tag.hex());
            let mut sending = Vec::new();
            for _ in 0..10 {
                let (send, receive) = client.open("POST", &path).await.split();
                sending.push((tokio::spawn(client::send(send, client.tag, MIB)), receive));
            }
            stalled.push((client, sending));
        }
        // And responses that no client reads.
        let mut slow = connect_with(&gateway, 1024).await;
        let mut unread = Vec::new();
        for _ in 0..40 {
            unread.push(slow.begin_download(10 * MIB).await);
        }
        pause(1500).await;
        assert!(gateway.metric("pool_low_water_events_total", "") > 0, "the pool was never low");
        gateway.assert_at_rest("while all stalls").await;
        let mut other = connect(&gateway).await;
        other.download(MIB).await;
        other.upload_checked(MIB).await;
        // The origin reads again: every upload completes.
        seen.gate.store(true, std::sync::atomic::Ordering::Relaxed);
        for (client, streams) in stalled {
            for (sending, mut receive) in streams {
                assert_eq!(receive.recv_response().await.unwrap().status(), 200);
                sending.await.unwrap();
            }
            drop(client);
        }
        seen.assert_right();
        drop((unread, slow, other));
        gateway.settle(20).await;
        gateway.assert_at_rest("after the load").await;
        gateway.stop();
    });
}

/// Waits for all of them concurrently.
async fn futures_of(tasks: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut tasks: Vec<_> = tasks.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        if tasks.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
