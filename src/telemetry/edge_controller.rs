//! EdgeController's metrics.

use metrics::{Counter, counter, describe_counter};

/// What EdgeController does for nodes.
#[derive(Clone)]
pub struct EdgeControllerMetrics {
    /// Changes of objects told to nodes.
    pub downstream: Counter,
    /// Messages of nodes, by result: the API server did it.
    pub served: Counter,
    /// The API server refused or failed.
    pub failed: Counter,
    /// The node may not ask this.
    pub forbidden: Counter,
    /// The message is wrong.
    pub bad: Counter,
    /// A kind or operation we do not know.
    pub unknown: Counter,
    /// Too many wait already.
    pub dropped: Counter,
    pub watch_errors: Counter,
    /// Pods that went to their nodes with a seal.
    pub sealed: Counter,
    /// Pods that could not be sealed.
    pub not_sealed: Counter,
}

impl EdgeControllerMetrics {
    #[must_use]
    pub fn new() -> Self {
        const UPSTREAM: &str = "kubeedge_edgecontroller_requests_total";
        describe_counter!(
            "kubeedge_edgecontroller_downstream_messages_total",
            "Changes of objects told to nodes, connected or not"
        );
        describe_counter!(UPSTREAM, "Messages of nodes to the Kubernetes API, by result");
        describe_counter!(
            "kubeedge_edgecontroller_watch_errors_total",
            "Failures of the watches of the Kubernetes API; each is followed by another try"
        );
        const SEALS: &str = "kubeedge_identity_pod_seals_total";
        describe_counter!(SEALS, "Pods sealed on their way to nodes, by result");
        Self {
            sealed: counter!(SEALS, "result" => "sealed"),
            not_sealed: counter!(SEALS, "result" => "failed"),
            downstream: counter!("kubeedge_edgecontroller_downstream_messages_total"),
            served: counter!(UPSTREAM, "result" => "served"),
            failed: counter!(UPSTREAM, "result" => "failed"),
            forbidden: counter!(UPSTREAM, "result" => "forbidden"),
            bad: counter!(UPSTREAM, "result" => "bad"),
            unknown: counter!(UPSTREAM, "result" => "unknown"),
            dropped: counter!(UPSTREAM, "result" => "dropped"),
            watch_errors: counter!("kubeedge_edgecontroller_watch_errors_total"),
        }
    }
}

impl Default for EdgeControllerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
