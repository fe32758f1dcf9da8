//! When an API call of a node may run: in order per object, bounded per node, leases and statuses
//! never behind anything else. No clock, no I/O.

use std::collections::{HashMap, VecDeque};

use crate::model::NodeName;

/// Calls of one class share a limit; classes never wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// Leases, node and pod statuses, registration.
    Status,
    /// Queries, tokens, events and the rest.
    Rest,
}

/// Calls of one class of one node at once.
const RUNNING: usize = 16;
/// Calls of one class of one node that wait. More are refused: their senders ask again.
const WAITING: usize = 512;

/// Memory that the calls of one class of one node may hold, waiting or running, bytes. A single call
/// may hold more: frames are bounded.
const HELD_BYTES: usize = 16 << 20;

/// The waiting list of its class is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// Calls `T` of all nodes.
#[derive(Debug)]
pub struct Lanes<T> {
    of: HashMap<(NodeName, Class), Lane<T>>,
}

#[derive(Debug)]
struct Lane<T> {
    /// Objects with a call under way.
    busy: HashMap<String, usize>,
    waiting: VecDeque<Waiting<T>>,
    held_bytes: usize,
}

#[derive(Debug)]
struct Waiting<T> {
    object: String,
    bytes: usize,
    call: T,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { of: HashMap::new() }
    }
}

impl<T> Lanes<T> {
    /// Takes a call about `object` that holds `bytes` of memory. Returns it when it may run now.
    ///
    /// # Errors
    /// [`Full`]; the call is dropped.
    pub fn push(
        &mut self,
        node: &NodeName,
        class: Class,
        object: &str,
        bytes: usize,
        call: T,
    ) -> Result<Option<T>, Full> {
        let lane = self.of.entry((node.clone(), class)).or_insert_with(|| Lane {
            busy: HashMap::new(),
            waiting: VecDeque::new(),
            held_bytes: 0,
        });
        if lane.held_bytes > 0 && lane.held_bytes.saturating_add(bytes) > HELD_BYTES {
            return Err(Full);
        }
        let waits = lane.busy.contains_key(object) || lane.waiting.iter().any(|other| other.object == object);
        if !waits && lane.busy.len() < RUNNING {
            lane.held_bytes = lane.held_bytes.saturating_add(bytes);
            lane.busy.insert(object.to_owned(), bytes);
            return Ok(Some(call));
        }
        if lane.waiting.len() >= WAITING {
            return Err(Full);
        }
        lane.held_bytes = lane.held_bytes.saturating_add(bytes);
        lane.waiting.push_back(Waiting { object: object.to_owned(), bytes, call });
        Ok(None)
    }

    /// A call has ended. Returns the ones that may run now.
    pub fn done(&mut self, node: &NodeName, class: Class, object: &str) -> Vec<T> {
        let key = (node.clone(), class);
        let Some(lane) = self.of.get_mut(&key) else { return Vec::new() };
        lane.held_bytes = lane.held_bytes.saturating_sub(lane.busy.remove(object).unwrap_or(0));
        let mut started = Vec::new();
        while lane.busy.len() < RUNNING {
            let free = lane.waiting.iter().position(|next| !lane.busy.contains_key(&next.object));
            let Some(next) = free.and_then(|at| lane.waiting.remove(at)) else { break };
            lane.busy.insert(next.object, next.bytes);
            started.push(next.call);
        }
        if lane.busy.is_empty() && lane.waiting.is_empty() {
            self.of.remove(&key);
        }
        started
    }
}

impl<T> Lanes<T> {
    /// Takes away calls that wait. Returns how many.
    pub fn forget(&mut self, node: &NodeName, class: Class, is_stale: impl Fn(&T) -> bool) -> usize {
        let Some(lane) = self.of.get_mut(&(node.clone(), class)) else { return 0 };
        let before = lane.waiting.len();
        let mut bytes = 0;
        lane.waiting.retain(|it| {
            let stale = is_stale(&it.call);
            bytes += if stale { it.bytes } else { 0 };
            !stale
        });
        lane.held_bytes = lane.held_bytes.saturating_sub(bytes);
        before - lane.waiting.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stale_does_not_run() {
        let node = NodeName::parse("n1").unwrap();
        let mut lanes = Lanes::default();
        for call in 1..=4 {
            let large = HELD_BYTES / 4;
            let want = (call == 1).then_some(call);
            assert_eq!(lanes.push(&node, Class::Status, "pod/a", large, call), Ok(want));
        }
        assert_eq!(lanes.push(&node, Class::Status, "pod/a", 1, 5), Err(Full));
        assert_eq!(lanes.forget(&node, Class::Status, |call| *call != 3), 2);
        assert_eq!(lanes.forget(&node, Class::Rest, |_| true), 0);
        assert_eq!(
            lanes.push(&node, Class::Status, "pod/a", HELD_BYTES / 4, 6),
            Ok(None),
            "there is room again"
        );
        assert_eq!(lanes.done(&node, Class::Status, "pod/a"), [3]);
        assert_eq!(lanes.done(&node, Class::Status, "pod/a"), [6]);
    }

    #[test]
    fn order_and_bounds() {
        let node = NodeName::parse("n1").unwrap();
        let mut lanes = Lanes::default();
        assert_eq!(lanes.push(&node, Class::Rest, "a", 1, 1), Ok(Some(1)));
        assert_eq!(lanes.push(&node, Class::Rest, "a", 1, 2), Ok(None), "in order per object");
        assert_eq!(lanes.push(&node, Class::Rest, "b", 1, 3), Ok(Some(3)), "others pass");
        for n in 0..RUNNING {
            let want = (n < RUNNING - 2).then_some(100);
            assert_eq!(lanes.push(&node, Class::Rest, &format!("x{n}"), 1, 100), Ok(want));
        }
        assert_eq!(lanes.push(&node, Class::Status, "lease", 1, 4), Ok(Some(4)), "never behind the rest");
        assert_eq!(lanes.done(&node, Class::Rest, "b"), [100], "a is busy, so the next one");
        assert_eq!(lanes.done(&node, Class::Rest, "a"), [2]);
        for n in 0..WAITING {
            let want = if n + 1 < WAITING { Ok(None) } else { Err(Full) };
            assert_eq!(lanes.push(&node, Class::Rest, "z", 1, n), want);
        }
    }

    #[test]
    fn forgets_idle_nodes() {
        let node = NodeName::parse("n1").unwrap();
        let mut lanes = Lanes::default();
        assert_eq!(lanes.push(&node, Class::Rest, "a", 1, 1), Ok(Some(1)));
        assert!(lanes.done(&node, Class::Rest, "a").is_empty());
        assert!(lanes.of.is_empty());
    }

    #[test]
    fn a_flood_of_large_calls_is_refused_before_it_fills_the_memory() {
        let node = NodeName::parse("n1").unwrap();
        let mut lanes = Lanes::default();
        let large = HELD_BYTES / 4;
        let taken = (0..100).filter(|n| lanes.push(&node, Class::Rest, "a", large, *n).is_ok()).count();
        assert_eq!(taken, 4);
        assert_eq!(lanes.push(&node, Class::Status, "a", 2 * HELD_BYTES, 7), Ok(Some(7)), "alone it passes");
        assert_eq!(lanes.done(&node, Class::Rest, "a"), [1]);
        assert_eq!(lanes.push(&node, Class::Rest, "a", large, 200), Ok(None), "there is room again");
        for _ in 0..4 {
            lanes.done(&node, Class::Rest, "a");
        }
        assert!(!lanes.of.contains_key(&(node, Class::Rest)));
    }
}
