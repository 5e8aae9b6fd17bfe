//! A client of the admin endpoint, for the verbs of the command line.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::ReloadReport;
use crate::config::AdminAddress;

/// Time to connect and to send. The endpoint is on this host, or near.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Time for a response. A reload looks names up, and others may be waiting before it.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(120);
/// Longest response that is read: a configuration of the longest file, twice.
const RESPONSE_LEN_MAX: u64 = 16 << 20;

/// The reason why the endpoint could not be asked.
#[derive(Debug)]
pub(crate) enum ClientError {
    /// Nobody can be reached at the address.
    Unreachable(AdminAddress, io::Error),
    /// The response is not that of a ringway that can do this.
    Unexpected(AdminAddress, String),
}

/// Has the process at `address` reload its configuration.
pub(crate) fn reload(address: &AdminAddress) -> Result<ReloadReport, ClientError> {
    let (status, body) = request(address, "POST", "/reload")?;
    serde_json::from_str(&body).map_err(|_| unexpected(address, status, &body))
}

/// Returns the effective configuration of the process at `address`, as TOML.
pub(crate) fn running_config(address: &AdminAddress) -> Result<String, ClientError> {
    match request(address, "GET", "/config")? {
        (200, body) => Ok(body),
        (status, body) => Err(unexpected(address, status, &body)),
    }
}

fn unexpected(address: &AdminAddress, status: u16, body: &str) -> ClientError {
    let body = body.lines().next().unwrap_or_default();
    ClientError::Unexpected(address.clone(), format!("{status} {body}"))
}

/// Returns the status and the body of the response.
fn request(address: &AdminAddress, method: &str, path: &str) -> Result<(u16, String), ClientError> {
    let response = match address {
        AdminAddress::Tcp(to) => TcpStream::connect_timeout(to, TIMEOUT).and_then(|stream| {
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
            exchange(stream, method, path)
        }),
        AdminAddress::Unix(to) => UnixStream::connect(to).and_then(|stream| {
            stream.set_write_timeout(Some(TIMEOUT))?;
            stream.set_read_timeout(Some(RESPONSE_TIMEOUT))?;
            exchange(stream, method, path)
        }),
    };
    let response = response.map_err(|error| ClientError::Unreachable(address.clone(), error))?;
    let parsed = response.split_once("\r\n\r\n").and_then(|(head, body)| {
        let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        Some((status, body.to_owned()))
    });
    parsed.ok_or_else(|| ClientError::Unexpected(address.clone(), "no HTTP response".to_owned()))
}

/// Sends a request without a body and reads all of the response. The server names the length of its
/// body and closes.
fn exchange(mut stream: impl Read + Write, method: &str, path: &str) -> io::Result<String> {
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\
         content-length: 0\r\n\r\n"
    )?;
    let mut response = String::new();
    stream.take(RESPONSE_LEN_MAX).read_to_string(&mut response)?;
    Ok(response)
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreachable(address, error) => write!(
                f,
                "no ringway responds at its admin endpoint {address}: {error}; is it running, with \
                 this admin.listen?"
            ),
            Self::Unexpected(address, response) => {
                write!(f, "the admin endpoint {address} responds: {response}")
            }
        }
    }
}

impl std::error::Error for ClientError {}
