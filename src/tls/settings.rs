//! The rustls settings of each listener, for QUIC and, with what [`super::tcp`] adds, for TCP.
//!
//! A listener that asks its clients for certificates resumes no sessions. rustls resumes without a
//! look at the verifier, so that a ticket would go around another listener's authorities, a
//! revocation, and the end of the certificate
//! (docs/decisions/client-certificates.md).

use std::sync::Arc;

use rustls::compress::{self, CertCompressor, CompressionFailed, CompressionLevel};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{
    NoServerSessionStorage, ResolvesServerCert, StoresServerSessions, WebPkiClientVerifier,
};
use rustls::{CertificateCompressionAlgorithm, SupportedProtocolVersion, version};

use super::client_authorities::ClientAuthorities;
use super::error::{Kind, TlsError};
use super::{ALPN_H3, Resumption, ServerTls, provider};
use crate::config::{EarlyData, Listener};
use crate::limits::EARLY_DATA_LEN_MAX;

/// Session tickets sent after a handshake. One is enough to resume once, and each costs about a
/// packet and a key derivation (rustls sends two by default).
const TICKETS_PER_HANDSHAKE: usize = 1;

/// Compressions of certificates (RFC 8879), best first. Chrome offers brotli, Safari zlib, and
/// Firefox both.
pub(super) const COMPRESSORS: [&dyn CertCompressor; 2] = [&QuickBrotli, compress::ZLIB_COMPRESSOR];

/// brotli at the level that rustls has for handshakes. It would take the highest one for what is
/// kept, which needs 33 MiB for a moment and saves a few bytes more.
#[derive(Debug)]
struct QuickBrotli;

impl CertCompressor for QuickBrotli {
    fn compress(
        &self,
        certificates: Vec<u8>,
        _level: CompressionLevel,
    ) -> Result<Vec<u8>, CompressionFailed> {
        compress::BROTLI_COMPRESSOR.compress(certificates, CompressionLevel::Interactive)
    }

    fn algorithm(&self) -> CertificateCompressionAlgorithm {
        compress::BROTLI_COMPRESSOR.algorithm()
    }
}

impl ServerTls {
    /// Returns the rustls settings for QUIC connections of a listener that asks its clients for no
    /// certificates.
    pub fn config(&self) -> Arc<rustls::ServerConfig> {
        Arc::new(self.config_quic(None))
    }

    /// Returns the rustls settings for QUIC connections of `listener`.
    pub fn config_of(&self, listener: &Listener) -> Arc<rustls::ServerConfig> {
        Arc::new(self.config_quic(self.client_authorities(listener)))
    }

    fn config_quic(&self, authorities: Option<&ClientAuthorities>) -> rustls::ServerConfig {
        let settings = self.settings(provider(), &[&version::TLS13], EarlyData::Off, authorities);
        let mut config = settings.expect("our cryptography has suites of TLS 1.3");
        config.alpn_protocols = vec![ALPN_H3.to_vec()];
        config
    }

    /// Returns the authorities of a listener's clients; `None` if it asks for no certificates.
    ///
    /// # Panics
    ///
    /// Panics if it asks for them and its authorities have not been read: to serve it without them
    /// would let everybody in.
    pub(super) fn client_authorities(&self, listener: &Listener) -> Option<&ClientAuthorities> {
        let auth = listener.client_auth()?;
        let mut read = self.shared.client_authorities.iter();
        let read = read.find(|one| one.listener == listener.name && one.settings == *auth);
        Some(read.expect("each listener's authorities are read with the certificates"))
    }

    /// Returns settings for connections that speak one of these versions, without protocols above
    /// TLS. Where clients are asked for certificates, there is no early data.
    pub(super) fn settings(
        &self,
        provider: CryptoProvider,
        versions: &[&'static SupportedProtocolVersion],
        early_data: EarlyData,
        authorities: Option<&ClientAuthorities>,
    ) -> Result<rustls::ServerConfig, TlsError> {
        let shared = &self.shared;
        let verifier: Arc<dyn ClientCertVerifier> = match authorities {
            Some(authorities) => Arc::clone(&authorities.verifier) as _,
            None => WebPkiClientVerifier::no_client_auth(),
        };
        let resolver = Arc::clone(&shared.certificates) as Arc<dyn ResolvesServerCert>;
        let mut config = rustls::ServerConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(versions)
            .map_err(|error| TlsError::nowhere(Kind::Settings(error)))?
            .with_client_cert_verifier(verifier)
            .with_cert_resolver(resolver);
        // Sessions are resumed by tickets only: a store of sessions is shared by all workers,
        // behind a lock. Early data has no other way: a ticket could be used twice, and rustls
        // accepts none.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        let Resumption { tickets, sessions } = &shared.resumption;
        match (authorities, early_data) {
            (Some(_), _) => {}
            (None, EarlyData::Off) => {
                config.ticketer = tickets.ticketer();
                config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
            }
            (None, EarlyData::SafeMethods) => {
                config.session_storage = Arc::clone(sessions) as Arc<dyn StoresServerSessions>;
                config.send_tls13_tickets = TICKETS_PER_HANDSHAKE;
                config.max_early_data_size = EARLY_DATA_LEN_MAX;
                // A response need not wait for the rest of the handshake: without it, early data
                // would save no time.
                config.send_half_rtt_data = true;
            }
        }
        config.key_log = Arc::clone(&shared.key_log);
        config.cert_compressors = COMPRESSORS.to_vec();
        config.cert_compression_cache = Arc::clone(&shared.compressions);
        // Clients' certificates are short, and decompressors would read the bytes of strangers.
        config.cert_decompressors = Vec::new();
        Ok(config)
    }
}
