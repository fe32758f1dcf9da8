//! The node's `EdgeIdentity` document: who sealed it, for whom, and is it newer? Pure.

use std::time::SystemTime;

use serde_json::Value;

use crate::identity::{TrustBundle, seal};
use crate::model::NodeName;
use crate::model::identity::{EDGE_IDENTITY_KIND, EdgeIdentitySpec};

/// A document that was verified.
#[derive(Debug, Clone)]
pub struct Verified {
    pub spec: EdgeIdentitySpec,
    pub sealed_at: SystemTime,
}

/// Why a document is not taken. The one before it stays in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadDocument {
    #[error("the document of registrations and policies has no {0}")]
    Missing(&'static str),
    #[error("the document is for node {0:?}")]
    OtherNode(String),
    #[error("seal: {0}")]
    Seal(String),
    #[error("spec: {0}")]
    Spec(String),
    #[error("spec.bundle: {0}")]
    Bundle(String),
    /// Somebody put an old one back.
    #[error("it was sealed before the one in force")]
    Older,
}

/// Verifies and reads a document. `roots` are those the node trusts; `newest` is when the one in
/// force was sealed.
///
/// # Errors
/// [`BadDocument`].
pub fn verify(
    document: &Value,
    node: &NodeName,
    roots: &TrustBundle,
    newest: Option<SystemTime>,
) -> Result<Verified, BadDocument> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name != node.as_str() {
        return Err(BadDocument::OtherNode(name.to_owned()));
    }
    let seal = document.get("seal").and_then(Value::as_str).ok_or(BadDocument::Missing("seal"))?;
    let spec = document.get("spec").ok_or(BadDocument::Missing("spec"))?;
    let info = seal::verify(seal, EDGE_IDENTITY_KIND, node, &seal::canonical(spec), roots)
        .map_err(|err| BadDocument::Seal(err.to_string()))?;
    if newest.is_some_and(|newest| info.sealed_at < newest) {
        return Err(BadDocument::Older);
    }
    let spec: EdgeIdentitySpec = serde::Deserialize::deserialize(spec)
        .map_err(|err: serde_json::Error| BadDocument::Spec(err.to_string()))?;
    if spec.bundle.trust_domain != roots.trust_domain {
        return Err(BadDocument::Bundle(format!("it is of trust domain {:?}", spec.bundle.trust_domain)));
    }
    TrustBundle::from_document(&spec.bundle).map_err(|err| BadDocument::Bundle(err.to_string()))?;
    Ok(Verified { spec, sealed_at: info.sealed_at })
}
