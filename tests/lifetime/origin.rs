//! A threaded origin: the path selects what it does with a request.
//!
//! ```text
//! GET  /tagged/LEN/TAG      LEN bytes of TAG's body
//! POST /check/TAG           checks the body, answers its length
//! POST /echo                the body again, chunked, while it comes
//! POST /stall               reads nothing of the body until the gate opens, then as /check does
//! GET  /drip/LEN            a byte a second
//! GET  /hang-after-head     a head that promises a body, then nothing
//! GET  /late                a head after 60 seconds
//! GET  /rst                 a reset instead of a response
//! GET  /broken/LEN/TAG      half of TAG's body, then a reset
//! ```

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ringway::testing::origin::{self, Body, Next, Request};
use ringway::testing::sleep;

use crate::body::{Check, Tag};

/// The origin's observations. A truncated body is not wrong if its received bytes are right.
#[derive(Default)]
pub struct Seen {
    pub sent_len: AtomicU64,
    pub requests: AtomicU64,
    pub gate: AtomicBool,
    pub wrong: Mutex<Vec<String>>,
}

impl Seen {
    pub fn assert_right(&self) {
        let wrong = self.wrong.lock().unwrap();
        assert!(wrong.is_empty(), "{} bodies were wrong: {:?}", wrong.len(), &wrong[..1]);
    }

    pub fn sent(&self) -> u64 {
        self.sent_len.load(Ordering::Relaxed)
    }
}

pub fn start() -> (SocketAddr, Arc<Seen>) {
    let seen = Arc::new(Seen::default());
    let theirs = Arc::clone(&seen);
    let accepted = |stream: &TcpStream| {
        bound_buffers(stream);
        stream.set_nodelay(true).unwrap();
    };
    let address = origin::start(accepted, move |stream, request| serve(stream, request, &theirs));
    (address, seen)
}

/// Sets small kernel buffers, so that the bytes sent are nearly the bytes the peer has read.
fn bound_buffers(stream: &TcpStream) {
    let len: libc::c_int = 64 * 1024;
    for option in [libc::SO_SNDBUF, libc::SO_RCVBUF] {
        // SAFETY: the descriptor is live, and `len` is read for its own length.
        let outcome = unsafe {
            let value = (&raw const len).cast();
            libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, option, value, 4)
        };
        assert_eq!(outcome, 0);
    }
}

fn serve(mut stream: &TcpStream, request: Request<'_>, seen: &Seen) -> io::Result<Next> {
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let Request { path, mut body } = request;
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match words[..] {
        ["tagged", len, tag] => send_tagged(stream, seen, len.parse().unwrap(), Tag::parse(tag))?,
        ["check", tag] => check(stream, seen, &mut body, Tag::parse(tag))?,
        ["stall", tag] => {
            while !seen.gate.load(Ordering::Relaxed) {
                sleep(Duration::from_millis(10));
            }
            check(stream, seen, &mut body, Tag::parse(tag))?;
        }
        ["echo"] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            while let Some(piece) = body.next_piece()? {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(&piece)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        ["drip", len] => {
            let len = len.parse().unwrap();
            origin::write_head(stream, len)?;
            for _ in 0..len {
                stream.write_all(b"d")?;
                sleep(Duration::from_secs(1));
            }
        }
        [.., "hang-after-head"] => {
            origin::write_head(stream, 10)?;
            wait_for_end(stream)?;
        }
        ["late"] => wait_for_end(stream)?,
        ["rst"] => {
            reset_at_end(stream);
            return Ok(Next::Close);
        }
        ["broken", len, tag] => {
            let len: u64 = len.parse().unwrap();
            origin::write_head(stream, len)?;
            stream.write_all(&Tag::parse(tag).bytes(0, len as usize / 2))?;
            reset_at_end(stream);
            return Ok(Next::Close);
        }
        _ => origin::write_head(stream, 0)?,
    }
    Ok(Next::Keep)
}

fn send_tagged(mut stream: &TcpStream, seen: &Seen, len: u64, tag: Tag) -> io::Result<()> {
    origin::write_head(stream, len)?;
    let mut at = 0;
    while at < len {
        // Lengths that do not align with any boundary.
        let piece_len = (len - at).min(48 * 1024 + 13);
        stream.write_all(&tag.bytes(at, piece_len as usize))?;
        at += piece_len;
        seen.sent_len.fetch_add(piece_len, Ordering::Relaxed);
    }
    Ok(())
}

fn check(mut stream: &TcpStream, seen: &Seen, body: &mut Body<'_>, tag: Tag) -> io::Result<()> {
    let mut check = Check::new(tag);
    while let Some(piece) = body.next_piece()? {
        if let Err(wrong) = check.feed(&piece) {
            seen.wrong.lock().unwrap().push(wrong);
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    let text = check.len.to_string();
    origin::write_head(stream, text.len() as u64)?;
    stream.write_all(text.as_bytes())
}

/// Makes closing the connection send a reset.
fn reset_at_end(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is live, and `linger` is read for its own length.
    let outcome = unsafe {
        let value = (&raw const linger).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, 8)
    };
    assert_eq!(outcome, 0);
}

fn wait_for_end(mut stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.read(&mut [0; 1]).map(drop)
}
