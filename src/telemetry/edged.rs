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
}

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
        let pods = |phase: &'static str| metrics::gauge!("kubeedge_edged_pods", "phase" => phase);
        Self {
            pods_pending: pods("Pending"),
            pods_running: pods("Running"),
            pods_succeeded: pods("Succeeded"),
            pods_failed: pods("Failed"),
            pod_start_seconds: metrics::histogram!("kubeedge_edged_pod_start_seconds"),
            container_restarts: metrics::counter!("kubeedge_edged_container_restarts_total"),
            warned_image: metrics::counter!("kubeedge_identity_image_warnings_total"),
        }
    }
}

impl Default for EdgedMetrics {
    fn default() -> Self {
        Self::new()
    }
}
