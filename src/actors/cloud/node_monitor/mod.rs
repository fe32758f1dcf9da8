//! NodeMonitor: turns nodes NotReady when they stop renewing their lease, when there is no cluster
//! that does it.
//!
//! It keeps nothing: after a restart the watches tell everything again, and every node gets a full
//! grace period before it is judged.

mod calls_worker;
mod core;
pub(crate) mod judge;

#[cfg(test)]
mod actor_tests_worker;
#[cfg(test)]
mod tests;

use std::time::Duration;

use ::kube::api::DynamicObject;
use ::kube::runtime::watcher::{Error, Event};
use actix::prelude::{Actor, ActorFutureExt, AsyncContext, Context, StreamHandler, Supervised, WrapFuture};
use futures_util::StreamExt;
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use self::calls_worker::Calls;
use self::core::Core;
use self::judge::{Change, Node};
use crate::config::NodeMonitorConfig;
use crate::supervise::SteadyClock;
use crate::telemetry::node_monitor::NodeMonitorMetrics;

/// The actor. Its mailbox holds heartbeats only; its input are the watches and the clock.
pub struct NodeMonitor {
    calls: Calls,
    metrics: NodeMonitorMetrics,
    grace: Duration,
    clock: SteadyClock,
    core: Core,
}

/// One item of either watch.
enum Seen {
    Node(Result<Event<DynamicObject>, Error>),
    Lease(Result<Event<DynamicObject>, Error>),
}

impl NodeMonitor {
    /// `client` reaches the API that nodes and leases live in.
    #[must_use]
    pub fn new(client: ::kube::Client, config: &NodeMonitorConfig, metrics: NodeMonitorMetrics) -> Self {
        let grace = Duration::from_secs(config.grace_period_secs.max(1));
        let clock = SteadyClock::start();
        Self { calls: Calls::new(client), metrics, grace, clock, core: fresh(grace, clock) }
    }

    fn pump(&mut self, ctx: &mut Context<Self>) {
        for (node, changes) in self.core.next(self.clock.now(), Timestamp::now()) {
            if changes.contains(&Change::PodsUnknown) {
                self.metrics.silenced.increment(1);
            }
            let calls = self.calls.clone();
            let work = async move {
                let fine = calls.apply(&node, &changes).await;
                (node.name, fine)
            };
            ctx.spawn(work.into_actor(self).map(|(name, fine), this, _| {
                if !fine {
                    this.metrics.failed.increment(1);
                }
                this.core.done(&name, fine, this.clock.now(), fastrand::f64());
            }));
        }
        let (ready, not_ready, unknown) = self.core.counts();
        self.metrics.ready.set(ready);
        self.metrics.not_ready.set(not_ready);
        self.metrics.unknown.set(unknown);
    }

    fn see_node(&mut self, event: Event<DynamicObject>) {
        let now = self.clock.now();
        match event {
            Event::Init => self.core.list_begins(),
            Event::InitApply(node) => self.core.listed(Node::read(&json(node))),
            Event::InitDone => self.core.list_ends(now),
            Event::Apply(node) => self.core.node_seen(Node::read(&json(node)), now),
            Event::Delete(node) => self.core.node_deleted(&node.metadata.name.unwrap_or_default()),
        }
    }

    fn see_lease(&mut self, event: Event<DynamicObject>) {
        match event {
            Event::Init | Event::InitDone => {}
            Event::InitApply(lease) | Event::Apply(lease) => {
                let renewed =
                    lease.data.pointer("/spec/renewTime").and_then(Value::as_str).unwrap_or_default();
                let name = lease.metadata.name.as_deref().unwrap_or_default();
                self.core.lease_seen(name, renewed, self.clock.now());
            }
            Event::Delete(lease) => self.core.lease_deleted(&lease.metadata.name.unwrap_or_default()),
        }
    }
}

fn fresh(grace: Duration, clock: SteadyClock) -> Core {
    Core::new(clock.now(), SignedDuration::try_from(grace).unwrap_or(SignedDuration::MAX))
}

fn json(object: DynamicObject) -> Value {
    serde_json::to_value(object).unwrap_or_default()
}

impl Actor for NodeMonitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.add_stream(self.calls.watch_nodes().map(Seen::Node));
        ctx.add_stream(self.calls.watch_leases().map(Seen::Lease));
        // Silence is found at most an eighth of the grace period late.
        let tick = (self.grace / 8).clamp(Duration::from_millis(250), Duration::from_secs(5));
        ctx.run_interval(tick, Self::pump);
    }
}

impl Supervised for NodeMonitor {
    fn restarting(&mut self, _: &mut Self::Context) {
        self.core = fresh(self.grace, self.clock);
    }
}

impl StreamHandler<Seen> for NodeMonitor {
    fn handle(&mut self, seen: Seen, ctx: &mut Self::Context) {
        match seen {
            Seen::Node(Ok(event)) => {
                self.see_node(event);
                self.pump(ctx);
            }
            Seen::Lease(Ok(event)) => self.see_lease(event),
            // The watch starts again by itself, after a pause.
            Seen::Node(Err(error)) | Seen::Lease(Err(error)) => {
                self.metrics.failed.increment(1);
                tracing::warn!(%error, "watch interrupted");
            }
        }
    }
}

crate::handles!(NodeMonitor);
