//! NodeMonitor's metrics.

use metrics::{Counter, Gauge};

/// Handles of the node monitor.
#[derive(Clone)]
pub struct NodeMonitorMetrics {
    /// Nodes whose Ready condition is `True`.
    pub ready: Gauge,
    /// Nodes whose Ready condition is `False` or missing.
    pub not_ready: Gauge,
    /// Nodes that stopped reporting.
    pub unknown: Gauge,
    /// Times a node was declared silent.
    pub silenced: Counter,
    /// Calls of the API server that failed.
    pub failed: Counter,
}

impl NodeMonitorMetrics {
    /// Registers the handles. The recorder must be installed before.
    #[must_use]
    pub fn new() -> Self {
        const NODES: &str = "kubeedge_nodemonitor_nodes";
        metrics::describe_gauge!(NODES, "Nodes by their Ready condition: ready, not_ready, unknown");
        metrics::describe_counter!(
            "kubeedge_nodemonitor_silenced_total",
            "Times a node was found silent and marked Unknown"
        );
        metrics::describe_counter!(
            "kubeedge_nodemonitor_errors_total",
            "Changes of nodes or pods that the API server refused"
        );
        Self {
            ready: metrics::gauge!(NODES, "state" => "ready"),
            not_ready: metrics::gauge!(NODES, "state" => "not_ready"),
            unknown: metrics::gauge!(NODES, "state" => "unknown"),
            silenced: metrics::counter!("kubeedge_nodemonitor_silenced_total"),
            failed: metrics::counter!("kubeedge_nodemonitor_errors_total"),
        }
    }
}

impl Default for NodeMonitorMetrics {
    fn default() -> Self {
        Self::new()
    }
}
