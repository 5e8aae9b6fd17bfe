//! The dates of a chain's certificates (RFC 5280 4.1.2.5), and the warnings before and after them.
//! rustls checks the dates of peers' certificates, not those of our own.

use x509_parser::time::ASN1Time;

use super::chain::Note;

/// Days before expiry at which a warning begins. Certificates are usually renewed 30 days before
/// they expire, so the renewal of one this close was probably forgotten.
const EXPIRY_WARNING_DAYS: i64 = 14;

pub(super) const DAY: i64 = 86_400;

/// The dates of one certificate.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) line: usize,
    pub(super) subject: String,
    pub(super) role: Role,
    pub(super) not_before: ASN1Time,
    pub(super) not_after: ASN1Time,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Leaf,
    /// It issued the leaf, so there is no way around it.
    LeafIssuer,
    Other,
}

impl Term {
    /// Returns the warning for this moment, in seconds since 1970, if there is one.
    pub(super) fn note(&self, now: i64) -> Option<Note> {
        let Self { line, role, .. } = *self;
        let (not_before, not_after) = (self.not_before.timestamp(), self.not_after.timestamp());
        let subject = match role {
            Role::Leaf => "the certificate".to_owned(),
            Role::LeafIssuer | Role::Other => format!("{:?}", self.subject),
        };
        let days_left = (not_after - now) / DAY;
        let text = if now > not_after {
            let (ago, on) = ((now - not_after) / DAY, day(self.not_after));
            let expired = format!("{subject} expired {ago} days ago, on {on},");
            match role {
                Role::Leaf => format!("{expired} and clients refuse it; renew it"),
                Role::LeafIssuer => format!(
                    "{expired} and clients refuse what it issued; replace it by the authority's \
                     current one"
                ),
                Role::Other => format!(
                    "{expired} and clients that find no way around it refuse the chain; remove it, \
                     or replace it by the authority's current one"
                ),
            }
        } else if now < not_before {
            format!(
                "{subject} is not valid before {} days from now, on {}; check the clock of this \
                 host, or use the certificate that it replaces until then",
                (not_before - now) / DAY + 1,
                day(self.not_before)
            )
        } else if days_left < EXPIRY_WARNING_DAYS {
            let way_out = match role {
                Role::Leaf => "renew it",
                Role::LeafIssuer | Role::Other => "replace it by the authority's current one",
            };
            format!("{subject} expires in {days_left} days, on {}; {way_out}", day(self.not_after))
        } else {
            return None;
        };
        Some(Note { line, text })
    }
}

/// Returns the day of `time`, as `2026-03-31`.
pub(super) fn day(time: ASN1Time) -> String {
    time.to_datetime().date().to_string()
}
