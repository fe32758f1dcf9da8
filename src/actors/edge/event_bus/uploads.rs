//! Messages for the cloud (protocol section 7.7): a bounded queue on disk, oldest dropped first.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use crate::model::{Body, Envelope, Resource, group, operation};
use crate::store::{Batch, Table};

/// Key prefix of waiting uploads.
pub const PREFIX: &str = "upload/";
/// The source of uploads on the wire.
const SOURCE: &str = "bus";

/// One message as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upload {
    pub topic: String,
    /// As text: the wire carries a JSON string. What is no UTF-8 is replaced, as Go does it.
    pub payload: String,
    /// Unix milliseconds.
    pub timestamp_ms: i64,
}

impl Upload {
    #[must_use]
    pub fn new(topic: &str, payload: &[u8], timestamp_ms: i64) -> Self {
        let payload = String::from_utf8_lossy(payload).into_owned();
        Self { topic: topic.to_owned(), payload, timestamp_ms }
    }

    /// The message to the cloud; the resource is the topic as it is.
    #[must_use]
    pub fn envelope(&self) -> Envelope {
        let resource = Resource::Other(self.topic.clone());
        let body = Body::Text(self.payload.clone());
        Envelope::new(SOURCE, group::USER, operation::UPLOAD, resource, body, self.timestamp_ms)
    }
}

/// Which rows wait. The rows themselves stay in the store.
#[derive(Debug)]
pub struct Uploads {
    waiting: VecDeque<u64>,
    next: u64,
    max: usize,
}

impl Uploads {
    /// `max` rows at most, at least one.
    #[must_use]
    pub fn new(max: u32) -> Self {
        Self { waiting: VecDeque::new(), next: 0, max: usize::try_from(max).unwrap_or(usize::MAX).max(1) }
    }

    /// Takes the keys found on disk, in key order.
    pub fn load<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) {
        let number = |key: &[u8]| std::str::from_utf8(key).ok()?.strip_prefix(PREFIX)?.parse::<u64>().ok();
        self.waiting = keys.filter_map(number).collect();
        self.next = self.waiting.back().map_or(self.next, |last| last.saturating_add(1).max(self.next));
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Appends an upload. Returns the writes and how many of the oldest rows had to go.
    ///
    /// # Errors
    /// Never for text; what serde says otherwise.
    pub fn push(&mut self, upload: &Upload) -> Result<(Batch, u64), serde_json::Error> {
        let row = serde_json::to_vec(upload)?;
        let mut batch = Batch::new();
        let mut dropped = 0;
        while self.waiting.len() >= self.max {
            let Some(oldest) = self.waiting.pop_front() else { break };
            batch = batch.delete(Table::Outbox, key(oldest));
            dropped += 1;
        }
        batch = batch.put(Table::Outbox, key(self.next), row);
        self.waiting.push_back(self.next);
        self.next = self.next.saturating_add(1);
        Ok((batch, dropped))
    }

    /// The oldest rows, at most `most`.
    #[must_use]
    pub fn oldest(&self, most: usize) -> Vec<u64> {
        self.waiting.iter().take(most).copied().collect()
    }

    /// The cloud has everything up to and including `sequence`.
    pub fn confirm(&mut self, sequence: u64) -> Batch {
        let mut batch = Batch::new();
        while let Some(oldest) = self.waiting.front().copied().filter(|oldest| *oldest <= sequence) {
            self.waiting.pop_front();
            batch = batch.delete(Table::Outbox, key(oldest));
        }
        batch
    }
}

/// Row key of a sequence number; keys sort as the numbers do.
#[must_use]
pub fn key(sequence: u64) -> String {
    format!("{PREFIX}{sequence:020}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oldest_go_first_when_full_and_the_rest_stays_in_order() {
        let upload = Upload::new("t", b"x", 1);
        let mut uploads = Uploads::new(2);
        for want in [0, 0, 1] {
            assert_eq!(uploads.push(&upload).unwrap().1, want);
        }
        assert_eq!(uploads.oldest(9), [1, 2]);
        assert_eq!(uploads.confirm(1).ops().len(), 1);
        uploads.load([key(7).as_bytes(), key(12).as_bytes(), b"upload/rubbish"].into_iter());
        uploads.push(&upload).unwrap();
        assert_eq!(uploads.oldest(9), [12, 13]);
        assert!([key(9), key(10), key(100)].is_sorted());
    }

    #[test]
    fn the_cloud_gets_the_raw_topic_and_the_payload_as_text() {
        let envelope = Upload::new("default/user/a b/#?", b"{\"v\": \xFF}", 5).envelope();
        let route = &envelope.route;
        assert_eq!(
            (route.source.as_str(), route.group.as_str(), route.operation.as_str()),
            ("bus", "user", "upload")
        );
        assert_eq!(route.resource.to_string(), "default/user/a b/#?");
        assert_eq!(envelope.body, Body::Text("{\"v\": \u{FFFD}}".into()));
    }
}
