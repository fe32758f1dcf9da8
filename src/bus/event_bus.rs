//! EventBus: MQTT, inside and outside.

use actix::Message;
use bytes::Bytes;

/// Publishes messages in order, on the internal broker, the external one, or both, as `mqttMode`
/// says. `Ok`: the internal broker has routed them; for an external one they are queued (bounded,
/// oldest first dropped and counted while it is away).
#[derive(Debug, Clone, Message)]
#[rtype(result = "Result<(), NotPublished>")]
pub struct Publish(pub Vec<Publication>);

/// A message this edge publishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    pub topic: String,
    pub payload: Bytes,
    pub retain: bool,
}

/// No broker takes messages now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not published: {0}")]
pub struct NotPublished(pub String);
