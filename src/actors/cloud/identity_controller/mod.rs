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
use std::time::{Duration, Instant, SystemTime};

use ::kube::runtime::watcher;
use actix::prelude::*;
use futures_util::StreamExt;
use tokio::sync::watch;

use self::authority_worker::Looked;
use self::document::{EDGE_IDENTITY, TRUST_BUNDLE};
use self::document_actor::published;
use self::ledger::{JWT_KEYS, NODE_REVOCATIONS, Pending};
use self::publication::Publication;
use self::sources::{Kind, Notice, Sources, Touched};
use self::standing::Standing;
use crate::actors::cloud::downlink_worker::{Downlink, SendsDown};
use crate::actors::cloud::watch_worker::{Event, arrived, watch, watch_in};
use crate::bus::Link;
use crate::bus::cloud_hub::{CloseNode, SendDown};
use crate::bus::edge_controller::{ListDesired, Reseal, SendDifferences};
use crate::bus::identity::{
    self, AuditAction, AuditFact, NodeCloned, NodeKeyChanged, PublishedBundle, Revocation, Revocations,
};
use crate::bus::sync::IdentityNodes;
use crate::config::ClonedNodes;
use crate::identity::{Ca, CloudServerTls};
use crate::model::NodeName;
use crate::model::identity::{BundleDocument, EDGE_IDENTITY_KIND, EDGE_IDENTITY_NAMESPACE};
use crate::telemetry::identity_controller::IdentityControllerMetrics;
use crate::telemetry::readiness::Readiness;

mod authority_worker;
mod calls_worker;
mod config_map_worker;
pub(crate) mod document;
mod document_actor;
pub(crate) mod ledger;
mod nodes_actor;
mod publication;
pub(crate) mod sources;
mod standing;
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
/// Between two looks at the authorities' files.
pub const LOOK_EVERY: Duration = Duration::from_secs(5);
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Between two warnings about the same lasting thing.
const REMIND_EVERY: Duration = Duration::from_secs(3600);

/// What IdentityController is built from.
#[derive(Clone)]
pub struct IdentityControllerParts {
    pub client: ::kube::Client,
    /// The API is this program's own: no other cloudcore decides there whom nodes believe.
    pub sole: bool,
    /// Where it shows that its roots are those of the other cloudcores.
    pub readiness: Readiness,
    pub ca: Arc<Ca>,
    pub cloned_nodes: ClonedNodes,
    /// Listeners that follow the authorities.
    pub served: Vec<Arc<CloudServerTls>>,
    /// [`LOOK_EVERY`].
    pub look_every: Duration,
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
    revocations: watch::Sender<Option<Arc<BTreeMap<NodeName, Revocation>>>>,
}

impl Outlets {
    /// With the bundle as `ca` has it. Who is revoked is not known yet.
    #[must_use]
    pub fn new(ca: &Ca) -> Self {
        let bundle = Arc::new(ca.bundle().to_document());
        Self { bundle: watch::Sender::new(bundle), revocations: watch::Sender::new(None) }
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
    sources: Sources,
    publication: Publication,
    pending: Pending,
    downlink: Downlink,
    /// The roots as the authorities have them.
    roots: BundleDocument,
    /// Hash of the one in use.
    root: String,
    standing: Standing,
    /// Keys of nodes that are told to all nodes.
    keys: sources::Data,
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
    /// Newer keys of nodes are looked at from then on; that is arranged.
    keys_from: Option<Instant>,
    keys_wait: bool,
    /// Failures in a row of writes to the API.
    failures: u32,
    /// The same of documents to nodes.
    push_failures: u32,
    too_long_told: Option<Instant>,
    root_key_told: Option<Instant>,
}

struct Watched(Kind, Result<Event, watcher::Error>);

impl IdentityController {
    #[must_use]
    pub fn new(parts: IdentityControllerParts) -> Self {
        Self {
            sources: Sources::default(),
            publication: Publication::default(),
            pending: Pending::default(),
            downlink: Downlink::new(parts.send_down.clone(), parts.close_node.clone()),
            roots: parts.ca.bundle().to_document(),
            root: parts.ca.hash_hex(),
            standing: Standing::Ours,
            keys: sources::Data::default(),
            heard_revocations: false,
            busy: Busy::default(),
            metrics: IdentityControllerMetrics::new(),
            parts,
        }
    }

    fn audit(&self, fact: AuditFact) {
        identity::audit(&self.parts.audit, fact);
    }

    /// Looks at the authorities' files.
    fn look(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.busy.look, true) {
            return;
        }
        let (ca, served) = (Arc::clone(&self.parts.ca), self.parts.served.clone());
        let look = move || authority_worker::look(&ca, &served, SystemTime::now());
        let work = tokio::task::spawn_blocking(look);
        ctx.spawn(work.into_actor(self).map(|result, actor, ctx| {
            actor.busy.look = false;
            match result {
                Ok(looked) => actor.looked(looked, ctx),
                Err(err) => tracing::error!(error = %err, "the look at the authorities' files ended early"),
            }
        }));
    }

    fn looked(&mut self, looked: Looked, ctx: &mut Context<Self>) {
        let Looked { bundle, root, new_issuing, needs_root_key } = looked;
        if needs_root_key && self.busy.root_key_told.is_none_or(|at| at.elapsed() > REMIND_EVERY) {
            self.busy.root_key_told = Some(Instant::now());
            tracing::warn!(
                "the issuing CA is past half of its life and the root's key is not here to renew it"
            );
        }
        if new_issuing {
            self.audit(AuditFact::new(AuditAction::Authority, "issuing CA", true, "another one signs now"));
        }
        if bundle != self.roots {
            tracing::info!(roots = bundle.roots.len(), root, "trusted roots changed");
            let fact = AuditFact::new(AuditAction::Authority, "trust bundle", true, "roots changed");
            self.audit(fact.with("root", &*root).with("roots", bundle.roots.len().to_string()));
            self.roots = bundle;
            self.refresh_soon(Duration::ZERO, ctx);
        }
        if std::mem::replace(&mut self.root, root.clone()) != root {
            // Seals of the old root hold while it is trusted; new ones will hold afterwards.
            self.push(ctx);
            let reseal = self.parts.reseal.clone();
            ctx.spawn(async move { calls_worker::until_taken(&reseal, Reseal).await }.into_actor(self));
        }
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
            && let Some(found) = self.sources.map(EDGE_IDENTITY).map(published)
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
        ctx.run_interval(self.parts.look_every, Self::look);
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
        let Some(event) = arrived(kind.plural(), event, &self.metrics.watch_errors) else { return };
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

crate::handles!(IdentityController: NodeKeyChanged, NodeCloned, ListDesired, SendDifferences);
