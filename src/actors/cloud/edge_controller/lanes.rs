//! When an API call of a node may run: in order per object, bounded per node, leases and statuses
//! never behind anything else. No clock, no I/O.

use std::collections::{HashMap, HashSet, VecDeque};

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
    busy: HashSet<String>,
    waiting: VecDeque<(String, T)>,
}

impl<T> Default for Lanes<T> {
    fn default() -> Self {
        Self { of: HashMap::new() }
    }
}

impl<T> Lanes<T> {
    /// Takes a call about `object`. Returns it when it may run now.
    ///
    /// # Errors
    /// [`Full`]; the call is dropped.
    pub fn push(&mut self, node: &NodeName, class: Class, object: &str, call: T) -> Result<Option<T>, Full> {
        let lane = self
            .of
            .entry((node.clone(), class))
            .or_insert_with(|| Lane { busy: HashSet::new(), waiting: VecDeque::new() });
        let waits = lane.busy.contains(object) || lane.waiting.iter().any(|(other, _)| other == object);
        if !waits && lane.busy.len() < RUNNING {
            lane.busy.insert(object.to_owned());
            return Ok(Some(call));
        }
        if lane.waiting.len() >= WAITING {
            return Err(Full);
        }
        lane.waiting.push_back((object.to_owned(), call));
        Ok(None)
    }

    /// A call has ended. Returns the ones that may run now.
    pub fn done(&mut self, node: &NodeName, class: Class, object: &str) -> Vec<T> {
        let key = (node.clone(), class);
        let Some(lane) = self.of.get_mut(&key) else { return Vec::new() };
        lane.busy.remove(object);
        let mut started = Vec::new();
        while lane.busy.len() < RUNNING {
            let free = lane.waiting.iter().position(|(object, _)| !lane.busy.contains(object));
            let Some((object, call)) = free.and_then(|at| lane.waiting.remove(at)) else { break };
            lane.busy.insert(object);
            started.push(call);
        }
        if lane.busy.is_empty() && lane.waiting.is_empty() {
            self.of.remove(&key);
        }
        started
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_and_bounds() {
        let node = NodeName::parse("n1").unwrap();
        let mut lanes = Lanes::default();
        assert_eq!(lanes.push(&node, Class::Rest, "a", 1), Ok(Some(1)));
        assert_eq!(lanes.push(&node, Class::Rest, "a", 2), Ok(None), "in order per object");
        assert_eq!(lanes.push(&node, Class::Rest, "b", 3), Ok(Some(3)), "others pass");
        for n in 0..RUNNING {
            let want = (n < RUNNING - 2).then_some(100);
            assert_eq!(lanes.push(&node, Class::Rest, &format!("x{n}"), 100), Ok(want));
        }
        assert_eq!(lanes.push(&node, Class::Status, "lease", 4), Ok(Some(4)), "never behind the rest");
        assert_eq!(lanes.done(&node, Class::Rest, "b"), [100], "a is busy, so the next one");
        assert_eq!(lanes.done(&node, Class::Rest, "a"), [2]);
        for n in 0..WAITING {
            let want = if n + 1 < WAITING { Ok(None) } else { Err(Full) };
            assert_eq!(lanes.push(&node, Class::Rest, "z", n), want);
        }
    }

    #[test]
    fn forgets_idle_nodes() {
        let node = NodeName::parse("n1").unwrap();
        let mut lanes = Lanes::default();
        assert_eq!(lanes.push(&node, Class::Rest, "a", 1), Ok(Some(1)));
        assert!(lanes.done(&node, Class::Rest, "a").is_empty());
        assert!(lanes.of.is_empty());
    }
}
