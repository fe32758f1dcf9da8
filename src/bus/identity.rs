//! Identity on both sides: the node's credentials and policies, what the cloud keeps about nodes,
//! and the audit log.
//!
//! What many read and few change (credentials, policies, revocations) is published through
//! `tokio::sync::watch`: readers take the newest value per handshake or per start, nobody waits.

use std::collections::BTreeMap;
use std::sync::Arc;

use actix::Message;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::watch;

use crate::bus::Link;
use crate::identity::NodeCredentials;
use crate::model::NodeName;
use crate::model::identity::{BundleDocument, EdgeIdentitySpec};
use crate::telemetry::identity::AuditMetrics;

/// The node's credentials; `None` before it has joined. EdgeHub writes.
pub type Credentials = watch::Receiver<Option<Arc<NodeCredentials>>>;

/// Registrations and policies of this node, verified; `None` before the cloud sent any. The edge's
/// Identity actor writes.
pub type Policies = watch::Receiver<Option<Arc<EdgeIdentitySpec>>>;

/// Revoked nodes; `None` until the API has told them: nobody is let in before. The cloud's
/// IdentityController writes; CloudHub asks at every handshake, join and renewal.
pub type Revocations = watch::Receiver<Option<Arc<BTreeMap<NodeName, Revocation>>>>;

/// The bundle as the cloud publishes it, JWT keys included. IdentityController writes.
pub type PublishedBundle = watch::Receiver<Arc<BundleDocument>>;

/// Why and when a node lost its certificates. Kept in ConfigMap `kubeedge/node-revocations`, a JSON
/// text per node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Revocation {
    /// Unix seconds.
    pub at: u64,
    pub reason: String,
    /// Unix seconds since when the node may join again (`keadm node allow`). Certificates from
    /// before stay refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed_at: Option<u64>,
}

/// The node's `EdgeIdentity` as it is stored; `None` when it is gone. MetaManager tells the edge's
/// Identity actor, which verifies the seal.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct EdgeIdentityChanged(pub Option<Arc<Value>>);

/// The trust bundle of this node's cloud changed: the roots on disk follow. The edge's Identity actor
/// tells EdgeHub after it has verified the seal of the document that brought it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct RootsChanged(pub BundleDocument);

/// A node joined or renewed its identity: its key for JWT-SVIDs is to be published until
/// `expires_at` (unix seconds). CloudHub tells IdentityController.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeKeyChanged {
    pub node: NodeName,
    /// `Null` for a node that has none: a Go edge.
    pub jwt_key: Value,
    pub expires_at: u64,
    /// Of the SVID it got: lower-case hex.
    pub svid_serial: String,
    /// Unix seconds.
    pub svid_expires_at: u64,
    /// Unix seconds; 0 for a node without an intermediate CA.
    pub node_ca_expires_at: u64,
}

/// What the cloud knows of a node's newest certificates. Kept in ConfigMap
/// `kubeedge/node-identities`, a JSON text per node; `keadm identity` shows it. Times are unix
/// seconds.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct NodeIdentity {
    pub serial: String,
    pub svid_expires_at: u64,
    /// 0: it has no intermediate CA.
    pub node_ca_expires_at: u64,
    pub renewed_at: u64,
}

/// Two machines hold this node's certificate. CloudHub tells IdentityController, which acts by
/// `identity.clonedNodes`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeCloned {
    pub node: NodeName,
    /// Where the two come from.
    pub addresses: [String; 2],
}

/// One fact for the audit log. Never holds a secret: tokens by their id, keys by their hash.
#[derive(Debug, Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[rtype(result = "()")]
#[serde(rename_all = "camelCase")]
pub struct AuditFact {
    pub action: AuditAction,
    /// Whom it is about: a node, a SPIFFE ID, a pod.
    pub subject: String,
    pub allowed: bool,
    /// Why, in words; empty when there is nothing to say.
    pub reason: String,
    /// Serial number, token id, address, policy, image and the like.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AuditAction {
    /// A node got its first certificate, or came back with proof of its old key.
    Join,
    /// A certificate or token for a workload.
    Issue,
    Renew,
    /// A connection or call was turned away.
    Refuse,
    Revoke,
    /// An image, pod or topic policy decided.
    Policy,
    /// Authorities were created, rotated, retired.
    Authority,
}

impl AuditAction {
    pub const ALL: [Self; 7] =
        [Self::Join, Self::Issue, Self::Renew, Self::Refuse, Self::Revoke, Self::Policy, Self::Authority];

    /// As it is written in records and metrics.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Issue => "issue",
            Self::Renew => "renew",
            Self::Refuse => "refuse",
            Self::Revoke => "revoke",
            Self::Policy => "policy",
            Self::Authority => "authority",
        }
    }
}

impl AuditFact {
    #[must_use]
    pub fn new(
        action: AuditAction,
        subject: impl Into<String>,
        allowed: bool,
        reason: impl Into<String>,
    ) -> Self {
        Self { action, subject: subject.into(), allowed, reason: reason.into(), details: BTreeMap::new() }
    }

    #[must_use]
    pub fn with(mut self, key: &str, value: impl Into<String>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }
}

/// Tells the audit log a fact. One that finds the mailbox full is counted; Audit's own queue is
/// longer and complains in the log.
pub fn audit(log: &Link<AuditFact>, fact: AuditFact) {
    if log.tell(fact).is_err() {
        AuditMetrics::new().dropped.increment(1);
    }
}
