//! What all pods of this node share, and the talk with MetaManager.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};

use super::gate::Gate;
use super::host::HostContext;
use super::names::PodRef;
use super::news_worker::WorkerReport;
use super::sources::{self, Sources};
use crate::bus::{Link, meta};
use crate::cri::runtime::Runtime;
use crate::telemetry::edged::EdgedMetrics;

/// How long MetaManager may take for what it has to ask the cloud for.
const OBJECT_DEADLINE: Duration = Duration::from_secs(65);
/// Images pulled at once when pulls are not serialized.
const PARALLEL_PULLS: usize = 4;
/// How long MetaManager may take to write something down.
pub const STORE_DEADLINE: Duration = Duration::from_secs(10);

/// Wall time as the pods' clock; tests put their own in.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// The links to MetaManager.
#[derive(Clone, Debug)]
pub struct MetaLinks {
    pub list_pods: Link<meta::ListPods>,
    pub get_object: Link<meta::GetObject>,
    pub get_token: Link<meta::GetToken>,
    pub report_pod_status: Link<meta::ReportPodStatus>,
    pub confirm_pod_deleted: Link<meta::ConfirmPodDeleted>,
    pub register_node: Link<meta::RegisterNode>,
    pub patch_node_status: Link<meta::PatchNodeStatus>,
    pub renew_lease: Link<meta::RenewLease>,
    pub report_event: Link<meta::ReportEvent>,
}

/// What all pods of this node share.
pub struct Site {
    pub runtime: Arc<dyn Runtime>,
    pub host: HostContext,
    pub links: MetaLinks,
    pub clock: Clock,
    pub metrics: EdgedMetrics,
    pub gate: Arc<Gate>,
    pub report: Link<WorkerReport>,
    /// Turns at pulling images.
    pub pulls: Semaphore,
}

/// Turns at pulling images.
#[must_use]
pub fn pulls(serialize: bool) -> Semaphore {
    Semaphore::new(if serialize { 1 } else { PARALLEL_PULLS })
}

/// Configmaps, secrets and tokens of a pod, fetched at most once until dropped.
pub type Materials = Arc<OnceCell<Fetched>>;

/// Sources, and what went wrong fetching some of them.
#[derive(Debug, Default)]
pub struct Fetched {
    pub sources: Sources,
    pub problems: Vec<String>,
}

/// Writes a status down at MetaManager. False: try again.
pub async fn report_status(site: &Site, pod: &Pod, status: Value) -> bool {
    let meta = PodRef::of(pod);
    let message = meta::ReportPodStatus { namespace: meta.namespace, name: meta.name, uid: meta.uid, status };
    match site.links.report_pod_status.ask(message, STORE_DEADLINE).await {
        Ok(Ok(())) => true,
        Ok(Err(err)) => {
            tracing::warn!(error = %err, "pod status was not stored");
            false
        }
        Err(err) => {
            tracing::warn!(error = %err, "pod status was not stored");
            false
        }
    }
}

/// Fetches what a pod refers to, from MetaManager.
pub async fn fetch(links: &MetaLinks, pod: &Pod) -> Fetched {
    let objects = sources::references(pod).into_iter().map(|key| async {
        let got = links.get_object.ask(meta::GetObject(key.clone()), OBJECT_DEADLINE).await;
        let got = match got {
            Ok(got) => got.map_err(|err| err.to_string()),
            Err(err) => Err(err.to_string()),
        };
        (key, got)
    });
    let tokens = sources::token_wants(pod).into_iter().map(|want| async {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let service_account = want.service_account;
        let message = meta::GetToken { namespace, service_account, request: want.request };
        let got = match links.get_token.ask(message, OBJECT_DEADLINE).await {
            Ok(got) => got.map(Some).map_err(|err| format!("failed to fetch token: {err}")),
            Err(err) => Err(format!("failed to fetch token: {err}")),
        };
        (want.key, got)
    });
    let (objects, tokens) = futures_util::join!(join_all(objects), join_all(tokens));
    let mut fetched = Fetched::default();
    let mut seen = BTreeSet::new();
    for (key, got) in objects.into_iter().chain(tokens) {
        match got {
            Ok(object) => fetched.sources.insert(key, object),
            Err(problem) => {
                if seen.insert(problem.clone()) {
                    fetched.problems.push(problem);
                }
            }
        }
    }
    fetched
}
