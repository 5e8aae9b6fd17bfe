//! Requests that the gateway refuses itself, sent byte by byte as no HTTP/3 library would.

use bytes::BytesMut;
use ringway::testing::http3::{ResponseReader, put_headers};

use crate::client::{self, Manners};
use crate::gateway::{Gateway, Settings};
use crate::{origin, run};

/// A frame header of HEADERS that announces a section of 1 GiB (RFC 9114 7.2.2).
const OVERLONG_HEADERS: [u8; 9] = [0x01, 0xc0, 0, 0, 0, 0x40, 0, 0, 0];

fn head(method: &str) -> BytesMut {
    let mut out = BytesMut::new();
    let lines =
        [(":method", method), (":scheme", "https"), (":authority", "localhost"), (":path", "/")];
    put_headers(lines, &mut out);
    out
}

/// Sends these bytes on a stream of their own. Returns the status of the response, and the length
/// of its body.
async fn ask(quic: &quinn::Connection, bytes: &[u8]) -> (u16, u64) {
    let (mut sending, mut receiving) = quic.open_bi().await.unwrap();
    sending.write_all(bytes).await.unwrap();
    // The gateway may have stopped the request already.
    let _ = sending.finish();
    let response = receiving.read_to_end(1 << 20).await.unwrap();
    let mut reader = ResponseReader::default();
    let body_len = reader.handle(&response).unwrap();
    assert!(reader.is_whole());
    (reader.status().unwrap(), body_len)
}

/// RFC 9110 9.3.2.
#[test]
fn a_head_that_is_refused_gets_no_body() {
    run(async {
        let (address, _) = origin::start();
        let gateway = Gateway::start(Settings::default(), address).await;
        let (_endpoint, quic) = client::quic(&gateway, Manners::default()).await;
        let with_long_trailers = |method: &str| [&head(method)[..], &OVERLONG_HEADERS].concat();
        let (status, body_len) = ask(&quic, &with_long_trailers("GET")).await;
        assert!(status == 431 && body_len > 0, "{status}, {body_len} bytes");
        assert_eq!(ask(&quic, &with_long_trailers("HEAD")).await, (431, 0));
        // The method is in the part that is not read.
        assert_eq!(ask(&quic, &OVERLONG_HEADERS).await, (431, 0));
        gateway.stop();
    });
}
