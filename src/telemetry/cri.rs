//! Metrics of calls to the container runtime, by call (a fixed list of about twenty-five).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, Histogram, Unit, counter, describe_counter, describe_histogram, histogram};

/// Handles of one process. Cheap to clone.
#[derive(Clone)]
pub struct CriMetrics {
    calls: Arc<BTreeMap<&'static str, Call>>,
}

struct Call {
    seconds: Histogram,
    errors: Counter,
}

impl CriMetrics {
    /// Registers the families and one series for each of `calls`.
    #[must_use]
    pub fn new(calls: &[&'static str]) -> Self {
        describe_histogram!(
            "kubeedge_edged_cri_seconds",
            Unit::Seconds,
            "Duration of calls to the container runtime, by call"
        );
        describe_counter!(
            "kubeedge_edged_cri_errors_total",
            "Calls to the container runtime that failed, by call"
        );
        let handles = |call: &'static str| Call {
            seconds: histogram!("kubeedge_edged_cri_seconds", "call" => call),
            errors: counter!("kubeedge_edged_cri_errors_total", "call" => call),
        };
        Self { calls: Arc::new(calls.iter().map(|call| (*call, handles(call))).collect()) }
    }

    /// One call ended. Calls not given to [`CriMetrics::new`] are not counted.
    pub fn record(&self, call: &str, took: Duration, failed: bool) {
        if let Some(handles) = self.calls.get(call) {
            handles.seconds.record(took.as_secs_f64());
            handles.errors.increment(u64::from(failed));
        }
    }
}
