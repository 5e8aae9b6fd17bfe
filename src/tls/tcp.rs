//! The rustls settings for TLS over TCP.
//!
//! They differ from those for QUIC in the version: TCP has clients that know TLS 1.2 only. Of that
//! version the cipher suites are those with forward secrecy and authenticated encryption, which is
//! what HTTP/2 permits (RFC 9113 9.2.2). Certificates, ticket keys and the key log are the same, so
//! that a ticket of one worker or configuration is good at the next.

use std::sync::Arc;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::server::{NoServerSessionStorage, ResolvesServerCert};
use rustls::{SupportedProtocolVersion, version};

use super::error::{Kind, TlsError};
use super::stream::{TlsFault, TlsStream, TlsVersion};
use super::{ServerTls, TICKETS_PER_HANDSHAKE, provider};

/// The settings of a listener for TLS over TCP. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct TcpServerTls {
    config: Arc<rustls::ServerConfig>,
}

impl ServerTls {
    /// Returns the settings for TCP connections that speak one of the protocols `alpn`, in the
    /// order of our preference, by `version_min` or a newer one. A client that offers other
    /// protocols gets the alert no_application_protocol (RFC 7301 3.2); one that offers none is
    /// served.
    pub(crate) fn config_tcp(
        &self,
        alpn: &[&[u8]],
        version_min: TlsVersion,
    ) -> Result<TcpServerTls, TlsError> {
        let versions: &[&SupportedProtocolVersion] = match version_min {
            TlsVersion::Tls12 => &[&version::TLS13, &version::TLS12],
            TlsVersion::Tls13 => &[&version::TLS13],
        };
        let resolver = Arc::clone(&self.shared.certificates);
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider_tcp()))
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::nowhere(Kind::Settings(error)))?
            .with_no_client_auth()
            .with_cert_resolver(resolver as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        config.ticketer = Arc::clone(&self.shared.ticketer);
        // Clients of TLS 1.2 without tickets are not resumed: a store of sessions would be shared
        // by all workers, behind a lock.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
        config.max_early_data_size = 0;
        config.key_log = Arc::clone(&self.shared.config.key_log);
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
