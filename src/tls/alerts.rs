//! Reasons of failed handshakes by the alert that ended them (RFC 8446 6.2). QUIC sends alerts as
//! codes of its own (RFC 9001 4.8), TLS over TCP in records; the reasons are the same.

use crate::metrics::HandshakeFailure;

/// Returns the reason that an alert of either side gives, or `None` if it gives none.
fn reason_of(alert: u8) -> Option<HandshakeFailure> {
    match alert {
        // handshake_failure, protocol_version, insufficient_security
        40 | 70 | 71 => Some(HandshakeFailure::NoSharedParameters),
        // no_application_protocol
        120 => Some(HandshakeFailure::NoSharedProtocol),
        _ => None,
    }
}

/// Returns the reason of a handshake that the server ended with `alert`.
pub(crate) fn reason_of_server(alert: u8) -> Option<HandshakeFailure> {
    match alert {
        // access_denied, which rustls sends for want of a certificate, and unrecognized_name
        49 | 112 => Some(HandshakeFailure::UnknownServerName),
        // About the client's certificate: bad_certificate, unsupported_certificate and
        // certificate_unknown
        42 | 43 | 46 => Some(HandshakeFailure::ClientCertificateInvalid),
        // certificate_revoked
        44 => Some(HandshakeFailure::ClientCertificateRevoked),
        // certificate_expired
        45 => Some(HandshakeFailure::ClientCertificateExpired),
        // unknown_ca, which rustls also sends if it cannot tell whether it is revoked
        48 => Some(HandshakeFailure::ClientCertificateUntrusted),
        // certificate_required
        116 => Some(HandshakeFailure::ClientCertificateMissing),
        _ => reason_of(alert),
    }
}

/// Returns the reason of a handshake that the client ended with `alert`.
pub(crate) fn reason_of_client(alert: u8) -> Option<HandshakeFailure> {
    match alert {
        // bad_certificate to certificate_unknown, unknown_ca, decrypt_error (a wrong signature)
        42..=46 | 48 | 51 => Some(HandshakeFailure::CertificateRejected),
        _ => reason_of(alert),
    }
}
