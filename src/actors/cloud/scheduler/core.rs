//! The scheduler's memory and its decisions. No clock, no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::place::{Room, explain, place};
use super::view::{Node, Pod, PodKey};
use crate::supervise::{doubled, spread};

/// First and longest pause before a pod is tried again, as in kube-scheduler.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(10);
/// A pod that no change helps is still tried this often: changes may have been missed.
const STALE_AFTER: SignedDuration = SignedDuration::from_mins(5);
/// Calls under way at once.
const IN_FLIGHT_MAX: usize = 16;

/// What the watches say; `Init` to `InitDone` is a fresh list.
#[derive(Debug)]
pub enum Change<K> {
    Init,
    Listed(K),
    InitDone,
    Applied(K),
    /// Name of what went.
    Deleted(K),
}

/// What the actor must do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    Bind {
        key: PodKey,
        uid: String,
        node: String,
    },
    /// Set the condition and tell by an event.
    Explain {
        key: PodKey,
        uid: String,
        message: String,
    },
}

/// How a binding ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Done,
    /// Another scheduler was faster, or the pod is gone: the watch will tell.
    Moot,
    Failed,
}

#[derive(Debug, Clone, Copy)]
struct Attempt {
    tries: u32,
    first_seen: Timestamp,
    /// Not before this time.
    due: Timestamp,
    /// Nothing changed since it was found unschedulable.
    waits_for_change: bool,
    binding: bool,
}

/// Everything the scheduler knows. Rebuilt from the watches after a restart.
#[derive(Debug, Default)]
pub struct Core {
    rooms: BTreeMap<String, Room>,
    pods: BTreeMap<PodKey, Pod>,
    attempts: BTreeMap<PodKey, Attempt>,
    /// A list under way.
    listed_pods: Option<BTreeMap<PodKey, Pod>>,
    listed_nodes: Option<Vec<Node>>,
    pods_known: bool,
    nodes_known: bool,
    in_flight: usize,
}

impl Core {
    /// Takes in what the pod watch says.
    pub fn see_pod(&mut self, change: Change<Pod>, now: Timestamp) {
        match change {
            Change::Init => self.listed_pods = Some(BTreeMap::new()),
            Change::Listed(pod) => {
                self.listed_pods.get_or_insert_default().insert(pod.key.clone(), pod);
            }
            Change::InitDone => {
                let listed = self.listed_pods.take().unwrap_or_default();
                let gone: Vec<PodKey> =
                    self.pods.keys().filter(|key| !listed.contains_key(*key)).cloned().collect();
                gone.iter().for_each(|key| self.drop_pod(key));
                listed.into_values().for_each(|pod| self.apply_pod(pod, now));
                self.pods_known = true;
            }
            Change::Applied(pod) => self.apply_pod(pod, now),
            Change::Deleted(pod) => self.drop_pod(&pod.key),
        }
    }

    /// Takes in what the node watch says.
    pub fn see_node(&mut self, change: Change<Node>) {
        match change {
            Change::Init => self.listed_nodes = Some(Vec::new()),
            Change::Listed(node) => self.listed_nodes.get_or_insert_default().push(node),
            Change::InitDone => {
                let listed = self.listed_nodes.take().unwrap_or_default();
                self.rooms.retain(|name, _| listed.iter().any(|node| node.name == *name));
                listed.into_iter().for_each(|node| self.apply_node(node));
                self.nodes_known = true;
            }
            Change::Applied(node) => self.apply_node(node),
            Change::Deleted(node) => {
                self.rooms.remove(&node.name);
            }
        }
    }

    fn apply_node(&mut self, node: Node) {
        let name = node.name.clone();
        match self.rooms.get_mut(&name) {
            // Heartbeats change nothing that counts here.
            Some(room) if room.node == node => return,
            Some(room) => room.node = node,
            None => {
                let mut room = Room { node, ..Room::default() };
                let here = self.pods.values().filter(|pod| pod.node == name && !pod.over);
                here.for_each(|pod| room.take(pod));
                self.rooms.insert(name, room);
            }
        }
        self.wake();
    }

    fn apply_pod(&mut self, pod: Pod, now: Timestamp) {
        if self.pods.get(&pod.key).is_some_and(|old| *old == pod) {
            return;
        }
        // A binding of ours that the watch has not shown yet still takes its room.
        let mut pod = pod;
        if let Some(old) = self.pods.get(&pod.key)
            && old.uid == pod.uid
            && self.attempts.get(&pod.key).is_some_and(|attempt| attempt.binding)
            && pod.waiting
        {
            pod.node.clone_from(&old.node);
        }
        self.forget_room(&pod.key);
        let replaced = self.pods.get(&pod.key).is_some_and(|old| old.uid != pod.uid);
        if !pod.waiting || replaced {
            self.attempts.remove(&pod.key);
        }
        if pod.waiting {
            let fresh =
                Attempt { tries: 0, first_seen: now, due: now, waits_for_change: false, binding: false };
            self.attempts.entry(pod.key.clone()).or_insert(fresh);
        }
        if !pod.over
            && let Some(room) = self.rooms.get_mut(&pod.node)
        {
            room.take(&pod);
        }
        self.pods.insert(pod.key.clone(), pod);
    }

    fn drop_pod(&mut self, key: &PodKey) {
        self.forget_room(key);
        self.attempts.remove(key);
        self.pods.remove(key);
    }

    /// Counts a pod out of its node; what it took may help others.
    fn forget_room(&mut self, key: &PodKey) {
        let Some(pod) = self.pods.get(key).filter(|pod| !pod.over && !pod.node.is_empty()) else { return };
        if let Some(room) = self.rooms.get_mut(&pod.node) {
            room.free(pod);
            self.wake();
        }
    }

    fn wake(&mut self) {
        self.attempts.values_mut().for_each(|attempt| attempt.waits_for_change = false);
    }

    /// What to do now. `jitter` is 0.0 to 1.0 and spreads the retries.
    pub fn next(&mut self, now: Timestamp, jitter: f64) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !self.pods_known || !self.nodes_known {
            return effects;
        }
        let mut ready: Vec<(i64, String, PodKey)> = self
            .attempts
            .iter()
            .filter(|(_, attempt)| !attempt.binding && attempt.start() <= now)
            .filter_map(|(key, _)| {
                let pod = self.pods.get(key)?;
                Some((-pod.priority, pod.created.clone(), key.clone()))
            })
            .collect();
        ready.sort();
        for (_, _, key) in ready {
            if self.in_flight >= IN_FLIGHT_MAX {
                break;
            }
            effects.extend(self.attempt(&key, now, jitter));
        }
        effects
    }

    fn attempt(&mut self, key: &PodKey, now: Timestamp, jitter: f64) -> Option<Effect> {
        let pod = self.pods.get_mut(key)?;
        let attempt = self.attempts.get_mut(key)?;
        attempt.tries = attempt.tries.saturating_add(1);
        attempt.due = later(now, attempt.tries, jitter);
        let (key, uid) = (key.clone(), pod.uid.clone());
        match place(pod, self.rooms.values()) {
            Ok(node) => {
                attempt.binding = true;
                self.in_flight += 1;
                pod.node.clone_from(&node);
                if let Some(room) = self.rooms.get_mut(&node) {
                    room.take(pod);
                }
                Some(Effect::Bind { key, uid, node })
            }
            Err(reasons) => {
                attempt.waits_for_change = true;
                let message = explain(self.rooms.len(), &reasons);
                let new = pod.told.as_ref() != Some(&message);
                pod.told = Some(message.clone());
                new.then_some(Effect::Explain { key, uid, message })
            }
        }
    }

    /// A binding ended. Returns how long the pod had waited, when it is bound.
    pub fn bound(
        &mut self,
        key: &PodKey,
        uid: &str,
        outcome: Outcome,
        now: Timestamp,
    ) -> Option<SignedDuration> {
        self.in_flight = self.in_flight.saturating_sub(1);
        let same = self.pods.get(key).is_some_and(|pod| pod.uid == uid);
        let attempt = self.attempts.get_mut(key).filter(|attempt| same && attempt.binding)?;
        match outcome {
            Outcome::Done => {
                let waited = now.duration_since(attempt.first_seen);
                self.attempts.remove(key);
                Some(waited)
            }
            Outcome::Moot | Outcome::Failed => {
                attempt.binding = false;
                self.forget_room(key);
                if let Some(pod) = self.pods.get_mut(key) {
                    pod.node.clear();
                }
                // Only now: the room that is free again woke every pod, this one too.
                if let Some(attempt) = self.attempts.get_mut(key) {
                    attempt.waits_for_change = outcome == Outcome::Moot;
                }
                None
            }
        }
    }

    /// When `next` should be called again if nothing happens.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.attempts.values().filter(|attempt| !attempt.binding).map(Attempt::start).min()
    }

    /// Pods that wait for a node.
    pub fn waiting(&self) -> usize {
        self.attempts.len()
    }
}

impl Attempt {
    fn start(&self) -> Timestamp {
        if self.waits_for_change {
            self.due.saturating_add(STALE_AFTER).unwrap_or(self.due)
        } else {
            self.due
        }
    }
}

/// Doubling from one second to ten, and up to half as much again.
fn later(now: Timestamp, tries: u32, jitter: f64) -> Timestamp {
    let pause = spread(doubled(BACKOFF_FIRST, tries.saturating_sub(1), BACKOFF_MOST), jitter);
    now.saturating_add(pause).unwrap_or(now)
}
