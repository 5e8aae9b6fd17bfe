//! Statements of authorities that a certificate is not revoked (OCSP, RFC 6960), which are stapled
//! to it in handshakes (RFC 8446 4.4.2.1).
//!
//! They come from a file that another program keeps fresh: the gateway asks nobody. Clients check
//! the signature. Read here is what would make them refuse a certificate because of its statement.

use std::fmt;

use x509_parser::asn1_rs::{Any, Class, FromDer as _, Tag};
use x509_parser::time::ASN1Time;

/// id-pkix-ocsp-basic, 1.3.6.1.5.5.7.48.1.1 (RFC 6960 4.2.1).
const BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];

/// A reason why a file is no statement that can be stapled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StapleFault {
    NotOcsp,
    /// The responder has answered with an error, of this number.
    Failed(u8),
    OtherCertificate,
    Revoked,
    Unknown,
}

/// A statement about one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Staple {
    /// The moment from which clients refuse it, in seconds since 1970, if it names one.
    pub(super) next_update: Option<i64>,
}

impl Staple {
    /// Reads the statement about the certificate with this serial number (the content of its
    /// INTEGER).
    pub(super) fn read(der: &[u8], serial: &[u8]) -> Result<Self, StapleFault> {
        let response = parts(der).ok_or(StapleFault::NotOcsp)?;
        match response.first() {
            Some(status) if status.tag() == Tag::Enumerated => match status.data {
                [0] => {}
                [number] => return Err(StapleFault::Failed(*number)),
                _ => return Err(StapleFault::NotOcsp),
            },
            _ => return Err(StapleFault::NotOcsp),
        }
        let singles = single_responses(&response).ok_or(StapleFault::NotOcsp)?;
        for single in singles {
            let (about, staple) = read_single(&single).ok_or(StapleFault::NotOcsp)?;
            if about == serial {
                return staple;
            }
        }
        Err(StapleFault::OtherCertificate)
    }

    pub(super) fn is_expired(&self, now: i64) -> bool {
        self.next_update.is_some_and(|at| at <= now)
    }
}

/// Returns the statements in the parts of an OCSPResponse.
fn single_responses<'a>(response: &[Any<'a>]) -> Option<Vec<Any<'a>>> {
    let bytes = parts_of(response.get(1)?)?.into_iter().next()?;
    let typed = parts_of(&bytes)?;
    let [kind, basic] = typed.as_slice() else { return None };
    if kind.tag() != Tag::Oid || kind.data != BASIC {
        return None;
    }
    let signed = parts(basic.data)?.into_iter().next()?;
    // Version, responder and time come before.
    let list = parts_of(&signed)?
        .into_iter()
        .find(|part| part.tag() == Tag::Sequence && part.class() == Class::Universal)?;
    parts_of(&list)
}

/// Returns the serial number that a SingleResponse is about, and what it says.
fn read_single<'a>(single: &Any<'a>) -> Option<(&'a [u8], Result<Staple, StapleFault>)> {
    let fields = parts_of(single)?;
    let [id, status, _this_update, rest @ ..] = fields.as_slice() else { return None };
    let serial = parts_of(id)?.pop()?.data;
    let next_update = match rest.iter().find(|part| is_tagged(part, 0)) {
        Some(part) => {
            let (_, time) = ASN1Time::from_der(part.data).ok()?;
            Some(time.timestamp())
        }
        None => None,
    };
    let said = match status.tag().0 {
        0 => Ok(Staple { next_update }),
        1 => Err(StapleFault::Revoked),
        _ => Err(StapleFault::Unknown),
    };
    Some((serial, said))
}

fn is_tagged(part: &Any<'_>, number: u32) -> bool {
    part.class() == Class::ContextSpecific && part.tag().0 == number
}

/// Returns the elements of a whole SEQUENCE.
fn parts(der: &[u8]) -> Option<Vec<Any<'_>>> {
    let (rest, sequence) = Any::from_der(der).ok()?;
    if !rest.is_empty() || sequence.tag() != Tag::Sequence {
        return None;
    }
    parts_of(&sequence)
}

/// Returns the elements inside of a constructed one.
fn parts_of<'a>(outer: &Any<'a>) -> Option<Vec<Any<'a>>> {
    let (mut rest, mut found) = (outer.data, Vec::new());
    while !rest.is_empty() {
        let (behind, part) = Any::from_der(rest).ok()?;
        found.push(part);
        rest = behind;
    }
    Some(found)
}

impl fmt::Display for StapleFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotOcsp => f.write_str(
                "is no response of OCSP in binary form (DER); have one written with `openssl ocsp \
                 -issuer ISSUER -cert CERT -url URL -respout FILE`",
            ),
            Self::Failed(number) => write!(
                f,
                "holds the error {number} of the authority's responder (RFC 6960 4.2.1), not a \
                 statement; have it fetched again"
            ),
            Self::OtherCertificate => f.write_str(
                "holds a statement about another certificate; fetch one for the first certificate \
                 of `cert`",
            ),
            Self::Revoked => {
                f.write_str("says that the certificate is revoked; have it issued anew")
            }
            Self::Unknown => f.write_str(
                "says that the authority does not know the certificate; ask the one that issued it",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes an element of DER.
    fn tlv(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let content = parts.concat();
        let mut der = vec![tag];
        match content.len() {
            len @ 0..=127 => der.push(len as u8),
            len => der.extend([0x82, (len >> 8) as u8, len as u8]),
        }
        der.extend(content);
        der
    }

    const SEQUENCE: u8 = 0x30;
    const OCTETS: u8 = 0x04;
    const TIME: u8 = 0x18;
    const NOW: i64 = 1_772_323_200;

    fn single(serial: &[u8], status: u8, next_update: Option<&str>) -> Vec<u8> {
        let algorithm = tlv(SEQUENCE, &[&tlv(0x06, &[&[0x2b, 0x0e, 0x03, 0x02, 0x1a]])]);
        let hash = tlv(OCTETS, &[&[7; 20]]);
        let id = tlv(SEQUENCE, &[&algorithm, &hash, &hash, &tlv(0x02, &[serial])]);
        let next_update = next_update.map(|text| tlv(0xa0, &[&tlv(TIME, &[text.as_bytes()])]));
        let this_update = tlv(TIME, &[b"20260201000000Z"]);
        tlv(SEQUENCE, &[&id, &tlv(status, &[]), &this_update, &next_update.unwrap_or_default()])
    }

    fn response(singles: &[Vec<u8>]) -> Vec<u8> {
        let responder = tlv(0xa2, &[&tlv(OCTETS, &[&[9; 20]])]);
        let list = tlv(SEQUENCE, &[&singles.concat()]);
        let signed = tlv(SEQUENCE, &[&responder, &tlv(TIME, &[b"20260201000000Z"]), &list]);
        let basic = tlv(SEQUENCE, &[&signed, &tlv(SEQUENCE, &[]), &tlv(0x03, &[&[0; 70]])]);
        let typed = tlv(SEQUENCE, &[&tlv(0x06, &[BASIC]), &tlv(OCTETS, &[&basic])]);
        tlv(SEQUENCE, &[&tlv(0x0a, &[&[0]]), &tlv(0xa0, &[&typed])])
    }

    const GOOD: u8 = 0x80;

    #[test]
    fn the_statement_about_the_certificate_is_found() {
        let der = response(&[
            single(&[1], 0xa1, None),
            single(&[2, 3], GOOD, Some("20260301000000Z")),
            single(&[4], 0x82, None),
            single(&[5], GOOD, None),
        ]);
        let staple = Staple::read(&der, &[2, 3]).unwrap();
        assert_eq!(staple.next_update, Some(NOW));
        assert!(staple.is_expired(NOW) && !staple.is_expired(NOW - 1));
        assert!(!Staple::read(&der, &[5]).unwrap().is_expired(i64::MAX));
        assert_eq!(Staple::read(&der, &[1]), Err(StapleFault::Revoked));
        assert_eq!(Staple::read(&der, &[4]), Err(StapleFault::Unknown));
        assert_eq!(Staple::read(&der, &[2]), Err(StapleFault::OtherCertificate));
        let failed = tlv(SEQUENCE, &[&tlv(0x0a, &[&[3]])]);
        assert_eq!(Staple::read(&failed, &[1]), Err(StapleFault::Failed(3)));
    }

    #[test]
    fn what_is_cut_or_followed_by_more_is_none() {
        let mut der = response(&[single(&[2, 3], GOOD, Some("20260301000000Z"))]);
        for len in 0..der.len() {
            assert_eq!(Staple::read(&der[..len], &[2, 3]), Err(StapleFault::NotOcsp), "{len}");
        }
        der.push(0);
        assert_eq!(Staple::read(&der, &[2, 3]), Err(StapleFault::NotOcsp));
        let certificate = crate::testing::TestCertificate::new(&["a.test"]).der;
        assert_eq!(Staple::read(&certificate, &[1]), Err(StapleFault::NotOcsp));
    }
}
