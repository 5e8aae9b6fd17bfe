//! A client that sends generated requests through a gateway, and compares how the upstream behind
//! it parsed each one with what was sent.
//!
//! The upstream reports how it parsed a request (`tests/differential/upstreams/echo.py`);
//! `scripts/differential` starts foreign servers, a gateway in front of each, and this client. Seed
//! and number decide a request, so that all servers get the same ones and each can be sent again:
//! `--first 4711 --count 1`. The exit code is 1 if anything differs.
//!
//! ```text
//!  message   a request, and its bytes in HTTP/3        nothing of it is the gateway's code
//!  valid     draws requests that must be forwarded
//!  broken    breaks one rule in such a request
//!  model     the form in which it must reach the upstream
//!  link      connections and streams
//!  books     compares, and counts the requests on each upstream connection
//! ```

mod books;
mod broken;
mod link;
mod message;
mod model;
mod valid;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};

use broken::Refusal;
use message::Message;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sends generated requests and compares what the upstream parsed.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// The gateway's UDP address
    #[arg(long)]
    connect: SocketAddr,
    /// The certificate authority to trust, in PEM
    #[arg(long)]
    trust: PathBuf,
    /// Number of requests
    #[arg(long, default_value_t = 1000)]
    count: u64,
    /// Number of the first request
    #[arg(long, default_value_t = 0)]
    first: u64,
    /// Decides the requests, together with their numbers
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Concurrent connections
    #[arg(long, default_value_t = 4)]
    connections: u64,
    /// Concurrent requests per connection
    #[arg(long, default_value_t = 8)]
    streams: u64,
    /// File to which each response of the upstream is written, as the access log has to show it
    #[arg(long)]
    log: PathBuf,
    #[command(flatten)]
    profile: Profile,
}

/// The limits of the upstream: it refuses requests outside of them.
#[derive(Debug, Clone, clap::Args)]
struct Profile {
    /// Methods that it accepts: "tokens", "upper" (capital letters, - and _), or a list
    #[arg(long, default_value = "tokens")]
    methods: String,
    /// It reads all methods as if they were in capital letters
    #[arg(long)]
    raises_methods: bool,
    /// It accepts the target * of OPTIONS
    #[arg(long = "asterisk")]
    has_asterisk: bool,
    /// It accepts a % in a path that begins no escape
    #[arg(long = "bad-escapes")]
    has_bad_escapes: bool,
    /// It reports trailers
    #[arg(long = "trailers")]
    has_trailers: bool,
}

impl Profile {
    fn takes_method(&self, method: &[u8]) -> bool {
        match self.methods.as_str() {
            "tokens" => true,
            "upper" => method.iter().all(|byte| matches!(byte, b'A'..=b'Z' | b'-' | b'_')),
            list => list.split(',').any(|one| one.as_bytes() == method),
        }
    }
}

/// A request, and what must become of it.
#[derive(Debug, Clone)]
struct Case {
    index: u64,
    message: Message,
    expected: Expected,
}

#[derive(Debug, Clone)]
enum Expected {
    /// The upstream parses it, and reports one of these forms.
    Parsed(Vec<Vec<u8>>),
    /// The upstream gets it and refuses it.
    RefusedByUpstream,
    /// The gateway refuses it.
    Refused(Refusal),
}

impl Case {
    /// Draws the request with this number. Returns the dice too, which go on to decide how it is
    /// encoded and sent.
    fn draw(seed: u64, index: u64, profile: &Profile) -> (Self, SmallRng) {
        let mut dice = SmallRng::seed_from_u64(seed.rotate_left(32) ^ index);
        let mut message = valid::draw(index, &mut dice);
        let expected = if dice.random_bool(0.25) {
            Expected::Refused(broken::draw(&mut message, &mut dice))
        } else if model::is_refused_by(&message, profile) {
            Expected::RefusedByUpstream
        } else {
            Expected::Parsed(model::forms(&message, profile))
        };
        (Self { index, message, expected }, dice)
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Failure> {
    let arguments = Arguments::parse();
    let books = link::run(&arguments).await?;
    let is_clean = books.report()?;
    Ok(if is_clean { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
