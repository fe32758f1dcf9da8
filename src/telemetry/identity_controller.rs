//! IdentityController's metrics.

use metrics::{Counter, Gauge, Unit, counter, describe_counter, describe_gauge, gauge};

/// What IdentityController knows and does.
#[derive(Clone)]
pub struct IdentityControllerMetrics {
    /// Length of the document's spec, bytes.
    pub document_bytes: Gauge,
    /// The document was sent to a node.
    pub sent: Counter,
    /// Registrations and policies did not fit.
    pub too_long: Counter,
    /// An object was not wholly used.
    pub wrong_objects: Counter,
    pub watch_errors: Counter,
    /// Writes to the API that failed; each is followed by another try.
    pub write_errors: Counter,
    objects: [Gauge; 3],
    revoked: Gauge,
}

impl IdentityControllerMetrics {
    #[must_use]
    pub fn new() -> Self {
        const OBJECTS: &str = "kubeedge_identity_objects";
        describe_gauge!(
            "kubeedge_identity_document_bytes",
            Unit::Bytes,
            "Length of the document that nodes hold"
        );
        describe_counter!("kubeedge_identity_documents_sent_total", "Documents sent to nodes");
        describe_counter!(
            "kubeedge_identity_documents_too_long_total",
            "Times that registrations and policies did not fit into the document"
        );
        describe_counter!(
            "kubeedge_identity_wrong_objects_total",
            "Registrations and policies that were left out, wholly or in part"
        );
        describe_counter!("kubeedge_identity_watch_errors_total", "Failures of IdentityController's watches");
        describe_counter!("kubeedge_identity_write_errors_total", "Writes to the API that failed");
        describe_gauge!(OBJECTS, "Registrations and policies in force, by kind");
        describe_gauge!("kubeedge_identity_revoked_nodes", "Nodes that were revoked, allowed again or not");
        Self {
            document_bytes: gauge!("kubeedge_identity_document_bytes"),
            sent: counter!("kubeedge_identity_documents_sent_total"),
            too_long: counter!("kubeedge_identity_documents_too_long_total"),
            wrong_objects: counter!("kubeedge_identity_wrong_objects_total"),
            watch_errors: counter!("kubeedge_identity_watch_errors_total"),
            write_errors: counter!("kubeedge_identity_write_errors_total"),
            objects: ["workloadidentity", "imagepolicy", "topicpolicy"]
                .map(|kind| gauge!(OBJECTS, "kind" => kind)),
            revoked: gauge!("kubeedge_identity_revoked_nodes"),
        }
    }

    /// How many there are: registrations, image policies, topic policies, revoked nodes.
    pub fn show(&self, objects: [usize; 3], revoked: usize) {
        for (gauge, count) in self.objects.iter().zip(objects) {
            gauge.set(count as f64);
        }
        self.revoked.set(revoked as f64);
    }
}

impl Default for IdentityControllerMetrics {
    fn default() -> Self {
        Self::new()
    }
}
