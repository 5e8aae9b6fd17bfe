//! An HTTP/3 load client.
//!
//! ```text
//! load --connect 127.0.0.1:4433 --path /bytes/1024 --connections 10 --streams 10 --requests 100000
//!                           closed loop: each stream sends the next request after a response
//! load .. --rate 20000      open loop: requests start by the clock, and latency counts from when
//!                           one was due, so that a slow server cannot hide its queue
//! load .. --upload 10485760 each request has a body
//! load .. --handshakes      each request has a connection of its own; with --rate, latency counts
//!                           from before its handshake
//! load .. --count-failures  what fails is counted by reason, and does not end the run
//! load .. --hold 10         keeps all connections open, idle, for so many seconds at the end
//! load --sink 127.0.0.1:8081
//!                           an HTTP/1.1 origin that reads and discards bodies
//! ```
//!
//! It drives quinn-proto itself, on one thread, sends and receives segmented batches, and parses as
//! little of a response as possible, so that it costs less than the server it measures. It accepts
//! any certificate.

mod client;
mod link;
mod sink;
mod tls;
mod work;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use ringway::testing::internal::host::clock::now;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Loads an HTTP/3 server.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// The server's UDP address
    #[arg(long, required_unless_present = "sink")]
    connect: Option<SocketAddr>,
    /// The name asked for in the handshake and in requests
    #[arg(long, default_value = "localhost")]
    host: String,
    /// The path of each request
    #[arg(long, default_value = "/")]
    path: String,
    /// Concurrent connections
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    connections: u32,
    /// Concurrent requests per connection
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    streams: u32,
    /// Total number of requests
    #[arg(long, default_value_t = 10_000)]
    requests: u64,
    /// Bytes that each request uploads; with none it is a GET
    #[arg(long, default_value_t = 0)]
    upload: u64,
    /// Requests per second, started by the clock
    #[arg(long)]
    rate: Option<f64>,
    /// Latency counts from when a request was sent: one for which there is no stream waits with the
    /// client
    #[arg(long, requires = "rate")]
    from_sending: bool,
    /// Seconds at the beginning whose requests are not counted
    #[arg(long, default_value_t = 0.0, requires = "rate")]
    warm_up: f64,
    /// A new connection for each request
    #[arg(long)]
    handshakes: bool,
    /// Connections do not use tokens of earlier ones, as those of new clients
    #[arg(long)]
    no_tokens: bool,
    /// Seconds that the connections stay open at the end
    #[arg(long, default_value_t = 0.0)]
    hold: f64,
    /// Share of incoming datagrams to drop, 0 to 1
    #[arg(long, default_value_t = 0.0)]
    loss: f64,
    /// Count what fails, by reason, instead of ending at the first failure
    #[arg(long)]
    count_failures: bool,
    /// Seconds after which a response counts as a failure, and what had no response is given up
    #[arg(long, requires = "count_failures")]
    patience: Option<f64>,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Be an origin instead, on this TCP address
    #[arg(long)]
    sink: Option<SocketAddr>,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    if let Some(address) = arguments.sink {
        return sink::run(address);
    }
    let connect = arguments.connect.ok_or("--connect is missing")?;
    let done = client::run(connect, &arguments)?;
    report(&arguments, &done);
    Ok(())
}

/// The results of a run.
struct Done {
    took: Duration,
    response_len: u64,
    latency_micros: hdrhistogram::Histogram<u64>,
    failures: BTreeMap<String, hdrhistogram::Histogram<u64>>,
}

fn report(arguments: &Arguments, done: &Done) {
    let seconds = done.took.as_secs_f64();
    let count = done.latency_micros.len();
    let moved = done.response_len + arguments.upload * count;
    let at = |quantile| done.latency_micros.value_at_quantile(quantile);
    let (p50, p99, p999) = (at(0.5), at(0.99), at(0.999));
    let rate = count as f64 / seconds;
    if arguments.json {
        let quantiles = [0.5, 0.9, 0.99, 0.999, 0.9999].map(|at_most| (at_most, at(at_most)));
        let quantiles = quantiles.map(|(at_most, micros)| format!("\"{at_most}\": {micros}"));
        println!(
            "{{\"requests\": {count}, \"seconds\": {seconds:.4}, \"bytes\": {moved}, \
             \"latency_us\": {{{}}}, \"failures\": {{{}}}}}",
            quantiles.join(", "),
            failures(done).join(", "),
        );
    } else {
        println!(
            "{count} requests in {seconds:.2} s: {rate:.0}/s, {:.1} MB/s, latency p50 {p50} us, \
             p99 {p99} us, p99.9 {p999} us",
            moved as f64 / seconds / 1e6,
        );
        for failure in failures(done) {
            println!("{failure}");
        }
    }
}

/// Returns for each reason of failures their number and how long they took, as members of a JSON
/// object.
fn failures(done: &Done) -> Vec<String> {
    let one = |(reason, latencies): (&String, &hdrhistogram::Histogram<u64>)| {
        let [p50, p99] = [0.5, 0.99].map(|quantile| latencies.value_at_quantile(quantile));
        let count = latencies.len();
        format!("{reason:?}: {{\"count\": {count}, \"0.5\": {p50}, \"0.99\": {p99}}}")
    };
    done.failures.iter().map(one).collect()
}
