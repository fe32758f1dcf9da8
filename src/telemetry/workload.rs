//! Metrics of the edge's Identity actor beside what is issued and refused ([`super::identity`]).

use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

use super::identity::IdentityCounters;

/// Handles of one process. Cheap to clone.
#[derive(Clone)]
pub struct WorkloadMetrics {
    /// What is issued and refused.
    pub counters: IdentityCounters,
    /// Open streams of the Workload API.
    pub streams: Gauge,
    /// X.509-SVIDs held for workloads.
    pub held: Gauge,
    /// Documents of registrations and policies that were not taken.
    pub bad_documents: Counter,
    attest_seconds: Histogram,
}

impl WorkloadMetrics {
    /// Registers and describes the handles.
    #[must_use]
    pub fn new() -> Self {
        describe_counter!(
            "kubeedge_identity_bad_documents_total",
            "Documents of registrations and policies whose seal or content was not accepted"
        );
        describe_gauge!("kubeedge_identity_streams", "Open streams of the Workload API");
        describe_gauge!("kubeedge_identity_held_svids", "X.509-SVIDs held for workloads");
        describe_histogram!(
            "kubeedge_identity_attest_seconds",
            Unit::Seconds,
            "Time to find out who a caller of the Workload API is"
        );
        Self {
            counters: IdentityCounters::new(),
            streams: gauge!("kubeedge_identity_streams"),
            held: gauge!("kubeedge_identity_held_svids"),
            bad_documents: counter!("kubeedge_identity_bad_documents_total"),
            attest_seconds: histogram!("kubeedge_identity_attest_seconds"),
        }
    }

    /// A caller was looked at.
    pub fn attested(&self, took: Duration) {
        self.attest_seconds.record(took.as_secs_f64());
    }
}

impl Default for WorkloadMetrics {
    fn default() -> Self {
        Self::new()
    }
}
