//! CloudHub: one session per connected node, and the only road from cloud modules to edges.

use std::sync::{Arc, OnceLock};

use actix::Message;
use bytes::Bytes;
use serde_json::Value;

use crate::model::{Body, Envelope, Header, NodeName, Route};
use crate::wire::frame::{self, WireError};

/// A message on its way down. Shared: an object that ten thousand nodes follow exists once, and
/// its frame is encoded once, by the first session that needs it.
#[derive(Debug)]
pub struct Outgoing {
    pub header: Header,
    pub route: Route,
    content: Content,
    frame: OnceLock<Result<Bytes, WireError>>,
}

#[derive(Debug)]
enum Content {
    Own(Body),
    /// A Kubernetes object that the sender keeps as well.
    Shared(Arc<Value>),
}

impl Outgoing {
    #[must_use]
    pub fn new(envelope: Envelope) -> Arc<Self> {
        let Envelope { header, route, body } = envelope;
        Arc::new(Self { header, route, content: Content::Own(body), frame: OnceLock::new() })
    }

    /// A message about `object`. The body of `envelope` is not used.
    #[must_use]
    pub fn shared(envelope: Envelope, object: Arc<Value>) -> Arc<Self> {
        let Envelope { header, route, .. } = envelope;
        Arc::new(Self { header, route, content: Content::Shared(object), frame: OnceLock::new() })
    }

    /// The message with its content, copied.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let body = match &self.content {
            Content::Own(body) => body.clone(),
            Content::Shared(object) => Body::Object(object.as_ref().clone()),
        };
        Envelope { header: self.header.clone(), route: self.route.clone(), body }
    }

    /// The websocket frame, encoded at the first call.
    ///
    /// # Errors
    /// [`WireError`] when the message is larger than a frame may be.
    pub fn frame(&self) -> Result<Bytes, &WireError> {
        let encoded = self.frame.get_or_init(|| frame::encode(&self.envelope()).map(Bytes::from));
        match encoded {
            Ok(frame) => Ok(frame.clone()),
            Err(err) => Err(err),
        }
    }

    /// The object inside, if the content is one.
    #[must_use]
    pub fn object(&self) -> Option<&Value> {
        match &self.content {
            Content::Own(Body::Object(value)) => Some(value),
            Content::Own(_) => None,
            Content::Shared(object) => Some(object),
        }
    }

    /// The text inside, if the content is one.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.content {
            Content::Own(Body::Text(text)) => Some(text),
            _ => None,
        }
    }
}

/// Sends messages to nodes, in this order. Messages for nodes without a session are dropped: what
/// such a node misses is found by the comparison at its next connect.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct SendDown {
    pub messages: Vec<(NodeName, Arc<Outgoing>)>,
}

impl SendDown {
    #[must_use]
    pub fn one(node: NodeName, envelope: Envelope) -> Self {
        Self { messages: vec![(node, Outgoing::new(envelope))] }
    }
}

/// Ends sessions at once; their edges reconnect and compare.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct CloseNode {
    /// `None`: every session.
    pub node: Option<NodeName>,
    pub reason: EndReason,
}

/// The nodes that have a session now, sorted.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Vec<NodeName>")]
pub struct ConnectedNodes;

/// Why a session ended: the `reason` label of `kubeedge_cloudhub_sessions_total`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EndReason {
    /// The peer closed, or the network did.
    Closed,
    /// No keepalive in time.
    KeepaliveLost,
    /// A frame was not taken by the peer in time.
    WriteTimeout,
    /// A newer connection of the same node took over.
    Replaced,
    /// The queue to the node was full; the comparison at the next connect heals it.
    QueueFull,
    /// A frame was too large, too deep or not a message, or the websocket protocol was broken.
    BadFrame,
    /// The Node object was deleted.
    NodeDeleted,
    /// The cloud lost what it knew about this session (a restarted actor).
    Restarted,
    /// cloudcore is stopping.
    Shutdown,
}

impl EndReason {
    pub const ALL: [Self; 9] = [
        Self::Closed,
        Self::KeepaliveLost,
        Self::WriteTimeout,
        Self::Replaced,
        Self::QueueFull,
        Self::BadFrame,
        Self::NodeDeleted,
        Self::Restarted,
        Self::Shutdown,
    ];

    /// The metric label.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::KeepaliveLost => "keepalive_lost",
            Self::WriteTimeout => "write_timeout",
            Self::Replaced => "replaced",
            Self::QueueFull => "queue_full",
            Self::BadFrame => "bad_frame",
            Self::NodeDeleted => "node_deleted",
            Self::Restarted => "restarted",
            Self::Shutdown => "shutdown",
        }
    }
}
