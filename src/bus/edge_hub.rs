//! EdgeHub: the edge's one connection to the cloud.

use std::time::Duration;

use actix::Message;

use crate::model::Envelope;

/// Traffic classes of the upstream direction. They never share a queue or a limiter, so a flood
/// of device data delays no lease (users.md section 4, no. 15).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Registration, leases, node and pod status, queries, acknowledgements. Sent first.
    Control,
    /// Kubernetes events.
    Event,
    /// Device twins, states and MQTT uploads.
    Device,
    /// What the node says about itself to be watched. Sent last: it delays nothing.
    Report,
}

/// Queues one message for the cloud. `Ok` means it is queued in memory, not that it arrived: what
/// must survive is kept by its owner until the cloud answers.
#[derive(Debug, Message)]
#[rtype(result = "Result<(), SendError>")]
pub struct SendUpstream {
    pub envelope: Envelope,
    pub class: Class,
    /// Its owner sends it again when the session ends first: it is not kept for the next one, where it would go twice.
    pub comes_again: bool,
}

/// Sends a message and waits for the one whose `parent_msg_id` is its `msg_id`.
#[derive(Debug, Message)]
#[rtype(result = "Result<Envelope, SendError>")]
pub struct Request {
    pub envelope: Envelope,
    pub class: Class,
    /// How long to wait for the reply after it was queued.
    pub timeout: Duration,
}

/// Why a message did not go.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("not connected to the cloud")]
    NotConnected,
    #[error("the queue to the cloud is full")]
    QueueFull,
    #[error("the message is larger than the cloud takes: {bytes} bytes")]
    TooLarge { bytes: usize },
    /// A bug or a hostile object: it never becomes JSON.
    #[error("the message cannot be encoded: {0}")]
    Unprintable(String),
    #[error("no reply within {0:?}")]
    NoReply(Duration),
    #[error("the connection ended before the reply came")]
    Disconnected,
}

/// Told to MetaManager (which tells the others) whenever a session opens or ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Message)]
#[rtype(result = "()")]
pub struct CloudLinkChanged {
    pub connected: bool,
    /// Counts sessions of this process; a late message about an older one is ignored.
    pub session: u64,
    /// Both sides offered the resync extension: MetaManager lists what it holds.
    pub resync: bool,
}
