//! What waits for the cloud: bounded queues in [`Table::Outbox`], oldest dropped first.

use std::collections::VecDeque;

use super::{Batch, Table};

/// Which rows of one queue wait. The rows themselves stay in the store.
#[derive(Debug)]
pub struct Outbox {
    prefix: &'static str,
    waiting: VecDeque<u64>,
    next: u64,
    max: usize,
}

impl Outbox {
    /// The queue whose keys begin with `prefix`; `max` rows at most, at least one.
    #[must_use]
    pub fn new(prefix: &'static str, max: u32) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX).max(1);
        Self { prefix, waiting: VecDeque::new(), next: 0, max }
    }

    /// Takes the keys found on disk, in key order.
    pub fn load<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) {
        self.waiting = keys.filter_map(|key| self.sequence(key)).collect();
        self.next = self.waiting.back().map_or(self.next, |last| last.saturating_add(1).max(self.next));
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Appends a row. Returns the writes and how many of the oldest rows had to go.
    pub fn push(&mut self, row: Vec<u8>) -> (Batch, u64) {
        let mut batch = Batch::new();
        let mut dropped = 0;
        while self.waiting.len() >= self.max {
            let Some(oldest) = self.waiting.pop_front() else { break };
            batch = batch.delete(Table::Outbox, self.key(oldest));
            dropped += 1;
        }
        batch = batch.put(Table::Outbox, self.key(self.next), row);
        self.waiting.push_back(self.next);
        self.next = self.next.saturating_add(1);
        (batch, dropped)
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
            batch = batch.delete(Table::Outbox, self.key(oldest));
        }
        batch
    }

    /// Row key of a sequence number; keys sort as the numbers do.
    #[must_use]
    pub fn key(&self, sequence: u64) -> String {
        format!("{}{sequence:020}", self.prefix)
    }

    fn sequence(&self, key: &[u8]) -> Option<u64> {
        std::str::from_utf8(key).ok()?.strip_prefix(self.prefix)?.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn oldest_go_first_when_full_and_sequences_are_never_reused() {
        let mut outbox = Outbox::new("event/", 2);
        assert_eq!(outbox.push(vec![]).1, 0);
        assert_eq!(outbox.push(vec![]).1, 0);
        let (batch, dropped) = outbox.push(vec![]);
        assert_eq!((batch.ops().len(), dropped, outbox.oldest(9)), (2, 1, vec![1, 2]));
        assert_eq!(outbox.confirm(0).ops().len(), 0, "already dropped");
        assert_eq!(outbox.confirm(2).ops().len(), 2);
        let (seven, twelve) = (outbox.key(7), outbox.key(12));
        let keys: [&[u8]; 4] = [seven.as_bytes(), twelve.as_bytes(), b"event/rubbish", b"upload/1"];
        outbox.load(keys.into_iter());
        assert_eq!(outbox.len(), 2);
        outbox.push(vec![]);
        assert_eq!(outbox.oldest(9), [12, 13]);
    }

    proptest! {
        #[test]
        fn never_over_its_bound_and_keys_sort(pushes in 0_usize..50, max in 0_u32..8, confirm in 0_u64..60) {
            let mut outbox = Outbox::new("event/", max);
            let dropped: u64 = (0..pushes).map(|_| outbox.push(vec![]).1).sum();
            prop_assert!(outbox.len() <= max.max(1) as usize);
            prop_assert_eq!(outbox.len() as u64 + dropped, pushes as u64);
            outbox.confirm(confirm);
            let keys: Vec<String> = outbox.oldest(99).into_iter().map(|sequence| outbox.key(sequence)).collect();
            prop_assert!(keys.is_sorted());
            prop_assert!(outbox.oldest(99).iter().all(|left| *left > confirm));
        }
    }
}
