//! Scheduler's metrics.

use metrics::{Counter, Gauge, Histogram};

/// Handles of the scheduler.
#[derive(Clone)]
pub struct SchedulerMetrics {
    /// Pods bound to a node.
    pub bound: Counter,
    /// Pods no node takes.
    pub unschedulable: Counter,
    /// Calls of the API server that failed.
    pub failed: Counter,
    /// Pods that wait for a node.
    pub pending_pods: Gauge,
    /// Seconds from first seeing a pod without a node to its binding.
    pub bind_seconds: Histogram,
}

impl SchedulerMetrics {
    /// Registers the handles. The recorder must be installed before.
    #[must_use]
    pub fn new() -> Self {
        const ATTEMPTS: &str = "kubeedge_scheduler_attempts_total";
        metrics::describe_counter!(
            ATTEMPTS,
            "Attempts to place a pod, by result: bound, unschedulable, error"
        );
        metrics::describe_gauge!("kubeedge_scheduler_pending_pods", "Pods that wait for a node");
        metrics::describe_histogram!(
            "kubeedge_scheduler_bind_seconds",
            metrics::Unit::Seconds,
            "Seconds from seeing a pod to binding it to a node"
        );
        Self {
            bound: metrics::counter!(ATTEMPTS, "result" => "bound"),
            unschedulable: metrics::counter!(ATTEMPTS, "result" => "unschedulable"),
            failed: metrics::counter!(ATTEMPTS, "result" => "error"),
            pending_pods: metrics::gauge!("kubeedge_scheduler_pending_pods"),
            bind_seconds: metrics::histogram!("kubeedge_scheduler_bind_seconds"),
        }
    }
}

impl Default for SchedulerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
