//! cloudcore: the embedded Kubernetes API (or a client of a real one) and the controllers.

use std::net::TcpListener;
use std::sync::Arc;
use std::time::Duration;

use super::authorities::{authorities, edge_nodes, factory_roots, hub_tls};
use super::cluster::{self, Cluster};
use super::console;
use super::program::{self, Fatal, KeepAlive, Stage};
use crate::actors::cloud::api_server::{ApiServer, ApiServerParts};
use crate::actors::cloud::cloud_hub::{self, CloudHub, CloudHubParts, Listeners, NodeIdentities};
use crate::actors::cloud::console_feed::Access;
use crate::actors::cloud::device_controller::{self, DeviceController, DeviceControllerParts};
use crate::actors::cloud::edge_controller::{self, EdgeController, EdgeControllerParts};
use crate::actors::cloud::identity_controller::{self, IdentityController, IdentityControllerParts, Outlets};
use crate::actors::cloud::manifests::{self, Manifests};
use crate::actors::cloud::node_monitor::NodeMonitor;
use crate::actors::cloud::scheduler::Scheduler;
use crate::actors::cloud::sync_controller::{Owner, SyncController};
use crate::apiserver::http::Deadlines;
use crate::apiserver::{ApiCore, ApiSettings, enrolled_nodes, kubeconfig};
use crate::config::{CloudCoreConfig, Loaded, host};
use crate::identity::{Ca, ClientAuth, CloudServerTls, JoinTokens, ServiceAccountKeys};
use crate::store::{RocksStore, Tuning};
use crate::supervise::{MAIN_THREAD, Policy};
use crate::telemetry::federation::Federation;
use crate::telemetry::node_monitor::NodeMonitorMetrics;
use crate::telemetry::scheduler::SchedulerMetrics;
use crate::telemetry::store::StoreMetrics;

/// Thread of CloudHub and its sessions: a busy hub delays no controller.
const HUB_THREAD: &str = "cloudhub";
/// Thread of the controllers.
const CONTROL_THREAD: &str = "controllers";
/// Thread of DeviceController: a flood of reports delays no pod.
const DEVICE_THREAD: &str = "devices";

/// Runs cloudcore until it is told to end; the exit code.
#[must_use]
pub fn run(loaded: Loaded<CloudCoreConfig>) -> u8 {
    let Loaded { config, warnings } = loaded;
    let common = config.common_config.clone();
    let monitor = config.monitor_address().to_owned();
    let federation = Federation::new(config.modules.cloud_hub.max_series_per_node as usize);
    let shown = Some(federation.clone());
    program::run("cloudcore", &common, &monitor, &warnings, shown, async move |stage| {
        declare(stage, &config, federation).await
    })
}

async fn declare(
    stage: &mut Stage,
    config: &CloudCoreConfig,
    federation: Federation,
) -> Result<KeepAlive, Fatal> {
    stage.watch_disk(&config.data_dir);
    let hub_config = &config.modules.cloud_hub;
    let names = server_names(config);
    let mut keep: KeepAlive = Box::new(());
    let mut served = Vec::new();
    let (ca, client, cluster_ca, shown) = if config.serves_api() {
        let metrics = StoreMetrics::new("api");
        let store = RocksStore::open(&config.api_server_data_dir(), Tuning::cloud())?;
        let store = Arc::new(store.measured(metrics.clone()));
        stage.watch_store(&store, move |bytes| metrics.sized(bytes));
        let ca = authorities(config, enrolled_nodes(&*store)?)?;
        let (core, tls) = embedded_api(stage, config, store, &ca, &names)?;
        served.push(tls);
        keep = Box::new(OpenApi(Arc::clone(&core)));
        cluster_duties(stage, config, &core.client());
        let folder = config.modules.api_server.manifests_dir.clone();
        if !folder.as_os_str().is_empty() {
            let client = core.client();
            let slot = stage.tree.slot(manifests::NAME, 64);
            stage.tree.add(slot, CONTROL_THREAD, Policy::default(), move || Manifests::new(client, folder));
        }
        let roots = ca.bundle().roots_pem();
        let client = core.client();
        (ca, client, roots, Access::Embedded(core))
    } else {
        let Cluster { client, ca_pem: cluster_ca, settings } =
            cluster::connect(&config.kube_api_config).await?;
        // Where there is a CA, nobody needs to know whether a new one would do harm.
        let enrolled = if hub_config.tls_ca_file.exists() { 0 } else { edge_nodes(&client).await? };
        (authorities(config, enrolled)?, client, cluster_ca, Access::cluster(settings))
    };

    let tree = &mut stage.tree;
    let record = program::keep_audit(tree, CONTROL_THREAD, &config.data_dir);
    let hub = tree.slot::<CloudHub>(cloud_hub::NAME, 4_096);
    let controller = tree.slot::<EdgeController>("EdgeController", 4_096);
    let sync = tree.slot::<SyncController>("SyncController", 1_024);
    let identity = tree.slot::<IdentityController>(identity_controller::NAME, 4_096);

    let parts = EdgeControllerParts {
        client: client.clone(),
        send_down: hub.link(),
        close_node: hub.link(),
        cloudcore: names.first().cloned().unwrap_or_default(),
        ca: Arc::clone(&ca),
        federation: federation.clone(),
    };
    let sync_client = client.clone();
    let close = hub.link();
    let mut owners = vec![Owner {
        kinds: &edge_controller::KINDS,
        desired: controller.link(),
        send: controller.link(),
        always: false,
        identity_only: false,
    }];
    let mut twin = None;
    let mut devices = None;
    if config.modules.device_controller.enable {
        let slot = tree.slot::<DeviceController>(device_controller::NAME, 8_192);
        twin = Some(slot.link());
        owners.push(Owner {
            kinds: &device_controller::KINDS,
            desired: slot.link(),
            send: slot.link(),
            always: true,
            identity_only: false,
        });
        let parts =
            DeviceControllerParts { client: client.clone(), send_down: hub.link(), close_node: hub.link() };
        devices = Some((slot, parts));
    }
    owners.push(Owner {
        kinds: &identity_controller::KINDS,
        desired: identity.link(),
        send: identity.link(),
        always: true,
        identity_only: true,
    });
    let trees = Arc::new(federation.clone());
    served.extend(console::of_cloudcore(tree, config, shown, Some(trees), &ca, &names)?);
    let websocket_tls = Arc::new(hub_tls(config, &ca, &names, ClientAuth::Required)?);
    let https_tls = Arc::new(hub_tls(config, &ca, &names, ClientAuth::Optional)?);
    served.extend([Arc::clone(&websocket_tls), Arc::clone(&https_tls)]);
    let published = Outlets::new(&ca);
    let identities = NodeIdentities {
        factory: factory_roots(&config.identity)?,
        reentry_grace: Duration::from_secs(config.identity.reentry_grace_secs),
        reusable_tokens: config.identity.reusable_tokens,
        svid_ttl: config.node_certificate_ttl(),
        go_ttl: config.go_certificate_ttl(),
        node_ca_ttl: Duration::from_secs(config.identity.node_ca_ttl_secs),
        revocations: published.revocations(),
        bundle: published.bundle(),
        key_changed: identity.link(),
        audit: record.clone(),
    };
    let cloned = identity.link();
    let identity_parts = IdentityControllerParts {
        client: client.clone(),
        sole: config.serves_api(),
        readiness: stage.readiness.clone(),
        ca: Arc::clone(&ca),
        cloned_nodes: config.identity.cloned_nodes,
        served,
        look_every: identity_controller::LOOK_EVERY,
        published,
        send_down: hub.link(),
        close_node: hub.link(),
        identity_nodes: sync.link(),
        reseal: controller.link(),
        audit: record,
    };
    let hub_parts = CloudHubParts {
        config: hub_config.clone(),
        listeners: Listeners::bind(hub_config)?,
        websocket_tls: websocket_tls.config(),
        https_tls: https_tls.config(),
        ca,
        tokens: Arc::new(JoinTokens::load_or_create(&config.token_key_file())?),
        identities,
        cloned,
        cluster_ca_pem: cluster_ca.into(),
        client: client.clone(),
        tree: tree.handle(),
        upstream: controller.link(),
        twin,
        node_connected: sync.link(),
        node_gone: vec![sync.link(), controller.link()],
        held: sync.link(),
        delivered: sync.link(),
        federation,
    };
    let (websocket, https) = hub_parts.listeners.addresses()?;
    tracing::info!(%websocket, %https, "cloudhub listens");

    tree.add(controller, CONTROL_THREAD, Policy::default(), move || EdgeController::new(parts));
    tree.add(sync, CONTROL_THREAD, Policy::default(), move || {
        SyncController::new(sync_client, owners, close)
    });
    tree.add(identity, CONTROL_THREAD, Policy::default(), move || IdentityController::new(identity_parts));
    if let Some((slot, parts)) = devices {
        tree.add(slot, DEVICE_THREAD, Policy::default(), move || DeviceController::new(parts));
    }
    tree.add(hub, HUB_THREAD, Policy::default(), move || CloudHub::new(hub_parts));
    Ok(keep)
}

/// Closes the API's store on every way out: actors and clients may still hold the core then.
struct OpenApi(Arc<ApiCore>);

impl Drop for OpenApi {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Opens the store and declares the server of the embedded API. It is ready for the controllers
/// at once, before its socket is served.
fn embedded_api(
    stage: &mut Stage,
    config: &CloudCoreConfig,
    store: Arc<RocksStore>,
    ca: &Arc<Ca>,
    names: &[String],
) -> Result<(Arc<ApiCore>, Arc<CloudServerTls>), Fatal> {
    let api = &config.modules.api_server;
    let keys = Arc::new(ServiceAccountKeys::load_or_create(&config.service_account_key_file())?);
    let core = ApiCore::start(ApiSettings {
        store,
        keys,
        ca_pem: ca.bundle().roots_pem(),
        clock: Arc::new(jiff::Timestamp::now),
    })?;
    core.show_in(&stage.readiness);
    let address = format!("{}:{}", api.address, api.port);
    let listener =
        TcpListener::bind(&address).map_err(|err| format!("apiServer: cannot listen on {address}: {err}"))?;
    let tls = Arc::new(kubeconfig::server_tls(ca, listener.local_addr()?, names)?);
    let parts = ApiServerParts {
        core: Arc::clone(&core),
        ca: Arc::clone(ca),
        tls: Arc::clone(&tls),
        listener: Arc::new(listener),
        kubeconfig: api.kubeconfig.clone(),
        deadlines: Deadlines::default(),
    };
    let slot = stage.tree.slot("ApiServer", 64);
    stage.tree.add(slot, MAIN_THREAD, Policy::default(), move || ApiServer::new(parts));
    Ok((core, tls))
}

/// What a real cluster does by itself: binding pods to nodes, judging silent nodes.
fn cluster_duties(stage: &mut Stage, config: &CloudCoreConfig, client: &::kube::Client) {
    let (scheduler, monitor) = (&config.modules.scheduler, config.modules.node_monitor.clone());
    if scheduler.enable {
        let client = client.clone();
        let slot = stage.tree.slot("Scheduler", 64);
        let build = move || Scheduler::new(client, SchedulerMetrics::new());
        stage.tree.add(slot, CONTROL_THREAD, Policy::default(), build);
    }
    if monitor.enable {
        let client = client.clone();
        let slot = stage.tree.slot("NodeMonitor", 64);
        let build = move || NodeMonitor::new(client, &monitor, NodeMonitorMetrics::new());
        stage.tree.add(slot, CONTROL_THREAD, Policy::default(), build);
    }
}

/// Every name and address this cloudcore may be dialled by.
fn server_names(config: &CloudCoreConfig) -> Vec<String> {
    let hub = &config.modules.cloud_hub;
    let mut names = hub.advertise_address.clone();
    if names.is_empty() {
        names.push(host().address.to_string());
    }
    names.extend(hub.dns_names.iter().filter(|name| !name.is_empty()).cloned());
    names
}
