//! A flood of QUIC's first packets, each from another address of 10.0.0.0/8 and another port.
//!
//! ```text
//! flood --connect 192.0.2.1:4433 --rate 60000 --seconds 10
//! flood .. --kind hello     only ClientHellos
//! ```
//!
//! Source addresses are written into the IP headers, which needs CAP_NET_RAW. It runs in a network
//! namespace that drops what comes back (`tests/overload/network.py` makes one), and sends to
//! loopback, private and documentation addresses only.

mod packets;

use std::io::IoSlice;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use clap::Parser;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use ringway::testing;
use ringway::testing::internal::host::clock::now;
use rustix::net::{
    AddressFamily, MMsgHdr, SendAncillaryBuffer, SendFlags, SocketType, ipproto, sendmmsg,
};

use packets::Kind;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Datagrams of one `sendmmsg`, each from an address of its own.
const BATCH_COUNT: usize = 64;
/// Length of an IPv4 header and a UDP header.
const HEADERS_LEN: usize = 28;
const PROTOCOL_UDP: u8 = 17;
const TIME_TO_LIVE: u8 = 64;

/// Floods a QUIC server with forged Initials.
#[derive(Debug, Clone, Parser)]
struct Arguments {
    /// The server's UDP address, IPv4
    #[arg(long)]
    connect: SocketAddr,
    /// Datagrams per second
    #[arg(long, default_value_t = 10_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..1_000_000))]
    rate: u32,
    /// Length of the flood
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=300))]
    seconds: u32,
    /// Contents of the datagrams
    #[arg(long, value_enum, default_value_t = Kind::Mixed)]
    kind: Kind,
    /// Number of different datagrams, made before the flood; it repeats them
    #[arg(long, default_value_t = 100_000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=500_000))]
    different: u32,
    /// Begin at the first line of standard input, not at once
    #[arg(long)]
    wait: bool,
    /// The server name in ClientHellos
    #[arg(long, default_value = "localhost")]
    host: String,
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> Result<(), Failure> {
    let arguments = Arguments::parse();
    let IpAddr::V4(target) = arguments.connect.ip() else { return Err("not IPv4".into()) };
    if !(target.is_loopback() || target.is_private() || target.is_documentation()) {
        return Err(format!("{target} may be somebody's: not flooded").into());
    }
    let random = &mut SmallRng::seed_from_u64(arguments.seed);
    let datagrams = packets::make(&arguments, random)?;
    let socket = raw_socket(arguments.connect)?;
    let mut headers = Headers { target, port: arguments.connect.port() };
    println!("{{\"made\": {}}}", datagrams.len());
    if arguments.wait {
        std::io::stdin().read_line(&mut String::new())?;
    }
    let began = now();
    let count = u64::from(arguments.rate) * u64::from(arguments.seconds);
    let end = began + Duration::from_secs(arguments.seconds.into());
    let mut sent = 0;
    while sent < count && now() < end {
        pace(began, sent, arguments.rate);
        let batch: Vec<&[u8]> = (sent..count.min(sent + BATCH_COUNT as u64))
            .map(|number| &*datagrams[number as usize % datagrams.len()])
            .collect();
        sent += headers.send(&socket, &batch, random)? as u64;
    }
    println!("{{\"sent\": {sent}, \"seconds\": {:.3}}}", (now() - began).as_secs_f64());
    Ok(())
}

/// Opens a socket whose datagrams have the IP header that they are given (raw(7)).
fn raw_socket(target: SocketAddr) -> Result<OwnedFd, Failure> {
    let socket = rustix::net::socket(AddressFamily::INET, SocketType::RAW, Some(ipproto::RAW))
        .map_err(|error| format!("a raw socket needs CAP_NET_RAW: {error}"))?;
    rustix::net::connect(&socket, &target)?;
    Ok(socket)
}

/// Sleeps until the next batch is due. A flood that is late does not sleep.
fn pace(began: Instant, sent: u64, rate: u32) {
    let due = began + Duration::from_secs_f64(sent as f64 / f64::from(rate));
    let early = due.saturating_duration_since(now());
    if !early.is_zero() {
        testing::sleep(early);
    }
}

/// The headers of datagrams to one server.
struct Headers {
    target: Ipv4Addr,
    port: u16,
}

impl Headers {
    /// Sends a batch, each datagram from an address of its own. Returns how many were sent.
    fn send(
        &mut self,
        socket: &OwnedFd,
        batch: &[&[u8]],
        random: &mut SmallRng,
    ) -> Result<usize, Failure> {
        let headers: Vec<_> =
            batch.iter().map(|datagram| self.draw(datagram.len(), random)).collect();
        let parts: Vec<[IoSlice<'_>; 2]> = headers
            .iter()
            .zip(batch)
            .map(|(header, datagram)| [IoSlice::new(header), IoSlice::new(datagram)])
            .collect();
        let mut controls: Vec<_> = batch.iter().map(|_| SendAncillaryBuffer::default()).collect();
        let mut messages: Vec<_> = parts
            .iter()
            .zip(&mut controls)
            .map(|(parts, control)| MMsgHdr::new(parts, control))
            .collect();
        Ok(sendmmsg(socket, &mut messages, SendFlags::empty())?)
    }

    /// Returns an IPv4 header (RFC 791 3.1) and a UDP header (RFC 768) with a source that is drawn.
    /// The kernel writes the IP header's length and checksum; UDP's is optional and left out.
    fn draw(&self, payload_len: usize, random: &mut SmallRng) -> [u8; HEADERS_LEN] {
        let mut header = [0; HEADERS_LEN];
        header[0] = 0x45;
        header[8] = TIME_TO_LIVE;
        header[9] = PROTOCOL_UDP;
        let [a, b, c] = random.random::<[u8; 3]>();
        header[12..16].copy_from_slice(&[10, a, b, c]);
        header[16..20].copy_from_slice(&self.target.octets());
        header[20..22].copy_from_slice(&random.random_range(1024..=u16::MAX).to_be_bytes());
        header[22..24].copy_from_slice(&self.port.to_be_bytes());
        header[24..26].copy_from_slice(&(payload_len as u16 + 8).to_be_bytes());
        header
    }
}
