//! An HTTP/1.1 origin on loopback with a thread for each connection. It reads requests; what it
//! makes of them is the test's to say.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;

/// A connection's small stack: an origin may have thousands of them.
const STACK_LEN: usize = 256 * 1024;
/// Longest piece of a body.
const PIECE_LEN: usize = 64 * 1024;

/// The state of a connection after a response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// It takes another request.
    Keep,
    /// It is closed.
    Close,
}

/// A request whose head has been read.
pub struct Request<'a> {
    /// The request target as it came.
    pub path: String,
    /// The body, of which nothing has been handed out.
    pub body: Body<'a>,
}

/// A request's body, read piece by piece.
pub struct Body<'a> {
    reader: &'a mut BufReader<TcpStream>,
    /// Bytes still to come, of the body or of its chunk.
    left: u64,
    is_chunked: bool,
}

/// Starts an origin. `accepted` sees each connection first, then `serve` gets its requests and
/// writes the responses to the stream. An error ends the connection, as [`Next::Close`] does.
///
/// # Panics
///
/// If there is no port left on loopback.
pub fn start(
    accepted: impl Fn(&TcpStream) + Send + 'static,
    serve: impl Fn(&TcpStream, Request<'_>) -> io::Result<Next> + Send + Sync + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
    let address = listener.local_addr().expect("a bound socket has an address");
    let serve = Arc::new(serve);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection that is accepted");
            accepted(&stream);
            let serve = Arc::clone(&serve);
            let all = move || serve_all(stream, &*serve);
            let started = thread::Builder::new().stack_size(STACK_LEN).spawn(all);
            started.expect("the host has room for a thread");
        }
    });
    address
}

/// Writes the head of a response whose body has `len` bytes.
///
/// # Errors
///
/// The stream's.
pub fn write_head(mut stream: &TcpStream, len: u64) -> io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\ncontent-length: {len}\r\n\r\n")
}

fn serve_all(
    stream: TcpStream,
    serve: &impl Fn(&TcpStream, Request<'_>) -> io::Result<Next>,
) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(PIECE_LEN, stream.try_clone()?);
    while let Some(request) = read_head(&mut reader)? {
        if serve(&stream, request)? == Next::Close {
            break;
        }
    }
    Ok(())
}

/// Reads a request's head; `None` at the connection's end.
fn read_head(reader: &mut BufReader<TcpStream>) -> io::Result<Option<Request<'_>>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let path = line.split(' ').nth(1).ok_or(io::ErrorKind::InvalidData)?.to_owned();
    let (mut left, mut is_chunked) = (0, false);
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let field = line.trim_end().to_ascii_lowercase();
        match field.split_once(": ") {
            Some(("transfer-encoding", _)) => is_chunked = true,
            Some(("content-length", len)) => left = parse(len, 10)?,
            Some(_) => {}
            None => break,
        }
    }
    Ok(Some(Request { path, body: Body { reader, left, is_chunked } }))
}

impl Body<'_> {
    /// Reads the next piece; `None` at the body's end.
    ///
    /// # Errors
    ///
    /// The stream's, and `UnexpectedEof` where it ends inside the body.
    pub fn next_piece(&mut self) -> io::Result<Option<Vec<u8>>> {
        if self.left == 0 && self.is_chunked {
            let mut line = String::new();
            self.reader.read_line(&mut line)?;
            self.left = parse(line.trim_end(), 16)?;
            if self.left == 0 {
                self.reader.read_line(&mut line)?;
                self.is_chunked = false;
            }
        }
        if self.left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; self.left.min(PIECE_LEN as u64) as usize];
        let len = self.reader.read(&mut piece)?;
        if len == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        piece.truncate(len);
        self.left -= len as u64;
        if self.left == 0 && self.is_chunked {
            self.reader.read_exact(&mut [0; 2])?;
        }
        Ok(Some(piece))
    }

    /// Reads the body to its end and forgets it.
    ///
    /// # Errors
    ///
    /// As [`Self::next_piece`].
    pub fn discard(&mut self) -> io::Result<()> {
        while self.next_piece()?.is_some() {}
        Ok(())
    }
}

/// Reads a length; an empty line is where a connection was cut.
fn parse(digits: &str, radix: u32) -> io::Result<u64> {
    u64::from_str_radix(digits, radix).map_err(|_| io::ErrorKind::UnexpectedEof.into())
}
