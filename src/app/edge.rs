//! edgecore: the hub to the cloud, what must be remembered, and the pods.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;

use super::program::{self, Fatal, KeepAlive, Stage};
use crate::actors::edge::edge_hub::{EdgeHub, HubLinks, HubSettings, LinkState};
use crate::actors::edge::edged::{self, Edged, EdgedSettings};
use crate::actors::edge::event_bus::{EventBus, EventBusLinks, EventBusSettings, EventBusSockets};
use crate::actors::edge::meta_manager::{MetaLinks, MetaManager, MetaMetrics, MetaSettings};
use crate::bus::Link;
use crate::config::{EdgeCoreConfig, Loaded, host, parse_go_duration};
use crate::cri::client::CriClient;
use crate::kube::names::{label_value, qualified_name};
use crate::model::NodeName;
use crate::store::{Committer, CommitterSettings, RocksStore, Store, Tuning};
use crate::supervise::{MAIN_THREAD, Policy};
use crate::telemetry::edge_hub::EdgeHubMetrics;
use crate::telemetry::edged::EdgedMetrics;
use crate::telemetry::event_bus::EventBusMetrics;

/// Thread of Edged and its workers: a busy runtime delays neither leases nor the hub.
const PODS_THREAD: &str = "edged";
/// Thread of EventBus and its connections: a flood of messages delays nobody else.
const BUS_THREAD: &str = "eventbus";

/// Runs edgecore until it is told to end; the exit code.
#[must_use]
pub fn run(loaded: Loaded<EdgeCoreConfig>) -> u8 {
    let Loaded { config, warnings } = loaded;
    let common = config.common_config.clone();
    let monitor = config.monitor_address().to_owned();
    program::run("edgecore", &common, &monitor, &warnings, async move |stage| declare(stage, &config))
}

fn declare(stage: &mut Stage, config: &EdgeCoreConfig) -> Result<KeepAlive, Fatal> {
    let modules = &config.modules;
    let node = node_name(&modules.edged.hostname_override)?;
    check_labels(&modules.edged.node_labels)?;
    let kubelet = &modules.edged.tailored_kubelet_config;

    let metrics = MetaMetrics::default();
    let store: Arc<dyn Store> = Arc::new(RocksStore::open(&config.data_dir.join("store"), Tuning::edge())?);
    let settings = CommitterSettings {
        seconds: metrics.objects.store_seconds.clone(),
        readiness: stage.readiness.clone(),
        ..Default::default()
    };
    let (committer, guard) = Committer::start(Arc::clone(&store), settings)?;
    let timeout = parse_go_duration(&kubelet.runtime_request_timeout)?;
    let runtime = Arc::new(CriClient::new(&kubelet.container_runtime_endpoint, timeout)?);

    let sockets = EventBusSockets::bind(&modules.event_bus)?;

    let tree = &mut stage.tree;
    let pods = tree.slot::<Edged>(edged::NAME, 4_096);
    let meta = tree.slot::<MetaManager>("MetaManager", 1_024);
    let hub = tree.slot::<EdgeHub>("EdgeHub", 1_024);

    let pod_links = edged::MetaLinks {
        list_pods: meta.link(),
        get_object: meta.link(),
        get_token: meta.link(),
        report_pod_status: meta.link(),
        confirm_pod_deleted: meta.link(),
        register_node: meta.link(),
        patch_node_status: meta.link(),
        renew_lease: meta.link(),
        report_event: meta.link(),
    };
    let meta_links = MetaLinks {
        request: hub.link(),
        send: hub.link(),
        pod_changed: pods.link(),
        pod_removed: pods.link(),
        config_changed: pods.link(),
        node_changed: pods.link(),
        cloud_reachable: pods.link(),
    };
    let hub_links = HubLinks { apply: meta.link(), link_changed: meta.link() };

    if modules.event_bus.enable {
        let bus = tree.slot::<EventBus>("EventBus", 1_024);
        let bus_links =
            EventBusLinks { device: Link::from_fn(|_| Ok(())), send: hub.link(), request: hub.link() };
        let bus_settings = EventBusSettings { node: node.clone(), config: modules.event_bus.clone() };
        let (store, committer) = (Arc::clone(&store), committer.clone());
        tree.add(bus, BUS_THREAD, Policy::default(), move || {
            EventBus::new(bus_settings, sockets, store, committer, bus_links, EventBusMetrics::new())
        });
    }

    let edged_settings = EdgedSettings {
        node: node.clone(),
        config: modules.edged.clone(),
        kubernetes_service: None,
        clock: Arc::new(Timestamp::now),
        update_every: parse_go_duration(&kubelet.node_status_update_frequency)?,
        report_every: parse_go_duration(&kubelet.node_status_report_frequency)?,
    };
    let handle = tree.handle();
    tree.add(pods, PODS_THREAD, Policy::default(), move || {
        Edged::new(edged_settings, pod_links, runtime, handle, EdgedMetrics::new())
    });
    let meta_settings = MetaSettings { node: node.clone(), config: modules.meta_manager.clone() };
    tree.add(meta, MAIN_THREAD, Policy::default(), move || {
        MetaManager::new(meta_settings, store, committer, meta_links, metrics)
    });
    let hub_settings = HubSettings { node, config: modules.edge_hub.clone() };
    tree.add(hub, MAIN_THREAD, Policy::default(), move || {
        EdgeHub::new(hub_settings, hub_links, EdgeHubMetrics::new(), Arc::new(log_link))
    });
    Ok(Box::new(guard))
}

/// The one place where the link is logged. Offline is normal: no reason to be called not ready.
fn log_link(state: LinkState) {
    match state {
        LinkState::Up => tracing::info!("cloud link is up"),
        LinkState::Down { why } => tracing::warn!(why, "cloud link is down"),
    }
}

/// A label the API refuses would keep the node from ever being registered.
fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), Fatal> {
    for (key, value) in labels {
        if let Some(why) = qualified_name(key).into_iter().chain(label_value(value)).next() {
            return Err(format!("modules.edged.nodeLabels.{key}: {why}").into());
        }
    }
    Ok(())
}

fn node_name(configured: &str) -> Result<NodeName, Fatal> {
    let text = if configured.is_empty() { host().name } else { configured.to_owned() };
    NodeName::parse(&text).map_err(|err| format!("modules.edged.hostnameOverride: {err}").into())
}
