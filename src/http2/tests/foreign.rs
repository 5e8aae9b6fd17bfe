//! Exchanges with `h2`'s own client, which judges our frames and heads.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue, SET_COOKIE};
use http::{HeaderMap, HeaderName, Method, Request, StatusCode};

use super::super::wire::{Io, SharedWire};
use super::super::{Connection, Event, LocalSettings};
use super::SETTINGS;

type H2Client = h2::client::Connection<Io, Bytes>;

/// The client with its transport, between which and ours the test carries bytes.
struct Foreign {
    wire: SharedWire,
    client: H2Client,
    requests: h2::client::SendRequest<Bytes>,
    connection: Connection,
    /// Bytes that a turn carries at most, each way.
    turn_len: usize,
}

fn poll_now<T>(future: Pin<&mut (impl Future<Output = T> + ?Sized)>) -> Poll<T> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

impl Foreign {
    fn new(settings: &LocalSettings, turn_len: usize, window: u32) -> Self {
        let wire = SharedWire::default();
        let mut connection = Connection::new(settings);
        let mut builder = h2::client::Builder::new();
        builder.initial_window_size(window).initial_connection_window_size(window);
        let mut handshake = Box::pin(builder.handshake(Io(SharedWire::clone(&wire))));
        let (requests, client) = loop {
            wire.borrow_mut().set_room(turn_len);
            let polled = poll_now(handshake.as_mut());
            carry(&wire, &mut connection, turn_len);
            if let Poll::Ready(parts) = polled {
                break parts.unwrap();
            }
        };
        Self { wire, client, requests, connection, turn_len }
    }

    /// Carries bytes both ways once. Returns our events.
    fn turn(&mut self) -> Vec<Event> {
        self.wire.borrow_mut().set_room(self.turn_len);
        assert!(poll_now(Pin::new(&mut self.client)).is_pending(), "the client ended");
        carry(&self.wire, &mut self.connection, self.turn_len);
        std::iter::from_fn(|| self.connection.poll()).collect()
    }

    fn turns_until<T>(&mut self, mut what: impl FnMut(&mut Self, Vec<Event>) -> Option<T>) -> T {
        for _ in 0..100_000 {
            let events = self.turn();
            if let Some(found) = what(self, events) {
                return found;
            }
        }
        panic!("no progress");
    }
}

fn carry(wire: &SharedWire, connection: &mut Connection, turn_len: usize) {
    let mut out = Vec::new();
    wire.borrow_mut().take_output(&mut out, turn_len);
    out.drain(..).for_each(|bytes| connection.handle(bytes));
    connection.take_output(&mut out, turn_len);
    out.into_iter().for_each(|bytes| wire.borrow_mut().push_input(bytes));
}

fn request(method: Method) -> Request<()> {
    let uri = "https://a.example/path?q=1";
    Request::builder().method(method).uri(uri).header("x-a", "1").body(()).unwrap()
}

fn trailers() -> HeaderMap {
    HeaderMap::from_iter([(HeaderName::from_static("x-sum"), HeaderValue::from_static("7"))])
}

const BODY_LEN: usize = 1 << 20;

#[test]
fn a_large_body_goes_each_way_through_small_windows() {
    let small = LocalSettings { stream_window: 16 * 1024, connection_window: 70_000, ..SETTINGS };
    let body: Vec<u8> = (0..BODY_LEN).map(|index| (index * 31 % 251) as u8).collect();
    for turn_len in [700, 50_000] {
        let mut world = Foreign::new(&small, turn_len, 20_000);
        let (response, upload) = world.requests.send_request(request(Method::POST), false).unwrap();
        assert!(world.upload(&body, upload) == body, "the upload is what was sent");
        assert!(world.download(&body, response) == body, "the download is what was written");
        world.turn();
        assert!(world.connection.is_idle());
    }
}

impl Foreign {
    /// Sends a request's body with trailers. Returns the body that we were handed.
    fn upload(&mut self, body: &[u8], mut upload: h2::SendStream<Bytes>) -> Vec<u8> {
        upload.reserve_capacity(body.len());
        let (mut sent, mut received, mut ended) = (0, Vec::new(), false);
        self.turns_until(|world, events| {
            let capacity = upload.capacity().min(body.len() - sent);
            if capacity > 0 {
                let piece = Bytes::copy_from_slice(&body[sent..sent + capacity]);
                upload.send_data(piece, false).unwrap();
                sent += capacity;
                if sent == body.len() {
                    upload.send_trailers(trailers()).unwrap();
                }
            }
            for event in events {
                match event {
                    Event::Request { stream: 1, head, ended: false } => {
                        assert_eq!(head.path(), b"/path?q=1");
                        assert_eq!(head.fields[0].1, "1");
                    }
                    Event::Body { stream: 1, piece } => {
                        world.connection.release(1, piece.len());
                        received.extend_from_slice(&piece);
                    }
                    Event::Trailers { stream: 1, fields } => assert_eq!(fields[0].0, "x-sum"),
                    Event::End { stream: 1 } => ended = true,
                    other => panic!("{other:?}"),
                }
            }
            ended.then_some(())
        });
        received
    }

    /// Writes a response with trailers. Returns the body that the client was handed.
    fn download(&mut self, body: &[u8], mut response: h2::client::ResponseFuture) -> Vec<u8> {
        let cookies = ["a=1", "b=2"].map(|value| (SET_COOKIE, HeaderValue::from_static(value)));
        let kind = (CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let fields = cookies.into_iter().chain([kind]).collect();
        self.connection.respond(1, StatusCode::CREATED, fields, false);
        let mut pieces: VecDeque<Bytes> = body.chunks(10_000).map(Bytes::copy_from_slice).collect();
        self.connection.write(1, &mut pieces);
        let (mut download, mut received, mut finished) = (None, Vec::new(), false);
        let fields = self.turns_until(|world, events| {
            for event in events {
                assert_eq!(event, Event::Writable { stream: 1 });
                world.connection.write(1, &mut pieces);
            }
            if pieces.is_empty() && !std::mem::replace(&mut finished, true) {
                let sum = (HeaderName::from_static("x-sum"), HeaderValue::from_static("7"));
                world.connection.finish(1, Some(vec![sum]));
            }
            if download.is_none()
                && let Poll::Ready(response) = poll_now(Pin::new(&mut response))
            {
                let response = response.unwrap();
                assert_eq!(response.status(), StatusCode::CREATED);
                assert_eq!(response.headers().get_all(SET_COOKIE).iter().count(), 2);
                download = Some(response.into_body());
            }
            let download = download.as_mut()?;
            let mut cx = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(piece)) = download.poll_data(&mut cx) {
                let piece = piece.unwrap();
                download.flow_control().release_capacity(piece.len()).unwrap();
                received.extend_from_slice(&piece);
            }
            match download.poll_trailers(&mut cx) {
                Poll::Ready(fields) => fields.unwrap(),
                Poll::Pending => None,
            }
        });
        assert_eq!(fields, trailers());
        received
    }
}

#[test]
fn many_exchanges_share_compression_state() {
    let mut world = Foreign::new(&SETTINGS, 1 << 20, 65_535);
    for index in 0..300_u32 {
        let method = if index % 2 == 0 { Method::GET } else { Method::HEAD };
        let (mut response, _) = world.requests.send_request(request(method.clone()), true).unwrap();
        let stream = world.turns_until(|_, events| match &events[..] {
            [] => None,
            [Event::Request { stream, head, ended: true }] => {
                assert_eq!(
                    (&head.method, &head.fields[0].1),
                    (&method, &HeaderValue::from_static("1"))
                );
                Some(*stream)
            }
            other => panic!("{other:?}"),
        });
        let value = HeaderValue::from_str(&format!("v{}", index % 7)).unwrap();
        let fields = vec![(HeaderName::from_static("x-b"), value.clone())];
        world.connection.respond(stream, StatusCode::OK, fields, true);
        let response = world.turns_until(|_, events| {
            assert_eq!(events, []);
            match poll_now(Pin::new(&mut response)) {
                Poll::Ready(response) => Some(response.unwrap()),
                Poll::Pending => None,
            }
        });
        assert_eq!(response.headers()["x-b"], value);
        assert!(response.body().is_end_stream());
    }
    assert!(world.connection.is_idle());
}
