//! What the tree, its guards and its handles share: who there is, and how it ends.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use metrics::Gauge;
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::Instant;

use super::entry::{Entry, Place, State};
use super::tree::{ExitReason, TreeSettings};
use crate::telemetry::actors::{ActorMetrics, workers_of_kind};

/// The workers that live, by number, and their kinds.
#[derive(Default)]
pub(super) struct Workers {
    next_id: u64,
    pub(super) live: BTreeMap<u64, Arc<Entry>>,
    pub(super) kinds: BTreeMap<&'static str, Kind>,
}

/// One kind of worker: its metrics, and the messages of those that ended.
pub(super) struct Kind {
    pub(super) metrics: ActorMetrics,
    pub(super) alive: Gauge,
    pub(super) past_messages: u64,
    pub(super) past_refused: u64,
}

impl Kind {
    fn new(kind: &'static str) -> Self {
        let (metrics, alive) = (ActorMetrics::new(kind), workers_of_kind(kind));
        Self { metrics, alive, past_messages: 0, past_refused: 0 }
    }
}

pub(super) struct Shared {
    pub(super) name: &'static str,
    pub(super) settings: TreeSettings,
    pub(super) since: Instant,
    actors: RwLock<Vec<Arc<Entry>>>,
    pub(super) workers: Mutex<Workers>,
    draining: AtomicBool,
    /// Set once: why the tree should end.
    pub(super) verdict: watch::Sender<Option<ExitReason>>,
    /// Counts ended actors, to be awaited.
    pub(super) ends: watch::Sender<u64>,
}

impl Shared {
    pub(super) fn new(name: &'static str, settings: TreeSettings) -> Self {
        Self {
            name,
            settings,
            since: Instant::now(),
            actors: RwLock::default(),
            workers: Mutex::default(),
            draining: AtomicBool::new(false),
            verdict: watch::Sender::new(None),
            ends: watch::Sender::new(0),
        }
    }

    /// The tree actors in order of declaration.
    pub(super) fn actors(&self) -> Vec<Arc<Entry>> {
        self.actors.read().clone()
    }

    pub(super) fn actor(&self, name: &str) -> Option<Arc<Entry>> {
        self.actors.read().iter().find(|entry| entry.name == name).cloned()
    }

    pub(super) fn declare(&self, build: impl FnOnce(usize) -> Entry) -> Arc<Entry> {
        let mut actors = self.actors.write();
        let entry = Arc::new(build(actors.len()));
        actors.push(Arc::clone(&entry));
        entry
    }

    /// Registers a worker under a fresh number.
    pub(super) fn adopt(
        &self,
        kind: &'static str,
        build: impl FnOnce(u64, ActorMetrics) -> Entry,
    ) -> Arc<Entry> {
        let mut workers = self.workers.lock();
        workers.next_id += 1;
        let id = workers.next_id;
        let kind = workers.kinds.entry(kind).or_insert_with(|| Kind::new(kind));
        let entry = Arc::new(build(id, kind.metrics.clone()));
        workers.live.insert(id, Arc::clone(&entry));
        entry
    }

    pub(super) fn workers_of(&self, parent: &Arc<Entry>) -> Vec<Arc<Entry>> {
        let is_child = |entry: &&Arc<Entry>| match &entry.place {
            Place::Worker { parent: Some(of), .. } => Arc::ptr_eq(of, parent),
            Place::Worker { parent: None, .. } | Place::Tree(_) => false,
        };
        self.workers.lock().live.values().filter(is_child).cloned().collect()
    }

    /// A parent that restarts or ends takes its workers along: it builds new ones.
    pub(super) fn stop_workers_of(&self, parent: &Arc<Entry>) {
        if parent.is_worker() {
            return;
        }
        for worker in self.workers_of(parent) {
            worker.orders.give(|orders| orders.stop = true);
        }
    }

    pub(super) fn restart_after(&self, index: usize, after: Duration) {
        for entry in self.actors.read().iter().skip(index + 1) {
            entry.orders.give(|orders| orders.restart = Some(after));
        }
    }

    pub(super) fn escalate(&self, actor: &str, reason: &str) {
        self.finish(ExitReason::Escalated { actor: actor.to_owned(), reason: reason.to_owned() });
    }

    /// The first reason stands.
    pub(super) fn finish(&self, reason: ExitReason) {
        self.verdict.send_if_modified(|verdict| {
            let first = verdict.is_none();
            if first {
                *verdict = Some(reason);
            }
            first
        });
    }

    /// A guard is done with its actor.
    pub(super) fn ended(&self, entry: &Arc<Entry>) {
        entry.set_state(State::Ended);
        self.stop_workers_of(entry);
        if let Place::Worker { id, .. } = entry.place {
            let mut workers = self.workers.lock();
            workers.live.remove(&id);
            if let Some(kind) = workers.kinds.get_mut(entry.kind) {
                kind.past_messages += entry.stats.dequeued.load(Ordering::Relaxed);
                kind.past_refused += entry.stats.refused.load(Ordering::Relaxed);
            }
        }
        self.ends.send_modify(|count| *count += 1);
    }

    pub(super) fn begin_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }
}
