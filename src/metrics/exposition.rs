//! The exposition: reports of workers as OpenMetrics text.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};

use super::families::{COUNTERS, Family, GAUGES, HISTOGRAMS, HistogramFamily};
use super::{CertificateFacts, CertificateReport, EndpointReport, WorkerReport};
use crate::base::pressure::HeapUse;
use crate::message::Outcome;

type Labels = Vec<(&'static str, String)>;

/// Metrics of the process as a whole.
#[derive(Debug, Clone)]
pub(crate) struct ProcessFacts {
    pub version: &'static str,
    pub started: SystemTime,
    /// Index of every worker, and whether it reported in time.
    pub workers: Vec<(u16, bool)>,
    pub draining: bool,
    /// Endpoints that the configuration has by name.
    pub endpoint_names: u64,
    /// The number of the running configuration.
    pub generation: u64,
    /// When the configuration was last read with success.
    pub last_load: SystemTime,
    pub reloads_succeeded: u64,
    pub reloads_failed: u64,
    pub access_lines_written: u64,
    /// Access log lines dropped because the file or pipe could not take them.
    pub access_lines_dropped: u64,
    pub certificates: CertificateReport,
}

/// Returns all metrics as OpenMetrics text, ending in `# EOF`.
pub(crate) fn exposition(reports: Vec<WorkerReport>, process: ProcessFacts) -> String {
    let mut registry = Registry::with_prefix("ringway");
    registry.register_collector(Box::new(Everything { reports, process }));
    let mut text = String::with_capacity(64 * 1024);
    encode(&mut text, &registry).expect("writing to a String does not fail");
    text
}

/// One scrape.
#[derive(Debug)]
struct Everything {
    reports: Vec<WorkerReport>,
    process: ProcessFacts,
}

impl Collector for Everything {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        self.encode_process(&mut encoder)?;
        self.encode_certificates(&mut encoder)?;
        for family in COUNTERS {
            self.encode_family(&mut encoder, family, MetricType::Counter, |mut metric, value| {
                metric.encode_counter::<NoLabelSet, u64, u64>(&value, None)
            })?;
        }
        self.encode_broken_rules(&mut encoder)?;
        self.encode_outcomes(&mut encoder)?;
        self.encode_endpoints(&mut encoder)?;
        for family in GAUGES {
            self.encode_family(&mut encoder, family, MetricType::Gauge, |mut metric, value| {
                metric.encode_gauge(&value)
            })?;
        }
        for family in HISTOGRAMS {
            self.encode_histogram(&mut encoder, family)?;
        }
        Ok(())
    }
}

impl Everything {
    fn encode_family(
        &self,
        encoder: &mut DescriptorEncoder,
        family: &Family,
        kind: MetricType,
        write: fn(MetricEncoder, u64) -> fmt::Result,
    ) -> fmt::Result {
        let unit = family.bytes.then_some(Unit::Bytes);
        let mut metric =
            encoder.encode_descriptor(family.name, family.help, unit.as_ref(), kind)?;
        for report in &self.reports {
            for series in family.series {
                let labels = worker_labels(report, series.labels);
                write(metric.encode_family(&labels)?, (series.value)(report))?;
            }
        }
        Ok(())
    }

    fn encode_broken_rules(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Messages that broke a rule, by what became of them";
        let mut metric =
            encoder.encode_descriptor("broken_rules", help, None, MetricType::Counter)?;
        for report in &self.reports {
            for (outcome, rule, count) in report.counters.broken_rules.iter() {
                let mut labels = worker_labels(report, &[]);
                labels.extend([("outcome", outcome), ("rule", rule.to_owned())]);
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn encode_endpoints(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        type Value = fn(&EndpointReport) -> u64;
        let families: [(&str, &str, MetricType, Value); 3] = [
            (
                "upstream_ejections",
                "Ejections of endpoints that failed",
                MetricType::Counter,
                |it| it.ejection_count,
            ),
            (
                "upstream_restorations",
                "Ejected endpoints that have served a request again",
                MetricType::Counter,
                |it| it.restoration_count,
            ),
            (
                "upstream_endpoint_ejected",
                "1 while the worker sends the endpoint no requests, except for trials",
                MetricType::Gauge,
                |it| it.is_ejected.into(),
            ),
        ];
        for (name, help, kind, value) in families {
            let mut metric = encoder.encode_descriptor(name, help, None, kind)?;
            for report in &self.reports {
                for endpoint in &report.endpoints {
                    let mut labels = worker_labels(report, &[]);
                    labels.push(("upstream", endpoint.upstream.to_string()));
                    labels.push(("endpoint", endpoint.address.to_string()));
                    let mut series = metric.encode_family(&labels)?;
                    match kind {
                        MetricType::Gauge => series.encode_gauge(&value(endpoint))?,
                        _ => {
                            series.encode_counter::<NoLabelSet, u64, u64>(&value(endpoint), None)?
                        }
                    }
                }
            }
        }
        Ok(())
    }

    fn encode_outcomes(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let help = "Requests that are over, by outcome: one for each line of the access log";
        let kind = MetricType::Counter;
        let mut metric = encoder.encode_descriptor("request_outcomes", help, None, kind)?;
        for report in &self.reports {
            for outcome in Outcome::ALL {
                let labels = worker_labels(report, &[("outcome", outcome.token())]);
                let count = report.counters.outcomes.of(*outcome);
                metric
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn encode_histogram(
        &self,
        encoder: &mut DescriptorEncoder,
        family: &HistogramFamily,
    ) -> fmt::Result {
        let (unit, kind) = (Unit::Seconds, MetricType::Histogram);
        let mut metric = encoder.encode_descriptor(family.name, family.help, Some(&unit), kind)?;
        for report in &self.reports {
            let labels = worker_labels(report, &[]);
            let histogram = (family.value)(report);
            metric.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                histogram.sum_seconds(),
                histogram.count(),
                &histogram.buckets(),
                None,
            )?;
        }
        Ok(())
    }

    fn encode_certificates(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let report = &self.process.certificates;
        let help = "Certificates whose files have changed, by outcome";
        let mut metric =
            encoder.encode_descriptor("certificate_changes", help, None, MetricType::Counter)?;
        for (outcome, count) in [("loaded", report.loaded_count), ("refused", report.refused_count)]
        {
            metric
                .encode_family(&[("outcome", outcome)])?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        type Value = fn(&CertificateFacts) -> i64;
        let families: [(&str, &str, Option<Unit>, Value); 2] = [
            (
                "certificate_not_after_timestamp",
                "When the certificate, or its issuer in the file, expires, in seconds since 1970",
                Some(Unit::Seconds),
                |facts| facts.not_after,
            ),
            (
                "certificate_refused",
                "1 while the files of the certificate are refused and the one before is served",
                None,
                |facts| facts.is_refused.into(),
            ),
        ];
        for (name, help, unit, value) in families {
            let mut metric =
                encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for (certificate, facts) in &report.certificates {
                let labels = [("certificate", certificate.as_str())];
                metric.encode_family(&labels)?.encode_gauge(&value(facts))?;
            }
        }
        Ok(())
    }

    fn encode_reloads(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let process = &self.process;
        let help = "Reloads of the configuration, by result";
        let mut metric = encoder.encode_descriptor("reloads", help, None, MetricType::Counter)?;
        for (result, count) in
            [("success", process.reloads_succeeded), ("failure", process.reloads_failed)]
        {
            metric
                .encode_family(&[("result", result)])?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }

        let help = "Number of the running configuration: 1 at the start, one more with each change";
        encoder
            .encode_descriptor("config_generation", help, None, MetricType::Gauge)?
            .encode_gauge(&process.generation)?;

        let at = process.last_load.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (help, unit) = ("When the configuration was last read with success", Unit::Seconds);
        encoder
            .encode_descriptor("config_last_success_time", help, Some(&unit), MetricType::Gauge)?
            .encode_gauge(&at.as_secs_f64())?;

        // One that is behind has not applied the last reload.
        let help = "Number of the configuration that the worker uses";
        let mut metric =
            encoder.encode_descriptor("worker_config_generation", help, None, MetricType::Gauge)?;
        for report in &self.reports {
            let labels = worker_labels(report, &[]);
            metric.encode_family(&labels)?.encode_gauge(&report.generation)?;
        }
        Ok(())
    }

    fn encode_process(&self, encoder: &mut DescriptorEncoder) -> fmt::Result {
        let process = &self.process;
        encoder
            .encode_descriptor("build", "Version of the running program", None, MetricType::Info)?
            .encode_info(&[("version", process.version)])?;

        let started = process.started.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (help, unit) = ("When the process started, in seconds since 1970", Unit::Seconds);
        encoder
            .encode_descriptor("process_start_time", help, Some(&unit), MetricType::Gauge)?
            .encode_gauge(&started.as_secs_f64())?;

        let help = "1 from the signal to drain on, the lame duck interval included";
        encoder
            .encode_descriptor("draining", help, None, MetricType::Gauge)?
            .encode_gauge(&u64::from(process.draining))?;

        if let Some(HeapUse { len, budget }) = self.reports.first().map(|report| report.heap) {
            let help = "Heap of the process beside the pools: in use, and the budget of it";
            let (name, unit) = ("heap", Unit::Bytes);
            let mut metric =
                encoder.encode_descriptor(name, help, Some(&unit), MetricType::Gauge)?;
            for (kind, value) in [("used", len as u64), ("budget", budget as u64)] {
                metric.encode_family(&[("kind", kind)])?.encode_gauge(&value)?;
            }
        }

        let help = "1 if the worker reported its counters within a second, else 0";
        let mut metric = encoder.encode_descriptor("worker_up", help, None, MetricType::Gauge)?;
        for (worker, answered) in &process.workers {
            let labels: Labels = vec![("worker", worker.to_string())];
            metric.encode_family(&labels)?.encode_gauge(&u64::from(*answered))?;
        }

        self.encode_reloads(encoder)?;

        let help = "Names of endpoints, whose addresses are those of the last start or reload";
        encoder
            .encode_descriptor("upstream_fixed_names", help, None, MetricType::Gauge)?
            .encode_gauge(&process.endpoint_names)?;

        let help = "Access log lines, by outcome";
        let mut metric =
            encoder.encode_descriptor("access_log_lines", help, None, MetricType::Counter)?;
        for (outcome, count) in
            [("written", process.access_lines_written), ("dropped", process.access_lines_dropped)]
        {
            metric
                .encode_family(&[("outcome", outcome)])?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        Ok(())
    }
}

/// Returns the label `worker` and the series' own labels.
fn worker_labels(report: &WorkerReport, labels: &[(&'static str, &'static str)]) -> Labels {
    let own = labels.iter().map(|(name, value)| (*name, (*value).to_owned()));
    std::iter::once(("worker", report.worker.to_string())).chain(own).collect()
}
