//! Bytes to packets and back, MQTT 3.1.1 and 5.
//!
//! The frame is checked and limited here before anything is buffered. PUBLISH, its acknowledgements
//! and SUBSCRIBE are read and written here: they are what a broker spends its time on, and
//! ntex-mqtt 8.2.1 streams payloads, subtracts the length of a topic from a shorter packet, takes no
//! expiry of 0 and does not look at reserved bits. All other packets go through its codecs
//! ([`bridge`]).

mod bridge;
mod fields;
mod out;
mod publish;
mod subscribe;
#[cfg(test)]
mod tests;

use std::num::{NonZeroU16, NonZeroU32};

pub use out::OutBuf;
pub use publish::{PublishHeader, SharedPublish};

use self::fields::{Reader, put_remaining_length};
use super::{Packet, Reason, Version};

/// Largest packet before a connection has said who it is: client id, user, password and a will.
const MAX_CONNECT_BYTES: usize = 256 << 10;

/// A peer broke the protocol: the connection ends with this reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct CodecError {
    pub reason: Reason,
    pub why: &'static str,
    /// The CONNECT itself was refused: answer with a CONNACK of this version.
    pub answer: Option<Version>,
}

impl CodecError {
    pub(super) const fn malformed(why: &'static str) -> Self {
        Self::new(Reason::MALFORMED, why)
    }

    pub(super) const fn protocol(why: &'static str) -> Self {
        Self::new(Reason::PROTOCOL_ERROR, why)
    }

    pub(super) const fn new(reason: Reason, why: &'static str) -> Self {
        Self { reason, why, answer: None }
    }
}

/// Who sends what is decoded here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Client,
    Server,
}

/// Reads one connection. Keeps at most one packet that has not arrived whole, and of that only what
/// did arrive.
#[derive(Debug)]
pub struct Decoder {
    peer: Peer,
    /// Known from the CONNECT on.
    version: Option<Version>,
    max_packet_bytes: usize,
    partial: Vec<u8>,
}

impl Decoder {
    /// For a server: the first packet must be a CONNECT, which also says the version. Packets longer
    /// than `max_packet_bytes` (with their header) are refused by their header alone.
    #[must_use]
    pub fn of_client(max_packet_bytes: u32) -> Self {
        Self {
            peer: Peer::Client,
            version: None,
            max_packet_bytes: size(max_packet_bytes),
            partial: Vec::new(),
        }
    }

    /// For a client of a server that speaks `version`.
    #[must_use]
    pub fn of_server(version: Version, max_packet_bytes: u32) -> Self {
        let max_packet_bytes = size(max_packet_bytes);
        Self { peer: Peer::Server, version: Some(version), max_packet_bytes, partial: Vec::new() }
    }

    /// Bytes kept of a packet that has not arrived whole.
    #[must_use]
    pub fn partial_bytes(&self) -> usize {
        self.partial.len()
    }

    /// Reads `bytes`; whole packets are added to `packets`. Those before an error are good.
    ///
    /// # Errors
    /// [`CodecError`]; nothing more can be read afterwards.
    pub fn feed(&mut self, bytes: &[u8], packets: &mut Vec<Packet>) -> Result<(), CodecError> {
        if self.partial.is_empty() {
            let used = self.read(bytes, packets)?;
            self.partial.extend_from_slice(bytes.get(used..).unwrap_or_default());
            return Ok(());
        }
        let mut partial = std::mem::take(&mut self.partial);
        partial.extend_from_slice(bytes);
        let used = self.read(&partial, packets)?;
        if used < partial.len() {
            partial.drain(..used);
            self.partial = partial;
        }
        Ok(())
    }

    /// Reads whole packets; how many bytes they were.
    fn read(&mut self, bytes: &[u8], packets: &mut Vec<Packet>) -> Result<usize, CodecError> {
        let mut used = 0;
        while let Some(rest) = bytes.get(used..).filter(|rest| !rest.is_empty()) {
            let Some((first, header, body)) = self.header(rest)? else { break };
            let Some(content) = rest.get(header..header + body) else { break };
            let packet = self.packet(first, content)?;
            packets.push(packet);
            used += header + body;
        }
        Ok(used)
    }

    /// First byte, length of the fixed header, length of what follows. `None`: not all of it is here.
    fn header(&self, bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, CodecError> {
        let Some(first) = bytes.first().copied() else { return Ok(None) };
        self.expect(first)?;
        let (mut length, mut shift) = (0_usize, 0_u32);
        for (at, byte) in bytes.iter().skip(1).take(4).enumerate() {
            length |= usize::from(byte & 0x7F) << shift;
            if byte & 0x80 == 0 {
                let limit = match self.version {
                    Some(_) => self.max_packet_bytes,
                    None => self.max_packet_bytes.min(MAX_CONNECT_BYTES),
                };
                let header = at + 2;
                if header + length > limit {
                    return Err(CodecError::new(Reason::PACKET_TOO_LARGE, "the packet is too large"));
                }
                return Ok(Some((first, header, length)));
            }
            shift += 7;
        }
        if bytes.len() > 4 {
            return Err(CodecError::malformed("the remaining length has more than four bytes"));
        }
        Ok(None)
    }

    /// Refuses what may not come now: by type, direction and reserved flags.
    fn expect(&self, first: u8) -> Result<(), CodecError> {
        let (kind, flags) = (first >> 4, first & 0x0F);
        let wanted = match kind {
            3 => flags,
            6 | 8 | 10 => 0b0010,
            _ => 0,
        };
        if flags != wanted {
            return Err(CodecError::malformed("reserved flags are set"));
        }
        let fine = match (self.peer, self.version) {
            (Peer::Client, None) => kind == 1,
            (Peer::Client, Some(version)) => {
                matches!(kind, 3..=8 | 10 | 12 | 14) || (kind == 15 && version == Version::V5)
            }
            (Peer::Server, version) => {
                matches!(kind, 2..=7 | 9 | 11 | 13)
                    || (matches!(kind, 14 | 15) && version == Some(Version::V5))
            }
        };
        if fine { Ok(()) } else { Err(CodecError::protocol("a packet of this type may not come now")) }
    }

    fn packet(&mut self, first: u8, content: &[u8]) -> Result<Packet, CodecError> {
        let Some(version) = self.version else {
            let connect = bridge::decode_connect(content)?;
            self.version = Some(connect.version);
            return Ok(Packet::Connect(Box::new(connect)));
        };
        match first >> 4 {
            3 => publish::decode(first, content, version).map(|publish| Packet::Publish(Box::new(publish))),
            kind @ 4..=7 => {
                let (id, reason) = acknowledgement(content, version)?;
                Ok(match kind {
                    4 => Packet::PubAck { id, reason },
                    5 => Packet::PubRec { id, reason },
                    6 => Packet::PubRel { id, reason },
                    _ => Packet::PubComp { id, reason },
                })
            }
            8 => subscribe::decode(content, version),
            10 => subscribe::decode_unsubscribe(content, version),
            12 | 13 if !content.is_empty() => Err(CodecError::malformed("a ping has no content")),
            12 => Ok(Packet::PingReq),
            13 => Ok(Packet::PingResp),
            _ => bridge::decode(first, content, version),
        }
    }
}

fn size(bytes: u32) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// PUBACK, PUBREC, PUBREL, PUBCOMP. Their properties say nothing we act on.
fn acknowledgement(content: &[u8], version: Version) -> Result<(NonZeroU16, Reason), CodecError> {
    let mut reader = Reader::new(content);
    let id = reader.packet_id()?;
    let mut reason = Reason::SUCCESS;
    if version == Version::V5 && !reader.is_empty() {
        reason = Reason(reader.byte()?);
        if !reader.is_empty() {
            fields::skip_reason_properties(&mut reader)?;
        }
    }
    reader.end()?;
    Ok((id, reason))
}

/// Writes a packet for a peer of `version`.
///
/// # Errors
/// [`CodecError`] for what cannot be said in that version or is too long.
pub fn encode(packet: &Packet, version: Version, out: &mut OutBuf) -> Result<(), CodecError> {
    match packet {
        Packet::Publish(publish) => {
            let ids: Vec<NonZeroU32> =
                publish.subscription_ids.iter().copied().filter_map(NonZeroU32::new).collect();
            let header = PublishHeader {
                qos: publish.qos,
                dup: publish.dup,
                retain: publish.retain,
                id: publish.id,
                topic_alias: publish.topic_alias,
                hide_topic: publish.topic.is_empty(),
                subscription_ids: &ids,
            };
            let shared = SharedPublish::new(
                &publish.topic,
                &publish.properties,
                publish.properties.expiry_secs,
                version,
            );
            shared.write(&header, &publish.payload, out);
        }
        Packet::PubAck { id, reason } => put_acknowledgement(0x40, *id, *reason, version, out),
        Packet::PubRec { id, reason } => put_acknowledgement(0x50, *id, *reason, version, out),
        Packet::PubRel { id, reason } => put_acknowledgement(0x62, *id, *reason, version, out),
        Packet::PubComp { id, reason } => put_acknowledgement(0x70, *id, *reason, version, out),
        Packet::PingReq => out.put(&[0xC0, 0]),
        Packet::PingResp => out.put(&[0xD0, 0]),
        other => bridge::encode(other, version, out)?,
    }
    Ok(())
}

fn put_acknowledgement(first: u8, id: NonZeroU16, reason: Reason, version: Version, out: &mut OutBuf) {
    let [high, low] = id.get().to_be_bytes();
    if version == Version::V5 && reason != Reason::SUCCESS {
        out.put(&[first, 3, high, low, reason.0]);
    } else {
        out.put(&[first, 2, high, low]);
    }
}

/// Bytes of a fixed header before `content` bytes.
#[must_use]
pub fn header_bytes(content: usize) -> usize {
    let mut header = Vec::with_capacity(4);
    put_remaining_length(content, &mut header);
    1 + header.len()
}
