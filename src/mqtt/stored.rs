//! The disk's answers, and the rows each change writes.

use super::broker::{Broker, ConnId, Effect};
use super::packet::{Packet, Reason};
use super::promise::{PromiseId, SessionRef};
use super::rows::{self, QueuedRow, SessionRow};
use super::session::Step;
use super::trie::SessionIndex;
use super::writes::{Change, RowKey};
use crate::store::Batch;

impl Broker {
    /// Writes the session's row at the next flush, if it survives its connection, has a row, or
    /// has a will, which is due should the broker be killed.
    pub(super) fn save_session(&mut self, index: SessionIndex, promise: Option<PromiseId>) {
        let Some(session) = self.sessions.get_mut(index) else { return };
        if session.is_durable() || session.has_row || session.will.is_some() {
            let update = std::mem::replace(&mut session.has_row, true);
            let at = session.at(index);
            self.writes.put(RowKey::Session(at), promise, update);
        } else if let Some(promise) = promise {
            self.promises.settle(promise, true);
        }
    }

    /// Nobody needs a row any more.
    pub(super) fn forget_row(&mut self, key: RowKey, effects: &mut Vec<Effect>) {
        for promise in self.writes.forget(key) {
            self.settle(promise, true, effects);
        }
    }

    /// Adds one change to what is written.
    pub(super) fn encode(&self, key: &RowKey, change: &Change, batch: &mut Batch) {
        let (table, name) = key.encode();
        let value = if change.put { self.row(key, change) } else { None };
        *batch = match value {
            Some(value) => std::mem::take(batch).put(table, name, value),
            None => std::mem::take(batch).delete(table, name),
        };
    }

    fn row(&self, key: &RowKey, change: &Change) -> Option<Vec<u8>> {
        match key {
            RowKey::Session(at) => self.session_of(*at).map(|session| SessionRow::of(session).encode()),
            RowKey::Queued { session, serial } => {
                let session = self.session_of(*session)?;
                let entry = session.queue.get(session.place_of_serial(*serial)?)?;
                Some(QueuedRow::of(entry).encode())
            }
            RowKey::Body(_) => change.message.as_ref().map(|message| rows::encode_message(message)),
            RowKey::Inbound { .. } => Some(vec![rows::VERSION]),
            RowKey::Local(row) => self.local.being_written(*row).map(|message| rows::encode_message(message)),
            RowKey::Retained(topic) => self.retained.get(topic).map(|message| rows::encode_message(message)),
            RowKey::Orphan(_) => None,
        }
    }

    pub(super) fn stored(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        while let Some(changes) = self.writes.answered(seq) {
            let mut local = Vec::new();
            for (key, change) in changes {
                for promise in change.promises {
                    self.settle(promise, true, effects);
                }
                match key {
                    RowKey::Queued { session, serial } if change.put => {
                        self.queued_stored(session, serial, effects);
                    }
                    RowKey::Local(row) => local.push(row),
                    RowKey::Session(at) if change.put => self.session_stored(at, change.conn, effects),
                    _ => {}
                }
            }
            local.sort_unstable(); // As they came.
            for row in local {
                self.local_stored(row, true);
            }
        }
    }

    fn session_stored(&mut self, at: SessionRef, conn: Option<ConnId>, effects: &mut Vec<Effect>) {
        let link = self.session_of_mut(at).and_then(|session| session.link.as_deref_mut());
        if let Some(link) = link.filter(|link| !link.known && Some(link.conn) == conn) {
            link.known = true;
            self.pump(at.index, effects);
        }
    }

    /// The row of a queue entry is on disk: QoS 2 may go one step on.
    fn queued_stored(&mut self, at: SessionRef, serial: u64, effects: &mut Vec<Effect>) {
        let index = at.index;
        self.moved(index); // The disk may be what it waits for.
        let Some(session) = self.session_of_mut(at) else { return };
        let Some(place) = session.place_of_serial(serial) else { return };
        let in_flight = place < session.sent;
        let Some(entry) = session.queue.get_mut(place) else { return };
        if entry.step == Step::Releasing {
            entry.step = Step::Release;
            if in_flight {
                let id = entry.id();
                return self.send(index, Packet::PubRel { id, reason: Reason::SUCCESS }, effects);
            }
        } else if entry.ready {
            return;
        }
        entry.ready = true;
        self.pump(index, effects);
    }

    pub(super) fn not_stored(&mut self, seq: u64, effects: &mut Vec<Effect>) {
        while let Some(mut changes) = self.writes.answered(seq) {
            self.count.failed_writes += 1;
            changes.extend(self.writes.take_awaited());
            // Bodies last: whether they are still needed depends on the entries.
            let (bodies, others): (Vec<_>, Vec<_>) =
                changes.into_iter().partition(|(key, _)| matches!(key, RowKey::Body(_)));
            let mut touched = Vec::new();
            for (key, mut change) in others {
                let waited = std::mem::take(&mut change.promises);
                if let RowKey::Queued { session, .. } = &key {
                    touched.push(*session);
                }
                self.undo(key, change, waited.is_empty(), effects);
                for promise in waited {
                    self.settle(promise, false, effects);
                }
            }
            for (key, change) in bodies {
                let RowKey::Body(number) = key else { continue };
                if self.bodies.contains_key(&number) || !change.put {
                    self.writes.again(key, change, self.now);
                }
            }
            // Only now: an entry that is about to be taken back must not be sent.
            for at in touched {
                if self.session_of(at).is_some() {
                    self.pump(at.index, effects);
                }
            }
        }
    }

    /// Takes back what is not on disk, or tries it again where that is right.
    fn undo(&mut self, key: RowKey, change: Change, nobody_waited: bool, effects: &mut Vec<Effect>) {
        let now = self.now;
        match &key {
            RowKey::Queued { session, serial } if change.put && !change.on_disk => {
                let index = session.index;
                let Some(found) = self.session_of_mut(*session) else { return };
                let Some(place) = found.place_of_serial(*serial) else { return };
                let sent = place < found.sent;
                let Some(entry) = found.queue.get_mut(place) else { return };
                let body = entry.body.take();
                entry.durable = false;
                entry.ready = true;
                if !sent && !entry.dup {
                    self.count.dropped.not_stored += 1;
                    self.drop_entry(index, place, effects);
                }
                self.release_body(body, effects);
            }
            RowKey::Inbound { .. } if change.put => {}
            // Whoever waited asks again, and with that the row; but not for a session that has ended.
            RowKey::Inbound { session, .. } if !nobody_waited && self.session_of(*session).is_some() => {}
            RowKey::Local(row) if change.put => self.local_stored(*row, false),
            _ => self.writes.again(key, change, now),
        }
    }
}
