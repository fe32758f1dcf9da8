//! How many connections and streams come from one place, so that one container cannot take all there
//! are. Pure but for a lock.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Between two lines about what was turned away.
const SURPLUS_EVERY: Duration = Duration::from_secs(60);

/// Counts connections, or streams, by where they come from.
#[derive(Debug, Clone)]
pub struct Origins {
    most: usize,
    counts: Arc<Mutex<HashMap<u64, usize>>>,
}

/// One of them; counted until dropped.
#[derive(Debug)]
pub struct Visit {
    origin: u64,
    counts: Arc<Mutex<HashMap<u64, usize>>>,
}

impl Origins {
    /// At most `most` from each.
    #[must_use]
    pub fn new(most: usize) -> Self {
        Self { most, counts: Arc::default() }
    }

    /// `None` when there are too many from there.
    #[must_use]
    pub fn enter(&self, origin: u64) -> Option<Visit> {
        let mut counts = self.counts.lock();
        let count = counts.entry(origin).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Visit { origin, counts: Arc::clone(&self.counts) })
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Some(count) = counts.get_mut(&self.origin) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                counts.remove(&self.origin);
            }
        }
    }
}

/// What was turned away and not yet told: one line in a while, whoever knocks how often.
#[derive(Debug, Default)]
pub struct Surplus {
    told_at: Option<Instant>,
    untold: u64,
}

impl Surplus {
    /// One more was turned away: how many there were since the last line, if one is due.
    pub fn say(&mut self, now: Instant) -> Option<u64> {
        self.untold += 1;
        if self.told_at.is_some_and(|at| now.saturating_duration_since(at) < SURPLUS_EVERY) {
            return None;
        }
        self.told_at = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_place_cannot_take_the_others() {
        let origins = Origins::new(2);
        let first = origins.enter(1).unwrap();
        let _second = origins.enter(1).unwrap();
        assert!(origins.enter(1).is_none());
        assert!(origins.enter(2).is_some());
        drop(first);
        assert!(origins.enter(1).is_some());
        assert_eq!(origins.counts.lock().len(), 1, "what left is not remembered");
    }

    #[test]
    fn what_is_turned_away_is_told_once_in_a_while() {
        let (mut surplus, start) = (Surplus::default(), Instant::now());
        assert_eq!(surplus.say(start), Some(1));
        for _ in 0..5 {
            assert_eq!(surplus.say(start + SURPLUS_EVERY / 2), None);
        }
        assert_eq!(surplus.say(start + SURPLUS_EVERY), Some(6));
        assert_eq!(surplus.say(start), None, "a clock that went back");
    }
}
