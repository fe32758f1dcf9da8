//! Messages for edgecore itself: given out by ticket, given again when refused.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use super::broker::{Broker, Effect};
use super::limits::Limits;
use super::message::Message;
use super::packet::QoS;
use super::promise::{PromiseId, need};
use super::session::Map;
use super::topic::matches;
use super::trie::SessionIndex;
use super::writes::RowKey;
use crate::store::Batch;

/// First pause after a refusal, milliseconds; doubled each time up to [`RETRY_MAX_MS`].
const RETRY_MS: i64 = 500;
const RETRY_MAX_MS: i64 = 30_000;
/// A message whose publisher still waits is given so often, then the publisher is told.
const TRIES: u32 = 5;

#[derive(Debug)]
struct Offer {
    message: Arc<Message>,
    /// The publisher's answer waits for it.
    promise: Option<PromiseId>,
    /// It is durable already and must be taken some time.
    row: Option<u64>,
    tries: u32,
}

#[derive(Debug, Default)]
pub struct Local {
    filters: Vec<String>,
    /// Rows being written.
    writing: Map<u64, Arc<Message>>,
    waiting: VecDeque<Offer>,
    given: Map<u64, Offer>,
    refused: Map<u64, Offer>,
    retries: BTreeSet<(i64, u64)>,
    /// Of all these messages.
    bytes: usize,
    next_ticket: u64,
    next_row: u64,
}

impl Local {
    #[must_use]
    pub fn new(filters: &[&str]) -> Self {
        Self { filters: filters.iter().map(|filter| (*filter).to_owned()).collect(), ..Self::default() }
    }

    /// Messages not yet taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.writing.len() + self.waiting.len() + self.given.len() + self.refused.len()
    }

    #[must_use]
    pub fn has_room(&self, limits: &Limits) -> bool {
        self.len() < limits.local_queue && self.bytes < limits.local_bytes
    }

    fn gone(&mut self, message: &Message) {
        self.bytes = self.bytes.saturating_sub(message.bytes());
    }

    #[must_use]
    pub fn next_deadline(&self) -> Option<i64> {
        self.retries.first().map(|(at, _)| *at)
    }

    #[must_use]
    pub fn being_written(&self, row: u64) -> Option<&Arc<Message>> {
        self.writing.get(&row)
    }

    /// A row found at start.
    pub fn restore(&mut self, row: u64, message: Arc<Message>) {
        self.next_row = self.next_row.max(row.saturating_add(1));
        self.bytes += message.bytes();
        self.waiting.push_back(Offer { message, promise: None, row: Some(row), tries: 0 });
    }
}

impl Broker {
    pub(super) fn is_local(&self, topic: &str) -> bool {
        self.local.filters.iter().any(|filter| matches(filter, topic))
    }

    /// Takes a message of a client for edgecore. A QoS 2 message of a session that survives gets a
    /// row, deleted together with what edgecore does about it: so it has its effect once.
    pub(super) fn local_offer(
        &mut self,
        message: &Arc<Message>,
        from: Option<SessionIndex>,
        wanted: &mut Option<PromiseId>,
        effects: &mut Vec<Effect>,
    ) {
        let message = message.clone();
        if message.qos == QoS::AtMostOnce {
            if self.local.given.len() >= self.limits.local_takes
                || self.local.bytes >= self.limits.local_bytes
            {
                self.count.dropped.not_taken += 1;
            } else {
                self.local.bytes += message.bytes();
                self.give(Offer { message, promise: None, row: None, tries: 0 }, effects);
            }
            return;
        }
        self.local.bytes += message.bytes();
        let durable =
            from.and_then(|index| self.sessions.get(index)).is_some_and(|session| session.is_durable());
        let promise = need(&mut self.promises, wanted);
        if durable && message.qos == QoS::ExactlyOnce {
            let row = self.local.next_row;
            self.local.next_row += 1;
            self.local.writing.insert(row, message);
            self.writes.put(RowKey::Local(row), Some(promise), false);
        } else {
            self.local.waiting.push_back(Offer { message, promise: Some(promise), row: None, tries: 0 });
        }
    }

    /// The row of a message is on disk, or failed.
    pub(super) fn local_stored(&mut self, row: u64, ok: bool) {
        let Some(message) = self.local.writing.remove(&row) else { return };
        if !ok {
            self.local.gone(&message);
        } else {
            self.local.waiting.push_back(Offer { message, promise: None, row: Some(row), tries: 0 });
        }
    }

    /// Gives what waits, as far as edgecore has room.
    pub(super) fn local_pump(&mut self, effects: &mut Vec<Effect>) {
        while self.local.given.len() < self.limits.local_takes.max(1)
            && let Some(offer) = self.local.waiting.pop_front()
        {
            self.give(offer, effects);
        }
    }

    fn give(&mut self, offer: Offer, effects: &mut Vec<Effect>) {
        self.local.next_ticket += 1;
        let ticket = self.local.next_ticket;
        let mut receipt = Batch::new();
        if let Some(row) = offer.row {
            let (table, key) = RowKey::Local(row).encode();
            receipt = receipt.delete(table, key);
        }
        effects.push(Effect::Take { ticket, message: offer.message.clone(), receipt });
        self.local.given.insert(ticket, offer);
    }

    pub(super) fn taken(&mut self, ticket: u64, ok: bool, effects: &mut Vec<Effect>) {
        let Some(mut offer) = self.local.given.remove(&ticket) else { return };
        if ok {
            self.count.taken += 1;
            self.local.gone(&offer.message);
            return self.settle_wanted(offer.promise, effects);
        }
        offer.tries += 1;
        if offer.message.qos == QoS::AtMostOnce || offer.row.is_none() && offer.tries >= TRIES {
            self.count.dropped.not_taken += 1;
            self.local.gone(&offer.message);
            if let Some(promise) = offer.promise {
                self.settle(promise, false, effects);
            }
            return;
        }
        let pause = RETRY_MS.saturating_mul(1 << offer.tries.min(10)).min(RETRY_MAX_MS);
        self.local.retries.insert((self.now.saturating_add(pause), ticket));
        self.local.refused.insert(ticket, offer);
    }

    /// Gives again what was refused and has waited.
    pub(super) fn local_retry(&mut self, effects: &mut Vec<Effect>) {
        while let Some((at, ticket)) = self.local.retries.first().copied()
            && at <= self.now
        {
            self.local.retries.pop_first();
            if let Some(offer) = self.local.refused.remove(&ticket) {
                self.local.waiting.push_back(offer);
            }
        }
        self.local_pump(effects);
    }
}
