//! The reasons of failed handshakes, and their reports.

use std::net::SocketAddr;

use quinn_proto::ConnectionError;

use super::engine::Engine;
use crate::metrics::HandshakeFailure;
use crate::tls::alerts;

/// A handshake that ended without a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FailedHandshake {
    pub client: SocketAddr,
    pub reason: HandshakeFailure,
}

impl Engine {
    /// Returns the next handshake that has failed since the last call. There are at most as many as
    /// can be half open, if it is called in each turn until it returns `None`.
    pub fn poll_failed_handshake(&mut self) -> Option<FailedHandshake> {
        self.failed_handshakes.pop_front()
    }

    pub(super) fn note_failed_handshake(&mut self, client: SocketAddr, reason: HandshakeFailure) {
        self.stats.handshakes_failed += 1;
        self.stats.handshake_failures.count(reason, 1);
        self.failed_handshakes.push_back(FailedHandshake { client, reason });
    }
}

/// TRANSPORT_PARAMETER_ERROR (RFC 9000 20.1).
const TRANSPORT_PARAMETER_ERROR: u64 = 0x08;
/// A TLS alert is sent as this code plus its number (RFC 9001 4.8).
const CRYPTO_ERROR: u64 = 0x100;

/// Returns the reason of a handshake that ended with this error.
pub(super) fn reason_of(error: &ConnectionError) -> HandshakeFailure {
    match error {
        ConnectionError::TransportError(error) => {
            reason_of_code(error.code.into()).unwrap_or(HandshakeFailure::Other)
        }
        ConnectionError::ConnectionClosed(close) => {
            reason_of_client(close.error_code.into()).unwrap_or(HandshakeFailure::Client)
        }
        ConnectionError::ApplicationClosed(_) | ConnectionError::Reset => HandshakeFailure::Client,
        ConnectionError::TimedOut => HandshakeFailure::TimedOut,
        ConnectionError::VersionMismatch
        | ConnectionError::LocallyClosed
        | ConnectionError::CidsExhausted => HandshakeFailure::Other,
    }
}

/// missing_extension: that of the transport parameters (RFC 9001 8.2) or a part of TLS.
const MISSING_EXTENSION: u8 = 109;

/// Returns the reason that a code of ours gives.
fn reason_of_code(code: u64) -> Option<HandshakeFailure> {
    reason_of_transport(code).or_else(|| alerts::reason_of_server(alert(code)?))
}

/// Returns the reason that a code gives with which a client has closed the connection.
fn reason_of_client(code: u64) -> Option<HandshakeFailure> {
    reason_of_transport(code).or_else(|| alerts::reason_of_client(alert(code)?))
}

/// Returns the reason of a handshake without valid transport parameters.
fn reason_of_transport(code: u64) -> Option<HandshakeFailure> {
    let is_transport = code == TRANSPORT_PARAMETER_ERROR || alert(code) == Some(MISSING_EXTENSION);
    is_transport.then_some(HandshakeFailure::TransportParameters)
}

/// Returns the number of the alert that a code stands for.
fn alert(code: u64) -> Option<u8> {
    u8::try_from(code.checked_sub(CRYPTO_ERROR)?).ok()
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use quinn_proto::{ConnectionClose, TransportError, TransportErrorCode};

    use super::*;

    /// Numbers of alerts are those of RFC 8446 B.2.
    #[test]
    fn each_side_of_a_handshake_has_its_reasons() {
        use HandshakeFailure::*;
        let ours = |code| {
            let (frame, reason) = (None, String::new());
            reason_of(&ConnectionError::TransportError(TransportError { code, frame, reason }))
        };
        let client = |error_code| {
            let (frame_type, reason) = (None, Bytes::new());
            let close = ConnectionClose { error_code, frame_type, reason };
            reason_of(&ConnectionError::ConnectionClosed(close))
        };
        for (alert, by_us, by_client) in [
            (10, Other, Client),
            (40, NoSharedParameters, NoSharedParameters),
            (42, ClientCertificateInvalid, CertificateRejected),
            (43, ClientCertificateInvalid, CertificateRejected),
            (44, ClientCertificateRevoked, CertificateRejected),
            (45, ClientCertificateExpired, CertificateRejected),
            (46, ClientCertificateInvalid, CertificateRejected),
            (47, Other, Client),
            (48, ClientCertificateUntrusted, CertificateRejected),
            (49, UnknownServerName, Client),
            (51, Other, CertificateRejected),
            (70, NoSharedParameters, NoSharedParameters),
            (71, NoSharedParameters, NoSharedParameters),
            (90, Other, Client),
            (109, TransportParameters, TransportParameters),
            (112, UnknownServerName, Client),
            (116, ClientCertificateMissing, Client),
            (120, NoSharedProtocol, NoSharedProtocol),
        ] {
            assert_eq!(ours(TransportErrorCode::crypto(alert)), by_us, "alert {alert} of ours");
            assert_eq!(client(TransportErrorCode::crypto(alert)), by_client, "alert {alert}");
        }
        let code = TransportErrorCode::TRANSPORT_PARAMETER_ERROR;
        assert_eq!((ours(code), client(code)), (TransportParameters, TransportParameters));
        let code = TransportErrorCode::NO_ERROR;
        assert_eq!((ours(code), client(code)), (Other, Client));
        assert_eq!(reason_of(&ConnectionError::TimedOut), TimedOut);
        assert_eq!(reason_of(&ConnectionError::Reset), Client);
    }
}
