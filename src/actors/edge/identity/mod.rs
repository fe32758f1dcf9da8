//! Identity: who is who on this edge (design D8, protocol section 18).
//!
//! It holds the node's own authority for workloads and serves the SPIFFE Workload API: a caller on
//! the socket is attested by the kernel, the container runtime and what MetaManager knows of its
//! pod, and gets the identities of its service account and of registrations, with the cloud or
//! without it. It also verifies the document of registrations and policies the cloud seals for this
//! node, and publishes it to whoever decides by it.
//!
//! The actor signs, one certificate a message, and remembers what it signed; calls and streams are
//! futures beside it that look at a [`view::View`] of its state.

pub(crate) mod attest;
mod attest_worker;
pub(crate) mod document;
mod ledger;
mod newest_worker;
mod origins;
mod peer_worker;
mod refusal;
mod serve_worker;
mod stream_worker;
mod view;
pub(crate) mod workload;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use actix::prelude::*;
use serde_json::Value;
use tokio::sync::watch;

pub use self::attest_worker::{Attestor, NodeAttestor, Seals};
use self::document::{BadDocument, Newest, Verified};
use self::ledger::{Issued, Key, Ledger};
pub use self::peer_worker::Peer;
pub use self::refusal::Refusal;
use self::serve_worker::Door;
use self::view::View;
pub use self::workload::Workload;
use self::workload::{Grant, is_own_path};
use crate::bus::identity::{AuditAction, AuditFact, Credentials, EdgeIdentityChanged, RootsChanged, audit};
use crate::bus::meta::GetObject;
use crate::bus::{ActorStats, Link, LinkError};
use crate::identity::{NodeCredentials, SpiffeId, TrustBundle, WorkloadIssuer, verify_x509_svid};
use crate::model::identity::{
    BundleDocument, EDGE_IDENTITY_KIND, EDGE_IDENTITY_NAMESPACE, EdgeIdentitySpec, Registration,
};
use crate::model::{NodeName, ObjectKey};
use crate::supervise::spread;
use crate::telemetry::identity as telemetry;
use crate::telemetry::workload::WorkloadMetrics;

/// The actor's name in the tree.
pub const NAME: &str = "Identity";

/// Signatures that may wait.
const OWN_MAILBOX: usize = 1_024;
const TICK: Duration = Duration::from_secs(5);
const LOAD_DEADLINE: Duration = Duration::from_secs(10);
const LOAD_RETRY: Duration = Duration::from_secs(2);
/// Registrations that cannot work as they are, named in the log one by one.
const MAX_COMPLAINTS: usize = 10;

/// What [`Identity`] needs to know.
#[derive(Debug, Clone)]
pub struct IdentitySettings {
    pub node: NodeName,
    /// Where the Workload API is served; `None`: nowhere.
    pub socket: Option<PathBuf>,
    /// Lives of what is issued, where no registration says otherwise.
    pub x509_ttl: Duration,
    pub jwt_ttl: Duration,
    /// Remembers which document is the newest; `None`: nothing is remembered over restarts.
    pub newest_file: Option<PathBuf>,
}

/// Whom [`Identity`] talks to.
#[derive(Clone)]
pub struct IdentityLinks {
    pub get_object: Link<GetObject>,
    pub roots_changed: Link<RootsChanged>,
    pub audit: Link<AuditFact>,
}

/// The X.509-SVID of a workload for one of its identities: the one that is held, or a new one.
#[derive(Message)]
#[rtype(result = "Result<Issued, Refusal>")]
struct IssueX509 {
    workload: Arc<Workload>,
    grant: Grant,
}

/// A new JWT-SVID and when it ends, unix seconds.
#[derive(Message)]
#[rtype(result = "Result<(String, u64), Refusal>")]
struct IssueJwt {
    workload: Arc<Workload>,
    id: SpiffeId,
    audiences: Vec<String>,
}

/// The actor.
pub struct Identity {
    settings: IdentitySettings,
    links: IdentityLinks,
    credentials: Credentials,
    policies: watch::Sender<Option<Arc<EdgeIdentitySpec>>>,
    attestor: Arc<dyn Attestor>,
    metrics: WorkloadMetrics,
    stats: Arc<ActorStats>,
    signer: Option<WorkloadIssuer>,
    ledger: Ledger,
    view: watch::Sender<Arc<View>>,
    /// A document that is not in force: not verified yet, or not good.
    pending: Option<Arc<Value>>,
    is_verifying: bool,
    verify_again: bool,
    /// The document in force.
    newest: Option<Newest>,
    roots_untold: Option<Arc<BundleDocument>>,
}

impl Identity {
    /// Publishes registrations and policies through `policies`; who a caller is, `attestor` says.
    #[must_use]
    pub fn new(
        settings: IdentitySettings,
        links: IdentityLinks,
        credentials: Credentials,
        policies: watch::Sender<Option<Arc<EdgeIdentitySpec>>>,
        attestor: Arc<dyn Attestor>,
        metrics: WorkloadMetrics,
    ) -> Self {
        Self {
            settings,
            links,
            credentials,
            policies,
            attestor,
            metrics,
            stats: Arc::new(ActorStats::bounded(OWN_MAILBOX)),
            signer: None,
            ledger: Ledger::default(),
            view: watch::Sender::new(Arc::new(View {
                closed: Some(NOT_JOINED.to_owned()),
                ..View::default()
            })),
            pending: None,
            is_verifying: false,
            verify_again: false,
            newest: None,
            roots_untold: None,
        }
    }

    fn door(&self, ctx: &Context<Self>) -> Door {
        Door {
            attestor: Arc::clone(&self.attestor),
            view: self.view.subscribe(),
            x509: Link::to(NAME, &ctx.address(), Arc::clone(&self.stats)),
            jwt: Link::to(NAME, &ctx.address(), Arc::clone(&self.stats)),
            audit: self.links.audit.clone(),
            metrics: self.metrics.clone(),
        }
    }

    /// Goes on for as long as EdgeHub is there.
    fn watch_credentials(&mut self, ctx: &mut Context<Self>) {
        let mut credentials = self.credentials.clone();
        let changed = async move { credentials.changed().await.is_ok() };
        ctx.spawn(changed.into_actor(self).map(|is_there, identity, ctx| {
            if is_there {
                identity.take_credentials(ctx);
                identity.watch_credentials(ctx);
            }
        }));
    }

    fn take_credentials(&mut self, ctx: &mut Context<Self>) {
        let credentials = self.credentials.borrow_and_update().clone();
        let (signer, closed) = match &credentials {
            None => (None, Some(NOT_JOINED.to_owned())),
            Some(credentials) => match WorkloadIssuer::new(credentials) {
                Ok(signer) => (Some(signer), None),
                Err(err) => {
                    tracing::warn!(error = %err, "this node cannot give identities to workloads");
                    (None, Some(format!("this node cannot give identities: {err}")))
                }
            },
        };
        self.signer = signer;
        self.ledger.signer_changed(SystemTime::now());
        self.publish(closed);
        self.verify(ctx);
    }

    /// The bundle this node knows without any document.
    fn own_bundle(&self) -> Option<TrustBundle> {
        let credentials: Option<Arc<NodeCredentials>> = self.credentials.borrow().clone();
        let credentials = credentials?;
        match TrustBundle::from_pem(&credentials.trust_domain, &credentials.roots_pem) {
            Ok(mut bundle) => {
                bundle.jwt_keys.extend(self.signer.as_ref().map(WorkloadIssuer::jwk));
                Some(bundle)
            }
            // KubeEdge's cloud has no trust domain.
            Err(err) => {
                tracing::debug!(error = %err, "this node has no trust bundle");
                None
            }
        }
    }

    /// Makes the state visible to calls and streams.
    fn publish(&mut self, closed: Option<String>) {
        let before = Arc::clone(&self.view.borrow());
        let policies = self.policies.borrow().clone();
        let own = self.own_bundle();
        let document = policies.as_ref().and_then(|spec| TrustBundle::from_document(&spec.bundle).ok());
        let bundle = own.map_or_else(TrustBundle::default, |own| view::merged(document, own));
        let (bundle, trust) = if bundle == *before.bundle {
            (Arc::clone(&before.bundle), before.trust)
        } else {
            (Arc::new(bundle), before.trust + 1)
        };
        self.view.send_replace(Arc::new(View { trust, bundle, policies, closed }));
    }

    /// Loads the document of the last run, until MetaManager has answered.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let key =
            ObjectKey::namespaced(EDGE_IDENTITY_NAMESPACE, EDGE_IDENTITY_KIND, self.settings.node.as_str());
        let link = self.links.get_object.clone();
        let loaded = async move {
            loop {
                match link.ask(GetObject(key.clone()), LOAD_DEADLINE).await {
                    Ok(Ok(document)) => return document,
                    Ok(Err(err)) => {
                        tracing::warn!(error = %err, "registrations and policies were not loaded")
                    }
                    Err(err) => tracing::warn!(error = %err, "registrations and policies were not loaded"),
                }
                tokio::time::sleep(spread(LOAD_RETRY, fastrand::f64())).await;
            }
        };
        ctx.spawn(loaded.into_actor(self).map(|document, identity, ctx| {
            // What was told meanwhile is newer.
            if identity.pending.is_none() && !identity.is_verifying {
                identity.pending = document;
                identity.verify(ctx);
            }
        }));
    }

    /// Verifies what is pending, one at a time and not on this thread: it may be a megabyte.
    fn verify(&mut self, ctx: &mut Context<Self>) {
        let Some(document) = self.pending.clone() else { return };
        let Some(own) = self.own_bundle() else { return };
        if self.is_verifying {
            self.verify_again = true;
            return;
        }
        self.is_verifying = true;
        let mut roots = view::merged(Some((*self.view.borrow().bundle).clone()), own);
        roots.jwt_keys.clear();
        let (node, newest, checked) =
            (self.settings.node.clone(), self.newest.clone(), Arc::clone(&document));
        let file = self.settings.newest_file.clone();
        let work = tokio::task::spawn_blocking(move || {
            newest_worker::verify(file.as_deref(), &checked, &node, &roots, newest)
        });
        ctx.spawn(work.into_actor(self).map(move |outcome, identity, ctx| {
            identity.is_verifying = false;
            match outcome {
                Ok(Ok(verified)) => identity.adopt(&document, verified),
                Ok(Err(bad)) => identity.turn_down(&bad),
                Err(err) => tracing::error!(error = %err, "registrations and policies were not verified"),
            }
            if std::mem::take(&mut identity.verify_again) {
                identity.verify(ctx);
            }
        }));
    }

    fn adopt(&mut self, document: &Arc<Value>, Verified { spec, newest }: Verified) {
        if self.pending.as_ref().is_some_and(|pending| Arc::ptr_eq(pending, document)) {
            self.pending = None;
        }
        tracing::info!(
            registrations = spec.registrations.len(),
            image_policies = spec.image_policies.len(),
            topic_policies = spec.topic_policies.len(),
            "registrations and policies are in force"
        );
        self.complain_of(&spec.registrations);
        self.newest = Some(newest);
        self.roots_untold = Some(Arc::new(spec.bundle.clone()));
        self.policies.send_replace(Some(Arc::new(spec)));
        let closed = self.view.borrow().closed.clone();
        self.publish(closed);
        self.tell_roots();
    }

    /// The document before stays in force.
    fn turn_down(&mut self, bad: &BadDocument) {
        tracing::error!(error = %bad, "registrations and policies of the cloud were not taken");
        self.metrics.bad_documents.increment(1);
        self.metrics.counters.refused(telemetry::Refused::Seal);
        self.record(AuditFact::new(AuditAction::Policy, self.settings.node.as_str(), false, bad.to_string()));
    }

    /// Names registrations that give less than they say.
    fn complain_of(&self, registrations: &[Registration]) {
        let suffix = self.signer.as_ref().map(|signer| signer.dns_suffix().to_owned()).unwrap_or_default();
        let wrong = registrations.iter().filter_map(|registration| {
            let Registration { namespace, name, path, dns_names, .. } = registration;
            if !is_own_path(path, namespace) {
                return Some(format!(
                    "{namespace}/{name}: path {path:?} is not below /ns/{namespace}/ or /device/{namespace}/"
                ));
            }
            let foreign = dns_names.iter().find(|dns| !is_below(dns, &suffix))?;
            Some(format!(
                "{namespace}/{name}: {foreign:?} is left out, this node gives names below {suffix} only"
            ))
        });
        for why in wrong.take(MAX_COMPLAINTS) {
            tracing::warn!(why, "WorkloadIdentity");
        }
    }

    fn tell_roots(&mut self) {
        if let Some(bundle) = &self.roots_untold {
            let told = self.links.roots_changed.tell(RootsChanged(bundle.as_ref().clone()));
            if !matches!(told, Err(LinkError::Full { .. })) {
                self.roots_untold = None;
            }
        }
    }

    fn record(&self, fact: AuditFact) {
        audit(&self.links.audit, fact);
    }

    fn x509(&mut self, workload: &Workload, grant: Grant) -> Result<Issued, Refusal> {
        let now = SystemTime::now();
        let view = Arc::clone(&self.view.borrow());
        let Some(signer) = &self.signer else { return Err(closed(&view)) };
        let key = Key::of(workload, &grant);
        let still_trusted =
            |svid: &crate::identity::WorkloadSvid| verify_x509_svid(&svid.chain, &view.bundle, now).is_ok();
        if let Some(held) = self.ledger.held(&key, &grant, view.trust, now, still_trusted) {
            return Ok(held);
        }
        let (ends_at, wanted) = (signer.ends_at(), grant.ttl.unwrap_or(self.settings.x509_ttl));
        let life = ledger::life(wanted, ends_at, now).ok_or_else(ended)?;
        let suffix = signer.dns_suffix();
        let names: Vec<String> =
            grant.dns_names.iter().filter(|name| is_below(name, suffix)).cloned().collect();
        let svid = signer.x509(&grant.id, &names, life, now).map_err(not_signed)?;
        let renew_at = ledger::renew_at(svid.not_after, ends_at, now, fastrand::f64());
        let fact = issued_fact(workload, &grant.id, "x509").with("serial", &svid.serial_hex);
        let issued = Issued { svid: Arc::new(svid), renew_at };
        self.ledger.keep(key, grant, view.trust, issued.clone(), now);
        self.metrics.counters.issued(telemetry::Issued::X509Svid);
        self.record(fact);
        Ok(issued)
    }

    fn jwt(
        &mut self,
        workload: &Workload,
        id: &SpiffeId,
        audiences: &[String],
    ) -> Result<(String, u64), Refusal> {
        let now = SystemTime::now();
        let Some(signer) = &self.signer else { return Err(closed(&self.view.borrow())) };
        let life = ledger::life(self.settings.jwt_ttl, signer.ends_at(), now).ok_or_else(ended)?;
        let issued = signer.jwt(id, audiences, life, now).map_err(not_signed)?;
        self.metrics.counters.issued(telemetry::Issued::JwtSvid);
        self.record(issued_fact(workload, id, "jwt").with("audience", audiences.join(" ")));
        Ok(issued)
    }

    fn tick(&mut self, _: &mut Context<Self>) {
        self.ledger.sweep(SystemTime::now());
        self.metrics.held.set(f64::from(u32::try_from(self.ledger.len()).unwrap_or(u32::MAX)));
        self.tell_roots();
    }
}

const NOT_JOINED: &str = "this node has not joined its cloud yet";

fn closed(view: &View) -> Refusal {
    Refusal::Unavailable(view.closed.clone().unwrap_or_else(|| NOT_JOINED.to_owned()))
}

fn ended() -> Refusal {
    Refusal::Unavailable("the node's CA has ended and the cloud was not reached since".to_owned())
}

fn not_signed(err: crate::identity::IdentityError) -> Refusal {
    Refusal::Unavailable(format!("nothing was issued: {err}"))
}

/// Is `name` this node's to give?
fn is_below(name: &str, suffix: &str) -> bool {
    name.strip_suffix(suffix).is_some_and(|head| head.is_empty() || head.ends_with('.'))
}

fn issued_fact(workload: &Workload, id: &SpiffeId, kind: &str) -> AuditFact {
    AuditFact::new(AuditAction::Issue, id.as_str(), true, "")
        .with("kind", kind)
        .with("pod", format!("{}/{}", workload.namespace, workload.pod))
        .with("podUid", &workload.pod_uid)
        .with("container", &workload.container)
}

impl Actor for Identity {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.take_credentials(ctx);
        self.watch_credentials(ctx);
        self.load(ctx);
        if let Some(socket) = self.settings.socket.clone() {
            let serving = serve_worker::serve(socket, self.door(ctx));
            ctx.spawn(serving.into_actor(self));
        }
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Supervised for Identity {
    /// `started` reads credentials and the document again. The socket and the streams went with the
    /// context; the policies in force stay.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.stats = Arc::new(ActorStats::bounded(OWN_MAILBOX));
        self.signer = None;
        self.ledger.clear();
        self.pending = None;
        self.is_verifying = false;
        self.verify_again = false;
    }
}

crate::handles!(Identity: IssueX509, IssueJwt, EdgeIdentityChanged);

impl Handler<IssueX509> for Identity {
    type Result = Result<Issued, Refusal>;

    fn handle(&mut self, IssueX509 { workload, grant }: IssueX509, _: &mut Context<Self>) -> Self::Result {
        self.x509(&workload, grant)
    }
}

impl Handler<IssueJwt> for Identity {
    type Result = Result<(String, u64), Refusal>;

    fn handle(&mut self, msg: IssueJwt, _: &mut Context<Self>) -> Self::Result {
        self.jwt(&msg.workload, &msg.id, &msg.audiences)
    }
}

impl Handler<EdgeIdentityChanged> for Identity {
    type Result = ();

    fn handle(&mut self, EdgeIdentityChanged(document): EdgeIdentityChanged, ctx: &mut Context<Self>) {
        match document {
            Some(document) => {
                self.pending = Some(document);
                self.verify(ctx);
            }
            // Policies that could be taken away without a signature would protect nothing.
            None => tracing::warn!(
                "registrations and policies are gone from the cloud: the last ones stay in force"
            ),
        }
    }
}

#[cfg(test)]
mod tests;
