//! MetaManager: what the edge must remember. It makes the cloud's messages durable before they are
//! acknowledged, answers the other modules from the store, and carries their reports to the cloud
//! until the cloud has them.
//!
//! One group of writes is under way at a time and everything that comes meanwhile goes into the
//! next one: writes keep their order, and a burst costs few syncs. What follows from a write
//! (telling edged, answering) happens when it is on disk.

pub(crate) mod cloud_worker;
mod devices_actor;
pub(crate) mod node;
mod node_actor;
pub(crate) mod objects;
mod queries_actor;
mod recent;
pub(crate) mod reports;
mod reports_actor;
mod sealed_store;
pub(crate) mod tokens;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use serde_json::Value;
use tokio::sync::oneshot;

use self::cloud_worker::Cloud;
pub use self::devices_actor::DeviceLinks;
use self::devices_actor::Listener;
use self::objects::{Change, Index, Notice, store_key};
use self::recent::Recent;
use self::reports::{PodId, Reports};
pub use self::sealed_store::{SealedStore, SecretSettings, SecretsError};
use crate::bus::device_twin::{ListDevices, ReportAnew};
use crate::bus::edge_hub::{CloudLinkChanged, Request, SendUpstream};
use crate::bus::edged::{CloudReachable, ConfigChanged, NodeChanged, PodChanged, PodRemoved};
use crate::bus::identity::EdgeIdentityChanged;
use crate::bus::meta::{
    ApplyDownstream, ConfirmPodDeleted, GetObject, GetToken, ListEvents, ListPods, MetaError, NotStored,
    PatchNodeStatus, RegisterNode, RenewLease, ReportEvent, ReportPodStatus,
};
use crate::bus::{Link, LinkError};
use crate::config::MetaManagerConfig;
use crate::model::{NodeName, ObjectKey, operation};
use crate::store::{Batch, Committer, Outbox, Store, StoreError, Table, scan_all};
use crate::telemetry::edge_hub::OutboxMetrics;
use crate::telemetry::meta_manager::MetaManagerMetrics;

/// Retries, notices that found a full mailbox, metrics.
const TICK: Duration = Duration::from_secs(1);
const PAGE: usize = 500;
/// Key prefix of events that wait for the cloud.
const EVENTS: &str = "event/";
/// Changes that may wait for the disk before messages are refused (the cloud sends them again).
const MAX_WAITING: usize = 4096;

/// What [`MetaManager`] needs to know.
#[derive(Debug, Clone)]
pub struct MetaSettings {
    pub node: NodeName,
    pub config: MetaManagerConfig,
}

/// Whom [`MetaManager`] talks to.
#[derive(Clone)]
pub struct MetaLinks {
    pub request: Link<Request>,
    pub send: Link<SendUpstream>,
    pub pod_changed: Link<PodChanged>,
    pub pod_removed: Link<PodRemoved>,
    pub config_changed: Link<ConfigChanged>,
    pub node_changed: Link<NodeChanged>,
    pub cloud_reachable: Link<CloudReachable>,
    /// DeviceTwin hears every change of the link.
    pub twin_link_changed: Link<CloudLinkChanged>,
    /// The cloud lost what it was told.
    pub twin_report_anew: Link<ReportAnew>,
    pub twin: DeviceLinks,
    pub dmi: DeviceLinks,
    pub edge_identity_changed: Link<EdgeIdentityChanged>,
}

/// Its metrics and the outbox's.
#[derive(Clone, Default)]
pub struct MetaMetrics {
    pub objects: MetaManagerMetrics,
    pub outbox: OutboxMetrics,
}

type Done = Box<dyn FnOnce(&mut MetaManager, &mut Context<MetaManager>, Result<(), StoreError>)>;
type Waiters<T> = Vec<oneshot::Sender<Result<T, MetaError>>>;

/// The actor.
pub struct MetaManager {
    node: NodeName,
    config: MetaManagerConfig,
    store: Arc<dyn Store>,
    committer: Committer,
    links: MetaLinks,
    cloud: Cloud,
    metrics: MetaMetrics,
    /// Why the store could not be read; then nothing is answered from it.
    broken: Option<String>,
    index: Index,
    reports: Reports,
    outbox: Outbox,
    /// For the console; lost with the process.
    recent: Recent,
    link: CloudLinkChanged,
    /// The lease as the cloud has it.
    lease: Option<Value>,
    queries: HashMap<ObjectKey, Waiters<Option<Arc<Value>>>>,
    fetches: HashMap<String, Waiters<Arc<Value>>>,
    is_draining: bool,
    untold: VecDeque<Notice>,
    reachable_untold: bool,
    /// DeviceTwin and Dmi.
    listeners: [Listener; 2],
    twin_link_untold: bool,
    twin_anew_untold: bool,
    /// After a restart: what was told before is unknown.
    retell: bool,
    next_batch: Batch,
    next_done: Vec<Done>,
    is_writing: bool,
}

impl MetaManager {
    /// Reads `store` when it starts and writes through `committer`.
    #[must_use]
    pub fn new(
        settings: MetaSettings,
        store: Arc<dyn Store>,
        committer: Committer,
        links: MetaLinks,
        metrics: MetaMetrics,
    ) -> Self {
        let MetaSettings { node, config } = settings;
        metrics.outbox.limit.set(f64::from(config.outbox_max_messages));
        let query_timeout = Duration::from_secs(config.remote_query_timeout.max(1));
        let cloud = Cloud {
            request: links.request.clone(),
            send: links.send.clone(),
            node: node.to_string(),
            query_timeout,
            call_timeout: query_timeout.min(Duration::from_secs(10)),
        };
        Self {
            outbox: Outbox::new(EVENTS, config.outbox_max_messages),
            node,
            config,
            store,
            committer,
            listeners: [Listener::new(links.twin.clone()), Listener::new(links.dmi.clone())],
            links,
            cloud,
            twin_link_untold: false,
            twin_anew_untold: false,
            metrics,
            broken: Some("the store was not read yet".to_owned()),
            index: Index::default(),
            reports: Reports::default(),
            recent: Recent::default(),
            link: CloudLinkChanged { connected: false, session: 0, resync: false },
            lease: None,
            queries: HashMap::new(),
            fetches: HashMap::new(),
            is_draining: false,
            untold: VecDeque::new(),
            reachable_untold: false,
            retell: false,
            next_batch: Batch::new(),
            next_done: Vec::new(),
            is_writing: false,
        }
    }

    /// Makes memory what the disk says.
    fn load(&mut self) {
        let now = now();
        self.index = Index::default();
        self.reports = Reports::default();
        let loaded = self.load_rows(now);
        self.broken = loaded.err().map(|err| err.to_string());
        match &self.broken {
            Some(why) => tracing::error!(error = %why, "the store cannot be read"),
            None => self.count_objects(),
        }
    }

    fn load_rows(&mut self, now: Instant) -> Result<(), StoreError> {
        let (index, reports) = (&mut self.index, &mut self.reports);
        let mut unreadable = 0;
        scan_all(&*self.store, Table::Objects, objects::PREFIX, |rows| unreadable += index.load(&rows))?;
        scan_all(&*self.store, Table::Objects, reports::STATUS_PREFIX, |rows| reports.load(&rows, now))?;
        scan_all(&*self.store, Table::Objects, reports::DELETE_PREFIX, |rows| reports.load(&rows, now))?;
        let outbox = &mut self.outbox;
        outbox.clear();
        scan_all(&*self.store, Table::Outbox, EVENTS, |rows| outbox.load(&rows))?;
        self.metrics.outbox.messages.set(count(self.outbox.len()));
        if unreadable > 0 {
            tracing::warn!(rows = unreadable, "stored objects that cannot be read are left alone");
        }
        Ok(())
    }

    fn check(&self) -> Result<(), MetaError> {
        match &self.broken {
            Some(why) => Err(MetaError::Store(why.clone())),
            None if self.next_done.len() >= MAX_WAITING => {
                Err(MetaError::Store(StoreError::Busy.to_string()))
            }
            None => Ok(()),
        }
    }

    /// Queues a write; `done` runs in order, when everything queued so far is on disk or failed.
    fn commit(
        &mut self,
        batch: Batch,
        ctx: &mut Context<Self>,
        done: impl FnOnce(&mut Self, &mut Context<Self>, Result<(), StoreError>) + 'static,
    ) {
        self.next_batch.append(batch);
        self.next_done.push(Box::new(done));
        self.write(ctx);
    }

    fn write(&mut self, ctx: &mut Context<Self>) {
        if self.is_writing || self.next_done.is_empty() {
            return;
        }
        let batch = std::mem::take(&mut self.next_batch);
        let done = std::mem::take(&mut self.next_done);
        if batch.is_empty() {
            for done in done {
                done(self, ctx, Ok(()));
            }
            return;
        }
        self.is_writing = true;
        let committer = self.committer.clone();
        let written = async move { committer.commit(batch).await };
        ctx.spawn(written.into_actor(self).map(|outcome, meta, ctx| {
            meta.is_writing = false;
            let mut all = done;
            if outcome.is_err() {
                // What came meanwhile was decided on a state that did not become real.
                all.append(&mut meta.next_done);
                meta.next_batch = Batch::new();
                meta.load();
            }
            for done in all {
                done(meta, ctx, outcome.clone());
            }
            meta.write(ctx);
        }));
    }

    /// Writes a change and tells the others when it is durable.
    fn commit_change(
        &mut self,
        mut change: Change,
        ctx: &mut Context<Self>,
        done: impl FnOnce(&mut Self, &mut Context<Self>, Result<(), StoreError>) + 'static,
    ) {
        for notice in &change.notices {
            if let Notice::PodRemoved { namespace, name, uid } = notice {
                let pod = PodId { namespace: namespace.clone(), name: name.clone(), uid: uid.clone() };
                change.batch.append(self.reports.forget(&pod));
                change.batch.append(self.forget_tokens(uid));
            }
        }
        let notices = change.notices;
        self.commit(change.batch, ctx, move |meta, ctx, outcome| {
            if outcome.is_ok() {
                meta.keep_notices(notices);
                meta.tell_notices();
                meta.count_objects();
            }
            done(meta, ctx, outcome);
        });
    }

    fn forget_tokens(&self, uid: &str) -> Batch {
        if uid.is_empty() {
            return Batch::new();
        }
        let prefix = tokens::pod_prefix(uid);
        let rows = self.store.scan(Table::Objects, prefix.as_bytes(), None, PAGE).unwrap_or_default();
        rows.into_iter().fold(Batch::new(), |batch, (key, _)| batch.delete(Table::Objects, key))
    }

    /// Tells edged, in order; what finds a full mailbox is told again later.
    fn tell_notices(&mut self) {
        if self.reachable_untold {
            let news = CloudReachable(self.link.connected);
            self.reachable_untold =
                matches!(self.links.cloud_reachable.tell(news), Err(LinkError::Full { .. }));
        }
        if self.twin_link_untold {
            let told = self.links.twin_link_changed.tell(self.link);
            self.twin_link_untold = matches!(told, Err(LinkError::Full { .. }));
        }
        if self.twin_anew_untold {
            let told = self.links.twin_report_anew.tell(ReportAnew);
            self.twin_anew_untold = matches!(told, Err(LinkError::Full { .. }));
        }
        self.listeners.iter_mut().for_each(Listener::tell);
        while let Some(notice) = self.untold.front() {
            let told = match notice.clone() {
                Notice::PodChanged(pod) => self.links.pod_changed.tell(PodChanged(pod)),
                Notice::PodRemoved { namespace, name, uid } => {
                    self.links.pod_removed.tell(PodRemoved { namespace, name, uid })
                }
                Notice::ConfigChanged { kind, namespace, name } => {
                    self.links.config_changed.tell(ConfigChanged { kind, namespace, name })
                }
                Notice::NodeChanged(node) => self.links.node_changed.tell(NodeChanged(node)),
                Notice::EdgeIdentity(document) => {
                    self.links.edge_identity_changed.tell(EdgeIdentityChanged(document))
                }
                // Those have queues of their own: see `keep_notices`.
                Notice::Device(_) => Ok(()),
            };
            if matches!(told, Err(LinkError::Full { .. })) {
                return;
            }
            self.untold.pop_front();
        }
    }

    /// Tells everything that is stored once more.
    fn retell_all(&mut self) {
        self.untold.clear();
        self.listeners.iter_mut().for_each(Listener::clear);
        let keys: Vec<ObjectKey> = self.index.keys().cloned().collect();
        for key in keys {
            if let Ok(Some(object)) = self.read(&key) {
                self.keep_notices(objects::changed(&key, object));
            }
        }
        self.tell_notices();
    }

    /// The object as it is on disk.
    fn read(&self, key: &ObjectKey) -> Result<Option<Value>, MetaError> {
        self.check()?;
        let row = self.store.get(Table::Objects, store_key(key).as_bytes());
        let Some(row) = row.map_err(|err| MetaError::Store(err.to_string()))? else { return Ok(None) };
        match serde_json::from_slice(&row) {
            Ok(object) => Ok(Some(object)),
            Err(err) => Err(MetaError::Store(format!("the stored {key} is not JSON: {err}"))),
        }
    }

    fn count_objects(&self) {
        let [pods, configmaps, secrets, nodes, others] = self.index.counts().map(f64::from);
        let metrics = &self.metrics.objects;
        metrics.pods.set(pods);
        metrics.configmaps.set(configmaps);
        metrics.secrets.set(secrets);
        metrics.nodes.set(nodes);
        metrics.others.set(others);
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
        if self.broken.is_some() {
            self.load();
        }
        self.tell_notices();
        self.send_reports(ctx);
        self.drain_outbox(ctx);
    }
}

/// A gauge value. Counts here are far below 2^52.
fn count(n: usize) -> f64 {
    f64::from(u32::try_from(n).unwrap_or(u32::MAX))
}

/// Follows tokio's clock, so that tests can pause it.
fn now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// A reply that comes later; an actor that restarts meanwhile answers with an error.
fn later<T: 'static>(
    answer: oneshot::Receiver<Result<T, MetaError>>,
) -> ResponseFuture<Result<T, MetaError>> {
    Box::pin(async {
        answer.await.unwrap_or_else(|_| Err(MetaError::Store("MetaManager restarted meanwhile".to_owned())))
    })
}

fn store_error(err: &StoreError) -> MetaError {
    MetaError::Store(err.to_string())
}

impl Actor for MetaManager {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        self.load();
        if std::mem::take(&mut self.retell) {
            self.retell_all();
        }
        ctx.run_interval(TICK, Self::tick);
    }
}

impl Supervised for MetaManager {
    /// `started` reads the disk again. The link is kept: it was told, not computed.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.queries.clear();
        self.fetches.clear();
        self.is_draining = false;
        self.is_writing = false;
        self.next_batch = Batch::new();
        self.next_done.clear();
        self.lease = None;
        self.outbox = Outbox::new(EVENTS, self.config.outbox_max_messages);
        self.reachable_untold = true;
        self.twin_link_untold = true;
        self.retell = true;
    }
}

crate::handles!(
    MetaManager: ApplyDownstream, CloudLinkChanged, ListPods, GetObject, GetToken, ReportPodStatus,
    ConfirmPodDeleted, RegisterNode, PatchNodeStatus, RenewLease, ReportEvent, ListDevices,
    ListEvents,
);

impl Handler<ApplyDownstream> for MetaManager {
    type Result = ResponseFuture<Result<(), NotStored>>;

    fn handle(&mut self, msg: ApplyDownstream, ctx: &mut Context<Self>) -> Self::Result {
        if msg.0.route.operation == operation::RESYNC {
            self.begin_anew(ctx);
            return Box::pin(async { Ok(()) });
        }
        let resource = msg.0.route.resource.to_string();
        let refused = |why: String| NotStored { resource: resource.clone(), why };
        let change = match self.check() {
            Ok(()) => self.index.apply(&msg.0).map_err(|why| refused(why.to_owned())),
            Err(err) => Err(refused(err.to_string())),
        };
        let change = match change {
            Ok(change) => change,
            Err(err) => return Box::pin(async { Err(err) }),
        };
        let (answer, answered) = oneshot::channel();
        self.commit_change(change, ctx, |_, _, outcome| drop(answer.send(outcome)));
        Box::pin(async move {
            let why = match answered.await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(err)) => err.to_string(),
                Err(_) => "MetaManager restarted meanwhile".to_owned(),
            };
            Err(NotStored { resource, why })
        })
    }
}

impl Handler<CloudLinkChanged> for MetaManager {
    type Result = ();

    fn handle(&mut self, msg: CloudLinkChanged, ctx: &mut Context<Self>) {
        if msg.session < self.link.session {
            return;
        }
        self.link = msg;
        self.reachable_untold = true;
        self.twin_link_untold = true;
        self.tell_notices();
        if msg.connected {
            self.reports.wake(now());
            self.send_reports(ctx);
            self.drain_outbox(ctx);
            if msg.resync {
                self.send_listing(msg.session, ctx);
            }
        }
    }
}

#[cfg(test)]
mod tests;
