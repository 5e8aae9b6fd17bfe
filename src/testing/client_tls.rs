//! TLS clients that trust a test's certificates and nothing else.

use std::sync::Arc;

use quinn_proto::crypto::rustls::QuicClientConfig;
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, RootCertStore};

use crate::tls::{ALPN_H3, ServerTls, provider};

/// Ingredients of a client's TLS settings. Tests change the fields that matter to them.
#[derive(Debug)]
pub struct ClientTls {
    /// The only certificates that the client trusts.
    pub roots: RootCertStore,
    /// The protocols that it offers, in order of preference; HTTP/3 at first.
    pub alpn: Vec<Vec<u8>>,
    /// Cipher suites and key exchange groups; the gateway's own at first.
    pub provider: CryptoProvider,
    /// Where it keeps tickets of earlier connections, if at all.
    pub resumption: Resumption,
}

impl ClientTls {
    /// A client that trusts `certificate`.
    pub fn trusting(certificate: CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(certificate).expect("a certificate that rustls can read");
        Self { roots, ..Self::trusting_nobody() }
    }

    /// A client that trusts the certificate which `server` presents to clients without SNI.
    pub fn trusting_server(server: &ServerTls) -> Self {
        Self::trusting(server.chain(None)[0].clone())
    }

    /// A client without trusted certificates, for a caller that verifies in another way.
    pub fn trusting_nobody() -> Self {
        Self {
            roots: RootCertStore::empty(),
            alpn: vec![ALPN_H3.to_vec()],
            provider: provider(),
            resumption: Resumption::default(),
        }
    }

    /// Returns the settings for TLS 1.3, the only version that QUIC has.
    pub fn tls13(self) -> ClientConfig {
        let mut config = ClientConfig::builder_with_provider(Arc::new(self.provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .expect("the provider has TLS 1.3")
            .with_root_certificates(self.roots)
            .with_no_client_auth();
        config.alpn_protocols = self.alpn;
        config.resumption = self.resumption;
        // A certificate comes as it is, so that lengths do not depend on how well it compresses.
        config.cert_decompressors = Vec::new();
        config
    }

    /// Returns the settings for a QUIC client, quinn's or quinn-proto's.
    pub fn quic(self) -> quinn_proto::ClientConfig {
        quic_client(self.tls13())
    }
}

/// Wraps TLS settings for a QUIC client.
pub fn quic_client(tls: ClientConfig) -> quinn_proto::ClientConfig {
    let crypto = QuicClientConfig::try_from(tls).expect("TLS 1.3 only");
    quinn_proto::ClientConfig::new(Arc::new(crypto))
}
