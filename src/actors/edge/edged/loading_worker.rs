//! What Edged needs before it can begin: the stored pods, the runtime's list, facts about the host.

use std::sync::Arc;
use std::time::Duration;

use k8s_cri::v1;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::EdgedSettings;
use super::gate::seals::{Delivered, Source};
use super::host::{HostContext, Resolver};
use super::machine::{Machine, default_route_address};
use super::names::PodRef;
use super::static_pods_worker::{Folder, read_folder};
use crate::bus::{Link, meta};
use crate::config::EdgedConfig;
use crate::cri::runtime::{CriError, Runtime};
use crate::supervise::spread;

/// How long MetaManager may take to list the pods.
const LIST_DEADLINE: Duration = Duration::from_secs(15);
/// Pauses between tries while the store or the runtime does not answer.
const RETRY_BASE: Duration = Duration::from_millis(100);
const RETRY_CAP: Duration = Duration::from_secs(5);

/// Everything to begin with.
pub struct Loaded {
    pub host: HostContext,
    pub pods: Vec<Delivered>,
    pub static_pods: Folder,
    pub sandboxes: Vec<v1::PodSandbox>,
    pub containers: Vec<v1::Container>,
}

pub struct Loader {
    settings: Arc<EdgedSettings>,
    list_pods: Link<meta::ListPods>,
    runtime: Arc<dyn Runtime>,
}

impl Loader {
    #[must_use]
    pub fn new(
        settings: Arc<EdgedSettings>,
        list_pods: Link<meta::ListPods>,
        runtime: Arc<dyn Runtime>,
    ) -> Self {
        Self { settings, list_pods, runtime }
    }

    /// Asks until both store and runtime have answered: nothing is decided on half a picture.
    pub async fn load(self) -> Loaded {
        let mut pause = RETRY_BASE;
        let mut told = false;
        loop {
            let problem = match self.attempt().await {
                Ok(loaded) => return loaded,
                Err(problem) => problem,
            };
            if !told {
                tracing::warn!(error = problem, "pods cannot be loaded yet");
                told = true;
            }
            tokio::time::sleep(spread(pause, fastrand::f64())).await;
            pause = pause.saturating_mul(2).min(RETRY_CAP);
        }
    }

    async fn attempt(&self) -> Result<Loaded, String> {
        let stored = match self.list_pods.ask(meta::ListPods, LIST_DEADLINE).await {
            Ok(Ok(pods)) => pods,
            Ok(Err(err)) => return Err(err.to_string()),
            Err(err) => return Err(err.to_string()),
        };
        let runtime = &self.runtime;
        let listed = futures_util::try_join!(runtime.list_sandboxes(), runtime.list_containers());
        let (sandboxes, containers) = listed.map_err(|err: CriError| err.to_string())?;
        let driver = runtime.cgroup_driver().await.map_err(|err| err.to_string())?;
        let settings = Arc::clone(&self.settings);
        let systemd = driver == Some(v1::CgroupDriver::Systemd);
        let host = tokio::task::spawn_blocking(move || host_context(&settings, systemd)).await;
        let node = self.settings.node.as_str();
        let folder = self.settings.config.tailored_kubelet_config.static_pod_path.clone();
        Ok(Loaded {
            host: host.map_err(|err| err.to_string())?,
            pods: stored.iter().filter_map(|value| read_pod(value, node, Source::Cloud)).collect(),
            static_pods: read_folder(folder).await,
            sandboxes,
            containers,
        })
    }
}

fn host_context(settings: &EdgedSettings, systemd_cgroups: bool) -> HostContext {
    let config = &settings.config;
    let kubelet = &config.tailored_kubelet_config;
    let machine = Machine::read();
    let resolver = std::fs::read_to_string(&kubelet.resolv_conf).unwrap_or_else(|err| {
        tracing::warn!(file = %kubelet.resolv_conf.display(), error = %err, "resolver configuration is not readable");
        String::new()
    });
    HostContext {
        node_name: settings.node.to_string(),
        host_ips: addresses(config),
        root_dir: config.root_directory.clone(),
        pod_logs_dir: kubelet.pod_logs_dir.clone(),
        cluster_dns: kubelet.cluster_dns.clone(),
        cluster_domain: kubelet.cluster_domain.clone(),
        resolver: Resolver::parse(&resolver),
        systemd_cgroups,
        cpu_milli: i64::try_from(machine.cpus.saturating_mul(1000)).unwrap_or(i64::MAX),
        memory_bytes: i64::try_from(machine.memory_bytes).unwrap_or(i64::MAX),
        kubernetes_service: settings.kubernetes_service.clone(),
        workload_api: settings.workload_api.clone(),
    }
}

/// The node's addresses: as configured, else that of the default route, else loopback.
#[must_use]
pub fn addresses(config: &EdgedConfig) -> Vec<String> {
    if !config.node_ip.is_empty() {
        return vec![config.node_ip.clone()];
    }
    vec![default_route_address().map_or_else(|| "127.0.0.1".to_owned(), |ip| ip.to_string())]
}

/// A stored pod of this node. What is no pod, has no identity or belongs elsewhere is left out.
#[must_use]
pub fn read_pod(value: &Value, node: &str, source: Source) -> Option<Delivered> {
    let pod: Pod = match serde::Deserialize::deserialize(value) {
        Ok(pod) => pod,
        Err(err) => {
            let name = value.get("metadata").and_then(|meta| meta.get("name"));
            tracing::warn!(?name, error = %err, "stored pod does not decode");
            return None;
        }
    };
    let meta = PodRef::of(&pod);
    if let Err(err) = meta.check() {
        tracing::warn!(error = %err, "pod has no usable name");
        return None;
    }
    let elsewhere = pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).is_some_and(|name| name != node);
    let ours = !meta.uid.is_empty() && !meta.name.is_empty() && !elsewhere;
    ours.then(|| Delivered::new(pod, value, source))
}
