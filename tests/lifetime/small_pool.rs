//! The smallest pool under ten times what it holds: everything completes, nothing spins, every
//! slot comes back.

use crate::client::{self, connect, connect_with};
use crate::gateway::{Gateway, Settings};
use crate::{length, now, origin, pause, run};

const MIB: u64 = 1 << 20;

/// The least that the configuration allows: 92 slots.
fn smallest() -> Settings {
    Settings { pool: "6MiB", ..Settings::default() }
}

/// One round on a laptop, ten seconds of them with CI set, and as many as `scripts/soak` asks for.
#[test]
fn ten_times_the_pool_is_served_both_ways() {
    run(async {
        let (address, seen) = origin::start();
        // quinn does not get its close out while a congestion window is full, and a full socket
        // buffer may lose it: then silence ends the connection, in half the time it has to settle.
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
        // The kernel found no slot for a datagram, which ends a receive: each time it was armed
        // again, and everything above went on.
        let ended = gateway.metric("ring_no_buffers_total", "kind=\"datagrams\"");
        let armed = gateway.metric("ring_rearms_total", "");
        eprintln!("{ended} receives found no slot, {armed} were armed again");
        assert!(ended > 0, "there was always a slot");
        assert!(armed >= ended, "{ended} receives ended for want of a slot, {armed} armed again");
        seen.assert_right();
        gateway.assert_at_rest("after the load").await;
        gateway.stop();
    });
}

#[test]
fn uploads_that_the_origin_does_not_take_stop_nobody() {
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
        // And answers that nobody takes.
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

/// Waits for all at once.
async fn futures_of(tasks: impl Iterator<Item = impl Future<Output = ()>>) {
    let mut tasks: Vec<_> = tasks.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        tasks.retain_mut(|task| task.as_mut().poll(cx).is_pending());
        if tasks.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}
