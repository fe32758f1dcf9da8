//! The broker inside: what its core decides becomes bytes, writes and deliveries.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::access::{Rights, Who};
use super::local_actor::{Parcel, Source};
use super::store_actor::Done;
use super::wire::{Conn, Newcomer, Wire};
use super::{EventBus, LOCAL_FILTERS, now_unix_ms, system};
use crate::bus::event_bus::Publication;
use crate::config::EventBusConfig;
use crate::mqtt::codec::{CodecError, PublishHeader, SharedPublish, encode};
use crate::mqtt::{
    Access, Broker, Effect, Input, Limits, Message, PREFIXES, Packet, QoS, Reason, TopicAlias, Version,
};
use crate::store::{Row, StoreError, scan_all};

/// A connection that was told to end may still read what waits for it so long.
const ENDING_MS: u64 = 5_000;
/// A connection outlives its client's certificate so long: a client that takes its new certificate at
/// the last moment is in time.
const CERTIFICATE_GRACE: Duration = Duration::from_secs(5);

/// A client of the broker inside.
pub struct Connection {
    pub wire: Rc<Wire>,
    version: Version,
    who: Who,
    client_id: String,
    /// 0: none.
    keep_alive_ms: u64,
    is_touched: bool,
    /// Something was read and handled: to be read again at the end of the turn.
    is_handled: bool,
    /// The broker wants nothing more of it for now.
    is_paused: bool,
    ending_since_ms: Option<u64>,
    /// When its certificate runs out.
    ends_at: Option<SystemTime>,
}

/// The bytes of the message that was encoded last: a fan-out encodes once for each version.
#[derive(Default)]
struct Encoded {
    message: Option<Arc<Message>>,
    expiry_secs: Option<u32>,
    v3: Option<SharedPublish>,
    v5: Option<SharedPublish>,
}

impl Encoded {
    fn of(&mut self, message: &Arc<Message>, expiry_secs: Option<u32>, version: Version) -> &SharedPublish {
        let is_same = self.message.as_ref().is_some_and(|have| Arc::ptr_eq(have, message));
        if !is_same || self.expiry_secs != expiry_secs {
            *self = Self { message: Some(Arc::clone(message)), expiry_secs, v3: None, v5: None };
        }
        let slot = match version {
            Version::V3 => &mut self.v3,
            Version::V5 => &mut self.v5,
        };
        slot.get_or_insert_with(|| {
            SharedPublish::new(&message.topic, &message.properties, expiry_secs, version)
        })
    }
}

impl Access for Rights {
    fn may_publish(&self, topic: &str) -> bool {
        self.publish(topic)
    }

    fn may_subscribe(&self, filter: &str) -> bool {
        self.subscribe(filter)
    }

    fn may_receive(&self, topic: &str) -> bool {
        self.subscribe(topic)
    }

    fn owner(&self) -> &str {
        Rights::owner(self)
    }

    fn receives_all(&self) -> bool {
        self.is_unlimited()
    }
}

/// Bounds of the core, from the configuration.
fn limits(config: &EventBusConfig) -> Limits {
    let internal = &config.internal;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let clients = count(internal.max_connections);
    let client_bytes = size(internal.max_client_bytes);
    let queued_messages = count(config.mqtt_session_queue_size).min(60_000);
    let usual = Limits::default();
    Limits {
        clients,
        sessions: clients.max(usual.sessions),
        queued_messages,
        queued_bytes: client_bytes,
        unsent_bytes: client_bytes / 2,
        unsent_bytes_hard: client_bytes,
        total_bytes: size(internal.max_memory_bytes),
        retained_messages: count(internal.max_retained_messages),
        retained_bytes: size(internal.max_memory_bytes) / 2,
        sessions_bytes: size(internal.max_memory_bytes) / 2,
        // Well below what is dropped: each publisher may add one more.
        behind_messages: usual.behind_messages.min(queued_messages / 4),
        behind_bytes: usual.behind_bytes.min(client_bytes / 8),
        deferred_messages: usual.deferred_messages.max(internal.max_inflight.into()),
        receive_maximum: internal.max_inflight,
        unreleased: usual.unreleased.max(internal.max_inflight.into()),
        inflight: internal.max_inflight,
        maximum_packet_bytes: internal.max_packet_bytes,
        session_expiry_secs: internal.max_session_expiry_secs,
        v3_session_expiry_secs: internal.max_session_expiry_secs,
        ..usual
    }
}

impl EventBus {
    /// Makes the broker and the uploads what the disk says.
    pub(super) fn load(&mut self) {
        self.load_uploads();
        if !self.config.has_internal() {
            return;
        }
        let mut broker = Broker::new(limits(&self.config), &LOCAL_FILTERS);
        self.metrics.begin_anew();
        match self.broker_rows() {
            Ok(rows) => {
                let loaded = broker.load(rows, now_unix_ms());
                if !loaded.unreadable.is_empty() {
                    let rows = loaded.unreadable.len();
                    tracing::warn!(rows, "rows of MQTT sessions that cannot be read are left alone");
                }
                self.broker = Some(broker);
            }
            Err(err) => tracing::error!(error = %err, "the MQTT sessions cannot be read"),
        }
    }

    fn broker_rows(&self) -> Result<Vec<Row>, StoreError> {
        let mut all: Vec<Row> = Vec::new();
        for (table, prefix) in PREFIXES {
            scan_all(&*self.store, table, prefix, |rows| all.extend(rows))?;
        }
        Ok(all)
    }

    pub(super) fn input(&mut self, input: Input) {
        let Some(broker) = &mut self.broker else { return };
        broker.handle(now_unix_ms(), input, &mut self.effects);
        self.run_effects();
    }

    /// Has what the turn wants written go out, lets connections be read on, and has each one that
    /// got something written once.
    pub(super) fn flush_broker(&mut self) {
        if let Some(broker) = &mut self.broker {
            broker.flush(now_unix_ms(), &mut self.effects);
            self.run_effects();
        }
        for conn in std::mem::take(&mut self.touched) {
            let Some(connection) = self.connections.get_mut(&conn) else { continue };
            connection.is_touched = false;
            if connection.is_handled && !connection.is_paused {
                connection.is_handled = false;
                connection.wire.may_read.set(true);
            }
            connection.wire.wake();
        }
    }

    fn run_effects(&mut self) {
        let mut encoded = Encoded::default();
        let mut effects = std::mem::take(&mut self.effects);
        for effect in effects.drain(..) {
            match effect {
                Effect::Deliver { .. } => self.send_message(&effect, &mut encoded),
                Effect::Send { conn, packet, .. } => self.send(conn, &packet),
                Effect::Close { conn, reason } => self.end(conn, reason),
                Effect::Pause { conn } => {
                    if let Some(connection) = self.connections.get_mut(&conn) {
                        connection.is_paused = true;
                        // Once more when what is being read now is handled.
                        connection.wire.may_read.set(false);
                        connection.is_handled = true;
                    }
                }
                Effect::Resume { conn } => {
                    if let Some(connection) = self.connections.get_mut(&conn) {
                        connection.is_paused = false;
                        // What it sent meanwhile is about to be read: its silence was ours.
                        connection.wire.read_at_ms.set(self.gate.now_ms());
                    }
                    self.touch(conn);
                }
                Effect::Store { seq, batch } => self.writes.push(batch, Done::Broker(seq)),
                Effect::Take { ticket, message, receipt } => self.deliver(Parcel {
                    source: Source::Inside(ticket),
                    topic: Arc::clone(&message.topic),
                    payload: message.payload.clone(),
                    receipt,
                }),
            }
        }
        // Its memory serves the next input.
        self.effects = effects;
    }

    fn touch(&mut self, conn: Conn) {
        if let Some(connection) = self.connections.get_mut(&conn)
            && !connection.is_touched
        {
            connection.is_touched = true;
            self.touched.push(conn);
        }
    }

    fn send(&mut self, conn: Conn, packet: &Packet) {
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if let Packet::ConnAck(ack) = packet
            && let Some(secs) = ack.server_keep_alive_secs
        {
            connection.keep_alive_ms = u64::from(secs) * 1000;
        }
        if let Err(err) = encode(packet, connection.version, &mut connection.wire.out.borrow_mut()) {
            tracing::error!(error = %err, "an MQTT packet cannot be encoded");
        }
        self.touch(conn);
    }

    fn send_message(&mut self, effect: &Effect, encoded: &mut Encoded) {
        let Effect::Deliver {
            conn,
            message,
            qos,
            id,
            dup,
            retain,
            subscription_ids,
            topic_alias,
            expiry_left_secs,
            ..
        } = effect
        else {
            return;
        };
        let Some(connection) = self.connections.get_mut(conn) else { return };
        let header = PublishHeader {
            qos: *qos,
            dup: *dup,
            retain: *retain,
            id: *id,
            topic_alias: match topic_alias {
                TopicAlias::None => None,
                TopicAlias::New(alias) | TopicAlias::Known(alias) => Some(*alias),
            },
            hide_topic: matches!(topic_alias, TopicAlias::Known(_)),
            subscription_ids: subscription_ids.as_slice(),
        };
        let shared = encoded.of(message, *expiry_left_secs, connection.version);
        shared.write(&header, &message.payload, &mut connection.wire.out.borrow_mut());
        if !std::mem::replace(&mut connection.is_touched, true) {
            self.touched.push(*conn);
        }
    }

    pub(super) fn open(&mut self, newcomer: Newcomer) {
        let Newcomer { conn, wire, connect, who, ends_at } = newcomer;
        if self.broker.is_none() {
            wire.cut.set(true);
            wire.wake();
            return;
        }
        let rights = self.rules.rights(&who, &connect.client_id);
        let connection = Connection {
            wire,
            version: connect.version,
            client_id: connect.client_id.clone(),
            who,
            keep_alive_ms: u64::from(connect.keep_alive_secs) * 1000,
            is_touched: false,
            is_handled: true,
            is_paused: false,
            ending_since_ms: None,
            ends_at,
        };
        self.connections.insert(conn, connection);
        self.touch(conn);
        self.input(Input::Connect { conn, connect: Box::new(connect), access: rights });
    }

    pub(super) fn read(&mut self, conn: Conn, packets: Vec<Packet>, broken: Option<CodecError>) {
        for packet in packets {
            self.input(Input::Packet { conn, packet });
        }
        if let Some(err) = broken {
            tracing::debug!(conn, error = %err, "a client broke the protocol");
            self.metrics.refused("malformed").increment(1);
            self.input(Input::Gone { conn });
            self.end(conn, err.reason);
        }
        if let Some(connection) = self.connections.get_mut(&conn) {
            connection.is_handled = true;
        }
        self.touch(conn);
    }

    pub(super) fn wrote(&mut self, conn: Conn) {
        let Some(connection) = self.connections.get(&conn) else { return };
        let wire = &connection.wire;
        wire.told_written.set(false);
        let written = wire.written.take();
        self.metrics.sent_bytes.increment(written);
        // The core counts a few bytes too much for some packets: nothing left is nothing left.
        let bytes = if wire.out.borrow().is_empty() {
            usize::MAX
        } else {
            usize::try_from(written).unwrap_or(usize::MAX)
        };
        self.input(Input::Wrote { conn, bytes });
    }

    pub(super) fn closed(&mut self, conn: Conn) {
        if self.connections.remove(&conn).is_some() {
            self.input(Input::Gone { conn });
        }
    }

    /// Writes what waits, then closes.
    fn end(&mut self, conn: Conn, reason: Reason) {
        let now_ms = self.gate.now_ms();
        let Some(connection) = self.connections.get_mut(&conn) else { return };
        if connection.ending_since_ms.is_some() {
            return;
        }
        if connection.version == Version::V5 && reason != Reason::SUCCESS {
            let goodbye = Packet::Disconnect { reason, session_expiry_secs: None };
            encode(&goodbye, Version::V5, &mut connection.wire.out.borrow_mut()).ok();
        }
        connection.ending_since_ms = Some(now_ms);
        connection.wire.ending.set(true);
        self.touch(conn);
    }

    /// Ends connections that said nothing for one and a half times their keep-alive
    /// (MQTT-3.1.2-24), and those that do not let themselves be ended.
    pub(super) fn check_keep_alives(&mut self) {
        let now_ms = self.gate.now_ms();
        let mut silent = Vec::new();
        for (conn, connection) in &self.connections {
            if let Some(since) = connection.ending_since_ms {
                if now_ms.saturating_sub(since) >= ENDING_MS {
                    connection.wire.cut.set(true);
                    connection.wire.wake();
                }
                continue;
            }
            // What we do not read, we cannot hear.
            let is_listening = connection.wire.may_read.get();
            let quiet = now_ms.saturating_sub(connection.wire.read_at_ms.get());
            let allowed = connection.keep_alive_ms + connection.keep_alive_ms / 2;
            if is_listening && connection.keep_alive_ms > 0 && quiet > allowed {
                silent.push(*conn);
            }
        }
        for conn in silent {
            self.metrics.refused("keep_alive").increment(1);
            self.input(Input::Gone { conn });
            self.end(conn, Reason::KEEP_ALIVE_TIMEOUT);
        }
    }

    /// Ends connections whose client's certificate has run out. A certificate gives rights while it is
    /// good, not for as long as somebody stays connected: the client comes back with its new one, and
    /// finds its session.
    pub(super) fn check_certificates(&mut self) {
        let now = SystemTime::now();
        let is_over = |connection: &Connection| {
            connection.ending_since_ms.is_none()
                && connection.ends_at.is_some_and(|at| at + CERTIFICATE_GRACE < now)
        };
        let over: Vec<Conn> =
            self.connections.iter().filter(|(_, one)| is_over(one)).map(|(conn, _)| *conn).collect();
        for conn in over {
            self.metrics.refused("certificate_expired").increment(1);
            self.input(Input::Gone { conn });
            self.end(conn, Reason::NOT_AUTHORIZED);
        }
    }

    /// The devices of this node or the policies changed: so may what clients may do.
    pub(super) fn renew_rights(&mut self) {
        let changed: Vec<(Conn, Arc<Rights>)> = self
            .connections
            .iter()
            .filter(|(_, connection)| connection.who.may_change())
            .map(|(conn, client)| (*conn, self.rules.rights(&client.who, &client.client_id)))
            .collect();
        for (conn, access) in changed {
            self.input(Input::Rights { conn, access });
        }
    }

    /// Publishes on every broker there is.
    pub(super) fn publish(&mut self, publication: Publication) {
        let Publication { topic, payload, retain } = publication;
        let retain = retain || self.config.mqtt_retain;
        let qos = match self.config.mqtt_qos {
            0 => QoS::AtMostOnce,
            1 => QoS::AtLeastOnce,
            _ => QoS::ExactlyOnce,
        };
        if self.external.is_some() {
            self.external_publish(&topic, payload.clone(), qos, retain);
        }
        self.input(Input::Publish { topic: topic.into(), payload, qos, retain });
    }

    /// Metrics each tick, `$SYS` now and then.
    pub(super) fn show_figures(&mut self) {
        let count = |number: usize| f64::from(u32::try_from(number).unwrap_or(u32::MAX));
        self.metrics.uploads.set(count(self.local.uploads.len()));
        self.metrics.untaken.set(count(self.local.lanes.len()));
        let Some(broker) = &self.broker else { return };
        let figures = broker.figures();
        system::show(&figures, &self.metrics);
        for (topic, value) in self.system.changes(&figures, self.gate.now_ms() / 1000) {
            self.input(Input::Publish {
                topic: topic.into(),
                payload: value.into(),
                qos: QoS::AtMostOnce,
                retain: true,
            });
        }
    }
}
