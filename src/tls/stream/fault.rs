//! Reasons why a TLS stream has ended before its time.

use std::fmt;

use rustls::{AlertDescription, Error};

use crate::metrics::HandshakeFailure;
use crate::tls::alerts;

/// The text of rustls when the certificate resolver has none. It sends access_denied then.
const NO_CERTIFICATE: &str = "no server certificate chain resolved";

/// The fault that ended a TLS stream. An alert for the peer is part of the output, if TLS has one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum TlsFault {
    /// The peer broke a rule of TLS, refused us, or has nothing in common with us.
    Protocol(Error),
    /// The first bytes are an HTTP request in plain text. Nothing has been sent, so that the caller
    /// may respond in plain text too.
    PlainHttp,
    /// A handshake message comes in so many small records that they are not kept.
    HandshakeInSmallPieces,
    /// So many records have been sent that the keys may not be used again (TLS 1.2; TLS 1.3 makes
    /// new ones).
    KeysExhausted,
    /// rustls did not leave the plaintext where the record was. The peer has no part in it.
    NotDecryptedInPlace,
}

impl TlsFault {
    /// Returns the reason under which a handshake that ended with this fault is counted.
    pub(crate) fn reason(&self) -> HandshakeFailure {
        let Self::Protocol(error) = self else { return HandshakeFailure::Other };
        let reason = match error {
            Error::AlertReceived(alert) => {
                let reason = alerts::reason_of_client(u8::from(*alert));
                return reason.unwrap_or(HandshakeFailure::Client);
            }
            Error::PeerIncompatible(_) => {
                alerts::reason_of_server(AlertDescription::HandshakeFailure.into())
            }
            Error::NoApplicationProtocol => {
                alerts::reason_of_server(AlertDescription::NoApplicationProtocol.into())
            }
            Error::NoCertificatesPresented => {
                alerts::reason_of_server(AlertDescription::CertificateRequired.into())
            }
            Error::InvalidCertificate(error) => {
                alerts::reason_of_server(AlertDescription::from(error.clone()).into())
            }
            Error::General(text) if text == NO_CERTIFICATE => {
                alerts::reason_of_server(AlertDescription::AccessDenied.into())
            }
            _ => None,
        };
        reason.unwrap_or(HandshakeFailure::Other)
    }
}

impl From<Error> for TlsFault {
    fn from(error: Error) -> Self {
        Self::Protocol(error)
    }
}

impl fmt::Display for TlsFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Protocol(error) => display(error, f),
            Self::PlainHttp => f.write_str("the peer sent plain HTTP to a port that speaks TLS"),
            Self::HandshakeInSmallPieces => {
                f.write_str("the peer cut a handshake message into too many small records")
            }
            Self::KeysExhausted => {
                f.write_str("the connection's keys have encrypted as many records as they may")
            }
            Self::NotDecryptedInPlace => {
                f.write_str("the TLS library decrypted a record to another place than expected")
            }
        }
    }
}

fn display(error: &Error, f: &mut fmt::Formatter<'_>) -> fmt::Result {
    match error {
        Error::AlertReceived(alert) => {
            let number = u8::from(*alert);
            match alert.as_str() {
                Some(name) => write!(f, "the peer sent the alert {name} ({number})"),
                None => write!(f, "the peer sent the unknown alert {number}"),
            }
        }
        Error::DecryptError => {
            f.write_str("the peer sent a record that is damaged or not from the peer")
        }
        Error::PeerSentOversizedRecord => {
            f.write_str("the peer sent a record of more than 16 KiB (RFC 8446 5.1)")
        }
        Error::InvalidMessage(kind) => {
            write!(f, "the peer sent bytes that are not valid TLS: {kind:?}")
        }
        Error::NoApplicationProtocol => {
            f.write_str("the client offers none of the listener's protocols (RFC 7301 3.2)")
        }
        Error::General(text) if text == NO_CERTIFICATE => {
            f.write_str("there is no certificate for the name that the client asked for")
        }
        Error::PeerIncompatible(kind) => {
            write!(f, "the peer has no TLS version or parameters in common with us: {kind:?}")
        }
        Error::PeerMisbehaved(kind) => write!(f, "the peer broke a rule of TLS: {kind:?}"),
        Error::InvalidCertificate(kind) => {
            write!(f, "the peer's certificate is not valid: {kind}")
        }
        other => write!(f, "{other}"),
    }
}
