//! How connections begin and end, and sessions with them.

use std::hash::BuildHasher;
use std::num::NonZeroU16;
use std::sync::Arc;

use super::acks::Acks;
use super::broker::{Access, Broker, ConnId, Doom, Effect, Timer};
use super::flow::Gate;
use super::packet::{ConnAck, Connect, Packet, QoS, Reason, Version};
use super::session::{Inbound, Link, Session, Step};
use super::size::packet_bytes;
use super::topic::{check_topic, is_sys};
use super::trie::SessionIndex;
use super::writes::RowKey;

/// What happens to the will of a connection that ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WillIs {
    Due,
    Discarded,
}

impl Broker {
    pub(super) fn connect(
        &mut self,
        conn: ConnId,
        mut connect: Connect,
        access: Arc<dyn Access>,
        effects: &mut Vec<Effect>,
    ) {
        if let Some(index) = self.conns.get(&conn).copied() {
            return self.protocol_error(index, Reason::PROTOCOL_ERROR);
        }
        let v5 = connect.version == Version::V5;
        if let Err((reason, text)) = self.check_connect(&connect, &*access) {
            match reason {
                Reason::SERVER_UNAVAILABLE | Reason::QUOTA_EXCEEDED => self.count.closed.refused_full += 1,
                _ => self.count.closed.refused += 1,
            }
            return self.refuse_connect(conn, &connect, reason, text, effects);
        }
        let assigned = connect.client_id.is_empty().then(|| self.new_client_id(conn));
        if let Some(id) = &assigned {
            connect.client_id.clone_from(id);
        }
        let client_id: Arc<str> = connect.client_id.as_str().into();
        let asked = connect.session_expiry_secs.unwrap_or(0);
        let expiry_secs = match (v5, connect.clean_start) {
            (true, _) => asked.min(self.limits.session_expiry_secs),
            (false, true) => 0,
            (false, false) => self.limits.v3_session_expiry_secs,
        };
        let present = self.open_session(&client_id, &connect, expiry_secs, effects);
        let Some(index) = self.clients.get(&client_id).copied() else { return };
        let keep_alive = connect.keep_alive_secs;
        let slower = v5 && keep_alive > self.limits.keep_alive_secs;
        let owner = access.owner().into();
        let link = self.link(conn, &connect, access);
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.link = Some(Box::new(Link { known: !session.is_durable(), ..link }));
        session.will = connect.will.take().map(Box::new);
        session.owner = owner;
        self.count_session(index);
        self.conns.insert(conn, index);
        self.clients_max = self.clients_max.max(self.conns.len());
        self.count.connects += 1;
        self.save_session(index, None);
        let connack = ConnAck {
            session_present: present,
            reason: Reason::SUCCESS,
            assigned_client_id: assigned,
            session_expiry_secs: (v5 && asked != expiry_secs).then_some(expiry_secs),
            receive_maximum: NonZeroU16::new(self.limits.receive_maximum),
            maximum_packet_bytes: Some(self.limits.maximum_packet_bytes),
            topic_alias_maximum: Some(self.limits.topic_aliases),
            server_keep_alive_secs: slower.then_some(self.limits.keep_alive_secs),
            reason_text: None,
        };
        self.send(index, Packet::ConnAck(Box::new(connack)), effects);
        self.pump(index, effects);
    }

    fn link(&self, conn: ConnId, connect: &Connect, access: Arc<dyn Access>) -> Link {
        let v5 = connect.version == Version::V5;
        let receive_maximum = connect.receive_maximum.filter(|_| v5).map_or(u16::MAX, NonZeroU16::get);
        let aliases = if v5 { connect.topic_alias_maximum.min(self.limits.topic_aliases) } else { 0 };
        let most = connect.maximum_packet_bytes.filter(|_| v5).unwrap_or(u32::MAX);
        Link {
            conn,
            version: connect.version,
            access,
            window: usize::from(receive_maximum.min(self.limits.inflight).max(1)),
            maximum_packet_bytes: usize::try_from(most).unwrap_or(usize::MAX),
            aliases_in: Vec::new(),
            aliases_out: vec![None; usize::from(aliases)],
            unsent: 0,
            stalled_since: self.now,
            acks: Acks::default(),
            open: 0,
            known: false,
            paused: false,
            gate: Gate::default(),
        }
    }

    fn check_connect(&self, connect: &Connect, access: &dyn Access) -> Result<(), (Reason, &'static str)> {
        let v5 = connect.version == Version::V5;
        if connect.authentication_method.is_some() {
            return Err((Reason::BAD_AUTHENTICATION_METHOD, "no authentication method is supported"));
        }
        if connect.client_id.is_empty() && !v5 && !connect.clean_start {
            // [MQTT-3.1.3-8]
            return Err((Reason::CLIENT_ID_NOT_VALID, "a session to be kept needs a client id"));
        }
        if let Some(will) = &connect.will {
            if check_topic(&will.topic, &self.limits).is_err() {
                return Err((Reason::TOPIC_NAME_INVALID, "the will's topic is not valid"));
            }
            if is_sys(&will.topic) || !access.may_publish(&will.topic) {
                return Err((Reason::NOT_AUTHORIZED, "the will's topic may not be published to"));
            }
        }
        let known = self.clients.get(connect.client_id.as_str()).and_then(|index| self.sessions.get(*index));
        if known.is_some_and(|session| !session.owner.is_empty() && *session.owner != *access.owner()) {
            return Err((Reason::NOT_AUTHORIZED, "another client has a session of this client id"));
        }
        let replaces = known.is_some_and(|session| session.link.is_some());
        let full = if v5 { Reason::QUOTA_EXCEEDED } else { Reason::SERVER_UNAVAILABLE };
        let (will, own) = match (&connect.will, known) {
            (None, _) => (0, 0),
            (Some(will), Some(session)) => (will.bytes() + session.filter_bytes, session.counted_bytes),
            (Some(will), None) => (will.bytes(), 0),
        };
        let all = self.used.session_bytes - own + will;
        if will > 0 && (will > self.limits.session_bytes || all > self.limits.sessions_bytes) {
            return Err((full, "no room for the will"));
        }
        if !replaces && self.conns.len() >= self.limits.clients {
            return Err((full, "too many clients"));
        }
        if known.is_none() && self.sessions.len() >= self.limits.sessions {
            return Err((full, "too many sessions"));
        }
        Ok(())
    }

    fn refuse_connect(
        &mut self,
        conn: ConnId,
        connect: &Connect,
        reason: Reason,
        text: &str,
        effects: &mut Vec<Effect>,
    ) {
        let mut connack = ConnAck {
            session_present: false,
            reason,
            assigned_client_id: None,
            session_expiry_secs: None,
            receive_maximum: None,
            maximum_packet_bytes: None,
            topic_alias_maximum: None,
            server_keep_alive_secs: None,
            reason_text: None,
        };
        // [MQTT-3.2.2-19]
        let most = connect.maximum_packet_bytes.unwrap_or(u32::MAX);
        if connect.request_problem_information && most > 100 {
            connack.reason_text = Some(text.to_owned());
        }
        let packet = Packet::ConnAck(Box::new(connack));
        let bytes = packet_bytes(&packet, connect.version);
        effects.push(Effect::Send { conn, packet, bytes });
        effects.push(Effect::Close { conn, reason: Reason::SUCCESS });
    }

    /// Nobody can guess it, so nobody takes the session over.
    fn new_client_id(&self, conn: ConnId) -> String {
        let mut id = String::new();
        for part in 0..u64::MAX {
            let random = self.names.hash_one((conn, self.now, self.next_session, part));
            id = format!("auto-{random:016x}");
            if !self.clients.contains_key(id.as_str()) {
                break;
            }
        }
        id
    }

    /// Finds or makes the session, ending another connection of it. Returns whether it was there.
    fn open_session(
        &mut self,
        client_id: &Arc<str>,
        connect: &Connect,
        expiry_secs: u32,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if let Some(index) = self.clients.get(client_id).copied()
            && let Some(old) = self.sessions.get(index).and_then(|s| s.link.as_ref()).map(|link| link.conn)
        {
            self.count.closed.taken_over += 1;
            self.finish_deferred(old, effects);
            effects.push(Effect::Close { conn: old, reason: Reason::SESSION_TAKEN_OVER });
            self.unlink(index, WillIs::Due, effects);
        }
        // It may have ended with its connection, or its time is up and the timer is late.
        if let Some(index) = self.clients.get(client_id).copied()
            && self.sessions.get(index).and_then(|s| s.expires_at).is_some_and(|at| at <= self.now)
        {
            self.end_session(index, effects);
        }
        if let Some(index) = self.clients.get(client_id).copied() {
            if connect.clean_start {
                self.end_session(index, effects);
            } else {
                self.cancel_timers(index);
                if let Some(session) = self.sessions.get_mut(index) {
                    session.expiry_secs = expiry_secs;
                    session.was_durable |= expiry_secs > 0;
                    session.will = None; // Its delay has not passed [MQTT-3.1.3-9].
                }
                return true;
            }
        }
        let number = self.next_session;
        self.next_session += 1;
        let index = self.sessions.insert(Session::new(number, client_id.clone(), expiry_secs));
        self.clients.insert(client_id.clone(), index);
        false
    }

    pub(super) fn gone(&mut self, conn: ConnId, effects: &mut Vec<Effect>) {
        self.finish_deferred(conn, effects);
        if let Some(index) = self.conns.get(&conn).copied() {
            self.unlink(index, WillIs::Due, effects);
        }
    }

    pub(super) fn disconnect(
        &mut self,
        index: SessionIndex,
        reason: Reason,
        session_expiry_secs: Option<u32>,
        effects: &mut Vec<Effect>,
    ) {
        let most = self.limits.session_expiry_secs;
        let Some(conn) = self.sessions.get(index).and_then(|s| s.link.as_ref()).map(|link| link.conn) else {
            return;
        };
        self.finish_deferred(conn, effects);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(link) = &session.link else { return };
        if let Some(secs) = session_expiry_secs.filter(|_| link.version == Version::V5) {
            if session.expiry_secs == 0 && secs > 0 {
                return self.protocol_error(index, Reason::PROTOCOL_ERROR); // 3.14.2.2.2
            }
            session.expiry_secs = secs.min(most);
        }
        // [MQTT-3.14.4-3]
        let will = if reason == Reason::SUCCESS { WillIs::Discarded } else { WillIs::Due };
        effects.push(Effect::Close { conn, reason: Reason::SUCCESS });
        self.unlink(index, will, effects);
    }

    /// Closes a connection the broker is done with.
    pub(super) fn execute(&mut self, conn: ConnId, doom: Doom, effects: &mut Vec<Effect>) {
        let Some(index) = self.conns.get(&conn).copied() else { return };
        let reason = match doom {
            Doom::Protocol(reason) => {
                self.count.closed.protocol_errors += 1;
                reason
            }
            Doom::Slow => {
                self.count.closed.slow += 1;
                Reason::QUOTA_EXCEEDED
            }
            Doom::NotStored => {
                self.count.closed.not_stored += 1;
                Reason::IMPLEMENTATION_SPECIFIC
            }
        };
        effects.push(Effect::Close { conn, reason });
        self.unlink(index, WillIs::Due, effects);
    }

    /// The connection is over: what was in flight waits for the next one, the will and the end of
    /// the session get their times.
    fn unlink(&mut self, index: SessionIndex, will: WillIs, effects: &mut Vec<Effect>) {
        let now = self.now;
        let Some(session) = self.sessions.get_mut(index) else { return };
        let Some(link) = session.link.take() else { return };
        self.conns.remove(&link.conn);
        self.used.unsent_bytes -= link.unsent;
        self.unhold(index, link.conn, &link.gate);
        let Some(session) = self.sessions.get_mut(index) else { return };
        for entry in session.queue.iter_mut().take(session.sent) {
            entry.dup = true;
        }
        session.sent = 0;
        session.disconnected_at = now;
        let (number, expiry) = (session.number, session.expiry_secs);
        if expiry > 0 && expiry < u32::MAX {
            let at = now.saturating_add(i64::from(expiry) * 1000);
            session.expires_at = Some(at);
            self.timers.insert((at, Timer::Expiry(index, number)));
        }
        if will == WillIs::Discarded {
            session.will = None;
            self.count_session(index);
        }
        let Some(session) = self.sessions.get_mut(index) else { return };
        if let Some(will) = &session.will {
            let delay = will.delay_secs.min(expiry);
            if delay == 0 {
                self.publish_will(index, &*link.access, effects);
            } else {
                let at = now.saturating_add(i64::from(delay) * 1000);
                session.will_at = Some(at);
                self.timers.insert((at, Timer::Will(index, number)));
            }
        }
        if expiry == 0 {
            self.end_session(index, effects);
        } else {
            self.save_session(index, None);
        }
    }

    pub(super) fn cancel_timers(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let number = session.number;
        if let Some(at) = session.expires_at.take() {
            self.timers.remove(&(at, Timer::Expiry(index, number)));
        }
        if let Some(at) = session.will_at.take() {
            self.timers.remove(&(at, Timer::Will(index, number)));
        }
    }

    pub(super) fn timer(&mut self, at: i64, timer: Timer, effects: &mut Vec<Effect>) {
        match timer {
            Timer::Backlog(index, number) => self.backlog_is_due(index, number, at),
            Timer::Will(index, number) => {
                if self.sessions.get(index).is_some_and(|session| session.number == number) {
                    self.will_is_due(index, effects);
                    self.save_session(index, None);
                }
            }
            Timer::Expiry(index, number) => {
                if self.sessions.get(index).is_some_and(|session| session.number == number) {
                    self.end_session(index, effects);
                }
            }
        }
    }

    /// Forgets a session without connection, its rows included. Its will is due at the latest now
    /// [MQTT-3.1.2-8]; shared messages it has not had go to others.
    pub(super) fn end_session(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        self.cancel_timers(index);
        self.cancel_backlog_timer(index);
        self.will_is_due(index, effects);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let at = session.at(index);
        let subscriptions = std::mem::take(&mut session.subscriptions);
        self.used.session_bytes -= std::mem::take(&mut session.counted_bytes);
        session.filter_bytes = 0;
        let inbound = std::mem::take(&mut session.inbound);
        let client_id = session.client_id.clone();
        let (has_row, was_durable) = (session.has_row, session.was_durable);
        for filter in subscriptions.keys() {
            self.trie.remove(filter, index);
        }
        for (id, state) in inbound {
            if was_durable {
                match state {
                    Inbound::Writing(_) => self.forget_row(RowKey::Inbound { session: at, id }, effects),
                    Inbound::Held => self.writes.delete(RowKey::Inbound { session: at, id }, None),
                    Inbound::Releasing(_) => {}
                }
            }
        }
        while let Some(entry) = self.sessions.get(index).and_then(|session| session.queue.front()) {
            let unseen = entry.step == Step::Publish && (!entry.dup || entry.qos == QoS::AtLeastOnce);
            match (&entry.shared, unseen) {
                (Some(_), true) => self.redistribute(index, effects),
                _ => self.drop_entry(index, 0, effects),
            }
        }
        if has_row {
            self.forget_row(RowKey::Session(at), effects);
        }
        self.clients.remove(&client_id);
        self.sessions.try_remove(index);
        if self.sessions.is_empty() {
            self.sessions.shrink_to_fit();
        }
        if self.clients.len() * 4 < self.clients.capacity() {
            self.clients.shrink_to_fit();
            self.conns.shrink_to_fit();
        }
    }
}
