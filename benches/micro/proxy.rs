//! The proxy in memory: a request head becomes HTTP/1.1 bytes for a kept connection. The difference
//! between many routes and one is the cost of the lookup.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use divan::Bencher;
use http::{HeaderName, HeaderValue, Method};
use ringway::testing;
use ringway::testing::internal::config::{HostPattern, Route};
use ringway::testing::internal::message::{
    Authority, Head, Path, Protocol, Scheme, Sender, Target,
};
use ringway::testing::internal::proxy::{
    Downstream, Output, Proxy, Request, UpstreamCommand, UpstreamEvent, UpstreamKey,
};

use crate::client::{REQUEST, configuration};

const RESPONSE: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// A proxy with one upstream connection, idle or awaiting a response.
struct World {
    now: Instant,
    proxy: Proxy,
    request: Request,
    connection: Option<UpstreamKey>,
    written_len: usize,
}

impl World {
    /// Returns a world in which the request matches only the last of `route_count` routes.
    fn new(route_count: usize) -> Self {
        let mut config = configuration();
        let upstream = config.routes[0].upstream;
        config.routes = (1..route_count)
            .map(|index| Route {
                host: Some(HostPattern::Exact(format!("site-{}.example", index / 10))),
                path_prefix: format!("/area-{}", index % 10),
                upstream,
                request_timeout: None,
                needs_certificate: false,
            })
            .collect();
        let host = Some(HostPattern::Exact("localhost".to_owned()));
        config.routes.push(Route {
            host,
            path_prefix: "/assets".to_owned(),
            upstream,
            request_timeout: None,
            needs_certificate: false,
        });
        let proxy = Proxy::new(Arc::new(config), 1);
        let (now, request) = (testing::epoch(), request());
        let mut world = Self { now, proxy, request, connection: None, written_len: 0 };
        world.send(world.request.clone());
        let key = world.connection.expect("a connection is asked for");
        world.proxy.handle_upstream(now, key, UpstreamEvent::Connected);
        world.settle();
        assert!(world.written_len > 0, "the request found its route");
        world
    }

    /// Sends the origin's response to the last request, so that the connection is free; not
    /// measured.
    fn response(&mut self) -> Request {
        let key = self.connection.expect("connected at the start");
        self.proxy.handle_upstream(self.now, key, UpstreamEvent::Wrote);
        self.settle();
        let response = UpstreamEvent::Received(BytesMut::from(RESPONSE));
        self.proxy.handle_upstream(self.now, key, response);
        self.settle();
        self.written_len = 0;
        self.request.clone()
    }

    /// Handles one request without a body until its bytes are to be written. Returns their number.
    fn send(&mut self, request: Request) -> usize {
        let downstream = Downstream { connection: 1, stream: 0 };
        self.proxy.handle_request(self.now, downstream, request, true);
        self.settle();
        self.written_len
    }

    fn settle(&mut self) {
        while let Some(output) = self.proxy.poll(self.now) {
            match output {
                Output::Upstream(UpstreamCommand::Connect { key, .. }) => {
                    self.connection = Some(key)
                }
                Output::Upstream(UpstreamCommand::Write { pieces, .. }) => {
                    self.written_len += pieces.iter().map(Bytes::len).sum::<usize>();
                }
                Output::Upstream(UpstreamCommand::Close { .. }) => panic!("the connection is kept"),
                _ => {}
            }
        }
    }
}

fn request() -> Request {
    let fields = REQUEST[4..]
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    Request {
        head: Head {
            method: Method::GET,
            target: Target::Origin {
                scheme: Scheme::Https,
                authority: Authority::parse(Bytes::from_static(b"localhost")).expect("valid"),
                path: Path::parse(Bytes::from_static(b"/assets/app.4f1a2b.js?v=31"))
                    .expect("valid"),
            },
            fields: fields.collect(),
            content_length: None,
        },
        sender: Sender {
            address: SocketAddr::from(([192, 0, 2, 9], 40_000)),
            server_name: None,
            certificate: None,
            protocol: Protocol::Http3,
            is_early: false,
        },
        listener: Arc::new(configuration().listeners[0].clone()),
        misdirected: false,
    }
}

/// Routes one request head past this many routes, dispatches it and writes it as HTTP/1.1.
#[divan::bench(args = [1, 100, 10_000], sample_size = 1, sample_count = 2_000)]
fn request_to_http1(bencher: Bencher<'_, '_>, route_count: usize) {
    let world = RefCell::new(World::new(route_count));
    bencher.with_inputs(|| world.borrow_mut().response()).bench_local_values(|request| {
        let len = world.borrow_mut().send(request);
        assert!(len > 300, "{len} bytes of head");
    });
}
