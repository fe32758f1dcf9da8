//! Packets of MQTT 3.1.1 and 5 in one shape (OASIS mqtt-v3.1.1-os, mqtt-v5.0-os). The codec turns
//! bytes into these and back; nothing below knows a socket.

use std::num::NonZeroU16;
use std::sync::Arc;

use bytes::Bytes;

/// Never 0 on the wire.
pub type PacketId = NonZeroU16;

/// Protocol level of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Version {
    /// 3.1.1 (level 4).
    V3,
    /// 5.0 (level 5).
    V5,
}

/// Delivery guarantee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum QoS {
    AtMostOnce,
    AtLeastOnce,
    ExactlyOnce,
}

/// Reason codes of MQTT 5 (table 2-6). For 3.1.1 the codec maps those of CONNACK and SUBACK and
/// leaves the others out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Reason(pub u8);

impl Reason {
    /// Success, normal disconnection, granted QoS 0.
    pub const SUCCESS: Self = Self(0x00);
    pub const NO_MATCHING_SUBSCRIBERS: Self = Self(0x10);
    pub const NO_SUBSCRIPTION_EXISTED: Self = Self(0x11);
    pub const UNSPECIFIED: Self = Self(0x80);
    pub const MALFORMED: Self = Self(0x81);
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    pub const IMPLEMENTATION_SPECIFIC: Self = Self(0x83);
    pub const UNSUPPORTED_VERSION: Self = Self(0x84);
    pub const CLIENT_ID_NOT_VALID: Self = Self(0x85);
    pub const BAD_USER_OR_PASSWORD: Self = Self(0x86);
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    pub const SERVER_UNAVAILABLE: Self = Self(0x88);
    pub const BAD_AUTHENTICATION_METHOD: Self = Self(0x8C);
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);
    pub const TOPIC_FILTER_INVALID: Self = Self(0x8F);
    pub const TOPIC_NAME_INVALID: Self = Self(0x90);
    pub const PACKET_ID_IN_USE: Self = Self(0x91);
    pub const PACKET_ID_NOT_FOUND: Self = Self(0x92);
    pub const RECEIVE_MAXIMUM_EXCEEDED: Self = Self(0x93);
    pub const TOPIC_ALIAS_INVALID: Self = Self(0x94);
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    pub const QUOTA_EXCEEDED: Self = Self(0x97);

    #[must_use]
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }
}

/// Every packet, in both directions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    Connect(Box<Connect>),
    ConnAck(Box<ConnAck>),
    Publish(Box<Publish>),
    PubAck {
        id: PacketId,
        reason: Reason,
    },
    PubRec {
        id: PacketId,
        reason: Reason,
    },
    PubRel {
        id: PacketId,
        reason: Reason,
    },
    PubComp {
        id: PacketId,
        reason: Reason,
    },
    Subscribe(Box<Subscribe>),
    SubAck {
        id: PacketId,
        reasons: Vec<Reason>,
    },
    Unsubscribe(Box<Unsubscribe>),
    /// 3.1.1 sends no reasons.
    UnsubAck {
        id: PacketId,
        reasons: Vec<Reason>,
    },
    PingReq,
    PingResp,
    /// 3.1.1: always [`Reason::SUCCESS`], client to server only.
    Disconnect {
        reason: Reason,
        session_expiry_secs: Option<u32>,
    },
    /// 5 only. No authentication method is supported; the broker refuses it.
    Auth,
}

/// CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Connect {
    pub version: Version,
    /// May be empty: the broker assigns one.
    pub client_id: String,
    /// 3.1.1's clean session as well.
    pub clean_start: bool,
    pub keep_alive_secs: u16,
    pub username: Option<String>,
    pub password: Option<Bytes>,
    pub will: Option<Will>,
    /// 5: absent means 0, the session ends with the connection. 3.1.1: the codec leaves it out and
    /// the broker keeps sessions that are not clean for as long as it is configured.
    pub session_expiry_secs: Option<u32>,
    /// QoS 1 and 2 messages the client takes at once; absent: 65,535.
    pub receive_maximum: Option<NonZeroU16>,
    /// Largest packet the client takes; absent: no limit.
    pub maximum_packet_bytes: Option<u32>,
    /// Topic aliases the client takes from the broker.
    pub topic_alias_maximum: u16,
    pub request_problem_information: bool,
    pub authentication_method: Option<String>,
}

/// The message published for a client that vanishes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Will {
    pub topic: String,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub delay_secs: u32,
    pub properties: MessageProperties,
}

/// CONNACK. The fields after `reason` go to 5 only; `None` leaves a property out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnAck {
    pub session_present: bool,
    pub reason: Reason,
    pub assigned_client_id: Option<String>,
    pub session_expiry_secs: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_packet_bytes: Option<u32>,
    pub topic_alias_maximum: Option<u16>,
    pub server_keep_alive_secs: Option<u16>,
    pub reason_text: Option<String>,
}

/// PUBLISH. Incoming topic aliases are in `topic_alias`; the broker resolves them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publish {
    /// Empty when the alias stands for it.
    pub topic: Arc<str>,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    pub dup: bool,
    /// `Some` exactly for QoS 1 and 2.
    pub id: Option<PacketId>,
    pub topic_alias: Option<NonZeroU16>,
    /// Only from the broker to clients of version 5.
    pub subscription_ids: Vec<u32>,
    pub properties: Arc<MessageProperties>,
}

/// What travels with a message from publisher to subscribers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MessageProperties {
    pub is_utf8_payload: Option<bool>,
    pub expiry_secs: Option<u32>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Bytes>,
    pub user: Vec<(String, String)>,
}

/// SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscribe {
    pub id: PacketId,
    /// 5: 1 to 268,435,455.
    pub subscription_id: Option<u32>,
    pub filters: Vec<Filter>,
}

/// One entry of a SUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// As sent, `$share/{group}/` included.
    pub filter: String,
    pub qos: QoS,
    pub no_local: bool,
    pub retain_as_published: bool,
    pub retain_handling: RetainHandling,
}

/// Which retained messages a SUBSCRIBE asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetainHandling {
    Always,
    IfNew,
    Never,
}

/// UNSUBSCRIBE.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsubscribe {
    pub id: PacketId,
    pub filters: Vec<String>,
}
