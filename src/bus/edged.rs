//! Edged: runs this node's pods.

use std::sync::Arc;

use actix::Message;
use k8s_openapi::api::core::v1::{Node, Pod, PodStatus};
use serde_json::Value;

/// A pod that this node should run, new or changed, with or without `deletionTimestamp`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct PodChanged(pub Arc<Value>);

/// The cloud removed the pod object: whatever still runs of it must go, nothing is reported.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct PodRemoved {
    pub namespace: String,
    pub name: String,
    /// Empty when the delete did not say.
    pub uid: String,
}

/// A stored configmap or secret changed or went: volumes and environments may depend on it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct ConfigChanged {
    /// `configmap` or `secret`.
    pub kind: String,
    pub namespace: String,
    pub name: String,
}

/// The Node object as the cloud has it now (labels, taints, uid).
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeChanged(pub Arc<Value>);

/// The session to the cloud opened or ended: register and renew the lease at once, or stop trying.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct CloudReachable(pub bool);

/// Asks Edged what runs on this node now: for the console, with the cloud or without.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Running")]
pub struct ListRunning;

/// Answer to [`ListRunning`].
#[derive(Debug, Clone, Default)]
pub struct Running {
    /// The Node as this edge would register it now; `None` until the machine was looked at.
    pub node: Option<Box<Node>>,
    /// `None` until the store and the runtime have told which there are.
    pub pods: Option<Vec<RunningPod>>,
}

/// A pod of this node.
#[derive(Debug, Clone)]
pub struct RunningPod {
    /// As it should be.
    pub pod: Arc<Pod>,
    /// As it is; `None` until its worker has looked: then the pod's own status counts.
    pub status: Option<Arc<PodStatus>>,
    /// The cloud removed it already.
    pub removed: bool,
}
