//! What waits for the cloud: bounded queues in [`Table::Outbox`], oldest dropped first.

use std::collections::VecDeque;

use super::{Batch, Row, Table};

/// Longest queue by weight, bytes of its rows: what it takes of the disk, and of memory while it is loaded.
pub const MAX_BYTES: usize = 64 << 20;
/// Most that is read at once, bytes; a single row may weigh more.
const TURN_BYTES: usize = 1 << 20;

/// Which rows of one queue wait. The rows themselves stay in the store.
#[derive(Debug)]
pub struct Outbox {
    prefix: &'static str,
    waiting: VecDeque<Waiting>,
    bytes: usize,
    next: u64,
    max: usize,
    max_bytes: usize,
}

#[derive(Debug, Clone, Copy)]
struct Waiting {
    sequence: u64,
    bytes: usize,
}

impl Outbox {
    /// The queue whose keys begin with `prefix`; `max` rows at most, at least one, of [`MAX_BYTES`] together.
    #[must_use]
    pub fn new(prefix: &'static str, max: u32) -> Self {
        let max = usize::try_from(max).unwrap_or(usize::MAX).max(1);
        Self { prefix, waiting: VecDeque::new(), bytes: 0, next: 0, max, max_bytes: MAX_BYTES }
    }

    /// Forgets what it holds: rows found on disk are [loaded](Self::load) next.
    pub fn clear(&mut self) {
        self.waiting.clear();
        self.bytes = 0;
    }

    /// Takes rows found on disk, in key order.
    pub fn load(&mut self, rows: &[Row]) {
        for (key, row) in rows {
            let Some(sequence) = self.sequence(key) else { continue };
            self.wait(sequence, row.len());
            self.next = self.next.max(sequence.saturating_add(1));
        }
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Appends a row. Returns the writes and how many of the oldest rows had to go.
    pub fn push(&mut self, row: Vec<u8>) -> (Batch, u64) {
        let mut batch = Batch::new();
        let mut dropped = 0;
        while self.waiting.len() >= self.max || self.bytes.saturating_add(row.len()) > self.max_bytes {
            let Some(oldest) = self.leave() else { break };
            batch = batch.delete(Table::Outbox, self.key(oldest));
            dropped += 1;
        }
        self.wait(self.next, row.len());
        batch = batch.put(Table::Outbox, self.key(self.next), row);
        self.next = self.next.saturating_add(1);
        (batch, dropped)
    }

    /// The oldest rows, at most `most`, and no more than can well be read at once.
    #[must_use]
    pub fn oldest(&self, most: usize) -> Vec<u64> {
        let mut left = TURN_BYTES;
        let fits = |row: &&Waiting| {
            let fits = left == TURN_BYTES || row.bytes <= left;
            left = left.saturating_sub(row.bytes);
            fits
        };
        self.waiting.iter().take(most).take_while(fits).map(|row| row.sequence).collect()
    }

    /// The cloud has everything up to and including `sequence`.
    pub fn confirm(&mut self, sequence: u64) -> Batch {
        let mut batch = Batch::new();
        while self.waiting.front().is_some_and(|oldest| oldest.sequence <= sequence)
            && let Some(oldest) = self.leave()
        {
            batch = batch.delete(Table::Outbox, self.key(oldest));
        }
        batch
    }

    /// Row key of a sequence number; keys sort as the numbers do.
    #[must_use]
    pub fn key(&self, sequence: u64) -> String {
        format!("{}{sequence:020}", self.prefix)
    }

    fn wait(&mut self, sequence: u64, bytes: usize) {
        self.waiting.push_back(Waiting { sequence, bytes });
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn leave(&mut self) -> Option<u64> {
        let oldest = self.waiting.pop_front()?;
        self.bytes = self.bytes.saturating_sub(oldest.bytes);
        Some(oldest.sequence)
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
        let keys = [seven.as_str(), twelve.as_str(), "event/rubbish", "upload/1"];
        outbox.load(&keys.map(|key| (key.as_bytes().to_vec(), vec![])));
        assert_eq!(outbox.len(), 2);
        outbox.push(vec![]);
        assert_eq!(outbox.oldest(9), [12, 13]);
    }

    #[test]
    fn few_heavy_rows_are_read_at_once_and_one_at_least() {
        let mut outbox = Outbox::new("event/", 9);
        for bytes in [TURN_BYTES / 2, TURN_BYTES / 2, 1, 2 * TURN_BYTES, 1] {
            outbox.push(vec![0; bytes]);
        }
        let mut turns = Vec::new();
        while let Some(last) = outbox.oldest(9).last().copied() {
            turns.push(outbox.oldest(9).len());
            outbox.confirm(last);
        }
        assert_eq!((turns, outbox.bytes), (vec![2, 1, 1, 1], 0));
    }

    proptest! {
        #[test]
        fn never_over_its_bounds_and_keys_sort(
            pushes in proptest::collection::vec(0_usize..20, 0..50),
            max in 0_u32..8,
            confirm in 0_u64..60,
        ) {
            let mut outbox = Outbox::new("event/", max);
            outbox.max_bytes = 40;
            let mut dropped = 0;
            for bytes in &pushes {
                dropped += outbox.push(vec![0; *bytes]).1;
                let newest = pushes.iter().take(outbox.next as usize).rev().take(outbox.len());
                prop_assert_eq!(outbox.bytes, newest.sum::<usize>());
                prop_assert!(outbox.len() <= max.max(1) as usize && outbox.bytes <= outbox.max_bytes);
            }
            prop_assert_eq!(outbox.len() as u64 + dropped, pushes.len() as u64);
            outbox.confirm(confirm);
            let keys: Vec<String> = outbox.oldest(99).into_iter().map(|sequence| outbox.key(sequence)).collect();
            prop_assert!(keys.is_sorted());
            prop_assert!(outbox.oldest(99).iter().all(|left| *left > confirm));
        }
    }
}
