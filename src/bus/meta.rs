//! MetaManager: what the edge must remember, and the only road from other edge modules to the
//! Kubernetes objects of the cloud.

use std::sync::Arc;

use actix::Message;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Event, Node};
use serde_json::Value;

use crate::model::{Envelope, ObjectKey, Status};

/// A message from the cloud (group `resource`). `Ok` means: durable, EdgeHub may acknowledge.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotStored>")]
pub struct ApplyDownstream(pub Envelope);

#[derive(Debug, Clone, thiserror::Error)]
#[error("{resource} was not stored: {why}")]
pub struct NotStored {
    pub resource: String,
    pub why: String,
}

/// Every pod of this node that is stored. Edged asks at start, before any cloud is needed.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<Arc<Value>>, MetaError>")]
pub struct ListPods;

/// One object from the store. For configmaps and secrets that are not stored, asks the cloud
/// (if connected) and keeps the answer.
#[derive(Debug, Message)]
#[rtype(result = "Result<Option<Arc<Value>>, MetaError>")]
pub struct GetObject(pub ObjectKey);

/// A service-account token for a pod's volume. Served from the store while it is good; renewed
/// from the cloud at 80 % of its life when connected; an expired one is still given offline.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Value>, MetaError>")]
pub struct GetToken {
    pub namespace: String,
    pub service_account: String,
    /// `authentication.k8s.io/v1` TokenRequest; the result is one too, with `status.token`.
    pub request: Value,
}

/// The newest status of a pod. Latest wins; kept on disk until the cloud has it.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), MetaError>")]
pub struct ReportPodStatus {
    pub namespace: String,
    pub name: String,
    pub uid: String,
    /// `status` of the pod, complete (not a diff).
    pub status: Value,
}

/// The pod's containers are gone: the cloud may remove the object (grace 0, uid precondition).
/// Kept on disk until the cloud has confirmed.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), MetaError>")]
pub struct ConfirmPodDeleted {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// Creates this edge's Node, or brings labels, taints and status of an existing one up to date.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Value>, MetaError>")]
pub struct RegisterNode(pub Box<Node>);

/// Strategic-merge patch of the node's status (`null/nodepatch/{node}`); answered by the node.
#[derive(Debug, Message)]
#[rtype(result = "Result<Arc<Value>, MetaError>")]
pub struct PatchNodeStatus {
    pub patch: Value,
}

/// Creates or renews the node lease. MetaManager keeps the resourceVersion and handles conflicts.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), MetaError>")]
pub struct RenewLease(pub Box<Lease>);

/// A Kubernetes event; waits in the bounded outbox while offline.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), MetaError>")]
pub struct ReportEvent(pub Box<Event>);

/// The last events this node reported, oldest first, whether the cloud has them or not: for the
/// console. Those of this process only, at most a few hundred.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Result<Vec<Arc<Event>>, MetaError>")]
pub struct ListEvents;

#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// Only the cloud can answer this, and there is no session.
    #[error("not connected to the cloud")]
    Offline,
    /// The cloud answered with an API error.
    #[error("{}", .0.message)]
    Api(Box<Status>),
    #[error("{0}")]
    Store(String),
    /// The reply had a shape this edge does not understand.
    #[error("unexpected reply from the cloud: {0}")]
    Protocol(String),
}
