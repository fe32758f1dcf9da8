//! Edged: runs this node's pods (design D7, D9).
//!
//! The actor knows the pods and hands each to a worker ([`pod_worker`]); a worker observes the
//! runtime, plans ([`plan`]), acts ([`action_worker`]) and computes the status ([`status`]).
//! [`node_worker`] stands for the node itself.

mod action;
mod action_worker;
#[cfg(test)]
mod actor_tests;
pub(crate) mod admission;
mod backoff;
pub mod dns;
mod edged_actor;
pub mod environment;
mod events;
pub mod fields;
#[cfg(test)]
mod fixtures;
pub mod gate;
mod gate_actor;
pub mod host;
mod loading_worker;
pub(crate) mod machine;
pub mod names;
mod news_worker;
pub(crate) mod node;
mod node_worker;
pub(crate) mod observed;
mod orphans;
pub(crate) mod plan;
mod pod_worker;
pub(crate) mod pull_auth;
pub mod resources;
mod runtime_actor;
pub mod security;
mod show_actor;
#[cfg(test)]
mod simulation_tests;
mod site_worker;
pub mod sources;
pub mod spec;
pub(crate) mod state;
mod static_pods_worker;
pub(crate) mod status;
#[cfg(test)]
mod status_tests;
pub mod volumes;
pub mod volumes_worker;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Supervised, WrapFuture};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::PodStatus;

use action_worker::{Row, rows};
use events::EventLog;
use gate::Gate;
pub use gate::Trust;
use gate::files::Files;
use gate::seals::Delivered;
use loading_worker::{Loaded, Loader};
use names::PodRef;
use news_worker::WorkerReport;
use node_worker::{NodeSettings, NodeWorker, Reachable};
use orphans::Orphans;
use pod_worker::{Apply, PodWorker, Refuse, Remove};
use site_worker::Site;
pub use site_worker::{Clock, MetaLinks};

use crate::bus::edged::{CloudReachable, ConfigChanged, ListRunning, NodeChanged, PodChanged, PodRemoved};
use crate::bus::{ActorStats, Link};
use crate::config::{EdgeIdentityConfig, EdgedConfig};
use crate::cri::runtime::Runtime;
use crate::model::NodeName;
use crate::supervise::{Policy, TreeHandle, WorkerAddr};
use crate::telemetry::edged::EdgedMetrics;

/// The actor's name in the tree; its workers hang below it.
pub const NAME: &str = "Edged";
/// Room for the reports of all workers; what does not fit is dropped and made good by the resync.
const REPORTS: usize = 4096;
const WORKER_MAILBOX: usize = 32;
/// Everything is compared with the runtime this often, events or not.
const RESYNC: Duration = Duration::from_secs(60);
/// The first comparison after the start, and the next look at presumed orphans.
const EARLY_RESYNC: Duration = Duration::from_secs(11);
/// Pauses before the event stream is opened again.
const LISTEN_BASE: Duration = Duration::from_millis(500);
const LISTEN_CAP: Duration = Duration::from_secs(10);
/// The folder of static pods is looked at this often.
const FILES_EVERY: Duration = Duration::from_secs(5);
/// A message that found a worker's mailbox full is sent again after this.
const RESEND: Duration = Duration::from_secs(1);

/// What Edged is told at the start.
pub struct EdgedSettings {
    pub node: NodeName,
    pub config: EdgedConfig,
    /// Which pods are believed.
    pub identity: EdgeIdentityConfig,
    /// `KUBERNETES_SERVICE_HOST` and `_PORT` of pods, when there is an API for them to talk to.
    pub kubernetes_service: Option<(String, u16)>,
    /// Socket of the SPIFFE Workload API, where it is served.
    pub workload_api: Option<PathBuf>,
    pub clock: Clock,
    pub update_every: Duration,
    pub report_every: Duration,
}

pub struct Edged {
    settings: Arc<EdgedSettings>,
    links: MetaLinks,
    runtime: Arc<dyn Runtime>,
    tree: TreeHandle,
    metrics: EdgedMetrics,
    gate: Arc<Gate>,
    files: Files,
    site: Option<Arc<Site>>,
    node: Option<WorkerAddr<NodeWorker>>,
    pods: HashMap<String, Entry>,
    /// Pod uid by container or sandbox id.
    owners: HashMap<String, String>,
    events: EventLog,
    orphans: Orphans,
    store_has_pods: bool,
    cloud_since: Option<Timestamp>,
    /// The runtime did not answer or its events broke off.
    runtime_lost: bool,
    listen_failures: u32,
    relisting: bool,
}

struct Entry {
    given: Delivered,
    /// `None`: waits for host ports that an ending pod still holds.
    worker: Option<WorkerAddr<PodWorker>>,
    /// Told by the worker; `None` before it has looked.
    status: Option<Arc<PodStatus>>,
    removed: bool,
    /// The worker has not got the newest pod.
    behind: bool,
    ended: bool,
}

impl Edged {
    #[must_use]
    pub fn new(
        settings: EdgedSettings,
        links: MetaLinks,
        runtime: Arc<dyn Runtime>,
        tree: TreeHandle,
        trust: Trust,
        metrics: EdgedMetrics,
    ) -> Self {
        let gate = Gate::new(settings.node.clone(), settings.identity.pod_seals, trust, metrics.clone());
        let kubelet = &settings.config.tailored_kubelet_config;
        metrics.limit(kubelet.max_pods);
        let events = EventLog::new(settings.node.as_str(), kubelet.event_record_qps, kubelet.event_burst);
        Self {
            settings: Arc::new(settings),
            links,
            runtime,
            tree,
            metrics,
            gate: Arc::new(gate),
            files: Files::default(),
            site: None,
            node: None,
            pods: HashMap::new(),
            owners: HashMap::new(),
            events,
            orphans: Orphans::default(),
            store_has_pods: false,
            cloud_since: None,
            runtime_lost: false,
            listen_failures: 0,
            relisting: false,
        }
    }

    fn now(&self) -> Timestamp {
        (self.settings.clock)()
    }

    /// Reads the store and the runtime; comes back until both have answered.
    fn load(&mut self, ctx: &mut Context<Self>) {
        let loader =
            Loader::new(Arc::clone(&self.settings), self.links.list_pods.clone(), Arc::clone(&self.runtime));
        let load = async move { loader.load().await };
        ctx.spawn(load.into_actor(self).map(|loaded, edged, ctx| edged.loaded(loaded, ctx)));
    }

    /// Starts a worker for every stored pod, each with what the runtime has of it.
    fn loaded(&mut self, loaded: Loaded, ctx: &mut Context<Self>) {
        let report = Link::to(NAME, &ctx.address(), Arc::new(ActorStats::bounded(REPORTS)));
        let site = Arc::new(Site {
            runtime: Arc::clone(&self.runtime),
            host: loaded.host,
            links: self.links.clone(),
            clock: Arc::clone(&self.settings.clock),
            metrics: self.metrics.clone(),
            gate: Arc::clone(&self.gate),
            report,
            pulls: site_worker::pulls(self.settings.config.tailored_kubelet_config.serialize_image_pulls),
        });
        self.site = Some(site);
        self.store_has_pods = !loaded.pods.is_empty();
        // What arrived while loading is at least as new as the store's copy.
        let early = std::mem::take(&mut self.pods);
        let mut pods: HashMap<String, (Delivered, bool)> =
            loaded.pods.into_iter().map(|given| (PodRef::of(&given.pod).uid, (given, false))).collect();
        for (uid, entry) in early {
            pods.insert(uid, (entry.given, entry.removed));
        }
        for given in self.file_pods(loaded.static_pods).0 {
            pods.insert(PodRef::of(&given.pod).uid, (given, false));
        }
        tracing::info!(
            pods = pods.len(),
            sandboxes = loaded.sandboxes.len(),
            containers = loaded.containers.len(),
            "pods are loaded"
        );
        for (uid, (given, removed)) in pods {
            let rows = rows(&loaded.sandboxes, &loaded.containers, |other| other == uid);
            if removed && rows.is_empty() {
                continue;
            }
            self.add(&uid, given, rows, removed);
        }
        self.listen(ctx);
        ctx.run_later(EARLY_RESYNC, Self::relist);
    }

    fn add(&mut self, uid: &str, given: Delivered, rows: Vec<Row>, removed: bool) {
        let pod = Arc::clone(&given.pod);
        let ran = !rows.is_empty() || pod.status.as_ref().is_some_and(|s| s.start_time.is_some());
        let ending = removed || pod.metadata.deletion_timestamp.is_some();
        let mut refusal = None;
        if !ran && !ending {
            let max = self.settings.config.tailored_kubelet_config.max_pods;
            let placed = |entry: &&Entry| !entry.ended && !is_over(entry.phase()) && entry.worker.is_some();
            let others: Vec<&Entry> = self.pods.values().filter(placed).collect();
            if let Err(found) = admission::admit(&pod, others.iter().map(|entry| &*entry.given.pod), max) {
                let staying =
                    others.iter().filter(|e| !e.removed && e.given.pod.metadata.deletion_timestamp.is_none());
                if admission::admit(&pod, staying.map(|entry| &*entry.given.pod), max).is_ok() {
                    tracing::info!(pod = %PodRef::of(&pod).name, "pod waits for one that is ending");
                    self.pods.insert(uid.to_owned(), Entry::new(given, None));
                    return;
                }
                refusal = Some(found);
            }
        }
        let Some(site) = self.site.clone() else { return };
        for row in &rows {
            self.owners.insert(row.id.clone(), uid.to_owned());
        }
        let meta = PodRef::of(&pod);
        let name = format!("pod/{}/{}", meta.namespace, meta.name);
        let mine = given.clone();
        let build = move || PodWorker::new(site, mine, Some(rows));
        let policy = Policy::default();
        let worker = self.tree.spawn_worker(NAME, "pod worker", name, WORKER_MAILBOX, policy, build);
        if let Some(refusal) = refusal {
            let refuse = Refuse { reason: refusal.reason, message: refusal.message };
            report_lost(worker.link().tell(refuse), &meta);
        }
        if removed {
            report_lost(worker.link().tell(Remove), &meta);
        }
        self.pods.insert(uid.to_owned(), Entry { removed, ..Entry::new(given, Some(worker)) });
        self.count_pods();
    }

    /// Pods that wait for host ports try again.
    fn admit_waiting(&mut self) {
        let waiting: Vec<String> = self
            .pods
            .iter()
            .filter(|(_, entry)| entry.worker.is_none() && self.site.is_some())
            .map(|(uid, _)| uid.clone())
            .collect();
        for uid in waiting {
            if let Some(entry) = self.pods.remove(&uid)
                && !entry.removed
            {
                self.add(&uid, entry.given, Vec::new(), false);
            }
        }
    }

    /// Brings workers up to date whose mailbox was full.
    fn resend(&mut self, ctx: &mut Context<Self>) {
        for uid in self.pods.iter().filter(|(_, e)| e.behind).map(|(uid, _)| uid.clone()).collect::<Vec<_>>()
        {
            self.push(&uid, ctx);
        }
    }

    /// Tells a worker what its pod should be.
    fn push(&mut self, uid: &str, ctx: &mut Context<Self>) {
        let Some(entry) = self.pods.get_mut(uid) else { return };
        let Some(worker) = &entry.worker else { return };
        let told = worker.link().tell(Apply(entry.given.clone()));
        let told = told.and_then(|()| if entry.removed { worker.link().tell(Remove) } else { Ok(()) });
        entry.behind = told.is_err();
        if entry.behind {
            ctx.run_later(RESEND, Self::resend);
        }
    }

    fn count_pods(&self) {
        let count = |phase: &str| {
            let of = self.pods.values().filter(|entry| entry.phase() == phase).count();
            f64::from(u32::try_from(of).unwrap_or(u32::MAX))
        };
        self.metrics.pods_pending.set(count("Pending") + count(""));
        self.metrics.pods_running.set(count("Running"));
        self.metrics.pods_succeeded.set(count("Succeeded"));
        self.metrics.pods_failed.set(count("Failed"));
        let told = self.pods.values().filter_map(|entry| entry.status.as_deref());
        self.metrics.show_waiting(told.flat_map(status::waiting_reasons));
    }

    fn tell_node(&self, message: Reachable) {
        if let Some(node) = &self.node
            && let Err(err) = node.link().tell(message)
        {
            tracing::warn!(error = %err, "node worker was not told about the cloud");
        }
    }
}

impl Entry {
    fn new(given: Delivered, worker: Option<WorkerAddr<PodWorker>>) -> Self {
        Self { given, worker, status: None, removed: false, behind: false, ended: false }
    }

    /// As the worker told it, before that as the pod arrived.
    fn phase(&self) -> &str {
        let status = self.status.as_deref().or(self.given.pod.status.as_ref());
        status.and_then(|status| status.phase.as_deref()).unwrap_or_default()
    }
}

fn is_over(phase: &str) -> bool {
    matches!(phase, "Succeeded" | "Failed")
}

/// The resync repeats what a full mailbox refused.
fn report_lost(told: Result<(), crate::bus::LinkError>, pod: &PodRef) {
    if let Err(err) = told {
        tracing::warn!(pod = %pod.name, namespace = %pod.namespace, error = %err, "pod worker was not told");
    }
}

impl Actor for Edged {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Context<Self>) {
        let settings = &self.settings;
        let node = NodeSettings {
            name: settings.node.to_string(),
            config: settings.config.clone(),
            addresses: loading_worker::addresses(&settings.config),
            links: self.links.clone(),
            runtime: Arc::clone(&self.runtime),
            clock: Arc::clone(&settings.clock),
            update_every: settings.update_every,
            report_every: settings.report_every,
            ready: self.metrics.runtime_ready.clone(),
        };
        let build = move || NodeWorker::new(Arc::new(node));
        let name = format!("node/{}", settings.node);
        self.node =
            Some(self.tree.spawn_worker(NAME, "node worker", name, WORKER_MAILBOX, Policy::default(), build));
        self.load(ctx);
        ctx.add_stream(self.gate.changes());
        if !self.settings.config.tailored_kubelet_config.static_pod_path.as_os_str().is_empty() {
            ctx.run_interval(FILES_EVERY, Self::poll_files);
        }
        ctx.run_interval(RESYNC, |edged, ctx| {
            if edged.events.dropped > 0 {
                tracing::warn!(
                    dropped = std::mem::take(&mut edged.events.dropped),
                    "events beyond the limit"
                );
            }
            edged.relist(ctx);
        });
    }
}

impl Supervised for Edged {
    /// Workers end with their addresses; pods come back from MetaManager and the runtime.
    fn restarting(&mut self, _: &mut Context<Self>) {
        self.pods.clear();
        self.files.forget();
        self.owners.clear();
        self.site = None;
        self.node = None;
        self.orphans = Orphans::default();
        self.cloud_since = None;
        self.runtime_lost = false;
        self.listen_failures = 0;
        self.relisting = false;
    }
}

crate::handles!(
    Edged: PodChanged, PodRemoved, ConfigChanged, NodeChanged, CloudReachable, WorkerReport, ListRunning,
);
