//! An origin of threads: what it does with a request is in the path.
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

use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use crate::body::{Check, Tag};

/// What the origin saw. Bodies that broke off are not wrong, as long as what came was right.
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
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(Seen::default());
    let theirs = Arc::clone(&seen);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, seen) = (stream.unwrap(), Arc::clone(&theirs));
            bound_buffers(&stream);
            stream.set_nodelay(true).unwrap();
            let serve = move || while serve(&stream, &seen).is_ok_and(|more| more) {};
            thread::Builder::new().stack_size(256 * 1024).spawn(serve).unwrap();
        }
    });
    (address, seen)
}

/// Small buffers of the kernel's, so that what was sent is nearly what was taken.
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

/// Serves one request. False or an error at the connection's end.
fn serve(mut stream: &TcpStream, seen: &Seen) -> std::io::Result<bool> {
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    seen.requests.fetch_add(1, Ordering::Relaxed);
    let path = line.split(' ').nth(1).unwrap().to_owned();
    let mut body_len = Some(0);
    loop {
        line.clear();
        reader.read_line(&mut line)?;
        let field = line.trim_end().to_ascii_lowercase();
        match field.split_once(": ") {
            Some(("transfer-encoding", _)) => body_len = None,
            Some(("content-length", len)) => body_len = Some(len.parse().unwrap()),
            Some(_) => {}
            None => break,
        }
    }
    let mut body = Body { reader, left: body_len.unwrap_or(0), chunked: body_len.is_none() };
    let words: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    match words[..] {
        ["tagged", len, tag] => send_tagged(stream, seen, len.parse().unwrap(), Tag::parse(tag))?,
        ["check", tag] => check(stream, seen, &mut body, Tag::parse(tag))?,
        ["stall", tag] => {
            while !seen.gate.load(Ordering::Relaxed) {
                wait(10);
            }
            check(stream, seen, &mut body, Tag::parse(tag))?;
        }
        ["echo"] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")?;
            while let Some(piece) = body.piece()? {
                write!(stream, "{:x}\r\n", piece.len())?;
                stream.write_all(&piece)?;
                stream.write_all(b"\r\n")?;
            }
            stream.write_all(b"0\r\n\r\n")?;
        }
        ["drip", len] => {
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n")?;
            for _ in 0..len.parse::<u32>().unwrap() {
                stream.write_all(b"d")?;
                wait(1000);
            }
        }
        [.., "hang-after-head"] => {
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n")?;
            wait_for_end(stream)?;
        }
        ["late"] => wait_for_end(stream)?,
        ["rst"] => {
            reset_at_end(stream);
            return Ok(false);
        }
        ["broken", len, tag] => {
            let len: u64 = len.parse().unwrap();
            write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n")?;
            stream.write_all(&Tag::parse(tag).bytes(0, len as usize / 2))?;
            reset_at_end(stream);
            return Ok(false);
        }
        _ => stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")?,
    }
    Ok(true)
}

fn send_tagged(mut stream: &TcpStream, seen: &Seen, len: u64, tag: Tag) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n")?;
    let mut at = 0;
    while at < len {
        // Lengths that fall on no boundary of anything.
        let piece_len = (len - at).min(48 * 1024 + 13);
        stream.write_all(&tag.bytes(at, piece_len as usize))?;
        at += piece_len;
        seen.sent_len.fetch_add(piece_len, Ordering::Relaxed);
    }
    Ok(())
}

fn check(
    mut stream: &TcpStream,
    seen: &Seen,
    body: &mut Body<'_>,
    tag: Tag,
) -> std::io::Result<()> {
    let mut check = Check::new(tag);
    while let Some(piece) = body.piece()? {
        if let Err(wrong) = check.feed(&piece) {
            seen.wrong.lock().unwrap().push(wrong);
            return Err(std::io::ErrorKind::InvalidData.into());
        }
    }
    let text = check.len.to_string();
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{text}", text.len())
}

struct Body<'a> {
    reader: BufReader<&'a TcpStream>,
    /// Of the body, or of the chunk.
    left: u64,
    chunked: bool,
}

impl Body<'_> {
    fn piece(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        if self.left == 0 && self.chunked {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            let cut = |_| std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            self.left = u64::from_str_radix(line.trim_end(), 16).map_err(cut)?;
            if self.left == 0 {
                self.reader.read_line(&mut line)?;
                self.chunked = false;
            }
        }
        if self.left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; self.left.min(64 * 1024) as usize];
        let len = self.reader.read(&mut piece)?;
        if len == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(len);
        self.left -= len as u64;
        if self.left == 0 && self.chunked {
            self.reader.read_exact(&mut [0; 2])?;
        }
        Ok(Some(piece))
    }
}

/// Makes the connection's end a reset.
fn reset_at_end(stream: &TcpStream) {
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: the descriptor is live, and `linger` is read for its own length.
    let outcome = unsafe {
        let value = (&raw const linger).cast();
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, value, 8)
    };
    assert_eq!(outcome, 0);
}

fn wait_for_end(mut stream: &TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.read(&mut [0; 1]).map(drop)
}

#[allow(clippy::disallowed_methods, reason = "the origin's thread is outside of what is tested")]
fn wait(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}
