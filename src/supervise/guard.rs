//! The guard: polls an actor's context, catches its panics, brings it back on the same address.
//!
//! actix's own `Supervisor` loses an actor that panics (0.13.5). The guard keeps the `ContextFut`:
//! address and queued messages survive, only the message in hand is lost with its reply channel.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use actix::dev::ContextFut;
use actix::dev::channel::AddressReceiver;
use actix::{Actor, ActorContext, Context, Supervised};
use tokio::time::Sleep;

use super::entry::{Entry, Failure, Orders, Place, State};
use super::panic_hook::run_as;
use super::policy::{Decision, History, Scope};
use super::shared::Shared;

/// Builds the actor on this thread and spawns its guard. A factory that panics fails its parent, or
/// ends the tree: there is nothing that could be restarted.
pub(super) fn launch<A>(
    build: impl FnOnce() -> A,
    receiver: AddressReceiver<A>,
    entry: Arc<Entry>,
    tree: Arc<Shared>,
) where
    A: Actor<Context = Context<A>> + Supervised,
{
    match run_as(&entry, build) {
        Ok(actor) => {
            let context = Context::with_receiver(receiver).into_future(actor);
            actix::spawn(Guard::new(context, entry, tree));
        }
        Err(text) => {
            let failure = Failure::Panicked(text);
            entry.note_failure(&failure);
            give_up(&entry, &failure, &tree);
            tree.ended(&entry);
        }
    }
}

/// Hands a failure to the level above.
fn give_up(entry: &Entry, failure: &Failure, tree: &Shared) {
    tracing::error!(actor = %entry.name, kind = entry.kind, %failure, "actor gave up");
    if let Place::Worker { parent: Some(parent), .. } = &entry.place {
        let failure = Failure::WorkerGaveUp { worker: entry.name.to_string(), why: failure.to_string() };
        parent.orders.give(|orders| orders.failure = Some(failure));
    } else {
        tree.escalate(&entry.name, &failure.to_string());
    }
}

/// What one poll of the actor's context came to.
enum Step {
    Pending,
    /// The context ended in order: the actor or an order stopped it, or nobody can reach it.
    Finished,
    Panicked(String),
}

/// Where the guard itself stands.
enum Phase {
    Running,
    /// Waits, then restarts the context.
    Napping(Pin<Box<Sleep>>),
    /// Restarts the context at the next step.
    Reviving,
    /// The tree is going down because of this actor: keep still until told to end.
    Held,
}

/// A future that runs one actor until it ends for good. Spawned on the actor's thread.
pub(super) struct Guard<A>
where
    A: Actor<Context = Context<A>> + Supervised,
{
    /// `None` when it has ended.
    context: Option<ContextFut<A, Context<A>>>,
    entry: Arc<Entry>,
    tree: Arc<Shared>,
    history: History,
    phase: Phase,
    draining: bool,
    /// The context was told to stop.
    stopping: bool,
}

impl<A> Guard<A>
where
    A: Actor<Context = Context<A>> + Supervised,
{
    pub(super) fn new(context: ContextFut<A, Context<A>>, entry: Arc<Entry>, tree: Arc<Shared>) -> Self {
        entry.set_state(State::Running);
        Self {
            context: Some(context),
            entry,
            tree,
            history: History::default(),
            phase: Phase::Running,
            draining: false,
            stopping: false,
        }
    }

    /// Polls (after a nap: restarts, then polls) the context, panics caught.
    fn step(&mut self, cx: &mut TaskContext<'_>, panic_now: bool) -> Step {
        let Some(context) = self.context.as_mut() else { return Step::Finished };
        let revive = matches!(self.phase, Phase::Reviving);
        self.entry.inside.store(true, Ordering::Relaxed);
        let result = run_as(&self.entry, || {
            if revive && !context.restart() {
                return Poll::Ready(());
            }
            if panic_now {
                std::panic::resume_unwind(Box::new("asked for by fault injection"));
            }
            Pin::new(context).poll(cx)
        });
        self.entry.inside.store(false, Ordering::Relaxed);
        match result {
            Ok(poll) => {
                if revive {
                    self.phase = Phase::Running;
                    self.entry.set_state(if self.draining { State::Draining } else { State::Running });
                }
                if poll.is_ready() { Step::Finished } else { Step::Pending }
            }
            Err(text) => Step::Panicked(text),
        }
    }

    fn obey(&mut self, orders: Orders) {
        if orders.drain || orders.stop {
            let broken = matches!(self.phase, Phase::Napping(_));
            if matches!(self.phase, Phase::Held) || (orders.stop && broken) {
                return self.end();
            }
            if orders.drain {
                self.draining = true;
                self.entry.set_state(State::Draining);
                if broken {
                    // It may still owe work from its mailbox: no more waiting.
                    self.phase = Phase::Reviving;
                }
            }
            if orders.stop {
                self.ask_to_stop();
            }
        } else if let Some(failure) = orders.failure {
            // A napping actor is being restarted anyway; a draining one only has to end.
            if matches!(self.phase, Phase::Running) && !self.draining {
                self.fail(&failure);
            }
        } else if let Some(after) = orders.restart
            && matches!(self.phase, Phase::Running)
            && !self.draining
        {
            tracing::warn!(actor = %self.entry.name, "actor restarts with a failed sibling");
            self.tree.stop_workers_of(&self.entry);
            self.nap(after);
        }
    }

    fn ask_to_stop(&mut self) {
        self.stopping = true;
        if let Some(context) = self.context.as_mut() {
            context.ctx().stop();
        }
    }

    fn fail(&mut self, failure: &Failure) {
        let entry = Arc::clone(&self.entry);
        entry.note_failure(failure);
        self.tree.stop_workers_of(&entry);
        let decision =
            self.history.failed(&entry.policy, !entry.is_worker(), entry.since.elapsed(), fastrand::f64());
        match decision {
            Decision::Restart { after } | Decision::LastChance { after } => {
                let last_chance = matches!(decision, Decision::LastChance { .. });
                let pause_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
                tracing::warn!(actor = %entry.name, kind = entry.kind, %failure, pause_ms, last_chance, "actor failed, restarting");
                if entry.policy.scope == Scope::Rest
                    && let Place::Tree(index) = entry.place
                {
                    self.tree.restart_after(index, after);
                }
                self.nap(after);
            }
            Decision::Escalate => {
                give_up(&entry, failure, &self.tree);
                if entry.is_worker() {
                    self.end();
                } else {
                    self.phase = Phase::Held;
                    entry.set_state(State::Failed);
                }
            }
        }
    }

    fn nap(&mut self, after: Duration) {
        self.phase = Phase::Napping(Box::pin(tokio::time::sleep(after)));
        self.entry.note_restart();
        self.entry.set_state(State::Waiting);
    }

    /// Drops the actor. A context that is still alive would poll itself once more in its `Drop`:
    /// `terminate` first, and catch what the actor's own `Drop` throws.
    fn end(&mut self) {
        let Some(mut context) = self.context.take() else { return };
        let dropped = run_as(&self.entry, || {
            context.ctx().terminate();
            drop(context);
        });
        if let Err(text) = dropped {
            self.entry.note_failure(&Failure::Panicked(text));
        }
        self.tree.ended(&self.entry);
    }
}

impl<A> Future for Guard<A>
where
    A: Actor<Context = Context<A>> + Supervised,
{
    type Output = ();

    fn poll(self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<()> {
        let me = self.get_mut();
        me.entry.orders.register(cx.waker());
        loop {
            let mut panic_now = false;
            if let Some(orders) = me.entry.orders.take() {
                panic_now = orders.panic;
                if orders.cut {
                    me.end();
                } else {
                    me.obey(orders);
                }
            }
            if me.context.is_none() {
                return Poll::Ready(());
            }
            match &mut me.phase {
                Phase::Held => return Poll::Pending,
                Phase::Napping(nap) => {
                    ready!(nap.as_mut().poll(cx));
                    me.phase = Phase::Reviving;
                }
                Phase::Running | Phase::Reviving => {}
            }
            match me.step(cx, panic_now) {
                Step::Pending => {
                    if me.draining && !me.stopping && me.entry.stats.depth() == 0 {
                        me.ask_to_stop();
                        continue;
                    }
                    return Poll::Pending;
                }
                Step::Finished if me.entry.is_worker() || me.draining || me.stopping => me.end(),
                Step::Finished => me.fail(&Failure::Stopped),
                Step::Panicked(text) => {
                    let failure = Failure::Panicked(text);
                    if me.draining || me.stopping {
                        me.entry.note_failure(&failure);
                        me.end();
                    } else {
                        me.fail(&failure);
                    }
                }
            }
        }
    }
}

impl<A> Drop for Guard<A>
where
    A: Actor<Context = Context<A>> + Supervised,
{
    fn drop(&mut self) {
        self.end();
    }
}
