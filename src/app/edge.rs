//! edgecore: the hub to the cloud, what must be remembered, and the pods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::console;
use super::edge_links::{Links, Slots};
use super::link_log::LinkLog;
use super::program::{self, Fatal, KeepAlive, Stage};
use crate::actors::edge::device_twin::{DeviceTwin, TwinSettings};
use crate::actors::edge::dmi::{self, Dmi, DmiSettings};
use crate::actors::edge::edge_hub::{EdgeHub, HubSettings, LinkState, Places, Rendered, ReportSource};
use crate::actors::edge::edged::{self, Edged, EdgedSettings};
use crate::actors::edge::event_bus::{EventBus, EventBusLinks, EventBusSettings, EventBusSockets};
use crate::actors::edge::identity::{self, Identity, IdentitySettings, NodeAttestor};
use crate::actors::edge::meta_manager::{
    MetaManager, MetaMetrics, MetaSettings, SealedStore, SecretSettings,
};
use crate::config::{
    EdgeCoreConfig, EdgeHubConfig, EdgeIdentityConfig, Loaded, PodSeals, host, parse_go_duration,
};
use crate::cri::client::CriClient;
use crate::cri::runtime::Runtime;
use crate::kube::names::{label_value, qualified_name};
use crate::model::NodeName;
use crate::store::{Committer, CommitterSettings, RocksStore, Store, Tuning};
use crate::supervise::{MAIN_THREAD, Policy};
use crate::telemetry::device_twin::DeviceTwinMetrics;
use crate::telemetry::dmi::DmiMetrics;
use crate::telemetry::edge_hub::EdgeHubMetrics;
use crate::telemetry::edged::EdgedMetrics;
use crate::telemetry::event_bus::EventBusMetrics;
use crate::telemetry::store::StoreMetrics;
use crate::telemetry::workload::WorkloadMetrics;

/// Thread of Edged and its workers: a busy runtime delays neither leases nor the hub.
const PODS_THREAD: &str = "edged";
/// Thread of DeviceTwin and Dmi: a flood of device data delays neither leases nor pods.
const DEVICES_THREAD: &str = "devices";
/// Thread of EventBus and its connections: a flood of messages delays nobody else.
const BUS_THREAD: &str = "eventbus";
/// Thread of Identity: signatures and callers delay nobody else.
const IDENTITY_THREAD: &str = "identity";

/// Runs edgecore until it is told to end; the exit code.
#[must_use]
pub fn run(loaded: Loaded<EdgeCoreConfig>) -> u8 {
    let Loaded { config, warnings } = loaded;
    let common = config.common_config.clone();
    let monitor = config.monitor_address().to_owned();
    program::run("edgecore", &common, &monitor, &warnings, None, async move |stage| declare(stage, &config))
}

fn declare(stage: &mut Stage, config: &EdgeCoreConfig) -> Result<KeepAlive, Fatal> {
    let modules = &config.modules;
    let node = node_name(&modules.edged.hostname_override)?;
    check_labels(&modules.edged.node_labels)?;
    own_files(&modules.edge_hub)?;
    let kubelet = &modules.edged.tailored_kubelet_config;

    let metrics = MetaMetrics::default();
    let store_metrics = StoreMetrics::new("edge");
    let plain = RocksStore::open(&config.data_dir.join("store"), Tuning::edge())?;
    let plain = Arc::new(plain.measured(store_metrics.clone()));
    let meta_bytes = metrics.objects.store_bytes.clone();
    stage.watch_store(&plain, move |bytes| {
        store_metrics.sized(bytes);
        meta_bytes.set(bytes as f64);
    });
    stage.watch_disk(&config.data_dir);
    let secrets =
        SecretSettings { key_file: config.store_key_file(), encrypt: config.identity.encrypt_secrets };
    let store: Arc<dyn Store> = Arc::new(SealedStore::open(plain, &secrets)?.0);
    let settings = CommitterSettings {
        seconds: metrics.objects.store_seconds.clone(),
        readiness: stage.readiness.clone(),
        ..Default::default()
    };
    let (committer, guard) = Committer::start(Arc::clone(&store), settings)?;
    let timeout = parse_go_duration(&kubelet.runtime_request_timeout)?;
    let runtime = Arc::new(CriClient::new(&kubelet.container_runtime_endpoint, timeout)?);

    // EdgeHub publishes what the node holds, before and without a connection too; Identity publishes
    // what the cloud decided. Everybody else reads the newest.
    let (credentials_changed, credentials) = watch::channel(None);
    let (policies_changed, policies) = watch::channel(None);

    let console_credentials = credentials.clone();

    let sockets = EventBusSockets::bind(&modules.event_bus)?;

    let report = report_source(stage);
    let tree = &mut stage.tree;
    let record = program::keep_audit(tree, MAIN_THREAD, &config.data_dir);
    let slots = Slots::declare(tree, modules.event_bus.enable);
    let links = Links::between(&slots, &record);
    let shown = slots.shown();
    let (link_changed, link) = console::cloud_link();

    if let Some(bus) = slots.bus {
        let bus_links = EventBusLinks {
            device: slots.twin.link(),
            send: slots.hub.link(),
            request: slots.hub.link(),
            credentials: credentials.clone(),
            policies: policies.clone(),
            audit: record.clone(),
        };
        let bus_settings = EventBusSettings { node: node.clone(), config: modules.event_bus.clone() };
        let (store, committer) = (Arc::clone(&store), committer.clone());
        tree.add(bus, BUS_THREAD, Policy::default(), move || {
            EventBus::new(bus_settings, sockets, store, committer, bus_links, EventBusMetrics::new())
        });
    }

    let edged_settings = EdgedSettings {
        node: node.clone(),
        config: modules.edged.clone(),
        identity: config.identity.clone(),
        kubernetes_service: None,
        workload_api: workload_api(&config.identity),
        clock: Arc::new(Timestamp::now),
        update_every: parse_go_duration(&kubelet.node_status_update_frequency)?,
        report_every: parse_go_duration(&kubelet.node_status_report_frequency)?,
    };
    let identity_settings = IdentitySettings {
        node: node.clone(),
        socket: workload_api(&config.identity),
        x509_ttl: Duration::from_secs(config.identity.workload_svid_ttl_secs),
        jwt_ttl: Duration::from_secs(config.identity.jwt_svid_ttl_secs),
        newest_file: Some(Places::new(&modules.edge_hub).newest_document),
    };
    let trust = edged::Trust { credentials: credentials.clone(), policies, audit: record.clone() };
    let seals = (config.identity.pod_seals != PodSeals::Off)
        .then(|| identity::Seals { node: node.clone(), credentials: credentials.clone() });
    let attestor =
        Arc::new(NodeAttestor::new(Arc::clone(&runtime) as Arc<dyn Runtime>, slots.meta.link(), seals));
    tree.add(slots.identity, IDENTITY_THREAD, Policy::default(), move || {
        let metrics = WorkloadMetrics::new();
        Identity::new(identity_settings, links.identity, credentials, policies_changed, attestor, metrics)
    });
    let handle = tree.handle();
    tree.add(slots.pods, PODS_THREAD, Policy::default(), move || {
        Edged::new(edged_settings, links.pods, runtime, handle, trust, EdgedMetrics::new())
    });
    let twin_settings = TwinSettings { node: node.clone(), config: modules.device_twin.clone() };
    let (twin_store, twin_committer) = (Arc::clone(&store), committer.clone());
    tree.add(slots.twin, DEVICES_THREAD, Policy::default(), move || {
        DeviceTwin::new(twin_settings, twin_store, twin_committer, links.twin, DeviceTwinMetrics::new())
    });
    let dmi_settings = DmiSettings {
        node: node.clone(),
        socket: dmi::socket_path(&modules.device_twin.dmi_sock_path),
        allowed_uids: modules.device_twin.dmi_allowed_uids.clone(),
    };
    let (dmi_store, dmi_committer) = (Arc::clone(&store), committer.clone());
    tree.add(slots.dmi, DEVICES_THREAD, Policy::default(), move || {
        Dmi::new(dmi_settings, dmi_store, dmi_committer, links.dmi, DmiMetrics::new())
    });
    let meta_settings = MetaSettings { node: node.clone(), config: modules.meta_manager.clone() };
    tree.add(slots.meta, MAIN_THREAD, Policy::default(), move || {
        MetaManager::new(meta_settings, store, committer, links.meta, metrics)
    });
    let hub_settings = HubSettings {
        node: node.clone(),
        config: modules.edge_hub.clone(),
        identity: config.identity.clone(),
        credentials: credentials_changed,
        report,
    };
    let link_log = Arc::new(Mutex::new(LinkLog::default()));
    tree.add(slots.hub, MAIN_THREAD, Policy::default(), move || {
        let watched = move |state: LinkState| {
            console::note_link(&link_changed, &state);
            link_log.lock().log(state, Instant::now());
        };
        EdgeHub::new(hub_settings, links.hub, EdgeHubMetrics::new(), Arc::new(watched))
    });
    console::of_edgecore(&mut stage.tree, config, node, shown, link, console_credentials)?;
    Ok(Box::new(guard))
}

/// What the monitor shows travels to the cloud too.
fn report_source(stage: &Stage) -> ReportSource {
    let (tree, readiness, exporter) = (stage.tree.handle(), stage.readiness.clone(), stage.exporter.clone());
    ReportSource::new(move || {
        tree.publish_metrics();
        readiness.publish();
        let actors = serde_json::to_value(tree.snapshot()).unwrap_or_default();
        Rendered { metrics: exporter.render(), actors }
    })
}

/// Where the Workload API is served, if it is.
fn workload_api(config: &EdgeIdentityConfig) -> Option<PathBuf> {
    config.workload_api.then(|| config.workload_api_socket.clone())
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

/// Both programs have their files at the same places by default. What a join writes must not replace a cloud's.
fn own_files(hub: &EdgeHubConfig) -> Result<(), Fatal> {
    let root = &hub.tls_ca_file;
    // The root's key may be elsewhere; the issuing CA's never is.
    let keys = [root.with_extension("key"), root.with_file_name("issuing.key")];
    let Some(key) = keys.iter().find(|key| **key != hub.tls_private_key_file && key.exists()) else {
        return Ok(());
    };
    let why = format!(
        "modules.edgeHub.tlsCaFile: {} is the root of a cloudcore on this machine ({} is beside it): give tlsCaFile, \
         tlsCertFile and tlsPrivateKeyFile places of their own, as keadm join does",
        root.display(),
        key.display()
    );
    Err(why.into())
}

fn node_name(configured: &str) -> Result<NodeName, Fatal> {
    let text = if configured.is_empty() { host().name } else { configured.to_owned() };
    NodeName::parse(&text).map_err(|err| format!("modules.edged.hostnameOverride: {err}").into())
}
