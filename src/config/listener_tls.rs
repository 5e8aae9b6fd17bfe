//! `[listeners.tls]`: the settings of one listener's TLS.
//!
//! The key `tls` is a boolean where the defaults do, and else a table, which implies TLS.

use std::path::PathBuf;

use super::choices;
use super::names;
use super::reader::Section;

/// `[listeners.tls]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerTls {
    /// The oldest version that clients over TCP may speak. QUIC has TLS 1.3 only (RFC 9001 4.2).
    pub version_min: TlsVersion,
    /// The certificates that clients are asked for; `None` asks for none.
    pub client_auth: Option<ClientAuth>,
}

impl Default for ListenerTls {
    fn default() -> Self {
        Self { version_min: TlsVersion::Tls12, client_auth: None }
    }
}

/// A version of TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TlsVersion {
    Tls12,
    Tls13,
}

/// `listeners.tls.client_auth`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientAuth {
    pub demand: ClientAuthDemand,
    /// File of the authorities that may issue clients' certificates.
    pub ca: PathBuf,
    /// Files of their revocation lists. If there are any, each certificate needs one that covers
    /// it.
    pub crls: Vec<PathBuf>,
    /// The fields that tell upstreams about the certificate, by fact. Names are distinct and in
    /// lower case.
    pub fields: Vec<(ClientFact, String)>,
}

/// `client_auth.mode`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuthDemand {
    /// A client without a certificate is served too.
    Optional,
    /// Every client has to have one.
    Require,
}

/// A fact about a client's certificate: a key of `client_auth.headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientFact {
    /// The distinguished name of the subject (RFC 4514).
    Subject,
    /// The subject alternative names.
    AlternativeNames,
    Serial,
    /// SHA-256 of the certificate.
    Fingerprint,
    /// The certificate itself (RFC 9440).
    Certificate,
}

/// Reads `tls`, a boolean or a table. The table implies TLS.
pub(super) fn read(section: &mut Section) -> Option<ListenerTls> {
    let mut table = match section.item("tls") {
        None => return Some(ListenerTls::default()),
        Some(item) if !item.is_table() => {
            return item.flag().unwrap_or(true).then(ListenerTls::default);
        }
        Some(item) => item.section()?,
    };
    let version_min = table.choice("min_version", choices::TLS_VERSION);
    let client_auth = client_auth(table.section("client_auth"));
    table.finish();
    Some(ListenerTls { version_min, client_auth })
}

fn client_auth(mut section: Section) -> Option<ClientAuth> {
    let demand = section.choice("mode", choices::CLIENT_AUTH);
    let ca = section.item("ca").filter(|item| !item.is_str(""));
    let ca = ca.and_then(|item| item.path());
    let crls = section.item("crl").filter(|item| !item.is_str(""));
    let crls = crls.map(|item| item.items()).unwrap_or_default();
    let crls = crls.iter().filter_map(|item| item.path()).collect();
    let fields = client_fields(section.section("headers"));
    if demand.is_some() && ca.is_none() {
        section.refuse(
            "needs `ca`: the file with the authorities that issue your clients' certificates (PEM)",
        );
    }
    section.finish();
    Some(ClientAuth { demand: demand?, ca: ca?, crls, fields })
}

/// Reads the names of the fields that tell upstreams about a client's certificate.
fn client_fields(mut section: Section) -> Vec<(ClientFact, String)> {
    let mut fields: Vec<(ClientFact, String)> = Vec::new();
    for (key, fact) in choices::CLIENT_FACTS {
        let item = section.item(key).filter(|item| !item.is_str(""));
        let Some(item) = item else { continue };
        let Some(name) = item.parsed(names::written_field_name) else { continue };
        if fields.iter().any(|(_, other)| *other == name) {
            item.refuse(format_args!("is {name:?}, as another one is; write each into its own"));
        }
        fields.push((*fact, name));
    }
    section.finish();
    fields
}
