//! A request's head and the framing of its body.

use bytes::{BufMut as _, Bytes, BytesMut};
use http::Method;

use crate::message::Head;
use crate::proxy::api::Request;
use crate::proxy::fields::{Nominated, put_field, put_request_fields};

/// How the body's end is told to the upstream (RFC 9112 6.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Framing {
    /// Not decided: the client has said neither a length nor that it is done.
    Undecided,
    /// No body and no word of it.
    None,
    /// `content-length`
    Length(u64),
    /// `transfer-encoding: chunked`
    Chunked,
}

impl Framing {
    /// The framing for a request, `ended` when no body follows its head.
    pub(crate) fn of(head: &Head, ended: bool) -> Self {
        let anticipates_content = matches!(head.method, Method::POST | Method::PUT | Method::PATCH);
        match (head.content_length, ended) {
            (Some(len), _) => Self::Length(len),
            // RFC 9110 8.6: a method that anticipates content says so even when there is none.
            (None, true) if anticipates_content => Self::Length(0),
            (None, true) => Self::None,
            // Many clients end a GET's stream in a frame of its own: to announce a chunked body
            // then would be true to the letter, and some origins refuse such a GET.
            (None, false) if head.method.is_safe() || head.method == Method::DELETE => {
                Self::Undecided
            }
            (None, false) => Self::Chunked,
        }
    }
}

/// Writes a request's head for an upstream that is told `host`.
pub(crate) fn encode_head(
    request: &Request,
    nominated: &Nominated,
    host: &[u8],
    framing: Framing,
    trusted: bool,
) -> Bytes {
    let mut out = BytesMut::with_capacity(head_len_estimate(request));
    out.put_slice(request.head.method.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(request.head.path());
    out.put_slice(b" HTTP/1.1\r\n");
    put_field(&mut out, "host", host);
    put_request_fields(&mut out, request, nominated, trusted);
    match framing {
        Framing::None => {}
        Framing::Length(len) => put_field(&mut out, "content-length", len.to_string().as_bytes()),
        Framing::Chunked => put_field(&mut out, "transfer-encoding", b"chunked"),
        Framing::Undecided => unreachable!("a request is sent once its framing is decided"),
    }
    out.put_slice(b"\r\n");
    out.freeze()
}

/// Enough for most heads to be written without growing: the client's bytes and our own lines.
fn head_len_estimate(request: &Request) -> usize {
    let line_len = |(name, value): &(http::HeaderName, http::HeaderValue)| {
        name.as_str().len() + value.len() + b": \r\n".len()
    };
    let fields_len: usize = request.head.fields.iter().map(line_len).sum();
    request.head.path().len() + fields_len + 3 * request.head.authority().as_bytes().len() + 320
}
