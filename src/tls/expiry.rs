//! The approach of a certificate's last day, for the metrics and the process log.

use super::validity::DAY;

/// The last day of a file: of a certificate that is served, of authorities or of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Expiry {
    /// The path of the file.
    pub(crate) certificate: String,
    pub(crate) kind: Expiring,
    /// When it became valid, and when it or its issuer in the file expires, in seconds since 1970.
    pub(crate) not_before: i64,
    pub(crate) not_after: i64,
}

/// The content of a file that expires.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Expiring {
    /// A certificate that is served.
    Certificate,
    /// An authority of clients.
    ClientAuthority,
    /// A list of revoked certificates of clients.
    RevocationList,
}

impl Expiring {
    fn name(self) -> &'static str {
        match self {
            Self::Certificate => "the certificate",
            Self::ClientAuthority => "an authority of clients",
            Self::RevocationList => "the revocation list",
        }
    }

    /// Returns what to do before it expires, or when it has.
    pub(crate) fn way_out(self) -> &'static str {
        match self {
            Self::Certificate => "renew it",
            Self::ClientAuthority => "replace it by its current certificate",
            Self::RevocationList => "fetch the current one",
        }
    }

    /// Returns the consequence of its end.
    pub(crate) fn consequence(self) -> &'static str {
        match self {
            Self::Certificate => "clients refuse it",
            Self::ClientAuthority => "the clients that it vouches for are refused",
            Self::RevocationList => "the clients of its authority are refused",
        }
    }
}

/// Milestones on the way to the end, in order. Each has a line in the process log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Nearness {
    /// At most 30 days are left.
    Month,
    /// At most 7 days.
    Week,
    /// At most a day.
    Day,
    Expired,
}

/// The milestones before the end, and the days that are left then.
const MILESTONES: [(i64, Nearness); 3] =
    [(1, Nearness::Day), (7, Nearness::Week), (30, Nearness::Month)];

impl Expiry {
    /// Returns the last milestone that has been reached at `now`, in seconds since 1970. Those that
    /// lie in the first half of the certificate's life are none: one that is valid for a week is
    /// renewed within days.
    pub(crate) fn nearness(&self, now: i64) -> Option<Nearness> {
        let left = self.not_after - now;
        if left < 0 {
            return Some(Nearness::Expired);
        }
        let life = self.not_after - self.not_before;
        MILESTONES
            .into_iter()
            .find(|(days, _)| left <= days * DAY && 2 * days * DAY <= life)
            .map(|(_, milestone)| milestone)
    }

    /// Returns the days that are left at `now`, in words.
    pub(crate) fn text(&self, now: i64) -> String {
        let (file, subject) = (&self.certificate, self.kind.name());
        let left = self.not_after - now;
        match left / DAY {
            _ if left < 0 => format!("{file}: {subject} has expired"),
            0 => format!("{file}: {subject} expires within a day"),
            1 => format!("{file}: {subject} expires in 1 day"),
            days => format!("{file}: {subject} expires in {days} days"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn milestones_are_in_the_second_half_of_a_life() {
        let at = |life_days: i64, left_seconds: i64| {
            let expiry = Expiry {
                certificate: "a.pem".to_owned(),
                kind: Expiring::Certificate,
                not_before: 1_000_000,
                not_after: 1_000_000 + life_days * DAY,
            };
            expiry.nearness(expiry.not_after - left_seconds)
        };
        use Nearness::*;
        for (life_days, left_seconds, expected) in [
            (90, 31 * DAY, None),
            (90, 30 * DAY + 1, None),
            (90, 30 * DAY, Some(Month)),
            (90, 7 * DAY + 1, Some(Month)),
            (90, 7 * DAY, Some(Week)),
            (90, DAY, Some(Day)),
            (90, 0, Some(Day)),
            (90, -1, Some(Expired)),
            (47, 30 * DAY, None),
            (47, 7 * DAY, Some(Week)),
            (6, 6 * DAY, None),
            (6, DAY, Some(Day)),
            (1, DAY, None),
            (1, -DAY, Some(Expired)),
        ] {
            assert_eq!(at(life_days, left_seconds), expected, "{life_days}, {left_seconds}");
        }
    }
}
