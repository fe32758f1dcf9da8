//! EdgeController: tells nodes about their pods and what those reference, and talks to the
//! Kubernetes API for them (protocol section 6).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::runtime::watcher;
use actix::prelude::*;
use futures_util::StreamExt;
use serde_json::Value;

use self::authority::Verdict;
use self::index::{Change, Content, Index};
use self::lanes::{Class, Lanes};
use self::object::Kind;
use self::plan::{NoPlan, Plan, Shape, Subject};
use self::sealer::Sealer;
use self::under_way::UnderWay;
use crate::actors::cloud::downlink_worker::{Downlink, SendsDown, flush};
use crate::actors::cloud::watch_worker::{Event, arrived, watch};
use crate::bus::cloud_hub::{CloseNode, Outgoing, SendDown};
use crate::bus::edge_controller::{ListDesired, NotReady, ObjectVersion, Reseal, SendDifferences, Upstream};
use crate::bus::sync::NodeGone;
use crate::bus::{Link, Turn};
use crate::identity::Ca;
use crate::model::{Envelope, NodeName, Reason, Resource, Status, operation, unix_ms};
use crate::telemetry::edge_controller::EdgeControllerMetrics;
use crate::telemetry::federation::Federation;
use crate::telemetry::pods::PodMetrics;

pub(crate) mod answer;
mod authority;
mod call_worker;
mod index;
mod lanes;
mod object;
pub(crate) mod plan;
mod sealer;
#[cfg(test)]
mod tests;
mod under_way;

/// Pods are counted at most this often.
const SHOW_PODS_EVERY: Duration = Duration::from_secs(5);

/// Kinds whose objects at nodes it owns.
pub const KINDS: [&str; 4] = ["pod", "configmap", "secret", "node"];

/// What EdgeController is built from.
#[derive(Clone)]
pub struct EdgeControllerParts {
    pub client: ::kube::Client,
    pub send_down: Link<SendDown>,
    pub close_node: Link<CloseNode>,
    /// Goes into the annotation `cloudcore` of new nodes: this cloudcore's address.
    pub cloudcore: String,
    /// Seals pods.
    pub ca: Arc<Ca>,
    /// Hears which edge nodes there are.
    pub federation: Federation,
}

/// The actor.
pub struct EdgeController {
    parts: EdgeControllerParts,
    index: Index,
    lanes: Lanes<Job>,
    under_way: UnderWay,
    downlink: Downlink,
    sealer: Sealer,
    metrics: EdgeControllerMetrics,
    pods: PodMetrics,
    /// A pod changed since its namespace was counted.
    pods_changed: bool,
}

/// A planned message of a node.
struct Job {
    node: NodeName,
    session: u64,
    request: Envelope,
    verdict: Verdict,
    plan: Plan,
    turn: Turn,
}

struct Watched(Kind, Result<Event, watcher::Error>);

impl EdgeController {
    #[must_use]
    pub fn new(parts: EdgeControllerParts) -> Self {
        Self {
            downlink: Downlink::new(parts.send_down.clone(), parts.close_node.clone()),
            sealer: Sealer::new(Arc::clone(&parts.ca)),
            parts,
            index: Index::default(),
            lanes: Lanes::default(),
            under_way: UnderWay::default(),
            metrics: EdgeControllerMetrics::new(),
            pods: PodMetrics::new(),
            pods_changed: false,
        }
    }

    /// Shows the pods there are, if there is news and all are known.
    fn show_pods(&mut self, _: &mut Context<Self>) {
        if self.pods_changed && self.index.is_complete() {
            self.pods_changed = false;
            self.pods.show(self.index.phases());
        }
    }

    fn tell_nodes(&mut self, changes: &[Change], ctx: &mut Context<Self>) {
        let now_ms = now_ms();
        for change in changes {
            self.metrics.downstream.increment(change.nodes.len() as u64);
            if let Content::Object(pod) = &change.content
                && change.key.kind == "pod"
            {
                for node in &change.nodes {
                    let mut sealed = pod.as_ref().clone();
                    self.seal(node, &mut sealed);
                    let change = Change { content: Content::Object(Arc::new(sealed)), ..change.clone() };
                    self.downlink.extend([(node.clone(), object::message(&change, now_ms))]);
                }
                continue;
            }
            let message = object::message(change, now_ms);
            self.downlink.extend(change.nodes.iter().map(|node| (node.clone(), Arc::clone(&message))));
        }
        flush(self, ctx);
    }

    /// A pod on its way to `node`. Without a seal the node refuses it and says so.
    fn seal(&self, node: &NodeName, pod: &mut Value) {
        match self.sealer.seal(node, pod, SystemTime::now()) {
            Ok(()) => self.metrics.sealed.increment(1),
            Err(err) => {
                self.metrics.not_sealed.increment(1);
                tracing::error!(%node, %err, "a pod is not sealed");
            }
        }
    }

    fn serve(
        &mut self,
        node: NodeName,
        session: u64,
        request: Envelope,
        turn: Turn,
        ctx: &mut Context<Self>,
    ) {
        let mut plan = match plan::plan(&node, &request) {
            Ok(plan) => plan,
            Err(NoPlan::Unknown) => {
                self.metrics.unknown.increment(1);
                tracing::debug!(%node, resource = %request.route.resource, operation = request.route.operation,
                    "message of an unknown kind");
                let answer = answer::not_understood(&request, now_ms());
                return self.answer(&node, answer.into_iter().collect(), ctx);
            }
            Err(NoPlan::Bad { shape, status }) => {
                self.metrics.bad.increment(1);
                tracing::info!(%node, resource = %request.route.resource, why = status.message, "bad message");
                return self.answer(&node, answer::answers(&request, shape, Err(status), now_ms()), ctx);
            }
        };
        plan::complete_node(&mut plan, &self.parts.cloudcore);
        let needs_index = matches!(plan.subject, Subject::Referenced { .. } | Subject::Token { .. });
        if needs_index && !self.index.is_complete() {
            let status = Box::new(Status::failure(Reason::ServiceUnavailable, NotReady.to_string()));
            return self.answer(&node, answer::answers(&request, plan.shape, Err(status), now_ms()), ctx);
        }
        let verdict = authority::judge(&node, &plan, &self.index);
        if let Verdict::Forbidden(why) = &verdict {
            self.metrics.forbidden.increment(1);
            tracing::warn!(%node, resource = %request.route.resource, why, "message refused");
        }
        let (class, object) = (plan.class, plan.object.clone());
        // The message and what is made of it.
        let bytes = request.body.memory().saturating_mul(2);
        let job = Job { node: node.clone(), session, request, verdict, plan, turn };
        match self.lanes.push(&node, class, &object, bytes, job) {
            Ok(Some(job)) => self.start(job, ctx),
            Ok(None) => {}
            Err(lanes::Full) => {
                self.metrics.dropped.increment(1);
                tracing::warn!(%node, object, "too many messages wait for the api server, one dropped");
            }
        }
    }

    fn start(&mut self, job: Job, ctx: &mut Context<Self>) {
        let Job { node, session, request, verdict, plan, turn } = job;
        let (class, object, shape) = (plan.class, plan.object.clone(), plan.shape);
        let is_volume = verdict == Verdict::IfClaimIsOurs;
        let calls = call_worker::run(self.parts.client.clone(), node.clone(), verdict, plan);
        let (number, calls) = self.under_way.begin(&node, session, class, calls);
        let done = calls.into_actor(self).map(move |ended, actor, ctx| {
            actor.under_way.end(&node, number);
            // Nobody hears the answer of a call that was given up.
            let answers = ended.map_or_else(
                |_| Vec::new(),
                |result| actor.finish(&node, &request, shape, is_volume, result),
            );
            actor.answer(&node, answers, ctx);
            drop(turn);
            for next in actor.lanes.done(&node, class, &object) {
                actor.start(next, ctx);
            }
        });
        ctx.spawn(done);
    }

    /// The answers to a request whose calls were made.
    fn finish(
        &self,
        node: &NodeName,
        request: &Envelope,
        shape: Shape,
        is_volume: bool,
        mut result: Result<Value, Box<Status>>,
    ) -> Vec<Envelope> {
        if is_volume
            && let Ok(volume) = &result
            && !authority::owns_volume(node, volume, &self.index)
        {
            self.metrics.forbidden.increment(1);
            let why = format!("no pod of node {node} claims {}", request.route.resource);
            result = Err(Box::new(Status::failure(Reason::Forbidden, why)));
        }
        if let Ok(object) = &mut result
            && sealer::is_pod(object)
        {
            self.seal(node, object);
        }
        match &result {
            Ok(_) => self.metrics.served.increment(1),
            Err(_) => self.metrics.failed.increment(1),
        }
        answer::answers(request, shape, result, now_ms())
    }

    fn answer(&mut self, node: &NodeName, answers: Vec<Envelope>, ctx: &mut Context<Self>) {
        self.downlink.extend(answers.into_iter().map(|envelope| (node.clone(), Outgoing::new(envelope))));
        flush(self, ctx);
    }

    /// What a comparison found, checked against what is desired now.
    fn differences(&self, asked: SendDifferences) -> (Vec<Change>, Option<Envelope>) {
        let SendDifferences { node, missing, changed, surplus, answer } = asked;
        let mut changes = Vec::new();
        for old in surplus {
            let Resource::Object(key) = old.resource else { continue };
            let wanted = self.index.desired_object(&node, &key);
            if wanted.is_none_or(|wanted| wanted.uid != old.uid) {
                let content = Content::Skeleton { uid: old.uid };
                changes.push(Change {
                    nodes: vec![node.clone()],
                    operation: operation::DELETE,
                    key,
                    content,
                });
            }
        }
        let with = |op: &'static str, list: Vec<Resource>| list.into_iter().map(move |it| (op, it));
        for (operation, resource) in with(operation::INSERT, missing).chain(with(operation::UPDATE, changed))
        {
            let Resource::Object(key) = resource else { continue };
            let Some(wanted) = self.index.desired_object(&node, &key) else { continue };
            let plain = matches!(key.kind.as_str(), "secret" | "node") || wanted.is_terminating();
            changes.push(Change {
                nodes: vec![node.clone()],
                operation: if plain { operation::UPDATE } else { operation },
                content: Content::Object(wanted.object()),
                key,
            });
        }
        if self.parts.ca.bundle().roots.len() > 1 {
            // The root is being replaced. What this node holds may be sealed under the old one.
            let known = |it: &Change| changes.iter().any(|change| change.key == it.key);
            let more: Vec<Change> =
                self.index.pods_of(Some(&node)).into_iter().filter(|it| !known(it)).collect();
            changes.extend(more);
        }
        (changes, answer)
    }
}

impl Actor for EdgeController {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for kind in Kind::ALL {
            let events = watch(&self.parts.client, "v1", kind.name(), kind.plural());
            ctx.add_stream(events.map(move |event| Watched(kind, event)));
        }
        ctx.run_interval(SHOW_PODS_EVERY, Self::show_pods);
    }
}

impl SendsDown for EdgeController {
    fn downlink(&mut self) -> &mut Downlink {
        &mut self.downlink
    }

    fn is_complete(&self) -> bool {
        self.index.is_complete()
    }
}

impl Supervised for EdgeController {
    /// Everything here can be listed again. What sessions missed meanwhile is found by their
    /// comparison, so they must end once.
    fn restarting(&mut self, _: &mut Self::Context) {
        let (parts, pods) = (self.parts.clone(), self.pods.clone());
        *self = Self { pods, ..Self::new(parts) };
        let parts = &self.parts;
        self.downlink = Downlink::new(parts.send_down.clone(), parts.close_node.clone()).healing();
    }
}

impl StreamHandler<Watched> for EdgeController {
    fn handle(&mut self, Watched(kind, event): Watched, ctx: &mut Self::Context) {
        let was_complete = self.index.is_complete();
        let Some(event) = arrived(kind.plural(), event, &self.metrics.watch_errors) else { return };
        let all_nodes_are_known = matches!((kind, &event), (Kind::Node, Event::Listed));
        self.pods_changed |= kind == Kind::Pod;
        let changes = self.index.apply(kind, event);
        if !was_complete && self.index.is_complete() {
            tracing::info!("all objects are listed");
        }
        // A node that came or went is such a change; most updates of nodes are none.
        let node_changed = || changes.iter().any(|change| change.key.kind == "node");
        if all_nodes_are_known || (self.index.has_listed(Kind::Node) && node_changed()) {
            self.parts.federation.known_nodes(self.index.nodes().cloned().collect());
        }
        self.tell_nodes(&changes, ctx);
    }
}

impl Handler<Upstream> for EdgeController {
    type Result = ();

    fn handle(&mut self, message: Upstream, ctx: &mut Self::Context) {
        for single in plan::singles(message.envelope) {
            self.serve(message.node.clone(), message.session, single, message.turn.clone(), ctx);
        }
    }
}

impl Handler<NodeGone> for EdgeController {
    type Result = ();

    /// What a node said of itself and its pods over a session that is over, and nobody answered, it says again in its
    /// next session, perhaps with another cloudcore. Written later, the old would replace the new.
    fn handle(&mut self, NodeGone { node, session }: NodeGone, _: &mut Self::Context) {
        let stale = |job: &Job| job.session <= session;
        let forgotten =
            self.lanes.forget(&node, Class::Status, stale) + self.under_way.give_up(&node, session);
        if forgotten > 0 {
            tracing::debug!(%node, session, reports = forgotten, "reports of an ended session are left to the next one");
        }
    }
}

impl Handler<ListDesired> for EdgeController {
    type Result = Result<Vec<ObjectVersion>, NotReady>;

    fn handle(&mut self, message: ListDesired, _: &mut Self::Context) -> Self::Result {
        if !self.index.is_complete() {
            return Err(NotReady);
        }
        Ok(self.index.desired(&message.node))
    }
}

impl Handler<SendDifferences> for EdgeController {
    type Result = Result<(), NotReady>;

    fn handle(&mut self, message: SendDifferences, ctx: &mut Self::Context) -> Self::Result {
        if !self.index.is_complete() {
            return Err(NotReady);
        }
        let node = message.node.clone();
        let (changes, answer) = self.differences(message);
        self.tell_nodes(&changes, ctx);
        self.answer(&node, answer.into_iter().collect(), ctx);
        Ok(())
    }
}

impl Handler<Reseal> for EdgeController {
    type Result = ();

    fn handle(&mut self, _: Reseal, ctx: &mut Self::Context) {
        let changes = self.index.pods_of(None);
        tracing::info!(pods = changes.len(), "another root signs: all pods are sealed again");
        self.tell_nodes(&changes, ctx);
    }
}

crate::handles!(EdgeController: Upstream, NodeGone, ListDesired, SendDifferences, Reseal);

fn now_ms() -> i64 {
    unix_ms(SystemTime::now())
}
