//! What actors and the monitor may do with the tree.

use std::borrow::Cow;
use std::sync::Arc;

use actix::dev::{ToEnvelope, channel};
use actix::{Actor, Addr, Context, Handler, Message, Supervised};

use super::entry::{Entry, Place};
use super::guard::launch;
use super::policy::Policy;
use super::shared::Shared;
use super::snapshot::TreeSnapshot;
use super::tree::{ExitReason, MAIN_THREAD};
use crate::bus::{ActorStats, Link, Mail};

/// A handle on the running tree. Cheap to clone.
#[derive(Clone)]
pub struct TreeHandle {
    pub(super) shared: Arc<Shared>,
}

/// No actor or worker has this name now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no actor {0:?}")]
pub struct UnknownActor(pub String);

impl TreeHandle {
    /// The tree as it is now.
    #[must_use]
    pub fn snapshot(&self) -> TreeSnapshot {
        self.shared.snapshot()
    }

    /// Makes an actor or worker panic, to see supervision at work.
    ///
    /// # Errors
    /// [`UnknownActor`] when nothing has this name.
    pub fn inject_panic(&self, name: &str) -> Result<(), UnknownActor> {
        let worker = || self.shared.workers.lock().live.values().find(|entry| entry.name == name).cloned();
        let entry = self.shared.actor(name).or_else(worker).ok_or_else(|| UnknownActor(name.to_owned()))?;
        entry.orders.give(|orders| orders.panic = true);
        Ok(())
    }

    /// Ends the tree in order, as SIGTERM would.
    pub fn shut_down(&self) {
        self.shared.finish(ExitReason::Requested);
    }

    /// Has the ordered end begun? Long-running work should not be started any more.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.shared.is_draining()
    }

    /// Updates the gauges and counters that are read from mailboxes. Call before rendering metrics.
    pub fn publish_metrics(&self) {
        self.shared.publish_metrics();
    }

    /// Starts a worker on the current thread: call it from the actor `parent`.
    ///
    /// `kind` is the metric label (bounded number), `name` the row in `/actors`. The worker ends
    /// when it stops itself, when [`WorkerAddr::stop`] is called, when the last [`WorkerAddr`] is
    /// dropped, and when its parent restarts or ends. A panic restarts it as `policy` says; past
    /// the limit it ends and its parent fails.
    pub fn spawn_worker<A>(
        &self,
        parent: &'static str,
        kind: &'static str,
        name: String,
        mailbox: usize,
        policy: Policy,
        build: impl FnOnce() -> A + 'static,
    ) -> WorkerAddr<A>
    where
        A: Actor<Context = Context<A>> + Supervised,
    {
        let parent = self.shared.actor(parent);
        let thread = parent.as_ref().map_or(MAIN_THREAD, |parent| parent.thread);
        let stats = Arc::new(ActorStats::bounded(mailbox));
        let entry = self.shared.adopt(kind, |id, metrics| {
            stats.handle_seconds.get_or_init(|| metrics.handle_seconds.clone());
            let place = Place::Worker { id, parent };
            Entry::new(Cow::Owned(name), kind, thread, place, policy, Arc::clone(&stats), metrics)
        });
        // No bound here: the links hold it (see `ActorStats`).
        let (sender, receiver) = channel::channel(0);
        let addr = Addr::new(sender);
        launch(build, receiver, Arc::clone(&entry), Arc::clone(&self.shared));
        WorkerAddr { inner: Arc::new(Worker { addr, entry }) }
    }
}

/// Owns a worker: dropping the last clone stops it.
pub struct WorkerAddr<A: Actor> {
    inner: Arc<Worker<A>>,
}

struct Worker<A: Actor> {
    addr: Addr<A>,
    entry: Arc<Entry>,
}

impl<A: Actor> Clone for WorkerAddr<A> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<A: Actor> WorkerAddr<A> {
    /// A link to the worker. It does not keep the worker alive.
    #[must_use]
    pub fn link<M>(&self) -> Link<M>
    where
        M: Message + Send + 'static,
        M::Result: Send,
        A: Handler<Mail<M>>,
        A::Context: ToEnvelope<A, Mail<M>>,
    {
        Link::to(self.inner.entry.kind, &self.inner.addr, Arc::clone(&self.inner.entry.stats))
    }

    /// Stops the worker at its next poll: `Actor::stopping` and `stopped` run, queued messages
    /// are dropped.
    pub fn stop(&self) {
        self.inner.entry.orders.give(|orders| orders.stop = true);
    }

    /// Lets the worker handle what is in its mailbox, then stops it.
    pub fn drain(&self) {
        self.inner.entry.orders.give(|orders| orders.drain = true);
    }

    /// Its row in `/actors`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.inner.entry.name
    }
}

impl<A: Actor> Drop for Worker<A> {
    fn drop(&mut self) {
        self.entry.orders.give(|orders| orders.stop = true);
    }
}
