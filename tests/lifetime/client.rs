//! HTTP/3 clients (quinn and h3): well-behaved ones, and ones that read or send slowly.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf as _, Bytes, BytesMut};
use ringway::testing::ClientTls;

use crate::body::{Check, Tag};
use crate::gateway::Gateway;

type Sending = h3::client::RequestStream<h3_quinn::SendStream<Bytes>, Bytes>;
type Receiving = h3::client::RequestStream<h3_quinn::RecvStream, Bytes>;
type Requesting = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// A client with one connection.
pub struct Client {
    pub requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    pub quic: quinn::Connection,
    pub tag: Tag,
    _endpoint: quinn::Endpoint,
}

/// Flow control and keep-alive of a client.
pub struct Manners {
    /// Receive window of each stream.
    pub stream_window: u32,
    /// Interval of keep-alive packets on an idle connection.
    pub keep_alive: Duration,
}

impl Default for Manners {
    fn default() -> Self {
        Self { stream_window: 1 << 20, keep_alive: Duration::from_secs(1) }
    }
}

/// Opens a QUIC connection without HTTP/3.
pub async fn quic(gateway: &Gateway, manners: Manners) -> (quinn::Endpoint, quinn::Connection) {
    let mut config = ClientTls::trusting(gateway.certificate.clone()).quic();
    let mut transport = quinn::TransportConfig::default();
    transport.stream_receive_window(manners.stream_window.into());
    transport.receive_window((64u32 << 20).into());
    transport.send_window(512 << 10);
    transport.keep_alive_interval(Some(manners.keep_alive));
    config.transport_config(Arc::new(transport));
    let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
    endpoint.set_default_client_config(config);
    let connection = endpoint.connect(gateway.address, "localhost").unwrap().await.unwrap();
    (endpoint, connection)
}

/// Opens a connection with ample windows.
pub async fn connect(gateway: &Gateway) -> Client {
    connect_as(gateway, Manners::default()).await
}

pub async fn connect_with(gateway: &Gateway, stream_window: u32) -> Client {
    connect_as(gateway, Manners { stream_window, ..Manners::default() }).await
}

pub async fn connect_as(gateway: &Gateway, manners: Manners) -> Client {
    let (endpoint, quic) = quic(gateway, manners).await;
    let connection = h3_quinn::Connection::new(quic.clone());
    let (mut driver, requests) = h3::client::new(connection).await.unwrap();
    tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    Client { requests, quic, tag: Tag::random(), _endpoint: endpoint }
}

impl Client {
    pub async fn open(&mut self, method: &str, path: &str) -> Requesting {
        let uri = format!("https://localhost{path}");
        let request = http::Request::builder().method(method).uri(uri).body(()).unwrap();
        self.requests.send_request(request).await.unwrap()
    }

    /// Requests `len` bytes of this connection's body.
    pub async fn begin_download(&mut self, len: u64) -> Requesting {
        let path = format!("/tagged/{len}/{}", self.tag.hex());
        let mut stream = self.open("GET", &path).await;
        stream.finish().await.unwrap();
        stream
    }

    /// Fetches and checks a complete body.
    pub async fn download(&mut self, len: u64) {
        let mut stream = self.begin_download(len).await;
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        let mut check = Check::new(self.tag);
        while let Some(mut data) = stream.recv_data().await.unwrap() {
            take(&mut data, &mut check);
        }
        assert_eq!(check.len, len);
    }

    /// Sends a body that the origin checks. Returns status and text of the response.
    pub async fn upload(&mut self, path: &str, len: u64) -> (u16, String) {
        let stream = self.open("POST", path).await;
        let tag = self.tag;
        let (sending, mut receiving) = stream.split();
        let sender = tokio::spawn(send(sending, tag, len));
        let status = receiving.recv_response().await.unwrap().status().as_u16();
        let mut text = BytesMut::new();
        while let Some(data) = receiving.recv_data().await.unwrap() {
            text.extend_from_slice(data.chunk());
        }
        sender.abort();
        (status, String::from_utf8(text.to_vec()).unwrap())
    }

    /// Sends a complete body that the origin checks.
    pub async fn upload_checked(&mut self, len: u64) {
        let path = format!("/check/{}", self.tag.hex());
        assert_eq!(self.upload(&path, len).await, (200, len.to_string()));
    }

    /// Sends a request without a body. Returns the status, and the response's length if it is
    /// complete.
    pub async fn get(&mut self, path: &str) -> (u16, Result<u64, h3::error::StreamError>) {
        let mut stream = self.open("GET", path).await;
        stream.finish().await.unwrap();
        let status = stream.recv_response().await.unwrap().status().as_u16();
        let mut len = 0;
        loop {
            match stream.recv_data().await {
                Ok(Some(data)) => len += data.remaining() as u64,
                Ok(None) => return (status, Ok(len)),
                Err(error) => return (status, Err(error)),
            }
        }
    }
}

/// Checks a received piece.
pub fn take(data: &mut impl bytes::Buf, check: &mut Check) {
    while data.has_remaining() {
        let piece = data.chunk();
        check.feed(piece).unwrap_or_else(|wrong| panic!("the client got {wrong}"));
        let len = piece.len();
        data.advance(len);
    }
}

/// Reads a tagged response to its end.
pub async fn receive(mut stream: Receiving, tag: Tag) -> u64 {
    assert_eq!(stream.recv_response().await.unwrap().status(), 200);
    let mut check = Check::new(tag);
    while let Some(mut data) = stream.recv_data().await.unwrap() {
        take(&mut data, &mut check);
    }
    check.len
}

/// Sends `len` bytes of the tag's body and finishes; stops if the other side does.
pub async fn send(mut stream: Sending, tag: Tag, len: u64) {
    let mut at = 0;
    while at < len {
        let piece_len = (len - at).min(100_003);
        if stream.send_data(tag.bytes(at, piece_len as usize)).await.is_err() {
            return;
        }
        at += piece_len;
    }
    let _ = stream.finish().await;
}
