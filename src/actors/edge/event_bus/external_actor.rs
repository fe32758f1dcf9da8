//! The broker outside: runs the client's state machine.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::local_actor::{Parcel, Source};
use super::wire::{Conn, Wire};
use super::{EventBus, LOCAL_FILTERS, external_worker};
use crate::config::EventBusConfig;
use crate::model::NodeName;
use crate::mqtt::client::{Client, ClientEffect, ClientSettings};
use crate::mqtt::codec::{CodecError, encode};
use crate::mqtt::{Packet, PacketId, QoS, Version};
use crate::store::Batch;

const KEEP_ALIVE_SECS: u16 = 30;
/// Results and deltas that wait while the broker is away.
const MAX_QUEUED: usize = 10_000;
const MAX_QUEUED_BYTES: usize = 16 << 20;
/// Bytes that the broker outside has not read yet, beyond which messages of QoS 0 are given up.
const MAX_UNREAD_BYTES: usize = 4 << 20;
/// More that neither DeviceTwin nor the disk has taken, messages or bytes: the broker outside has to wait.
const MAX_UNTAKEN: usize = 2_000;
const MAX_UNTAKEN_BYTES: usize = 16 << 20;

/// The client and its connection.
#[derive(Debug)]
pub struct External {
    client: Client,
    link: Option<(Conn, Rc<Wire>)>,
    sessions: u64,
    /// The connection is not read until DeviceTwin has taken more.
    is_held: bool,
    /// Messages given up because the broker does not read.
    unread: u64,
    said: String,
}

impl External {
    #[must_use]
    pub fn new(config: &EventBusConfig, node: &NodeName, now_ms: u64) -> Self {
        let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let settings = ClientSettings {
            client_id: text(&config.mqtt_sub_client_id).unwrap_or_else(|| format!("hub-client-sub-{node}")),
            username: text(&config.mqtt_username),
            password: text(&config.mqtt_password).map(Bytes::from),
            keep_alive_secs: KEEP_ALIVE_SECS,
            filters: LOCAL_FILTERS.iter().map(|filter| ((*filter).to_owned(), QoS::AtLeastOnce)).collect(),
            max_queued: MAX_QUEUED,
            max_queued_bytes: MAX_QUEUED_BYTES,
        };
        Self {
            client: Client::new(settings, now_ms),
            link: None,
            sessions: 0,
            is_held: false,
            unread: 0,
            said: String::new(),
        }
    }

    /// Ends the connection of a life that is over; the client dials again.
    pub fn cut(&mut self) {
        if let Some((_, wire)) = self.link.take() {
            wire.cut.set(true);
            wire.wake();
        }
        self.is_held = false;
        self.client.closed(0, 0.0);
    }
}

impl EventBus {
    pub(super) fn is_external(&self, conn: Conn) -> bool {
        let link = self.external.as_ref().and_then(|external| external.link.as_ref());
        link.is_some_and(|(external, _)| *external == conn)
    }

    /// Dials, pings, lets the connection be read again.
    pub(super) fn external_tick(&mut self) {
        let now_ms = self.gate.now_ms();
        let Some(external) = &mut self.external else { return };
        if external.client.dial_at_ms().is_some_and(|at| at <= now_ms) {
            external.client.dialling();
            actix::spawn(external_worker::dial(Rc::clone(&self.config), Rc::clone(&self.gate)));
            return;
        }
        let effects = external.client.tick(now_ms);
        let dropped = external.client.take_dropped() + std::mem::take(&mut external.unread);
        self.metrics.dropped("external_queue_full").increment(dropped);
        self.external_run(effects);
        self.external_read_on();
    }

    pub(super) fn external_dialled(&mut self, dialled: Result<(Conn, Rc<Wire>), String>) {
        let now_ms = self.gate.now_ms();
        let Some(external) = &mut self.external else { return };
        match dialled {
            Ok(link) => {
                external.link = Some(link);
                let effects = external.client.opened(now_ms);
                self.external_run(effects);
            }
            Err(why) => {
                external.client.closed(now_ms, fastrand::f64());
                if external.said != why {
                    tracing::warn!(server = %self.config.mqtt_server_external, error = %why, "the broker outside cannot be reached");
                    external.said = why;
                }
            }
        }
    }

    pub(super) fn external_closed(&mut self, why: &str) {
        let now_ms = self.gate.now_ms();
        let Some(external) = &mut self.external else { return };
        external.link = None;
        external.is_held = false;
        external.client.closed(now_ms, fastrand::f64());
        self.metrics.external_connected.set(0.0);
        if external.said != why {
            tracing::warn!(server = %self.config.mqtt_server_external, reason = why, "the broker outside is gone");
            why.clone_into(&mut external.said);
        }
    }

    pub(super) fn external_read(&mut self, packets: Vec<Packet>, broken: Option<CodecError>) {
        for packet in packets {
            let now_ms = self.gate.now_ms();
            let Some(external) = &mut self.external else { return };
            let effects = external.client.received(packet, now_ms);
            self.external_run(effects);
        }
        if let Some(err) = broken {
            self.external_run(vec![ClientEffect::Close(err.why)]);
        }
        if let Some(external) = &mut self.external {
            external.is_held = true;
        }
        self.external_read_on();
    }

    fn external_read_on(&mut self) {
        let is_full = self.local.lanes.len() + self.writes.len() >= MAX_UNTAKEN
            || self.local.untaken_bytes + self.writes.bytes() >= MAX_UNTAKEN_BYTES;
        let Some(external) = &mut self.external else { return };
        if external.is_held
            && !is_full
            && let Some((_, wire)) = &external.link
        {
            external.is_held = false;
            wire.may_read.set(true);
            wire.wake();
        }
    }

    pub(super) fn external_taken(&mut self, conn: Conn, id: PacketId) {
        let now_ms = self.gate.now_ms();
        if self.is_external(conn)
            && let Some(external) = &mut self.external
        {
            for effect in external.client.taken(id, now_ms) {
                if let ClientEffect::Send(packet) = effect {
                    external.send(&packet);
                }
            }
        }
        self.external_read_on();
    }

    pub(super) fn external_publish(&mut self, topic: &str, payload: Bytes, qos: QoS, retain: bool) {
        let now_ms = self.gate.now_ms();
        let Some(external) = &mut self.external else { return };
        let effects = external.client.publish(topic, payload, qos, retain, now_ms);
        self.external_run(effects);
    }

    fn external_run(&mut self, effects: Vec<ClientEffect>) {
        for effect in effects {
            let Some(external) = &mut self.external else { return };
            match effect {
                ClientEffect::Send(packet) => external.send(&packet),
                ClientEffect::Deliver { id, topic, payload } => {
                    let Some((conn, _)) = external.link else { continue };
                    let source = Source::Outside(conn, id);
                    self.deliver(Parcel {
                        source,
                        topic: Arc::clone(&topic),
                        payload,
                        receipt: Batch::new(),
                    });
                }
                ClientEffect::Connected { session_present } => {
                    external.sessions += 1;
                    external.said.clear();
                    if external.sessions > 1 {
                        self.metrics.external_reconnects.increment(1);
                    }
                    self.metrics.external_connected.set(1.0);
                    tracing::info!(server = %self.config.mqtt_server_external, session_present, "connected to the broker outside");
                }
                ClientEffect::Refused(filters) => {
                    tracing::error!(?filters, "the broker outside refused subscriptions");
                }
                ClientEffect::Close(why) => {
                    if let Some((_, wire)) = &external.link {
                        wire.cut.set(true);
                        wire.wake();
                    }
                    self.external_closed(why);
                }
            }
        }
    }
}

impl External {
    fn send(&mut self, packet: &Packet) {
        let Some((_, wire)) = &self.link else { return };
        let is_lossy = matches!(packet, Packet::Publish(publish) if publish.qos == QoS::AtMostOnce);
        if is_lossy && wire.out.borrow().len() > MAX_UNREAD_BYTES {
            self.unread += 1;
            return;
        }
        let encoded = encode(packet, Version::V3, &mut wire.out.borrow_mut());
        if let Err(err) = encoded {
            tracing::error!(error = %err, "a packet to the broker outside cannot be encoded");
        }
        wire.wake();
    }
}
