//! The broker inside: what its core decides becomes bytes, writes and deliveries.

use std::rc::Rc;
use std::sync::Arc;

use actix::prelude::*;

use super::access::Who;
use super::local_actor::{Parcel, Source};
use super::store_actor::Done;
use super::wire::{Conn, Newcomer, Wire};
use super::{EventBus, LOCAL_FILTERS, system, unix_ms};
use crate::bus::event_bus::Publication;
use crate::config::EventBusConfig;
use crate::mqtt::codec::{CodecError, PublishHeader, SharedPublish, encode};
use crate::mqtt::{Broker, Effect, Input, Limits, Message, Packet, QoS, Reason, TopicAlias, Version};
use crate::store::{Row, StoreError};

/// A connection that was told to end may still read what waits for it so long.
const ENDING_MS: u64 = 5_000;
/// Writes that wait for the disk: beyond it nobody is read.
const MAX_WRITES: usize = 4_096;
const PAGE: usize = 500;

/// A client of the broker inside.
pub struct Connection {
    pub wire: Rc<Wire>,
    version: Version,
    who: Who,
    client_id: String,
    /// 0: none.
    keep_alive_ms: u64,
    /// Bytes the core has given and knows to be written.
    given: u64,
    confirmed: u64,
    is_touched: bool,
    /// Waits to be read again.
    is_held: bool,
    ending_since_ms: Option<u64>,
}

/// The bytes of the message that was encoded last: a fan-out encodes once for each version.
struct Encoded {
    message: Arc<Message>,
    expiry_secs: Option<u32>,
    versions: [Option<SharedPublish>; 2],
}

/// Bounds of the core, from the configuration.
fn limits(config: &EventBusConfig) -> Limits {
    let internal = &config.internal;
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    let clients = count(internal.max_connections);
    let client_bytes = size(internal.max_client_bytes);
    Limits {
        clients,
        sessions: clients.max(Limits::default().sessions),
        queued_messages: count(config.mqtt_session_queue_size).min(60_000),
        queued_bytes: client_bytes,
        unsent_bytes: client_bytes / 2,
        unsent_bytes_hard: client_bytes,
        total_bytes: size(internal.max_memory_bytes),
        retained_messages: count(internal.max_retained_messages),
        retained_bytes: size(internal.max_memory_bytes) / 2,
        receive_maximum: internal.max_inflight,
        inflight: internal.max_inflight,
        maximum_packet_bytes: internal.max_packet_bytes,
        session_expiry_secs: internal.max_session_expiry_secs,
        v3_session_expiry_secs: internal.max_session_expiry_secs,
        ..Limits::default()
    }
}

impl EventBus {
    /// Makes the broker and the uploads what the disk says.
    pub(super) fn load(&mut self) {
        self.load_uploads();
        if !self.config.has_internal() {
            return;
        }
        let filters = LOCAL_FILTERS.iter().map(|filter| (*filter).to_owned()).collect();
        let mut broker = Broker::new(limits(&self.config), filters);
        match self.broker_rows() {
            Ok(rows) => {
                broker.load(rows, unix_ms());
                self.broker = Some(broker);
            }
            Err(err) => tracing::error!(error = %err, "the MQTT sessions cannot be read"),
        }
    }

    fn broker_rows(&self) -> Result<Vec<Row>, StoreError> {
        let mut all: Vec<Row> = Vec::new();
        for (table, prefix) in Broker::PREFIXES {
            let mut after: Option<Vec<u8>> = None;
            loop {
                let rows = self.store.scan(*table, prefix.as_bytes(), after.as_deref(), PAGE)?;
                after = rows.last().map(|(key, _)| key.clone());
                let is_last = rows.len() < PAGE;
                all.extend(rows);
                if is_last {
                    break;
                }
            }
        }
        Ok(all)
    }

    pub(super) fn input(&mut self, input: Input, ctx: &mut Context<Self>) {
        let Some(broker) = &mut self.broker else { return };
        broker.handle(unix_ms(), input, &mut self.effects);
        self.run_effects(ctx);
    }

    fn run_effects(&mut self, ctx: &mut Context<Self>) {
        let mut encoded: Option<Encoded> = None;
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Send { conn, packet } => self.send(conn, &packet),
                Effect::Deliver { .. } => self.send_message(effect, &mut encoded),
                Effect::Close { conn, reason } => self.end(conn, reason),
                Effect::Store { seq, batch } => self.writes.push(batch, Done::Broker(seq)),
                Effect::Take { ticket, message, receipt } => self.deliver(Parcel {
                    source: Source::Inside(ticket),
                    topic: Arc::clone(&message.topic),
                    payload: message.payload.clone(),
                    receipt,
                }),
            }
        }
        let _ = ctx;
    }
}
