//! A verified certificate of a client, as upstreams and logs are told about it.

use std::net::{Ipv4Addr, Ipv6Addr};

use aws_lc_rs::digest;
use data_encoding::{BASE64, HEXLOWER, HEXUPPER};
use http::{HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;

use super::x509::Certificate;
use crate::config::{ClientAuth, ClientFact, Listener};
use crate::limits::CLIENT_FIELD_LEN_MAX;
use crate::message::{ClientCertificate, LoggedText};

/// Returns what upstreams and logs are told about the certificate `der` that a client of `listener`
/// has proved to be its own. Returns `None` if there is none. A field that would be longer than
/// [`CLIENT_FIELD_LEN_MAX`] is left out, as if there were no certificate.
pub(crate) fn identify(der: Option<&[u8]>, listener: &Listener) -> Option<ClientCertificate> {
    let auth = listener.client_auth()?;
    Some(describe(&CertificateDer::from(der?), auth))
}

fn describe(der: &CertificateDer<'_>, auth: &ClientAuth) -> ClientCertificate {
    // rustls has read it with another parser, which may be more lenient.
    let certificate = Certificate::read(der).ok();
    let subject = certificate.as_ref().map(Certificate::full_subject).unwrap_or_default();
    let field = |(fact, name): &(ClientFact, String)| {
        let value = match (fact, &certificate) {
            (ClientFact::Fingerprint, _) => fingerprint(der),
            (ClientFact::Certificate, _) => format!(":{}:", BASE64.encode(der)),
            (ClientFact::Subject, Some(_)) => subject.clone(),
            (ClientFact::AlternativeNames, Some(certificate)) => alternative_names(certificate),
            (ClientFact::Serial, Some(certificate)) => serial(certificate.serial()),
            (_, None) => return None,
        };
        let fits = !value.is_empty() && value.len() <= CLIENT_FIELD_LEN_MAX;
        let name = HeaderName::from_bytes(name.as_bytes()).expect("checked as it was configured");
        let value = HeaderValue::try_from(value).expect("visible ASCII and blanks within");
        fits.then_some((name, value))
    };
    ClientCertificate {
        subject: LoggedText::new(subject.as_bytes()),
        fields: auth.fields.iter().filter_map(field).collect(),
    }
}

/// Returns the SHA-256 of the certificate in hexadecimal.
fn fingerprint(der: &[u8]) -> String {
    HEXLOWER.encode(digest::digest(&digest::SHA256, der).as_ref())
}

/// Returns a serial number in hexadecimal, without the zero that DER puts before a high first bit.
fn serial(content: &[u8]) -> String {
    match content {
        [0, rest @ ..] if !rest.is_empty() => HEXUPPER.encode(rest),
        whole => HEXUPPER.encode(whole),
    }
}

/// Returns the subject alternative names as `DNS:a.example, URI:spiffe://a/b`. Whatever could end a
/// name or begin another one is percent-encoded. Names of other kinds are left out.
fn alternative_names(certificate: &Certificate<'_>) -> String {
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(format!("DNS:{}", percent_encoded(name))),
        GeneralName::URI(uri) => Some(format!("URI:{}", percent_encoded(uri))),
        GeneralName::RFC822Name(address) => Some(format!("email:{}", percent_encoded(address))),
        GeneralName::IPAddress(bytes) => address(bytes).map(|address| format!("IP:{address}")),
        _ => None,
    };
    certificate.names().iter().filter_map(name).collect::<Vec<_>>().join(", ")
}

fn address(bytes: &[u8]) -> Option<String> {
    match *bytes {
        [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_string()),
        _ => Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).to_string()),
    }
}

/// Encodes commas, quotes, blanks, control characters and what is not ASCII. A percent sign stays:
/// it is part of URIs, which are encoded so already.
fn percent_encoded(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'!'..=b'~' if !b",\"\\".contains(&byte) => text.push(char::from(byte)),
            _ => text.push_str(&format!("%{byte:02X}")),
        }
    }
    text
}
