//! PUBLISH (mqtt-v3.1.1 and v5.0 section 3.3).

use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;

use bytes::Bytes;

use super::fields::{Reader, once, property, put_binary, put_remaining_length, qos, qos_number};
use super::{CodecError, OutBuf};
use crate::mqtt::{MessageProperties, PacketId, Publish, QoS, Reason, Version};

const TOPIC_NAME: CodecError =
    CodecError::new(Reason::TOPIC_NAME_INVALID, "the topic of a message holds a wildcard");

/// Reads what follows the fixed header.
pub(super) fn decode(first: u8, content: &[u8], version: Version) -> Result<Publish, CodecError> {
    let qos = qos((first >> 1) & 3)?;
    let dup = first & 8 != 0;
    if dup && qos == QoS::AtMostOnce {
        return Err(CodecError::malformed("DUP without QoS"));
    }
    let mut reader = Reader::new(content);
    let topic = reader.text()?;
    check_topic(topic)?;
    let id = if qos == QoS::AtMostOnce { None } else { Some(reader.packet_id()?) };
    let mut found = Found::default();
    if version == Version::V5 {
        found.read(&mut reader.properties()?)?;
    }
    if topic.is_empty() && found.topic_alias.is_none() {
        return Err(CodecError::protocol("a message has neither topic nor alias"));
    }
    Ok(Publish {
        topic: Arc::from(topic),
        payload: Bytes::copy_from_slice(reader.rest()),
        qos,
        retain: first & 1 != 0,
        dup,
        id,
        topic_alias: found.topic_alias,
        subscription_ids: found.subscription_ids,
        properties: found.properties.map_or_else(no_properties, Arc::new),
    })
}

/// Most messages have no properties: they share these.
fn no_properties() -> Arc<MessageProperties> {
    static NONE: std::sync::OnceLock<Arc<MessageProperties>> = std::sync::OnceLock::new();
    Arc::clone(NONE.get_or_init(Arc::default))
}

/// # Errors
/// For a name with wildcards (MQTT-3.3.2-2).
pub(super) fn check_topic(topic: &str) -> Result<(), CodecError> {
    if topic.bytes().any(|c| matches!(c, b'+' | b'#')) { Err(TOPIC_NAME) } else { Ok(()) }
}

#[derive(Default)]
struct Found {
    topic_alias: Option<NonZeroU16>,
    subscription_ids: Vec<u32>,
    properties: Option<MessageProperties>,
}

impl Found {
    fn read(&mut self, reader: &mut Reader<'_>) -> Result<(), CodecError> {
        while !reader.is_empty() {
            let kind = reader.byte()?;
            match kind {
                property::TOPIC_ALIAS => {
                    let alias = NonZeroU16::new(reader.u16()?)
                        .ok_or(CodecError::new(Reason::TOPIC_ALIAS_INVALID, "topic alias 0"))?;
                    once(&mut self.topic_alias, alias)?;
                    continue;
                }
                property::SUBSCRIPTION_ID => {
                    let id = reader.var_int()?;
                    if id == 0 {
                        return Err(CodecError::protocol("subscription identifier 0"));
                    }
                    self.subscription_ids.push(id);
                    continue;
                }
                _ => {}
            }
            let all = self.properties.get_or_insert_default();
            match kind {
                property::PAYLOAD_FORMAT => match reader.byte()? {
                    flag @ 0..=1 => once(&mut all.is_utf8_payload, flag == 1)?,
                    _ => return Err(CodecError::protocol("the payload format is not 0 or 1")),
                },
                property::MESSAGE_EXPIRY => once(&mut all.expiry_secs, reader.u32()?)?,
                property::CONTENT_TYPE => once(&mut all.content_type, reader.text()?.to_owned())?,
                property::RESPONSE_TOPIC => {
                    let topic = reader.text()?;
                    check_topic(topic)?;
                    once(&mut all.response_topic, topic.to_owned())?;
                }
                property::CORRELATION_DATA => {
                    once(&mut all.correlation_data, Bytes::copy_from_slice(reader.binary()?))?;
                }
                property::USER => all.user.push((reader.text()?.to_owned(), reader.text()?.to_owned())),
                _ => return Err(CodecError::malformed("a property that does not belong to a message")),
            }
        }
        Ok(())
    }
}

/// What differs between two deliveries of one message.
#[derive(Debug, Clone, Copy)]
pub struct PublishHeader<'a> {
    pub qos: QoS,
    pub dup: bool,
    pub retain: bool,
    /// Written for QoS 1 and 2.
    pub id: Option<PacketId>,
    pub topic_alias: Option<NonZeroU16>,
    /// The alias stands for the topic.
    pub hide_topic: bool,
    pub subscription_ids: &'a [NonZeroU32],
}

/// The bytes all subscribers of one protocol version get alike: encoded once, copied for each.
#[derive(Debug, Clone)]
pub struct SharedPublish {
    version: Version,
    /// With its length.
    topic: Vec<u8>,
    /// Without their length, and without alias and subscription identifiers.
    properties: Vec<u8>,
}

impl SharedPublish {
    /// `expiry_secs` is what is left of the message's life.
    #[must_use]
    pub fn new(
        topic: &str,
        properties: &MessageProperties,
        expiry_secs: Option<u32>,
        version: Version,
    ) -> Self {
        let mut shared = Self { version, topic: Vec::with_capacity(topic.len() + 2), properties: Vec::new() };
        put_binary(topic.as_bytes(), &mut shared.topic);
        if version == Version::V5 {
            put_properties(properties, expiry_secs, &mut shared.properties);
        }
        shared
    }

    /// Bytes of a delivery; what [`SharedPublish::write`] will write.
    #[must_use]
    pub fn size(&self, header: &PublishHeader<'_>, payload: usize) -> usize {
        let content = self.content(header, payload);
        super::header_bytes(content) + content
    }

    fn own_properties(header: &PublishHeader<'_>) -> usize {
        let ids = header.subscription_ids.iter().map(|id| 1 + var_int_bytes(id.get()));
        ids.sum::<usize>() + if header.topic_alias.is_some() { 3 } else { 0 }
    }

    fn content(&self, header: &PublishHeader<'_>, payload: usize) -> usize {
        let topic = if header.hide_topic { 2 } else { self.topic.len() };
        let id = if header.qos == QoS::AtMostOnce { 0 } else { 2 };
        let properties = match self.version {
            Version::V3 => 0,
            Version::V5 => {
                let all = self.properties.len() + Self::own_properties(header);
                all + var_int_bytes(u32::try_from(all).unwrap_or(u32::MAX))
            }
        };
        topic + id + properties + payload
    }

    /// Appends one delivery.
    pub fn write(&self, header: &PublishHeader<'_>, payload: &Bytes, out: &mut OutBuf) {
        let content = self.content(header, payload.len());
        let tail = out.tail();
        let small = if payload.len() < 4096 { payload.len() } else { 0 };
        tail.reserve(5 + content - payload.len() + small);
        let flags = u8::from(header.dup) << 3 | qos_number(header.qos) << 1 | u8::from(header.retain);
        tail.push(0x30 | flags);
        put_remaining_length(content, tail);
        if header.hide_topic {
            tail.extend_from_slice(&[0, 0]);
        } else {
            tail.extend_from_slice(&self.topic);
        }
        if header.qos != QoS::AtMostOnce {
            tail.extend_from_slice(&header.id.map_or(0, PacketId::get).to_be_bytes());
        }
        if self.version == Version::V5 {
            put_remaining_length(self.properties.len() + Self::own_properties(header), tail);
            if let Some(alias) = header.topic_alias {
                tail.push(property::TOPIC_ALIAS);
                tail.extend_from_slice(&alias.get().to_be_bytes());
            }
            for id in header.subscription_ids {
                tail.push(property::SUBSCRIPTION_ID);
                put_remaining_length(usize::try_from(id.get()).unwrap_or_default(), tail);
            }
            tail.extend_from_slice(&self.properties);
        }
        out.put_payload(payload);
    }
}

fn var_int_bytes(number: u32) -> usize {
    match number {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

fn put_properties(all: &MessageProperties, expiry_secs: Option<u32>, out: &mut Vec<u8>) {
    if let Some(flag) = all.is_utf8_payload {
        out.extend_from_slice(&[property::PAYLOAD_FORMAT, u8::from(flag)]);
    }
    if let Some(secs) = expiry_secs {
        out.push(property::MESSAGE_EXPIRY);
        out.extend_from_slice(&secs.to_be_bytes());
    }
    let texts =
        [(property::CONTENT_TYPE, &all.content_type), (property::RESPONSE_TOPIC, &all.response_topic)];
    for (kind, text) in texts {
        if let Some(text) = text {
            out.push(kind);
            put_binary(text.as_bytes(), out);
        }
    }
    if let Some(data) = &all.correlation_data {
        out.push(property::CORRELATION_DATA);
        put_binary(data, out);
    }
    for (key, value) in &all.user {
        out.push(property::USER);
        put_binary(key.as_bytes(), out);
        put_binary(value.as_bytes(), out);
    }
}
