//! Tagged bodies both ways, some of them given up at random moments by either side, while packets
//! wait in a queue behind the gateway and the upstream leg loses segments: a slot that is handed
//! back while anybody still reads it shows as poison or as another connection's tag.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use crate::body::Check;
use crate::client::{self, Client, connect};
use crate::gateway::{Gateway, Settings};
use crate::network::{self, Faults};
use crate::{length, now, origin, run};

/// What the short form of each of the two runs takes; with CI set they take a minute together.
const SHORT_S: u64 = 8;
const ON_CI_S: u64 = 30;

/// Of a hundred segments on the upstream leg, so many are lost.
const LOSS_PERCENT: u8 = 5;

/// More than any exchange takes, and less than any timeout of the gateway. A segment that is lost
/// five times in a row comes after 6 s.
const PATIENCE: Duration = Duration::from_secs(18);

#[derive(Default)]
struct Tally {
    whole: AtomicU64,
    given_up: AtomicU64,
    len: AtomicU64,
}

/// One client's life: exchange after exchange, each whole or given up somewhere.
async fn live(gateway: &Gateway, seed: u64, tally: &Tally, until: std::time::Instant) {
    let mut dice = SmallRng::seed_from_u64(seed);
    let mut client = connect(gateway).await;
    while now() < until {
        if dice.random_ratio(1, 12) {
            // The connection goes, and what was on its way with it.
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
            panic!("a {way} of {len} bytes, to be given up at {stop_at:?}, hangs");
        };
        let count = if is_whole { &tally.whole } else { &tally.given_up };
        count.fetch_add(1, Ordering::Relaxed);
        tally.len.fetch_add(stop_at.unwrap_or(len), Ordering::Relaxed);
    }
}

/// quinn does not get its close out while a congestion window is full: then the gateway only
/// learns by silence, which is to be short here. Its upstreams may be slow: segments get lost.
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
        // Dropped unread, quinn tells that it wants no more.
        return false;
    }
    assert_eq!(check.len, len);
    true
}

/// The origin gives up: what came is right, and does not look whole.
async fn broken(client: &mut Client, len: u64) {
    let path = format!("/broken/{len}/{}", client.tag.hex());
    let mut stream = client.open("GET", &path).await;
    stream.finish().await.unwrap();
    // The reset may overtake the head (502), and the response's cut its head.
    let Ok(head) = stream.recv_response().await else { return };
    if head.status() == 502 {
        return;
    }
    assert_eq!(head.status(), 200);
    let mut check = Check::new(client.tag);
    while let Ok(data) = stream.recv_data().await {
        let mut data = data.unwrap_or_else(|| panic!("{} of {len} bytes look whole", check.len));
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
    assert!(whole >= 20 && given_up >= 10, "too little happened: {whole} and {given_up}");
    if faults.is_some() {
        let (waited, lost) = Faults::seen();
        eprintln!("{waited} packets waited in the queue, {lost} segments lost upstream");
        assert!(waited > 0 && lost > 0, "the faults did nothing");
    }
    gateway.settle(30).await;
    gateway.stop();
}

#[test]
fn every_byte_is_its_own_behind_a_queue_and_loss() {
    if network::enter() {
        run(every_byte_is_its_own(impatient("16MiB"), Some("60mbit")));
    }
}

#[test]
fn every_byte_is_its_own_in_the_smallest_pool() {
    run(every_byte_is_its_own(impatient("6MiB"), None));
}
