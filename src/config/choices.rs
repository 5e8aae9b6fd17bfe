//! The words of keys that take one of a few, for reading and for writing them. The first is the
//! default.

use super::model::*;

/// Words and the values that they stand for.
pub(super) type Choices<T> = [(&'static str, T)];

pub(super) const HUGEPAGES: &Choices<Hugepages> =
    &[("try", Hugepages::Try), ("require", Hugepages::Require), ("off", Hugepages::Off)];

pub(super) const LOG_LEVEL: &Choices<LogLevel> = &[
    ("info", LogLevel::Info),
    ("error", LogLevel::Error),
    ("warn", LogLevel::Warn),
    ("debug", LogLevel::Debug),
];

pub(super) const ACCESS_FORMAT: &Choices<Option<AccessFormat>> = &[
    ("json", Some(AccessFormat::Json)),
    ("combined", Some(AccessFormat::Combined)),
    ("off", None),
];

pub(super) const EARLY_DATA: &Choices<EarlyData> =
    &[("off", EarlyData::Off), ("safe-methods", EarlyData::SafeMethods)];

pub(super) const RETRY: &Choices<Retry> =
    &[("adaptive", Retry::Adaptive), ("never", Retry::Never), ("always", Retry::Always)];

pub(super) const CONGESTION: &Choices<Congestion> =
    &[("cubic", Congestion::Cubic), ("bbr", Congestion::Bbr), ("newreno", Congestion::NewReno)];

pub(super) const TLS_VERSION: &Choices<TlsVersion> =
    &[("1.2", TlsVersion::Tls12), ("1.3", TlsVersion::Tls13)];

pub(super) const CLIENT_AUTH: &Choices<Option<ClientAuthDemand>> = &[
    ("off", None),
    ("optional", Some(ClientAuthDemand::Optional)),
    ("require", Some(ClientAuthDemand::Require)),
];

/// `client_auth` of a route: whether it needs a certificate.
pub(super) const ROUTE_CLIENT_AUTH: &Choices<bool> = &[("off", false), ("require", true)];

/// The keys of `client_auth.headers`.
pub(super) const CLIENT_FACTS: &Choices<ClientFact> = &[
    ("subject", ClientFact::Subject),
    ("san", ClientFact::AlternativeNames),
    ("serial", ClientFact::Serial),
    ("fingerprint", ClientFact::Fingerprint),
    ("certificate", ClientFact::Certificate),
];

pub(super) const UNKNOWN_SERVER_NAME: &Choices<UnknownServerName> =
    &[("default", UnknownServerName::Default), ("refuse", UnknownServerName::Refuse)];

/// One option, for now.
pub(super) const UPSTREAM_PROTOCOL: &Choices<()> = &[("http/1.1", ())];

/// One option, for now.
pub(super) const BALANCE: &Choices<()> = &[("round-robin", ())];

pub(super) const HOST: &Choices<HostPolicy> =
    &[("preserve", HostPolicy::Preserve), ("upstream", HostPolicy::Upstream)];

pub(super) const RETRY_ON: &Choices<RetryOn> =
    &[("connect", RetryOn::Connect), ("broken", RetryOn::Broken), ("timeout", RetryOn::Timeout)];

/// Returns the word for a value, which must be among the choices.
pub(super) fn word<T: PartialEq>(choices: &Choices<T>, value: &T) -> &'static str {
    let found = choices.iter().find(|(_, choice)| choice == value);
    found.expect("each value has a word").0
}
