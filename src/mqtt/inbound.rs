//! Packets of clients: PUBLISH in all qualities, and what answers it.

use std::sync::Arc;

use super::acks::{Acks, Answer, Due, ends_exchange};
use super::alias;
use super::broker::{Broker, ConnId, Doom, Effect};
use super::message::Message;
use super::packet::{Packet, PacketId, Publish, QoS, Reason, Version};
use super::promise::{Fate, PromiseId, need};
use super::session::Inbound;
use super::size::publish_bytes;
use super::topic::{BadTopic, check_topic, is_sys};
use super::trie::SessionIndex;
use super::writes::RowKey;

impl Broker {
    pub(super) fn packet(&mut self, conn: ConnId, packet: Packet, effects: &mut Vec<Effect>) {
        let Some(index) = self.conns.get(&conn).copied() else { return };
        if let Some(packet) = self.defer(index, packet, effects) {
            self.packet_in_turn(index, packet, effects);
        }
    }

    /// Handles a packet whose turn it is.
    pub(super) fn packet_in_turn(&mut self, index: SessionIndex, packet: Packet, effects: &mut Vec<Effect>) {
        if matches!(packet, Packet::PubAck { .. } | Packet::PubRec { .. } | Packet::PubComp { .. }) {
            self.moved(index);
        }
        match packet {
            Packet::Publish(publish) => self.publish(index, *publish, effects),
            Packet::PubAck { id, .. } => self.puback(index, id, effects),
            Packet::PubRec { id, reason } => self.pubrec(index, id, reason, effects),
            Packet::PubRel { id, .. } => self.pubrel(index, id, effects),
            Packet::PubComp { id, .. } => self.pubcomp(index, id, effects),
            Packet::Subscribe(subscribe) => self.subscribe(index, *subscribe, effects),
            Packet::Unsubscribe(unsubscribe) => self.unsubscribe(index, *unsubscribe, effects),
            Packet::PingReq => self.send(index, Packet::PingResp, effects),
            Packet::Disconnect { reason, session_expiry_secs } => {
                self.disconnect(index, reason, session_expiry_secs, effects);
            }
            // A second CONNECT [MQTT-3.1.0-2]; AUTH without a method [MQTT-4.12.0-6]; what only
            // servers send.
            Packet::Connect(_)
            | Packet::Auth
            | Packet::ConnAck(_)
            | Packet::SubAck { .. }
            | Packet::UnsubAck { .. }
            | Packet::PingResp => self.protocol_error(index, Reason::PROTOCOL_ERROR),
        }
    }

    pub(super) fn version(&self, index: SessionIndex) -> Option<Version> {
        self.sessions.get(index)?.link.as_ref().map(|link| link.version)
    }

    pub(super) fn protocol_error(&mut self, index: SessionIndex, reason: Reason) {
        if let Some(link) = self.sessions.get(index).and_then(|session| session.link.as_ref()) {
            let conn = link.conn;
            self.doom(conn, Doom::Protocol(reason));
        }
    }

    fn publish(&mut self, index: SessionIndex, mut publish: Publish, effects: &mut Vec<Effect>) {
        let most = self.limits.topic_aliases;
        let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut()) else {
            return;
        };
        let version = link.version;
        if version == Version::V5 {
            match alias::resolve(&mut link.aliases_in, most, publish.topic, publish.topic_alias) {
                Ok(topic) => publish.topic = topic,
                Err(reason) => return self.protocol_error(index, reason),
            }
        }
        let (qos, id, dup) = (publish.qos, publish.id, publish.dup);
        if id.is_some() != (qos > QoS::AtMostOnce) || !publish.subscription_ids.is_empty() {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR); // [MQTT-2.2.1-2], [MQTT-3.3.4-6]
        }
        let topic_is = check_topic(&publish.topic, &self.limits);
        if topic_is.is_err_and(BadTopic::is_malformed) {
            return self.protocol_error(index, Reason::TOPIC_NAME_INVALID);
        }
        let response_topic = publish.properties.response_topic.as_deref();
        if response_topic
            .is_some_and(|topic| check_topic(topic, &self.limits).is_err_and(BadTopic::is_malformed))
        {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR); // [MQTT-3.3.2-14]
        }
        let refusal = if topic_is.is_err() {
            self.count.dropped.bad_topic += 1;
            Some(Reason::TOPIC_NAME_INVALID)
        } else if is_sys(&publish.topic) || !link.access.may_publish(&publish.topic) {
            self.count.dropped.not_publishable += 1;
            Some(Reason::NOT_AUTHORIZED)
        } else {
            None
        };
        let message = Message::of_publish(publish, self.now);
        self.count.publish_bytes_in +=
            publish_bytes(&message, version, qos, super::message::TopicAlias::None, &[]) as u64;
        if let Some(count) = self.count.messages_in.get_mut(qos as usize) {
            *count += 1;
        }
        let Some(id) = id else {
            if refusal.is_none() {
                let mut wanted = None;
                self.accept(&Arc::new(message), Some(index), &mut wanted, effects);
                self.settle_wanted(wanted, effects);
            }
            return;
        };
        if !self.begin_exchange(index, id, qos, dup, effects) {
            return;
        }
        if let Some(reason) = refusal {
            // 3.1.1 has no word for it: acknowledged and dropped, so that the client does not send
            // it for ever.
            let reason = if version == Version::V5 { reason } else { Reason::SUCCESS };
            if qos == QoS::ExactlyOnce && !reason.is_failure() {
                self.remember(index, id, None, effects);
            } else {
                let answer =
                    if qos == QoS::AtLeastOnce { Answer::PubAck(reason) } else { Answer::PubRec(reason) };
                self.answer(index, id, answer, None, effects);
            }
            return;
        }
        if self.is_local(&message.topic) && !self.local.has_room(&self.limits) {
            self.count.dropped.not_taken += 1;
            return self.refuse(index, id, qos, effects);
        }
        let message = Arc::new(message);
        let mut wanted = None;
        if qos == QoS::AtLeastOnce {
            let reason = self.accept(&message, Some(index), &mut wanted, effects);
            self.answer(index, id, Answer::PubAck(reason), wanted, effects);
        } else {
            self.accept(&message, Some(index), &mut wanted, effects);
            self.remember(index, id, wanted, effects);
        }
    }

    /// Checks what comes before a QoS 1 or 2 message: the quota, and whether it is here already.
    fn begin_exchange(
        &mut self,
        index: SessionIndex,
        id: PacketId,
        qos: QoS,
        dup: bool,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let most = usize::from(self.limits.receive_maximum.max(1));
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let held = session.inbound.get(&id).copied();
        let Some(link) = session.link.as_deref_mut() else { return false };
        let again = held.is_some() && dup;
        if !again {
            if link.version == Version::V5 && link.open >= most {
                self.protocol_error(index, Reason::RECEIVE_MAXIMUM_EXCEEDED); // [MQTT-3.3.4-7]
                return false;
            }
            link.open += 1;
        }
        // Ids that wait for PUBREL, of connections before this one too.
        if held.is_none() && qos == QoS::ExactlyOnce && session.inbound.len() >= self.limits.unreleased {
            self.count.dropped.not_taken += 1;
            self.refuse(index, id, qos, effects);
            return false;
        }
        let Some(held) = held else { return true };
        if qos != QoS::ExactlyOnce {
            self.protocol_error(index, Reason::PACKET_ID_IN_USE);
            return false;
        }
        // Not published again [MQTT-4.3.3-10].
        let waits = match held {
            Inbound::Writing(promise) => Some(promise),
            Inbound::Held | Inbound::Releasing(_) => None,
        };
        if let Some(promise) = waits {
            self.promises.add(promise);
        }
        self.answer(index, id, Answer::PubRec(Reason::SUCCESS), waits, effects);
        false
    }

    /// Keeps the id of a QoS 2 message until PUBREL and answers PUBREC.
    fn remember(
        &mut self,
        index: SessionIndex,
        id: PacketId,
        mut wanted: Option<PromiseId>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let at = session.at(index);
        if session.is_durable() {
            let promise = need(&mut self.promises, &mut wanted);
            self.writes.put(RowKey::Inbound { session: at, id }, Some(promise), false);
        }
        if let Some(promise) = wanted.and_then(|promise| self.promises.get_mut(promise)) {
            promise.inbound = Some((at, id, Fate::Hold));
        }
        session.inbound.insert(id, wanted.map_or(Inbound::Held, Inbound::Writing));
        self.answer(index, id, Answer::PubRec(Reason::SUCCESS), wanted, effects);
    }

    /// Answers a message the broker has no room for.
    fn refuse(&mut self, index: SessionIndex, id: PacketId, qos: QoS, effects: &mut Vec<Effect>) {
        if self.version(index) != Some(Version::V5) {
            if let Some(link) = self.sessions.get(index).and_then(|session| session.link.as_ref()) {
                self.doomed.push((link.conn, Doom::NotStored));
            }
            return;
        }
        let reason = Reason::QUOTA_EXCEEDED;
        let answer = if qos == QoS::AtLeastOnce { Answer::PubAck(reason) } else { Answer::PubRec(reason) };
        self.answer(index, id, answer, None, effects);
    }

    fn pubrel(&mut self, index: SessionIndex, id: PacketId, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let at = session.at(index);
        let durable = session.was_durable;
        match session.inbound.get(&id).copied() {
            None => {
                let v5 = self.version(index) == Some(Version::V5);
                let reason = if v5 { Reason::PACKET_ID_NOT_FOUND } else { Reason::SUCCESS };
                self.answer(index, id, Answer::PubComp(reason), None, effects);
            }
            Some(Inbound::Writing(_)) => self.protocol_error(index, Reason::PROTOCOL_ERROR),
            Some(Inbound::Held) if !durable => {
                session.inbound.remove(&id);
                self.answer(index, id, Answer::PubComp(Reason::SUCCESS), None, effects);
            }
            Some(Inbound::Held) => {
                // PUBCOMP lets the client use the id for another message: a row that came back
                // after a restart would make that one look like this.
                let mut wanted = None;
                let promise = need(&mut self.promises, &mut wanted);
                self.writes.delete(RowKey::Inbound { session: at, id }, Some(promise));
                session.inbound.insert(id, Inbound::Releasing(promise));
                if let Some(promise) = self.promises.get_mut(promise) {
                    promise.inbound = Some((at, id, Fate::Release));
                }
                self.answer(index, id, Answer::PubComp(Reason::SUCCESS), wanted, effects);
            }
            Some(Inbound::Releasing(promise)) => {
                self.promises.add(promise);
                self.answer(index, id, Answer::PubComp(Reason::SUCCESS), Some(promise), effects);
            }
        }
    }

    /// Routes, retains and gives to edgecore. Returns the reason for a PUBACK.
    pub(super) fn accept(
        &mut self,
        message: &Arc<Message>,
        from: Option<SessionIndex>,
        wanted: &mut Option<PromiseId>,
        effects: &mut Vec<Effect>,
    ) -> Reason {
        if message.retain {
            self.retain(message, wanted);
        }
        let receivers = self.route(message, from, wanted, effects);
        let taken = self.is_local(&message.topic);
        if taken {
            self.local_offer(message, from, wanted, effects);
        }
        let v5 = from.and_then(|index| self.version(index)) == Some(Version::V5);
        if receivers > 0 || taken || !v5 { Reason::SUCCESS } else { Reason::NO_MATCHING_SUBSCRIBERS }
    }

    /// A message of the broker or of edgecore itself.
    pub(super) fn publish_own(
        &mut self,
        message: Arc<Message>,
        from: Option<SessionIndex>,
        effects: &mut Vec<Effect>,
    ) {
        let mut wanted = None;
        if message.retain {
            self.retain(&message, &mut wanted);
        }
        self.route(&message, from, &mut wanted, effects);
        self.settle_wanted(wanted, effects);
    }

    /// Answers now, or when the promise is kept; always in the order of these calls.
    pub(super) fn answer(
        &mut self,
        index: SessionIndex,
        id: PacketId,
        answer: Answer,
        wanted: Option<PromiseId>,
        effects: &mut Vec<Effect>,
    ) {
        let most = self.limits.v3_unacknowledged;
        let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut()) else {
            return self.settle_wanted(wanted, effects);
        };
        let Some(promise) = wanted else {
            if link.acks.is_empty() {
                self.send_answer(index, answer.packet(id), effects);
            } else {
                link.acks.push(id, answer);
            }
            return;
        };
        let number = link.acks.wait(id, answer);
        if link.acks.len() >= most && !link.paused {
            link.paused = true;
            effects.push(Effect::Pause { conn: link.conn });
        }
        let conn = link.conn;
        if let Some(promise) = self.promises.get_mut(promise) {
            promise.waiters.push((conn, number));
        }
        self.settle_wanted(wanted, effects);
    }

    fn send_answer(&mut self, index: SessionIndex, packet: Packet, effects: &mut Vec<Effect>) {
        if ends_exchange(&packet)
            && let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut())
        {
            link.open = link.open.saturating_sub(1);
        }
        self.send(index, packet, effects);
    }

    /// The maker of a promise has added all it waits for.
    pub(super) fn settle_wanted(&mut self, wanted: Option<PromiseId>, effects: &mut Vec<Effect>) {
        if let Some(promise) = wanted {
            self.settle(promise, true, effects);
        }
    }

    /// One thing an answer waits for has come or failed.
    pub(super) fn settle(&mut self, promise: PromiseId, ok: bool, effects: &mut Vec<Effect>) {
        let Some(promise) = self.promises.settle(promise, ok) else { return };
        let ok = !promise.failed;
        if let Some((at, id, fate)) = promise.inbound
            && let Some(session) = self.session_of_mut(at)
        {
            if (fate == Fate::Hold) == ok {
                session.inbound.insert(id, Inbound::Held);
            } else {
                session.inbound.remove(&id);
            }
        }
        for chained in promise.chained {
            self.settle(chained, ok, effects);
        }
        for (conn, number) in promise.waiters {
            if let Some((index, link)) = self.link_mut(conn) {
                if link.acks.settle(number, ok, link.version) {
                    self.drain_acks(index, effects);
                } else {
                    link.acks = Acks::default();
                    self.doom(conn, Doom::NotStored);
                }
            }
        }
    }

    /// Makes `later` wait for `first` instead of what they waited for.
    pub(super) fn chain(&mut self, first: PromiseId, later: Vec<PromiseId>, effects: &mut Vec<Effect>) {
        if let Some(promise) = self.promises.get_mut(first) {
            promise.chained = later;
        }
        self.settle(first, true, effects);
    }

    fn drain_acks(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        let take = |broker: &mut Self| {
            let link = broker.sessions.get_mut(index)?.link.as_deref_mut()?;
            link.acks.take(link.version)
        };
        while let Some(due) = take(self) {
            match due {
                Due::Send(packet) => self.send_answer(index, packet, effects),
                Due::Unsubscribe { packet, added } => {
                    for filter in added {
                        self.remove_subscription(index, &filter);
                    }
                    self.send_answer(index, packet, effects);
                }
            }
        }
        self.check_resume(index, effects);
    }
}
