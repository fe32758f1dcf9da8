//! Metrics of certificates (design section 4).

use std::time::{SystemTime, UNIX_EPOCH};

use metrics::{Unit, describe_gauge, gauge};

const EXPIRY: &str = "kubeedge_identity_svid_expiry_seconds";

/// When the certificate of a kind ends. There is no gauge before the first certificate: it would
/// look expired.
#[derive(Debug, Clone, Copy)]
pub struct IdentityMetrics {
    kind: &'static str,
}

impl IdentityMetrics {
    /// Of this node's certificate.
    #[must_use]
    pub fn node() -> Self {
        Self::of("node")
    }

    /// Of cloudcore's server certificate.
    #[must_use]
    pub fn cloud() -> Self {
        Self::of("cloud")
    }

    fn of(kind: &'static str) -> Self {
        describe_gauge!(EXPIRY, Unit::Seconds, "When the certificate ends, unix time, by kind");
        Self { kind }
    }

    /// A certificate was loaded or renewed; it ends then.
    pub fn set_end(&self, end: SystemTime) {
        let since = end.duration_since(UNIX_EPOCH).unwrap_or_default();
        gauge!(EXPIRY, "kind" => self.kind).set(since.as_secs_f64());
    }
}
