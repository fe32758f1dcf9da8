//! The watcher: sends heartbeats and acts on silence. Runs on the thread that started the tree.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix::{ArbiterHandle, Recipient};
use metrics::Histogram;

use super::Ping;
use super::entry::{Entry, Failure, State};
use super::health::{Beat, Verdict, overslept};
use super::shared::Shared;
use super::tree::MAIN_THREAD;
use crate::telemetry::actors::arbiter_lag;

/// A thread that does not turn for this many heartbeat timeouts ends the process.
const THREAD_PATIENCE: u32 = 4;

/// A tree actor under watch.
pub(super) struct WatchedActor {
    pub(super) entry: Arc<Entry>,
    pub(super) pings: Recipient<Ping>,
    beat: Beat,
    answered: Arc<AtomicU64>,
}

impl WatchedActor {
    pub(super) fn new(entry: Arc<Entry>, pings: Recipient<Ping>) -> Self {
        Self { entry, pings, beat: Beat::default(), answered: Arc::default() }
    }
}

/// A thread under watch.
pub(super) struct WatchedThread {
    name: &'static str,
    arbiter: ArbiterHandle,
    beat: Beat,
    answered: Arc<AtomicU64>,
    lag: Histogram,
}

impl WatchedThread {
    pub(super) fn new(name: &'static str, arbiter: ArbiterHandle) -> Self {
        Self { name, arbiter, beat: Beat::default(), answered: Arc::default(), lag: arbiter_lag(name) }
    }
}

pub(super) struct Watcher {
    pub(super) shared: Arc<Shared>,
    pub(super) actors: Vec<WatchedActor>,
    pub(super) threads: Vec<WatchedThread>,
}

impl Watcher {
    pub(super) async fn run(mut self) {
        let interval = self.shared.settings.heartbeat_interval;
        let mut last = self.shared.since.elapsed();
        // This runs on the main thread: how late it wakes is that thread's lag.
        let lag = arbiter_lag(MAIN_THREAD);
        loop {
            tokio::time::sleep(interval).await;
            let now = self.shared.since.elapsed();
            lag.record(now.saturating_sub(last).saturating_sub(interval).as_secs_f64());
            if overslept(last, now, interval) {
                self.threads.iter_mut().for_each(|thread| thread.beat.excuse(now));
                self.actors.iter_mut().for_each(|actor| actor.beat.excuse(now));
            }
            last = now;
            self.look(now);
        }
    }

    fn look(&mut self, now: Duration) {
        let timeout = self.shared.settings.heartbeat_timeout;
        let mut blocked = Vec::new();
        for thread in &mut self.threads {
            let answered = thread.answered.load(Ordering::Relaxed);
            if !thread.beat.is_answered(answered) {
                blocked.push(thread.name);
            }
            match thread.beat.look(now, answered, 0, timeout.saturating_mul(THREAD_PATIENCE)) {
                Verdict::Ping(number) => {
                    let (answer, lag) = (Arc::clone(&thread.answered), thread.lag.clone());
                    let sent = Instant::now();
                    let beat = move || {
                        lag.record(sent.elapsed().as_secs_f64());
                        answer.store(number, Ordering::Relaxed);
                    };
                    if !thread.arbiter.spawn_fn(beat) {
                        self.shared.escalate(thread.name, "the thread is gone");
                    }
                }
                Verdict::Wait => {}
                Verdict::Silent(quiet) => {
                    let inside = self.actors.iter().find(|actor| {
                        actor.entry.thread == thread.name && actor.entry.inside.load(Ordering::Relaxed)
                    });
                    let culprit = inside.map_or(thread.name, |actor| &actor.entry.name);
                    let reason = format!("thread {} stood still for {} s", thread.name, quiet.as_secs());
                    tracing::error!(thread = thread.name, actor = culprit, "thread is blocked");
                    self.shared.escalate(culprit, &reason);
                }
            }
        }
        for actor in &mut self.actors {
            if actor.entry.state() != State::Running || blocked.contains(&actor.entry.thread) {
                actor.beat.excuse(now);
                continue;
            }
            let answered = actor.answered.load(Ordering::Relaxed);
            let progress = actor.entry.stats.dequeued.load(Ordering::Relaxed);
            match actor.beat.look(now, answered, progress, timeout) {
                Verdict::Ping(number) => {
                    let ping = Ping { answered: Arc::clone(&actor.answered), number };
                    if actor.pings.try_send(ping).is_err() {
                        tracing::debug!(actor = %actor.entry.name, "heartbeat not taken");
                    }
                }
                Verdict::Wait => {}
                Verdict::Silent(quiet) => {
                    actor.beat.excuse(now);
                    actor.entry.orders.give(|orders| orders.failure = Some(Failure::Silent(quiet)));
                }
            }
        }
    }
}
