//! Declaring a tree, starting it, waiting for its end.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix::dev::{ToEnvelope, channel};
use actix::{Actor, Addr, Arbiter, ArbiterHandle, Context, Handler, Message, Recipient, Supervised};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Ping;
use super::drain::{cut_all, drain};
use super::entry::{Entry, Place};
use super::guard::launch;
use super::handle::TreeHandle;
use super::policy::Policy;
use super::shared::Shared;
use super::watch::{WatchedActor, WatchedThread, Watcher};
use crate::bus::{ActorStats, Link, Mail};
use crate::telemetry::actors::ActorMetrics;

/// The thread that starts the tree, as a thread name for [`Tree::add`]. All others are made.
pub const MAIN_THREAD: &str = "main";

/// Times of the whole tree.
#[derive(Debug, Clone)]
pub struct TreeSettings {
    /// Between two heartbeats.
    pub heartbeat_interval: Duration,
    /// An actor that neither answers nor handles anything for so long is restarted; a thread that
    /// does not turn for four times as long ends the process.
    pub heartbeat_timeout: Duration,
    /// For the ordered end, in all.
    pub drain_deadline: Duration,
    /// In place of every tree actor's own [`Policy::max_restarts`].
    pub max_restarts: Option<usize>,
}

impl Default for TreeSettings {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_secs(5),
            heartbeat_timeout: Duration::from_secs(15),
            drain_deadline: Duration::from_secs(10),
            max_restarts: None,
        }
    }
}

/// Why the tree ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExitReason {
    /// `SIGTERM` or `SIGINT`.
    Signal(&'static str),
    /// [`TreeHandle::shut_down`].
    Requested,
    /// An actor failed too often, or a thread stood still. The service manager should start the
    /// process again.
    Escalated { actor: String, reason: String },
}

impl ExitReason {
    /// What the process returns: 0 for an ordered end.
    #[must_use]
    pub fn code(&self) -> u8 {
        match self {
            Self::Signal(_) | Self::Requested => 0,
            Self::Escalated { .. } => 1,
        }
    }
}

impl fmt::Display for ExitReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Signal(name) => write!(f, "{name}"),
            Self::Requested => f.write_str("asked to stop"),
            Self::Escalated { actor, reason } => write!(f, "{actor}: {reason}"),
        }
    }
}

/// Why a tree did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("actor {name} is declared twice")]
    Twice { name: &'static str },
    #[error("actor {name} has an address but was never added")]
    NeverAdded { name: &'static str },
    #[error("no thread {thread}")]
    Thread { thread: &'static str, source: std::io::Error },
    #[error("cannot listen for signals")]
    Signals(#[source] std::io::Error),
}

/// The address of an actor that does not exist yet.
pub struct Slot<A: Actor> {
    name: &'static str,
    addr: Addr<A>,
    receiver: channel::AddressReceiver<A>,
    stats: Arc<ActorStats>,
    metrics: ActorMetrics,
}

impl<A: Actor> Slot<A> {
    /// A link to the actor. Messages wait in the mailbox until it runs.
    #[must_use]
    pub fn link<M>(&self) -> Link<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Mail<M>>,
        A::Context: ToEnvelope<A, Mail<M>>,
    {
        Link::to(self.name, &self.addr, Arc::clone(&self.stats))
    }
}

type Launch = Box<dyn FnOnce(Arc<Shared>) + Send>;

struct Declared {
    entry: Arc<Entry>,
    pings: Recipient<Ping>,
    launch: Launch,
}

/// A program's actors, before they run.
pub struct Tree {
    shared: Arc<Shared>,
    slots: Vec<&'static str>,
    declared: Vec<Declared>,
}

impl Tree {
    #[must_use]
    pub fn new(name: &'static str, settings: TreeSettings) -> Self {
        Self { shared: Arc::new(Shared::new(name, settings)), slots: Vec::new(), declared: Vec::new() }
    }

    /// A handle for actors that start workers or show the tree.
    #[must_use]
    pub fn handle(&self) -> TreeHandle {
        TreeHandle { shared: Arc::clone(&self.shared) }
    }

    /// Creates the address of an actor. `mailbox` messages fit (at least 1): a `tell` beyond that
    /// is refused, an `ask` waits.
    pub fn slot<A>(&mut self, name: &'static str, mailbox: usize) -> Slot<A>
    where
        A: Actor<Context = Context<A>>,
    {
        self.slots.push(name);
        // No bound here: the links hold it (see `ActorStats`).
        let (sender, receiver) = channel::channel(0);
        let metrics = ActorMetrics::new(name);
        let stats = Arc::new(ActorStats::bounded(mailbox));
        stats.handle_seconds.get_or_init(|| metrics.handle_seconds.clone());
        Slot { name, addr: Addr::new(sender), receiver, stats, metrics }
    }

    /// Declares the actor of a slot. Actors start in the order of these calls and drain in the
    /// opposite one: declare what others send to first. `build` runs once, on `thread`; a restart
    /// calls `Supervised::restarting` on the same value.
    pub fn add<A>(
        &mut self,
        slot: Slot<A>,
        thread: &'static str,
        mut policy: Policy,
        build: impl FnOnce() -> A + Send + 'static,
    ) where
        A: Actor<Context = Context<A>> + Supervised + Handler<Ping>,
    {
        let Slot { name, addr, receiver, stats, metrics } = slot;
        policy.max_restarts = self.shared.settings.max_restarts.unwrap_or(policy.max_restarts);
        let entry = self.shared.declare(|index| {
            Entry::new(Cow::Borrowed(name), name, thread, Place::Tree(index), policy, stats, metrics)
        });
        let guarded = Arc::clone(&entry);
        let launch = move |shared: Arc<Shared>| launch(build, receiver, guarded, shared);
        self.declared.push(Declared { entry, pings: addr.recipient(), launch: Box::new(launch) });
    }

    /// Starts threads, actors and heartbeats. Call inside an actix system.
    ///
    /// # Errors
    /// [`StartError`] names the actor that is declared wrongly, or the thread that did not start.
    pub fn start(self) -> Result<Running, StartError> {
        let Self { shared, slots, declared } = self;
        for (index, name) in slots.iter().enumerate() {
            if slots.iter().skip(index + 1).any(|other| other == name) {
                return Err(StartError::Twice { name });
            }
            if !declared.iter().any(|actor| actor.entry.name == *name) {
                return Err(StartError::NeverAdded { name });
            }
        }
        let terminate = signal(SignalKind::terminate()).map_err(StartError::Signals)?;
        let interrupt = signal(SignalKind::interrupt()).map_err(StartError::Signals)?;

        let mut threads: BTreeMap<&'static str, Arbiter> = BTreeMap::new();
        for actor in &declared {
            let thread = actor.entry.thread;
            if thread != MAIN_THREAD && !threads.contains_key(thread) {
                let arbiter = Arbiter::try_new().map_err(|source| StartError::Thread { thread, source })?;
                threads.insert(thread, arbiter);
            }
        }
        let handles: BTreeMap<&'static str, ArbiterHandle> =
            threads.iter().map(|(name, arbiter)| (*name, arbiter.handle())).collect();
        let mut actors = Vec::with_capacity(declared.len());
        for Declared { entry, pings, launch } in declared {
            let tree = Arc::clone(&shared);
            match handles.get(entry.thread) {
                Some(arbiter) => {
                    if !arbiter.spawn_fn(move || launch(tree)) {
                        shared.escalate(&entry.name, "its thread is gone");
                    }
                }
                None => launch(tree),
            }
            actors.push(WatchedActor::new(entry, pings));
        }
        let watched = handles.into_iter().map(|(name, arbiter)| WatchedThread::new(name, arbiter)).collect();
        let watcher = Watcher { shared: Arc::clone(&shared), actors, threads: watched };
        let watcher = actix::spawn(watcher.run());
        Ok(Running { shared, threads, watcher, terminate, interrupt })
    }
}

/// A tree that runs. Dropping it without [`Running::wait_for_end`] leaves the actors running.
pub struct Running {
    shared: Arc<Shared>,
    threads: BTreeMap<&'static str, Arbiter>,
    watcher: JoinHandle<()>,
    terminate: Signal,
    interrupt: Signal,
}

impl Running {
    #[must_use]
    pub fn handle(&self) -> TreeHandle {
        TreeHandle { shared: Arc::clone(&self.shared) }
    }

    /// Waits for SIGTERM, SIGINT, [`TreeHandle::shut_down`] or an escalation, then drains. A second
    /// signal cuts the draining short.
    pub async fn wait_for_end(mut self) -> ExitReason {
        let reason = self.first_reason().await;
        let settings = &self.shared.settings;
        let end = Instant::now() + settings.drain_deadline;
        tracing::info!(tree = self.shared.name, reason = %reason, "draining");
        tokio::select! {
            cut = drain(&self.shared, settings.drain_deadline) => {
                tracing::info!(tree = self.shared.name, cut = cut.len(), "drained");
            }
            _ = self.terminate.recv() => tracing::warn!("second signal, draining cut short"),
            _ = self.interrupt.recv() => tracing::warn!("second signal, draining cut short"),
        }
        cut_all(&self.shared);
        self.watcher.abort();
        join(self.threads, end).await;
        reason
    }

    async fn first_reason(&mut self) -> ExitReason {
        let mut verdict = self.shared.verdict.subscribe();
        tokio::select! {
            _ = self.terminate.recv() => ExitReason::Signal("SIGTERM"),
            _ = self.interrupt.recv() => ExitReason::Signal("SIGINT"),
            reason = verdict.wait_for(Option::is_some) => {
                // The sender lives in `shared`, which we hold: there is always a reason.
                reason.ok().and_then(|reason| reason.clone()).unwrap_or(ExitReason::Requested)
            }
        }
    }
}

/// Stops and joins the threads; one that is blocked is left behind at the deadline.
async fn join(threads: BTreeMap<&'static str, Arbiter>, end: Instant) {
    let names: Vec<_> = threads.keys().copied().collect();
    for arbiter in threads.values() {
        if !arbiter.stop() {
            tracing::debug!("thread had stopped before");
        }
    }
    // Not `spawn_blocking`: the runtime would wait for a blocked thread for ever.
    let (done, joined) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || {
        let panicked = threads.into_values().filter_map(|arbiter| arbiter.join().err()).count();
        done.send(panicked)
    });
    // Some time even when draining used it up: most threads end at once.
    let end = end.max(Instant::now() + Duration::from_millis(500));
    match tokio::time::timeout_at(end, joined).await {
        Ok(Ok(0)) => {}
        Ok(_) => tracing::warn!("a thread ended with a panic"),
        Err(_) => tracing::warn!(threads = ?names, "a thread did not end in time"),
    }
}
