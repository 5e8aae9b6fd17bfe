//! The encoder of request heads, and the framing of request bodies.

use bytes::{BufMut as _, BytesMut};
use http::Method;

/// How a request's body is delimited (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Not decided yet: it is still open whether a body comes.
    Undecided,
    /// No body, and no field that announces one.
    None,
    /// `content-length`
    Length(u64),
    /// `transfer-encoding: chunked`
    Chunked,
}

impl Framing {
    /// Returns the framing for a request; `ended` when no body follows its head.
    pub(crate) fn of(method: &Method, content_length: Option<u64>, ended: bool) -> Self {
        let anticipates_content = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        match (content_length, ended) {
            // RFC 9114 4.1.2: a body that comes all the same makes the request malformed, and its
            // head alone would be a whole request.
            (Some(0), false) => Self::Undecided,
            (Some(len), _) => Self::Length(len),
            // RFC 9110 8.6: a method that anticipates content sends content-length even when there
            // is none.
            (None, true) if anticipates_content => Self::Length(0),
            (None, true) => Self::None,
            (None, false) if anticipates_content => Self::Chunked,
            // Many clients send a GET's FIN in a frame of its own. Announcing a chunked body would
            // then be correct, but some origins refuse such a GET, or PROPFIND, or MOVE.
            (None, false) => Self::Undecided,
        }
    }
}

pub(crate) fn put_request_line(out: &mut BytesMut, method: &Method, target: &[u8]) {
    out.put_slice(method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(target);
    out.put_slice(b" HTTP/1.1\r\n");
}

pub(crate) fn put_field(out: &mut BytesMut, name: &str, value: &[u8]) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Writes the field that announces the body, and the empty line that ends the head.
pub(crate) fn put_framing(out: &mut BytesMut, framing: Framing) {
    match framing {
        Framing::None => {}
        Framing::Length(len) => put_field(out, "content-length", len.to_string().as_bytes()),
        Framing::Chunked => put_field(out, "transfer-encoding", b"chunked"),
        Framing::Undecided => unreachable!("a request is sent once its framing is decided"),
    }
    out.put_slice(b"\r\n");
}
