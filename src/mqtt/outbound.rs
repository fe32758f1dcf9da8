//! From a message to its receivers: who gets it, and how each session's queue moves.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::broker::{Broker, Effect};
use super::message::{Message, SubscriptionIds, TopicAlias};
use super::packet::{Packet, PacketId, QoS, Reason, Version};
use super::promise::{PromiseId, need};
use super::session::{Entry, Step};
use super::size::publish_bytes;
use super::trie::{Matches, SessionIndex};
use super::writes::RowKey;

/// One receiver of the message being routed.
#[derive(Debug)]
pub struct Target {
    pub session: SessionIndex,
    pub qos: QoS,
    pub retain: bool,
    pub subscription_ids: SubscriptionIds,
    pub shared: Option<Arc<str>>,
}

/// Kept from message to message so that routing allocates nothing.
#[derive(Debug, Default)]
pub struct Scratch {
    matches: Matches,
    targets: Vec<Target>,
}

impl Broker {
    /// Gives `message` to everybody who subscribes to its topic. What must be durable before the
    /// publisher is answered is added to `wanted`. Returns how many sessions matched.
    pub(super) fn route(
        &mut self,
        message: &Arc<Message>,
        from: Option<SessionIndex>,
        wanted: &mut Option<PromiseId>,
        effects: &mut Vec<Effect>,
    ) -> usize {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.matches.subscribers.clear();
        scratch.matches.groups.clear();
        scratch.targets.clear();
        self.trie.find(&message.topic, &mut scratch.matches);
        self.targets(message, from, &mut scratch);
        let body = self.shared_body(message, &scratch.targets);
        let receivers = scratch.targets.len();
        for target in scratch.targets.drain(..) {
            let session = target.session;
            self.deliver(message, target, body, Some(wanted), effects);
            if let Some(from) = from {
                self.hold_back(from, session);
            }
        }
        if scratch.targets.capacity() > 4096 {
            scratch = Scratch::default();
        }
        self.scratch = scratch;
        receivers
    }

    /// One target for each session, whatever number of its filters match, with the highest QoS and
    /// all subscription ids [MQTT-3.3.4-2], [MQTT-3.3.4-3]; shared subscriptions beside them.
    fn targets(&mut self, message: &Message, from: Option<SessionIndex>, scratch: &mut Scratch) {
        self.routes += 1;
        let Scratch { matches, targets } = scratch;
        for subscriber in &matches.subscribers {
            let options = subscriber.options;
            if options.no_local && from == Some(subscriber.session) {
                continue; // [MQTT-3.8.3-3]
            }
            let Some(session) = self.sessions.get_mut(subscriber.session) else { continue };
            let retain = options.retain_as_published && message.retain;
            if session.routed.0 == self.routes
                && let Some(target) = targets.get_mut(session.routed.1)
            {
                target.qos = target.qos.max(options.qos);
                target.retain |= retain;
                target.subscription_ids.add(options.id);
                continue;
            }
            session.routed = (self.routes, targets.len());
            let subscription_ids = options.id.map_or(SubscriptionIds::None, SubscriptionIds::One);
            let (session, qos) = (subscriber.session, options.qos);
            targets.push(Target { session, qos, retain, subscription_ids, shared: None });
        }
        for at in &matches.groups {
            if let Some(target) = self.choose(*at, message, None) {
                targets.push(target);
            }
        }
    }

    /// A row for the message itself if several durable queues get it.
    fn shared_body(&mut self, message: &Message, targets: &[Target]) -> Option<NonZeroU64> {
        if message.qos == QoS::AtMostOnce {
            return None;
        }
        let durable = |target: &&Target| {
            target.qos > QoS::AtMostOnce
                && self.sessions.get(target.session).is_some_and(super::session::Session::is_durable)
        };
        targets.iter().filter(durable).nth(1)?;
        let body = NonZeroU64::new(self.next_body)?;
        self.next_body += 1;
        Some(body)
    }

    /// Gives the message to one session.
    pub(super) fn deliver(
        &mut self,
        message: &Arc<Message>,
        target: Target,
        body: Option<NonZeroU64>,
        wanted: Option<&mut Option<PromiseId>>,
        effects: &mut Vec<Effect>,
    ) {
        let index = target.session;
        if message.qos.min(target.qos) == QoS::AtMostOnce {
            self.deliver_at_most_once(message, target, effects);
        } else {
            self.enqueue(message, target, body, wanted, effects);
            self.pump(index, effects);
        }
    }

    /// Puts a QoS 1 or 2 message at the end of a session's queue.
    pub(super) fn enqueue(
        &mut self,
        message: &Arc<Message>,
        target: Target,
        body: Option<NonZeroU64>,
        wanted: Option<&mut Option<PromiseId>>,
        effects: &mut Vec<Effect>,
    ) {
        let qos = message.qos.min(target.qos);
        let index = target.session;
        let bytes = message.bytes();
        let total = self.used.queued_bytes + self.used.unsent_bytes + bytes;
        let Some(session) = self.sessions.get_mut(index) else { return };
        if let Some(link) = session.link.as_deref()
            && !link.access.receives_all()
            && !link.access.may_receive(&message.topic)
        {
            self.count.dropped.not_receivable += 1;
            return;
        }
        let full = session.queue.len() >= self.limits.queued_messages
            || session.queued_bytes + bytes > self.limits.queued_bytes;
        if full && !self.drop_expired(index, effects) {
            self.count.dropped.queue_full += 1;
            return;
        }
        if total > self.limits.total_bytes {
            self.count.dropped.total_full += 1;
            return;
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(serial) = session.new_serial() else {
            self.count.dropped.queue_full += 1;
            return;
        };
        let durable = session.is_durable();
        let at = session.at(index);
        let Target { retain, subscription_ids, shared, .. } = target;
        let entry = Entry {
            serial,
            message: Some(message.clone()),
            body: if durable { body } else { None },
            subscription_ids,
            shared,
            qos,
            retain,
            step: Step::Publish,
            dup: false,
            durable,
            ready: !durable || qos == QoS::AtLeastOnce,
        };
        let was = session.queued_bytes;
        session.push(entry);
        self.used.queued_messages += 1;
        self.used.queued_bytes += session.queued_bytes - was;
        if durable {
            if let Some(number) = body {
                let uses = self.bodies.entry(number).or_insert(0);
                *uses += 1;
                if *uses == 1 {
                    self.writes.put_body(number, message.clone());
                }
            }
            let promise = wanted.map(|wanted| need(&mut self.promises, wanted));
            self.writes.put(RowKey::Queued { session: at, serial }, promise, false);
        }
    }

    pub(super) fn deliver_at_most_once(
        &mut self,
        message: &Arc<Message>,
        target: Target,
        effects: &mut Vec<Effect>,
    ) {
        let total = self.used.queued_bytes + self.used.unsent_bytes;
        let Some(link) = self.sessions.get(target.session).and_then(|session| session.link.as_deref()) else {
            return; // QoS 0 is not kept for clients that are away.
        };
        if !link.access.receives_all() && !link.access.may_receive(&message.topic) {
            self.count.dropped.not_receivable += 1;
        } else if link.unsent > 0 && link.unsent + message.bytes() > self.limits.unsent_bytes {
            self.count.dropped.slow_consumer += 1;
        } else if total > self.limits.total_bytes {
            self.count.dropped.total_full += 1;
        } else {
            let Target { session, retain, subscription_ids, .. } = target;
            self.emit(
                session,
                message.clone(),
                None,
                QoS::AtMostOnce,
                (false, retain),
                subscription_ids,
                effects,
            );
        }
    }

    /// Writes a PUBLISH to a connected session. `false`: it is too large for the client.
    #[allow(clippy::too_many_arguments)] // The fields of a PUBLISH.
    fn emit(
        &mut self,
        index: SessionIndex,
        message: Arc<Message>,
        id: Option<PacketId>,
        qos: QoS,
        (dup, retain): (bool, bool),
        subscription_ids: SubscriptionIds,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut()) else {
            return true;
        };
        let ids = subscription_ids.as_slice();
        let (topic_alias, slot) = if link.aliases_out.is_empty() {
            (TopicAlias::None, None)
        } else {
            super::alias::choose(&link.aliases_out, &message.topic)
        };
        let mut bytes = publish_bytes(&message, link.version, qos, topic_alias, ids);
        let mut alias = topic_alias;
        if bytes > link.maximum_packet_bytes && matches!(alias, TopicAlias::New(_)) {
            alias = TopicAlias::None;
            bytes = publish_bytes(&message, link.version, qos, alias, ids);
        }
        if bytes > link.maximum_packet_bytes {
            self.count.dropped.too_large += 1;
            return false;
        }
        if let (TopicAlias::New(_), Some(slot)) =
            (alias, slot.and_then(|slot| link.aliases_out.get_mut(slot)))
        {
            *slot = Some(message.topic.clone());
        }
        if link.unsent == 0 {
            link.stalled_since = self.now;
            self.sweep_at = self.sweep_at.or(Some(self.now.saturating_add(1000)));
        }
        link.unsent += bytes;
        let conn = link.conn;
        let expiry_left_secs = message.expiry_left_secs(self.now);
        self.used.unsent_bytes += bytes;
        self.count.bytes_out += bytes as u64;
        self.count.publish_bytes_out += bytes as u64;
        if let Some(count) = self.count.messages_out.get_mut(qos as usize) {
            *count += 1;
        }
        effects.push(Effect::Deliver {
            conn,
            message,
            qos,
            id,
            dup,
            retain,
            subscription_ids,
            topic_alias: alias,
            expiry_left_secs,
            bytes,
        });
        true
    }

    /// Sends what waits in the queue as far as the window, the socket and the disk allow; then
    /// retained messages of new subscriptions.
    pub(super) fn pump(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        self.pump_queue(index, effects);
        self.check_caught_up(index);
    }

    fn pump_queue(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        loop {
            let now = self.now;
            let Some(session) = self.sessions.get_mut(index) else { return };
            let Some(link) = session.link.as_deref() else { return };
            if session.sent >= link.window || link.unsent > 0 && link.unsent >= self.limits.unsent_bytes {
                return;
            }
            let place = session.sent;
            let Some(entry) = session.queue.get_mut(place) else {
                if session.scans.is_empty() || !self.scan_next(index, effects) {
                    return;
                }
                continue;
            };
            let unknown = entry.qos == QoS::ExactlyOnce && !entry.dup && !link.known;
            if !entry.ready || entry.step == Step::Releasing || unknown {
                return;
            }
            let id = entry.id();
            let Some(message) = entry.message.clone() else {
                session.sent += 1;
                self.send(index, Packet::PubRel { id, reason: Reason::SUCCESS }, effects);
                continue;
            };
            // A QoS 2 message sent before must be sent to its end.
            let may_drop = !entry.dup || entry.qos == QoS::AtLeastOnce;
            if may_drop && message.is_expired(now) {
                self.count.dropped.expired += 1;
                self.drop_entry(index, place, effects);
                continue;
            }
            if may_drop && entry.dup_or_kept() && !link.access.may_receive(&message.topic) {
                self.count.dropped.not_receivable += 1;
                self.drop_entry(index, place, effects);
                continue;
            }
            let (qos, flags, ids) = (entry.qos, (entry.dup, entry.retain), entry.subscription_ids.clone());
            session.sent += 1;
            if !self.emit(index, message, Some(id), qos, flags, ids, effects) {
                self.drop_entry(index, place, effects);
            }
        }
    }

    /// Takes an entry out of a queue, and its row with it.
    pub(super) fn drop_entry(&mut self, index: SessionIndex, place: usize, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let at = session.at(index);
        let was = session.queued_bytes;
        let Some(entry) = session.remove(place) else { return };
        self.used.queued_bytes -= was - session.queued_bytes;
        self.used.queued_messages -= 1;
        if entry.durable {
            self.forget_row(RowKey::Queued { session: at, serial: entry.serial }, effects);
        }
        self.release_body(entry.body, effects);
    }

    pub(super) fn release_body(&mut self, body: Option<NonZeroU64>, effects: &mut Vec<Effect>) {
        let Some(number) = body else { return };
        let Some(uses) = self.bodies.get_mut(&number) else { return };
        *uses -= 1;
        if *uses == 0 {
            self.bodies.remove(&number);
            self.forget_row(RowKey::Body(number), effects);
        }
    }

    /// Makes room in a full queue by dropping what has expired in it.
    fn drop_expired(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) -> bool {
        let mut dropped = false;
        let mut place = self.sessions.get(index).map_or(0, |session| session.sent);
        while let Some(entry) = self.sessions.get(index).and_then(|session| session.queue.get(place)) {
            let expired = entry.message.as_ref().is_some_and(|message| message.is_expired(self.now));
            if expired && !entry.dup {
                self.count.dropped.expired += 1;
                self.drop_entry(index, place, effects);
                dropped = true;
            } else {
                place += 1;
            }
        }
        dropped
    }

    /// PUBACK of a subscriber.
    pub(super) fn puback(&mut self, index: SessionIndex, id: PacketId, effects: &mut Vec<Effect>) {
        let Some(place) = self.in_flight(index, id) else { return };
        let entry = self.sessions.get(index).and_then(|session| session.queue.get(place));
        if entry.is_none_or(|entry| entry.qos != QoS::AtLeastOnce) {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR);
        }
        self.drop_entry(index, place, effects);
        self.pump(index, effects);
    }

    /// PUBREC of a subscriber.
    pub(super) fn pubrec(
        &mut self,
        index: SessionIndex,
        id: PacketId,
        reason: Reason,
        effects: &mut Vec<Effect>,
    ) {
        let Some(place) = self.in_flight(index, id) else {
            if !reason.is_failure() {
                let v5 = self.version(index) == Some(Version::V5);
                let reason = if v5 { Reason::PACKET_ID_NOT_FOUND } else { Reason::SUCCESS };
                self.send(index, Packet::PubRel { id, reason }, effects);
            }
            return;
        };
        let Some(session) = self.sessions.get_mut(index) else { return };
        let at = session.at(index);
        let was = session.queued_bytes;
        let Some(entry) = session.queue.get_mut(place) else { return };
        if entry.qos != QoS::ExactlyOnce {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR);
        }
        if reason.is_failure() {
            self.drop_entry(index, place, effects);
            return self.pump(index, effects);
        }
        match entry.step {
            Step::Releasing => {}
            Step::Release => self.send(index, Packet::PubRel { id, reason: Reason::SUCCESS }, effects),
            Step::Publish => {
                let before = entry.bytes();
                entry.message = None;
                entry.subscription_ids = SubscriptionIds::None;
                let body = entry.body.take();
                let (serial, durable) = (entry.serial, entry.durable);
                entry.step = if durable { Step::Releasing } else { Step::Release };
                let freed = before - entry.bytes();
                session.queued_bytes = was - freed;
                self.used.queued_bytes -= freed;
                if durable {
                    // PUBREL only after this is known for ever: else a restart would send the
                    // message again to a client that has forgotten its id.
                    self.writes.put(RowKey::Queued { session: at, serial }, None, true);
                    self.release_body(body, effects);
                } else {
                    self.send(index, Packet::PubRel { id, reason: Reason::SUCCESS }, effects);
                }
            }
        }
    }

    /// PUBCOMP of a subscriber.
    pub(super) fn pubcomp(&mut self, index: SessionIndex, id: PacketId, effects: &mut Vec<Effect>) {
        let Some(place) = self.in_flight(index, id) else { return };
        let entry = self.sessions.get(index).and_then(|session| session.queue.get(place));
        if entry.is_none_or(|entry| entry.step != Step::Release) {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR);
        }
        self.drop_entry(index, place, effects);
        self.pump(index, effects);
    }

    fn in_flight(&self, index: SessionIndex, id: PacketId) -> Option<usize> {
        let session = self.sessions.get(index)?;
        session.place_of(id).filter(|place| *place < session.sent)
    }
}

impl Entry {
    /// It waited for a connection, whose rights were not asked when it was queued.
    fn dup_or_kept(&self) -> bool {
        self.dup || self.durable
    }
}
