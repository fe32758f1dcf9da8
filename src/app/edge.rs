//! edgecore: the hub to the cloud, what must be remembered, and the pods.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::watch;

use super::program::{self, Fatal, KeepAlive, Stage};
use crate::actors::audit::{self, Audit, AuditSettings};
use crate::actors::edge::device_twin::{self, DeviceTwin, TwinLinks, TwinSettings};
use crate::actors::edge::dmi::{self, Dmi, DmiLinks, DmiSettings};
use crate::actors::edge::edge_hub::{EdgeHub, HubLinks, HubSettings, LinkState, Places};
use crate::actors::edge::edged::{self, Edged, EdgedSettings};
use crate::actors::edge::event_bus::{EventBus, EventBusLinks, EventBusSettings, EventBusSockets};
use crate::actors::edge::identity::{self, Identity, IdentityLinks, IdentitySettings, NodeAttestor};
use crate::actors::edge::meta_manager::{
    DeviceLinks, MetaLinks, MetaManager, MetaMetrics, MetaSettings, SealedStore, SecretSettings,
};
use crate::bus::Link;
use crate::bus::event_bus::NotPublished;
use crate::bus::identity::AuditFact;
use crate::config::{EdgeCoreConfig, EdgeIdentityConfig, Loaded, PodSeals, host, parse_go_duration};
use crate::cri::client::CriClient;
use crate::cri::runtime::Runtime;
use crate::kube::names::{label_value, qualified_name};
use crate::model::NodeName;
use crate::store::{Committer, CommitterSettings, RocksStore, Store, Tuning};
use crate::supervise::{MAIN_THREAD, Policy, Slot};
use crate::telemetry::device_twin::DeviceTwinMetrics;
use crate::telemetry::dmi::DmiMetrics;
use crate::telemetry::edge_hub::EdgeHubMetrics;
use crate::telemetry::edged::EdgedMetrics;
use crate::telemetry::event_bus::EventBusMetrics;
use crate::telemetry::identity::AuditMetrics;
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
    program::run("edgecore", &common, &monitor, &warnings, async move |stage| declare(stage, &config))
}

fn declare(stage: &mut Stage, config: &EdgeCoreConfig) -> Result<KeepAlive, Fatal> {
    let modules = &config.modules;
    let node = node_name(&modules.edged.hostname_override)?;
    check_labels(&modules.edged.node_labels)?;
    let kubelet = &modules.edged.tailored_kubelet_config;

    let metrics = MetaMetrics::default();
    let plain = Arc::new(RocksStore::open(&config.data_dir.join("store"), Tuning::edge())?);
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

    let sockets = EventBusSockets::bind(&modules.event_bus)?;

    let tree = &mut stage.tree;
    // Declared first, so that it ends last: the others still have something to say.
    let audit = tree.slot::<Audit>(audit::NAME, 1_024);
    let record: Link<AuditFact> = audit.link();
    let audit_settings = AuditSettings::below(&config.data_dir);
    tree.add(audit, MAIN_THREAD, Policy::default(), move || Audit::new(audit_settings, AuditMetrics::new()));
    let pods = tree.slot::<Edged>(edged::NAME, 4_096);
    let meta = tree.slot::<MetaManager>("MetaManager", 1_024);
    let twin = tree.slot::<DeviceTwin>(device_twin::NAME, 4_096);
    let dmi = tree.slot::<Dmi>(dmi::NAME, 4_096);
    let hub = tree.slot::<EdgeHub>("EdgeHub", 1_024);
    let identity = tree.slot::<Identity>(identity::NAME, 1_024);
    let bus = modules.event_bus.enable.then(|| tree.slot::<EventBus>("EventBus", 1_024));

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
        twin_link_changed: twin.link(),
        twin: DeviceLinks {
            device_changed: twin.link(),
            device_removed: twin.link(),
            model_changed: twin.link(),
            model_removed: twin.link(),
        },
        dmi: DeviceLinks {
            device_changed: dmi.link(),
            device_removed: dmi.link(),
            model_changed: dmi.link(),
            model_removed: dmi.link(),
        },
        edge_identity_changed: identity.link(),
    };
    let twin_links = TwinLinks {
        list_devices: meta.link(),
        send: hub.link(),
        publish: bus.as_ref().map_or_else(|| Link::from_fn(|_| Err(no_broker())), Slot::link),
        members_changed: bus.as_ref().map_or_else(|| Link::from_fn(|_| ()), Slot::link),
        desired_changed: dmi.link(),
    };
    let dmi_links = DmiLinks {
        list_devices: meta.link(),
        list_desired: twin.link(),
        report_twins: twin.link(),
        report_state: twin.link(),
        report_event: meta.link(),
    };
    let hub_links =
        HubLinks { apply: meta.link(), link_changed: meta.link(), twin: twin.link(), audit: record.clone() };
    let identity_links =
        IdentityLinks { get_object: meta.link(), roots_changed: hub.link(), audit: record.clone() };

    if let Some(bus) = bus {
        let bus_links = EventBusLinks {
            device: twin.link(),
            send: hub.link(),
            request: hub.link(),
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
    let attestor = Arc::new(NodeAttestor::new(Arc::clone(&runtime) as Arc<dyn Runtime>, meta.link(), seals));
    tree.add(identity, IDENTITY_THREAD, Policy::default(), move || {
        let metrics = WorkloadMetrics::new();
        Identity::new(identity_settings, identity_links, credentials, policies_changed, attestor, metrics)
    });
    let handle = tree.handle();
    tree.add(pods, PODS_THREAD, Policy::default(), move || {
        Edged::new(edged_settings, pod_links, runtime, handle, trust, EdgedMetrics::new())
    });
    let twin_settings = TwinSettings { node: node.clone(), config: modules.device_twin.clone() };
    let (twin_store, twin_committer) = (Arc::clone(&store), committer.clone());
    tree.add(twin, DEVICES_THREAD, Policy::default(), move || {
        DeviceTwin::new(twin_settings, twin_store, twin_committer, twin_links, DeviceTwinMetrics::new())
    });
    let dmi_settings = DmiSettings {
        node: node.clone(),
        socket: dmi::socket_path(&modules.device_twin.dmi_sock_path),
        allowed_uids: modules.device_twin.dmi_allowed_uids.clone(),
    };
    let (dmi_store, dmi_committer) = (Arc::clone(&store), committer.clone());
    tree.add(dmi, DEVICES_THREAD, Policy::default(), move || {
        Dmi::new(dmi_settings, dmi_store, dmi_committer, dmi_links, DmiMetrics::new())
    });
    let meta_settings = MetaSettings { node: node.clone(), config: modules.meta_manager.clone() };
    tree.add(meta, MAIN_THREAD, Policy::default(), move || {
        MetaManager::new(meta_settings, store, committer, meta_links, metrics)
    });
    let hub_settings = HubSettings {
        node,
        config: modules.edge_hub.clone(),
        identity: config.identity.clone(),
        credentials: credentials_changed,
    };
    tree.add(hub, MAIN_THREAD, Policy::default(), move || {
        EdgeHub::new(hub_settings, hub_links, EdgeHubMetrics::new(), Arc::new(log_link))
    });
    Ok(Box::new(guard))
}

/// Where the Workload API is served, if it is.
fn workload_api(config: &EdgeIdentityConfig) -> Option<PathBuf> {
    config.workload_api.then(|| config.workload_api_socket.clone())
}

/// What DeviceTwin is told when it publishes.
fn no_broker() -> NotPublished {
    NotPublished("modules.eventBus.enable is false".to_owned())
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
