//! Workers in threads, a client of another stack (quinn and h3), and an origin over loopback.

use std::cell::RefCell;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use tokio::sync::{mpsc, oneshot};

use super::super::mailbox::{
    Command, Edge, ListeningEdge, MailboxSender, Snapshot, WorkerEvent, WorkerOutcome, mailbox,
};
use super::super::streams::StreamOwner;
use super::super::{ProcessKeys, WorkerSetup, run};
use crate::config::Config;
use crate::config::testing::minimal;
use crate::host::eventfd;
use crate::host::socket::{EdgeGroup, ListenerGroup, SocketGroup, Transports};
use crate::limits::SLOT_LEN;
use crate::metrics::WorkerReport;
use crate::pool::{Hugepages, Pool, PoolPlan, RegionHandle, Regions};
use crate::testing::origin::{self, Next, Request};
use crate::testing::{self, ClientTls};
use crate::tls::{ServerTls, fill_random};

/// Minimum length of a bulk piece: framing and heads are shorter.
pub(super) const BULK_LEN: usize = 1024;

/// Bulk bytes that a worker has written to upstreams, by location.
#[derive(Debug, Default)]
pub(crate) struct Witness {
    pub(super) in_region: AtomicU64,
    pub(super) elsewhere: AtomicU64,
}

impl Witness {
    /// Counts a write if it is to an upstream.
    pub(in crate::worker) fn see(&self, owner: StreamOwner, pieces: &[Bytes]) {
        if let StreamOwner::Client(_) = owner {
            return;
        }
        for piece in pieces.iter().filter(|piece| piece.len() >= BULK_LEN) {
            let is_in_region = Pool::contains(piece.as_ptr());
            let place = if is_in_region { &self.in_region } else { &self.elsewhere };
            place.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
    }
}

/// A running worker, its mailbox and events.
pub(super) struct Running {
    pub(super) address: SocketAddr,
    pub(super) mailbox: MailboxSender,
    pub(super) events: mpsc::UnboundedReceiver<WorkerEvent>,
    pub(super) thread: JoinHandle<WorkerOutcome>,
    pub(super) tls: ServerTls,
    pub(super) witness: Arc<Witness>,
    /// Keeps the sockets open, as main does.
    pub(super) group: Arc<SocketGroup>,
    pub(super) tcp: Arc<ListenerGroup>,
}

pub(super) fn start(origin: SocketAddr, slot_count: usize) -> Running {
    start_in(region(slot_count), minimal(origin))
}

pub(super) fn region(slot_count: usize) -> RegionHandle {
    let plan = PoolPlan::new(slot_count * SLOT_LEN).unwrap();
    Regions::reserve(1, plan).unwrap().lend(Hugepages::Off).unwrap().0
}

/// State that the workers of a process share.
pub(super) struct Process {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) keys: ProcessKeys,
    pub(super) group: Arc<SocketGroup>,
    pub(super) tcp: Arc<ListenerGroup>,
}

impl Process {
    pub(super) fn new(config: Config, worker_count: u16) -> Process {
        let tls = ServerTls::load(&config.certificates, config.tls.clone()).unwrap();
        let keys = ProcessKeys::generate(fill_random);
        let address = config.listeners[0].addresses[0];
        let transports = Transports { udp: true, tcp: true };
        let bound = EdgeGroup::bind(address, transports, worker_count, keys.cid_mask).unwrap();
        let (group, tcp) = (Arc::new(bound.udp.unwrap()), Arc::new(bound.tcp.unwrap()));
        let edges = vec![Edge { address, listener: 0, group: Arc::clone(&group) }];
        let listening = vec![ListeningEdge { address, listener: 0, group: Arc::clone(&tcp) }];
        let config = Arc::new(config);
        let snapshot = Arc::new(Snapshot { generation: 1, config, tls, edges, listening });
        Process { snapshot, keys, group, tcp }
    }
}

/// Returns a worker's setup, and the ends of its channels that stay outside of it.
pub(super) fn setup_in(
    region: RegionHandle,
    process: &Process,
    index: u16,
) -> (WorkerSetup, MailboxSender, mpsc::UnboundedReceiver<WorkerEvent>) {
    let (access, mut batches) = mpsc::channel(64);
    let (events, receiver) = mpsc::unbounded_channel();
    let (sender, mailbox) = mailbox(eventfd::eventfd().unwrap(), access);
    // A slow log: it keeps all records, none of which may pin a slot.
    thread::spawn(move || {
        let mut kept = Vec::new();
        while let Some(batch) = batches.blocking_recv() {
            kept.push(batch);
        }
    });
    let setup = WorkerSetup {
        index,
        count: process.group.sockets.len() as u16,
        core: None,
        region,
        heap_len_max: 1 << 30,
        snapshot: RefCell::new(Arc::clone(&process.snapshot)),
        keys: process.keys.clone(),
        random: fill_random,
        mailbox,
        events,
        witness: Arc::default(),
    };
    (setup, sender, receiver)
}

pub(super) fn start_in(region: RegionHandle, config: Config) -> Running {
    start_worker(region, &Process::new(config, 1), 0)
}

pub(super) fn start_worker(region: RegionHandle, process: &Process, index: u16) -> Running {
    let (setup, mailbox, events) = setup_in(region, process, index);
    let (address, witness) = (process.group.address, Arc::clone(&setup.witness));
    let tls = setup.snapshot.borrow().tls.clone();
    let thread = thread::spawn(move || run(setup));
    let (group, tcp) = (Arc::clone(&process.group), Arc::clone(&process.tcp));
    Running { address, mailbox, events, thread, tls, witness, group, tcp }
}

impl Running {
    pub(super) fn tell(&self, command: Command) {
        assert!(self.mailbox.send(command).is_ok(), "the worker is running");
    }

    /// Has the worker apply a configuration.
    pub(super) async fn apply(&self, config: Arc<Config>) {
        self.apply_with(config, vec![self.edge()]).await;
    }

    /// Returns the socket that the worker has from the start, for the first listener.
    pub(super) fn edge(&self) -> Edge {
        Edge { address: self.address, listener: 0, group: Arc::clone(&self.group) }
    }

    /// Has the worker apply a configuration with these sockets.
    pub(super) async fn apply_with(&self, config: Arc<Config>, edges: Vec<Edge>) {
        let tls = self.tls.clone();
        let group = Arc::clone(&self.tcp);
        let listening = vec![ListeningEdge { address: self.address, listener: 0, group }];
        let snapshot = Arc::new(Snapshot { generation: 2, config, tls, edges, listening });
        let (done, applied) = oneshot::channel();
        self.tell(Command::Apply { snapshot, done });
        assert_eq!(applied.await.expect("a live worker responds"), Ok(()));
    }

    pub(super) async fn report(&self) -> WorkerReport {
        let (sender, receiver) = oneshot::channel();
        self.tell(Command::Report(sender));
        *receiver.await.expect("a live worker reports")
    }

    /// Returns the first report for which `settled` holds, within ten seconds.
    pub(super) async fn report_when(
        &self,
        settled: impl Fn(&WorkerReport) -> bool,
    ) -> WorkerReport {
        for _ in 0..200 {
            let report = self.report().await;
            if settled(&report) {
                return report;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("not settled in time: {:?}", self.report().await.gauges);
    }

    pub(super) fn stop(self) {
        self.tell(Command::Stop);
        let end = self.thread.join().expect("the thread itself does not panic");
        assert!(matches!(end, WorkerOutcome::Finished), "{end:?}");
    }

    pub(super) async fn client(&self) -> Client {
        self.client_of(self.address).await.expect("a connection")
    }

    /// Returns a client that is connected to this address, or why it is not.
    pub(super) async fn client_of(
        &self,
        address: SocketAddr,
    ) -> Result<Client, quinn::ConnectionError> {
        let mut endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        endpoint.set_default_client_config(ClientTls::trusting_server(&self.tls).quic());
        let connection = endpoint.connect(address, "localhost").unwrap().await?;
        let quic = h3_quinn::Connection::new(connection);
        let (mut driver, requests) = h3::client::new(quic).await.unwrap();
        tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Client { requests, _endpoint: endpoint })
    }
}

type RequestStream = h3::client::RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

pub(super) struct Client {
    pub(super) requests: h3::client::SendRequest<h3_quinn::OpenStreams, Bytes>,
    pub(super) _endpoint: quinn::Endpoint,
}

impl Client {
    /// Sends a request and returns the response's status and body length.
    pub(super) async fn fetch(&mut self, path: &str, body_len: usize) -> (u16, u64) {
        let request = http::Request::builder()
            .method(if body_len > 0 { "POST" } else { "GET" })
            .uri(format!("https://localhost{path}"))
            .body(())
            .unwrap();
        let mut stream = self.requests.send_request(request).await.unwrap();
        let piece = Bytes::from(vec![b'u'; 256 * 1024]);
        let mut left = body_len;
        while left > 0 {
            let len = left.min(piece.len());
            stream.send_data(piece.slice(..len)).await.unwrap();
            left -= len;
        }
        stream.finish().await.unwrap();
        let status = stream.recv_response().await.unwrap().status().as_u16();
        (status, Self::rest(&mut stream).await)
    }

    /// Sends a GET and reads only the head of the response.
    pub(super) async fn begin(&mut self, path: &str) -> RequestStream {
        let uri = format!("https://localhost{path}");
        let request = http::Request::get(uri).body(()).unwrap();
        let mut stream = self.requests.send_request(request).await.unwrap();
        stream.finish().await.unwrap();
        assert_eq!(stream.recv_response().await.unwrap().status(), 200);
        stream
    }

    /// Reads the rest of the body and returns its length.
    pub(super) async fn rest(stream: &mut RequestStream) -> u64 {
        let mut received = 0;
        while let Some(data) = stream.recv_data().await.unwrap() {
            received += data.remaining() as u64;
        }
        received
    }
}

/// Starts an origin that sends N bytes for `/bytes/N` and an empty response for everything else,
/// and takes any body. It waits for `pause` between pieces of 64 KiB of a response.
pub(super) fn origin(pause: Duration) -> SocketAddr {
    origin::start(|_| {}, move |stream, request| serve(stream, request, pause))
}

fn serve(mut stream: &TcpStream, mut request: Request<'_>, pause: Duration) -> io::Result<Next> {
    request.body.discard()?;
    let len = request.path.strip_prefix("/bytes/");
    let len: usize = len.map_or(0, |text| text.parse().expect("a length"));
    origin::write_head(stream, len as u64)?;
    let piece = vec![b'd'; 64 * 1024];
    let mut left = len;
    while left > 0 {
        let part = left.min(piece.len());
        stream.write_all(&piece[..part])?;
        left -= part;
        if !pause.is_zero() {
            testing::sleep(pause);
        }
    }
    Ok(Next::Keep)
}
