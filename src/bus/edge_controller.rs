//! EdgeController: what each node should have, and the API calls made on behalf of nodes.

use actix::Message;

use super::Turn;
use crate::model::{Envelope, NodeName, Resource};

/// A message from a node that is neither a keepalive nor an acknowledgement. `node` comes from
/// the verified certificate of the connection. The answer goes down through CloudHub.
#[derive(Debug, Message)]
#[rtype(result = "()")]
pub struct Upstream {
    pub node: NodeName,
    /// The session it came over; grows with every session of this process.
    pub session: u64,
    pub envelope: Envelope,
    /// Kept until the message is dealt with.
    pub turn: Turn,
}

/// Everything `node` should hold now: its Node, its pods, and what they reference.
#[derive(Debug, Message)]
#[rtype(result = "Result<Vec<ObjectVersion>, NotReady>")]
pub struct ListDesired {
    pub node: NodeName,
}

/// The first list from the API is not complete: nothing can be said about what a node should not
/// have. Ask again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the objects of the API are still being listed")]
pub struct NotReady;

/// An object as one side has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectVersion {
    /// `default/pod/nginx`.
    pub resource: Resource,
    pub uid: String,
    /// Decimal; empty when unknown.
    pub resource_version: String,
}

/// Sends what a comparison found, in order with all other changes of the same objects. Each item
/// is checked again against what the node should have at that moment.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), NotReady>")]
pub struct SendDifferences {
    pub node: NodeName,
    /// The node lacks these: `insert`.
    pub missing: Vec<Resource>,
    /// The node has another version: `update`.
    pub changed: Vec<Resource>,
    /// The node should not have these: skeleton `delete` (protocol section 17.9).
    pub surplus: Vec<ObjectVersion>,
    /// Sent after everything else, outside the window: the answer to the listing.
    pub answer: Option<Envelope>,
}

/// Cloudcore signs under another root: every pod goes to its node once more with a new seal, so that
/// the old root can be taken away later.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Reseal;
