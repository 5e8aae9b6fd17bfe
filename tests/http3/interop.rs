//! The `h3` crate's client over quinn against our framing on a bare quinn server.

use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex};

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, StatusCode};
use quinn::crypto::rustls::QuicServerConfig;
use ringway::testing::ClientTls;
use ringway::testing::internal::config::{Certificate, CertificateSource, HostPattern};
use ringway::testing::internal::http3::{
    Connection, RequestEvent, RequestStream, UniVerdict, encode_data_header, encode_response_head,
    encode_trailers,
};
use ringway::testing::internal::message::Fields;
use ringway::testing::internal::tls::ServerTls;

use crate::SETTINGS;

fn endpoints() -> (quinn::Endpoint, quinn::Endpoint) {
    let source = CertificateSource::SelfSigned;
    let hosts = vec![HostPattern::Exact("localhost".to_owned())];
    let tls = ServerTls::load(
        &[Certificate { hosts, addresses: Vec::new(), source }],
        ringway::testing::internal::config::Tls::default(),
    )
    .unwrap();
    let server = QuicServerConfig::try_from(tls.config()).unwrap();
    let server = quinn::ServerConfig::with_crypto(Arc::new(server));
    let address = (Ipv4Addr::LOCALHOST, 0).into();
    let mut client_endpoint = quinn::Endpoint::client(address).unwrap();
    client_endpoint.set_default_client_config(ClientTls::trusting_server(&tls).quic());
    (quinn::Endpoint::server(server, address).unwrap(), client_endpoint)
}

/// Serves one connection until it closes: every response echoes its request.
async fn serve(endpoint: quinn::Endpoint, http3: Arc<Mutex<Connection>>) {
    let quic = endpoint.accept().await.unwrap().await.unwrap();
    let preface = http3.lock().unwrap().control_preface();
    let mut control = quic.open_uni().await.unwrap();
    control.write_chunk(preface).await.unwrap();
    loop {
        tokio::select! {
            uni = quic.accept_uni() => {
                let Ok(uni) = uni else { return };
                tokio::spawn(read_uni(uni, Arc::clone(&http3)));
            }
            bi = quic.accept_bi() => {
                let Ok((send, receive)) = bi else { return };
                tokio::spawn(response(send, receive));
            }
        }
    }
}

async fn read_uni(mut stream: quinn::RecvStream, http3: Arc<Mutex<Connection>>) {
    let id = u64::from(stream.id());
    while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
        let verdict = http3.lock().unwrap().handle_uni(id, chunk.bytes);
        if let UniVerdict::StopSending(code) = verdict.expect("h3 keeps the rules") {
            stream.stop(quinn::VarInt::from_u64(code.value()).unwrap()).unwrap();
            return;
        }
    }
}

async fn response(mut send: quinn::SendStream, mut receive: quinn::RecvStream) {
    let mut stream = RequestStream::default();
    let mut head = None;
    let mut body = BytesMut::new();
    let mut trailers = Fields::new();
    // Small reads, so that frames arrive in pieces.
    while let Some(chunk) = receive.read_chunk(777, true).await.unwrap() {
        stream.handle(chunk.bytes);
        while let Some(event) = stream.poll(&SETTINGS).expect("h3 keeps the rules") {
            match event {
                RequestEvent::Head(came) => assert!(head.replace(came).is_none()),
                RequestEvent::Body(piece) => body.extend_from_slice(&piece),
                RequestEvent::Trailers(fields) => trailers = fields,
            }
        }
    }
    stream.handle_end().expect("h3 sends whole requests");
    let head = head.expect("a whole request has a head");
    let mut fields = head.fields.clone();
    let path = std::str::from_utf8(head.path()).unwrap();
    let target = format!("{} {} {path:?}", head.method, head.authority().as_str());
    fields.push(("x-target".parse().unwrap(), HeaderValue::from_str(&target).unwrap()));
    let mut out = BytesMut::new();
    encode_response_head(StatusCode::EARLY_HINTS, &[], &mut out);
    encode_response_head(StatusCode::OK, &fields, &mut out);
    encode_data_header(body.len() as u64, &mut out);
    out.extend_from_slice(&body);
    if !trailers.is_empty() {
        encode_trailers(&trailers, &mut out);
    }
    send.write_chunk(out.freeze()).await.unwrap();
    send.finish().unwrap();
    let _ = send.stopped().await;
}

#[tokio::test]
async fn requests_from_the_h3_crate_are_served_and_it_reads_the_responses() {
    let (server, client) = endpoints();
    let address = server.local_addr().unwrap();
    let http3 = Arc::new(Mutex::new(Connection::new(&SETTINGS)));
    let serving = tokio::spawn(serve(server, Arc::clone(&http3)));
    let quic = client.connect(address, "localhost").unwrap().await.unwrap();
    let mut builder = h3::client::builder();
    builder.max_field_section_size(12_345);
    let (mut driver, mut requests) =
        builder.build::<_, _, Bytes>(h3_quinn::Connection::new(quic)).await.unwrap();
    let driving = tokio::spawn(async move { driver.wait_idle().await });

    for body_len in [0usize, 1, 100_000] {
        let body = Bytes::from_iter((0..body_len).map(|n| n as u8));
        let request = Request::post("https://localhost:8443/a/b?c=d")
            .header("x-custom", "w\u{e4}rmer")
            .header("cookie", "a=b")
            .header("content-length", body_len.to_string())
            .body(())
            .unwrap();
        let mut stream = requests.send_request(request).await.unwrap();
        stream.send_data(body.clone()).await.unwrap();
        let mut trailers = HeaderMap::new();
        trailers.insert("x-sum", HeaderValue::from_static("42"));
        stream.send_trailers(trailers.clone()).await.unwrap();
        stream.finish().await.unwrap();

        let early = stream.recv_response().await.unwrap();
        assert_eq!(early.status(), StatusCode::EARLY_HINTS);
        let response = stream.recv_response().await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["x-target"], "POST localhost:8443 \"/a/b?c=d\"");
        assert_eq!(response.headers()["x-custom"].as_bytes(), "w\u{e4}rmer".as_bytes());
        assert_eq!(response.headers()["cookie"], "a=b");
        let mut echoed = BytesMut::new();
        while let Some(mut piece) = stream.recv_data().await.unwrap() {
            echoed.extend_from_slice(&piece.copy_to_bytes(piece.remaining()));
        }
        assert_eq!(echoed, body);
        assert_eq!(stream.recv_trailers().await.unwrap(), Some(trailers));
    }
    drop(requests);
    let _ = driving.await.unwrap();
    serving.await.unwrap();
}
