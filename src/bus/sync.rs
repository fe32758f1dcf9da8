//! SyncController: after a reconnect, only what differs travels.

use actix::Message;

use super::Turn;
use super::edge_controller::ObjectVersion;
use crate::model::{Envelope, NodeName, Resource};

/// Which of our extensions both sides have (design D2).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Extensions {
    /// Up to 32 unacknowledged messages in flight instead of one.
    pub ack_window: bool,
    /// The edge lists what it holds right after connecting.
    pub resync: bool,
    /// The edge renews its identity over the session and holds an `EdgeIdentity`.
    pub identity: bool,
    /// The edge reports its metrics and actors.
    pub report: bool,
}

/// A session opened. `session` grows with every session of this process.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeConnected {
    pub node: NodeName,
    pub session: u64,
    pub extensions: Extensions,
}

/// A session ended. Ignored when a newer one is known.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeGone {
    pub node: NodeName,
    pub session: u64,
}

/// One frame of the edge's listing (`resync`): source `metamanager`, group `meta`, resource `null`,
/// content `{"objects":[[resource, uid, resourceVersion],..],"part":0,"last":true}`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Held {
    pub node: NodeName,
    pub session: u64,
    pub envelope: Envelope,
    /// Kept until the message is taken.
    pub turn: Turn,
}

/// An edge acknowledged (protocol section 4.4). Only told for edges without `resync`.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct Delivered {
    pub node: NodeName,
    pub resource: Resource,
    /// `apiVersion` and `kind` of the object; empty for skeleton deletes.
    pub api_version: String,
    pub kind: String,
    pub deleted: bool,
    pub version: ObjectVersion,
}

/// The nodes that are connected now with the extension `identity`, sorted. Only they may hear of
/// kind `edgeidentity`: KubeEdge's edges do not know it.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<NodeName>")]
pub struct IdentityNodes;
