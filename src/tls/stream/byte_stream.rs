//! The bytes of one TCP connection, with TLS or without, behind one set of methods.

use std::collections::VecDeque;
use std::mem;

use bytes::{Bytes, BytesMut};

use super::fault::TlsFault;
use super::{CopiedLen, StreamEnd, TlsEvent, TlsStream};

/// A connection's bytes. The methods are those of [`TlsStream`].
#[derive(Debug)]
pub(crate) enum ByteStream {
    Plain(PlainStream),
    Tls(Box<TlsStream>),
}

/// A byte stream without TLS: bytes pass through, and nothing is copied. It has no handshake, and
/// its end is clean at any byte.
#[derive(Debug, Default)]
pub(crate) struct PlainStream {
    received: VecDeque<Bytes>,
    output: Vec<Bytes>,
    is_closed: bool,
}

impl ByteStream {
    pub(crate) fn plain() -> Self {
        Self::Plain(PlainStream::default())
    }

    /// Takes in bytes of the connection.
    pub(crate) fn receive(&mut self, bytes: BytesMut) {
        match self {
            Self::Plain(plain) => plain.receive(bytes),
            Self::Tls(tls) => tls.receive(bytes),
        }
    }

    /// Returns whether no byte of a TLS handshake has come.
    pub(crate) fn is_untouched(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Tls(tls) => tls.is_untouched(),
        }
    }

    /// Returns the next event, or `None` if more input is needed.
    pub(crate) fn poll(&mut self) -> Result<Option<TlsEvent>, TlsFault> {
        match self {
            Self::Plain(plain) => Ok(plain.received.pop_front().map(TlsEvent::Data)),
            Self::Tls(tls) => tls.poll(),
        }
    }

    /// Takes up to `len_max` bytes off `pieces`, and returns their number.
    pub(crate) fn write(
        &mut self,
        pieces: &mut VecDeque<Bytes>,
        len_max: usize,
    ) -> Result<usize, TlsFault> {
        match self {
            Self::Plain(plain) => Ok(plain.write(pieces, len_max)),
            Self::Tls(tls) => tls.write(pieces, len_max),
        }
    }

    /// Sends nothing more, and reads nothing more.
    pub(crate) fn close(&mut self) {
        match self {
            Self::Plain(plain) => plain.close(),
            Self::Tls(tls) => tls.close(),
        }
    }

    /// Takes in the end of the connection. Events of earlier input are polled before it.
    pub(crate) fn handle_end(&mut self) -> StreamEnd {
        match self {
            Self::Plain(_) => StreamEnd::Clean,
            Self::Tls(tls) => tls.handle_end(),
        }
    }

    /// Takes the bytes to send.
    pub(crate) fn take_output(&mut self) -> Vec<Bytes> {
        match self {
            Self::Plain(plain) => mem::take(&mut plain.output),
            Self::Tls(tls) => tls.take_output(),
        }
    }

    /// Returns the bytes that are held: input that was not polled, and output that was not taken.
    pub(crate) fn held_len(&self) -> usize {
        match self {
            Self::Plain(plain) => plain.held_len(),
            Self::Tls(tls) => tls.held_len(),
        }
    }

    /// Takes the number of bytes that were copied since the last call.
    pub(crate) fn take_copied_len(&mut self) -> CopiedLen {
        match self {
            Self::Plain(_) => CopiedLen::default(),
            Self::Tls(tls) => tls.take_copied_len(),
        }
    }
}

impl PlainStream {
    fn receive(&mut self, bytes: BytesMut) {
        if !self.is_closed && !bytes.is_empty() {
            self.received.push_back(bytes.freeze());
        }
    }

    fn write(&mut self, pieces: &mut VecDeque<Bytes>, len_max: usize) -> usize {
        let mut left = if self.is_closed { 0 } else { len_max };
        while left > 0
            && let Some(front) = pieces.front_mut()
        {
            let piece = front.split_to(front.len().min(left));
            if front.is_empty() {
                pieces.pop_front();
            }
            left -= piece.len();
            if !piece.is_empty() {
                self.output.push(piece);
            }
        }
        if self.is_closed { 0 } else { len_max - left }
    }

    fn close(&mut self) {
        self.is_closed = true;
        self.received.clear();
    }

    fn held_len(&self) -> usize {
        self.received.iter().chain(&self.output).map(Bytes::len).sum()
    }
}
