//! The judgement of a chain: of each certificate, and of each link from one to its issuer.
//!
//! ```text
//!  leaf --signed by--> intermediate --signed by--> root, which the clients have
//!   server's names,      authority, may sign,        (usually not in the file)
//!   may sign handshakes  signature checked
//! ```
//!
//! A chain that no client accepts has a [`ChainFault`]. One that some clients refuse, or that holds
//! more than is needed, has a [`Note`]. Whom clients trust is not judged: nobody can tell it here.
//! Nothing is added to the chain, left out or put in another order: the handshake sends what the
//! file holds
//! (docs/decisions/certificates-are-served-as-the-file-has-them.md).

use std::collections::BTreeSet;
use std::fmt;

use rustls::crypto::WebPkiSupportedAlgorithms;
use rustls::pki_types::CertificateDer;

use super::validity::{DAY, Role, Term, day};
use super::x509::{Certificate, RareKey, Signature, Unreadable};

/// The longest that Apple's systems let a server's certificate be valid, whoever issued it
/// (support.apple.com/103769).
const VALIDITY_DAYS_MAX: i64 = 825;
/// The longest that browsers let one of a public authority be valid.
const PUBLIC_VALIDITY_DAYS_MAX: i64 = 398;

/// A certificate and the line of the file where it begins.
#[derive(Debug, Clone)]
pub(super) struct Located {
    pub(super) line: usize,
    pub(super) der: CertificateDer<'static>,
}

/// A warning, and the line of the file that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    pub(super) line: usize,
    pub(super) text: String,
}

/// A reason why no client accepts a chain, and the line of the file that it is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChainFault {
    pub(super) line: usize,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Unreadable(Unreadable),
    NotForServers { subject: String },
    Changed { subject: String, issuer: String },
    NoAuthority { subject: String, issuer: String },
    TooLong { issuer: String, path_len_max: usize },
}

/// The outcome for a chain that is served.
#[derive(Debug)]
pub(super) struct Judgement {
    notes: Vec<Note>,
    terms: Vec<Term>,
    /// Names of the leaf's issuer, of that one's issuer and so on, as far as the file shows them;
    /// empty if the leaf is signed by itself. Clients must trust one of them.
    path: Vec<String>,
}

/// Judges a chain whose first certificate is the leaf.
pub(super) fn judge(
    chain: &[Located],
    algorithms: &WebPkiSupportedAlgorithms,
) -> Result<Judgement, ChainFault> {
    let certificates = chain.iter().map(read).collect::<Result<Vec<_>, _>>()?;
    let mut judge = Judge {
        chain,
        certificates: &certificates,
        algorithms,
        notes: Vec::new(),
        namesakes: BTreeSet::new(),
    };
    judge.leaf()?;
    let links = judge.links()?;
    judge.rest(&links);
    let path = judge.path(&links);
    let mut notes = judge.notes;
    notes.sort_by_key(|note| note.line);
    Ok(Judgement { notes, terms: terms(chain, &certificates, &links), path })
}

fn read(located: &Located) -> Result<Certificate<'_>, ChainFault> {
    Certificate::read(&located.der).map_err(|error| ChainFault::unreadable(located.line, error))
}

/// A certificate and its issuer, as indices into the chain.
type Link = (usize, usize);

struct Judge<'a> {
    chain: &'a [Located],
    certificates: &'a [Certificate<'a>],
    algorithms: &'a WebPkiSupportedAlgorithms,
    notes: Vec<Note>,
    /// Certificates with the name of an issuer that did not issue, which have been noted.
    namesakes: BTreeSet<usize>,
}

impl Judge<'_> {
    fn note(&mut self, index: usize, text: String) {
        self.notes.push(Note { line: self.chain[index].line, text });
    }

    fn refused_by_some(&mut self, index: usize, reason: &str) {
        let text = match index {
            0 => {
                format!("the certificate {reason}, and some clients refuse it; have it issued anew")
            }
            _ => format!(
                "{:?} {reason}, and some clients refuse it; have the certificate issued by another \
                 authority",
                self.certificates[index].subject()
            ),
        };
        self.note(index, text);
    }

    fn fault(&self, index: usize, kind: Kind) -> ChainFault {
        fault(self.chain[index].line, kind)
    }

    /// Judges the leaf by itself.
    fn leaf(&mut self) -> Result<(), ChainFault> {
        let leaf = &self.certificates[0];
        if let Some(usage) = leaf.extended_key_usage()
            && !usage.server_auth
        {
            if !usage.any {
                let kind = Kind::NotForServers { subject: leaf.subject() };
                return Err(self.fault(0, kind));
            }
            self.refused_by_some(0, "has an extended key usage that does not name servers");
        }
        // RFC 8446 4.4.2.2
        if leaf.key_usage().is_some_and(|usage| !usage.digital_signature()) {
            self.refused_by_some(0, "has a key usage that does not permit signatures");
        }
        if leaf.is_authority() {
            self.refused_by_some(0, "is that of an authority, not of a server");
        }
        match leaf.rare_key() {
            Some(RareKey::Ed25519) => self.note(0, browsers_refuse("Ed25519")),
            Some(RareKey::P521) => self.note(0, browsers_refuse("P-521")),
            None => {}
        }
        let days = (leaf.not_after().timestamp() - leaf.not_before().timestamp()) / DAY;
        let (who, days_max) = if leaf.is_public() {
            ("browsers refuse certificates of public authorities", PUBLIC_VALIDITY_DAYS_MAX)
        } else {
            ("Apple's systems refuse certificates", VALIDITY_DAYS_MAX)
        };
        if days > days_max {
            self.note(
                0,
                format!(
                    "the certificate is valid for {days} days, but {who} that are valid for more \
                     than {days_max}; have it issued for less"
                ),
            );
        }
        Ok(())
    }

    /// Follows the issuers from the leaf upwards, over each certificate of the file that issued the
    /// one before. An authority may be there twice, signed by different others.
    fn links(&mut self) -> Result<Vec<Link>, ChainFault> {
        let mut links = Vec::new();
        let mut depths = vec![None; self.certificates.len()];
        depths[0] = Some(0);
        let mut next = vec![0];
        while let Some(child) = next.pop() {
            for issuer in self.issuers(child)? {
                links.push((child, issuer));
                if depths[issuer].is_none() {
                    let depth = depths[child].map_or(0, |depth| depth + 1);
                    depths[issuer] = Some(depth);
                    self.issuer(child, issuer, depth)?;
                    next.push(issuer);
                }
            }
        }
        Ok(links)
    }

    /// Returns the certificates of the file that issued `child`.
    fn issuers(&mut self, child: usize) -> Result<Vec<usize>, ChainFault> {
        let certificates = self.certificates;
        let certificate = &certificates[child];
        if certificate.is_self_issued() {
            return Ok(Vec::new());
        }
        let named: Vec<usize> = (0..certificates.len())
            .filter(|&index| certificate.names_as_issuer(&certificates[index]))
            .filter(|&index| self.first_with_same_der(index) == index)
            .collect();
        let (mut issuers, mut others) = (Vec::new(), Vec::new());
        for index in named {
            let issuer = &certificates[index];
            match certificate.check_signature(issuer, self.algorithms) {
                Signature::Valid => issuers.push(index),
                Signature::Unchecked => {
                    // Both reasons are noted by themselves.
                    let is_noted =
                        certificate.has_broken_hash() || issuer.has_short_key().is_some();
                    if !is_noted {
                        let text = format!(
                            "the signature of {:?} has an algorithm that cannot be checked \
                             here and that many clients refuse; have it issued with another one",
                            certificate.subject()
                        );
                        self.note(child, text);
                    }
                    issuers.push(index);
                }
                Signature::Invalid if certificate.names_key_of(issuer) == Some(true) => {
                    let (subject, issuer) = (certificate.subject(), issuer.subject());
                    return Err(self.fault(child, Kind::Changed { subject, issuer }));
                }
                Signature::Invalid => others.push(index),
            }
        }
        let way_out = match issuers.first() {
            Some(_) => "remove it".to_owned(),
            None => format!("replace it by the one that did{}", fetched_from(certificate)),
        };
        for index in others {
            self.namesakes.insert(index);
            let (namesake, subject) = (certificates[index].subject(), certificate.subject());
            let text = format!(
                "{namesake:?} has the name of the issuer of {subject:?}, but another key: it did \
                 not sign it; {way_out}"
            );
            self.note(index, text);
        }
        Ok(issuers)
    }

    /// Judges an issuer that is `depth` steps above the leaf.
    fn issuer(&mut self, child: usize, issuer: usize, depth: usize) -> Result<(), ChainFault> {
        let certificate = &self.certificates[issuer];
        let subject = self.certificates[child].subject();
        if !certificate.is_authority() {
            let kind = Kind::NoAuthority { subject, issuer: certificate.subject() };
            return Err(self.fault(issuer, kind));
        }
        // RFC 5280 4.2.1.9: the leaf does not count.
        if let Some(path_len_max) = certificate.path_len_max().filter(|max| *max < depth - 1) {
            let kind = Kind::TooLong { issuer: certificate.subject(), path_len_max };
            return Err(self.fault(issuer, kind));
        }
        if certificate.key_usage().is_some_and(|usage| !usage.key_cert_sign()) {
            let reason = "has a key usage that does not permit it to sign certificates";
            self.refused_by_some(issuer, reason);
        }
        if let Some(bits) = certificate.has_short_key() {
            let reason = format!("has a key of only {bits} bits");
            self.refused_by_some(issuer, &reason);
        }
        Ok(())
    }

    /// Judges the file as a whole: what is missing, superfluous or in an unusual order.
    fn rest(&mut self, links: &[Link]) {
        let certificates = self.certificates;
        let reached: BTreeSet<usize> = links.iter().map(|(_, issuer)| *issuer).chain([0]).collect();
        for (index, certificate) in certificates.iter().enumerate() {
            // Nobody checks the signature of a certificate on itself.
            if certificate.has_broken_hash() && (!certificate.is_self_issued() || index == 0) {
                self.refused_by_some(index, "is signed with MD5 or SHA-1");
            }
            let first = self.first_with_same_der(index);
            if first != index {
                self.note(index, format!(
                    "{:?} is already there in line {}; remove one, since each handshake sends both",
                    certificate.subject(), self.chain[first].line
                ));
            } else if !reached.contains(&index) && !self.namesakes.contains(&index) {
                self.note(
                    index,
                    format!(
                        "{:?} issued no other certificate of this chain; remove it, since each \
                     handshake sends it in vain",
                        certificate.subject()
                    ),
                );
            } else if index > 0 && certificate.is_self_issued() {
                self.note(
                    index,
                    format!(
                        "{:?} is a root; remove it, since clients do not need it ({} bytes of each \
                     handshake)",
                        certificate.subject(),
                        self.chain[index].der.len()
                    ),
                );
            }
        }
        if let Some((child, issuer)) = links.iter().find(|(child, issuer)| issuer < child) {
            self.note(
                *issuer,
                format!(
                    "{:?} stands before {:?}, which it issued; put each certificate behind the one \
                 that it issued, since some clients need that order",
                    certificates[*issuer].subject(),
                    certificates[*child].subject()
                ),
            );
        }
        let leaf = &certificates[0];
        let is_missing = links.is_empty() && self.namesakes.is_empty() && !leaf.is_self_issued();
        if is_missing && leaf.issuer_address().is_some() {
            self.note(0, format!(
                "the certificate of the issuer, {:?}, is not in the file, and many clients refuse \
                 the chain without it; append it{}",
                leaf.issuer(), fetched_from(leaf)
            ));
        }
    }

    /// Returns the names of the issuers above the leaf.
    fn path(&self, links: &[Link]) -> Vec<String> {
        let (mut path, mut top) = (Vec::new(), 0);
        // Authorities may have signed each other in a circle.
        while path.len() < self.certificates.len() && !self.certificates[top].is_self_issued() {
            path.push(self.certificates[top].issuer());
            match links.iter().find(|(child, _)| *child == top) {
                Some((_, issuer)) => top = *issuer,
                None => break,
            }
        }
        path
    }

    fn first_with_same_der(&self, index: usize) -> usize {
        let same = |other: &Located| other.der == self.chain[index].der;
        self.chain.iter().position(same).unwrap_or(index)
    }
}

impl Judgement {
    /// Returns the notes for this moment, in seconds since 1970.
    pub(super) fn notes(&self, now: i64) -> Vec<Note> {
        let dates = self.terms.iter().filter_map(|term| term.note(now));
        let mut notes: Vec<Note> = self.notes.iter().cloned().chain(dates).collect();
        notes.sort_by_key(|note| note.line);
        notes
    }

    pub(super) fn path(&self) -> &[String] {
        &self.path
    }

    /// Returns from when to when clients accept the leaf, in seconds since 1970: until it or its
    /// issuer expires.
    pub(super) fn validity(&self) -> (i64, i64) {
        let ends = self.terms.iter().filter(|term| term.role != Role::Other);
        let not_after = ends.map(|term| term.not_after.timestamp()).min();
        let not_before = self.terms.first().map(|term| term.not_before.timestamp());
        (not_before.unwrap_or(i64::MIN), not_after.unwrap_or(i64::MAX))
    }

    /// Returns the day on which the leaf expires, as `2026-03-31`.
    pub(super) fn expiry(&self) -> String {
        self.terms.first().map_or_else(String::new, |term| day(term.not_after))
    }
}

fn terms(chain: &[Located], certificates: &[Certificate<'_>], links: &[Link]) -> Vec<Term> {
    let role = |index| match index {
        0 => Role::Leaf,
        _ if links.contains(&(0, index)) => Role::LeafIssuer,
        _ => Role::Other,
    };
    let term = |(index, certificate): (usize, &Certificate<'_>)| Term {
        line: chain[index].line,
        subject: certificate.subject(),
        role: role(index),
        not_before: certificate.not_before(),
        not_after: certificate.not_after(),
    };
    certificates.iter().enumerate().map(term).collect()
}

fn browsers_refuse(key: &str) -> String {
    format!("browsers refuse certificates for {key} keys; have one issued for ECDSA P-256 as well")
}

/// Returns the command that fetches the certificate of the issuer, if its address is known.
fn fetched_from(certificate: &Certificate<'_>) -> String {
    let Some(address) = certificate.issuer_address() else { return String::new() };
    format!(" (`curl -s {address} | openssl x509 -inform der`)")
}

fn fault(line: usize, kind: Kind) -> ChainFault {
    ChainFault { line, kind }
}

impl ChainFault {
    /// A certificate in `line` that cannot be read.
    pub(super) fn unreadable(line: usize, error: Unreadable) -> Self {
        fault(line, Kind::Unreadable(error))
    }
}

impl fmt::Display for ChainFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            Kind::Unreadable(Unreadable::NotX509) => {
                f.write_str("this block is not a whole X.509 certificate; copy it again")
            }
            Kind::Unreadable(Unreadable::Trailing(count)) => write!(
                f,
                "{count} bytes follow the certificate in this block; copy it again, or write each \
                 certificate as a block of its own"
            ),
            Kind::Unreadable(Unreadable::Extension) => f.write_str(
                "an extension of this certificate is damaged or there twice; have it issued anew",
            ),
            Kind::NotForServers { subject } => write!(
                f,
                "{subject:?} is not a server's certificate: its extended key usage permits other \
                 uses only; have one issued for servers (serverAuth)"
            ),
            Kind::Changed { subject, issuer } => write!(
                f,
                "the signature of {subject:?} is not valid, although it names the key of \
                 {issuer:?}: one of the two was changed after it was issued; get both again"
            ),
            Kind::NoAuthority { subject, issuer } => write!(
                f,
                "{issuer:?} signed {subject:?}, but is not the certificate of an authority (its \
                 basic constraints do not contain CA:TRUE); have {subject:?} issued by an authority"
            ),
            Kind::TooLong { issuer, path_len_max } => write!(
                f,
                "{issuer:?} permits {path_len_max} authorities below it, but more are in this \
                 chain; have the certificate issued by another authority"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::{pem, provider};
    use super::*;

    /// Every bit of the leaf is signed or part of the signature, but for a few tags around them.
    /// There x509-parser is lenient; rustls is not, when it compares the leaf with the key.
    #[test]
    fn no_changed_bit_of_a_leaf_goes_unnoticed() {
        let text = include_str!("../../tests/fixtures/certificates/fullchain.pem");
        let blocks = pem::blocks(text).unwrap().into_iter();
        let mut chain: Vec<Located> =
            blocks.map(|block| Located { line: block.line, der: block.der.into() }).collect();
        let algorithms = provider().signature_verification_algorithms;
        assert_eq!(judge(&chain, &algorithms).unwrap().notes, []);
        let whole = chain[0].der.to_vec();
        let (mut fault_count, mut noted_count, mut lenient_count) = (0, 0, 0);
        for bit in 0..8 * whole.len() {
            let mut changed = whole.clone();
            changed[bit / 8] ^= 1 << (bit % 8);
            chain[0].der = changed.into();
            match judge(&chain, &algorithms) {
                Err(fault) => {
                    assert!(!fault.to_string().is_empty());
                    fault_count += 1;
                }
                Ok(judgement) if !judgement.notes.is_empty() => noted_count += 1,
                Ok(_) => {
                    let read = rustls::server::ParsedCertificate::try_from(&chain[0].der);
                    assert!(read.is_err(), "bit {bit}");
                    lenient_count += 1;
                }
            }
        }
        assert!(fault_count > 1000 && noted_count > 100, "{fault_count}, {noted_count}");
        assert!(lenient_count < 20, "{lenient_count}");
    }
}
