//! What the monitor remembers: nodes, signs of life, what is under way. No clock, no I/O.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use super::judge::{Change, Node, judge};
use crate::supervise::{doubled, spread};

/// First and longest pause after a change that the API refused.
const BACKOFF_FIRST: Duration = Duration::from_secs(1);
const BACKOFF_MOST: Duration = Duration::from_secs(30);

#[derive(Debug)]
pub struct Core {
    started_at: Timestamp,
    grace: SignedDuration,
    nodes: BTreeMap<String, Node>,
    /// By node name: the last `renewTime` and when it was first seen here.
    leases: BTreeMap<String, String>,
    heard: BTreeMap<String, Timestamp>,
    work: BTreeMap<String, Work>,
    /// A list under way.
    listed: Option<Vec<Node>>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Work {
    busy: bool,
    failures: u32,
    not_before: Option<Timestamp>,
}

impl Core {
    pub fn new(started_at: Timestamp, grace: SignedDuration) -> Self {
        Self {
            started_at,
            grace,
            nodes: BTreeMap::new(),
            leases: BTreeMap::new(),
            heard: BTreeMap::new(),
            work: BTreeMap::new(),
            listed: None,
        }
    }

    pub fn list_begins(&mut self) {
        self.listed = Some(Vec::new());
    }

    pub fn listed(&mut self, node: Node) {
        self.listed.get_or_insert_default().push(node);
    }

    pub fn list_ends(&mut self, now: Timestamp) {
        let listed = self.listed.take().unwrap_or_default();
        let gone: Vec<String> = self
            .nodes
            .keys()
            .filter(|name| !listed.iter().any(|node| node.name == **name))
            .cloned()
            .collect();
        gone.iter().for_each(|name| self.node_deleted(name));
        listed.into_iter().for_each(|node| self.node_seen(node, now));
    }

    /// A new node is a sign of life, and so is a status it reports.
    pub fn node_seen(&mut self, node: Node, now: Timestamp) {
        let alive = self.nodes.get(&node.name).is_none_or(|old| old.uid != node.uid || old.reported(&node));
        if alive {
            self.heard.insert(node.name.clone(), now);
        }
        self.nodes.insert(node.name.clone(), node);
    }

    pub fn node_deleted(&mut self, name: &str) {
        self.nodes.remove(name);
        self.heard.remove(name);
        self.work.remove(name);
        self.leases.remove(name);
    }

    /// The first sight of a lease says nothing about its age; a changed one does.
    pub fn lease_seen(&mut self, name: &str, renew_time: &str, now: Timestamp) {
        let before = self.leases.insert(name.to_owned(), renew_time.to_owned());
        if before.is_some_and(|before| before != renew_time) {
            self.heard.insert(name.to_owned(), now);
        }
    }

    pub fn lease_deleted(&mut self, name: &str) {
        self.leases.remove(name);
    }

    /// What to do now. Nodes with work under way or a pause are left out. `shown` is the time of day.
    pub fn next(&mut self, now: Timestamp, shown: Timestamp) -> Vec<(Node, Vec<Change>)> {
        let mut due = Vec::new();
        for (name, node) in &self.nodes {
            let work = self.work.get(name).copied().unwrap_or_default();
            if work.busy || work.not_before.is_some_and(|not_before| now < not_before) {
                continue;
            }
            let heard = self.heard.get(name).copied();
            let changes = judge(node, heard, now, self.started_at, self.grace, shown);
            if !changes.is_empty() {
                due.push((node.clone(), changes));
            }
        }
        for (node, _) in &due {
            self.work.entry(node.name.clone()).or_default().busy = true;
        }
        due
    }

    /// The changes of a node are made, or one failed. `jitter` is 0.0 to 1.0.
    pub fn done(&mut self, name: &str, fine: bool, now: Timestamp, jitter: f64) {
        let Some(work) = self.work.get_mut(name) else { return };
        work.busy = false;
        work.failures = if fine { 0 } else { work.failures.saturating_add(1) };
        // Even when fine: the watch must show what was done before it is judged again.
        let pause = spread(doubled(BACKOFF_FIRST, work.failures, BACKOFF_MOST), jitter);
        work.not_before = now.saturating_add(pause).ok();
    }

    /// Nodes that are ready, not ready, unknown.
    pub fn counts(&self) -> (u32, u32, u32) {
        self.nodes.values().fold((0, 0, 0), |(ready, not_ready, unknown), node| match node.ready.as_str() {
            "True" => (ready + 1, not_ready, unknown),
            "Unknown" => (ready, not_ready, unknown + 1),
            _ => (ready, not_ready + 1, unknown),
        })
    }
}
