//! How long packets are on the wire (mqtt-v5.0-os 2.1.4, 2.2.2). Exact for PUBLISH, where the
//! client's maximum packet size is at stake; at most a few bytes too much for the others.

use super::message::{Message, TopicAlias};
use super::packet::{ConnAck, Connect, MessageProperties, Packet, QoS, Version};

/// Bytes of a variable byte integer.
fn varint(value: usize) -> usize {
    match value {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// With fixed header and remaining length.
fn framed(remaining: usize) -> usize {
    1 + varint(remaining) + remaining
}

fn text(value: &str) -> usize {
    2 + value.len()
}

/// Bytes of the properties of a message without message expiry, topic alias, subscription ids and
/// the length in front.
#[must_use]
pub fn properties_bytes(properties: &MessageProperties) -> u32 {
    let MessageProperties {
        is_utf8_payload,
        expiry_secs: _,
        content_type,
        response_topic,
        correlation_data,
        user,
    } = properties;
    let bytes = is_utf8_payload.map_or(0, |_| 2)
        + content_type.as_deref().map_or(0, |value| 1 + text(value))
        + response_topic.as_deref().map_or(0, |value| 1 + text(value))
        + correlation_data.as_ref().map_or(0, |value| 3 + value.len())
        + user.iter().map(|(key, value)| 1 + text(key) + text(value)).sum::<usize>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// Bytes of a PUBLISH of `message`.
#[must_use]
pub fn publish_bytes(
    message: &Message,
    version: Version,
    qos: QoS,
    alias: TopicAlias,
    subscription_ids: &[std::num::NonZeroU32],
) -> usize {
    let topic = if matches!(alias, TopicAlias::Known(_)) { 0 } else { message.topic.len() };
    let mut remaining = 2 + topic + message.payload.len() + if qos == QoS::AtMostOnce { 0 } else { 2 };
    if version == Version::V5 {
        let properties = message.properties_bytes as usize
            + message.expires_ms.map_or(0, |_| 5)
            + if alias == TopicAlias::None { 0 } else { 3 }
            + subscription_ids.iter().map(|id| 1 + varint(id.get() as usize)).sum::<usize>();
        remaining += varint(properties) + properties;
    }
    framed(remaining)
}

/// Bytes of a packet as the broker counts it.
#[must_use]
pub fn packet_bytes(packet: &Packet, version: Version) -> usize {
    let v5 = usize::from(version == Version::V5);
    match packet {
        Packet::Connect(connect) => framed(connect_bytes(connect)),
        Packet::ConnAck(connack) => framed(2 + v5 * connack_bytes(connack)),
        Packet::Publish(publish) => {
            let properties = properties_bytes(&publish.properties) as usize
                + publish.properties.expiry_secs.map_or(0, |_| 5)
                + publish.topic_alias.map_or(0, |_| 3)
                + publish.subscription_ids.iter().map(|id| 1 + varint(*id as usize)).sum::<usize>();
            let id = publish.id.map_or(0, |_| 2);
            framed(text(&publish.topic) + id + publish.payload.len() + v5 * (varint(properties) + properties))
        }
        Packet::PubAck { reason, .. }
        | Packet::PubRec { reason, .. }
        | Packet::PubRel { reason, .. }
        | Packet::PubComp { reason, .. } => framed(2 + if reason.0 == 0 { 0 } else { v5 * 2 }),
        Packet::Subscribe(subscribe) => {
            let filters: usize = subscribe.filters.iter().map(|filter| text(&filter.filter) + 1).sum();
            framed(2 + filters + v5 * 6)
        }
        Packet::SubAck { reasons, .. } => framed(2 + v5 + reasons.len()),
        Packet::Unsubscribe(unsubscribe) => {
            framed(2 + v5 + unsubscribe.filters.iter().map(|filter| text(filter)).sum::<usize>())
        }
        Packet::UnsubAck { reasons, .. } => framed(2 + v5 * (1 + reasons.len())),
        Packet::PingReq | Packet::PingResp => 2,
        Packet::Disconnect { .. } => framed(v5 * 7),
        Packet::Auth => 2,
    }
}

fn connect_bytes(connect: &Connect) -> usize {
    let optional = |value: Option<&str>| value.map_or(0, text);
    10 + text(&connect.client_id)
        + optional(connect.username.as_deref())
        + connect.password.as_ref().map_or(0, |value| 2 + value.len())
        + connect.will.as_ref().map_or(0, |will| {
            text(&will.topic) + 2 + will.payload.len() + 8 + properties_bytes(&will.properties) as usize
        })
        + if connect.version == Version::V5 { 24 } else { 0 }
}

fn connack_bytes(connack: &ConnAck) -> usize {
    // Each number with its identifier; wildcards and the like are not announced.
    4 + connack.assigned_client_id.as_deref().map_or(0, |value| 1 + text(value))
        + connack.reason_text.as_deref().map_or(0, |value| 1 + text(value))
        + connack.session_expiry_secs.map_or(0, |_| 5)
        + connack.receive_maximum.map_or(0, |_| 3)
        + connack.maximum_packet_bytes.map_or(0, |_| 5)
        + connack.topic_alias_maximum.map_or(0, |_| 3)
        + connack.server_keep_alive_secs.map_or(0, |_| 3)
}
