//! Metrics of the edge's Identity actor: what the Workload API gives and refuses.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{
    Counter, Gauge, Histogram, Unit, counter, describe_counter, describe_gauge, describe_histogram, gauge,
    histogram,
};

/// Handles of one process. Cheap to clone.
#[derive(Clone)]
pub struct WorkloadMetrics {
    /// Certificates and tokens that were signed.
    pub x509_issued: Counter,
    pub jwt_issued: Counter,
    /// Open streams of the Workload API.
    pub streams: Gauge,
    /// SVIDs held for workloads.
    pub held: Gauge,
    /// From the question who a caller is to its answer.
    pub attest_seconds: Histogram,
    /// Documents of registrations and policies that were not taken.
    pub bad_documents: Counter,
    refused: Arc<BTreeMap<&'static str, Counter>>,
}

impl WorkloadMetrics {
    /// Registers and describes the handles; `reasons` are all there are for refusals.
    #[must_use]
    pub fn new(reasons: &[&'static str]) -> Self {
        describe_counter!("kubeedge_identity_issued_total", "Certificates and tokens issued, by kind");
        describe_counter!("kubeedge_identity_refused_total", "Requests for identity refused, by reason");
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
        let refused = |reason: &&'static str| {
            (*reason, counter!("kubeedge_identity_refused_total", "reason" => *reason))
        };
        Self {
            x509_issued: counter!("kubeedge_identity_issued_total", "kind" => "x509"),
            jwt_issued: counter!("kubeedge_identity_issued_total", "kind" => "jwt"),
            streams: gauge!("kubeedge_identity_streams"),
            held: gauge!("kubeedge_identity_held_svids"),
            attest_seconds: histogram!("kubeedge_identity_attest_seconds"),
            bad_documents: counter!("kubeedge_identity_bad_documents_total"),
            refused: Arc::new(reasons.iter().map(refused).collect()),
        }
    }

    /// A request was refused.
    pub fn refused(&self, reason: &str) {
        if let Some(counter) = self.refused.get(reason) {
            counter.increment(1);
        }
    }

    pub fn attested(&self, took: Duration) {
        self.attest_seconds.record(took.as_secs_f64());
    }
}
