//! Rows to be written: gathered while an earlier write is under way, each row at most once, and
//! spared when it is not needed any more.

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::broker::ConnId;
use super::message::Message;
use super::packet::PacketId;
use super::promise::{PromiseId, SessionRef};
use super::rows::RowName;
use super::session::Map;

/// Pause after a failed write, milliseconds.
const RETRY_MS: i64 = 1000;

/// Names a row.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum RowKey {
    Session(SessionRef),
    Queued {
        session: SessionRef,
        serial: u64,
    },
    Body(NonZeroU64),
    Inbound {
        session: SessionRef,
        id: PacketId,
    },
    /// A message edgecore is to take.
    Local(u64),
    Retained(Arc<str>),
    /// Left behind by a session that is no more.
    Orphan(RowName),
}

/// What is to be done with a row. Its value is looked up when it is written.
#[derive(Debug, Default)]
pub struct Change {
    pub put: bool,
    /// An earlier value may be on disk.
    pub on_disk: bool,
    pub promises: Vec<PromiseId>,
    /// The connection a [`RowKey::Session`] was written with.
    pub conn: Option<ConnId>,
    /// Of [`RowKey::Body`].
    pub message: Option<Arc<Message>>,
}

#[derive(Debug, Default)]
pub struct Writes {
    pending: Map<RowKey, Change>,
    under_way: VecDeque<(u64, Vec<(RowKey, Change)>)>,
    next_seq: u64,
    /// Not before, after a failure.
    pub retry_at: Option<i64>,
    pub spared: u64,
}

impl Writes {
    /// Writes the row as it is at the next flush.
    pub fn put(&mut self, key: RowKey, promise: Option<PromiseId>, update: bool) {
        let change = self.pending.entry(key).or_default();
        change.put = true;
        change.on_disk |= update;
        change.promises.extend(promise);
    }

    pub fn put_body(&mut self, number: NonZeroU64, message: Arc<Message>) {
        self.pending
            .insert(RowKey::Body(number), Change { put: true, message: Some(message), ..Change::default() });
    }

    /// Deletes a row; `promise` waits for that.
    pub fn delete(&mut self, key: RowKey, promise: Option<PromiseId>) {
        let change = self.pending.entry(key).or_default();
        change.put = false;
        change.on_disk = true;
        change.message = None;
        change.promises.extend(promise);
    }

    /// Nobody needs the row any more. Returns the promises that waited for it and need not.
    pub fn forget(&mut self, key: RowKey) -> Vec<PromiseId> {
        match self.pending.get_mut(&key) {
            Some(change) if !change.on_disk => {
                let promises = std::mem::take(&mut change.promises);
                self.pending.remove(&key);
                self.spared += 1;
                promises
            }
            Some(change) => {
                change.put = false;
                change.message = None;
                std::mem::take(&mut change.promises)
            }
            None => {
                self.delete(key, None);
                Vec::new()
            }
        }
    }

    /// Promises that wait for a row not yet given to the store.
    pub fn steal_promises(&mut self, key: &RowKey) -> Vec<PromiseId> {
        self.pending.get_mut(key).map(|change| std::mem::take(&mut change.promises)).unwrap_or_default()
    }

    #[must_use]
    pub fn is_due(&self, now_ms: i64) -> bool {
        !self.pending.is_empty() && self.under_way.is_empty() && self.retry_at.is_none_or(|at| at <= now_ms)
    }

    #[must_use]
    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Everything to write now.
    pub fn take(&mut self) -> Vec<(RowKey, Change)> {
        self.retry_at = None;
        let taken = std::mem::take(&mut self.pending);
        taken.into_iter().collect()
    }

    /// They have been given to the store as the returned number.
    pub fn sent(&mut self, changes: Vec<(RowKey, Change)>) -> u64 {
        self.next_seq += 1;
        self.under_way.push_back((self.next_seq, changes));
        self.next_seq
    }

    /// The store has answered.
    pub fn answered(&mut self, seq: u64) -> Option<Vec<(RowKey, Change)>> {
        let (first, _) = self.under_way.front()?;
        if *first > seq {
            return None;
        }
        self.under_way.pop_front().map(|(_, changes)| changes)
    }

    /// Takes out what answers wait for: it fails together with an earlier write, so that nobody's
    /// later message arrives without the one before it.
    pub fn take_awaited(&mut self) -> Vec<(RowKey, Change)> {
        self.pending.extract_if(|_, change| !change.promises.is_empty()).collect()
    }

    /// Puts back a change that failed, under anything newer.
    pub fn again(&mut self, key: RowKey, mut failed: Change, now_ms: i64) {
        self.retry_at = Some(now_ms.saturating_add(RETRY_MS));
        failed.promises.clear();
        match self.pending.get_mut(&key) {
            Some(newer) => newer.on_disk |= failed.on_disk,
            None => {
                self.pending.insert(key, failed);
            }
        }
    }
}
