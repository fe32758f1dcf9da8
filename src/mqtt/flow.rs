//! Back-pressure: who reads is waited for, who does not is not.
//!
//! A publisher that is faster than a connected subscriber is held back until the subscriber has
//! caught up: what it publishes waits in its [`Gate`] unrouted and unacknowledged, and its socket is
//! not read once too much waits there. Its acknowledgements and pings overtake what waits, so that
//! two clients that wait for each other both go on. A subscriber that does not move for
//! [`Limits::patience_ms`], or does not catch up in [`Limits::behind_secs`], is not waited for until
//! it has: its queue runs into its own bounds, and what does not fit is dropped and counted. All of
//! this is in memory alone.
//!
//! [`Limits::patience_ms`]: super::Limits::patience_ms
//! [`Limits::behind_secs`]: super::Limits::behind_secs

use std::collections::VecDeque;

use super::broker::{Broker, ConnId, Effect, Timer};
use super::packet::Packet;
use super::session::{Link, Session};
use super::trie::SessionIndex;

/// What a deferred packet costs beside its payload.
const DEFERRED_BYTES: usize = 128;

/// Of a session: who waits for it.
#[derive(Debug, Default)]
pub struct Backlog {
    /// Connections that are held back until it has caught up, each once, longest first.
    waiters: Vec<ConnId>,
    /// Since when somebody waits.
    since: i64,
    /// When the client last took or acknowledged something.
    moved_at: i64,
    /// It is not waited for until it has caught up.
    is_given_up: bool,
    /// When it is looked at next.
    timer_at: Option<i64>,
}

/// Of a connection: whom it waits for, and what it sent meanwhile.
#[derive(Debug, Default)]
pub struct Gate {
    waits_for: Vec<SessionIndex>,
    deferred: VecDeque<Packet>,
    deferred_bytes: usize,
    /// It is among [`Broker::released`].
    is_released: bool,
}

fn deferred_bytes(packet: &Packet) -> usize {
    let payload = match packet {
        Packet::Publish(publish) => publish.topic.len() + publish.payload.len(),
        _ => 0,
    };
    DEFERRED_BYTES + payload
}

impl Broker {
    /// Keeps back what may not overtake what is kept back already. Returns the packet if it need
    /// not wait.
    pub(super) fn defer(
        &mut self,
        index: SessionIndex,
        packet: Packet,
        effects: &mut Vec<Effect>,
    ) -> Option<Packet> {
        let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut()) else {
            return Some(packet);
        };
        let gate = &mut link.gate;
        let is_held = !gate.waits_for.is_empty() || !gate.deferred.is_empty();
        let in_order = matches!(packet, Packet::Publish(_) | Packet::Subscribe(_) | Packet::Unsubscribe(_));
        if !is_held || !in_order {
            return Some(packet);
        }
        let bytes = deferred_bytes(&packet);
        gate.deferred_bytes += bytes;
        self.used.deferred_bytes += bytes;
        gate.deferred.push_back(packet);
        let is_full = gate.deferred.len() > self.limits.deferred_messages
            || gate.deferred_bytes > self.limits.deferred_bytes
            || self.used.deferred_bytes > self.limits.total_bytes / 4;
        if is_full && !link.paused {
            link.paused = true;
            effects.push(Effect::Pause { conn: link.conn });
        }
        None
    }

    /// More than `share` of 4 parts of what a session may have before others wait for it.
    fn is_behind(&self, session: &Session, link: &Link, share: usize) -> bool {
        let (all, limits) = (session.queue.len(), &self.limits);
        all.saturating_sub(session.sent) > limits.behind_messages * share / 4
            || all > limits.queued_messages / 2 * share / 4
            || session.queued_bytes + link.unsent > self.behind_bytes() * share / 4
    }

    /// Bytes a session may have on the way before others wait: less when memory is short, so that
    /// many sessions together do not reach the bound over all.
    fn behind_bytes(&self) -> usize {
        let half = self.limits.total_bytes / 2;
        let most = self.limits.behind_bytes;
        if self.used.queued_bytes + self.used.unsent_bytes > half {
            most.min(half / self.conns.len().max(1))
        } else {
            most
        }
    }

    /// The connection of `from` waits for the session at `index`, if that one is behind and moves.
    pub(super) fn hold_back(&mut self, from: SessionIndex, index: SessionIndex) {
        let Some(session) = self.sessions.get(index) else { return };
        let Some(link) = session.link.as_deref() else { return };
        // Never for itself: it would wait for its own acknowledgements.
        if from == index || session.backlog.is_given_up || !self.is_behind(session, link, 4) {
            return;
        }
        let last = session.backlog.waiters.last().copied();
        let Some(publisher) = self.sessions.get_mut(from).and_then(|session| session.link.as_deref_mut())
        else {
            return;
        };
        let conn = publisher.conn;
        // One message is routed at a time and a held connection has none routed: if it waits
        // already, because of this message, it is the last.
        if last == Some(conn) {
            return;
        }
        publisher.gate.waits_for.push(index);
        let patience = i64::from(self.limits.patience_ms);
        let Some(session) = self.sessions.get_mut(index) else { return };
        let number = session.number;
        let backlog = &mut session.backlog;
        if backlog.waiters.is_empty() {
            (backlog.since, backlog.moved_at) = (self.now, self.now);
            if backlog.timer_at.is_none() {
                let at = self.now.saturating_add(patience);
                backlog.timer_at = Some(at);
                self.timers.insert((at, Timer::Backlog(index, number)));
            }
        }
        backlog.waiters.push(conn);
    }

    /// The client took or acknowledged something.
    pub(super) fn moved(&mut self, index: SessionIndex) {
        let now = self.now;
        if let Some(session) = self.sessions.get_mut(index) {
            session.backlog.moved_at = now;
        }
    }

    /// Lets those go on who waited for a session that has caught up.
    pub(super) fn check_caught_up(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get(index) else { return };
        if session.backlog.waiters.is_empty() && !session.backlog.is_given_up {
            return;
        }
        let Some(link) = session.link.as_deref() else { return };
        if !self.is_behind(session, link, 1) {
            self.release(index, false);
        }
    }

    /// Nobody waits for the session any more.
    pub(super) fn release(&mut self, index: SessionIndex, is_given_up: bool) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        session.backlog.is_given_up = is_given_up;
        let mut waiters = std::mem::take(&mut session.backlog.waiters);
        for conn in waiters.drain(..) {
            let Some((_, link)) = self.link_mut(conn) else { continue };
            let gate = &mut link.gate;
            if let Some(place) = gate.waits_for.iter().position(|other| *other == index) {
                gate.waits_for.swap_remove(place);
            }
            if gate.waits_for.is_empty() && !gate.deferred.is_empty() && !gate.is_released {
                gate.is_released = true;
                self.released.push_back((conn, index));
            }
        }
        if waiters.capacity() <= 64
            && let Some(session) = self.sessions.get_mut(index)
        {
            session.backlog.waiters = waiters; // Its memory serves the next time.
        }
    }

    /// Handles one packet that was kept back on a released connection. `false`: nobody has any.
    pub(super) fn next_deferred(&mut self, effects: &mut Vec<Effect>) -> bool {
        let Some((conn, waited_for)) = self.released.front().copied() else { return false };
        if let Some((index, packet)) = self.take_deferred(conn, false) {
            self.packet_in_turn(index, packet, effects);
            return true;
        }
        self.released.pop_front();
        if let Some((index, link)) = self.link_mut(conn) {
            link.gate.is_released = false;
            self.check_resume(index, effects);
        }
        // Whoever comes after it when the session is behind again waits again at once: a few get far
        // in turn, instead of all one message each, whose answers would cost a write each.
        while let Some((next, other)) = self.released.front().copied()
            && other == waited_for
            && let Some((index, link)) = self.link_mut(next)
            && link.gate.waits_for.is_empty()
        {
            self.hold_back(index, other);
            let Some((_, link)) = self.link_mut(next) else { break };
            if link.gate.waits_for.is_empty() {
                break;
            }
            link.gate.is_released = false;
            self.released.pop_front();
        }
        true
    }

    fn take_deferred(&mut self, conn: ConnId, even_if_held: bool) -> Option<(SessionIndex, Packet)> {
        let (index, link) = self.link_mut(conn)?;
        let gate = &mut link.gate;
        if !gate.waits_for.is_empty() && !even_if_held {
            return None;
        }
        let packet = gate.deferred.pop_front()?;
        let bytes = deferred_bytes(&packet);
        gate.deferred_bytes = gate.deferred_bytes.saturating_sub(bytes);
        self.used.deferred_bytes = self.used.deferred_bytes.saturating_sub(bytes);
        Some((index, packet))
    }

    /// Handles all that was kept back, before a connection ends that sent it in time.
    pub(super) fn finish_deferred(&mut self, conn: ConnId, effects: &mut Vec<Effect>) {
        while self.doomed.iter().all(|(other, _)| *other != conn)
            && let Some((index, packet)) = self.take_deferred(conn, true)
        {
            self.packet_in_turn(index, packet, effects);
        }
    }

    /// Reads a connection on when enough of what it sent is done.
    pub(super) fn check_resume(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) {
        let limits = &self.limits;
        let Some(link) = self.sessions.get_mut(index).and_then(|session| session.link.as_deref_mut()) else {
            return;
        };
        if link.paused
            && link.acks.len() <= limits.v3_unacknowledged / 2
            && link.gate.deferred.len() <= limits.deferred_messages / 2
            && link.gate.deferred_bytes <= limits.deferred_bytes / 2
        {
            link.paused = false;
            effects.push(Effect::Resume { conn: link.conn });
        }
    }

    /// A connection is over: it waits for nobody, and nobody for its session.
    pub(super) fn unhold(&mut self, index: SessionIndex, conn: ConnId, gate: &Gate) {
        self.used.deferred_bytes = self.used.deferred_bytes.saturating_sub(gate.deferred_bytes);
        for other in &gate.waits_for {
            if let Some(session) = self.sessions.get_mut(*other) {
                session.backlog.waiters.retain(|waiter| *waiter != conn);
            }
        }
        self.release(index, false);
    }

    /// Somebody has waited for a session for a while.
    pub(super) fn backlog_is_due(&mut self, index: SessionIndex, number: u64, at: i64) {
        let patience = i64::from(self.limits.patience_ms);
        let longest = i64::from(self.limits.behind_secs) * 1000;
        let now = self.now;
        let is_heard = self.is_heard(index);
        let Some(session) = self.sessions.get_mut(index).filter(|session| session.number == number) else {
            return;
        };
        let backlog = &mut session.backlog;
        backlog.timer_at = None;
        if backlog.waiters.is_empty() {
            return;
        }
        // Who looks late has not handled what came meanwhile; who is not read cannot acknowledge.
        if now.saturating_sub(at) > patience / 2 || !is_heard {
            backlog.moved_at = now;
        }
        let due = backlog.moved_at.saturating_add(patience).min(backlog.since.saturating_add(longest));
        if due <= now {
            self.count.given_up += 1;
            return self.release(index, true);
        }
        backlog.timer_at = Some(due);
        self.timers.insert((due, Timer::Backlog(index, number)));
    }

    /// The client's acknowledgements are read, or will be without its own doing: it is not one of a
    /// circle of clients that are all not read because of each other.
    fn is_heard(&self, index: SessionIndex) -> bool {
        let link = |index: SessionIndex| self.sessions.get(index).and_then(|session| session.link.as_deref());
        let Some(own) = link(index).filter(|own| own.paused) else { return true };
        own.gate.waits_for.iter().any(|other| link(*other).is_some_and(|other| other.paused))
    }

    pub(super) fn cancel_backlog_timer(&mut self, index: SessionIndex) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        let number = session.number;
        if let Some(at) = session.backlog.timer_at.take() {
            self.timers.remove(&(at, Timer::Backlog(index, number)));
        }
    }

    /// Connections that wait for a subscriber.
    pub(super) fn held_back(&self) -> usize {
        let is_held =
            |session: &Session| session.link.as_deref().is_some_and(|link| !link.gate.waits_for.is_empty());
        self.sessions.iter().filter(|(_, session)| is_held(session)).count()
    }
}
