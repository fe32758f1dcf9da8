//! The tree as `/actors` shows it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::entry::{Entry, LastFailure, State};
use super::shared::Shared;

/// Workers shown below one parent; the rest is only counted.
const MAX_CHILDREN: usize = 200;

/// The live tree.
#[derive(Debug, Clone, Serialize)]
pub struct TreeSnapshot {
    /// Name of the program.
    pub name: &'static str,
    pub uptime_seconds: f64,
    /// In order of declaration.
    pub actors: Vec<ActorSnapshot>,
}

/// One actor or worker.
#[derive(Debug, Clone, Serialize)]
pub struct ActorSnapshot {
    pub name: String,
    /// Kind of a worker; a tree actor's own name.
    pub kind: &'static str,
    /// Thread (arbiter) it runs on.
    pub thread: &'static str,
    pub state: State,
    pub restarts: u64,
    pub panics: u64,
    pub last_failure: Option<LastFailure>,
    pub mailbox_depth: u64,
    /// Messages refused because the mailbox was full.
    pub mailbox_refused: u64,
    pub messages_total: u64,
    /// Time spent in handlers.
    pub busy_seconds: f64,
    /// Its workers, the oldest first, at most 200 of them.
    pub children: Vec<ActorSnapshot>,
    pub children_total: usize,
}

impl Shared {
    pub(super) fn snapshot(&self) -> TreeSnapshot {
        let actors = self.actors().iter().map(|entry| self.snapshot_of(entry)).collect();
        TreeSnapshot { name: self.name, uptime_seconds: self.since.elapsed().as_secs_f64(), actors }
    }

    fn snapshot_of(&self, entry: &Arc<Entry>) -> ActorSnapshot {
        let workers = if entry.is_worker() { Vec::new() } else { self.workers_of(entry) };
        let record = entry.record.lock();
        ActorSnapshot {
            name: entry.name.to_string(),
            kind: entry.kind,
            thread: entry.thread,
            state: record.state,
            restarts: record.restarts,
            panics: record.panics,
            last_failure: record.last_failure.clone(),
            mailbox_depth: entry.stats.depth(),
            mailbox_refused: entry.stats.refused.load(Ordering::Relaxed),
            messages_total: entry.stats.dequeued.load(Ordering::Relaxed),
            busy_seconds: Duration::from_nanos(entry.stats.busy_nanos.load(Ordering::Relaxed)).as_secs_f64(),
            children: workers.iter().take(MAX_CHILDREN).map(|worker| self.snapshot_of(worker)).collect(),
            children_total: workers.len(),
        }
    }

    /// Brings the metrics that are read, not pushed, up to date.
    pub(super) fn publish_metrics(&self) {
        for entry in self.actors() {
            entry.metrics.mailbox_depth.set(gauge(entry.stats.depth()));
            entry.metrics.messages.absolute(entry.stats.dequeued.load(Ordering::Relaxed));
            entry.metrics.refused.absolute(entry.stats.refused.load(Ordering::Relaxed));
            let runs = entry.state() == State::Running;
            if let Some(shown) = &entry.shown_state {
                shown.set(if runs { 1.0 } else { 0.0 });
            }
        }
        let workers = self.workers.lock();
        for (name, kind) in &workers.kinds {
            let mine = || workers.live.values().filter(|entry| entry.kind == *name);
            let depth: u64 = mine().map(|entry| entry.stats.depth()).sum();
            let handled: u64 = mine().map(|entry| entry.stats.dequeued.load(Ordering::Relaxed)).sum();
            let refused: u64 = mine().map(|entry| entry.stats.refused.load(Ordering::Relaxed)).sum();
            kind.alive.set(gauge(u64::try_from(mine().count()).unwrap_or(u64::MAX)));
            kind.metrics.refused.absolute(kind.past_refused + refused);
            kind.metrics.mailbox_depth.set(gauge(depth));
            kind.metrics.messages.absolute(kind.past_messages + handled);
        }
    }
}

/// Exact up to 2^32, far beyond any mailbox.
fn gauge(value: u64) -> f64 {
    f64::from(u32::try_from(value).unwrap_or(u32::MAX))
}
