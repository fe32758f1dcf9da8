//! A message on its way through the broker, shared by everybody it goes to.

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;

use super::packet::{MessageProperties, Publish, QoS, Will};
use super::size::properties_bytes;

/// What a user property costs in memory beside its texts: an empty one has five bytes on the wire.
pub(super) const USER_PROPERTY_BYTES: usize = 64;

/// What was published. Immutable: a fan-out clones an `Arc`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub topic: Arc<str>,
    pub payload: Bytes,
    /// As published; a subscriber gets the lower one of this and its own.
    pub qos: QoS,
    /// As published.
    pub retain: bool,
    /// `expiry_secs` in it is what the publisher said; what is left stands in `Effect::Deliver`.
    pub properties: Arc<MessageProperties>,
    /// Milliseconds since 1970 after which nobody is to get it any more.
    pub expires_ms: Option<i64>,
    /// Bytes of `properties` without the expiry in a packet of version 5.
    pub(super) properties_bytes: u32,
}

impl Message {
    /// A message whose life starts now.
    #[must_use]
    pub fn new(
        topic: Arc<str>,
        payload: Bytes,
        qos: QoS,
        retain: bool,
        properties: Arc<MessageProperties>,
        now_ms: i64,
    ) -> Self {
        let expires_ms = properties.expiry_secs.map(|secs| now_ms.saturating_add(i64::from(secs) * 1000));
        let properties_bytes = properties_bytes(&properties);
        Self { topic, payload, qos, retain, properties, expires_ms, properties_bytes }
    }

    pub(super) fn of_publish(publish: Publish, now_ms: i64) -> Self {
        let Publish { topic, payload, qos, retain, properties, .. } = publish;
        Self::new(topic, payload, qos, retain, properties, now_ms)
    }

    pub(super) fn of_will(will: Will, now_ms: i64) -> Self {
        let Will { topic, payload, qos, retain, properties, .. } = will;
        Self::new(topic.into(), payload, qos, retain, Arc::new(properties), now_ms)
    }

    /// What it counts against the bounds of queues.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let properties = self.properties_bytes as usize + self.properties.user.len() * USER_PROPERTY_BYTES;
        self.topic.len() + self.payload.len() + properties
    }

    #[must_use]
    pub fn is_expired(&self, now_ms: i64) -> bool {
        self.expires_ms.is_some_and(|at| at <= now_ms)
    }

    /// Whole seconds it has left, as sent on [MQTT-3.3.2-6].
    #[must_use]
    pub fn expiry_left_secs(&self, now_ms: i64) -> Option<u32> {
        let left = self.expires_ms?.saturating_sub(now_ms).max(0);
        Some(u32::try_from(left.saturating_add(999) / 1000).unwrap_or(u32::MAX))
    }
}

/// Identifiers of the subscriptions a message matched for one client.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SubscriptionIds {
    #[default]
    None,
    One(NonZeroU32),
    Many(Box<[NonZeroU32]>),
}

impl SubscriptionIds {
    #[must_use]
    pub fn as_slice(&self) -> &[NonZeroU32] {
        match self {
            Self::None => &[],
            Self::One(id) => std::slice::from_ref(id),
            Self::Many(ids) => ids,
        }
    }

    pub(super) fn add(&mut self, id: Option<NonZeroU32>) {
        let Some(id) = id else { return };
        *self = match std::mem::take(self) {
            Self::None => Self::One(id),
            Self::One(first) => Self::Many(Box::new([first, id])),
            Self::Many(ids) => Self::Many(ids.into_iter().chain([id]).collect()),
        };
    }
}

/// How a topic stands in a PUBLISH to a client of version 5.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TopicAlias {
    /// The name alone.
    None,
    /// The name, and the alias that stands for it from now on.
    New(NonZeroU16),
    /// The alias with an empty name.
    Known(NonZeroU16),
}
