//! Stands for this node in the cloud: registers it, reports its status, renews its lease.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, Supervised, WrapFuture,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Node, NodeStatus};
use metrics::Gauge;
use serde_json::Value;

use super::machine::{self, Machine, Usage};
use super::node::{self, Facts, RuntimeHealth};
use super::site_worker::{Clock, MetaLinks};
use crate::bus::{LinkError, meta};
use crate::config::EdgedConfig;
use crate::cri::runtime::Runtime;

/// How long the cloud may take to answer.
const CLOUD_DEADLINE: Duration = Duration::from_secs(10);
/// Pause after a failed call to the cloud, plus up to as much again.
const CLOUD_RETRY: Duration = Duration::from_secs(2);
/// How often images are listed, in status computations.
const IMAGES_EVERY: u32 = 6;
/// What a node says while its runtime does not answer.
const RUNTIME_DOWN: &str = "container runtime is down";

/// The session to the cloud opened or ended.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Reachable(pub bool);

/// The Node as the cloud has it.
#[derive(Debug, Clone, Message)]
#[rtype(result = "()")]
pub struct NodeSeen(pub Arc<Value>);

/// The runtime came or went: look now.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Probe;

/// What this node would register as now; `None` before the machine was looked at.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "Option<Box<Node>>")]
pub struct ShowNode;

pub struct NodeWorker {
    settings: Arc<NodeSettings>,
    facts: Facts,
    uid: String,
    registered: bool,
    /// The status computed last, for transition times.
    last: Option<NodeStatus>,
    /// The status the cloud has, and since when.
    sent: Option<(NodeStatus, Timestamp)>,
    probing: bool,
    probe_again: bool,
    sending: bool,
    leasing: bool,
    tick: u32,
    retry: Option<SpawnHandle>,
}

/// What does not change.
pub struct NodeSettings {
    pub name: String,
    pub config: EdgedConfig,
    pub addresses: Vec<String>,
    pub links: MetaLinks,
    pub runtime: Arc<dyn Runtime>,
    pub clock: Clock,
    pub update_every: Duration,
    pub report_every: Duration,
    /// 1 while the runtime is well.
    pub ready: Gauge,
}

impl NodeWorker {
    #[must_use]
    pub fn new(settings: Arc<NodeSettings>) -> Self {
        let facts = Facts {
            name: settings.name.clone(),
            addresses: settings.addresses.clone(),
            kubelet_version: node::kubelet_version(),
            arch: machine::go_arch().to_owned(),
            ..Facts::default()
        };
        Self {
            settings,
            facts,
            uid: String::new(),
            registered: false,
            last: None,
            sent: None,
            probing: false,
            probe_again: false,
            sending: false,
            leasing: false,
            tick: 0,
            retry: None,
        }
    }

    fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    fn lease_every(&self) -> Duration {
        let secs = self.settings.config.tailored_kubelet_config.node_lease_duration_seconds;
        Duration::from_secs(u64::from(secs).div_ceil(4).max(1))
    }

    /// Gathers facts off the arbiter, then reports what changed.
    fn probe(&mut self, ctx: &mut Context<Self>) {
        if self.probing {
            self.probe_again = true;
            return;
        }
        self.probing = true;
        let (runtime, root) =
            (Arc::clone(&self.settings.runtime), self.settings.config.root_directory.clone());
        let known = self.facts.runtime.clone();
        let images =
            self.tick.is_multiple_of(IMAGES_EVERY) || known.trouble.is_some() || known.images.is_empty();
        self.tick = self.tick.wrapping_add(1);
        let machine = self.facts.machine == Machine::default();
        let gather = async move {
            let facts = gather_facts(root, machine).await;
            (facts, health(&*runtime, known, images).await)
        };
        ctx.spawn(gather.into_actor(self).map(|(facts, health), worker, ctx| {
            worker.probing = false;
            if let Some((usage, machine)) = facts {
                worker.facts.usage = usage;
                worker.facts.machine = machine.unwrap_or(std::mem::take(&mut worker.facts.machine));
            }
            if worker.facts.runtime.trouble != health.trouble {
                tracing::info!(
                    trouble = health.trouble.as_deref().unwrap_or("none"),
                    "container runtime health changed"
                );
            }
            worker.settings.ready.set(if health.trouble.is_none() { 1.0 } else { 0.0 });
            worker.facts.runtime = health;
            worker.send(ctx);
            if std::mem::take(&mut worker.probe_again) {
                worker.probe(ctx);
            }
        }));
    }

    /// Registers the node, or reports its status if that is due.
    fn send(&mut self, ctx: &mut Context<Self>) {
        if self.sending || self.facts.machine == Machine::default() {
            return;
        }
        let now = self.now();
        let settings = Arc::clone(&self.settings);
        let config = &settings.config;
        let status = node::status(&self.facts, config, self.last.as_ref(), now);
        if !self.registered {
            let node = node::node(&self.facts, config, self.last.as_ref(), now);
            self.last = Some(status.clone());
            self.sending = true;
            let links = settings.links.clone();
            let ask = async move {
                links.register_node.ask(meta::RegisterNode(Box::new(node)), CLOUD_DEADLINE).await
            };
            ctx.spawn(ask.into_actor(self).map(move |answer, worker, ctx| {
                worker.sending = false;
                if let Some(node) = worker.answer("node was not registered", answer, ctx) {
                    tracing::info!(node = %worker.facts.name, "node is registered");
                    worker.registered = true;
                    worker.learn(&node);
                    // Registering an existing node need not have touched its status.
                    worker.sent = None;
                    worker.lease(ctx);
                    worker.send(ctx);
                }
            }));
            return;
        }
        self.last = Some(status.clone());
        let sent = self.sent.as_ref().map(|(status, at)| (status, *at));
        let Some(patch) = node::patch(sent, &status, &self.uid, settings.report_every, now) else { return };
        self.sending = true;
        let links = settings.links.clone();
        let ask =
            async move { links.patch_node_status.ask(meta::PatchNodeStatus { patch }, CLOUD_DEADLINE).await };
        ctx.spawn(ask.into_actor(self).map(move |answer, worker, ctx| {
            worker.sending = false;
            let gone = matches!(&answer, Ok(Err(meta::MetaError::Api(status))) if status.code == 404);
            if gone {
                worker.registered = false;
            }
            if let Some(node) = worker.answer("node status was not reported", answer, ctx) {
                worker.learn(&node);
                worker.sent = Some((status, now));
            }
        }));
    }

    fn learn(&mut self, node: &Value) {
        let uid = node.get("metadata").and_then(|meta| meta.get("uid")).and_then(Value::as_str);
        if let Some(uid) = uid.filter(|uid| !uid.is_empty()) {
            uid.clone_into(&mut self.uid);
        }
    }

    fn lease(&mut self, ctx: &mut Context<Self>) {
        if self.leasing || !self.registered {
            return;
        }
        self.leasing = true;
        let secs = self.settings.config.tailored_kubelet_config.node_lease_duration_seconds;
        let lease = node::lease(&self.facts.name, &self.uid, secs, self.now());
        let links = self.settings.links.clone();
        let ask =
            async move { links.renew_lease.ask(meta::RenewLease(Box::new(lease)), CLOUD_DEADLINE).await };
        ctx.spawn(ask.into_actor(self).map(|answer, worker, ctx| {
            worker.leasing = false;
            // A failure is tried again with the rest; the interval goes on in any case.
            worker.answer("lease was not renewed", answer, ctx);
        }));
    }

    /// The answer if there is one; otherwise another try is arranged, unless we are offline: then
    /// the next session starts it.
    fn answer<T>(
        &mut self,
        what: &str,
        answer: Result<Result<T, meta::MetaError>, LinkError>,
        ctx: &mut Context<Self>,
    ) -> Option<T> {
        let error = match answer {
            Ok(Ok(value)) => return Some(value),
            Ok(Err(meta::MetaError::Offline)) => {
                tracing::debug!("{what}: offline");
                return None;
            }
            Ok(Err(err)) => err.to_string(),
            Err(err) => err.to_string(),
        };
        tracing::warn!(error, "{what}");
        if self.retry.is_none() {
            let pause = CLOUD_RETRY.mul_f64(1.0 + fastrand::f64());
            self.retry = Some(ctx.run_later(pause, |worker, ctx| {
                worker.retry = None;
                worker.send(ctx);
                worker.lease(ctx);
            }));
        }
        None
    }
}

async fn gather_facts(root: PathBuf, machine: bool) -> Option<(Usage, Option<Machine>)> {
    let read = move || (Usage::read(&root), machine.then(Machine::read));
    tokio::task::spawn_blocking(read).await.ok()
}

async fn health(runtime: &dyn Runtime, mut known: RuntimeHealth, images: bool) -> RuntimeHealth {
    let was_down = known.trouble.as_deref() == Some(RUNTIME_DOWN);
    if known.version.is_empty() || was_down {
        match runtime.version().await {
            Ok(v) => {
                let version = v.runtime_version.split(['~', '+']).next().unwrap_or_default();
                known.version = format!("{}://{version}", v.runtime_name);
            }
            Err(_) => {
                known.trouble = Some(RUNTIME_DOWN.to_owned());
                return known;
            }
        }
    }
    known.trouble = match runtime.status().await {
        Ok(status) => {
            let conditions: Vec<(String, bool, String)> =
                status.conditions.into_iter().map(|c| (c.r#type, c.status, c.message)).collect();
            node::trouble(&conditions)
        }
        Err(_) => Some(RUNTIME_DOWN.to_owned()),
    };
    if images && let Ok(list) = runtime.list_images().await {
        let named = |image: k8s_cri::v1::Image| {
            let names = image.repo_digests.into_iter().chain(image.repo_tags).collect();
            (names, image.size)
        };
        known.images = node::images(list.into_iter().map(named).collect());
    }
    known
}

impl Actor for NodeWorker {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.probe(ctx);
        ctx.run_interval(self.settings.update_every, Self::probe);
        ctx.run_interval(self.lease_every(), Self::lease);
    }
}

impl Supervised for NodeWorker {
    fn restarting(&mut self, _: &mut Context<Self>) {
        *self = Self::new(Arc::clone(&self.settings));
    }
}

impl Handler<Reachable> for NodeWorker {
    type Result = ();
    fn handle(&mut self, Reachable(connected): Reachable, ctx: &mut Context<Self>) {
        if !connected {
            return;
        }
        // What is known of the Node is enough for the lease; registration follows at once.
        self.lease(ctx);
        self.registered = false;
        self.sent = None;
        self.send(ctx);
        self.probe(ctx);
    }
}

impl Handler<NodeSeen> for NodeWorker {
    type Result = ();
    fn handle(&mut self, NodeSeen(node): NodeSeen, ctx: &mut Context<Self>) {
        self.learn(&node);
        if self.registered && node::is_doubted(&node) {
            // A cloud that slept, or whose clock jumped, in the middle of a session that lives.
            self.sent = None;
            self.send(ctx);
        }
    }
}

impl Handler<Probe> for NodeWorker {
    type Result = ();
    fn handle(&mut self, _: Probe, ctx: &mut Context<Self>) {
        self.probe(ctx);
    }
}

impl Handler<ShowNode> for NodeWorker {
    type Result = Option<Box<Node>>;
    fn handle(&mut self, _: ShowNode, _: &mut Context<Self>) -> Self::Result {
        let is_known = self.facts.machine != Machine::default();
        let settings = &self.settings;
        is_known.then(|| Box::new(node::node(&self.facts, &settings.config, self.last.as_ref(), self.now())))
    }
}

crate::handles!(NodeWorker: Reachable, NodeSeen, Probe, ShowNode);
