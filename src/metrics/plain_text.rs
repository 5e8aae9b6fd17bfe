//! The exposition in the text format 0.0.4, for scrapers that do not read OpenMetrics.
//!
//! Samples are written alike in both. The text format has the suffix of a counter's samples in its
//! name too, no `info`, no units and no end mark.

/// Turns OpenMetrics text, as the exposition writes it, into the text format 0.0.4.
pub(crate) fn plain_text(open_metrics: &str) -> String {
    let mut text = String::with_capacity(open_metrics.len());
    // The line with the help of a family comes before that with its type, which decides its name.
    let mut help = None;
    for line in open_metrics.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            help = rest.split_once(' ').map(|(_, help)| help);
        } else if let Some((name, kind)) =
            line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let (suffix, kind) = match kind {
                "counter" => ("_total", kind),
                "info" => ("_info", "gauge"),
                _ => ("", kind),
            };
            if let Some(help) = help.take() {
                put_line(&mut text, &["# HELP ", name, suffix, " ", help]);
            }
            put_line(&mut text, &["# TYPE ", name, suffix, " ", kind]);
        } else if !line.starts_with("# ") {
            put_line(&mut text, &[line]);
        }
    }
    text
}

fn put_line(text: &mut String, parts: &[&str]) {
    text.extend(parts.iter().copied());
    text.push('\n');
}
