//! IdentityController: tells every node of ours who is who and what may run (its `EdgeIdentity`),
//! keeps cloudcore's authorities and certificates young, and remembers nodes' keys, certificates and
//! revocations in the API (design D1, D8).
//!
//! In a cluster its account needs: `get list watch` on `workloadidentities`, `imagepolicies` and
//! `topicpolicies` of `identity.kubeedge.io`; `get list watch create update` on `configmaps` of
//! namespace `kubeedge`; `create` on `events`. Who may write ConfigMaps there, may revoke nodes and
//! publish keys: keep it to administrators.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use ::kube::runtime::watcher;
use actix::prelude::*;
use futures_util::StreamExt;
use parking_lot::Mutex;
use tokio::sync::watch;

pub use self::authority_worker::{CertificateFrom, SERVER_TTL, Served};
use self::authority_worker::{Authority, Looked};
use self::document::{EDGE_IDENTITY, SPEC, TRUST_BUNDLE};
use self::ledger::{JWT_KEYS, NODE_IDENTITIES, NODE_REVOCATIONS, Pending};
use self::publication::{Publication, Published, Step};
use self::sources::{Kind, Notice, Sources, Touched};
use crate::actors::cloud::downlink_worker::{Downlink, SendsDown, flush};
use crate::actors::cloud::watch_worker::{Event, watch, watch_in};
use crate::bus::Link;
use crate::bus::cloud_hub::{CloseNode, SendDown};
use crate::bus::edge_controller::{ListDesired, NotReady, ObjectVersion, Reseal, SendDifferences};
use crate::bus::identity::{
    AuditAction, AuditFact, NodeCloned, NodeKeyChanged, PublishedBundle, Revocation, Revocations, unix_secs,
};
use crate::bus::sync::IdentityNodes;
use crate::config::ClonedNodes;
use crate::identity::Ca;
use crate::model::identity::{BundleDocument, EDGE_IDENTITY_KIND, EDGE_IDENTITY_NAMESPACE};
use crate::model::{NodeName, Resource, operation};
use crate::supervise::{doubled, spread};
use crate::telemetry::identity_controller::IdentityControllerMetrics;

mod authority_worker;
mod calls_worker;
mod config_map_worker;
mod document;
mod ledger;
mod publication;
mod sources;
#[cfg(test)]
mod tests;

/// The actor's name in the tree and as the component of its events.
pub const NAME: &str = "IdentityController";
/// Kinds whose objects at nodes it owns.
pub const KINDS: [&str; 1] = [EDGE_IDENTITY_KIND];
/// Namespace of its ConfigMaps.
const NAMESPACE: &str = EDGE_IDENTITY_NAMESPACE;
/// Changes that come together travel together.
const DEBOUNCE: Duration = Duration::from_millis(100);
/// Documents leave at no more than this, bytes a second: a new one replaces what waits.
const SENT_PER_SECOND: f64 = 32e6;
const LOOK_EVERY: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
const ASK: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(250);
const LAST_RETRY: Duration = Duration::from_secs(30);
/// Between two warnings about the same lasting thing.
const REMIND_EVERY: Duration = Duration::from_secs(3600);

/// What IdentityController is built from.
#[derive(Clone)]
pub struct IdentityControllerParts {
    pub client: ::kube::Client,
    pub ca: Arc<Ca>,
    pub cloned_nodes: ClonedNodes,
    /// Listeners whose certificates and trusted authorities it replaces.
    pub served: Vec<Served>,
    pub published: Outlets,
    pub send_down: Link<SendDown>,
    pub close_node: Link<CloseNode>,
    pub identity_nodes: Link<IdentityNodes>,
    pub reseal: Link<Reseal>,
    pub audit: Link<AuditFact>,
}

/// Where it publishes what many read. The senders live as long as the program: a restart of the actor
/// takes nothing back.
#[derive(Clone)]
pub struct Outlets {
    bundle: watch::Sender<Arc<BundleDocument>>,
    revocations: watch::Sender<Arc<BTreeMap<NodeName, Revocation>>>,
}

impl Outlets {
    /// With the bundle as `ca` has it, and nobody revoked.
    #[must_use]
    pub fn new(ca: &Ca) -> Self {
        let bundle = Arc::new(ca.bundle().to_document());
        Self { bundle: watch::Sender::new(bundle), revocations: watch::Sender::new(Arc::default()) }
    }

    #[must_use]
    pub fn bundle(&self) -> PublishedBundle {
        self.bundle.subscribe()
    }

    #[must_use]
    pub fn revocations(&self) -> Revocations {
        self.revocations.subscribe()
    }
}

/// The actor.
pub struct IdentityController {
    parts: IdentityControllerParts,
    authority: Arc<Mutex<Authority>>,
    sources: Sources,
    publication: Publication,
    pending: Pending,
    downlink: Downlink,
    /// The roots as the authorities have them.
    roots: BundleDocument,
    /// Revocations have been listed; what comes later is news.
    heard_revocations: bool,
    busy: Busy,
    metrics: IdentityControllerMetrics,
}

/// What is under way: each of these is done once at a time.
#[derive(Default)]
struct Busy {
    refresh: bool,
    look: bool,
    writing: bool,
    bundle: bool,
    ledger: bool,
    pushing: bool,
    /// Something newer came while a document was on its way.
    push_again: bool,
    /// Failures in a row of writes to the API.
    failures: u32,
    too_long_told: Option<std::time::Instant>,
    root_key_told: Option<std::time::Instant>,
}

struct Watched(Kind, Result<Event, watcher::Error>);

impl IdentityController {
    #[must_use]
    pub fn new(parts: IdentityControllerParts) -> Self {
        Self {
            authority: Arc::new(Mutex::new(Authority::new(Arc::clone(&parts.ca), parts.served.clone()))),
            sources: Sources::default(),
            publication: Publication::default(),
            pending: Pending::default(),
            downlink: Downlink::new(parts.send_down.clone(), parts.close_node.clone()),
            roots: parts.ca.bundle().to_document(),
            heard_revocations: false,
            busy: Busy::default(),
            metrics: IdentityControllerMetrics::new(),
            parts,
        }
    }

    fn audit(&self, fact: AuditFact) {
        if let Err(err) = self.parts.audit.tell(fact) {
            tracing::warn!(error = %err, "a fact is missing in the audit log");
        }
    }

    /// Compiles soon; what comes until then comes along.
    fn refresh_soon(&mut self, after: Duration, ctx: &mut Context<Self>) {
        if !std::mem::replace(&mut self.busy.refresh, true) {
            ctx.run_later(after, |actor, ctx| {
                actor.busy.refresh = false;
                actor.refresh(ctx);
            });
        }
    }

    fn refresh(&mut self, ctx: &mut Context<Self>) {
        if !self.sources.is_complete() {
            return;
        }
        let (revoked, _) = ledger::revocations(&self.sources.data(NODE_REVOCATIONS));
        let mut bundle = self.roots.clone();
        bundle.jwt_keys = ledger::bundle_keys(&self.sources.data(JWT_KEYS), &revoked);
        let news = Arc::new(bundle);
        self.parts.published.bundle.send_if_modified(|known| {
            let changed = *known != news;
            known.clone_from(&news);
            changed
        });
        self.metrics.show(self.sources.counts(), revoked.len());
        let stored = self.publication.stored().cloned();
        let kept = || document::lists_of(&stored?.spec);
        match document::compile(&news, self.sources.lists(), kept) {
            Ok(compiled) => {
                self.metrics.document_bytes.set(compiled.text.len() as f64);
                match compiled.too_long {
                    Some(length) => self.tell_too_long(length, ctx),
                    None => self.busy.too_long_told = None,
                }
                self.publication.want(compiled.text);
            }
            Err(length) => self.tell_too_long(length, ctx),
        }
        self.advance(ctx);
        self.write_bundle(&news, ctx);
    }

    fn tell_too_long(&mut self, length: usize, ctx: &mut Context<Self>) {
        self.metrics.too_long.increment(1);
        if self.busy.too_long_told.is_some_and(|at| at.elapsed() < REMIND_EVERY) {
            return;
        }
        self.busy.too_long_told = Some(std::time::Instant::now());
        let why = format!(
            "registrations, policies and keys are {length} bytes together, more than {}: nodes keep the last \
             that fitted",
            document::MAX_SPEC
        );
        tracing::error!(why, "identity document not changed");
        let told = calls_worker::explain_map(self.parts.client.clone(), EDGE_IDENTITY, "TooLong", why);
        ctx.spawn(told.into_actor(self));
    }

    /// Does what the publication needs next.
    fn advance(&mut self, ctx: &mut Context<Self>) {
        match self.publication.step() {
            Step::Nothing => {}
            Step::Publish(published) => {
                tracing::info!(version = published.version, bytes = published.spec.len(), "identity document");
                self.push(ctx);
            }
            Step::Write(spec) => self.write_document(spec, ctx),
        }
    }

    fn write_document(&mut self, spec: Arc<str>, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy.writing, true) {
            return; // its end advances again
        }
        let client = self.parts.client.clone();
        let work = async move {
            let edit = |data: &mut sources::Data| {
                let wanted = sources::Data::from([(SPEC.to_owned(), spec.to_string())]);
                let changed = *data != wanted;
                *data = wanted;
                changed
            };
            config_map_worker::amend(&client, EDGE_IDENTITY, edit).await
        };
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            actor.busy.writing = false;
            match result {
                Ok(map) => {
                    actor.busy.failures = 0;
                    if let Some(found) = map.and_then(|map| published(&map)) {
                        actor.publication.seen(found);
                    }
                    actor.advance(ctx);
                }
                Err(err) => actor.try_again(&err.to_string(), ctx),
            }
        }));
    }

    /// A write failed: everything is looked at again after a pause.
    fn try_again(&mut self, why: &str, ctx: &mut Context<Self>) {
        self.metrics.write_errors.increment(1);
        let pause = spread(doubled(RETRY, self.busy.failures, LAST_RETRY), fastrand::f64());
        self.busy.failures = self.busy.failures.saturating_add(1);
        tracing::warn!(error = why, ?pause, "the api does not take what identities need, trying again");
        self.refresh_soon(pause, ctx);
    }

    /// The trust bundle for users.
    fn write_bundle(&mut self, bundle: &BundleDocument, ctx: &mut Context<Self>) {
        let Some(wanted) = document::trust_bundle(bundle) else { return };
        let known = self.sources.map(TRUST_BUNDLE).is_some_and(|map| map.data == wanted);
        if known || std::mem::replace(&mut self.busy.bundle, true) {
            return;
        }
        let client = self.parts.client.clone();
        let work = async move {
            let edit = |data: &mut sources::Data| {
                let changed = *data != wanted;
                data.clone_from(&wanted);
                changed
            };
            config_map_worker::amend(&client, TRUST_BUNDLE, edit).await
        };
        // What changed meanwhile is seen when the watch brings this write.
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            actor.busy.bundle = false;
            match result {
                Ok(_) => actor.busy.failures = 0,
                Err(err) => actor.try_again(&err.to_string(), ctx),
            }
        }));
    }

    /// Tells all nodes of ours the document that holds now.
    fn push(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy.pushing, true) {
            self.busy.push_again = true;
            return;
        }
        let Some(current) = self.publication.current().cloned() else {
            self.busy.pushing = false;
            return;
        };
        let (nodes, ca) = (self.parts.identity_nodes.clone(), Arc::clone(&self.parts.ca));
        let bytes = current.spec.len();
        let work = async move {
            let nodes = nodes.ask(IdentityNodes, ASK).await.map_err(|err| err.to_string())?;
            calls_worker::seal(ca, nodes, current, operation::UPDATE).await
        };
        ctx.spawn(work.into_actor(self).map(move |result, actor, ctx| {
            let pause = match result {
                Ok(messages) => {
                    let all = messages.len() as f64 * bytes as f64;
                    actor.metrics.sent.increment(messages.len() as u64);
                    actor.downlink.extend(messages);
                    flush(actor, ctx);
                    Duration::from_secs_f64((all / SENT_PER_SECOND).min(60.0))
                }
                Err(why) => {
                    tracing::warn!(why, "the identity document is not told to nodes yet");
                    actor.busy.push_again = true;
                    spread(RETRY, fastrand::f64())
                }
            };
            ctx.run_later(pause, |actor, ctx| {
                actor.busy.pushing = false;
                if std::mem::take(&mut actor.busy.push_again) {
                    actor.push(ctx);
                }
            });
        }));
    }

    /// Writes down what nodes did.
    fn write_ledger(&mut self, ctx: &mut Context<Self>) {
        if self.busy.ledger || self.pending.is_empty() {
            return;
        }
        self.busy.ledger = true;
        let (client, taken) = (self.parts.client.clone(), std::mem::take(&mut self.pending));
        let work = async move {
            let result = calls_worker::write(&client, &taken).await;
            (taken, result)
        };
        ctx.spawn(work.into_actor(self).map(|(taken, result), actor, ctx| {
            let pause = match result {
                Ok(()) => Duration::ZERO,
                Err(err) => {
                    actor.metrics.write_errors.increment(1);
                    tracing::warn!(error = %err, "what is known of nodes is not written down yet");
                    actor.pending.put_back(taken, unix_secs(SystemTime::now()));
                    let pause = doubled(RETRY, actor.busy.failures, LAST_RETRY);
                    actor.busy.failures = actor.busy.failures.saturating_add(1);
                    spread(pause, fastrand::f64())
                }
            };
            ctx.run_later(pause, |actor, ctx| {
                actor.busy.ledger = false;
                actor.write_ledger(ctx);
            });
        }));
    }

    fn sweep(&mut self, ctx: &mut Context<Self>) {
        if !self.sources.has_maps() {
            return;
        }
        let (keys, known) = (self.sources.data(JWT_KEYS), self.sources.data(NODE_IDENTITIES));
        if ledger::needs_sweep(&keys, &known, unix_secs(SystemTime::now())) {
            self.pending.sweep();
            self.write_ledger(ctx);
        }
    }

    /// Looks at the authorities' files.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy.look, true) {
            return;
        }
        let authority = Arc::clone(&self.authority);
        let work = tokio::task::spawn_blocking(move || authority.lock().look(SystemTime::now()));
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            actor.busy.look = false;
            match result {
                Ok(looked) => actor.looked(looked, ctx),
                Err(err) => tracing::error!(error = %err, "the look at the authorities' files ended early"),
            }
        }));
    }

    fn looked(&mut self, looked: Looked, ctx: &mut Context<Self>) {
        let Looked { bundle, root, new_root, changed, needs_root_key } = looked;
        if needs_root_key && self.busy.root_key_told.is_none_or(|at| at.elapsed() > REMIND_EVERY) {
            self.busy.root_key_told = Some(std::time::Instant::now());
            tracing::warn!("the issuing CA is past half of its life and the root's key is not here to renew it");
        }
        if bundle != self.roots {
            tracing::info!(roots = bundle.roots.len(), root, "trusted roots changed");
            let details = AuditFact::new(AuditAction::Authority, "trust bundle", true, "roots changed")
                .with("root", &*root)
                .with("roots", bundle.roots.len().to_string());
            self.audit(details);
            self.roots = bundle;
            self.refresh_soon(Duration::ZERO, ctx);
        }
        if new_root {
            // Seals of the old root hold while it is trusted; these will hold afterwards.
            self.push(ctx);
            let reseal = self.parts.reseal.clone();
            let told = async move { calls_worker::until_taken(&reseal, Reseal).await };
            ctx.spawn(told.into_actor(self));
        } else if changed {
            tracing::debug!("authorities read");
        }
    }

    /// Publishes who is revoked, ends their sessions, takes their keys out.
    fn revocations_changed(&mut self, ctx: &mut Context<Self>) {
        if !self.sources.has_maps() {
            return;
        }
        let (revoked, wrong) = ledger::revocations(&self.sources.data(NODE_REVOCATIONS));
        for name in wrong {
            tracing::error!(name, "an entry of ConfigMap kubeedge/{NODE_REVOCATIONS} names no node");
        }
        let before = match self.heard_revocations {
            true => self.parts.published.revocations.borrow().as_ref().clone(),
            false => BTreeMap::new(),
        };
        let news = ledger::newly_revoked(&before, &revoked);
        let in_force = !std::mem::replace(&mut self.heard_revocations, true);
        self.parts.published.revocations.send_replace(Arc::new(revoked));
        for (node, revocation) in news {
            let allowed_again = revocation.allowed_at.is_some();
            let fact = AuditFact::new(AuditAction::Revoke, node.as_str(), allowed_again, &*revocation.reason)
                .with("at", revocation.at.to_string())
                .with("seen", if in_force { "at start" } else { "now" });
            self.audit(fact);
            if !in_force {
                tracing::warn!(%node, reason = revocation.reason, allowed_again, "node revoked");
            }
            let close = self.parts.close_node.clone();
            let message = CloseNode { node: Some(node.clone()), reason: crate::model::EndReason::Revoked };
            ctx.spawn(async move { calls_worker::until_taken(&close, message).await }.into_actor(self));
            if !allowed_again {
                self.pending.forget(node);
            }
        }
        self.write_ledger(ctx);
    }

    fn touched(&mut self, touched: Touched, ctx: &mut Context<Self>) {
        let Touched { lists, maps, removed, notice } = touched;
        if let Some(notice) = notice {
            self.explain(notice, ctx);
        }
        for (_, version) in removed.iter().filter(|(name, _)| name == EDGE_IDENTITY) {
            self.publication.gone(version);
        }
        if maps.contains(EDGE_IDENTITY)
            && let Some(found) = self.sources.map(EDGE_IDENTITY).and_then(published)
        {
            self.publication.seen(found);
        }
        if maps.contains(NODE_REVOCATIONS) {
            self.revocations_changed(ctx);
        }
        let own = [EDGE_IDENTITY, TRUST_BUNDLE, JWT_KEYS, NODE_REVOCATIONS];
        if lists || own.iter().any(|name| maps.contains(*name)) {
            self.refresh_soon(DEBOUNCE, ctx);
        }
    }

    fn explain(&mut self, notice: Notice, ctx: &mut Context<Self>) {
        self.metrics.wrong_objects.increment(1);
        let (namespace, name) = &notice.name;
        tracing::warn!(kind = notice.kind.name(), namespace, name, why = notice.why, "not all of it is used");
        ctx.spawn(calls_worker::explain(self.parts.client.clone(), notice).into_actor(self));
    }
}

/// The spec in ConfigMap [`EDGE_IDENTITY`]; one without it holds an empty text, which nobody wants.
fn published(map: &sources::Map) -> Option<Published> {
    let spec = map.data.get(SPEC).map(String::as_str).unwrap_or_default();
    Some(Published { spec: spec.into(), version: map.version.clone() })
}

impl SendsDown for IdentityController {
    fn downlink(&mut self) -> &mut Downlink {
        &mut self.downlink
    }

    fn is_complete(&self) -> bool {
        self.publication.current().is_some()
    }
}

impl Actor for IdentityController {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        for kind in Kind::ALL {
            let (client, version) = (&self.parts.client, kind.api_version());
            if kind == Kind::ConfigMap {
                let events = watch_in(client, NAMESPACE, version, kind.name(), kind.plural());
                ctx.add_stream(events.map(move |event| Watched(kind, event)));
            } else {
                let events = watch(client, version, kind.name(), kind.plural());
                ctx.add_stream(events.map(move |event| Watched(kind, event)));
            }
        }
        self.look(ctx);
        ctx.run_interval(LOOK_EVERY, Self::look);
        ctx.run_interval(SWEEP_EVERY, Self::sweep);
    }
}

impl Supervised for IdentityController {
    /// Everything here can be read again; once it is, all nodes are told the document once more.
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(self.parts.clone());
    }
}

impl StreamHandler<Watched> for IdentityController {
    fn handle(&mut self, Watched(kind, event): Watched, ctx: &mut Self::Context) {
        let event = match event {
            Ok(event) => event,
            Err(err) => {
                self.metrics.watch_errors.increment(1);
                tracing::warn!(kind = kind.plural(), error = %err, "watch failed, trying again");
                return;
            }
        };
        let (had_maps, was_complete) = (self.sources.has_maps(), self.sources.is_complete());
        let touched = self.sources.apply(kind, event);
        self.touched(touched, ctx);
        if !had_maps && self.sources.has_maps() {
            self.revocations_changed(ctx);
            self.sweep(ctx);
        }
        if !was_complete && self.sources.is_complete() {
            tracing::info!("all identities and policies are listed");
        }
    }
}

impl Handler<NodeKeyChanged> for IdentityController {
    type Result = ();

    fn handle(&mut self, told: NodeKeyChanged, ctx: &mut Self::Context) {
        let node = told.node.clone();
        if let Err(why) = self.pending.renewed(told, unix_secs(SystemTime::now())) {
            tracing::warn!(%node, why, "the node's key for JWT-SVIDs is not published");
        }
        self.write_ledger(ctx);
    }
}

impl Handler<NodeCloned> for IdentityController {
    type Result = ();

    fn handle(&mut self, NodeCloned { node, addresses }: NodeCloned, ctx: &mut Self::Context) {
        let [one, other] = &addresses;
        let reason = format!("two machines hold its certificate: one at {one}, one at {other}");
        let revokes = self.parts.cloned_nodes == ClonedNodes::Revoke;
        tracing::error!(%node, reason, revokes, "a node was cloned");
        let fact = AuditFact::new(AuditAction::Refuse, node.as_str(), !revokes, &*reason);
        self.audit(fact.with("rule", if revokes { "revoke" } else { "warn" }));
        let told = calls_worker::explain_node(self.parts.client.clone(), node.clone(), reason.clone());
        ctx.spawn(told.into_actor(self));
        if revokes {
            let at = unix_secs(SystemTime::now());
            self.pending.revoke(node, Revocation { at, reason, allowed_at: None });
            self.write_ledger(ctx);
        }
    }
}

impl Handler<ListDesired> for IdentityController {
    type Result = Result<Vec<ObjectVersion>, NotReady>;

    fn handle(&mut self, ListDesired { node }: ListDesired, _: &mut Self::Context) -> Self::Result {
        let current = self.publication.current().ok_or(NotReady)?;
        Ok(vec![ObjectVersion {
            resource: document::key(&node).into(),
            uid: document::uid(&node),
            resource_version: current.version.clone(),
        }])
    }
}

impl Handler<SendDifferences> for IdentityController {
    type Result = ResponseActFuture<Self, Result<(), NotReady>>;

    fn handle(&mut self, asked: SendDifferences, _: &mut Self::Context) -> Self::Result {
        let SendDifferences { node, missing, changed, surplus, answer: _ } = asked;
        let own = document::key(&node);
        let now_ms = calls_worker::now_ms();
        let mut messages = Vec::new();
        for old in surplus {
            let Resource::Object(key) = old.resource else { continue };
            if key != own || old.uid != document::uid(&node) {
                messages.push((node.clone(), document::removal(key, &old.uid, now_ms)));
            }
        }
        let own = Resource::from(own);
        let operation = match (missing.contains(&own), changed.contains(&own)) {
            (true, _) => Some(operation::INSERT),
            (_, true) => Some(operation::UPDATE),
            _ => None,
        };
        let (ca, current) = (Arc::clone(&self.parts.ca), self.publication.current().cloned());
        let work = async move {
            let Some(operation) = operation else { return Ok(messages) };
            let sealed = calls_worker::seal(ca, vec![node], current.ok_or(NotReady)?, operation).await;
            messages.extend(sealed.map_err(|why| {
                tracing::error!(why, "the identity document is not sealed");
                NotReady
            })?);
            Ok(messages)
        };
        Box::pin(work.into_actor(self).map(|result, actor, ctx| {
            let messages = result?;
            actor.metrics.sent.increment(messages.len() as u64);
            actor.downlink.extend(messages);
            flush(actor, ctx);
            Ok(())
        }))
    }
}

crate::handles!(IdentityController: NodeKeyChanged, NodeCloned, ListDesired, SendDifferences);
