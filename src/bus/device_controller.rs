//! DeviceController: which devices each node has, and what nodes report of them.
//!
//! It answers [`super::edge_controller::ListDesired`] and
//! [`super::edge_controller::SendDifferences`] for the kinds `devicemodel` and `device`, as
//! EdgeController does for the others.
//!
//! Replies to a node go down through CloudHub: source `devicecontroller`, group `twin`, parent the
//! report. Operation `response` says that the API has it (or that nothing is left to do), operation
//! `error` that it can never be taken: sending it for ever is of no use. No reply means: send it again.

use actix::Message;

use super::Turn;
use crate::model::{Envelope, NodeName};

/// A message of source `twin` from a node: a twin or state report, or the question
/// `membership/detail`. `node` comes from the verified certificate of the connection.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct FromTwin {
    pub node: NodeName,
    pub envelope: Envelope,
    /// Kept until the message is taken.
    pub turn: Turn,
}
