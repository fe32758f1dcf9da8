//! The node's `EdgeIdentity` document: who sealed it, for whom, and is it newer? Pure.

use std::time::SystemTime;

use serde_json::Value;

use crate::identity::{TrustBundle, seal, sha256_hex};
use crate::model::NodeName;
use crate::model::identity::{EDGE_IDENTITY_KIND, EdgeIdentitySpec};

/// A document that was verified.
#[derive(Debug, Clone)]
pub struct Verified {
    pub spec: EdgeIdentitySpec,
    /// What the next one is compared with.
    pub newest: Newest,
}

/// Tells a document that is older than the one in force from the same one, sealed at another time:
/// the cloud seals it anew at each start, and the store may hold either.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Newest {
    /// The latest seal of it that was seen.
    pub sealed_at: SystemTime,
    /// Lower-case hex SHA-256 of its canonical spec.
    pub spec_hash: String,
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

/// Verifies and reads a document. `roots` are those the node trusts; `newest` is the one in
/// force.
///
/// # Errors
/// [`BadDocument`].
pub fn verify(
    document: &Value,
    node: &NodeName,
    roots: &TrustBundle,
    newest: Option<&Newest>,
) -> Result<Verified, BadDocument> {
    let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if name != node.as_str() {
        return Err(BadDocument::OtherNode(name.to_owned()));
    }
    let seal = document.get("seal").and_then(Value::as_str).ok_or(BadDocument::Missing("seal"))?;
    let spec = document.get("spec").ok_or(BadDocument::Missing("spec"))?;
    let canonical = seal::canonical(spec);
    let info = seal::verify(seal, EDGE_IDENTITY_KIND, node, &canonical, roots)
        .map_err(|err| BadDocument::Seal(err.to_string()))?;
    let mut this = Newest { sealed_at: info.sealed_at, spec_hash: sha256_hex(&canonical) };
    if let Some(newest) = newest.filter(|newest| this.sealed_at < newest.sealed_at) {
        if newest.spec_hash != this.spec_hash {
            return Err(BadDocument::Older);
        }
        this.sealed_at = newest.sealed_at;
    }
    let spec: EdgeIdentitySpec = serde::Deserialize::deserialize(spec)
        .map_err(|err: serde_json::Error| BadDocument::Spec(err.to_string()))?;
    if spec.bundle.trust_domain != roots.trust_domain {
        return Err(BadDocument::Bundle(format!("it is of trust domain {:?}", spec.bundle.trust_domain)));
    }
    TrustBundle::from_document(&spec.bundle).map_err(|err| BadDocument::Bundle(err.to_string()))?;
    Ok(Verified { spec, newest: this })
}
