//! Metrics of certificates (design section 4).

use metrics::{Gauge, Unit, describe_gauge, gauge};

/// When certificates end. Whoever loads or renews one sets its gauge.
#[derive(Clone)]
pub struct IdentityMetrics {
    /// End of this node's certificate, unix seconds.
    pub node_expiry: Gauge,
    /// End of cloudcore's server certificate, unix seconds.
    pub cloud_expiry: Gauge,
}

impl IdentityMetrics {
    /// Registers and describes the handles.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "registering is an action, not a default value")]
    pub fn new() -> Self {
        const EXPIRY: &str = "kubeedge_identity_svid_expiry_seconds";
        describe_gauge!(EXPIRY, Unit::Seconds, "When the certificate ends, unix time, by kind");
        Self {
            node_expiry: gauge!(EXPIRY, "kind" => "node"),
            cloud_expiry: gauge!(EXPIRY, "kind" => "cloud"),
        }
    }
}
