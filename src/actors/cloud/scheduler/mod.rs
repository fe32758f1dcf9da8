//! Scheduler: binds pods that name no node, when there is no cluster that does it.
//!
//! It watches pods and nodes through the API and keeps nothing of its own: after a restart the
//! watches tell everything again, and binding twice is refused by the API.

mod calls_worker;
mod core;
pub(crate) mod place;
pub(crate) mod view;

#[cfg(test)]
mod actor_tests_worker;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ::kube::api::DynamicObject;
use ::kube::runtime::watcher;
use actix::prelude::{
    Actor, ActorFutureExt, AsyncContext, Context, SpawnHandle, StreamHandler, Supervised, WrapFuture,
};
use futures_util::StreamExt;

use self::calls_worker::Calls;
use self::core::{Change, Core, Effect, Outcome};
use self::view::{Node, Pod};
use crate::supervise::SteadyClock;
use crate::telemetry::scheduler::SchedulerMetrics;

/// `spec.schedulerName` of the pods it takes.
const NAME: &str = "default-scheduler";

/// The actor. Its mailbox holds heartbeats only; its input are the watches.
pub struct Scheduler {
    calls: Calls,
    metrics: SchedulerMetrics,
    clock: SteadyClock,
    core: Core,
    timer: Option<SpawnHandle>,
}

/// One item of either watch.
enum Seen {
    Pod(Result<watcher::Event<DynamicObject>, watcher::Error>),
    Node(Result<watcher::Event<DynamicObject>, watcher::Error>),
}

impl Scheduler {
    /// `client` reaches the API that pods and nodes live in.
    #[must_use]
    pub fn new(client: ::kube::Client, metrics: SchedulerMetrics) -> Self {
        Self {
            calls: Calls::new(client),
            metrics,
            clock: SteadyClock::start(),
            core: Core::default(),
            timer: None,
        }
    }

    /// Does what is due, then sleeps until the next thing is.
    fn pump(&mut self, ctx: &mut Context<Self>) {
        let now = self.clock.now();
        for effect in self.core.next(now, fastrand::f64()) {
            self.run(effect, ctx);
        }
        self.metrics.pending_pods.set(u32::try_from(self.core.waiting()).unwrap_or(u32::MAX));
        if let Some(timer) = self.timer.take() {
            ctx.cancel_future(timer);
        }
        if let Some(due) = self.core.next_due() {
            // At least a little: when calls are all under way, their end comes first.
            let pause = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            let pause = pause.max(Duration::from_millis(100));
            self.timer = Some(ctx.run_later(pause, |this, ctx| {
                this.timer = None;
                this.pump(ctx);
            }));
        }
    }

    fn run(&mut self, effect: Effect, ctx: &mut Context<Self>) {
        let calls = self.calls.clone();
        match effect {
            Effect::Bind { key, uid, node } => {
                let work = async move {
                    let outcome = calls.bind(&key, &uid, &node).await;
                    (key, uid, outcome)
                };
                ctx.spawn(work.into_actor(self).map(|(key, uid, outcome), this, ctx| {
                    match outcome {
                        Outcome::Done => this.metrics.bound.increment(1),
                        Outcome::Moot => {}
                        Outcome::Failed => this.metrics.failed.increment(1),
                    }
                    if let Some(waited) = this.core.bound(&key, &uid, outcome, this.clock.now()) {
                        this.metrics.bind_seconds.record(waited.as_secs_f64());
                    }
                    this.pump(ctx);
                }));
            }
            Effect::Explain { key, uid, message } => {
                self.metrics.unschedulable.increment(1);
                ctx.spawn(async move { calls.explain(&key, &uid, &message).await }.into_actor(self));
            }
        }
    }
}

impl Actor for Scheduler {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(self.calls.watch("Pod").map(Seen::Pod));
        ctx.add_stream(self.calls.watch("Node").map(Seen::Node));
    }
}

impl Supervised for Scheduler {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.core = Core::default();
        self.timer = None;
    }
}

impl StreamHandler<Seen> for Scheduler {
    fn handle(&mut self, seen: Seen, ctx: &mut Self::Context) {
        let error = match seen {
            Seen::Pod(Ok(event)) => {
                let change = change(event, |object| Pod::read(object, NAME));
                self.core.see_pod(change, self.clock.now());
                None
            }
            Seen::Node(Ok(event)) => {
                self.core.see_node(change(event, Node::read));
                None
            }
            Seen::Pod(Err(error)) => Some(("pods", error)),
            Seen::Node(Err(error)) => Some(("nodes", error)),
        };
        match error {
            // The watch starts again by itself, after a pause.
            Some((resource, error)) => {
                self.metrics.failed.increment(1);
                tracing::warn!(resource, %error, "watch interrupted");
            }
            None => self.pump(ctx),
        }
    }
}

fn change<K>(event: watcher::Event<DynamicObject>, read: impl Fn(&serde_json::Value) -> K) -> Change<K> {
    let view = |object: DynamicObject| read(&serde_json::to_value(object).unwrap_or_default());
    match event {
        watcher::Event::Init => Change::Init,
        watcher::Event::InitApply(object) => Change::Listed(view(object)),
        watcher::Event::InitDone => Change::InitDone,
        watcher::Event::Apply(object) => Change::Applied(view(object)),
        watcher::Event::Delete(object) => Change::Deleted(view(object)),
    }
}

crate::handles!(Scheduler);
