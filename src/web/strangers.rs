//! Who has a place at a door before it is known who he is. No clock, no I/O.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::time::{Duration, Instant};

/// What became of a newcomer.
#[derive(Debug, PartialEq, Eq)]
pub enum Entry<T> {
    /// A place, by number.
    In(u64),
    /// A place, and whose it was.
    For(u64, T),
    /// All places are taken by others who came just now; the oldest may be asked to go then.
    Wait(Instant),
}

/// The strangers at one door, oldest first; `T` ends one.
#[derive(Debug)]
pub struct Strangers<T> {
    most: usize,
    /// So long nobody is asked to go.
    grace: Duration,
    next: u64,
    inside: BTreeMap<u64, (Instant, T)>,
}

impl<T> Strangers<T> {
    #[must_use]
    pub fn new(most: usize, grace: Duration) -> Self {
        Self { most: most.max(1), grace, next: 0, inside: BTreeMap::new() }
    }

    /// One more comes.
    pub fn enter(&mut self, end: impl FnOnce() -> T, now: Instant) -> Entry<T> {
        let mut left = None;
        if self.inside.len() >= self.most
            && let Some(oldest) = self.inside.first_entry()
        {
            let until = oldest.get().0 + self.grace;
            if until > now {
                return Entry::Wait(until);
            }
            left = Some(oldest.remove().1);
        }
        self.next += 1;
        self.inside.insert(self.next, (now, end()));
        match left {
            None => Entry::In(self.next),
            Some(other) => Entry::For(self.next, other),
        }
    }

    /// One is gone, or no stranger any more. Was he one?
    pub fn leave(&mut self, number: u64) -> bool {
        self.inside.remove(&number).is_some()
    }
}

/// Connections of those who are known, by who.
#[derive(Debug)]
pub struct Guests<K> {
    of_one: u32,
    by_name: HashMap<K, u32>,
}

impl<K: Eq + Hash> Guests<K> {
    #[must_use]
    pub fn new(of_one: u32) -> Self {
        Self { of_one, by_name: HashMap::new() }
    }

    /// One more connection of `name`, unless it has as many as it may.
    pub fn enter(&mut self, name: K) -> bool {
        let count = self.by_name.entry(name).or_insert(0);
        if *count >= self.of_one {
            return false;
        }
        *count += 1;
        true
    }

    pub fn leave(&mut self, name: &K) {
        if let Some(count) = self.by_name.get_mut(name) {
            *count -= 1;
            if *count == 0 {
                self.by_name.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_goes_when_he_has_had_his_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut strangers = Strangers::new(2, Duration::from_secs(1));
        assert_eq!(strangers.enter(|| 'a', at(0)), Entry::In(1));
        assert_eq!(strangers.enter(|| 'b', at(10)), Entry::In(2));
        assert_eq!(strangers.enter(|| 'c', at(20)), Entry::Wait(at(1_000)));
        assert_eq!(strangers.enter(|| 'c', at(1_000)), Entry::For(3, 'a'));
        assert_eq!(strangers.enter(|| 'd', at(1_001)), Entry::Wait(at(1_010)));
        assert!(strangers.leave(2) && !strangers.leave(2) && !strangers.leave(1));
        assert_eq!(strangers.enter(|| 'd', at(1_001)), Entry::In(4), "a place that was left is free");
    }

    #[test]
    fn one_name_has_so_many_connections_and_others_have_theirs() {
        let mut guests = Guests::new(2);
        assert!(guests.enter("a") && guests.enter("a") && !guests.enter("a"));
        assert!(guests.enter("b"));
        guests.leave(&"a");
        guests.leave(&"nobody");
        assert!(guests.enter("a") && !guests.enter("a"));
        for name in ["a", "a", "b"] {
            guests.leave(&name);
        }
        assert!(guests.by_name.is_empty());
    }
}
