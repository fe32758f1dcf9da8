//! SyncController: after a connect, a node gets only what differs (design D6, protocol section
//! 4.6). Edges with our `resync` extension list what they hold; for others the API remembers it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant, SystemTime};

use actix::prelude::*;

use self::compare::{Differences, compare, suspects};
use self::listing::Listing;
use crate::bus::Link;
use crate::bus::cloud_hub::{CloseNode, EndReason};
use crate::bus::edge_controller::{ListDesired, ObjectVersion, SendDifferences};
use crate::bus::sync::{Delivered, Held, IdentityNodes, NodeConnected, NodeGone};
use crate::model::{Body, Envelope, NodeName, Resource, group, operation, source, unix_ms};
use crate::supervise::{doubled, spread};
use crate::telemetry::cloud_hub::SyncMetrics;

pub(crate) mod compare;
pub(crate) mod listing;
mod object_sync_worker;
#[cfg(test)]
mod tests;
mod went_back_worker;

const ASK: Duration = Duration::from_secs(10);
/// Before another try; doubled each time.
const RETRY: Duration = Duration::from_millis(500);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// An edge lists right after connecting; if it does not, it gets everything.
const LISTING_DEADLINE: Duration = Duration::from_secs(30);
/// Deliveries of one node not yet written down. Beyond it they are forgotten: sent once more.
const MAX_DELIVERIES: usize = 4_096;

/// Who knows what a node should have of some kinds, and sends it.
#[derive(Clone)]
pub struct Owner {
    /// Wire kinds, such as `pod`.
    pub kinds: &'static [&'static str],
    pub desired: Link<ListDesired>,
    pub send: Link<SendDifferences>,
    /// Nodes that do not list get everything, whatever the API remembers of them: what their store
    /// lost is not known there.
    pub always: bool,
    /// Its kinds are only for nodes with the extension `identity`: KubeEdge's edges do not know them.
    pub identity_only: bool,
}

impl Owner {
    fn serves(&self, identity: bool) -> bool {
        identity || !self.identity_only
    }
}

/// The actor.
pub struct SyncController {
    client: ::kube::Client,
    /// The first one also sends the answer to a listing.
    owners: Vec<Owner>,
    close: Link<CloseNode>,
    /// Comparisons were lost with the memory: sessions must end once.
    heal: bool,
    nodes: HashMap<NodeName, Node>,
    metrics: SyncMetrics,
}

/// A connected node.
struct Node {
    session: u64,
    since: Instant,
    listing: Listing,
    /// The listing is whole.
    listed: bool,
    /// It was told to begin anew in this session.
    anew: bool,
    /// It has the extension `identity`.
    identity: bool,
    /// Owners whose kinds are compared.
    compared: usize,
    /// For a listing that came while the one before was compared.
    newer_answer: Option<Envelope>,
    /// Are ObjectSyncs kept for this node? Not for our edges, not where the kinds are not served.
    recorded: bool,
    deliveries: VecDeque<Delivered>,
    recording: bool,
}

/// One comparison to be done: the objects of one owner.
#[derive(Clone)]
struct Task {
    node: NodeName,
    session: u64,
    owner: usize,
    held: Vec<ObjectVersion>,
    /// `held` is what the API remembers, not what the node says.
    recorded: bool,
    /// The node was told to begin anew: its versions say nothing.
    anew: bool,
    answer: Option<Envelope>,
    tries: u32,
}

impl SyncController {
    #[must_use]
    pub fn new(client: ::kube::Client, owners: Vec<Owner>, close: Link<CloseNode>) -> Self {
        let metrics = SyncMetrics::new();
        Self { client, owners, close, heal: false, nodes: HashMap::new(), metrics }
    }

    /// Ends all sessions; their edges reconnect and list again.
    fn heal(&mut self, ctx: &mut Context<Self>) {
        let close = self.close.clone();
        let asked =
            async move { close.ask(CloseNode { node: None, reason: EndReason::Restarted }, ASK).await };
        ctx.spawn(asked.into_actor(self).map(|result, actor, ctx| match result {
            Ok(()) => actor.heal = false,
            Err(err) => {
                tracing::warn!(error = %err, "cloudhub does not answer");
                ctx.run_later(spread(RETRY, fastrand::f64()), Self::heal);
            }
        }));
    }

    /// Compares with what the API remembers of the node; tries again until it is known.
    fn recall(&mut self, node: NodeName, session: u64, tries: u32, ctx: &mut Context<Self>) {
        if self.nodes.get(&node).is_none_or(|known| known.session != session) {
            return;
        }
        let (client, asked) = (self.client.clone(), node.clone());
        let work = async move { object_sync_worker::load(&client, &asked).await };
        ctx.spawn(work.into_actor(self).map(move |result, actor, ctx| match result {
            Ok(held) => {
                if let Some(known) = actor.nodes.get_mut(&node) {
                    known.recorded = held.is_some() && known.session == session;
                }
                actor.compare(node, session, &held.unwrap_or_default(), true, None, ctx);
            }
            Err(err) => {
                tracing::debug!(%node, error = %err, "what the node has is not known yet");
                ctx.run_later(pause(tries), move |actor, ctx| {
                    actor.recall(node, session, tries.saturating_add(1), ctx);
                });
            }
        }));
    }

    /// Each owner compares on its own: one whose kinds are not listed yet keeps nobody waiting.
    fn compare(
        &mut self,
        node: NodeName,
        session: u64,
        held: &[ObjectVersion],
        recorded: bool,
        answer: Option<Envelope>,
        ctx: &mut Context<Self>,
    ) {
        let mut answer = answer;
        let (identity, anew) =
            self.nodes.get(&node).map_or((false, false), |known| (known.identity, known.anew));
        let owners = self.owners.iter().enumerate().filter(|(_, it)| it.serves(identity));
        for (owner, kinds) in owners.map(|(owner, it)| (owner, it.kinds)).collect::<Vec<_>>() {
            let own = |it: &&ObjectVersion| {
                it.resource.object().is_some_and(|key| kinds.contains(&key.kind.as_str()))
            };
            let held = held.iter().filter(own).cloned().collect();
            let (node, answer) = (node.clone(), answer.take());
            self.run(Task { node, session, owner, held, recorded, anew, answer, tries: 0 }, ctx);
        }
    }

    /// Brings a node what only nodes with the extension `identity` get.
    fn compare_identity(&mut self, node: &NodeName, session: u64, ctx: &mut Context<Self>) {
        let owners = self.owners.iter().enumerate().filter(|(_, it)| it.identity_only);
        for owner in owners.map(|(owner, _)| owner).collect::<Vec<_>>() {
            let (node, held) = (node.clone(), Vec::new());
            let task =
                Task { node, session, owner, held, recorded: false, anew: false, answer: None, tries: 0 };
            self.run(task, ctx);
        }
    }

    /// Compares and sends; tries again until it is done or the session is over.
    fn run(&mut self, mut task: Task, ctx: &mut Context<Self>) {
        let node = self.nodes.get_mut(&task.node).filter(|node| node.session == task.session);
        let (Some(node), Some(owner)) = (node, self.owners.get(task.owner)) else { return };
        if task.answer.is_some() {
            task.answer = node.newer_answer.take().or(task.answer);
        }
        let (client, owner, work) = (self.client.clone(), owner.clone(), task.clone());
        let done = async move { resync(client, owner, work).await };
        ctx.spawn(done.into_actor(self).map(move |result, actor, ctx| match result {
            Ok(Compared::Sent(done)) => actor.finish(&task, &done),
            Ok(Compared::WentBack(object)) => actor.ask_anew(&task, &object, ctx),
            Err(why) => {
                tracing::debug!(node = %task.node, why, "comparison not possible yet");
                let (pause, tries) = (pause(task.tries), task.tries.saturating_add(1));
                ctx.run_later(pause, move |actor, ctx| actor.run(Task { tries, ..task }, ctx));
            }
        }));
    }

    fn finish(&mut self, task: &Task, done: &Done) {
        let Some(node) = self.nodes.get_mut(&task.node) else { return };
        let owners = self.owners.iter().filter(|it| it.serves(node.identity)).count();
        if node.session != task.session {
            return;
        }
        node.compared += 1;
        let seconds = node.since.elapsed().as_secs_f64();
        if node.compared == owners {
            self.metrics.resync_seconds.record(seconds);
        }
        let owner = self.owners.get(task.owner).map_or("", |owner| owner.desired.actor());
        tracing::info!(node = %task.node, owner, missing = done.missing, changed = done.changed,
            surplus = done.surplus, seconds, "node compared");
    }

    /// The node knows more than the API, which was restored from older data. Told so, the node forgets how new its copies are, and lists again; then everything that differs
    /// travels.
    fn ask_anew(&mut self, task: &Task, object: &ObjectVersion, ctx: &mut Context<Self>) {
        let Some(node) = self.nodes.get_mut(&task.node).filter(|node| node.session == task.session) else {
            return;
        };
        if node.anew {
            return; // another owner was faster
        }
        tracing::warn!(node = %task.node, resource = %object.resource,
            "the node knows more of this object than the API: the API was restored from older data, and what it \
             has now counts");
        (node.listing, node.listed, node.anew) = (Listing::default(), false, true);
        let Some(owner) = self.owners.first().cloned() else { return };
        let (task, object) = (task.clone(), object.clone());
        let messages =
            [task.answer.clone(), Some(anew())].into_iter().flatten().map(|message| SendDifferences {
                node: task.node.clone(),
                missing: Vec::new(),
                changed: Vec::new(),
                surplus: Vec::new(),
                answer: Some(message),
            });
        let messages: Vec<_> = messages.collect();
        let sent = async move {
            for message in messages {
                if !matches!(owner.send.ask(message, ASK).await, Ok(Ok(()))) {
                    return false;
                }
            }
            true
        };
        ctx.spawn(sent.into_actor(self).map(move |sent, _, ctx| {
            if !sent {
                ctx.run_later(pause(task.tries), move |actor, ctx| {
                    if let Some(node) = actor.nodes.get_mut(&task.node) {
                        node.anew = false;
                    }
                    actor.ask_anew(&task, &object, ctx);
                });
            }
        }));
    }

    /// Writes down one delivery of `node`, then the next.
    fn record(&mut self, name: NodeName, ctx: &mut Context<Self>) {
        let Some(node) = self.nodes.get_mut(&name) else { return };
        if node.recording {
            return;
        }
        let Some(delivery) = node.deliveries.pop_front() else { return };
        node.recording = true;
        let client = self.client.clone();
        let work = async move { object_sync_worker::record(&client, &delivery).await };
        ctx.spawn(work.into_actor(self).map(move |result, actor, ctx| {
            if let Err(err) = result {
                tracing::warn!(node = %name, error = %err, "delivery not written down");
            }
            if let Some(node) = actor.nodes.get_mut(&name) {
                node.recording = false;
            }
            actor.record(name, ctx);
        }));
    }
}

/// What came of one comparison.
enum Compared {
    Sent(Done),
    /// This object shows that the API was restored from older data.
    WentBack(ObjectVersion),
}

/// What one comparison sent.
struct Done {
    missing: usize,
    changed: usize,
    surplus: usize,
}

fn pause(tries: u32) -> Duration {
    spread(doubled(RETRY, tries, LAST_RETRY), fastrand::f64())
}

async fn resync(client: ::kube::Client, owner: Owner, task: Task) -> Result<Compared, String> {
    let Task { node, held, recorded, anew, answer, .. } = task;
    let asked = owner.desired.ask(ListDesired { node: node.clone() }, ASK).await;
    let wanted = asked.map_err(|err| err.to_string())?.map_err(|err| err.to_string())?;
    if !recorded && !anew {
        let suspects = suspects(&wanted, &held);
        let shown = went_back_worker::evidence(&client, &suspects).await.map_err(|err| err.to_string())?;
        if let Some(object) = shown {
            return Ok(Compared::WentBack(object));
        }
    }
    let Differences { mut missing, mut changed, surplus } = compare(&wanted, &held);
    if recorded {
        // SyncController of KubeEdge never inserts; edges take updates as either.
        missing.append(&mut changed);
        std::mem::swap(&mut missing, &mut changed);
        if owner.always {
            changed = wanted.into_iter().map(|it| it.resource).collect();
        }
    }
    let done = Done { missing: missing.len(), changed: changed.len(), surplus: surplus.len() };
    let sent = owner.send.ask(SendDifferences { node, missing, changed, surplus, answer }, ASK).await;
    sent.map_err(|err| err.to_string())?.map_err(|err| err.to_string())?;
    Ok(Compared::Sent(done))
}

impl Actor for SyncController {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        if self.heal {
            self.heal(ctx);
        }
    }
}

impl Supervised for SyncController {
    /// Comparisons under way are lost with their listings, so every session starts again.
    fn restarting(&mut self, _: &mut Self::Context) {
        self.nodes.clear();
        self.heal = true;
    }
}

impl Handler<NodeConnected> for SyncController {
    type Result = ();

    fn handle(&mut self, message: NodeConnected, ctx: &mut Self::Context) {
        let NodeConnected { node, session, extensions } = message;
        match self.nodes.get_mut(&node) {
            Some(known) if known.session > session => return,
            Some(known) if known.session == session => {
                // Its listing was here first, and was compared without this.
                if extensions.identity && !std::mem::replace(&mut known.identity, true) {
                    self.compare_identity(&node, session, ctx);
                }
                return;
            }
            _ => {}
        }
        self.nodes.insert(node.clone(), Node::new(session, extensions.identity));
        if !extensions.resync {
            return self.recall(node, session, 0, ctx);
        }
        ctx.run_later(LISTING_DEADLINE, move |actor, ctx| {
            let waiting = actor.nodes.get(&node).is_some_and(|known| known.is_waiting(session));
            if waiting {
                tracing::warn!(%node, "the edge did not list what it holds, it gets everything");
                actor.compare(node, session, &[], false, None, ctx);
            }
        });
    }
}

impl Node {
    fn new(session: u64, identity: bool) -> Self {
        Self {
            session,
            identity,
            since: Instant::now(),
            listing: Listing::default(),
            listed: false,
            anew: false,
            compared: 0,
            newer_answer: None,
            recorded: false,
            deliveries: VecDeque::new(),
            recording: false,
        }
    }

    fn is_waiting(&self, session: u64) -> bool {
        self.session == session && !self.listed
    }
}

impl Handler<NodeGone> for SyncController {
    type Result = ();

    fn handle(&mut self, message: NodeGone, _: &mut Self::Context) {
        if self.nodes.get(&message.node).is_some_and(|node| node.session <= message.session) {
            self.nodes.remove(&message.node);
        }
    }
}

impl Handler<Held> for SyncController {
    type Result = ();

    fn handle(&mut self, message: Held, ctx: &mut Self::Context) {
        let Held { node: name, session, envelope, turn: _turn } = message;
        let node = self.nodes.entry(name.clone()).or_insert_with(|| Node::new(session, false));
        if node.session != session {
            return;
        }
        match node.listing.add(&envelope.body) {
            Ok(None) => {}
            Ok(Some(held)) => {
                let owners = self.owners.iter().filter(|it| it.serves(node.identity)).count();
                if node.listed && node.compared < owners {
                    // Each comparison keeps its listing: whoever lists on and on gets one at a time. A node whose
                    // patience ended while the API was away says the same again, and waits for this answer now.
                    node.newer_answer = Some(answer(&envelope));
                    tracing::debug!(node = %name, "a listing came while the one before is compared");
                    return;
                }
                (node.listed, node.compared, node.newer_answer) = (true, 0, None);
                self.compare(name, session, &held, false, Some(answer(&envelope)), ctx);
            }
            Err(err) => {
                self.metrics.bad_listings.increment(1);
                tracing::warn!(node = %name, error = %err, "bad listing");
            }
        }
    }
}

impl Handler<Delivered> for SyncController {
    type Result = ();

    fn handle(&mut self, message: Delivered, ctx: &mut Self::Context) {
        let name = message.node.clone();
        let Some(node) = self.nodes.get_mut(&name) else { return };
        if !node.recorded || node.deliveries.len() >= MAX_DELIVERIES {
            return;
        }
        node.deliveries.push_back(message);
        self.record(name, ctx);
    }
}

impl Handler<IdentityNodes> for SyncController {
    type Result = Vec<NodeName>;

    fn handle(&mut self, _: IdentityNodes, _: &mut Self::Context) -> Self::Result {
        let with = self.nodes.iter().filter(|(_, node)| node.identity);
        let mut nodes: Vec<_> = with.map(|(name, _)| name.clone()).collect();
        nodes.sort();
        nodes
    }
}

crate::handles!(SyncController: NodeConnected, NodeGone, Held, Delivered, IdentityNodes);

/// Tells an edge with `resync` that its versions mean nothing any more.
fn anew() -> Envelope {
    let everything = Resource::Other("null".to_owned());
    let body = Body::Text("anew".to_owned());
    let now_ms = unix_ms(SystemTime::now());
    Envelope::new(source::EDGE_CONTROLLER, group::RESOURCE, operation::RESYNC, everything, body, now_ms)
}

/// `"OK"` to the last part of a listing.
fn answer(listing: &Envelope) -> Envelope {
    let mut answer = listing.response(Body::Text("OK".to_owned()), unix_ms(SystemTime::now()));
    source::EDGE_CONTROLLER.clone_into(&mut answer.route.source);
    group::RESOURCE.clone_into(&mut answer.route.group);
    answer
}
