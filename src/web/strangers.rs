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

/// Times at a door. Whoever is asked to go had at least so long.
#[derive(Debug, Clone, Copy)]
pub struct Graces {
    /// To say what he wants, when few others wait.
    pub calm: Duration,
    /// The same when many wait.
    pub pressed: Duration,
    /// To take the answer to what he asked.
    pub in_hand: Duration,
}

/// The strangers at one door; `T` ends one.
#[derive(Debug)]
pub struct Strangers<T> {
    most: usize,
    graces: Graces,
    next: u64,
    /// Those who ask for nothing now: since when. Oldest first.
    idle: BTreeMap<u64, (Instant, T)>,
    /// Those with a request in hand.
    busy: BTreeMap<u64, (Instant, T)>,
}

impl<T> Strangers<T> {
    #[must_use]
    pub fn new(most: usize, graces: Graces) -> Self {
        Self { most: most.max(1), graces, next: 0, idle: BTreeMap::new(), busy: BTreeMap::new() }
    }

    /// One more comes; `pressed`: many others wait.
    pub fn enter(&mut self, end: impl FnOnce() -> T, pressed: bool, now: Instant) -> Entry<T> {
        let mut left = None;
        if self.idle.len() + self.busy.len() >= self.most {
            let grace = if pressed { self.graces.pressed } else { self.graces.calm };
            let idle = self.idle.first_key_value().map(|(_, (since, _))| *since + grace);
            let busy = self.busy.first_key_value().map(|(_, (since, _))| *since + self.graces.in_hand);
            let (from, until) = match (idle, busy) {
                (Some(idle), busy) if busy.is_none_or(|busy| idle <= busy) => (&mut self.idle, idle),
                (_, Some(busy)) => (&mut self.busy, busy),
                _ => return Entry::Wait(now + grace),
            };
            if until > now {
                return Entry::Wait(until);
            }
            left = from.pop_first().map(|(_, (_, end))| end);
        }
        self.next += 1;
        self.idle.insert(self.next, (now, end()));
        match left {
            None => Entry::In(self.next),
            Some(other) => Entry::For(self.next, other),
        }
    }

    /// A request of his is in hand from now on, or none any more. A new number: he is the youngest again.
    pub fn turn(&mut self, number: u64, is_busy: bool, now: Instant) -> u64 {
        let (from, to) =
            if is_busy { (&mut self.idle, &mut self.busy) } else { (&mut self.busy, &mut self.idle) };
        let Some((_, end)) = from.remove(&number) else { return number };
        self.next += 1;
        to.insert(self.next, (now, end));
        self.next
    }

    /// One is gone, or no stranger any more. Was he one?
    pub fn leave(&mut self, number: u64) -> bool {
        self.idle.remove(&number).or_else(|| self.busy.remove(&number)).is_some()
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

    fn graces() -> Graces {
        let ms = Duration::from_millis;
        Graces { calm: ms(1_000), pressed: ms(100), in_hand: ms(5_000) }
    }

    #[test]
    fn the_oldest_goes_when_he_has_had_his_time() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut strangers = Strangers::new(2, graces());
        assert_eq!(strangers.enter(|| 'a', false, at(0)), Entry::In(1));
        assert_eq!(strangers.enter(|| 'b', false, at(10)), Entry::In(2));
        assert_eq!(strangers.enter(|| 'c', false, at(20)), Entry::Wait(at(1_000)));
        assert_eq!(strangers.enter(|| 'c', false, at(1_000)), Entry::For(3, 'a'));
        assert_eq!(strangers.enter(|| 'd', false, at(1_001)), Entry::Wait(at(1_010)));
        assert!(strangers.leave(2) && !strangers.leave(2) && !strangers.leave(1));
        assert_eq!(strangers.enter(|| 'd', false, at(1_001)), Entry::In(4), "a place that was left is free");
    }

    #[test]
    fn in_a_crowd_they_go_sooner_but_not_those_who_are_being_answered() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut strangers = Strangers::new(2, graces());
        strangers.enter(|| 'a', false, at(0));
        strangers.enter(|| 'b', false, at(1));
        let a = strangers.turn(1, true, at(2));
        assert_eq!(strangers.enter(|| 'c', true, at(50)), Entry::Wait(at(101)));
        assert_eq!(strangers.enter(|| 'c', true, at(101)), Entry::For(4, 'b'));
        let c = strangers.turn(4, true, at(101));
        assert_eq!(
            strangers.enter(|| 'd', true, at(4_000)),
            Entry::Wait(at(5_002)),
            "all are being answered"
        );
        let a = strangers.turn(a, false, at(4_000));
        assert_eq!(strangers.enter(|| 'd', true, at(4_001)), Entry::Wait(at(4_100)), "he may ask once more");
        assert!(strangers.leave(a) && strangers.leave(c));
        assert_eq!(strangers.turn(99, true, at(0)), 99, "one who is no stranger");
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
