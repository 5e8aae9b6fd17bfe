//! The comparison of what was sent with what came back, and the books on upstream connections.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::Path;

use serde_json::json;

use crate::broken::Refusal;
use crate::message::Response;
use crate::{Case, Expected, Failure, model};

const MESSAGE_ERROR: u64 = 0x10e;
const INTERNAL_ERROR: u64 = 0x102;
/// Differences that are printed; all are counted.
const SHOWN_COUNT_MAX: usize = 20;
/// Longest path in the access log (docs of the log: the rest is counted).
const LOGGED_LEN_MAX: usize = 2048;

/// The end of one stream.
#[derive(Debug)]
pub enum Seen {
    Response(Response),
    /// The gateway reset the stream.
    Reset(u64),
    Wrong(String),
}

/// Results of all requests.
pub struct Books {
    log: BufWriter<File>,
    parsed_count: u64,
    refused_by_upstream_count: u64,
    reset_count: u64,
    /// Responses of the gateway itself, by status.
    refused_counts: BTreeMap<u16, u64>,
    difference_count: u64,
    differences: Vec<serde_json::Value>,
    /// The numbers of the requests on each upstream connection, as the upstream counted them.
    connections: BTreeMap<u64, Vec<u64>>,
}

impl Books {
    pub fn new(log: &Path) -> std::io::Result<Self> {
        Ok(Self {
            log: BufWriter::new(File::create(log)?),
            parsed_count: 0,
            refused_by_upstream_count: 0,
            reset_count: 0,
            refused_counts: BTreeMap::new(),
            difference_count: 0,
            differences: Vec::new(),
            connections: BTreeMap::new(),
        })
    }

    /// Compares the end of one request with what was expected.
    pub fn enter(&mut self, case: &Case, seen: Seen) -> Result<(), Failure> {
        match (&case.expected, &seen) {
            (Expected::Parsed(forms), Seen::Response(response)) => {
                self.parsed_count += 1;
                match self.compare(case, forms, response) {
                    Ok(()) => self.write_log(case, response, true)?,
                    Err(wrong) => self.differ(case, wrong, &seen),
                }
            }
            (Expected::RefusedByUpstream, Seen::Response(response))
                if response.status >= 400 && response.parsed.is_none() =>
            {
                self.refused_by_upstream_count += 1;
                self.write_log(case, response, false)?;
            }
            // A response that is delimited by the end of its connection is incomplete if that is
            // reset: by a server that closes it while the rest of a body arrives.
            (Expected::RefusedByUpstream, Seen::Reset(INTERNAL_ERROR)) => {
                self.refused_by_upstream_count += 1;
            }
            (Expected::Refused(refusal), Seen::Response(response))
                if refusal.allows_status(response.status) && response.parsed.is_none() =>
            {
                *self.refused_counts.entry(response.status).or_default() += 1;
            }
            (
                Expected::Refused(Refusal::Reset | Refusal::ResetOr(_)),
                Seen::Reset(MESSAGE_ERROR),
            ) => {
                self.reset_count += 1;
            }
            _ => self.differ(case, "another outcome", &seen),
        }
        Ok(())
    }

    /// Compares the form that the upstream reports, and notes its place on the connection.
    fn compare(
        &mut self,
        case: &Case,
        forms: &[Vec<u8>],
        response: &Response,
    ) -> Result<(), &'static str> {
        if response.status != 200 {
            return Err("another status");
        }
        let parsed = response.parsed.as_deref().ok_or("no x-parsed")?;
        let mut parts = parsed.split(' ');
        let mut number = || parts.next()?.parse().ok();
        let (connection, index) = number().zip(number()).ok_or("a bad x-parsed")?;
        let digest = parts.next().ok_or("a bad x-parsed")?;
        self.connections.entry(connection).or_default().push(index);
        let form = forms.iter().find(|form| model::sha1(form) == digest);
        let is_head = case.message.pseudo(":method") == b"HEAD";
        match form {
            None => Err("parsed otherwise"),
            Some(_) if is_head && response.body.is_empty() => Ok(()),
            Some(form) if *form == response.body => Ok(()),
            Some(_) => Err("another body than its digest"),
        }
    }

    fn differ(&mut self, case: &Case, wrong: &str, seen: &Seen) {
        self.difference_count += 1;
        if self.differences.len() == SHOWN_COUNT_MAX {
            return;
        }
        let expected = match &case.expected {
            Expected::Parsed(forms) => forms.iter().map(|form| shown(form)).collect(),
            other => vec![format!("{other:?}")],
        };
        let seen = match seen {
            Seen::Response(response) => {
                let (status, parsed) = (response.status, &response.parsed);
                format!("{status}, {parsed:?}: {}", shown(&response.body))
            }
            Seen::Reset(code) => format!("reset {code:#x}"),
            Seen::Wrong(text) => text.clone(),
        };
        let lines = case.message.pseudo.iter().chain(&case.message.fields);
        let sent: Vec<String> =
            lines.map(|(name, value)| format!("{}: {}", shown(name), shown(value))).collect();
        self.differences.push(json!({
            "request": case.index, "wrong": wrong, "sent": sent,
            "body": shown(&case.message.body), "expected": expected, "seen": seen,
        }));
    }

    /// Writes the line that the access log must have for this response: method, host, path, status,
    /// body bytes of the request, unless the upstream stopped reading, and of the response.
    fn write_log(
        &mut self,
        case: &Case,
        response: &Response,
        is_read: bool,
    ) -> Result<(), Failure> {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let message = &case.message;
        let mut path = text(message.pseudo(":path"));
        if path.len() > LOGGED_LEN_MAX {
            let cut_len = path.len() - LOGGED_LEN_MAX;
            path.truncate(LOGGED_LEN_MAX);
            path.push_str(&format!("...(+{cut_len} bytes)"));
        }
        let line = json!([
            text(message.pseudo(":method")),
            text(message.authority()),
            path,
            response.status,
            is_read.then_some(message.body.len()),
            response.body.len(),
        ]);
        writeln!(self.log, "{line}")?;
        Ok(())
    }

    /// Prints the results as one JSON object. Returns whether nothing differs.
    pub fn report(mut self) -> Result<bool, Failure> {
        self.log.flush()?;
        let mut shifted = Vec::new();
        for (connection, indices) in &mut self.connections {
            // A request that the gateway did not send, or that was cut in two, shows as a gap.
            indices.sort_unstable();
            if !indices.iter().copied().eq(1..=indices.len() as u64) {
                shifted.push(json!({ "connection": connection, "requests": indices }));
            }
        }
        let difference_count = self.difference_count + shifted.len() as u64;
        println!(
            "{}",
            json!({
                "parsed": self.parsed_count,
                "refused_by_upstream": self.refused_by_upstream_count,
                "reset": self.reset_count,
                "refused": self.refused_counts,
                "connections": self.connections.len(),
                "difference_count": difference_count,
                "differences": self.differences,
                "shifted": shifted.into_iter().take(SHOWN_COUNT_MAX).collect::<Vec<_>>(),
            })
        );
        Ok(difference_count == 0)
    }
}

impl Refusal {
    fn allows_status(self, status: u16) -> bool {
        match self {
            Self::Reset => false,
            Self::Status(due) | Self::ResetOr(due) => status == due,
        }
    }
}

/// Returns bytes as text that fits a screen.
fn shown(bytes: &[u8]) -> String {
    let end = bytes.len().min(2000);
    bytes[..end].escape_ascii().to_string()
}
