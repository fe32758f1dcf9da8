//! The broker after a restart, from its rows.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::broker::{Broker, Timer};
use super::message::Message;
use super::packet::{PacketId, QoS};
use super::rows::{Content, QueuedRow, RowName, SessionRow, decode_message};
use super::session::{Entry, Inbound, Map, Session, Step, filter_bytes};
use super::writes::RowKey;
use crate::store::Row;

/// What [`Broker::load`] found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Loaded {
    pub sessions: usize,
    pub queued: usize,
    pub retained: usize,
    /// Messages edgecore has not taken yet.
    pub local: usize,
    /// Keys of rows that are damaged or of another version. They stay where they are.
    pub unreadable: Vec<Vec<u8>>,
    /// Rows nobody refers to. The next flush deletes them, unless something is unreadable: it may be
    /// what refers to them.
    pub orphans: usize,
}

#[derive(Default)]
struct Found {
    sessions: BTreeMap<u64, SessionRow>,
    bodies: BTreeMap<NonZeroU64, Arc<Message>>,
    inbound: Vec<(u64, PacketId)>,
    queued: BTreeMap<(u64, u64), QueuedRow>,
    local: BTreeMap<u64, Message>,
    orphans: Vec<RowName>,
}

impl Broker {
    /// Takes up the rows found under [`super::PREFIXES`], in any order, before the first input. All
    /// clients count as having lost their connection now: wills and expiries start to run.
    pub fn load(&mut self, rows: impl IntoIterator<Item = Row>, now_ms: i64) -> Loaded {
        self.now = now_ms;
        let mut loaded = Loaded::default();
        let mut found = Found::default();
        for (key, value) in rows {
            if self.sort(&key, &value, &mut found, &mut loaded).is_none() {
                loaded.unreadable.push(key);
            }
        }
        let mut places = Map::default();
        for (number, row) in std::mem::take(&mut found.sessions) {
            if self.restore_session(number, row, &mut places).is_some() {
                loaded.sessions += 1;
            } else {
                found.orphans.push(RowName::Session(number));
            }
        }
        self.restore_queues(&mut found, &places, &mut loaded);
        for (session, id) in std::mem::take(&mut found.inbound) {
            match places.get(&session).and_then(|(index, _)| self.sessions.get_mut(*index)) {
                Some(session) => {
                    session.inbound.insert(id, Inbound::Held);
                }
                None => found.orphans.push(RowName::Inbound { session, id }),
            }
        }
        for (number, _) in std::mem::take(&mut found.bodies) {
            if !self.bodies.contains_key(&number) {
                found.orphans.push(RowName::Body(number));
            }
            self.next_body = self.next_body.max(number.get().saturating_add(1));
        }
        loaded.local = found.local.len();
        for (row, message) in found.local {
            self.local.restore(row, Arc::new(message));
        }
        loaded.orphans = found.orphans.len();
        if loaded.unreadable.is_empty() {
            for name in found.orphans {
                self.writes.delete(RowKey::Orphan(name), None);
            }
        }
        loaded
    }

    fn sort(&mut self, key: &[u8], value: &[u8], found: &mut Found, loaded: &mut Loaded) -> Option<()> {
        match RowName::decode(key)? {
            RowName::Session(number) => {
                self.next_session = self.next_session.max(number.saturating_add(1));
                found.sessions.insert(number, SessionRow::decode(value)?);
            }
            RowName::Retained(topic) => {
                let message = decode_message(value).filter(|message| *message.topic == *topic)?;
                if !message.is_expired(self.now) {
                    self.retained.insert(Arc::new(message), self.now);
                    loaded.retained += 1;
                } else {
                    found.orphans.push(RowName::Retained(topic));
                }
            }
            RowName::Body(number) => {
                found.bodies.insert(number, Arc::new(decode_message(value)?));
            }
            RowName::Inbound { session, id } => {
                self.next_session = self.next_session.max(session.saturating_add(1));
                found.inbound.push((session, id));
            }
            RowName::Local(row) => {
                found.local.insert(row, decode_message(value)?);
            }
            RowName::Queued { session, serial } => {
                self.next_session = self.next_session.max(session.saturating_add(1));
                found.queued.insert((session, serial), QueuedRow::decode(value)?);
            }
        }
        Some(())
    }

    fn restore_session(
        &mut self,
        number: u64,
        row: SessionRow,
        places: &mut Map<u64, (usize, u64)>,
    ) -> Option<()> {
        let client_id: Arc<str> = row.client_id.as_str().into();
        // A session that ended with its connection comes back only to publish its will.
        let has_ended = row.expiry_secs == 0 && (!row.connected || row.will.is_none());
        if has_ended || self.clients.contains_key(&client_id) {
            return None;
        }
        let index = self.sessions.insert(Session::new(number, client_id.clone(), row.expiry_secs));
        self.clients.insert(client_id, index);
        places.insert(number, (index, if row.connected { u64::MAX } else { row.sent_below }));
        let since = if row.connected { self.now } else { row.disconnected_at.min(self.now) };
        let session = self.sessions.get_mut(index)?;
        (session.has_row, session.was_durable) = (true, true);
        session.owner = row.owner.into();
        session.disconnected_at = since;
        session.will = row.will.map(Box::new);
        if let Some(will) = &session.will {
            let at = since.saturating_add(i64::from(will.delay_secs.min(row.expiry_secs)) * 1000);
            session.will_at = Some(at);
            self.timers.insert((at, Timer::Will(index, number)));
        }
        if row.expiry_secs < u32::MAX {
            let at = since.saturating_add(i64::from(row.expiry_secs) * 1000);
            session.expires_at = Some(at);
            self.timers.insert((at, Timer::Expiry(index, number)));
        }
        for (filter, options) in row.subscriptions {
            let filter: Arc<str> = filter.into();
            self.trie.insert(&filter, index, options);
            session.filter_bytes += filter_bytes(&filter);
            session.subscriptions.insert(filter, options);
        }
        self.count_session(index);
        if row.connected && row.expiry_secs > 0 {
            // Its life without connection runs from now on, also after a second restart.
            self.save_session(index, None);
        }
        Some(())
    }

    fn restore_queues(&mut self, found: &mut Found, places: &Map<u64, (usize, u64)>, loaded: &mut Loaded) {
        for ((number, serial), row) in std::mem::take(&mut found.queued) {
            let name = RowName::Queued { session: number, serial };
            let Some((index, sent_below)) = places.get(&number).copied() else {
                found.orphans.push(name);
                continue;
            };
            let (message, body, step) = match row.content {
                Content::Released => (None, None, Step::Release),
                Content::Here(message) => (Some(message), None, Step::Publish),
                Content::In(body) => match found.bodies.get(&body) {
                    Some(message) => (Some(message.clone()), Some(body), Step::Publish),
                    None => {
                        loaded.unreadable.push(name.encode().1);
                        continue;
                    }
                },
            };
            if let Some(body) = body {
                *self.bodies.entry(body).or_insert(0) += 1;
            }
            let Some(session) = self.sessions.get_mut(index) else { continue };
            let was = session.queued_bytes;
            session.next_serial = serial.saturating_add(1);
            session.push(Entry {
                serial,
                message,
                body,
                subscription_ids: row.subscription_ids,
                shared: row.shared,
                qos: row.qos,
                retain: row.retain,
                step,
                dup: row.qos == QoS::AtLeastOnce || serial < sent_below,
                durable: true,
                ready: true,
            });
            self.used.queued_messages += 1;
            self.used.queued_bytes += session.queued_bytes - was;
            loaded.queued += 1;
        }
    }
}
