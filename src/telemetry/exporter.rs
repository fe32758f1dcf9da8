//! Metrics out: the Prometheus recorder, its buckets, and the process's own figures.

use metrics_exporter_prometheus::{
    BuildError, Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder,
};

/// Everything that has no set of its own: storage, requests, acknowledgements. Seconds.
const DEFAULT_BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0];
/// Handlers: does one block its thread? 5 us to 10 s.
const HANDLER_BUCKETS: [f64; 13] =
    [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 2.5e-2, 0.1, 0.5, 2.0, 10.0];
/// Container runtime and pods: how long does a user wait? 1 ms to 60 s.
const RUNTIME_BUCKETS: [f64; 14] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0];

const BUCKETS_BY_NAME: [(&str, &[f64]); 3] = [
    ("kubeedge_actor_handle_seconds", &HANDLER_BUCKETS),
    ("kubeedge_edged_cri_seconds", &RUNTIME_BUCKETS),
    ("kubeedge_edged_pod_start_seconds", &RUNTIME_BUCKETS),
];

/// Why metrics are not recorded.
#[derive(Debug, thiserror::Error)]
pub enum ExporterError {
    #[error("bad histogram buckets")]
    Buckets(#[from] BuildError),
    #[error("metrics are set up already")]
    Twice,
}

/// Renders what was recorded.
#[derive(Clone)]
pub struct Exporter {
    recorded: PrometheusHandle,
    process: metrics_process::Collector,
}

/// Installs the recorder for the process. Call once, from the binary, before any metric handle
/// is made: handles made earlier record nothing.
///
/// # Errors
/// [`ExporterError::Twice`] on a second call.
pub fn install() -> Result<Exporter, ExporterError> {
    let (recorder, exporter) = build()?;
    metrics::set_global_recorder(recorder).map_err(|_| ExporterError::Twice)?;
    exporter.process.describe();
    Ok(exporter)
}

fn build() -> Result<(PrometheusRecorder, Exporter), ExporterError> {
    let mut builder = PrometheusBuilder::new().set_buckets(&DEFAULT_BUCKETS)?;
    for (name, buckets) in BUCKETS_BY_NAME {
        builder = builder.set_buckets_for_metric(Matcher::Full(name.to_owned()), buckets)?;
    }
    let recorder = builder.build_recorder();
    let recorded = recorder.handle();
    Ok((recorder, Exporter { recorded, process: metrics_process::Collector::default() }))
}

impl Exporter {
    /// The metrics in Prometheus' text format, `process_*` included.
    #[must_use]
    pub fn render(&self) -> String {
        self.process.collect();
        // The recorder's counters are whole numbers, which hides the first second: it is recorded as
        // a gauge, and shown as what it is.
        const CPU: &str = "# TYPE process_cpu_seconds_total ";
        self.recorded.render().replacen(&format!("{CPU}gauge"), &format!("{CPU}counter"), 1)
    }

    /// Folds recorded samples into their histograms. Without it they pile up in memory between
    /// two scrapes: call it every few seconds.
    pub fn upkeep(&self) {
        self.recorded.run_upkeep();
    }

    /// An exporter of its own for `work`, which must record on this thread.
    #[cfg(test)]
    pub(crate) fn record<T>(work: impl FnOnce() -> T) -> (T, Self) {
        let (recorder, exporter) = build().unwrap();
        let result = metrics::with_local_recorder(&recorder, || {
            exporter.process.describe();
            let result = work();
            exporter.process.collect();
            result
        });
        (result, exporter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::actors::ActorMetrics;

    #[test]
    fn every_metric_has_help_and_the_buckets_of_its_question() {
        let ((), exporter) = Exporter::record(|| {
            let actor = ActorMetrics::new("EdgeHub");
            actor.handle_seconds.record(0.000_007);
            actor.messages.absolute(3);
            metrics::histogram!("kubeedge_edged_cri_seconds", "call" => "version").record(0.002);
            metrics::histogram!("kubeedge_metamanager_store_seconds").record(0.002);
        });
        exporter.upkeep();
        let text = exporter.render();
        for line in [
            r#"kubeedge_actor_handle_seconds_bucket{actor="EdgeHub",le="0.000005"} 0"#,
            r#"kubeedge_actor_handle_seconds_bucket{actor="EdgeHub",le="0.00001"} 1"#,
            r#"kubeedge_edged_cri_seconds_bucket{call="version",le="60"} 1"#,
            r#"kubeedge_metamanager_store_seconds_bucket{le="0.0005"} 0"#,
            r#"kubeedge_actor_messages_total{actor="EdgeHub"} 3"#,
        ] {
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let described =
            families.filter(|family| family.starts_with("kubeedge_actor_") || family.starts_with("process"));
        for family in described {
            let (name, kind) = family.split_once(' ').unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
            assert!(kind != "counter" || name.ends_with("_total"), "{name}");
        }
        assert!(text.contains("# HELP process_resident_memory_bytes"));
        assert!(text.contains("# TYPE process_cpu_seconds_total counter"), "{text}");
        let cpu = text.lines().find_map(|line| line.strip_prefix("process_cpu_seconds_total "));
        assert!(cpu.is_some_and(|cpu| cpu.contains('.')), "whole seconds only: {cpu:?}");
    }
}
