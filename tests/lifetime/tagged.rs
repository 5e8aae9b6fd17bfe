//! Tagged bodies in both directions, some of them aborted at random moments by either side, while
//! packets wait in a queue behind the gateway and the upstream leg loses segments: a slot freed
//! while still being read shows as poison or as another connection's tag.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::body::Check;
use crate::client::{self, Client, connect};
use crate::gateway::{Gateway, Settings};
use crate::network::{self, Faults};
use crate::{length, now, origin, run};

/// Length of the short form of each of the two runs; with CI set they take a minute together.
const SHORT_S: u64 = 8;
const ON_CI_S: u64 = 30;

/// Percentage of segments lost on the upstream leg.
const LOSS_PERCENT: u8 = 5;

/// Longer than any exchange takes, and shorter than any timeout of the gateway. A segment lost five
/// times in a row arrives after 6 s.
const PATIENCE: Duration = Duration::from_secs(18);

#[derive(Default)]
struct Tally {
    whole: AtomicU64,
    given_up: AtomicU64,
    len: AtomicU64,
}

/// Runs one client: exchange after exchange, each completed or aborted at some point.
async fn live(gateway: &Gateway, seed: u64, tally: &Tally, until: std::time::Instant) {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut client = connect(gateway).await;
    while now() < until {
        if dice.random_ratio(1, 12) {
            // The connection is dropped, with everything in flight on it.
            let len = dice.random_range(1..2_000_000);
            let mut stream = client.begin_download(len).await;
            let (sending, _receiving) = client.open("POST", &check_path(&client)).await.split();
            let upload = tokio::spawn(client::send(sending, client.tag, len));
            let _ = stream.recv_response().await;
            let _ = stream.recv_data().await;
            client.quic.close(0x100u32.into(), b"");
            let _ = upload.await;
            tally.given_up.fetch_add(1, Ordering::Relaxed);
            client = connect(gateway).await;
        }
        let len = match dice.random_range(0..4) {
            0 => dice.random_range(0..20_000),
            1 | 2 => dice.random_range(0..600_000),
            _ => dice.random_range(0..3_000_000),
        };
        if dice.random_ratio(1, 8) {
            broken(&mut client, len + 1).await;
            tally.given_up.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        let stop_at = dice.random_ratio(1, 3).then(|| dice.random_range(0..len + 1));
        let is_down = dice.random_ratio(1, 2);
        let exchange = async {
            match is_down {
                true => down(&mut client, len, stop_at).await,
                false => up(&mut client, len, stop_at).await,
            }
        };
        let Ok(is_whole) = tokio::time::timeout(PATIENCE, exchange).await else {
            let way = if is_down { "download" } else { "upload" };
            panic!("a {way} of {len} bytes, to be aborted at {stop_at:?}, hangs");
        };
        let count = if is_whole { &tally.whole } else { &tally.given_up };
        count.fetch_add(1, Ordering::Relaxed);
        tally.len.fetch_add(stop_at.unwrap_or(len), Ordering::Relaxed);
    }
}

/// Returns settings with a short idle timeout: quinn cannot send its close while the congestion
/// window is full, and then only the idle timeout ends the connection. Its upstreams may be slow
/// because segments get lost.
fn impatient(pool: &'static str) -> Settings {
    let timeout = r#"{ connect = "20s", response = "20s", idle = "30s" }"#;
    Settings { pool, idle_timeout: "3s", timeout, ..Settings::default() }
}

fn check_path(client: &Client) -> String {
    format!("/check/{}", client.tag.hex())
}

async fn down(client: &mut Client, len: u64, stop_at: Option<u64>) -> bool {
    let mut stream = client.begin_download(len).await;
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    let mut check = Check::new(client.tag);
    while stop_at.is_none_or(|stop| check.len < stop) {
        match stream.recv_data().await.unwrap() {
            Some(mut data) => client::take(&mut data, &mut check),
            None => break,
        }
    }
    if stop_at.is_some() {
        // When the stream is dropped unread, quinn sends STOP_SENDING.
        return false;
    }
    assert_eq!(check.len, len);
    true
}

/// Checks a response that the origin aborts: the received bytes are right, and the response is
/// visibly incomplete.
async fn broken(client: &mut Client, len: u64) {
    let path = format!("/broken/{len}/{}", client.tag.hex());
    let mut stream = client.open("GET", &path).await;
    stream.finish().await.unwrap();
    // The reset may arrive before the head (502), and the truncation before the response head.
    let Ok(head) = stream.recv_response().await else { return };
    if head.status() == 502 {
        return;
    }
    assert_eq!(head.status(), 200);
    let mut check = Check::new(client.tag);
    while let Ok(data) = stream.recv_data().await {
        let mut data = data.unwrap_or_else(|| panic!("{} of {len} bytes look complete", check.len));
        client::take(&mut data, &mut check);
    }
    assert!(check.len <= len / 2);
}

async fn up(client: &mut Client, len: u64, stop_at: Option<u64>) -> bool {
    if let Some(stop) = stop_at {
        let (mut sending, _receiving) = client.open("POST", &check_path(client)).await.split();
        let mut at = 0;
        while at < stop {
            let piece_len = (stop - at).min(70_001);
            sending.send_data(client.tag.bytes(at, piece_len as usize)).await.unwrap();
            at += piece_len;
        }
        sending.stop_stream(h3::error::Code::H3_REQUEST_CANCELLED);
        return false;
    }
    client.upload_checked(len).await;
    true
}

async fn every_byte_is_its_own(settings: Settings, faults: Option<&'static str>) {
    const CLIENTS: u64 = 12;
    let (address, seen) = origin::start();
    let gateway = Gateway::start(settings, address).await;
    if let Some(rate) = faults {
        let lossy = (address.port(), LOSS_PERCENT);
        Faults { shaped: (gateway.address.port(), rate), lossy }.apply();
    }
    let seed = std::env::var("RINGWAY_SEED").map_or(1, |text| text.parse().expect("a number"));
    eprintln!("RINGWAY_SEED={seed}");
    let tally = Tally::default();
    let until = now() + length(SHORT_S, ON_CI_S);
    let mut lives: Vec<_> = (0..CLIENTS)
        .map(|index| Box::pin(live(&gateway, seed * 1000 + index, &tally, until)))
        .collect();
    std::future::poll_fn(|cx| {
        lives.retain_mut(|life| life.as_mut().poll(cx).is_pending());
        if lives.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    drop(lives);
    seen.assert_right();
    let [whole, given_up, len] =
        [&tally.whole, &tally.given_up, &tally.len].map(|count| count.load(Ordering::Relaxed));
    eprintln!("{whole} exchanges whole, {given_up} given up, {} MB", len / 1_000_000);
    assert!(
        whole >= 20 && given_up >= 10,
        "too few exchanges: {whole} complete and {given_up} aborted"
    );
    if faults.is_some() {
        let (waited, lost) = Faults::seen();
        eprintln!("{waited} packets waited in the queue, {lost} segments lost upstream");
        assert!(waited > 0 && lost > 0, "the faults had no effect");
    }
    gateway.settle(30).await;
    gateway.stop();
}

#[test]
fn no_byte_is_corrupted_under_queueing_and_loss() {
    if network::enter() {
        run(every_byte_is_its_own(impatient("16MiB"), Some("60mbit")));
    }
}

#[test]
fn no_byte_is_corrupted_in_the_smallest_pool() {
    run(every_byte_is_its_own(impatient("6MiB"), None));
}
