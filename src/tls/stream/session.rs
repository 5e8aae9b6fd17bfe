//! One step of a rustls connection, server or client, over memory that the caller owns.

use bytes::BytesMut;
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    AppDataRecord, ConnectionState, EncodeError, EncodeTlsData, EncryptError,
    InsufficientSizeError, ReadTraffic, UnbufferedStatus, WriteTraffic,
};
use rustls::{CommonState, Error, SupportedCipherSuite};

use super::fault::TlsFault;

/// Bytes of the plaintext's two ends that are compared.
const END_LEN: usize = 16;
/// Most bytes by which a record is longer than its plaintext: header, explicit nonce, content type
/// and tag.
pub(super) const RECORD_OVERHEAD_MAX: usize = 5 + 8 + 1 + 16;

/// A rustls connection of the unbuffered kind.
pub(super) enum Session {
    Server(UnbufferedServerConnection),
    #[cfg(test)]
    Client(rustls::client::UnbufferedClientConnection),
}

/// A request to a session that may send.
#[derive(Debug, Clone, Copy)]
pub(super) enum Job<'a> {
    None,
    Encrypt(&'a [u8]),
    Close,
}

/// The outcome of one step.
#[derive(Debug)]
pub(super) struct Step {
    /// Bytes to discard at the front of the input before the next step.
    pub(super) discard: usize,
    pub(super) progress: Result<Progress, TlsFault>,
}

#[derive(Debug)]
pub(super) enum Progress {
    /// There is more to do.
    More,
    /// A record with these bytes was decrypted in place; there is more to do.
    Decrypted(Ends),
    /// The peer sent close_notify; there is more to do.
    PeerClosed,
    /// The job is done, and the input is used up.
    Done,
    /// The handshake needs more input; the job is not done.
    Blocked,
}

impl Session {
    /// Reads from the front of `input`, and appends to `output`. Input that is not discarded has to
    /// be there in the next step too.
    pub(super) fn step(&mut self, input: &mut [u8], output: &mut BytesMut, job: Job<'_>) -> Step {
        match self {
            Self::Server(server) => {
                let UnbufferedStatus { discard, state } = server.process_tls_records(input);
                match state {
                    Ok(ConnectionState::ReadEarlyData(mut early)) => {
                        let mut step = Step { discard, progress: Ok(Progress::More) };
                        while let Some(record) = early.next_record() {
                            step.note(record);
                        }
                        step
                    }
                    state => step(UnbufferedStatus { discard, state }, output, job),
                }
            }
            #[cfg(test)]
            Self::Client(client) => step(client.process_tls_records(input), output, job),
        }
    }

    /// Appends what a session that has failed still sends: the alert, behind what was queued
    /// before it.
    pub(super) fn flush(&mut self, output: &mut BytesMut) {
        // Queued output comes before input, which a failed session must not read again.
        while self.state().wants_write() {
            let _queued = self.step(&mut [], output, Job::None);
        }
    }

    pub(super) fn is_server(&self) -> bool {
        matches!(self, Self::Server(_))
    }

    pub(super) fn state(&self) -> &CommonState {
        match self {
            Self::Server(server) => server,
            #[cfg(test)]
            Self::Client(client) => client,
        }
    }

    /// Returns the length of the nonce in front of each encrypted payload (RFC 5288 3).
    pub(super) fn explicit_nonce_len(&self) -> usize {
        match self.state().negotiated_cipher_suite() {
            Some(SupportedCipherSuite::Tls12(suite)) => {
                suite.aead_alg.key_block_shape().explicit_nonce_len
            }
            Some(SupportedCipherSuite::Tls13(_)) | None => 0,
        }
    }
}

fn step<Side>(
    UnbufferedStatus { discard, state }: UnbufferedStatus<'_, '_, Side>,
    output: &mut BytesMut,
    job: Job<'_>,
) -> Step {
    let mut step = Step { discard, progress: Ok(Progress::More) };
    match state {
        Err(error) => step.progress = Err(error.into()),
        Ok(ConnectionState::EncodeTlsData(queued)) => encode(queued, output),
        Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
        Ok(ConnectionState::ReadTraffic(traffic)) => step.read(traffic),
        Ok(ConnectionState::PeerClosed) => step.progress = Ok(Progress::PeerClosed),
        Ok(ConnectionState::Closed) => step.progress = Ok(Progress::Done),
        Ok(ConnectionState::BlockedHandshake) => step.progress = Ok(Progress::Blocked),
        Ok(ConnectionState::WriteTraffic(traffic)) => {
            step.progress = write(traffic, output, job).map(|()| Progress::Done);
        }
        Ok(other) => {
            let text = format!("an unknown state of the TLS library: {other:?}");
            step.progress = Err(Error::General(text).into());
        }
    }
    step
}

impl Step {
    fn read<Side>(&mut self, mut traffic: ReadTraffic<'_, '_, Side>) {
        while let Some(record) = traffic.next_record() {
            self.note(record);
        }
    }

    /// Notes the one record that was decrypted: the caller gives one record at a time.
    fn note(&mut self, record: Result<AppDataRecord<'_>, Error>) {
        match record {
            Ok(record) => {
                self.discard += record.discard;
                self.progress = Ok(Progress::Decrypted(Ends::of(record.payload)));
            }
            Err(error) => self.progress = Err(error.into()),
        }
    }
}

fn encode<Side>(mut queued: EncodeTlsData<'_, Side>, output: &mut BytesMut) {
    let encoded = append(output, 0, |room| match queued.encode(room) {
        Ok(len) => Ok(len),
        Err(EncodeError::InsufficientSize(size)) => Err(Refused::NoRoom(size)),
        Err(EncodeError::AlreadyEncoded) => Ok(0),
    });
    debug_assert!(encoded.is_ok());
}

fn write<Side>(
    mut traffic: WriteTraffic<'_, Side>,
    output: &mut BytesMut,
    job: Job<'_>,
) -> Result<(), TlsFault> {
    match job {
        Job::None => Ok(()),
        Job::Encrypt(plaintext) => append(output, plaintext.len() + RECORD_OVERHEAD_MAX, |room| {
            Ok(traffic.encrypt(plaintext, room)?)
        }),
        Job::Close => {
            append(output, RECORD_OVERHEAD_MAX, |room| Ok(traffic.queue_close_notify(room)?))
        }
    }
}

/// The reason why rustls wrote nothing into a buffer.
enum Refused {
    NoRoom(InsufficientSizeError),
    KeysExhausted,
}

impl From<EncryptError> for Refused {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(size) => Self::NoRoom(size),
            EncryptError::EncryptExhausted => Self::KeysExhausted,
        }
    }
}

/// Appends what `write` writes, with room for `len` bytes, or for more if it asks for more.
fn append(
    output: &mut BytesMut,
    mut len: usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Refused>,
) -> Result<(), TlsFault> {
    let start = output.len();
    loop {
        output.resize(start + len, 0);
        match write(&mut output[start..]) {
            Ok(written) => {
                output.truncate(start + written);
                return Ok(());
            }
            Err(Refused::NoRoom(size)) if size.required_size > len => len = size.required_size,
            Err(_) => {
                output.truncate(start);
                return Err(TlsFault::KeysExhausted);
            }
        }
    }
}

/// The length and the two ends of a plaintext.
///
/// rustls decrypts a record where it is, and then returns a copy of the plaintext. The caller uses
/// the place and not the copy. That the plaintext is there is no promise of rustls, so the ends are
/// compared: a rustls that decrypts elsewhere, or moves the plaintext, ends connections instead of
/// changing bytes.
#[derive(Debug)]
pub(super) struct Ends {
    pub(super) len: usize,
    first: [u8; END_LEN],
    last: [u8; END_LEN],
}

impl Ends {
    fn of(plaintext: &[u8]) -> Self {
        let mut ends = Self { len: plaintext.len(), first: [0; END_LEN], last: [0; END_LEN] };
        let len = plaintext.len().min(END_LEN);
        ends.first[..len].copy_from_slice(&plaintext[..len]);
        ends.last[..len].copy_from_slice(&plaintext[plaintext.len() - len..]);
        ends
    }

    pub(super) fn are_those_of(&self, plaintext: &[u8]) -> bool {
        let other = Self::of(plaintext);
        (self.len, self.first, self.last) == (other.len, other.first, other.last)
    }
}
