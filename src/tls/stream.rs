//! TLS over a byte stream, as a state machine without I/O.
//!
//! ```text
//!   receive(ciphertext)                         take_output() -> ciphertext
//!          |                                          ^
//!          v                                          |
//!   +-----------+  a record at a time  +---------+  records of up to 16 KiB
//!   |  Records  |--------------------->| rustls  |--------------------------+
//!   +-----------+   decrypted in place +---------+                          |
//!          |                                          ^                     |
//!          v                                          |                     |
//!   poll() -> EarlyData, Handshaken, Data, Closed               write(plaintext), close()
//! ```
//!
//! The caller owns the connection's time and its sockets. After each input it calls
//! [`TlsStream::poll`] until there is nothing more, then sends what [`TlsStream::take_output`]
//! returns. That order also holds for a fault: the alert for the peer is output.
//!
//! Between calls a stream holds no buffer, except for an unfinished record or handshake message,
//! and output that was not taken.

pub(crate) mod byte_stream;
mod client_hello;
mod fault;
mod records;
mod session;

use std::collections::VecDeque;
use std::sync::Arc;
use std::{fmt, mem};

use bytes::{Buf as _, Bytes, BytesMut};
use rustls::server::UnbufferedServerConnection;
use rustls::{HandshakeKind, ProtocolVersion, ServerConfig};

use crate::config::TlsVersion;
use crate::limits::{EARLY_DATA_LEN_MAX, TLS_HANDSHAKE_HELD_LEN_MAX};

pub(crate) use byte_stream::ByteStream;
use client_hello::ClientHello;
pub(crate) use fault::TlsFault;
use records::{HEADER_LEN, Next, PLAINTEXT_LEN_MAX, Record, Records};
use session::{Ends, Job, Progress, RECORD_OVERHEAD_MAX, Session};

/// The first bytes of HTTP requests, HTTP/2's preface among them. No record of TLS begins so: its
/// first byte is below 32.
const HTTP_BEGINNINGS: [&[u8; 4]; 10] =
    [b"GET ", b"HEAD", b"POST", b"PUT ", b"DELE", b"CONN", b"OPTI", b"TRAC", b"PATC", b"PRI "];

/// The type of an encrypted record (RFC 8446 5.2).
const RECORD_OF_DATA: u8 = 23;
/// More than a client's Finished has, encrypted: 4 + 48 bytes, the type, the tag (RFC 8446 4.4.4).
const FINISHED_LEN_MAX: usize = HEADER_LEN + 96;

/// Returns true if a byte stream that begins with `first` is plain HTTP.
pub(crate) fn begins_like_http(first: &[u8]) -> bool {
    first.first_chunk().is_some_and(|first| HTTP_BEGINNINGS.contains(&first))
}

/// An output of a stream.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum TlsEvent {
    /// Early data (RFC 8446 2.3): whoever has seen the client send it may be the one who sends it
    /// now. With it comes what the handshake has chosen already.
    EarlyData(Handshaken, Bytes),
    /// The handshake is complete. It comes once, and only early data comes before it.
    Handshaken(Handshaken),
    /// Bytes from the peer, in order: a slice of the buffer that they were received in, or of the
    /// one in which their record was joined.
    Data(Bytes),
    /// The peer sends nothing more (close_notify). It may still receive.
    Closed,
}

/// The results of a handshake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Handshaken {
    /// The protocol chosen by ALPN, if the client offered any.
    pub(crate) alpn: Option<Vec<u8>>,
    /// The name that the client asked for, in lower case. A client's own stream has none.
    pub(crate) server_name: Option<String>,
    pub(crate) version: TlsVersion,
    /// The session is continued from an earlier connection.
    pub(crate) resumed: bool,
    /// The certificate that a client has proved to be its own, in DER.
    pub(crate) client_certificate: Option<Bytes>,
    pub(crate) early_data: EarlyDataFate,
}

/// The fate of a client's early data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EarlyDataFate {
    NotOffered,
    Accepted,
    /// It was offered, and none of it was read.
    Rejected,
}

/// The way in which a connection's bytes ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The peer, or this side, had closed the stream.
    Clean,
    /// The connection ended before the stream was closed: what was received may be cut off.
    Truncated,
}

/// Bytes that were copied in memory since the last look at them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct CopiedLen {
    /// Of received bytes: joined records, and the copy of each plaintext that rustls makes.
    pub(crate) received: usize,
    /// Of sent bytes: small pieces gathered into a record, and the two copies of each plaintext
    /// that rustls makes.
    pub(crate) sent: usize,
}

/// One end of a TLS connection.
pub(crate) struct TlsStream {
    session: Session,
    phase: Phase,
    records: Records,
    output: BytesMut,
    copied_len: CopiedLen,
}

#[derive(Debug)]
enum Phase {
    Handshake(ClientHello),
    /// Early data comes, and this side may send.
    Early(ClientHello),
    Open,
    /// The peer sends nothing more.
    PeerClosed,
    /// This side sends nothing more, and reads nothing more.
    Closed,
    Failed(Box<TlsFault>),
}

impl TlsStream {
    /// Creates the end of a server, which waits for a ClientHello.
    pub(crate) fn server(config: Arc<ServerConfig>) -> Result<Self, TlsFault> {
        assert!(config.max_early_data_size <= EARLY_DATA_LEN_MAX, "early data is bounded");
        let session = Session::Server(UnbufferedServerConnection::new(config)?);
        Ok(Self::new(session, ClientHello::default()))
    }

    /// Creates the end of a client. Its ClientHello is output.
    #[cfg(test)]
    pub(crate) fn client(
        config: Arc<rustls::ClientConfig>,
        name: rustls::pki_types::ServerName<'static>,
    ) -> Result<Self, TlsFault> {
        assert!(!config.enable_early_data, "early data could be replayed (RFC 8446 8)");
        let session =
            Session::Client(rustls::client::UnbufferedClientConnection::new(config, name)?);
        let mut stream = Self::new(
            session,
            ClientHello::Complete { server_name: None, offers_early_data: false },
        );
        stream.run(Job::None)?;
        Ok(stream)
    }

    fn new(session: Session, hello: ClientHello) -> Self {
        Self {
            session,
            phase: Phase::Handshake(hello),
            records: Records::default(),
            output: BytesMut::new(),
            copied_len: CopiedLen::default(),
        }
    }

    /// Takes in ciphertext as it came.
    pub(crate) fn receive(&mut self, ciphertext: BytesMut) {
        if self.reads() {
            self.records.receive(ciphertext);
        }
    }

    /// Returns whether no byte of the peer's handshake has come.
    pub(crate) fn is_untouched(&self) -> bool {
        matches!(&self.phase, Phase::Handshake(hello) if hello.is_untouched())
            && self.records.is_empty()
    }

    /// Returns the next event, or `None` if more input is needed. A fault is returned again by each
    /// later call.
    pub(crate) fn poll(&mut self) -> Result<Option<TlsEvent>, TlsFault> {
        if let Phase::Failed(fault) = &self.phase {
            return Err((**fault).clone());
        }
        while self.reads() {
            let event = match self.records.next() {
                Next::Whole(record) => self.read(record),
                Next::Part => return self.judge_part().map(|()| None).map_err(|f| self.fail(f)),
                Next::Nothing => return Ok(None),
            };
            match event {
                Ok(None) => {}
                Ok(Some(event)) => return Ok(Some(event)),
                Err(fault) => return Err(self.fail(fault)),
            }
        }
        Ok(None)
    }

    /// Takes up to `len_max` bytes off `pieces` and encrypts them. Returns their number, which is 0
    /// before the handshake is complete, unless early data has come, and after
    /// [`TlsStream::close`].
    pub(crate) fn write(
        &mut self,
        pieces: &mut VecDeque<Bytes>,
        len_max: usize,
    ) -> Result<usize, TlsFault> {
        match &self.phase {
            Phase::Failed(fault) => return Err((**fault).clone()),
            Phase::Handshake(_) | Phase::Closed => return Ok(0),
            Phase::Early(_) | Phase::Open | Phase::PeerClosed => {}
        }
        let len = pieces.iter().map(Bytes::len).sum::<usize>().min(len_max);
        let record_count = len.div_ceil(PLAINTEXT_LEN_MAX);
        self.output.reserve(len + record_count * RECORD_OVERHEAD_MAX);
        let mut written = 0;
        while written < len {
            let plaintext = self.take_plaintext(pieces, (len - written).min(PLAINTEXT_LEN_MAX));
            if let Err(fault) = self.run(Job::Encrypt(&plaintext)) {
                return Err(self.fail(fault));
            }
            // rustls copies into a record of its own, encrypts it there, and copies it out.
            self.copied_len.sent += 2 * plaintext.len();
            written += plaintext.len();
        }
        Ok(written)
    }

    /// Queues close_notify: this side sends nothing more, and reads nothing more. Before the
    /// handshake is complete there is nothing to close, and nothing is sent.
    pub(crate) fn close(&mut self) {
        match self.phase {
            Phase::Handshake(_) => {}
            // A fault here leaves nothing to send.
            Phase::Early(_) | Phase::Open | Phase::PeerClosed => drop(self.run(Job::Close)),
            Phase::Closed | Phase::Failed(_) => return,
        }
        self.phase = Phase::Closed;
        self.records.clear();
    }

    /// Takes in the end of the connection. Events of earlier input are polled before it.
    pub(crate) fn handle_end(&mut self) -> StreamEnd {
        self.records.drop_unread();
        match self.phase {
            Phase::PeerClosed | Phase::Closed => StreamEnd::Clean,
            Phase::Handshake(_) | Phase::Early(_) | Phase::Open | Phase::Failed(_) => {
                StreamEnd::Truncated
            }
        }
    }

    /// Takes the ciphertext to send: one piece, or none.
    pub(crate) fn take_output(&mut self) -> Vec<Bytes> {
        if self.output.is_empty() {
            return Vec::new();
        }
        vec![mem::take(&mut self.output).freeze()]
    }

    /// Returns the bytes of buffers that the stream holds: input that was not polled, an unfinished
    /// record or handshake message, and output that was not taken. A slot of the pool counts as the
    /// bytes received in it.
    pub(crate) fn held_len(&self) -> usize {
        let hello_len = match &self.phase {
            Phase::Handshake(hello) | Phase::Early(hello) => hello.held_len(),
            _ => 0,
        };
        self.records.held_len() + self.output.capacity() + hello_len
    }

    /// Takes the number of bytes that were copied since the last call.
    pub(crate) fn take_copied_len(&mut self) -> CopiedLen {
        let mut copied_len = mem::take(&mut self.copied_len);
        copied_len.received += self.records.take_copied_len();
        copied_len
    }

    fn reads(&self) -> bool {
        matches!(self.phase, Phase::Handshake(_) | Phase::Early(_) | Phase::Open)
    }

    /// Reads one record.
    fn read(&mut self, mut record: Record) -> Result<Option<TlsEvent>, TlsFault> {
        if let Phase::Handshake(hello) = &mut self.phase {
            let bytes = &record.bytes[record.kept_len..];
            if matches!(hello, ClientHello::Incomplete(_)) && begins_like_http(bytes) {
                return Err(TlsFault::PlainHttp);
            }
            hello.read_record(bytes);
        }
        let mut used_len = 0;
        let mut event = None;
        loop {
            let input = &mut record.bytes[used_len..];
            let step = self.session.step(input, &mut self.output, Job::None);
            used_len += step.discard;
            match step.progress? {
                Progress::More => {}
                Progress::Decrypted(ends) => event = Some(ends),
                Progress::PeerClosed => {
                    self.phase = Phase::PeerClosed;
                    self.records.clear();
                    return Ok(Some(TlsEvent::Closed));
                }
                Progress::Done | Progress::Blocked => break,
            }
        }
        if let Some(ends) = event {
            let bytes = self.plaintext(record, &ends)?;
            return Ok(Some(match self.begin_early() {
                Some(handshaken) => TlsEvent::EarlyData(handshaken, bytes),
                None => TlsEvent::Data(bytes),
            }));
        }
        if used_len == 0 && self.is_refused_early_data(&record) {
            return Ok(None);
        }
        record.bytes.advance(used_len);
        if record.bytes.len() > TLS_HANDSHAKE_HELD_LEN_MAX {
            return Err(TlsFault::HandshakeInSmallPieces);
        }
        self.records.keep(record);
        Ok(self.handshaken().map(TlsEvent::Handshaken))
    }

    /// Returns whether a record that rustls has looked at, and used nothing of, holds early data
    /// that was refused. rustls has dropped it, but does not say so; kept, it would be decrypted
    /// and counted again with each later record. The end of a handshake is shorter.
    fn is_refused_early_data(&self, record: &Record) -> bool {
        let Phase::Handshake(hello) = &self.phase else { return false };
        hello.offers_early_data()
            && record.kept_len == 0
            && record.bytes[0] == RECORD_OF_DATA
            && record.bytes.len() > FINISHED_LEN_MAX
    }

    /// Cuts the plaintext out of its record.
    fn plaintext(&mut self, record: Record, ends: &Ends) -> Result<Bytes, TlsFault> {
        let start = HEADER_LEN + self.session.explicit_nonce_len();
        let range = start..start + ends.len;
        match record.bytes.get(range.clone()) {
            Some(plaintext) if ends.are_those_of(plaintext) => {
                self.copied_len.received += ends.len;
                Ok(record.bytes.freeze().slice(range))
            }
            _ => Err(TlsFault::NotDecryptedInPlace),
        }
    }

    /// Judges the header of a record whose rest is missing, so that bytes that are no TLS are
    /// refused without a wait for as many of them as a record would have.
    fn judge_part(&mut self) -> Result<(), TlsFault> {
        let part = self.records.part();
        let is_first = matches!(self.phase, Phase::Handshake(ClientHello::Incomplete(_)));
        if is_first && begins_like_http(part) {
            return Err(TlsFault::PlainHttp);
        }
        if part.len() < HEADER_LEN {
            return Ok(());
        }
        let input = self.records.kept_and_part();
        let step = self.session.step(input, &mut self.output, Job::None);
        debug_assert_eq!(step.discard, 0, "no record was whole");
        step.progress.map(drop)
    }

    /// Runs the session without new input until `job` is done, or until it is blocked.
    fn run(&mut self, job: Job<'_>) -> Result<(), TlsFault> {
        loop {
            let step = self.session.step(self.records.kept(), &mut self.output, job);
            debug_assert_eq!(step.discard, 0, "there was no new input");
            match step.progress? {
                Progress::More => {}
                Progress::Done | Progress::Blocked => return Ok(()),
                Progress::Decrypted(_) | Progress::PeerClosed => {
                    debug_assert!(false, "there was no new input");
                }
            }
        }
    }

    /// Notes that data have come. Returns what the handshake has chosen if they are early.
    fn begin_early(&mut self) -> Option<Handshaken> {
        if let Phase::Handshake(hello) = &mut self.phase {
            self.phase = Phase::Early(mem::take(hello));
        }
        match &self.phase {
            Phase::Early(hello) => {
                Some(self.chosen(hello.server_name().cloned(), EarlyDataFate::Accepted))
            }
            _ => None,
        }
    }

    /// Returns the results of the handshake once it is complete.
    fn handshaken(&mut self) -> Option<Handshaken> {
        let is_handshaking = matches!(self.phase, Phase::Handshake(_) | Phase::Early(_));
        if !is_handshaking || self.session.state().is_handshaking() {
            return None;
        }
        let (hello, early_data) = match mem::replace(&mut self.phase, Phase::Open) {
            Phase::Early(hello) => (hello, EarlyDataFate::Accepted),
            Phase::Handshake(hello) if hello.offers_early_data() => {
                (hello, EarlyDataFate::Rejected)
            }
            Phase::Handshake(hello) => (hello, EarlyDataFate::NotOffered),
            _ => unreachable!("looked at above"),
        };
        Some(self.chosen(hello.server_name().cloned(), early_data))
    }

    /// Returns what the handshake has chosen.
    fn chosen(&self, server_name: Option<String>, early_data: EarlyDataFate) -> Handshaken {
        let state = self.session.state();
        let version = match state.protocol_version() {
            Some(ProtocolVersion::TLSv1_2) => TlsVersion::Tls12,
            _ => TlsVersion::Tls13,
        };
        let alpn = state.alpn_protocol().map(<[u8]>::to_vec);
        let chain = state.peer_certificates().filter(|_| self.session.is_server());
        let client_certificate = chain.and_then(|chain| chain.first());
        let client_certificate = client_certificate.map(|leaf| Bytes::copy_from_slice(leaf));
        let resumed = state.handshake_kind() == Some(HandshakeKind::Resumed);
        Handshaken { alpn, server_name, version, resumed, client_certificate, early_data }
    }

    /// Takes the plaintext of one record off `pieces`: a slice of the first one if it is long
    /// enough, or a copy of several.
    fn take_plaintext(&mut self, pieces: &mut VecDeque<Bytes>, len: usize) -> Bytes {
        let mut gathered = BytesMut::new();
        while let Some(front) = pieces.front_mut() {
            let piece = front.split_to(front.len().min(len - gathered.len()));
            if front.is_empty() {
                pieces.pop_front();
            }
            if piece.len() == len {
                return piece;
            }
            gathered.reserve(len - gathered.len());
            gathered.extend_from_slice(&piece);
            self.copied_len.sent += piece.len();
            if gathered.len() == len {
                break;
            }
        }
        gathered.freeze()
    }

    /// Ends the stream with a fault. Its alert becomes output.
    fn fail(&mut self, fault: TlsFault) -> TlsFault {
        self.session.flush(&mut self.output);
        self.records.clear();
        self.phase = Phase::Failed(Box::new(fault.clone()));
        fault
    }
}

impl fmt::Debug for TlsStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsStream")
            .field("phase", &self.phase)
            .field("held_len", &self.held_len())
            .finish_non_exhaustive()
    }
}
