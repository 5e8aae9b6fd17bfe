//! The names and addresses that a certificate is valid for, as sets (RFC 5280 4.2.1.6).
//!
//! A client may send a request for another authority each time, so that a certificate with a
//! hundred names would be parsed and searched for each request. It is read once, when it is loaded.

use std::collections::HashSet;
use std::net::IpAddr;

use x509_parser::extensions::GeneralName;

use super::x509::Certificate;
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
    /// Reads the names of `leaf`. Its common name is not one of them: no client uses it any more
    /// (RFC 9525 2).
    pub(super) fn read(leaf: &Certificate<'_>) -> Self {
        let mut names = Self::default();
        for name in leaf.names() {
            match name {
                GeneralName::DNSName(name) => names.insert(&name.to_ascii_lowercase()),
                // RFC 5280 4.2.1.6: four or sixteen bytes in network order.
                GeneralName::IPAddress(bytes) => {
                    let bytes: &[u8] = bytes;
                    let v4 = <[u8; 4]>::try_from(bytes).map(IpAddr::from);
                    let v6 = <[u8; 16]>::try_from(bytes).map(IpAddr::from);
                    names.addresses.extend(v4.or(v6));
                }
                _ => {}
            }
        }
        names
    }

    /// Returns true if the certificate is valid for all names that match `pattern`.
    pub(super) fn cover_pattern(&self, pattern: &HostPattern) -> bool {
        match pattern {
            HostPattern::Exact(name) => self.cover(name),
            HostPattern::Wildcard(parent) => self.wildcard.contains(parent.as_str()),
        }
    }

    pub(super) fn cover_address(&self, address: IpAddr) -> bool {
        self.addresses.contains(&address)
    }

    /// Returns all names for a message, in order.
    pub(super) fn list(&self) -> Vec<String> {
        let exact = self.exact.iter().map(|name| name.to_string());
        let wildcard = self.wildcard.iter().map(|parent| format!("*.{parent}"));
        let addresses = self.addresses.iter().map(IpAddr::to_string);
        let mut list: Vec<String> = exact.chain(wildcard).chain(addresses).collect();
        list.sort_unstable();
        list
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
            // Clients do not accept a wildcard for all of a top-level domain.
            Some(parent) if !parent.contains('.') => false,
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

#[cfg(test)]
mod tests {
    use rustls::pki_types::{CertificateDer, ServerName};

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
            let sets = CertificateNames::read(&Certificate::read(&made.der).unwrap());
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
    fn any_cut_is_refused_without_a_panic() {
        let der = TestCertificate::new(&["a.example", "192.0.2.1", "2001:db8::1"]).der;
        for len in 0..der.len() {
            let cut = CertificateDer::from(&der[..len]);
            assert!(Certificate::read(&cut).is_err(), "cut at {len}");
        }
    }
}
