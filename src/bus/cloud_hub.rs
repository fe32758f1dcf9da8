//! CloudHub: one session per connected node, and the only road from cloud modules to edges.

use std::sync::{Arc, OnceLock};

use actix::Message;
use bytes::Bytes;
use serde_json::Value;

pub use crate::model::EndReason;
use crate::model::{Body, Envelope, Header, NodeName, Route};
use crate::wire::frame::{self, WireError};

/// A message on its way down. Shared: an object that ten thousand nodes follow exists once, and
/// its frame is encoded once, by the first session that needs it.
#[derive(Debug)]
pub struct Outgoing {
    pub header: Header,
    pub route: Route,
    content: Content,
    /// A delete of an object that may live on, only not on this node: it may come back.
    leaves: bool,
    frame: OnceLock<Result<Bytes, WireError>>,
}

#[derive(Debug)]
enum Content {
    Own(Body),
    /// A Kubernetes object that the sender keeps as well.
    Shared(Arc<Value>),
    /// An object that is in the frame already: of the tree only kind and metadata are left.
    Printed {
        object: Value,
        frame: Bytes,
    },
}

impl Outgoing {
    #[must_use]
    pub fn new(envelope: Envelope) -> Arc<Self> {
        Arc::new(Self::build(envelope, None, false))
    }

    /// A message about `object`. The body of `envelope` is not used.
    #[must_use]
    pub fn shared(envelope: Envelope, object: Arc<Value>) -> Arc<Self> {
        Arc::new(Self::build(envelope, Some(object), false))
    }

    /// A delete of an object that leaves the node and may live on elsewhere. The same object may be
    /// sent again later; after any other delete it may not.
    #[must_use]
    pub fn leaving(envelope: Envelope) -> Arc<Self> {
        Arc::new(Self::build(envelope, None, true))
    }

    fn build(envelope: Envelope, shared: Option<Arc<Value>>, leaves: bool) -> Self {
        let Envelope { header, route, body } = envelope;
        let content = shared.map_or(Content::Own(body), Content::Shared);
        Self { header, route, content, leaves, frame: OnceLock::new() }
    }

    /// The same message, its frame printed now and of its object only kind and metadata kept: as a tree a
    /// large object takes several times what its frame does, and there may be one for every node.
    #[must_use]
    pub fn printed(self: Arc<Self>) -> Arc<Self> {
        let (Some(object), Ok(frame)) = (self.object(), self.frame()) else { return self };
        let kept = ["apiVersion", "kind", "metadata"];
        let kept = kept.into_iter().filter_map(|key| Some((key.to_owned(), object.get(key)?.clone())));
        Arc::new(Self {
            header: self.header.clone(),
            route: self.route.clone(),
            content: Content::Printed { object: Value::Object(kept.collect()), frame: frame.clone() },
            leaves: self.leaves,
            frame: OnceLock::from(Ok(frame)),
        })
    }

    /// May the object of this delete come back?
    #[must_use]
    pub fn leaves(&self) -> bool {
        self.leaves
    }

    /// The message with its content, copied.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let body = match &self.content {
            Content::Own(body) => body.clone(),
            Content::Shared(object) => Body::Object(object.as_ref().clone()),
            Content::Printed { frame, .. } => match frame::decode(frame, frame::MAX_FRAME_BYTES) {
                Ok(envelope) => envelope.body,
                Err(error) => {
                    tracing::error!(resource = %self.route.resource, %error, "our own frame cannot be read");
                    Body::Null
                }
            },
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
            Content::Printed { object, .. } => Some(object),
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
