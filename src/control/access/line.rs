//! One line of the access log.
//!
//! Method, host, path and SNI are untrusted bytes. Whatever they are, a record is exactly one line:
//! control characters (C0, DEL, C1), quotes and Unicode line separators are escaped, bytes that are
//! not UTF-8 are replaced, and values that were cut ([`LoggedText`]) are marked.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use http::Method;
use serde::{Serialize, Serializer};
use serde_json::ser::{CharEscape, CompactFormatter, Formatter};

use crate::config::AccessFormat;
use crate::message::{AccessRecord, LoggedText};

/// Appends the record's line, with its newline. `now` is the same moment on both clocks.
pub(super) fn write(
    line: &mut Vec<u8>,
    record: &AccessRecord,
    format: AccessFormat,
    now: (Instant, SystemTime),
) {
    let values = Values::of(record, now);
    match format {
        AccessFormat::Json => values.write_json(line),
        AccessFormat::Combined => values.write_combined(record, line),
    }
    line.push(b'\n');
}

/// The values of a line. The names are the keys of the JSON object.
#[derive(Serialize)]
struct Values<'a> {
    #[serde(serialize_with = "rfc3339")]
    time: SystemTime,
    client: SocketAddr,
    sni: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_subject: Option<Cow<'a, str>>,
    method: Option<&'a str>,
    host: Option<Cow<'a, str>>,
    path: Option<Cow<'a, str>>,
    status: Option<u16>,
    /// Where the response comes from.
    source: Option<&'static str>,
    bytes_in: u64,
    bytes_out: u64,
    duration_us: u64,
    delivered_us: Option<u64>,
    upstream: Option<&'a str>,
    upstream_us: Option<u64>,
    protocol: &'a str,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    early_data: bool,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit_value: Option<u64>,
}

impl<'a> Values<'a> {
    fn of(record: &'a AccessRecord, (now, wall): (Instant, SystemTime)) -> Values<'a> {
        let micros =
            |duration: std::time::Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let age = now.saturating_duration_since(record.start);
        Values {
            time: wall.checked_sub(age).unwrap_or(SystemTime::UNIX_EPOCH),
            client: record.client,
            sni: record.server_name.as_deref(),
            client_subject: record.client_certificate.as_ref().map(|one| shown(&one.subject)),
            method: record.request.method.as_ref().map(Method::as_str),
            host: record.request.authority.as_ref().map(shown),
            path: record.request.path.as_ref().map(shown),
            status: record.status.map(|status| status.as_u16()),
            source: record.status.map(|_| if record.is_own { "gateway" } else { "upstream" }),
            bytes_in: record.request_len,
            bytes_out: record.response_len,
            duration_us: micros(record.duration),
            delivered_us: record.delivered.map(micros),
            upstream: record.upstream.as_deref(),
            upstream_us: record.upstream_duration.map(micros),
            protocol: record.protocol.name(),
            early_data: record.is_early,
            outcome: record.outcome.token(),
            error: record.outcome.error(),
            rule: record.rule,
            field: record.field.as_ref().map(shown),
            limit: record.bound.map(|bound| bound.key),
            limit_value: record.bound.map(|bound| bound.max),
        }
    }

    fn write_json(&self, line: &mut Vec<u8>) {
        let mut serializer = serde_json::Serializer::with_formatter(line, OneLine);
        self.serialize(&mut serializer).expect("writing to a Vec does not fail");
    }

    /// `client - - [time] "request" status bytes "referer" "user agent"`. Readers of this format
    /// expect a number as status, so a request without a response has one that shows why.
    fn write_combined(&self, record: &AccessRecord, line: &mut Vec<u8>) {
        let value = |value: Option<&str>| escape_combined(value.unwrap_or("-"));
        let status = record.status.unwrap_or_else(|| record.outcome.status_without_response());
        let fields = record.request.provenance.as_ref();
        let referer = fields.and_then(|fields| fields.referer.as_ref()).map(shown);
        let user_agent = fields.and_then(|fields| fields.user_agent.as_ref()).map(shown);
        let written = write!(
            line,
            "{} - - [{}] \"{} {} {}\" {} {} \"{}\" \"{}\"",
            self.client.ip(),
            common_log_time(self.time),
            value(self.method),
            value(self.path.as_deref()),
            self.protocol,
            status.as_u16(),
            self.bytes_out,
            value(referer.as_deref()),
            value(user_agent.as_deref()),
        );
        written.expect("writing to a Vec does not fail");
    }
}

/// Returns the text, with a mark that has the number of bytes missing if it was cut.
fn shown(logged: &LoggedText) -> Cow<'_, str> {
    let kept = String::from_utf8_lossy(logged.as_bytes());
    match logged.cut_len() {
        0 => kept,
        cut_len => Cow::Owned(format!("{kept}...(+{cut_len} bytes)")),
    }
}

/// RFC 3339 with microseconds.
fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_micros(*time))
}

/// `10/Oct/2000:13:55:36 +0000`
fn common_log_time(time: SystemTime) -> String {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let text = humantime::format_rfc3339_seconds(time).to_string();
    let month: usize = text[5..7].parse().expect("RFC 3339 has the month here");
    format!("{}/{}/{}:{} +0000", &text[8..10], MONTHS[month - 1], &text[..4], &text[11..19])
}

/// Escapes as httpd does: `\xHH` for every byte that is not printable ASCII.
fn escape_combined(value: &str) -> String {
    let mut escaped = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'"' | b'\\' => {
                escaped.push('\\');
                escaped.push(char::from(byte));
            }
            0x20..0x7f => escaped.push(char::from(byte)),
            _ => escaped.push_str(&format!("\\x{byte:02x}")),
        }
    }
    escaped
}

/// A JSON formatter that is safe on a terminal: writes control characters and line separators,
/// which serde_json passes through, as `\uHHHH`.
struct OneLine;

impl Formatter for OneLine {
    fn write_string_fragment<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        fragment: &str,
    ) -> io::Result<()> {
        let acts = |c: char| c.is_control() || matches!(c, '\u{2028}' | '\u{2029}');
        let mut plain = 0;
        for (at, c) in fragment.char_indices().filter(|(_, c)| acts(*c)) {
            writer.write_all(&fragment.as_bytes()[plain..at])?;
            write!(writer, "\\u{:04x}", u32::from(c))?;
            plain = at + c.len_utf8();
        }
        writer.write_all(&fragment.as_bytes()[plain..])
    }

    fn write_char_escape<W: ?Sized + Write>(
        &mut self,
        writer: &mut W,
        char_escape: CharEscape,
    ) -> io::Result<()> {
        CompactFormatter.write_char_escape(writer, char_escape)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use http::StatusCode;
    use serde_json::Value;

    use super::*;
    use crate::message::{
        Bound, ClientCertificate, Ending, LOGGED_LEN_MAX, Outcome, Provenance, Understood,
    };

    /// The same moment on both clocks; 2026-02-03T04:05:06.000007Z.
    fn clocks() -> (Instant, SystemTime) {
        let wall = SystemTime::UNIX_EPOCH + Duration::from_micros(1_770_091_506_000_007);
        (crate::testing::epoch() + Duration::from_secs(60), wall)
    }

    fn record(start: Instant) -> AccessRecord {
        AccessRecord {
            server_name: Some(Arc::from("example.com")),
            request: Understood::new(Some(Method::GET), Some(b"example.com:443"), Some(b"/a?b=c")),
            status: Some(StatusCode::OK),
            request_len: 1,
            response_len: 2,
            duration: Duration::from_micros(1500),
            delivered: Some(Duration::from_micros(21_500)),
            upstream: Some(Arc::from("127.0.0.1:8080")),
            upstream_duration: Some(Duration::from_micros(900)),
            ..AccessRecord::new(
                start,
                crate::testing::sender("[2001:db8::1]:50000".parse().unwrap()),
            )
        }
    }

    fn line(record: &AccessRecord, format: AccessFormat, now: (Instant, SystemTime)) -> String {
        let mut line = Vec::new();
        write(&mut line, record, format, now);
        String::from_utf8(line).unwrap()
    }

    #[test]
    fn json_has_every_field() {
        let now = clocks();
        let written = line(&record(now.0 - Duration::from_secs(6)), AccessFormat::Json, now);
        assert_eq!(
            written,
            "{\"time\":\"2026-02-03T04:05:00.000007Z\",\"client\":\"[2001:db8::1]:50000\",\
             \"sni\":\"example.com\",\"method\":\"GET\",\"host\":\"example.com:443\",\
             \"path\":\"/a?b=c\",\"status\":200,\"source\":\"upstream\",\
             \"bytes_in\":1,\"bytes_out\":2,\
             \"duration_us\":1500,\"delivered_us\":21500,\
             \"upstream\":\"127.0.0.1:8080\",\"upstream_us\":900,\"protocol\":\"HTTP/3\",\
             \"outcome\":\"complete\"}\n"
        );
    }

    #[test]
    fn the_subject_of_a_verified_certificate_is_a_key_of_its_own() {
        let now = clocks();
        let mut record = record(now.0);
        let written = line(&record, AccessFormat::Json, now);
        assert!(!written.contains("client_subject"), "{written}");
        let subject = LoggedText::new(b"CN=\\\"a\\\",O=b");
        let fields = Vec::new();
        record.client_certificate = Some(Arc::new(ClientCertificate { subject, fields }));
        let read: Value = serde_json::from_str(&line(&record, AccessFormat::Json, now)).unwrap();
        assert_eq!(read["client_subject"], "CN=\\\"a\\\",O=b");
    }

    #[test]
    fn unknown_values_are_null() {
        const KEY: &str = "limits.max_header_count";
        let now = clocks();
        let mut record = record(now.0);
        record.server_name = None;
        record.request.method = None;
        record.request.authority = None;
        record.request.path = None;
        record.status = None;
        record.upstream = None;
        record.upstream_duration = None;
        record.delivered = None;
        record.end(Ending {
            outcome: Outcome::FieldsTooLarge,
            rule: Some("more fields than are accepted"),
            bound: Some(Bound { key: KEY, max: 100 }),
        });
        let read: Value = serde_json::from_str(&line(&record, AccessFormat::Json, now)).unwrap();
        let unknown =
            ["sni", "method", "host", "path", "status", "source", "upstream", "delivered_us"];
        for key in unknown {
            assert_eq!(read[key], Value::Null, "{key}");
        }
        assert_eq!(read["outcome"], "fields_too_large");
        assert_eq!(read["error"], "http_request_error");
        assert_eq!(read["rule"], "more fields than are accepted");
        assert_eq!((&read["limit"], &read["limit_value"]), (&KEY.into(), &100.into()));
        let combined = line(&record, AccessFormat::Combined, now);
        assert!(combined.contains("\"- - HTTP/3\" 431 2 \"-\" \"-\"\n"), "{combined}");
    }

    /// Tools that read the combined format drop lines whose status is no number.
    #[test]
    fn a_client_that_left_before_a_response_is_499_in_the_combined_format() {
        let now = clocks();
        for outcome in [Outcome::ClientCancelled, Outcome::ClientClosed, Outcome::IdleTimeout] {
            let mut record = AccessRecord { status: None, ..record(now.0) };
            record.end(outcome.into());
            let written = line(&record, AccessFormat::Combined, now);
            assert!(written.contains("HTTP/3\" 499 2 "), "{written}");
        }
        for outcome in Outcome::ALL {
            let status = outcome.status_without_response().as_u16();
            assert!((400..=599).contains(&status), "{outcome:?}");
        }
    }

    #[test]
    fn combined_is_the_format_of_httpd() {
        let now = clocks();
        assert_eq!(
            line(&record(now.0), AccessFormat::Combined, now),
            "2001:db8::1 - - [03/Feb/2026:04:05:06 +0000] \"GET /a?b=c HTTP/3\" 200 2 \"-\" \"-\"\n"
        );
    }

    #[test]
    fn combined_has_referer_and_user_agent() {
        let now = clocks();
        let mut record = record(now.0);
        let field = |name, value| (name, http::HeaderValue::from_static(value));
        let fields = vec![
            field(http::header::USER_AGENT, "a \"b\"/1.0"),
            field(http::header::REFERER, "https://example.org/x"),
        ];
        record.request.provenance = Some(Provenance::of(&fields));
        let written = line(&record, AccessFormat::Combined, now);
        let expected = " 200 2 \"https://example.org/x\" \"a \\\"b\\\"/1.0\"\n";
        assert!(written.ends_with(expected), "{written}");
    }

    #[test]
    fn hostile_values_stay_on_one_line_and_are_read_back_unchanged() {
        let now = clocks();
        let hostile =
            "/\n\r\t\0\x1b[31m\x07\"\\\x7f\u{85}\u{9b}31m\u{2028}\u{2029}'\u{e9}</script>";
        let mut record = record(now.0);
        record.request.path = Some(LoggedText::new(hostile.as_bytes()));
        record.server_name = Some(Arc::from(hostile));
        let written = line(&record, AccessFormat::Json, now);
        let (body, newline) = written.split_at(written.len() - 1);
        assert_eq!(newline, "\n");
        assert!(!body.chars().any(|c| c.is_control() || ('\u{2028}'..='\u{2029}').contains(&c)));
        let read: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(read["path"], hostile);
        assert_eq!(read["sni"], hostile);

        let written = line(&record, AccessFormat::Combined, now);
        assert!(written.trim_end().bytes().all(|byte| (0x20..0x7f).contains(&byte)), "{written}");
        assert!(written.contains("/\\x0a\\x0d\\x09\\x00\\x1b[31m\\x07\\\"\\\\\\x7f\\xc2\\x85"));
    }

    #[test]
    fn every_byte_can_be_logged() {
        let now = clocks();
        let mut record = record(now.0);
        let all: Vec<u8> = (0..=255).collect();
        record.request.path = Some(LoggedText::new(&all));
        let written = line(&record, AccessFormat::Json, now);
        let read: Value = serde_json::from_str(&written).unwrap();
        assert_eq!(read["path"], String::from_utf8_lossy(&all).as_ref());
        assert_eq!(written.matches('\n').count(), 1);
    }

    #[test]
    fn long_values_are_cut_with_a_mark() {
        let now = clocks();
        let mut record = record(now.0);
        record.request.path = Some(LoggedText::new(&[b'a'; 64 * 1024]));
        let written = line(&record, AccessFormat::Json, now);
        assert!(written.len() < 3 * LOGGED_LEN_MAX, "{}", written.len());
        let read: Value = serde_json::from_str(&written).unwrap();
        let path = read["path"].as_str().unwrap();
        assert!(path.ends_with("aaa...(+63488 bytes)"), "{path}");
    }
}
