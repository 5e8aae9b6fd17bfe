//! Clients that send a byte now and then: heads have a deadline, bodies an idle timeout, and other
//! clients are unaffected.

use std::time::Duration;

use ringway::testing::http3::ResponseReader;

use crate::client::{self, connect};
use crate::gateway::{Gateway, Settings};
use crate::{now, origin, pause, run};

/// No field section is needed: a frame that announces more bytes than arrive is enough. Type 1,
/// length 200, then bytes one by one (RFC 9114 7.2.2).
const HEAD_BEGUN: [u8; 5] = [0x01, 0x40, 0xC8, 0x00, 0x00];

#[test]
fn slow_request_heads_are_answered_408() {
    run(async {
        let (address, seen) = origin::start();
        let limits = r#"header_timeout = "1500ms""#;
        let gateway = Gateway::start(Settings { limits, ..Settings::default() }, address).await;
        let mut tasks = Vec::new();
        for _ in 0..10 {
            let (endpoint, quic) = client::quic(&gateway, client::Manners::default()).await;
            for _ in 0..50 {
                let quic = quic.clone();
                tasks.push(tokio::spawn(async move { trickle_head(&quic).await }));
            }
            drop(endpoint);
        }
        pause(700).await;
        let began = now();
        connect(&gateway).await.download(1 << 20).await;
        assert!(now() - began < Duration::from_secs(2), "other requests wait for slow heads");
        for task in tasks {
            let (response, took) = task.await.unwrap();
            let mut reader = ResponseReader::default();
            let body_len = reader.handle(&response).unwrap();
            assert_eq!((reader.status(), reader.is_whole()), (Some(408), true));
            assert!(body_len > 0, "text for people");
            assert!(
                took > Duration::from_millis(1400) && took < Duration::from_secs(5),
                "{took:?}"
            );
        }
        assert_eq!(gateway.metric("responses_own_total", "408"), 500);
        assert_eq!(seen.requests.load(std::sync::atomic::Ordering::Relaxed), 1);
        gateway.settle(10).await;
        gateway.stop();
    });
}

/// Sends a head, one byte every 200 ms. Returns the response and how long it took.
async fn trickle_head(quic: &quinn::Connection) -> (Vec<u8>, Duration) {
    let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
    let began = now();
    sending.write_all(&HEAD_BEGUN).await.unwrap();
    let trickle = tokio::spawn(async move {
        while sending.write_all(&[0xC1]).await.is_ok() {
            pause(200).await;
        }
    });
    let response = receiving.read_to_end(4096).await.unwrap();
    trickle.abort();
    (response, now() - began)
}

#[test]
fn bodies_that_pause_too_long_are_answered_408() {
    run(async {
        let (address, _) = origin::start();
        let limits = r#"body_timeout = "1s""#;
        let gateway = Gateway::start(Settings { limits, ..Settings::default() }, address).await;
        let mut client = connect(&gateway).await;
        let mut held = Vec::new();
        for _ in 0..50 {
            let mut stream = client.open("POST", &format!("/check/{}", client.tag.hex())).await;
            stream.send_data(client.tag.bytes(0, 300)).await.unwrap();
            held.push(stream);
        }
        for mut stream in held {
            assert_eq!(stream.recv_response().await.unwrap().status(), 408);
        }
        client.upload_checked(1 << 20).await;
        drop(client);
        gateway.settle(10).await;
        gateway.stop();
    });
}
