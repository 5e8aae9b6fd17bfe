//! An HTTP/1.1 origin for uploads: reads and discards each body, then responds 200.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use rustix::net::{RecvFlags, recv};

use crate::Failure;

const RESPONSE: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const PIECE_LEN: usize = 1 << 20;
const HEAD_LEN_MAX: usize = 16 * 1024;

/// Serves until the process ends, with a thread for each connection, of which a load has few.
pub fn run(address: SocketAddr) -> Result<(), Failure> {
    for stream in TcpListener::bind(address)?.incoming() {
        let stream = stream?;
        std::thread::spawn(move || serve(stream));
    }
    Ok(())
}

/// Serves requests until the peer closes or sends something other than a body of known length or
/// chunked.
fn serve(mut stream: TcpStream) -> Option<()> {
    let mut piece = vec![0u8; PIECE_LEN];
    loop {
        let mut len = 0;
        let body_at = loop {
            let got = stream.read(piece.get_mut(len..HEAD_LEN_MAX)?).ok().filter(|got| *got > 0)?;
            len += got;
            if let Some(end) = piece[..len].windows(4).position(|end| end == b"\r\n\r\n") {
                break end + 4;
            }
        };
        let head = String::from_utf8_lossy(&piece[..body_at]).to_ascii_lowercase();
        if head.contains("transfer-encoding: chunked") {
            // Payload of this load never contains the last-chunk sequence.
            let mut tail = piece[body_at..len].to_vec();
            while !tail.ends_with(b"0\r\n\r\n") {
                let got = stream.read(&mut piece).ok().filter(|got| *got > 0)?;
                tail.extend_from_slice(&piece[got.saturating_sub(5)..got]);
                tail.drain(..tail.len().saturating_sub(5));
            }
        } else {
            let value = head.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
            let body_len = value.map_or(Some(0), |text| text.trim().parse::<usize>().ok())?;
            let mut left = body_len.saturating_sub(len - body_at);
            while left > 0 {
                let part = left.min(PIECE_LEN);
                // The kernel discards it (tcp(7), MSG_TRUNC), so that the sink is not the
                // bottleneck.
                let (_, got) = recv(&stream, &mut piece[..part], RecvFlags::TRUNC).ok()?;
                left -= Some(got).filter(|got| *got > 0)?;
            }
        }
        stream.write_all(RESPONSE).ok()?;
    }
}
