//! The names and addresses that a certificate is valid for, as sets (RFC 5280 4.2.1.6).
//!
//! A client may send a request for another authority each time, so that a certificate with a
//! hundred names would be parsed and searched for each request. It is read once, when it is loaded.

use std::collections::HashSet;
use std::net::IpAddr;

use rustls::pki_types::CertificateDer;

use super::der::{SEQUENCE, any_element, element};
use crate::config::HostPattern;

/// The names of one certificate.
#[derive(Debug, Default)]
pub(super) struct CertificateNames {
    /// In lower case.
    exact: HashSet<Box<str>>,
    /// NAME of each `*.NAME`, in lower case.
    wildcard: HashSet<Box<str>>,
    addresses: HashSet<IpAddr>,
}

impl CertificateNames {
    /// Reads the names of `leaf`, and adds the configured `hosts`, which it covers.
    pub(super) fn read(
        leaf: &CertificateDer<'_>,
        hosts: &[HostPattern],
    ) -> Result<Self, webpki::Error> {
        let mut names = Self::default();
        for name in webpki::EndEntityCert::try_from(leaf)?.valid_dns_names() {
            names.insert(&name.to_ascii_lowercase());
        }
        for host in hosts {
            names.insert(&host.to_string());
        }
        names.addresses = addresses(leaf).unwrap_or_default();
        Ok(names)
    }

    /// Returns whether the certificate is valid for `host` (lower case, no port, no trailing dot;
    /// an IPv6 address in brackets).
    pub(super) fn cover(&self, host: &str) -> bool {
        if self.exact.contains(host) {
            return true;
        }
        // RFC 6125 6.4.3: the wildcard stands for exactly one label.
        if let Some((label, parent)) = host.split_once('.')
            && !label.is_empty()
            && self.wildcard.contains(parent)
        {
            return true;
        }
        !self.addresses.is_empty()
            && address(host).is_some_and(|address| self.addresses.contains(&address))
    }

    fn insert(&mut self, name: &str) {
        match name.strip_prefix("*.") {
            Some(parent) => self.wildcard.insert(parent.into()),
            None => self.exact.insert(name.into()),
        };
    }
}

fn address(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?.parse().ok().map(IpAddr::V6),
        None => host.parse().ok().map(IpAddr::V4),
    }
}

const OBJECT_ID: u8 = 0x06;
const BOOLEAN: u8 = 0x01;
const OCTET_STRING: u8 = 0x04;
const EXTENSIONS: u8 = 0xa3;
const IP_ADDRESS: u8 = 0x87;
/// 2.5.29.17
const SUBJECT_ALT_NAME: &[u8] = &[0x55, 0x1d, 0x11];

/// Reads the addresses among the subject alternative names, which webpki does not list.
fn addresses(certificate: &[u8]) -> Option<HashSet<IpAddr>> {
    let mut names = subject_alt_names(certificate)?;
    let mut addresses = HashSet::new();
    while let Some((tag, content, rest)) = any_element(names) {
        names = rest;
        // RFC 5280 4.2.1.6: four or sixteen bytes in network order.
        if tag == IP_ADDRESS {
            let v4 = <[u8; 4]>::try_from(content).map(IpAddr::from);
            let v6 = <[u8; 16]>::try_from(content).map(IpAddr::from);
            addresses.extend(v4.or(v6));
        }
    }
    Some(addresses)
}

/// Returns the content of the subject alternative names of a DER certificate.
fn subject_alt_names(certificate: &[u8]) -> Option<&[u8]> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (mut to_be_signed, _) = element(certificate, SEQUENCE)?;
    let extensions = loop {
        let (tag, content, rest) = any_element(to_be_signed)?;
        if tag == EXTENSIONS {
            break content;
        }
        to_be_signed = rest;
    };
    let (mut extensions, _) = element(extensions, SEQUENCE)?;
    loop {
        let (extension, rest) = element(extensions, SEQUENCE)?;
        extensions = rest;
        let (id, value) = element(extension, OBJECT_ID)?;
        if id == SUBJECT_ALT_NAME {
            let value = element(value, BOOLEAN).map_or(value, |(_critical, value)| value);
            let (value, _) = element(value, OCTET_STRING)?;
            return Some(element(value, SEQUENCE)?.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::ServerName;

    use super::*;
    use crate::testing::TestCertificate;

    /// Oracle: webpki's own check of the certificate for one name.
    #[test]
    fn the_sets_cover_what_webpki_finds_valid() {
        let hosts = [
            "example.com",
            "www.example.com",
            "a.b.example.com",
            "example.org",
            "a.example.org",
            "a_b.example.org",
            "org",
            "com",
            "localhost",
            "xn--bcher-kva.example",
            "192.0.2.1",
            "192.0.2.2",
            "[2001:db8::1]",
            "[2001:db8::2]",
            "[::ffff:192.0.2.1]",
            "[::1]",
        ];
        let many: Vec<String> = (0..300).map(|index| format!("{index}.many.test")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let certificates = [
            &["example.com"][..],
            &["Example.COM", "*.Example.org", "192.0.2.1"],
            &["*.example.com", "2001:db8::1", "localhost"],
            &["*.b.example.com", "::ffff:192.0.2.1", "xn--bcher-kva.example"],
            &["*.org", "*.com", "::1", "192.0.2.2"],
            // Long enough for lengths of several bytes.
            &many,
        ];
        for names in certificates {
            let made = TestCertificate::new(names);
            let sets = CertificateNames::read(&made.der, &[]).unwrap();
            let webpki = webpki::EndEntityCert::try_from(&made.der).unwrap();
            for host in hosts.iter().chain(&many) {
                let bare = host.trim_start_matches('[').trim_end_matches(']');
                let name = ServerName::try_from(bare).unwrap();
                let is_valid = webpki.verify_is_valid_for_subject_name(&name).is_ok();
                assert_eq!(sets.cover(host), is_valid, "{host} by {names:?}");
            }
        }
    }

    #[test]
    fn any_cut_is_read_without_a_panic() {
        let der = TestCertificate::new(&["a.example", "192.0.2.1", "2001:db8::1"]).der;
        assert_eq!(addresses(&der).unwrap().len(), 2);
        for len in 0..der.len() {
            let _ = addresses(&der[..len]);
        }
    }
}
