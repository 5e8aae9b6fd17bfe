//! The rustls settings for TLS over TCP.
//!
//! They differ from those for QUIC in the version: TCP has clients that know TLS 1.2 only. Of that
//! version the cipher suites are those with forward secrecy and authenticated encryption, which is
//! what HTTP/2 permits (RFC 9113 9.2.2). Certificates, ticket keys and the key log are the same, so
//! that a ticket of one worker or configuration is good at the next.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{SupportedProtocolVersion, version};

use super::client_authorities::ClientAuthorities;
use super::error::TlsError;
use super::stream::{TlsFault, TlsStream};
use super::{ServerTls, TlsVersion, provider};
use crate::config::{EarlyData, Listener};

/// The settings of a listener for TLS over TCP. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TcpServerTls {
    pub(super) config: Arc<rustls::ServerConfig>,
}

impl ServerTls {
    /// Returns the settings for TCP connections of `listener` that speak one of the protocols
    /// `alpn`, in the order of our preference; `None` if it has no TLS. A client that offers other
    /// protocols gets the alert no_application_protocol (RFC 7301 3.2); one that offers none is
    /// served.
    pub(crate) fn config_tcp_of(
        &self,
        listener: &Listener,
        alpn: &[&[u8]],
    ) -> Option<TcpServerTls> {
        let version_min = listener.tls.as_ref()?.version_min;
        let authorities = self.client_authorities(listener);
        let config = self.config_tcp(alpn, version_min, listener.early_data, authorities);
        Some(config.expect("our cryptography has suites of both versions"))
    }

    pub(super) fn config_tcp(
        &self,
        alpn: &[&[u8]],
        version_min: TlsVersion,
        early_data: EarlyData,
        authorities: Option<&ClientAuthorities>,
    ) -> Result<TcpServerTls, TlsError> {
        let versions: &[&SupportedProtocolVersion] = match version_min {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        let mut config = self.settings(provider_tcp(), versions, early_data, authorities)?;
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        Ok(TcpServerTls { config: Arc::new(config) })
    }
}

impl TcpServerTls {
    /// Returns the stream of a new connection.
    pub(crate) fn accept(&self) -> Result<TlsStream, TlsFault> {
        TlsStream::server(Arc::clone(&self.config))
    }
}

/// Returns the cryptography for TCP: that of the edge, and suites of TLS 1.2.
pub(super) fn provider_tcp() -> CryptoProvider {
    let mut provider = provider();
    provider.cipher_suites.extend([
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ]);
    provider
}
