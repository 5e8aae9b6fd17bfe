//! Lines of the process log as the end of a certificate nears.

use std::collections::BTreeMap;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::tls::{Expiry, Nearness};

/// The last milestone of each certificate that has a line.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    told: BTreeMap<String, Nearness>,
}

impl Expiries {
    /// Begins with what the warnings at the start have said, which begin two weeks before the end.
    pub(super) fn begin(expiries: &[Expiry], now: SystemTime) -> Self {
        let mut begun = Self::default();
        begun.news(expiries, now);
        begun.told.retain(|_, nearness| *nearness > Nearness::Month);
        begun
    }

    /// Logs which certificates have reached a milestone since the last call.
    pub(super) fn log(&mut self, expiries: &[Expiry], now: SystemTime) {
        for (expiry, nearness) in self.news(expiries, now) {
            let text = expiry.text(seconds(now));
            let (way_out, consequence) = (expiry.kind.way_out(), expiry.kind.consequence());
            match nearness {
                Nearness::Month => tracing::info!("{text}"),
                Nearness::Week | Nearness::Day => tracing::warn!("{text}; {way_out}"),
                Nearness::Expired => tracing::error!("{text}, and {consequence}; {way_out}"),
            }
        }
    }

    /// Returns the certificates that have reached a milestone.
    fn news<'a>(&mut self, expiries: &'a [Expiry], now: SystemTime) -> Vec<(&'a Expiry, Nearness)> {
        let mut news = Vec::new();
        let mut told = BTreeMap::new();
        for expiry in expiries {
            let Some(nearness) = expiry.nearness(seconds(now)) else { continue };
            let before = self.told.get(&expiry.certificate);
            if before.is_none_or(|before| *before < nearness) {
                news.push((expiry, nearness));
            }
            told.insert(expiry.certificate.clone(), nearness);
        }
        self.told = told;
        news
    }
}

fn seconds(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::tls::Expiring;

    const DAY: i64 = 86_400;

    fn expiry(name: &str, end_day: i64) -> Expiry {
        let not_after = end_day * DAY;
        let kind = Expiring::Certificate;
        let (certificate, not_before) = (name.to_owned(), not_after - 90 * DAY);
        Expiry { certificate, kind, not_before, not_after }
    }

    fn on(day: i64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs((day * DAY) as u64)
    }

    fn news(expiries: &mut Expiries, all: &[Expiry], day: i64) -> Vec<String> {
        let news = expiries.news(all, on(day));
        news.iter()
            .map(|(expiry, nearness)| format!("{} {nearness:?}", expiry.certificate))
            .collect()
    }

    #[test]
    fn each_milestone_is_told_once() {
        let all = [expiry("a.pem", 1000), expiry("b.pem", 1020)];
        let mut expiries = Expiries::begin(&all, on(900));
        let mut told = Vec::new();
        for day in 900..1010 {
            for _ in 0..3 {
                told.extend(news(&mut expiries, &all, day).into_iter().map(|line| (day, line)));
            }
        }
        let expected = [
            (970, "a.pem Month"),
            (990, "b.pem Month"),
            (993, "a.pem Week"),
            (999, "a.pem Day"),
            (1001, "a.pem Expired"),
        ];
        assert_eq!(told, expected.map(|(day, line)| (day, line.to_owned())));
    }

    #[test]
    fn a_renewed_certificate_begins_again() {
        let mut expiries = Expiries::begin(&[expiry("a.pem", 1000)], on(900));
        assert_eq!(news(&mut expiries, &[expiry("a.pem", 1000)], 995).len(), 1);
        assert_eq!(news(&mut expiries, &[expiry("a.pem", 1080)], 995).len(), 0);
        assert_eq!(news(&mut expiries, &[expiry("a.pem", 1080)], 1050), ["a.pem Month"]);
    }

    /// The start has warned of those with less than 14 days.
    #[test]
    fn what_the_start_has_said_is_not_told_again() {
        let all = [expiry("a.pem", 1000), expiry("b.pem", 1020), expiry("c.pem", 990)];
        let mut expiries = Expiries::begin(&all, on(995));
        assert_eq!(news(&mut expiries, &all, 995), ["b.pem Month"]);
        assert_eq!(news(&mut expiries, &all, 999), ["a.pem Day"]);
    }
}
