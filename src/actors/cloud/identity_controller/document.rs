//! The document every node with the extension holds: compiled from the API, bounded, sealed for each
//! node. No I/O.

use std::sync::Arc;

use serde_json::{Value, json};

use super::sources::{Data, Lists};
use crate::bus::cloud_hub::Outgoing;
use crate::identity::{TrustBundle, seal};
use crate::model::identity::{
    BundleDocument, EDGE_IDENTITY_KIND, EDGE_IDENTITY_NAMESPACE, EdgeIdentitySpec, IDENTITY_API_VERSION,
};
use crate::model::{Body, Envelope, NodeName, ObjectKey, group, operation, source};

/// ConfigMap that holds the spec which nodes have; its resourceVersion is the document's.
pub const EDGE_IDENTITY: &str = "edge-identity";
/// Its key.
pub const SPEC: &str = "spec";
/// ConfigMap with the trust bundle in the forms others read.
pub const TRUST_BUNDLE: &str = "trust-bundle";
/// Longest canonical spec, bytes: it is kept in a ConfigMap, which holds 1 MiB.
pub const MAX_SPEC: usize = 1_000_000;

/// The spec as it is sealed and kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compiled {
    /// Canonical JSON.
    pub text: Arc<str>,
    /// Everything together was this long, so registrations and policies are those of before.
    pub too_long: Option<usize>,
}

/// Puts everything together. When that is longer than [`MAX_SPEC`], registrations and policies stay
/// those of `kept`, the last that fitted, and only the bundle is new: trust must go on. `Err` with
/// the length when even that does not fit; then nothing changes at the nodes.
///
/// # Errors
/// The length in bytes.
pub fn compile(
    bundle: &BundleDocument,
    lists: Lists,
    kept: impl FnOnce() -> Option<Lists>,
) -> Result<Compiled, usize> {
    let text = canonical(bundle, lists);
    if text.len() <= MAX_SPEC {
        return Ok(Compiled { text: text.into(), too_long: None });
    }
    let length = text.len();
    let kept = canonical(bundle, kept().ok_or(length)?);
    if kept.len() > MAX_SPEC {
        return Err(length);
    }
    Ok(Compiled { text: kept.into(), too_long: Some(length) })
}

fn canonical(bundle: &BundleDocument, lists: Lists) -> String {
    let spec = EdgeIdentitySpec {
        bundle: bundle.clone(),
        registrations: lists.registrations,
        image_policies: lists.image_policies,
        topic_policies: lists.topic_policies,
    };
    let value = serde_json::to_value(spec).unwrap_or_default();
    String::from_utf8(seal::canonical(&value)).unwrap_or_default()
}

/// Registrations and policies of a spec that was kept. `None` when it is none.
#[must_use]
pub fn lists_of(text: &str) -> Option<Lists> {
    let spec: EdgeIdentitySpec = serde_json::from_str(text).ok()?;
    Some(Lists {
        registrations: spec.registrations,
        image_policies: spec.image_policies,
        topic_policies: spec.topic_policies,
    })
}

/// Data of ConfigMap [`TRUST_BUNDLE`], for users and their tools. `None` for what is no bundle.
#[must_use]
pub fn trust_bundle(bundle: &BundleDocument) -> Option<Data> {
    let trusted = TrustBundle::from_document(bundle).ok()?;
    let json = |value: Value| String::from_utf8(seal::canonical(&value)).ok();
    Some(Data::from([
        ("bundle.json".to_owned(), json(serde_json::to_value(bundle).ok()?)?),
        ("roots.pem".to_owned(), trusted.roots_pem()),
        ("spiffe-bundle.json".to_owned(), json(trusted.spiffe_bundle())?),
    ]))
}

/// Where the document of `node` is.
#[must_use]
pub fn key(node: &NodeName) -> ObjectKey {
    ObjectKey::namespaced(EDGE_IDENTITY_NAMESPACE, EDGE_IDENTITY_KIND, node.as_str())
}

/// Its uid: always the same, so that it is changed and never replaced.
#[must_use]
pub fn uid(node: &NodeName) -> String {
    format!("{EDGE_IDENTITY_KIND}.{node}")
}

/// The message that brings it. `spec` is a canonical text and `seal` the signature over it.
#[must_use]
pub fn message(
    operation: &str,
    node: &NodeName,
    version: &str,
    spec: &str,
    seal: &str,
    now_ms: i64,
) -> Arc<Outgoing> {
    let spec: Value = serde_json::from_str(spec).unwrap_or_default();
    let object = json!({
        "apiVersion": IDENTITY_API_VERSION,
        "kind": "EdgeIdentity",
        "metadata": {
            "namespace": EDGE_IDENTITY_NAMESPACE,
            "name": node.as_str(),
            "uid": uid(node),
            "resourceVersion": version,
        },
        "spec": spec,
        "seal": seal,
    });
    envelope(operation, key(node), Body::Object(object), Some(version.to_owned()), now_ms)
}

/// Takes away what `node` holds and should not: only name and uid are known.
#[must_use]
pub fn removal(key: ObjectKey, uid: &str, now_ms: i64) -> Arc<Outgoing> {
    let content = json!({"metadata": {"name": key.name(), "namespace": key.namespace(), "uid": uid}});
    envelope(operation::DELETE, key, Body::Object(content), None, now_ms)
}

fn envelope(
    operation: &str,
    key: ObjectKey,
    body: Body,
    version: Option<String>,
    now_ms: i64,
) -> Arc<Outgoing> {
    let (source, group) = (source::EDGE_CONTROLLER, group::RESOURCE);
    let mut envelope = Envelope::new(source, group, operation, key.into(), body, now_ms);
    envelope.header.resource_version = version;
    if operation == operation::DELETE {
        return Outgoing::leaving(envelope);
    }
    Outgoing::new(envelope)
}

#[cfg(test)]
#[path = "document_tests.rs"]
mod tests;
