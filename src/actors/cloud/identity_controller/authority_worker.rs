//! Keeps cloudcore's certificates young: reads the authorities' files again, and lets its listeners
//! follow. Everything here blocks.

use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::{Ca, CloudServerTls, validity};
use crate::model::identity::BundleDocument;
use crate::telemetry::identity::IdentityMetrics;

/// What a look at the authorities brought.
#[derive(Debug)]
pub struct Looked {
    /// The roots; without keys for JWT-SVIDs.
    pub bundle: BundleDocument,
    /// Hash of the root in use.
    pub root: String,
    /// Another issuing CA signs than at the look before, or its chain is another.
    pub new_issuing: bool,
    /// The root's key is away and the issuing CA is in the second half of its life.
    pub needs_root_key: bool,
}

/// Looks at the files and does what is due. What fails is logged and tried again at the next look;
/// what is served stays as it was.
pub fn look(ca: &Ca, served: &[Arc<CloudServerTls>], now: SystemTime) -> Looked {
    let changed = ca.reload(now).unwrap_or_else(|err| {
        tracing::error!(%err, "the authorities' files cannot be used, the present ones stay in use");
        crate::identity::CaChanged::default()
    });
    for listener in served {
        if let Err(err) = listener.refresh(now) {
            tracing::error!(%err, "a certificate of cloudcore is not renewed");
        }
    }
    if let Some(first) = served.iter().map(|listener| listener.validity()).min_by_key(|it| it.not_after) {
        IdentityMetrics::cloud().set_validity(first.not_before, first.not_after);
    }
    let issuing = ca.issuing_validity();
    IdentityMetrics::issuing_ca().set_validity(issuing.not_before, issuing.not_after);
    if let Ok(root) = validity(&ca.cert_der()) {
        IdentityMetrics::root().set_validity(root.not_before, root.not_after);
    }
    let life = issuing.not_after.duration_since(issuing.not_before).unwrap_or_default();
    Looked {
        bundle: ca.bundle().to_document(),
        root: ca.hash_hex(),
        new_issuing: changed.issuing,
        needs_root_key: !ca.has_root_key() && now > issuing.not_before + life / 2,
    }
}
