//! Rows of the broker and their bytes. Every value starts with [`VERSION`]; numbers are big-endian,
//! texts and payloads have their length in front.

use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use bytes::Bytes;

use super::message::{Message, SubscriptionIds};
use super::packet::{MessageProperties, PacketId, QoS, Will};
use super::session::{Entry, Session, Step};
use super::trie::Options;
use super::writes::RowKey;
use crate::store::Table;

/// Of the encoding below. Rows of another version are not read.
pub const VERSION: u8 = 1;

/// Where the broker's rows are: what [`super::Broker::load`] wants after a restart, in this order.
pub const PREFIXES: [(Table, &str); 3] =
    [(Table::Objects, SESSION), (Table::Objects, RETAINED), (Table::Outbox, "mqtt/q/")];

const SESSION: &str = "mqtt/session/";
const RETAINED: &str = "mqtt/retained/";
const BODY: &str = "mqtt/q/b/";
const INBOUND: &str = "mqtt/q/i/";
const LOCAL: &str = "mqtt/q/l/";
const QUEUED: &str = "mqtt/q/o/";

/// A row by its key, with the session's number instead of its place.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RowName {
    Session(u64),
    Retained(String),
    Body(NonZeroU64),
    Inbound { session: u64, id: PacketId },
    Local(u64),
    Queued { session: u64, serial: u64 },
}

impl RowName {
    #[must_use]
    pub fn encode(&self) -> (Table, Vec<u8>) {
        let (table, key) = match self {
            Self::Session(number) => (Table::Objects, format!("{SESSION}{number:016x}")),
            Self::Retained(topic) => (Table::Objects, format!("{RETAINED}{topic}")),
            Self::Body(number) => (Table::Outbox, format!("{BODY}{number:016x}")),
            Self::Inbound { session, id } => (Table::Outbox, format!("{INBOUND}{session:016x}/{id:04x}")),
            Self::Local(row) => (Table::Outbox, format!("{LOCAL}{row:016x}")),
            Self::Queued { session, serial } => {
                (Table::Outbox, format!("{QUEUED}{session:016x}/{serial:016x}"))
            }
        };
        (table, key.into_bytes())
    }

    /// `None` for any key [`RowName::encode`] does not write.
    #[must_use]
    pub fn decode(key: &[u8]) -> Option<Self> {
        Self::parse(std::str::from_utf8(key).ok()?).filter(|name| name.encode().1 == key)
    }

    fn parse(key: &str) -> Option<Self> {
        // No program counts further; arithmetic on what is read stays in bounds.
        let number = |text: &str| u64::from_str_radix(text, 16).ok().filter(|number| *number < 1 << 62);
        if let Some(topic) = key.strip_prefix(RETAINED) {
            return Some(Self::Retained(topic.to_owned()));
        }
        if let Some(text) = key.strip_prefix(SESSION) {
            return number(text).map(Self::Session);
        }
        if let Some(text) = key.strip_prefix(BODY) {
            return number(text).and_then(NonZeroU64::new).map(Self::Body);
        }
        if let Some(text) = key.strip_prefix(LOCAL) {
            return number(text).map(Self::Local);
        }
        if let Some(text) = key.strip_prefix(INBOUND) {
            let (session, id) = text.split_once('/')?;
            let id = u16::from_str_radix(id, 16).ok().and_then(PacketId::new)?;
            return Some(Self::Inbound { session: number(session)?, id });
        }
        let (session, serial) = key.strip_prefix(QUEUED)?.split_once('/')?;
        Some(Self::Queued { session: number(session)?, serial: number(serial)? })
    }
}

impl RowKey {
    /// Table and key.
    #[must_use]
    pub fn encode(&self) -> (Table, Vec<u8>) {
        let name = match self {
            Self::Session(at) => RowName::Session(at.number),
            Self::Queued { session, serial } => RowName::Queued { session: session.number, serial: *serial },
            Self::Body(number) => RowName::Body(*number),
            Self::Inbound { session, id } => RowName::Inbound { session: session.number, id: *id },
            Self::Local(row) => RowName::Local(*row),
            Self::Retained(topic) => RowName::Retained(topic.to_string()),
            Self::Orphan(name) => name.clone(),
        };
        name.encode()
    }
}

/// What is kept of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SessionRow {
    pub client_id: String,
    pub expiry_secs: u32,
    /// It was connected when this was written.
    pub connected: bool,
    pub disconnected_at: i64,
    /// Entries of its queue below this serial may have been sent.
    pub sent_below: u64,
    pub will: Option<Will>,
    pub subscriptions: Vec<(String, Options)>,
    pub owner: String,
}

impl SessionRow {
    #[must_use]
    pub fn of(session: &Session) -> Self {
        let sent = session.queue.iter().take_while(|entry| entry.dup).last();
        let subscriptions =
            session.subscriptions.iter().map(|(filter, options)| (filter.to_string(), *options));
        Self {
            client_id: session.client_id.to_string(),
            expiry_secs: session.expiry_secs,
            connected: session.link.is_some(),
            disconnected_at: session.disconnected_at,
            sent_below: sent.map_or(0, |entry| entry.serial + 1),
            will: session.will.as_deref().cloned(),
            subscriptions: subscriptions.collect(),
            owner: session.owner.to_string(),
        }
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = vec![VERSION, u8::from(self.connected)];
        put_bytes(&mut out, self.client_id.as_bytes());
        out.extend(self.expiry_secs.to_be_bytes());
        out.extend(self.disconnected_at.to_be_bytes());
        out.extend(self.sent_below.to_be_bytes());
        out.push(u8::from(self.will.is_some()));
        if let Some(will) = &self.will {
            out.extend(will.delay_secs.to_be_bytes());
            out.push(flags(will.qos, will.retain));
            put_bytes(&mut out, will.topic.as_bytes());
            put_bytes(&mut out, &will.payload);
            put_properties(&mut out, &will.properties);
        }
        put_length(&mut out, self.subscriptions.len());
        for (filter, options) in &self.subscriptions {
            put_bytes(&mut out, filter.as_bytes());
            let bits = u8::from(options.no_local) << 3 | u8::from(options.retain_as_published) << 4;
            out.push(flags(options.qos, false) | bits);
            out.extend(options.id.map_or(0, NonZeroU32::get).to_be_bytes());
        }
        put_bytes(&mut out, self.owner.as_bytes());
        out
    }

    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let mut from = Reader::of(value)?;
        let connected = from.byte()? == 1;
        let client_id = from.text()?;
        let (expiry_secs, disconnected_at, sent_below) = (from.u32()?, from.i64()?, from.u64()?);
        let will = if from.byte()? == 1 { Some(from.will()?) } else { None };
        let count = from.u32()?;
        let mut subscriptions = Vec::new();
        for _ in 0..count {
            let filter = from.text()?;
            let bits = from.byte()?;
            let options = Options {
                qos: qos_of(bits)?,
                no_local: bits & 8 != 0,
                retain_as_published: bits & 16 != 0,
                id: NonZeroU32::new(from.u32()?),
            };
            subscriptions.push((filter, options));
        }
        let owner = from.text()?;
        from.end()?;
        Some(Self {
            client_id,
            expiry_secs,
            connected,
            disconnected_at,
            sent_below,
            will,
            subscriptions,
            owner,
        })
    }
}

/// Where the message of a queue entry is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// The client has it: PUBREL is to be sent.
    Released,
    Here(Arc<Message>),
    In(NonZeroU64),
}

/// What is kept of a queue entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueuedRow {
    pub qos: QoS,
    pub retain: bool,
    pub subscription_ids: SubscriptionIds,
    pub shared: Option<Arc<str>>,
    pub content: Content,
}

impl QueuedRow {
    #[must_use]
    pub fn of(entry: &Entry) -> Self {
        let content = match (&entry.message, entry.body) {
            _ if entry.step != Step::Publish => Content::Released,
            (None, _) => Content::Released,
            (Some(_), Some(body)) => Content::In(body),
            (Some(message), None) => Content::Here(message.clone()),
        };
        Self {
            qos: entry.qos,
            retain: entry.retain,
            subscription_ids: entry.subscription_ids.clone(),
            shared: entry.shared.clone(),
            content,
        }
    }

    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let kind = match &self.content {
            Content::Released => 0,
            Content::Here(_) => 1,
            Content::In(_) => 2,
        };
        let mut out = vec![VERSION, flags(self.qos, self.retain) | kind << 4];
        put_bytes(&mut out, self.shared.as_deref().unwrap_or_default().as_bytes());
        let ids = self.subscription_ids.as_slice();
        put_length(&mut out, ids.len());
        out.extend(ids.iter().flat_map(|id| id.get().to_be_bytes()));
        match &self.content {
            Content::Released => {}
            Content::Here(message) => put_message(&mut out, message),
            Content::In(body) => out.extend(body.get().to_be_bytes()),
        }
        out
    }

    #[must_use]
    pub fn decode(value: &[u8]) -> Option<Self> {
        let mut from = Reader::of(value)?;
        let bits = from.byte()?;
        let shared = from.text()?;
        let count = from.u32()?;
        let mut subscription_ids = SubscriptionIds::None;
        for _ in 0..count {
            subscription_ids.add(Some(NonZeroU32::new(from.u32()?)?));
        }
        let content = match bits >> 4 {
            0 => Content::Released,
            1 => Content::Here(Arc::new(from.message()?)),
            2 => Content::In(NonZeroU64::new(from.u64()?)?),
            _ => return None,
        };
        from.end()?;
        let shared = (!shared.is_empty()).then(|| shared.into());
        Some(Self { qos: qos_of(bits)?, retain: bits & 4 != 0, subscription_ids, shared, content })
    }
}

#[must_use]
pub fn encode_message(message: &Message) -> Vec<u8> {
    let mut out = Vec::with_capacity(message.bytes() + 32);
    out.push(VERSION);
    put_message(&mut out, message);
    out
}

#[must_use]
pub fn decode_message(value: &[u8]) -> Option<Message> {
    let mut from = Reader::of(value)?;
    let message = from.message()?;
    from.end()?;
    Some(message)
}

fn flags(qos: QoS, retain: bool) -> u8 {
    qos as u8 | u8::from(retain) << 2
}

fn qos_of(bits: u8) -> Option<QoS> {
    match bits & 3 {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

fn put_length(out: &mut Vec<u8>, length: usize) {
    out.extend(u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_length(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn put_message(out: &mut Vec<u8>, message: &Message) {
    out.push(flags(message.qos, message.retain));
    out.extend(message.expires_ms.unwrap_or(i64::MIN).to_be_bytes());
    put_bytes(out, message.topic.as_bytes());
    put_bytes(out, &message.payload);
    put_properties(out, &message.properties);
}

fn put_properties(out: &mut Vec<u8>, properties: &MessageProperties) {
    let MessageProperties {
        is_utf8_payload,
        expiry_secs,
        content_type,
        response_topic,
        correlation_data,
        user,
    } = properties;
    let mut optional = |bit: u8, bytes: Option<&[u8]>| {
        if let Some(bytes) = bytes {
            out.push(bit);
            put_bytes(out, bytes);
        }
    };
    optional(1, is_utf8_payload.map(|is| if is { [1u8] } else { [0u8] }).as_ref().map(<[u8; 1]>::as_slice));
    optional(2, expiry_secs.map(u32::to_be_bytes).as_ref().map(<[u8; 4]>::as_slice));
    optional(3, content_type.as_deref().map(str::as_bytes));
    optional(4, response_topic.as_deref().map(str::as_bytes));
    optional(5, correlation_data.as_deref());
    for (key, value) in user {
        optional(6, Some(key.as_bytes()));
        optional(7, Some(value.as_bytes()));
    }
    out.push(0);
}

/// Reads what the functions above wrote. `None` at anything else.
struct Reader<'r> {
    rest: &'r [u8],
}

impl<'r> Reader<'r> {
    fn of(value: &'r [u8]) -> Option<Self> {
        let mut reader = Self { rest: value };
        (reader.byte()? == VERSION).then_some(reader)
    }

    fn take(&mut self, count: usize) -> Option<&'r [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn byte(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_be_bytes)
    }

    fn bytes(&mut self) -> Option<&'r [u8]> {
        let length = usize::try_from(self.u32()?).ok()?;
        self.take(length)
    }

    fn text(&mut self) -> Option<String> {
        self.bytes().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
    }

    fn end(&self) -> Option<()> {
        self.rest.is_empty().then_some(())
    }

    fn properties(&mut self) -> Option<MessageProperties> {
        let mut properties = MessageProperties::default();
        let mut key = None;
        loop {
            match self.byte()? {
                0 => return Some(properties),
                1 => properties.is_utf8_payload = Some(self.bytes()? == [1]),
                2 => properties.expiry_secs = Some(u32::from_be_bytes(self.bytes()?.try_into().ok()?)),
                3 => properties.content_type = Some(self.text()?),
                4 => properties.response_topic = Some(self.text()?),
                5 => properties.correlation_data = Some(Bytes::copy_from_slice(self.bytes()?)),
                6 => key = Some(self.text()?),
                7 => properties.user.push((key.take()?, self.text()?)),
                _ => return None,
            }
        }
    }

    fn message(&mut self) -> Option<Message> {
        let bits = self.byte()?;
        let expires = self.i64()?;
        let topic = self.text()?;
        let payload = Bytes::copy_from_slice(self.bytes()?);
        let properties = self.properties()?;
        let retain = bits & 4 != 0;
        let message = Message::new(topic.into(), payload, qos_of(bits)?, retain, Arc::new(properties), 0);
        Some(Message { expires_ms: (expires != i64::MIN).then_some(expires), ..message })
    }

    fn will(&mut self) -> Option<Will> {
        let delay_secs = self.u32()?;
        let bits = self.byte()?;
        Some(Will {
            topic: self.text()?,
            payload: Bytes::copy_from_slice(self.bytes()?),
            qos: qos_of(bits)?,
            retain: bits & 4 != 0,
            delay_secs,
            properties: self.properties()?,
        })
    }
}
