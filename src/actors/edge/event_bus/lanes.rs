//! Messages on their way to DeviceTwin: many at once, those of one device in order.
//!
//! A device's messages are sent one after the other without waiting, up to a window. When one is
//! not taken, what was sent after it may have been: everything from it on is sent again in order,
//! once all answers are in. Messages of devices are states, so doing one twice ends the same.

use std::collections::{HashMap, VecDeque};

/// Messages of one device that are being taken at once.
const WINDOW: usize = 64;

/// Names an attempt to have a message taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Attempt {
    lane: u64,
    number: u64,
}

/// What to do next.
#[derive(Debug, PartialEq, Eq)]
pub struct Send<T> {
    pub attempt: Attempt,
    pub item: T,
}

#[derive(Debug)]
struct Entry<T> {
    item: T,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Sent; the number of its attempt.
    Sent(u64),
    Taken,
    /// Not taken: this and all after it go again.
    Failed,
}

#[derive(Debug)]
struct Lane<T> {
    key: String,
    entries: VecDeque<Entry<T>>,
    /// Answers that are out.
    out: usize,
    /// One failed: wait for the other answers, then for [`Lanes::retry`].
    broken: bool,
}

/// All lanes.
#[derive(Debug)]
pub struct Lanes<T> {
    by_key: HashMap<String, u64>,
    lanes: HashMap<u64, Lane<T>>,
    next: u64,
    len: usize,
}

/// What an answer led to.
#[derive(Debug, PartialEq, Eq)]
pub struct Settled<T> {
    /// Taken for good, in order.
    pub taken: Vec<T>,
    pub send: Vec<Send<T>>,
    /// Call [`Lanes::retry`] with this lane after a pause.
    pub retry: Option<u64>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { by_key: HashMap::new(), lanes: HashMap::new(), next: 0, len: 0 }
    }
}

impl<T: Clone> Lanes<T> {
    /// Messages that are not taken yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Adds a message to the end of its device's lane.
    pub fn push(&mut self, key: &str, item: T) -> Vec<Send<T>> {
        let number = match self.by_key.get(key) {
            Some(number) => *number,
            None => {
                self.next += 1;
                self.by_key.insert(key.to_owned(), self.next);
                let lane = Lane { key: key.to_owned(), entries: VecDeque::new(), out: 0, broken: false };
                self.lanes.insert(self.next, lane);
                self.next
            }
        };
        self.len += 1;
        let Some(lane) = self.lanes.get_mut(&number) else { return Vec::new() };
        lane.entries.push_back(Entry { item, state: State::Waiting });
        lane.fill(number, &mut self.next)
    }

    /// The answer to an attempt. One of an older attempt changes nothing.
    pub fn settle(&mut self, attempt: Attempt, is_taken: bool) -> Settled<T> {
        let mut settled = Settled { taken: Vec::new(), send: Vec::new(), retry: None };
        let Some(lane) = self.lanes.get_mut(&attempt.lane) else { return settled };
        let sent = State::Sent(attempt.number);
        let Some(entry) = lane.entries.iter_mut().find(|entry| entry.state == sent) else { return settled };
        entry.state = if is_taken { State::Taken } else { State::Failed };
        lane.out -= 1;
        lane.broken |= !is_taken;
        while lane.entries.front().is_some_and(|entry| entry.state == State::Taken) {
            settled.taken.extend(lane.entries.pop_front().map(|entry| entry.item));
            self.len -= 1;
        }
        if lane.broken {
            settled.retry = (lane.out == 0).then_some(attempt.lane);
        } else if lane.entries.is_empty() {
            self.by_key.remove(&lane.key);
            self.lanes.remove(&attempt.lane);
        } else {
            settled.send = lane.fill(attempt.lane, &mut self.next);
        }
        settled
    }

    /// Sends a broken lane again from what failed first.
    pub fn retry(&mut self, lane: u64) -> Vec<Send<T>> {
        let Some(broken) = self.lanes.get_mut(&lane).filter(|lane| lane.broken && lane.out == 0) else {
            return Vec::new();
        };
        broken.broken = false;
        broken.entries.iter_mut().for_each(|entry| entry.state = State::Waiting);
        broken.fill(lane, &mut self.next)
    }
}

impl<T: Clone> Lane<T> {
    fn fill(&mut self, lane: u64, next: &mut u64) -> Vec<Send<T>> {
        let mut send = Vec::new();
        if self.broken || self.out >= WINDOW {
            return send;
        }
        for entry in self.entries.iter_mut().filter(|entry| entry.state == State::Waiting) {
            if self.out >= WINDOW {
                break;
            }
            *next += 1;
            entry.state = State::Sent(*next);
            self.out += 1;
            send.push(Send { attempt: Attempt { lane, number: *next }, item: entry.item.clone() });
        }
        send
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NONE: [i32; 0] = [];

    fn items<T: Clone>(sends: &[Send<T>]) -> Vec<T> {
        sends.iter().map(|send| send.item.clone()).collect()
    }

    #[test]
    fn devices_do_not_wait_for_each_other_and_each_keeps_its_order() {
        let mut lanes = Lanes::default();
        let a1 = lanes.push("a", 1).remove(0);
        let a2 = lanes.push("a", 2).remove(0);
        let b3 = lanes.push("b", 3).remove(0);
        assert_eq!(lanes.settle(a2.attempt, true).taken, NONE, "1 is not taken yet");
        assert_eq!(lanes.settle(b3.attempt, true).taken, [3]);
        assert_eq!(lanes.settle(a1.attempt, true).taken, [1, 2]);
        assert_eq!(lanes.len(), 0);
        assert!(lanes.lanes.is_empty() && lanes.by_key.is_empty());
        assert_eq!(lanes.settle(a1.attempt, false), Settled { taken: vec![], send: vec![], retry: None });
    }

    #[test]
    fn what_follows_a_failure_goes_again_in_order() {
        let mut lanes = Lanes::default();
        let sends: Vec<_> = (1..=3).flat_map(|n| lanes.push("a", n)).collect();
        assert_eq!(lanes.settle(sends[0].attempt, true).taken, [1]);
        assert_eq!(lanes.settle(sends[1].attempt, false).retry, None, "an answer is out");
        assert_eq!(items(&lanes.push("a", 4)), NONE, "the lane is broken");
        let retry = lanes.settle(sends[2].attempt, true).retry.unwrap();
        let again = lanes.retry(retry);
        assert_eq!(items(&again), [2, 3, 4]);
        assert_eq!(items(&lanes.retry(retry)), NONE);
        assert_eq!(lanes.settle(sends[1].attempt, true).taken, NONE, "an old answer");
        let taken: Vec<_> = again.iter().flat_map(|send| lanes.settle(send.attempt, true).taken).collect();
        assert_eq!(taken, [2, 3, 4]);
    }

    #[test]
    fn the_window_bounds_what_is_out() {
        let mut lanes = Lanes::default();
        let sends: Vec<_> = (0..WINDOW + 5).flat_map(|n| lanes.push("a", n)).collect();
        assert_eq!(sends.len(), WINDOW);
        assert_eq!(items(&lanes.settle(sends[0].attempt, true).send), [WINDOW]);
    }

    proptest! {
        /// Whatever fails in whatever order: everything is taken once, in order.
        #[test]
        fn nothing_is_lost_or_overtaken(answers in proptest::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 1..200)) {
            let mut lanes = Lanes::default();
            let mut out: Vec<Send<usize>> = Vec::new();
            let mut taken = Vec::new();
            let mut pushed = 0;
            let step = |lanes: &mut Lanes<usize>, out: &mut Vec<Send<usize>>, taken: &mut Vec<usize>, at: usize, ok| {
                let send = out.remove(at);
                let settled = lanes.settle(send.attempt, ok);
                taken.extend(settled.taken);
                out.extend(settled.send);
                if let Some(lane) = settled.retry { out.extend(lanes.retry(lane)); }
            };
            for (at, ok) in answers {
                out.extend(lanes.push("a", pushed));
                pushed += 1;
                let at = at.index(out.len().max(1));
                if at < out.len() { step(&mut lanes, &mut out, &mut taken, at, ok); }
            }
            while !out.is_empty() { step(&mut lanes, &mut out, &mut taken, 0, true); }
            prop_assert_eq!(taken, (0..pushed).collect::<Vec<_>>());
            prop_assert_eq!(lanes.len(), 0);
        }
    }
}
