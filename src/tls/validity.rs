//! From when to when a certificate is valid (RFC 5280 4.1.2.5).
//!
//! rustls checks the dates of peers' certificates, not those of our own, and has no way to ask for
//! them. So this reads just enough DER to reach the two dates.

use super::der::{INTEGER, SEQUENCE, element};

/// Seconds since 1970 of both ends, inclusive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Validity {
    pub(super) not_before: i64,
    pub(super) not_after: i64,
}

const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Reads both dates of a DER certificate.
pub(super) fn validity(certificate: &[u8]) -> Option<Validity> {
    let (certificate, _) = element(certificate, SEQUENCE)?;
    let (to_be_signed, _) = element(certificate, SEQUENCE)?;
    let rest = match element(to_be_signed, VERSION) {
        Some((_, rest)) => rest,
        None => to_be_signed,
    };
    let (_serial, rest) = element(rest, INTEGER)?;
    let (_signature, rest) = element(rest, SEQUENCE)?;
    let (_issuer, rest) = element(rest, SEQUENCE)?;
    let (dates, _) = element(rest, SEQUENCE)?;
    let (not_before, rest) = time(dates)?;
    let (not_after, _) = time(rest)?;
    Some(Validity { not_before, not_after })
}

fn time(der: &[u8]) -> Option<(i64, &[u8])> {
    let (year_digits, (text, rest)) = match element(der, UTC_TIME) {
        Some(found) => (2, found),
        None => (4, element(der, GENERALIZED_TIME)?),
    };
    // RFC 5280 4.1.2.5: always with seconds, always Z.
    let digits = text.strip_suffix(b"Z")?;
    if digits.len() != year_digits + 10 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = |from: usize, len: usize| {
        digits[from..from + len].iter().fold(0i64, |sum, digit| sum * 10 + i64::from(digit - b'0'))
    };
    let year = match (year_digits, number(0, year_digits)) {
        (2, year) if year >= 50 => 1900 + year,
        (2, year) => 2000 + year,
        (_, year) => year,
    };
    let field = |index: usize| number(year_digits + 2 * index, 2);
    let (month, day) = (field(0), field(1));
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let seconds = field(2) * 3600 + field(3) * 60 + field(4);
    Some((days_since_1970(year, month, day) * 86_400 + seconds, rest))
}

/// Days of the Gregorian calendar, by counting years that begin in March: so the leap day is the
/// last of its year, and months have a regular pattern of lengths.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = (month + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let leap_days = year / 4 - year / 100 + year / 400;
    // 719,468 days lie between 0000-03-01 and 1970-01-01.
    year * 365 + leap_days + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::TestCertificate;

    #[test]
    fn days_match_known_dates() {
        assert_eq!(days_since_1970(1970, 1, 1), 0);
        assert_eq!(days_since_1970(1969, 12, 31), -1);
        assert_eq!(days_since_1970(2000, 2, 29), 11_016);
        assert_eq!(days_since_1970(2000, 3, 1), 11_017);
        // 2038-01-19 is the day on which a signed 32-bit time ends: 2^31 seconds.
        assert_eq!(days_since_1970(2038, 1, 19), (1i64 << 31) / 86_400);
    }

    /// Oracle: rcgen wrote the certificate with these dates, one in each form.
    #[test]
    fn reads_what_another_library_wrote() {
        let from = rcgen::date_time_ymd(2024, 2, 29);
        let until = rcgen::date_time_ymd(2051, 7, 4);
        let made = TestCertificate::with(&["a.example"], |params| {
            (params.not_before, params.not_after) = (from, until);
        });
        let read = validity(&made.der).unwrap();
        assert_eq!(read.not_before, from.unix_timestamp());
        assert_eq!(read.not_after, until.unix_timestamp());
    }

    #[test]
    fn any_cut_is_refused_without_a_panic() {
        let der = TestCertificate::new(&["a.example"]).der;
        for len in 0..der.len() {
            assert_eq!(validity(&der[..len]), None, "cut at {len}");
        }
    }
}
