//! Edged's metrics.

use metrics::{Counter, Gauge, Histogram};

/// Handles of Edged and its pod workers.
#[derive(Clone)]
pub struct EdgedMetrics {
    /// Pods this node has, by phase.
    pub pods_pending: Gauge,
    pub pods_running: Gauge,
    pub pods_succeeded: Gauge,
    pub pods_failed: Gauge,
    /// Pod first seen to Running, seconds; image pulls included.
    pub pod_start_seconds: Histogram,
    /// Containers started again after they ended.
    pub container_restarts: Counter,
    /// Images that a policy in mode warn would have refused.
    pub warned_image: Counter,
    /// 1 while the container runtime answers and is well.
    pub runtime_ready: Gauge,
    waiting: [Gauge; WAITING.len()],
    pods_limit: Gauge,
}

/// Why containers wait: label `reason`. Every other reason (ContainerCreating, PodInitializing,
/// CreateContainerConfigError, ..) is `other`.
pub const WAITING: [&str; 7] = [
    "CrashLoopBackOff",
    "ImagePullBackOff",
    "ErrImagePull",
    "ImagePolicyDenied",
    "SealInvalid",
    "CreateContainerError",
    "other",
];

impl EdgedMetrics {
    #[must_use]
    pub fn new() -> Self {
        metrics::describe_gauge!("kubeedge_edged_pods", "Pods of this node, by phase");
        metrics::describe_histogram!(
            "kubeedge_edged_pod_start_seconds",
            metrics::Unit::Seconds,
            "From the pod's arrival to Running"
        );
        metrics::describe_counter!(
            "kubeedge_edged_container_restarts_total",
            "Containers started again after they ended"
        );
        metrics::describe_counter!(
            "kubeedge_identity_image_warnings_total",
            "Images that a policy in mode warn would have refused"
        );
        metrics::describe_gauge!(
            "kubeedge_edged_containers_waiting",
            "Containers of this node that wait to be started, by the reason their status gives"
        );
        metrics::describe_gauge!(
            "kubeedge_edged_runtime_ready",
            "1 while the container runtime answers and says that it is ready"
        );
        metrics::describe_gauge!("kubeedge_edged_pods_limit", "Pods this node takes at most");
        let waiting = |reason| metrics::gauge!("kubeedge_edged_containers_waiting", "reason" => reason);
        let pods = |phase: &'static str| metrics::gauge!("kubeedge_edged_pods", "phase" => phase);
        Self {
            pods_pending: pods("Pending"),
            pods_running: pods("Running"),
            pods_succeeded: pods("Succeeded"),
            pods_failed: pods("Failed"),
            pod_start_seconds: metrics::histogram!("kubeedge_edged_pod_start_seconds"),
            container_restarts: metrics::counter!("kubeedge_edged_container_restarts_total"),
            warned_image: metrics::counter!("kubeedge_identity_image_warnings_total"),
            runtime_ready: metrics::gauge!("kubeedge_edged_runtime_ready"),
            waiting: WAITING.map(waiting),
            pods_limit: metrics::gauge!("kubeedge_edged_pods_limit"),
        }
    }

    /// Shows for which reasons containers wait: one entry each.
    pub fn show_waiting<'a>(&self, reasons: impl Iterator<Item = &'a str>) {
        let mut counts = [0_u32; WAITING.len()];
        for reason in reasons {
            let known = WAITING.iter().position(|known| *known == reason).unwrap_or(WAITING.len() - 1);
            if let Some(count) = counts.get_mut(known) {
                *count = count.saturating_add(1);
            }
        }
        for (gauge, count) in self.waiting.iter().zip(counts) {
            gauge.set(f64::from(count));
        }
    }

    /// Shows how many pods this node takes.
    pub fn limit(&self, pods: u32) {
        self.pods_limit.set(f64::from(pods));
    }
}

impl Default for EdgedMetrics {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::exporter::Exporter;

    #[test]
    fn a_thousand_odd_reasons_are_one_series() {
        let odd: Vec<String> = (0..1_000).map(|i| format!("Odd\"{i}\n{{}}")).collect();
        let ((), exporter) = Exporter::record(|| {
            let metrics = EdgedMetrics::new();
            let known = ["CrashLoopBackOff", "ErrImagePull", "CrashLoopBackOff"];
            metrics.show_waiting(odd.iter().map(String::as_str).chain(known));
        });
        let text = exporter.render();
        let series = text.lines().filter(|line| line.starts_with("kubeedge_edged_containers_waiting{"));
        assert_eq!(series.count(), WAITING.len());
        for (reason, want) in
            [("other", 1_000), ("CrashLoopBackOff", 2), ("ErrImagePull", 1), ("SealInvalid", 0)]
        {
            let line = format!("kubeedge_edged_containers_waiting{{reason=\"{reason}\"}} {want}");
            assert!(text.lines().any(|have| have == line), "{line} in\n{text}");
        }
    }
}
