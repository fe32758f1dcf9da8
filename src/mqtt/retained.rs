//! Retained messages, in the order of their topics.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::broker::{Broker, Effect};
use super::message::{Message, SubscriptionIds};
use super::outbound::Target;
use super::packet::QoS;
use super::promise::{PromiseId, need};
use super::topic::{fixed_prefix, is_sys, matches};
use super::trie::SessionIndex;
use super::writes::RowKey;

/// What a retained message costs beside its bytes.
const OVERHEAD_BYTES: usize = 128;
/// Expired ones are looked for this often, milliseconds.
const SWEEP_MS: i64 = 60_000;

#[derive(Debug, Default)]
pub struct Retained {
    by_topic: BTreeMap<Arc<str>, Arc<Message>>,
    bytes: usize,
    /// How many expire.
    mortal: usize,
    sweep_at: Option<i64>,
}

impl Retained {
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_topic.len()
    }

    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    #[must_use]
    pub fn get(&self, topic: &str) -> Option<&Arc<Message>> {
        self.by_topic.get(topic)
    }

    #[must_use]
    pub fn next_sweep(&self) -> Option<i64> {
        self.sweep_at
    }

    pub fn insert(&mut self, message: Arc<Message>, now_ms: i64) {
        self.remove(&message.topic.clone());
        self.bytes += message.bytes() + OVERHEAD_BYTES;
        if message.expires_ms.is_some() {
            self.mortal += 1;
            self.sweep_at = self.sweep_at.or(Some(now_ms.saturating_add(SWEEP_MS)));
        }
        self.by_topic.insert(message.topic.clone(), message);
    }

    pub fn remove(&mut self, topic: &str) -> bool {
        let Some(old) = self.by_topic.remove(topic) else { return false };
        self.bytes -= old.bytes() + OVERHEAD_BYTES;
        if old.expires_ms.is_some() {
            self.mortal -= 1;
            if self.mortal == 0 {
                self.sweep_at = None;
            }
        }
        true
    }

    /// The first message after the topic `after` that matches `filter`.
    #[must_use]
    pub fn next(&self, filter: &str, after: Option<&str>, now_ms: i64) -> Option<&Arc<Message>> {
        let prefix = fixed_prefix(filter);
        let from = after.map_or(Bound::Included(prefix), Bound::Excluded);
        self.by_topic
            .range::<str, _>((from, Bound::Unbounded))
            .take_while(|(topic, _)| topic.starts_with(prefix))
            .find(|(topic, message)| matches(filter, topic) && !message.is_expired(now_ms))
            .map(|(_, message)| message)
    }

    fn expired(&mut self, now_ms: i64) -> Vec<Arc<str>> {
        let found = self.by_topic.iter().filter(|(_, message)| message.is_expired(now_ms));
        let topics: Vec<Arc<str>> = found.map(|(topic, _)| topic.clone()).collect();
        for topic in &topics {
            self.remove(topic);
        }
        self.sweep_at = (self.mortal > 0).then_some(now_ms.saturating_add(SWEEP_MS));
        topics
    }
}

impl Broker {
    /// Keeps a message for later subscribers, or forgets the kept one if it is empty
    /// [MQTT-3.3.1-6].
    pub(super) fn retain(&mut self, message: &Arc<Message>, wanted: &mut Option<PromiseId>) {
        let topic = &message.topic;
        let old = self.retained.get(topic).map(|old| old.bytes() + OVERHEAD_BYTES);
        let size = message.bytes() + OVERHEAD_BYTES;
        let more = self.retained.bytes() - old.unwrap_or(0) + size > self.limits.retained_bytes
            || old.is_none() && self.retained.len() >= self.limits.retained_messages;
        let keep = !message.payload.is_empty() && !more;
        if !message.payload.is_empty() && more {
            self.count.dropped.retained_full += 1;
        }
        if keep {
            self.retained.insert(message.clone(), self.now);
        } else if !self.retained.remove(topic) {
            // A value that cannot be kept any more is forgotten rather than told to be the last.
            return;
        }
        if is_sys(topic) {
            return; // Not worth a disk.
        }
        let promise = (message.qos > QoS::AtMostOnce).then(|| need(&mut self.promises, wanted));
        let key = RowKey::Retained(topic.clone());
        if keep {
            self.writes.put(key, promise, true);
        } else {
            self.writes.delete(key, promise);
        }
    }

    /// Gives one more retained message to a new subscription. `false`: nothing is left, or there is
    /// no room for it now.
    pub(super) fn scan_next(&mut self, index: SessionIndex, effects: &mut Vec<Effect>) -> bool {
        let Some(session) = self.sessions.get_mut(index) else { return false };
        let Some(scan) = session.scans.front_mut() else { return false };
        let Some(message) = self.retained.next(&scan.filter, scan.after.as_deref(), self.now).cloned() else {
            session.scans.pop_front();
            if session.scans.is_empty() {
                session.scans.shrink_to_fit();
            }
            return true;
        };
        if let Some(link) = session.link.as_deref()
            && message.qos.min(scan.options.qos) == QoS::AtMostOnce
            && link.unsent > 0
            && link.unsent + message.bytes() > self.limits.unsent_bytes
        {
            return false; // It would be dropped. The socket takes what is there first.
        }
        scan.after = Some(message.topic.clone());
        let target = Target {
            session: index,
            qos: scan.options.qos,
            retain: true,
            subscription_ids: scan.options.id.map_or(SubscriptionIds::None, SubscriptionIds::One),
            shared: None,
        };
        if message.qos.min(target.qos) == QoS::AtMostOnce {
            self.deliver_at_most_once(&message, target, effects);
        } else {
            self.enqueue(&message, target, None, None, effects);
        }
        true
    }

    pub(super) fn sweep_retained(&mut self) {
        if self.retained.next_sweep().is_none_or(|at| at > self.now) {
            return;
        }
        for topic in self.retained.expired(self.now) {
            self.writes.delete(RowKey::Retained(topic), None);
        }
    }
}
