//! Upstreams that refuse, reset, drop packets, hang or trickle, and a process without file
//! descriptors: each client gets a response in time, nothing spins, and everything recovers.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use crate::client::connect;
use crate::gateway::{Gateway, Settings};
use crate::{now, origin, pause, run};

const TIMEOUT: &str = r#"{ connect = "800ms", response = "1200ms", idle = "30s" }"#;

/// Returns a listener whose accept queue is full: further connects hang.
fn black_hole() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    // SAFETY: takes two integers; the descriptor is live.
    assert_eq!(unsafe { libc::listen(listener.as_raw_fd(), 0) }, 0);
    let patience = Duration::from_millis(100);
    let fill = || TcpStream::connect_timeout(&address, patience).ok();
    let queued = std::iter::from_fn(fill).collect();
    (address, listener, queued)
}

fn closed_port() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[test]
fn each_upstream_fault_is_reported_to_the_client_in_time() {
    run(async {
        let (address, _) = origin::start();
        let (hole, listener, queued) = black_hole();
        let settings = Settings { timeout: TIMEOUT, ..Settings::default() };
        let upstreams = [("origin", address), ("closed", closed_port()), ("hole", hole)];
        let gateway = Gateway::start_with(settings, &upstreams).await;
        let mut client = connect(&gateway).await;
        // Path, status, minimum and maximum milliseconds.
        for (path, status, least, most) in [
            ("/closed/x", 502, 0, 500),
            ("/rst", 502, 0, 500),
            ("/hole/x", 504, 700, 2000),
            ("/late", 504, 1100, 2500),
        ] {
            let mut tasks = Vec::new();
            for _ in 0..20 {
                let mut stream = client.open("GET", path).await;
                stream.finish().await.unwrap();
                tasks.push((stream, now()));
            }
            for (mut stream, began) in tasks {
                assert_eq!(stream.recv_response().await.unwrap().status(), status, "{path}");
                let took = now() - began;
                let range = Duration::from_millis(least)..Duration::from_millis(most);
                assert!(range.contains(&took), "{path} took {took:?}");
            }
            client.download(1 << 20).await;
        }
        // The response is truncated, not complete.
        let began = now();
        let (status, outcome) = client.get("/hang-after-head").await;
        assert!(status == 200 && outcome.is_err(), "{status} {outcome:?}");
        assert!(now() - began < Duration::from_secs(4));
        // A slow response is not an error.
        assert_eq!(client.get("/drip/3").await.1.unwrap(), 3);
        gateway.assert_at_rest("after the faults").await;
        // The black hole begins to respond.
        drop((queued, listener));
        let listener = TcpListener::bind(hole).unwrap();
        std::thread::spawn(move || {
            use std::io::{Read as _, Write as _};
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]);
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
            }
        });
        assert_eq!(client.get("/hole/x").await.0, 200);
        drop(client);
        gateway.settle(10).await;
        gateway.stop();
    });
}

#[test]
fn without_descriptors_requests_are_answered_503() {
    run(async {
        let (address, _) = origin::start();
        let timeout = r#"{ connect = "1s", response = "2s", idle = "30s" }"#;
        let settings = Settings { files_max: Some(96), timeout, ..Settings::default() };
        let gateway = Gateway::start(settings, address).await;
        let mut clients = Vec::new();
        let mut held = Vec::new();
        for _ in 0..3 {
            let mut client = connect(&gateway).await;
            for _ in 0..90 {
                let mut stream = client.open("GET", "/late").await;
                stream.finish().await.unwrap();
                held.push(stream);
            }
            clients.push(client);
        }
        pause(300).await;
        gateway.assert_at_rest("without descriptors").await;
        let mut statuses = Vec::new();
        for mut stream in held {
            statuses.push(stream.recv_response().await.unwrap().status().as_u16());
        }
        let count = |status| statuses.iter().filter(|seen| **seen == status).count();
        assert_eq!(count(503) + count(504), 270, "{statuses:?}");
        assert!(count(503) > 150 && count(504) > 10, "{} and {}", count(503), count(504));
        // New connections and the admin endpoint still work, and so does the origin.
        let mut client = connect(&gateway).await;
        client.download(1 << 20).await;
        client.upload_checked(1 << 20).await;
        drop((client, clients));
        gateway.settle(10).await;
        gateway.stop();
    });
}
