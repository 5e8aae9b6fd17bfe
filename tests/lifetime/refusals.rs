//! Requests that the gateway refuses itself, sent byte by byte as no HTTP/3 library would.

use bytes::BytesMut;
use ringway::testing::http3::{ResponseReader, put_data_header, put_headers};

use crate::client::{self, Manners};
use crate::gateway::{Gateway, Settings};
use crate::{origin, run};

/// A frame header of HEADERS that announces a section of 1 GiB (RFC 9114 7.2.2).
const OVERLONG_HEADERS: [u8; 9] = [0x01, 0xc0, 0, 0, 0, 0x40, 0, 0, 0];

fn head(method: &str, path: &str) -> BytesMut {
    head_with(method, path, &[])
}

fn head_with(method: &str, path: &str, fields: &[(&str, &str)]) -> BytesMut {
    let mut out = BytesMut::new();
    let lines =
        [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", path)];
    put_headers(lines.into_iter().chain(fields.iter().copied()), &mut out);
    out
}

/// Sends these bytes on a stream of their own. Returns the status of the response, and the length
/// of its body.
async fn ask(quic: &quinn::Connection, bytes: &[u8]) -> (u16, u64) {
    let response = try_ask(quic, bytes).await.expect("a response");
    let mut reader = ResponseReader::default();
    let body_len = reader.handle(&response).unwrap();
    assert!(reader.is_whole());
    (reader.status().unwrap(), body_len)
}

/// Sends these bytes on a stream of their own. Returns the bytes of the response; `None` if the
/// connection is closed before it is complete.
async fn try_ask(quic: &quinn::Connection, bytes: &[u8]) -> Option<Vec<u8>> {
    let (mut sending, mut receiving) = quic.open_bi().await.ok()?;
    sending.write_all(bytes).await.ok()?;
    // The gateway may have stopped the request already.
    let _ = sending.finish();
    receiving.read_to_end(1 << 20).await.ok()
}

/// RFC 9110 9.3.2.
#[test]
fn a_head_that_is_refused_gets_no_body() {
    run(async {
        let (address, _) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        let (_endpoint, quic) = client::quic(&gateway, Manners::default()).await;
        let with_long_trailers =
            |method: &str| [&head(method, "/")[..], &OVERLONG_HEADERS].concat();
        let (status, body_len) = ask(&quic, &with_long_trailers("GET")).await;
        assert!(status == 431 && body_len > 0, "{status}, {body_len} bytes");
        assert_eq!(ask(&quic, &with_long_trailers("HEAD")).await, (431, 0));
        // The method is in the part that is not read.
        let (status, body_len) = ask(&quic, &OVERLONG_HEADERS).await;
        assert!(status == 431 && body_len > 0, "{status}, {body_len} bytes");
        gateway.stop();
    });
}

/// CVE-2023-44487: a client that sends a request which costs it nothing for each one that it
/// cancels may not cancel for ever.
#[test]
fn refused_requests_do_not_refill_the_budget_of_cancelled_ones() {
    const BUDGET: usize = 20;
    const ROUND_COUNT: usize = 4 * BUDGET;
    run(async {
        let (address, _) = origin::start();
        let limits = "max_stream_resets = 20";
        let gateway = Gateway::start(Settings { limits, ..Settings::default() }, address).await;
        for (path, is_closed) in [("/a/../b", true), ("/", false)] {
            let (_endpoint, quic) = client::quic(&gateway, Manners::default()).await;
            let mut cancelled_count = 0;
            while cancelled_count < ROUND_COUNT && quic.close_reason().is_none() {
                let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
                sending.write_all(&head("GET", "/late")).await.unwrap();
                sending.reset(0x10c_u32.into()).unwrap();
                receiving.stop(0x10c_u32.into()).unwrap();
                cancelled_count += 1;
                let _ = try_ask(&quic, &head("GET", path)).await;
            }
            assert_eq!(quic.close_reason().is_some(), is_closed, "{path}, {cancelled_count}");
            if is_closed {
                let error = quic.closed().await.to_string();
                assert!(error.contains("too many requests"), "{error}");
                // A few come back with time.
                assert!((BUDGET..2 * BUDGET).contains(&cancelled_count), "{cancelled_count}");
            }
        }
        gateway.stop();
    });
}

#[test]
fn a_field_name_with_an_underscore_is_refused_and_counted() {
    const RULE: &str = "holds an underscore";
    run(async {
        let (address, seen) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        let (_endpoint, quic) = client::quic(&gateway, Manners::default()).await;
        let lines = [("x-real", "1"), ("x_forwarded_for", "10.0.0.1")];
        let (status, body_len) = ask(&quic, &head_with("GET", "/", &lines)).await;
        assert!(status == 400 && body_len > 0, "{status}, {body_len} bytes");
        // In trailers, behind a body that has been passed on.
        let mut upload = head("POST", "/echo");
        put_data_header(1, &mut upload);
        upload.extend_from_slice(b"x");
        put_headers([("x_sum", "1")], &mut upload);
        let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
        sending.write_all(&upload).await.unwrap();
        let error = receiving.read_to_end(1 << 20).await.unwrap_err().to_string();
        assert!(error.contains("reset") && error.contains("270"), "H3_MESSAGE_ERROR: {error}");
        assert_eq!(gateway.metric("broken_rules_total", RULE), 2);
        assert!(seen.requests.load(std::sync::atomic::Ordering::Relaxed) <= 1);
        gateway.stop();
    });
}
