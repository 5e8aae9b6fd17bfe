//! An HTTP/3 load client: connections times streams, closed loop, latencies in a histogram.
//!
//! ```text
//! cargo run --release --example load -- --connect 127.0.0.1:4433 --path /bytes/1024
//! ```
//!
//! It runs on one thread (pin it away from the gateway's cores) on quinn, which sends and receives
//! segmented batches. It takes any certificate: it measures, it does not trust.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf as _, Bytes};
use clap::Parser;
use h3_quinn::OpenStreams;
use hdrhistogram::Histogram;

type Failure = Box<dyn std::error::Error + Send + Sync>;
type Requests = h3::client::SendRequest<OpenStreams, Bytes>;

/// Loads an HTTP/3 server.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// The server's UDP address
    #[arg(long)]
    connect: SocketAddr,
    /// The name asked for in the handshake and in requests
    #[arg(long, default_value = "localhost")]
    host: String,
    /// The path of each request
    #[arg(long, default_value = "/")]
    path: String,
    /// Connections at once
    #[arg(long, default_value_t = 10)]
    connections: usize,
    /// Streams at once in each connection
    #[arg(long, default_value_t = 10)]
    streams: usize,
    /// Requests in all
    #[arg(long, default_value_t = 10_000)]
    requests: usize,
    /// Bytes that each request uploads; with none it is a GET
    #[arg(long, default_value_t = 0)]
    upload: usize,
}

/// What all tasks count together.
struct Tally {
    left: usize,
    body_len: u64,
    latency_micros: Histogram<u64>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(arguments))
}

async fn run(arguments: Arguments) -> Result<(), Failure> {
    let tally = Arc::new(Mutex::new(Tally {
        left: arguments.requests,
        body_len: 0,
        latency_micros: Histogram::new(3)?,
    }));
    let endpoint = endpoint(arguments.connect)?;
    let mut connections = Vec::new();
    for _ in 0..arguments.connections {
        connections.push(connect(&endpoint, &arguments).await?);
    }
    let began = now();
    let mut tasks = Vec::new();
    for requests in &connections {
        for _ in 0..arguments.streams {
            let task = work(requests.clone(), arguments.clone(), Arc::clone(&tally));
            tasks.push(tokio::spawn(task));
        }
    }
    for task in tasks {
        task.await??;
    }
    report(&arguments, began.elapsed(), &tally.lock().expect("no task panicked"));
    Ok(())
}

/// Sends one request after the other until none is left.
async fn work(
    mut requests: Requests,
    arguments: Arguments,
    tally: Arc<Mutex<Tally>>,
) -> Result<(), Failure> {
    let method = if arguments.upload > 0 { http::Method::POST } else { http::Method::GET };
    let uri: http::Uri = format!("https://{}{}", arguments.host, arguments.path).parse()?;
    let piece = Bytes::from(vec![0x75; arguments.upload.min(256 * 1024)]);
    loop {
        {
            let mut tally = tally.lock().expect("no task panicked");
            if tally.left == 0 {
                return Ok(());
            }
            tally.left -= 1;
        }
        let began = now();
        let mut request = http::Request::builder().method(&method).uri(&uri);
        if arguments.upload > 0 {
            request = request.header(http::header::CONTENT_LENGTH, arguments.upload);
        }
        let mut stream = requests.send_request(request.body(())?).await?;
        let mut unsent = arguments.upload;
        while unsent > 0 {
            let len = unsent.min(piece.len());
            stream.send_data(piece.slice(..len)).await?;
            unsent -= len;
        }
        stream.finish().await?;
        let status = stream.recv_response().await?.status();
        if !status.is_success() {
            return Err(format!("{uri} was answered {status}").into());
        }
        let mut body_len = 0;
        while let Some(data) = stream.recv_data().await? {
            body_len += data.remaining() as u64;
        }
        let mut tally = tally.lock().expect("no task panicked");
        tally.body_len += body_len;
        tally.latency_micros.record(began.elapsed().as_micros() as u64)?;
    }
}

fn report(arguments: &Arguments, took: Duration, tally: &Tally) {
    let seconds = took.as_secs_f64();
    let moved = tally.body_len + (arguments.upload * arguments.requests) as u64;
    let at = |quantile| tally.latency_micros.value_at_quantile(quantile);
    println!(
        "{} requests in {seconds:.2} s: {:.0}/s, {:.1} MB/s, latency p50 {} us, p99 {} us, \
         p99.9 {} us",
        arguments.requests,
        arguments.requests as f64 / seconds,
        moved as f64 / seconds / 1e6,
        at(0.5),
        at(0.99),
        at(0.999),
    );
}

async fn connect(endpoint: &quinn::Endpoint, arguments: &Arguments) -> Result<Requests, Failure> {
    let connection = endpoint.connect(arguments.connect, &arguments.host)?.await?;
    let quic = h3_quinn::Connection::new(connection);
    let (mut driver, requests) = h3::client::new(quic).await?;
    tokio::spawn(async move { std::future::poll_fn(|cx| driver.poll_close(cx)).await });
    Ok(requests)
}

fn endpoint(server: SocketAddr) -> Result<quinn::Endpoint, Failure> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate { provider }))
        .with_no_client_auth();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicClientConfig::try_from(tls)?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = quinn::TransportConfig::default();
    transport.receive_window(quinn::VarInt::from_u32(16 << 20));
    transport.stream_receive_window(quinn::VarInt::from_u32(4 << 20));
    config.transport_config(Arc::new(transport));
    let local = if server.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let mut endpoint = quinn::Endpoint::client(local.parse()?)?;
    endpoint.set_default_client_config(config);
    Ok(endpoint)
}

#[allow(clippy::disallowed_methods, reason = "a client measures with its own clock")]
fn now() -> Instant {
    Instant::now()
}

/// Takes any certificate.
#[derive(Debug)]
struct AnyCertificate {
    provider: Arc<rustls::crypto::CryptoProvider>,
}

impl rustls::client::danger::ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &[rustls::pki_types::CertificateDer<'_>],
        _: &rustls::pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("QUIC has TLS 1.3 only".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls::pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
