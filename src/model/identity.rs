//! What cloud and edge tell each other about identity: joining, renewing, and the document of
//! trust, registrations and policies that every node holds. Ours, not KubeEdge's (design D2, D8);
//! spoken only where both sides offer the extension `identity`.
//!
//! Binary values are standard base64 of DER.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// API group of our identity kinds.
pub const IDENTITY_GROUP: &str = "identity.kubeedge.io";
/// Their version.
pub const IDENTITY_API_VERSION: &str = "identity.kubeedge.io/v1alpha1";
/// Namespace and wire kind of a node's [`EdgeIdentity`]: `kubeedge/edgeidentity/{node}`.
pub const EDGE_IDENTITY_NAMESPACE: &str = "kubeedge";
pub const EDGE_IDENTITY_KIND: &str = "edgeidentity";
/// Annotation that holds a pod's seal.
pub const SEAL_ANNOTATION: &str = "identity.kubeedge.io/seal";
/// Annotation by which a pod asks for the Workload API's socket; value `"true"`.
pub const WORKLOAD_API_ANNOTATION: &str = "identity.kubeedge.io/workload-api";

/// What a node asks for: public keys only, each inside a request that proves its private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct RenewalRequest {
    /// PKCS#10 for the node's SVID: `CN=system:node:{node}`, `O=system:nodes`.
    pub csr: String,
    /// PKCS#10 for the node's intermediate CA, which signs its workloads' SVIDs.
    pub ca_csr: String,
    /// Public key (JWK, ES256) that signs this node's JWT-SVIDs.
    pub jwt_key: serde_json::Value,
}

/// Body of `POST /identity/node` on the join server (HTTPS, 10002): a node without a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct AttestationRequest {
    pub node: String,
    pub evidence: Evidence,
    pub request: RenewalRequest,
}

/// How a node without a session shows who it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "attestor", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Evidence {
    /// A join token: its JWT, without the CA hash.
    JoinToken { token: String },
    /// A factory certificate, leaf first, and a signature with its key ([`Proof`] context
    /// `kubeedge x509pop v1`).
    X509pop { proof: Proof },
    /// The node's last SVID, perhaps expired, and a signature with its key (context
    /// `kubeedge reentry v1`).
    Svid { proof: Proof },
}

/// A certificate chain and a signature by its leaf's key over `{context}\n{node}\n` and the
/// [`RenewalRequest`] beside it (JSON without blanks, members sorted). It is good for the keys inside
/// that request only, so nobody gains by sending it again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Proof {
    pub chain: Vec<String>,
    /// ECDSA P-256 with SHA-256, ASN.1.
    pub signature: String,
}

/// What the cloud answers to both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RenewalReply {
    /// The node's SVID, leaf first, without the root.
    pub svid: Vec<String>,
    /// The node's intermediate CA, then what signed it, without the root.
    pub node_ca: Vec<String>,
    /// The roots. Keys of JWT-SVIDs come with the [`EdgeIdentity`].
    pub bundle: BundleDocument,
}

/// The trust bundle of the trust domain.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BundleDocument {
    pub trust_domain: String,
    /// Root certificates, the one in use first. During a rotation old and next ones follow.
    pub roots: Vec<String>,
    /// Public keys (JWK with `kid`) that sign JWT-SVIDs.
    #[serde(default)]
    pub jwt_keys: Vec<serde_json::Value>,
}

/// The object every node with the extension holds: everything that decides who is who and what may
/// run there. `seal` is the cloud's signature over `spec` and the node's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeIdentity {
    pub api_version: String,
    pub kind: String,
    pub metadata: EdgeIdentityMeta,
    pub spec: EdgeIdentitySpec,
    pub seal: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct EdgeIdentityMeta {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// Grows with every change.
    pub resource_version: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EdgeIdentitySpec {
    pub bundle: BundleDocument,
    pub registrations: Vec<Registration>,
    pub image_policies: Vec<ImagePolicy>,
    pub topic_policies: Vec<TopicPolicy>,
}

/// One `WorkloadIdentity`: an identity beyond the service account's.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Registration {
    pub namespace: String,
    pub name: String,
    /// Path of the SPIFFE ID, with its leading slash: below `/ns/{namespace}/` or
    /// `/device/{namespace}/`.
    pub path: String,
    pub selectors: Selectors,
    /// DNS names of the X.509-SVID.
    pub dns_names: Vec<String>,
    /// Seconds; 0 means the node's default.
    pub ttl_secs: u64,
    pub hint: String,
}

/// All that are given must match; at least one is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Selectors {
    pub service_account: Option<String>,
    pub pod_labels: BTreeMap<String, String>,
    pub container: Option<String>,
    /// `sha256:..` of the image's manifest or configuration.
    pub image_digest: Option<String>,
    /// Of the calling process.
    pub uid: Option<u32>,
    /// Absolute path of the calling process' binary inside its container.
    pub path: Option<String>,
    /// Lower-case hex of that binary.
    pub sha256: Option<String>,
}

/// What images a namespace's pods may run. Every policy of a namespace must allow an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ImagePolicy {
    pub namespace: String,
    pub name: String,
    pub mode: PolicyMode,
    /// An image is allowed if any rule allows it; no rules allow nothing.
    pub allow: Vec<ImageRule>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PolicyMode {
    #[default]
    Enforce,
    Warn,
}

/// All that are given must hold; at least one is given.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ImageRule {
    /// `host[:port][/path]`: the image's full name is it or lies below it.
    pub registry: Option<String>,
    /// `sha256:..` of the manifest.
    pub digest: Option<String>,
    /// PEM public key (ECDSA P-256): a cosign signature with it is attached to the image.
    pub cosign_key: Option<String>,
}

/// What a client of the MQTT broker may use beside its devices' topics.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TopicPolicy {
    pub namespace: String,
    pub name: String,
    /// Full SPIFFE IDs of this namespace: `spiffe://{td}/ns/{namespace}/..` or
    /// `spiffe://{td}/device/{namespace}/..`; a trailing `/*` covers what is below.
    pub subjects: Vec<String>,
    /// Topic filters.
    pub publish: Vec<String>,
    pub subscribe: Vec<String>,
}

impl TopicPolicy {
    /// Does a filter reach topics of devices of other namespaces (`$hw/events/device/{namespace}/..`)?
    /// No policy may give them: other topics belong to nobody, these command devices.
    #[must_use]
    pub fn is_foreign(filter: &str, namespace: &str) -> bool {
        let mut levels = filter.split('/');
        // No wildcard in front matches a topic that begins with '$'.
        if levels.next() != Some("$hw") {
            return false;
        }
        for want in ["events", "device"] {
            match levels.next() {
                Some("#") => return true,
                Some(level) if level == "+" || level == want => {}
                _ => return false,
            }
        }
        levels.next().is_some_and(|owner| owner != namespace)
    }
}
